// The product of a few tokens: a warp has 32 rows of the weight, and 128 of their columns a step.
#pragma once

#include "sparse_int_layout.cuh"

namespace aweigh {
namespace {

constexpr int SCALES = UNIT / 4;  // pieces of 16 bytes that a unit's scales take
constexpr int ROW = 8;            // those of a token's 64 columns, two of which are a step

// Steps in shared memory: the one that is multiplied, and those on their way. Two blocks have room
// on a multiprocessor; with 64 tokens one of 8 warps has, for its registers.
template <int BITS, int TILES, int WARPS>
constexpr int STAGES = BITS == 8 && TILES == 4                 ? 3
                       : BITS == 4 && TILES == 8 && WARPS == 8 ? 5
                                                               : 4;

// Pieces of a stage: x, and what warps have of the weight. Tensor cores want stages to begin at
// multiples of 1,024 bytes.
template <int BITS>
constexpr int OWN = PIECES<BITS> + SCALES;
template <int TILES>
constexpr int OF_X = 2 * TILES * 8 * ROW;
template <int BITS, int TILES, int WARPS>
constexpr int STAGE = (OF_X<TILES> + WARPS * OWN<BITS> + 63) / 64 * 64;

template <int BITS, int TILES, int WARPS>
constexpr int SHARED_BYTES = STAGES<BITS, TILES, WARPS> * STAGE<BITS, TILES, WARPS> * 16;

// A thread's part of the copies, step by step.
template <int BITS, int TILES, int WARPS>
class Copies {
  public:
    __device__ Copies(const Arguments &given, uint4 *memory, int unit, int first_token, int step)
        : policy_(read_once()), scale_pitch_(given.scale_pitch), pitch_(given.pitch) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        packed_ = given.packed + (size_t(unit) * given.steps + step) * PIECES<BITS> + lane;
        scales_ = given.scales + size_t(step) * scale_pitch_ + unit * UNIT + lane * 4;
        const int token = threadIdx.x / (2 * ROW), piece = threadIdx.x % (2 * ROW);
        column_ = step * DEPTH + piece * 8;
        x_ = given.x + size_t(first_token + token) * pitch_ + column_;
        tokens_ = given.tokens - first_token - token;
        own_ = shared_address(memory + OF_X<TILES> + warp * OWN<BITS> + lane);
        // Pieces of a token change places, so that those of eight tokens are in other banks.
        uint4 *columns = memory + piece / ROW * (OF_X<TILES> / 2);
        row_ = shared_address(columns + token * ROW + (piece % ROW ^ token % 8));
    }

    // Asks for a step of the weight.
    __device__ void copy_weight(int stage) {
        const uint32_t to = own_ + stage * STAGE<BITS, TILES, WARPS> * 16;
#pragma unroll
        for (int piece = 0; piece < PIECES<BITS>; piece += 32) {
            copy_once(to + piece * 16, packed_ + piece, policy_);
        }
        if (threadIdx.x % 32 < SCALES) copy_known(to + PIECES<BITS> * 16, scales_, true);
        packed_ += PIECES<BITS>;
        scales_ += scale_pitch_;
    }

    // Asks for a step of x.
    __device__ void copy_x(int stage) {
        const uint32_t to = row_ + stage * STAGE<BITS, TILES, WARPS> * 16;
#pragma unroll
        for (int token = 0; token < TILES * 8; token += TOKENS) {
            if (TOKENS > TILES * 8 && threadIdx.x >= OF_X<TILES>) break;
            copy_known(to + token * ROW * 16, x_ + size_t(token) * pitch_,
                       token < tokens_ && column_ < pitch_);
        }
        x_ += DEPTH;
        column_ += DEPTH;
    }

  private:
    static constexpr int TOKENS = WARPS * 32 / (2 * ROW);  // that all threads copy at once
    static_assert(TOKENS % 8 == 0);

