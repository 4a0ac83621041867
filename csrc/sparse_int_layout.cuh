// How weights lie of which two in four are kept, as sparse_packing.py packs them.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "instructions.cuh"

namespace aweigh {

constexpr int UNIT = 32;    // rows of the weight that are packed together
constexpr int DEPTH = 128;  // columns of a step

// Pieces of 16 bytes that a unit's integers take in a step, and those with the places behind them.
template <int BITS>
constexpr int WORDS = UNIT * DEPTH / 2 * BITS / 128;
template <int BITS>
constexpr int PIECES = WORDS<BITS> + UNIT * DEPTH / 2 * 2 / 128;

// As `_Arguments` in sparse_int_matmul.py has them.
struct Arguments {
    const uint16_t *x;    // [tokens, pitch]
    const uint4 *packed;  // [units, steps, PIECES]
    const float *scales;  // [steps or 1, UNIT · units]
    uint16_t *output;     // [tokens, rows]; of `unpack` [rows of its units, columns]
    float4 *sums;         // of blocks that share rows
    int *arrived;         // how many of those are done; 0 before and after
    int tokens, rows, columns;
    int pitch;  // columns of x with padding: a multiple of 8
    int units, steps;
    int scale_pitch;  // between the scales of two steps; 0 if all have the same
    int tiles;        // of 8 tokens, of a block: 1, 2, 4 or 8
    int warps;        // of a block
    int splits;       // blocks that share rows, each with a part of their columns
    int bits;         // 4 or 8
    int wide;         // x is bf16, else fp16
    int early;        // it may start before the kernel before it has ended
    int first;        // unit, and
    int count;        // how many: of `unpack`
};

// Eight integers become numbers in the registers that a tensor core takes, less their zero point.
// Exactly: their bits are put into the last ones of 64, 128 or 1024, which is then subtracted.
template <int BITS, bool WIDE>
__device__ inline void to_numbers(uint32_t (&to)[4], const uint32_t *words) {
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
        const uint32_t byte = BITS == 8 ? words[pair / 2] >> pair % 2 * 8  // of each half
                                        : words[0] >> pair / 2 * 8;
        if constexpr (BITS == 4 && WIDE) {
            to[pair] = less<WIDE>(marked<0x000F000F, 0x43004300>(words[0] >> 4 * pair), 0x43084308);
        } else if constexpr (BITS == 4) {  // fp16 has room for two integers
            to[pair] = pair % 2 ? less<WIDE>(marked<0x00F000F0, 0x54005400>(byte), 0x54805480)
                                : less<WIDE>(marked<0x000F000F, 0x64006400>(byte), 0x64086408);
        } else if constexpr (WIDE) {  // seven bits and 128, less 256 or 128 for the eighth
            to[pair] = less<WIDE>(marked<0x007F007F, 0x43004300>(byte),
                                  marked<0x00800080, 0x43004300>(byte));
        } else {
            to[pair] = less<WIDE>(marked<0x00FF00FF, 0x64806480>(byte), 0x64806480);
        }
    }
}

}  // namespace aweigh
