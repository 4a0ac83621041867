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
    const dim3 grid((given.tokens + TILES * 8 - 1) / (TILES * 8),
                    (given.units + WARPS - 1) / WARPS, given.splits);
    return launch(int_multiply<Kind, WIDE, TILES, WARPS>, given, grid, WARPS * 32,
                  SHARED_BYTES<Kind, TILES, WARPS>, stream);
}

template <class Kind, bool WIDE>
cudaError_t multiply_tiles(const Arguments &given, cudaStream_t stream) {
    const int chosen = given.tiles * 16 + given.warps;
    if constexpr (Kind::MOST_TILES == 8) {
        if (chosen == 0x84) return multiply<Kind, WIDE, 8, 4>(given, stream);
        if (chosen == 0x88) return multiply<Kind, WIDE, 8, 8>(given, stream);
    }
    switch (chosen) {
        case 0x18: return multiply<Kind, WIDE, 1, 8>(given, stream);
        case 0x28: return multiply<Kind, WIDE, 2, 8>(given, stream);
        case 0x44: return multiply<Kind, WIDE, 4, 4>(given, stream);
        case 0x48: return multiply<Kind, WIDE, 4, 8>(given, stream);
        default: return cudaErrorInvalidValue;
    }
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
cudaError_t make_all_ready() {
    cudaError_t found = cudaSuccess;
    const auto also = [&](cudaError_t next) { found = found == cudaSuccess ? next : found; };
    also(make_ready<Kind, WIDE, 1, 8>());
    also(make_ready<Kind, WIDE, 2, 8>());
    also(make_ready<Kind, WIDE, 4, 4>());
    also(make_ready<Kind, WIDE, 4, 8>());
    if constexpr (Kind::MOST_TILES == 8) {
        cudaFuncAttributes unused;
        also(make_ready<Kind, WIDE, 8, 4>());
        also(make_ready<Kind, WIDE, 8, 8>());
        also(cudaFuncGetAttributes(&unused, sparse_int_unpack<Kind::BITS, WIDE>));
    }
    return found;
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

// Loads what a kind of weight needs on the current GPU: a graph that is being captured cannot.
int aweigh_int_make_ready(const aweigh::Arguments *given) {
    return AWEIGH_EACH_KIND(make_all_ready, );
}

int aweigh_int_multiply(const aweigh::Arguments *given, cudaStream_t stream) {
    return AWEIGH_EACH_KIND(multiply_tiles, *given, stream);
}

int aweigh_sparse_int_unpack(const aweigh::Arguments *given, cudaStream_t stream) {
    return AWEIGH_EACH_WIDTH(SparseInt, unpack, *given, stream);
}

// What an error means.
const char *aweigh_error(int error) { return cudaGetErrorString(cudaError_t(error)); }
}

#pragma GCC visibility pop
