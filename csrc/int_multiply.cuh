// The product of a few tokens with a weight of some kind: a warp has 32 rows, some columns a step.
#pragma once

#include "arguments.cuh"
#include "following.cuh"
#include "instructions.cuh"

namespace aweigh {
namespace {

constexpr int SCALES = UNIT / 4;  // pieces of 16 bytes that a unit's scales take

// Those that a token takes in a step.
template <class Kind>
constexpr int ROW = Kind::DEPTH * 2 / 16;

// Pieces of a stage: what warps have of the weight, and x.
template <class Kind>
constexpr int OWN = Kind::PIECES + SCALES;
template <class Kind, int TILES, int WARPS>
constexpr int STAGE = WARPS * OWN<Kind> + TILES * 8 * ROW<Kind>;

template <class Kind, int TILES, int WARPS>
constexpr int SHARED_BYTES = Kind::template STAGES<TILES> * STAGE<Kind, TILES, WARPS> * 16;

// A thread's part of the copies, step by step.
template <class Kind, int TILES, int WARPS>
class Copies {
  public:
    __device__ Copies(const Arguments &given, uint4 *memory, int unit, int first_token, int step)
        : given_(given), policy_(read_once()) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        packed_ = given.packed + Kind::first(unit, given.steps, step) + lane;
        const int group = step / given.scale_steps;
        scales_ = given.scales + size_t(group) * given.scale_pitch + unit * UNIT + lane * 4;
        left_ = given.scale_steps - step % given.scale_steps;
        const int token = threadIdx.x / ROW<Kind>, piece = threadIdx.x % ROW<Kind>;
        column_ = step * Kind::DEPTH + piece * 8;
        x_ = given.x + size_t(first_token + token) * given.pitch + column_;
        tokens_ = given.tokens - first_token - token;
        own_ = shared_address(memory + warp * OWN<Kind> + lane);
        // Pieces of a token change places, so that those of eight tokens are in other banks.
        row_ = shared_address(memory + WARPS * OWN<Kind> + token * ROW<Kind> + (piece ^ token % 8));
    }

    // Asks for a step of the weight.
    __device__ void copy_weight(int stage) {
        const uint32_t to = own_ + stage * STAGE<Kind, TILES, WARPS> * 16;
#pragma unroll
        for (int part = 0; part < Kind::PIECES / 32; part++) {
            copy_once(to + part * 32 * 16, packed_ + Kind::behind(part), policy_);
        }
        if (threadIdx.x % 32 < SCALES) copy_known(to + Kind::PIECES * 16, scales_, true);
        packed_ += Kind::STRIDE;
        if (--left_ == 0) {
            left_ = given_.scale_steps;
            scales_ += given_.scale_pitch;
        }
    }

    // Asks for a step of x.
    __device__ void copy_x(int stage) {
        const uint32_t to = row_ + stage * STAGE<Kind, TILES, WARPS> * 16;
#pragma unroll
        for (int token = 0; token < TILES * 8; token += TOKENS) {
            if (TOKENS > TILES * 8 && threadIdx.x >= TILES * 8 * ROW<Kind>) break;
            copy_known(to + token * ROW<Kind> * 16, x_ + size_t(token) * given_.pitch,
                       token < tokens_ && column_ < given_.pitch);
        }
        x_ += Kind::DEPTH;
        column_ += Kind::DEPTH;
    }

  private:
    static constexpr int TOKENS = WARPS * 32 / ROW<Kind>;  // that all threads copy at once
    static_assert(TOKENS % 8 == 0);