    const uint4 *packed_;
    const float *scales_;
    const uint16_t *x_;
    uint64_t policy_;
    int scale_pitch_, pitch_, column_, tokens_;
    uint32_t own_, row_;
};

// Whether four warps multiply together.
template <int TILES>
constexpr bool TOGETHER = WARPGROUPS && TILES >= 4;

// Warps that have the same rows, as many units of them, and each a part of the tokens. Of many
// tokens each warp would read more than shared memory gives; then two of them unpack each weight.
template <int TILES>
constexpr int SIDES = TILES == 8 && !WARPGROUPS ? 2 : 1;

// What a lane adds up: of each 16 rows and 8 tokens of its warp two rows and two tokens.
template <int TILES>
using Sums = float[2 * SIDES<TILES>][TILES / SIDES<TILES>][4];

// Where a lane's sums belong in a block.
template <int TILES>
__device__ inline int row_of(int sixteen, int one) {
    const int lane = threadIdx.x % 32, unit = threadIdx.x / 32 / SIDES<TILES> * SIDES<TILES>;
    return unit * UNIT + sixteen * 16 + one / 2 * 8 + lane / 4;
}
template <int TILES>
__device__ inline int token_of(int tile, int one) {
    const int lane = threadIdx.x % 32, side = threadIdx.x / 32 % SIDES<TILES>;
    return (side * (TILES / SIDES<TILES>) + tile) * 8 + lane % 4 * 2 + one % 2;
}

// Adds the products of a stage. Those of integers are exact; a scale meets their sum.
template <int BITS, bool WIDE, int TILES, int WARPS>
__device__ inline void add_stage(Sums<TILES> &total, const uint4 *stage) {
    constexpr int UNITS = SIDES<TILES>, OWN_TILES = TILES / SIDES<TILES>;
    const int lane = threadIdx.x % 32;
    const uint4 *own = stage + OF_X<TILES> + row_of<TILES>(0, 0) / UNIT * OWN<BITS>;
    uint4 words[2 * UNITS][BITS / 4], places[UNITS];
#pragma unroll
    for (int unit = 0; unit < UNITS; unit++) {
#pragma unroll
        for (int part = 0; part < BITS / 2; part++) {
            words[unit * 2 + part / (BITS / 4)][part % (BITS / 4)] =
                own[unit * OWN<BITS> + part * 32 + lane];
        }
        places[unit] = own[unit * OWN<BITS> + WORDS<BITS> + lane];
    }
    // Lanes name rows of matrices: 8 tokens, 8 columns each.
    const int token = token_of<TILES>(0, 0) / 8 * 8 + lane % 8;
    const uint32_t rows = shared_address(stage + token * ROW);
    Sums<TILES> sums = {};
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
        uint32_t left[2 * UNITS][4], right[4];
#pragma unroll
        for (int sixteen = 0; sixteen < 2 * UNITS; sixteen++) {
            const uint32_t *word = reinterpret_cast<const uint32_t *>(words[sixteen]);
            to_numbers<BITS, WIDE>(left[sixteen], word + quarter * BITS / 4);
        }
        const uint32_t columns = quarter / 2 * (OF_X<TILES> / 2) * 16;
        if constexpr (TOGETHER<TILES>) {
            const uint64_t x = matrix_at(shared_address(stage) + columns + quarter % 2 * 64);
            const uint32_t place = reinterpret_cast<const uint32_t *>(places)[quarter];
            begin_products();
            multiply_sparse<WIDE, 0, TILES>(sums[0], left[0], x, place, quarter > 0);
            multiply_sparse<WIDE, 1, TILES>(sums[1], left[1], x, place, quarter > 0);
            continue;
        }
        const uint32_t row = rows + columns + ((quarter % 2 * 4 + lane / 8) ^ lane % 8) * 16;
#pragma unroll
        for (int tile = 0; tile < OWN_TILES; tile++) {
            load_matrices(right, row + tile * 8 * ROW * 16);
#pragma unroll
            for (int unit = 0; unit < UNITS; unit++) {
                const uint32_t place = reinterpret_cast<const uint32_t *>(&places[unit])[quarter];
                const int low = 2 * unit, high = 2 * unit + 1;
                multiply_sparse<WIDE, 0>(sums[low][tile], left[low], right, place);
                multiply_sparse<WIDE, 1>(sums[high][tile], left[high], right, place);
            }
        }
    }
    if constexpr (TOGETHER<TILES>) await_products();
#pragma unroll
    for (int sixteen = 0; sixteen < 2 * UNITS; sixteen++) {
        const uint4 *behind = own + sixteen / 2 * OWN<BITS> + PIECES<BITS>;
        const float *scales = reinterpret_cast<const float *>(behind) + sixteen % 2 * 16 + lane / 4;
        const float scale[2] = {scales[0], scales[8]};
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

// Some tokens, some rows of the weight, and some of their columns. Blocks with the same part of the
// weight and other tokens run side by side: one of them reads it from memory.
template <int BITS, bool WIDE, int TILES, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, TILES == 8 ? 8 / WARPS : 16 / WARPS)
    sparse_int_multiply(const __grid_constant__ Arguments given) {
    extern __shared__ __align__(1024) uint4 memory[];
    constexpr int ON_WAY = STAGES<BITS, TILES, WARPS> - 1;
    const int first_token = blockIdx.x * TILES * 8;
    const int unit = blockIdx.y * WARPS + threadIdx.x / 32;
    const int begin = given.steps * blockIdx.z / gridDim.z;
    const int count = given.steps * (blockIdx.z + 1) / gridDim.z - begin;
    // Units past the end are the last one again; nothing of them is written.
    const int last = given.units - 1;
    Copies<BITS, TILES, WARPS> copies(given, memory, min(unit, last), first_token, begin);

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
    for (int step = 0; step < count; step++) {
        await_copies<ON_WAY - 1>();
        if constexpr (TOGETHER<TILES>) show_to_tensor_cores();
        __syncthreads();  // all copies of this stage are there, and nobody reads the free one
        if (step + ON_WAY < count) {
            copies.copy_weight(free);
            copies.copy_x(free);
        }
        copies_end();
        add_stage<BITS, WIDE, TILES, WARPS>(total, memory + stage * STAGE<BITS, TILES, WARPS>);
        free = stage;
        stage = stage == ON_WAY ? 0 : stage + 1;
    }
    int *shared = reinterpret_cast<int *>(memory);
    if (gridDim.z > 1 && !joined<TILES>(total, given, given.tokens - first_token, shared)) return;
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
