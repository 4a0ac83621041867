// What follows a product in a layer, by the block that has its sums. These are rounded first, so that
// each gives the bits of the kernels that it replaces: `gated`, `rope_write`.
#pragma once

#include "arguments.cuh"
#include "instructions.cuh"

namespace aweigh {
namespace {

// The unit that a warp has. Of gates, half of the warps have the units of what goes through them.
// Units past the end are the last one again; nothing of them is written.
template <int TILES, int WARPS>
__device__ inline int unit_of(const Arguments &given) {
    const int warp = threadIdx.x / 32, half = WARPS / 2, gates = given.units / 2;
    if (TILES == 1 && (given.after == GATE_SILU || given.after == GATE_GELU)) {
        return min(int(blockIdx.y) * half + warp % half, gates - 1) + warp / half * gates;
    }
    return min(int(blockIdx.y) * WARPS + warp, given.units - 1);
}

template <bool WIDE>
__device__ inline uint16_t let_by(uint16_t gate, uint16_t up, bool gelu) {
    const float number = widened<WIDE>(gate);
    float opened = number;
    if (gelu) {  // 1 + tanh(y) is twice the sigmoid of 2y
        const float cubed = 0.044715f * number * number;
        opened = 1.5957691216057308f * fmaf(cubed, number, number);
    }
    const uint16_t active = rounded<WIDE>(divided(number, 1.0f + exponential(-opened)));
    return rounded<WIDE>(widened<WIDE>(active) * widened<WIDE>(up));
}

// `sums` is [tokens, ROWS]: gates, then what goes through them.
template <bool WIDE, int ROWS>
__device__ inline void gate(const Arguments &given, const uint16_t *sums) {
    constexpr int HALF = ROWS / 2;
    const int size = given.rows / 2;
#pragma unroll 1  // so that the kernel stays small
    for (int place = threadIdx.x; place < given.tokens * HALF; place += blockDim.x) {
        const int token = place / HALF, column = blockIdx.y * HALF + place % HALF;
        const uint16_t *of_gate = sums + token * ROWS + place % HALF;
        if (column >= size) continue;
        given.output[size_t(token) * size + column] =
            let_by<WIDE>(of_gate[0], of_gate[HALF], given.after == GATE_GELU);
    }
}

// Keeps a number; returns it as it will be read.
template <bool WIDE>
__device__ inline uint16_t keep(const Arguments &given, size_t at, uint16_t number, float scale) {
    if (!given.kept_as_fp8) {
        static_cast<uint16_t *>(given.kv)[at] = number;
        return number;
    }
    const uint16_t quotient = rounded<WIDE>(__fdiv_rn(widened<WIDE>(number), scale));
    const uint8_t kept = rounded_to_fp8(widened<WIDE>(quotient));
    static_cast<uint8_t *>(given.kv)[at] = kept;
    return rounded<WIDE>(of_fp8(kept) * scale);
}

// `sums` is [tokens, ROWS], which are whole heads.
template <bool WIDE, int ROWS>
__device__ inline void turn(const Arguments &given, const uint16_t *sums) {
    const int size = given.size, half = size / 2;
    const int queries = given.rows / size - 2 * given.kv_heads;
#pragma unroll 1  // so that the kernel stays small
    for (int place = threadIdx.x; place < given.tokens * (ROWS / 2); place += blockDim.x) {
        const int pair = place % (ROWS / 2), of_block = pair / half * size + pair % half;
        const int row = blockIdx.y * ROWS + of_block;
        const size_t token = place / (ROWS / 2);
        if (row >= given.rows) continue;
        const int head = row / size, number = row % size;
        uint16_t one = sums[token * ROWS + of_block], other = sums[token * ROWS + of_block + half];
        if (head < queries + given.kv_heads) {
            const float cos = widened<WIDE>(given.cos[token * size + number]);
            const float sin = widened<WIDE>(given.sin[token * size + half + number]);
            const float x1 = widened<WIDE>(one), x2 = widened<WIDE>(other);
            one = rounded<WIDE>(fmaf(-x2, sin, widened<WIDE>(rounded<WIDE>(x1 * cos))));
            other = rounded<WIDE>(fmaf(x1, sin, widened<WIDE>(rounded<WIDE>(x2 * cos))));
        }
        if (head >= queries && given.slots[token] >= 0) {
            const float scale = head < queries + given.kv_heads ? given.key_scale : given.value_scale;
            const size_t line = given.slots[token] * 2 * given.kv_heads + head - queries;
            one = keep<WIDE>(given, line * size + number, one, scale);
            other = keep<WIDE>(given, line * size + half + number, other, scale);
        }
        given.output[token * given.rows + row] = one;
        given.output[token * given.rows + row + half] = other;
    }
}

}  // namespace
}  // namespace aweigh