    const Arguments &given_;
    const uint4 *packed_;
    const float *scales_;
    const uint16_t *x_;
    uint64_t policy_;
    int left_;  // steps with the same scales
    int column_, tokens_;
    uint32_t own_, row_;
};

// Warps that have the same rows, as many units of them, and each a part of the tokens. Of many
// tokens each warp would read more than shared memory gives; then two of them unpack each weight.
template <int TILES>
constexpr int SIDES = TILES == 8 ? 2 : 1;

// What a lane adds up: of each 16 rows and 8 tokens of its warp two rows and two tokens.
template <int TILES>
using Sums = float[2 * SIDES<TILES>][TILES / SIDES<TILES>][4];

// The first unit of a warp.
template <int TILES>
__device__ inline int first_unit() {
    return threadIdx.x / 32 / SIDES<TILES> * SIDES<TILES>;
}

// Where a lane's sums belong in a block.
template <int TILES>
__device__ inline int row_of(int sixteen, int one) {
    return first_unit<TILES>() * UNIT + sixteen * 16 + one / 2 * 8 + threadIdx.x % 32 / 4;
}
template <int TILES>
__device__ inline int token_of(int tile, int one) {
    const int lane = threadIdx.x % 32, side = threadIdx.x / 32 % SIDES<TILES>;
    return (side * (TILES / SIDES<TILES>) + tile) * 8 + lane % 4 * 2 + one % 2;
}

// Adds the products of a stage. Those of integers are exact; a scale meets their sum.
template <class Kind, bool WIDE, int TILES, int WARPS>
__device__ inline void add_stage(Sums<TILES> &total, const uint4 *stage) {
    constexpr int UNITS = SIDES<TILES>, OWN_TILES = TILES / SIDES<TILES>;
    const int lane = threadIdx.x % 32;
    const uint4 *own = stage + first_unit<TILES>() * OWN<Kind>;
    const float *scales[UNITS];
    typename Kind::template Lane<WIDE> weight[UNITS];
#pragma unroll
    for (int unit = 0; unit < UNITS; unit++) {
        const uint4 *pieces = own + unit * OWN<Kind>;
        scales[unit] = reinterpret_cast<const float *>(pieces + Kind::PIECES);
        weight[unit].load(pieces, scales[unit]);
    }
    // Lanes name rows of matrices: 8 tokens, 8 columns each.
    const int token = token_of<TILES>(0, 0) / 8 * 8 + lane % 8;
    const uint32_t rows = shared_address(stage + WARPS * OWN<Kind> + token * ROW<Kind>);
    Sums<TILES> sums = {};
#pragma unroll
    for (int quarter = 0; quarter < Kind::DEPTH / 32; quarter++) {
#pragma unroll
        for (int unit = 0; unit < UNITS; unit++) weight[unit].unpack(quarter);
        const uint32_t row = rows + ((quarter * 4 + lane / 8) ^ lane % 8) * 16;
#pragma unroll
        for (int tile = 0; tile < OWN_TILES; tile++) {
            uint32_t right[4];
            load_matrices(right, row + tile * 8 * ROW<Kind> * 16);
#pragma unroll
            for (int unit = 0; unit < UNITS; unit++) {
                weight[unit].multiply(sums[2 * unit][tile], sums[2 * unit + 1][tile], right);
            }
        }
    }
#pragma unroll
    for (int sixteen = 0; sixteen < 2 * UNITS; sixteen++) {
        const float *of_rows = scales[sixteen / 2] + sixteen % 2 * 16 + lane / 4;
        const float scale[2] = {Kind::scale(of_rows[0]), Kind::scale(of_rows[8])};
#pragma unroll
        for (int tile = 0; tile < OWN_TILES; tile++) {
#pragma unroll
            for (int one = 0; one < 4; one++) {
                total[sixteen][tile][one] += sums[sixteen][tile][one] * scale[one / 2];
            }
        }
    }
}

// Leaves a block's sums; the block that is last adds those of all, in their order. False: this is
// another one. `before` is shared by the block, and needed no more.
template <int TILES>
__device__ inline bool joined(Sums<TILES> &total, const Arguments &given, int known_tokens,
                              int *before) {
    constexpr int SIXTEENS = 2 * SIDES<TILES>, OWN_TILES = TILES / SIDES<TILES>;
    const int tile_of_grid = blockIdx.y * gridDim.x + blockIdx.x;
    const int lane = threadIdx.x % 32;
    // Lanes with the same tokens lie side by side: of few tokens little is moved.
    const int place = threadIdx.x - lane + lane % 4 * 8 + lane / 4;
    const size_t size = size_t(2 * TILES) * blockDim.x;
    float4 *all = given.sums + size_t(tile_of_grid) * gridDim.z * size + place;
    float4 *own = all + blockIdx.z * size;
#pragma unroll
    for (int sixteen = 0; sixteen < SIXTEENS; sixteen++) {
#pragma unroll
        for (int tile = 0; tile < OWN_TILES; tile++) {
            const float *four = total[sixteen][tile];
            if (token_of<TILES>(tile, 0) < known_tokens) {
                own[(sixteen * OWN_TILES + tile) * blockDim.x] =
                    make_float4(four[0], four[1], four[2], four[3]);
            }
        }
    }
    __syncthreads();  // all have left theirs, and no warp needs its stage any more
    if (threadIdx.x == 0) *before = arrive(given.arrived + tile_of_grid);
    __syncthreads();
    if (*before != int(gridDim.z) - 1) return false;
#pragma unroll
    for (int sixteen = 0; sixteen < SIXTEENS; sixteen++) {
#pragma unroll
        for (int tile = 0; tile < OWN_TILES; tile++) {
            float *four = total[sixteen][tile];
            four[0] = four[1] = four[2] = four[3] = 0;
            if (token_of<TILES>(tile, 0) >= known_tokens) continue;
            for (int part = 0; part < int(gridDim.z); part++) {
                const float4 found =
                    __ldcg(all + part * size + (sixteen * OWN_TILES + tile) * blockDim.x);
                four[0] += found.x;
                four[1] += found.y;
                four[2] += found.z;
                four[3] += found.w;
            }
        }
    }
    if (threadIdx.x == 0) given.arrived[tile_of_grid] = 0;
    return true;
}

// Does what follows the product of up to 8 tokens, in place of writing it. `sums` is shared by the
// block.
template <bool WIDE, int WARPS>
__device__ inline void follow(const Sums<1> &total, const Arguments &given, uint16_t *sums) {
    constexpr int ROWS = WARPS * UNIT;
    __syncthreads();  // no warp needs its stages any more
#pragma unroll
    for (int sixteen = 0; sixteen < 2; sixteen++) {
#pragma unroll
        for (int one = 0; one < 4; one++) {
            const int token = token_of<1>(0, one);
            if (token < given.tokens) {
                sums[token * ROWS + row_of<1>(sixteen, one)] = rounded<WIDE>(total[sixteen][0][one]);
            }
        }
    }
    __syncthreads();
    if (given.after == TURN) {
        turn<WIDE, ROWS>(given, sums);
    } else {
        gate<WIDE, ROWS>(given, sums);
    }
}

// Some tokens, some rows of the weight, and some of their columns. Blocks with the same part of the
// weight and other tokens run side by side: one of them reads it from memory.
template <class Kind, bool WIDE, int TILES, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, TILES == 8 ? 8 / WARPS : 16 / WARPS)
    int_multiply(const __grid_constant__ Arguments given) {
    extern __shared__ uint4 memory[];
    constexpr int ON_WAY = Kind::template STAGES<TILES> - 1;
    const int first_token = blockIdx.x * TILES * 8;
    const int begin = given.steps * blockIdx.z / gridDim.z;
    const int count = given.steps * (blockIdx.z + 1) / gridDim.z - begin;
    Copies<Kind, TILES, WARPS> copies(given, memory, unit_of<TILES, WARPS>(given), first_token, begin);

    let_next_start();
    for (int stage = 0; stage < min(ON_WAY, count); stage++) {
        copies.copy_weight(stage);
    }
    await_earlier();  // whose output x is
    for (int stage = 0; stage < ON_WAY; stage++) {
        if (stage < count) copies.copy_x(stage);
        copies_end();
    }
    Sums<TILES> total = {};
    int stage = 0, free = ON_WAY;
    for (int left = count; left > 0; left--) {
        await_copies<ON_WAY - 1>();
        __syncthreads();  // all copies of this stage are there, and nobody reads the free one
        if (left > ON_WAY) {
            copies.copy_weight(free);
            copies.copy_x(free);
        }
        copies_end();
        add_stage<Kind, WIDE, TILES, WARPS>(total, memory + stage * STAGE<Kind, TILES, WARPS>);
        free = stage;
        stage = stage == ON_WAY ? 0 : stage + 1;
    }
    int *shared = reinterpret_cast<int *>(memory);
    if (gridDim.z > 1 && !joined<TILES>(total, given, given.tokens - first_token, shared)) return;
    if constexpr (TILES == 1) {
        if (given.after != NOTHING) {
            follow<WIDE, WARPS>(total, given, reinterpret_cast<uint16_t *>(memory));
            return;
        }
    }
#pragma unroll
    for (int sixteen = 0; sixteen < 2 * SIDES<TILES>; sixteen++) {
#pragma unroll
        for (int tile = 0; tile < TILES / SIDES<TILES>; tile++) {
#pragma unroll
            for (int one = 0; one < 4; one++) {
                const int row = blockIdx.y * WARPS * UNIT + row_of<TILES>(sixteen, one);
                const int token = first_token + token_of<TILES>(tile, one);
                if (row < given.rows && token < given.tokens) {
                    given.output[size_t(token) * given.rows + row] =
                        rounded<WIDE>(total[sixteen][tile][one]);
                }
            }
        }
    }
}

}  // namespace
}  // namespace aweigh
