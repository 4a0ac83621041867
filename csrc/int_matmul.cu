// x · weightᵀ for weights of 4 or 8 bits, of which all or two in four are kept.
// docs/kernels/int-weight.md and sparse-int-weight.md say how they lie in memory and why.

#include "int.cuh"
#include "int_multiply.cuh"
#include "sparse_int.cuh"
#include "sparse_int_unpack.cuh"

namespace aweigh {
namespace {

cudaError_t launch(void (*kernel)(Arguments), const Arguments &given, dim3 grid, int threads,
                   int shared_bytes, cudaStream_t stream) {
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = grid;
    how.blockDim = dim3(threads);
    how.dynamicSmemBytes = shared_bytes;
    how.stream = stream;
    how.attrs = &early;
    how.numAttrs = given.early ? 1 : 0;
    return cudaLaunchKernelEx(&how, kernel, given);
}

template <class Kind, bool WIDE, int TILES, int WARPS>
cudaError_t multiply(const Arguments &given, cudaStream_t stream) {
    if (given.after != NOTHING && (TILES > 1 || given.tokens > 8)) return cudaErrorInvalidValue;
    const dim3 grid((given.tokens + TILES * 8 - 1) / (TILES * 8),
                    (given.units + WARPS - 1) / WARPS, given.splits);
    return launch(int_multiply<Kind, WIDE, TILES, WARPS>, given, grid, WARPS * 32,
                  SHARED_BYTES<Kind, TILES, WARPS>, stream);
}

// Tokens and rows of a block, as tiles of 8 and warps.
template <int TILES_, int WARPS_>
struct Shape {
    static constexpr int TILES = TILES_, WARPS = WARPS_;
};

// Does something with the shape of block that is asked for.
template <class Kind, class Act>
cudaError_t with_shape(const Arguments &given, const Act &act) {
    const int chosen = given.tiles * 16 + given.warps;
    if (chosen == 0x18) return act(Shape<1, 8>());
    if constexpr (Kind::MOST_TILES == 8) {
        switch (chosen) {
            case 0x28: return act(Shape<2, 8>());
            case 0x44: return act(Shape<4, 4>());
            case 0x48: return act(Shape<4, 8>());
            case 0x84: return act(Shape<8, 4>());
            case 0x88: return act(Shape<8, 8>());
        }
    }
    return cudaErrorInvalidValue;
}

template <class Kind, bool WIDE>
cudaError_t multiply_shape(const Arguments &given, cudaStream_t stream) {
    return with_shape<Kind>(given, [&](auto shape) {
        using Chosen = decltype(shape);
        return multiply<Kind, WIDE, Chosen::TILES, Chosen::WARPS>(given, stream);
    });
}

template <class Kind, bool WIDE>
cudaError_t unpack(const Arguments &given, cudaStream_t stream) {
    const dim3 grid(given.count, given.steps);
    return launch(sparse_int_unpack<Kind::BITS, WIDE>, given, grid, 32, 0, stream);
}

template <class Kind, bool WIDE, int TILES, int WARPS>
cudaError_t make_ready() {
    const auto kernel = int_multiply<Kind, WIDE, TILES, WARPS>;
    const cudaError_t found = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES<Kind, TILES, WARPS>);
    if (found != cudaSuccess) return found;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared);  // room for several blocks
}

template <class Kind, bool WIDE>
cudaError_t make_shape_ready(const Arguments &given) {
    if constexpr (Kind::MOST_TILES == 8) {
        cudaFuncAttributes unused;
        const cudaError_t found = cudaFuncGetAttributes(&unused, sparse_int_unpack<Kind::BITS, WIDE>);
        if (found != cudaSuccess) return found;
    }
    return with_shape<Kind>(given, [](auto shape) {
        using Chosen = decltype(shape);
        return make_ready<Kind, WIDE, Chosen::TILES, Chosen::WARPS>();
    });
}

}  // namespace
}  // namespace aweigh

// What Python calls. Each returns 0 or an error of CUDA, and waits for nothing.
#pragma GCC visibility push(default)

#define AWEIGH_EACH_WIDTH(KIND, FUNCTION, ...)                                                    \
    (given->bits == 4 ? given->wide ? aweigh::FUNCTION<aweigh::KIND<4>, true>(__VA_ARGS__)        \
                                    : aweigh::FUNCTION<aweigh::KIND<4>, false>(__VA_ARGS__)       \
                      : given->wide ? aweigh::FUNCTION<aweigh::KIND<8>, true>(__VA_ARGS__)        \
                                    : aweigh::FUNCTION<aweigh::KIND<8>, false>(__VA_ARGS__))
#define AWEIGH_EACH_KIND(...)                                                                     \
    (given->sparse ? AWEIGH_EACH_WIDTH(SparseInt, __VA_ARGS__) : AWEIGH_EACH_WIDTH(Int, __VA_ARGS__))

extern "C" {

// Loads what a kind of weight needs on the current GPU for one shape of block: a graph that is being
// captured cannot. An error: other shapes may have the room that this one lacks.
int aweigh_int_make_ready(const aweigh::Arguments *given) {
    return AWEIGH_EACH_KIND(make_shape_ready, *given);
}

int aweigh_int_multiply(const aweigh::Arguments *given, cudaStream_t stream) {
    return AWEIGH_EACH_KIND(multiply_shape, *given, stream);
}

int aweigh_sparse_int_unpack(const aweigh::Arguments *given, cudaStream_t stream) {
    return AWEIGH_EACH_WIDTH(SparseInt, unpack, *given, stream);
}

// What an error means.
const char *aweigh_error(int error) { return cudaGetErrorString(cudaError_t(error)); }
}

#pragma GCC visibility pop
