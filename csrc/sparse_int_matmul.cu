// x · weightᵀ for weights of 4 or 8 bits of which two in four are kept, by sparse tensor cores.
// docs/kernels/sparse-int-weight.md says how they lie in memory and why.

#include "sparse_int_multiply.cuh"
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

template <int BITS, bool WIDE, int TILES, int WARPS>
cudaError_t multiply(const Arguments &given, cudaStream_t stream) {
    const dim3 grid((given.tokens + TILES * 8 - 1) / (TILES * 8),
                    (given.units + WARPS - 1) / WARPS, given.splits);
    return launch(sparse_int_multiply<BITS, WIDE, TILES, WARPS>, given, grid, WARPS * 32,
                  SHARED_BYTES<BITS, TILES, WARPS>, stream);
}

template <int BITS, bool WIDE>
cudaError_t multiply_tiles(const Arguments &given, cudaStream_t stream) {
    switch (given.tiles * 16 + given.warps) {
        case 0x18: return multiply<BITS, WIDE, 1, 8>(given, stream);
        case 0x28: return multiply<BITS, WIDE, 2, 8>(given, stream);
        case 0x44: return multiply<BITS, WIDE, 4, 4>(given, stream);
        case 0x48: return multiply<BITS, WIDE, 4, 8>(given, stream);
        case 0x84: return multiply<BITS, WIDE, 8, 4>(given, stream);
        case 0x88: return multiply<BITS, WIDE, 8, 8>(given, stream);
        default: return cudaErrorInvalidValue;
    }
}

template <int BITS, bool WIDE>
cudaError_t unpack(const Arguments &given, cudaStream_t stream) {
    const dim3 grid(given.count, given.steps);
    return launch(sparse_int_unpack<BITS, WIDE>, given, grid, 32, 0, stream);
}

template <int BITS, bool WIDE, int TILES, int WARPS>
cudaError_t make_ready() {
    const auto kernel = sparse_int_multiply<BITS, WIDE, TILES, WARPS>;
    const cudaError_t found = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SHARED_BYTES<BITS, TILES, WARPS>);
    if (found != cudaSuccess) return found;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared);  // room for several blocks
}

template <int BITS, bool WIDE>
cudaError_t make_all_ready() {
    cudaFuncAttributes unused;
    for (cudaError_t found :
         {make_ready<BITS, WIDE, 1, 8>(), make_ready<BITS, WIDE, 2, 8>(),
          make_ready<BITS, WIDE, 4, 4>(), make_ready<BITS, WIDE, 4, 8>(),
          make_ready<BITS, WIDE, 8, 4>(), make_ready<BITS, WIDE, 8, 8>(),
          cudaFuncGetAttributes(&unused, sparse_int_unpack<BITS, WIDE>)}) {
        if (found != cudaSuccess) return found;
    }
    return cudaSuccess;
}

}  // namespace
}  // namespace aweigh

// What Python calls. Each returns 0 or an error of CUDA, and waits for nothing.
#pragma GCC visibility push(default)

#define AWEIGH_EACH_KIND(FUNCTION, ...)                                                  \
    (given->bits == 4 ? given->wide ? aweigh::FUNCTION<4, true>(__VA_ARGS__)             \
                                    : aweigh::FUNCTION<4, false>(__VA_ARGS__)            \
                      : given->wide ? aweigh::FUNCTION<8, true>(__VA_ARGS__)             \
                                    : aweigh::FUNCTION<8, false>(__VA_ARGS__))

extern "C" {

// Loads what a kind of weight needs on the current GPU: a graph that is being captured cannot.
int aweigh_sparse_int_make_ready(const aweigh::Arguments *given) {
    return AWEIGH_EACH_KIND(make_all_ready, );
}

int aweigh_sparse_int_multiply(const aweigh::Arguments *given, cudaStream_t stream) {
    return AWEIGH_EACH_KIND(multiply_tiles, *given, stream);
}

int aweigh_sparse_int_unpack(const aweigh::Arguments *given, cudaStream_t stream) {
    return AWEIGH_EACH_KIND(unpack, *given, stream);
}

// What an error means.
const char *aweigh_error(int error) { return cudaGetErrorString(cudaError_t(error)); }
}

#pragma GCC visibility pop
