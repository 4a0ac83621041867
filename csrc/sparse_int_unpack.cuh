// The weight made dense, for many tokens.
#pragma once

#include "sparse_int.cuh"

namespace aweigh {
namespace {

// Makes a unit's rows of one step dense; each number is rounded once.
template <int BITS, bool WIDE>
__global__ void __launch_bounds__(32) sparse_int_unpack(const __grid_constant__ Arguments given) {
    using Kind = SparseInt<BITS>;
    const int lane = threadIdx.x, step = blockIdx.y, unit = given.first + blockIdx.x;
    const uint4 *pieces = given.packed + (size_t(unit) * given.steps + step) * Kind::PIECES;
    const float *scales = given.scales + size_t(step) * given.scale_pitch + unit * UNIT;
    const uint4 places = pieces[Kind::WORDS + lane];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint4 words[BITS / 4];
#pragma unroll
        for (int part = 0; part < BITS / 4; part++) {
            words[part] = pieces[(half * (BITS / 4) + part) * 32 + lane];
        }
#pragma unroll
        for (int pair = 0; pair < 16; pair++) {  // two integers, of four columns
            const int quarter = pair / 4, upper = pair % 2, right = pair / 2 % 2;
            const int row = half * 16 + upper * 8 + lane / 4;
            const int column = step * Kind::DEPTH + quarter * 32 + right * 16 + lane % 4 * 4;
            const uint32_t place = __shfl_sync(
                ~0u, reinterpret_cast<const uint32_t *>(&places)[quarter],
                lane / 4 * 4 + half * 2 + right) >> (upper * 16 + lane % 4 * 4);
            const uint32_t word =
                reinterpret_cast<const uint32_t *>(words)[quarter * BITS / 4 + (BITS == 8) * upper];
            const uint32_t two = word >> (BITS == 4 ? 4 * (upper + 2 * right) : 8 * right);
            uint32_t dense[2] = {};
#pragma unroll
            for (int one = 0; one < 2; one++) {
                const uint32_t bits = two >> 16 * one;
                const int integer = BITS == 4 ? int(bits & 15) - 8 : int(int8_t(bits));
                const uint32_t number = rounded<WIDE>(integer * scales[row]);
                const uint32_t at = place >> 2 * one & 3;
                dense[0] |= at < 2 ? number << 16 * at : 0;
                dense[1] |= at < 2 ? 0 : number << 16 * (at - 2);
            }
            if (unit * UNIT + row < given.rows && column < given.columns) {
                const size_t to = size_t(blockIdx.x * UNIT + row) * given.columns + column;
                *reinterpret_cast<uint2 *>(given.output + to) = make_uint2(dense[0], dense[1]);
            }
        }
    }
}

}  // namespace
}  // namespace aweigh
