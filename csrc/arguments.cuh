// What Python hands to kernels.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace aweigh {

constexpr int UNIT = 32;  // rows of the weight that a warp has

// GATE: half of all rows are gates, the others what goes through them, and the output has half as
// many numbers. TURN: rows are heads of queries, keys and values.
enum After { NOTHING, GATE_SILU, GATE_GELU, TURN };

// As `Arguments` in cuda_int_matmul.py has them.
struct Arguments {
    const uint16_t *x;    // [tokens, pitch]
    const uint4 *packed;  // the weight, see Int and SparseInt
    const float *scales;  // [steps / scale_steps or 1, UNIT · units]
    uint16_t *output;     // [tokens, rows]; of `unpack` [rows of its units, columns]
    float4 *sums;         // of blocks that share rows
    int *arrived;         // how many of those are done; 0 before and after
    const uint16_t *cos;  // [tokens, size], of TURN, as the others
    const uint16_t *sin;  // the same; the first half less the second
    void *kv;             // [slots, 2 · kv_heads, size], keys first: as x, or E4M3
    const int64_t *slots; // [tokens], where keys and values are kept; negative: nowhere
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
    int block_rows;   // of the weight; this and the next three: of many tokens
    int blocks;       // that run at once
    int whole;        // tiles of rows and tokens, each of which a cluster has alone
    int sharers;      // clusters that share the others
    int after;        // what follows the product, of After: up to 8 tokens in one tile, else NOTHING
    int size;         // numbers of a head, which divide the rows of a block
    int kv_heads;
    int kept_as_fp8;
    float key_scale, value_scale;  // by which what is kept is multiplied when it is read
};

}  // namespace aweigh
