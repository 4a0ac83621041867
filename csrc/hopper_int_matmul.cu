// x · weightᵀ for many tokens and weights of 4 or 8 bits, on Hopper alone.
// docs/kernels/int-weight.md says how they lie in memory and why.

#include "hopper_int_multiply.cuh"
#include "tensor_map.cuh"

namespace aweigh {
namespace {

// Of a block: so many rows by two warpgroups, and tokens. Two blocks are a cluster.
template <int BITS, int ROWS, int TOKENS>
using Many = Tile<BITS, 2, ROWS / 128, TOKENS, 2>;

template <class T, bool WIDE>
cudaError_t multiply_many(const Arguments &given, cudaStream_t stream) {
    CUtensorMap x;
    const cudaError_t found = map_of_x(&x, given, T::TOKENS / T::CLUSTER);
    if (found != cudaSuccess) return found;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = T::CLUSTER;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = dim3(given.blocks);
    how.blockDim = dim3(T::THREADS);
    how.dynamicSmemBytes = T::SHARED_BYTES;
    how.stream = stream;
    how.attrs = attributes;
    how.numAttrs = given.early ? 2 : 1;
    return cudaLaunchKernelEx(&how, hopper_int_multiply<T, WIDE>, given, x);
}

template <int BITS, bool WIDE>
cudaError_t multiply_tile(const Arguments &given, cudaStream_t stream) {
    switch (given.block_rows * 1000 + given.tiles * 8) {
        case 128'064: return multiply_many<Many<BITS, 128, 64>, WIDE>(given, stream);
        case 128'128: return multiply_many<Many<BITS, 128, 128>, WIDE>(given, stream);
        case 128'256: return multiply_many<Many<BITS, 128, 256>, WIDE>(given, stream);
        case 256'064: return multiply_many<Many<BITS, 256, 64>, WIDE>(given, stream);
        case 256'128: return multiply_many<Many<BITS, 256, 128>, WIDE>(given, stream);
        default: return cudaErrorInvalidValue;
    }
}

template <class T, bool WIDE>
cudaError_t make_ready() {
    return cudaFuncSetAttribute(hopper_int_multiply<T, WIDE>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, T::SHARED_BYTES);
}

template <int BITS, bool WIDE>
cudaError_t make_all_ready() {
    for (const cudaError_t each :
         {make_ready<Many<BITS, 128, 64>, WIDE>(), make_ready<Many<BITS, 128, 128>, WIDE>(),
          make_ready<Many<BITS, 128, 256>, WIDE>(), make_ready<Many<BITS, 256, 64>, WIDE>(),
          make_ready<Many<BITS, 256, 128>, WIDE>()}) {
        if (each != cudaSuccess) return each;
    }
    return cudaSuccess;
}

}  // namespace
}  // namespace aweigh

// What Python calls. Each returns 0 or an error of CUDA, and waits for nothing.
#pragma GCC visibility push(default)

extern "C" {

// Loads the kernels on the current GPU, a Hopper: a graph that is being captured cannot.
int aweigh_hopper_int_make_ready(const aweigh::Arguments *given) {
    using namespace aweigh;
    if (given->bits == 4) return given->wide ? make_all_ready<4, true>() : make_all_ready<4, false>();
    return given->wide ? make_all_ready<8, true>() : make_all_ready<8, false>();
}

int aweigh_hopper_int_multiply(const aweigh::Arguments *given, cudaStream_t stream) {
    using namespace aweigh;
    if (given->bits == 4) {
        return given->wide ? multiply_tile<4, true>(*given, stream)
                           : multiply_tile<4, false>(*given, stream);
    }
    return given->wide ? multiply_tile<8, true>(*given, stream)
                       : multiply_tile<8, false>(*given, stream);
}

}  // extern "C"

#pragma GCC visibility pop
