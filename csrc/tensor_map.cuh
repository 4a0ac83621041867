// What the copy engine needs to know of x.
#pragma once

#include <cuda.h>

#include "arguments.cuh"

namespace aweigh {
namespace {

// x in tiles of so many tokens and 64 columns, zeros past its end, as `swizzled` has them.
inline cudaError_t map_of_x(CUtensorMap *map, const Arguments &given, int tokens) {
    static const auto encode = [] {
        void *found = nullptr;
        cudaDriverEntryPointQueryResult unused;
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                         &unused);
        return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
    }();
    if (!encode) return cudaErrorNotSupported;
    const cuuint64_t sizes[] = {cuuint64_t(given.pitch), cuuint64_t(given.tokens)};
    const cuuint64_t pitch[] = {cuuint64_t(given.pitch) * 2};
    const cuuint32_t box[] = {64, cuuint32_t(tokens)}, each[] = {1, 1};
    const CUresult done = encode(
        map, given.wide ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
        const_cast<uint16_t *>(given.x), sizes, pitch, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return done == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace
}  // namespace aweigh
