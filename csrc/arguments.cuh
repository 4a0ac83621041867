// What Python hands to kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace aweigh {

constexpr int UNIT = 32;  // rows of the weight that a warp has

// As `Arguments` in cuda_int_matmul.py has them.
struct Arguments {
    const uint16_t *x;    // [tokens, pitch]
    const uint4 *packed;  // the weight, see Int and SparseInt
    const float *scales;  // [steps / scale_steps or 1, UNIT · units]
    uint16_t *output;     // [tokens, rows]; of `unpack` [rows of its units, columns]
    float4 *sums;         // of blocks that share rows
    int *arrived;         // how many of those are done; 0 before and after
    int tokens, rows, columns;
    int pitch;  // columns of x with padding: a multiple of 8
    int units, steps;
    int scale_pitch;  // between the scales of two groups; 0 if there is one
    int scale_steps;  // of a group
    int tiles;        // of 8 tokens, of a block
    int warps;        // of a block
    int splits;       // blocks that share rows, each with a part of their columns
    int bits;         // 4 or 8
    int sparse;       // two in four of the weight are kept
    int wide;         // x is bf16, else fp16
    int early;        // it may start before the kernel before it has ended
    int first;        // unit, and
    int count;        // how many: of `unpack`
    int block_rows;   // of the weight; this and what follows: of many tokens
    int blocks;       // that run at once
    int whole;        // tiles of rows and tokens, each of which a cluster has alone
    int sharers;      // clusters that share the others
};

}  // namespace aweigh
