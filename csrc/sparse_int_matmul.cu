// x · weightᵀ for weights of 4 or 8 bits of which two in four are kept, by sparse tensor cores.
// docs/kernels/sparse-int-weight.md says how they lie in memory and why.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "instructions.cuh"

namespace aweigh {

constexpr int UNIT = 32;             // rows of the weight that are packed together
constexpr int DEPTH = 128;           // columns that it multiplies in a step
constexpr int SCALES = UNIT / 4;     // pieces of 16 bytes that a unit's scales take
constexpr int ROW = DEPTH * 2 / 16;  // those of a token in a step

// Pieces that a unit's integers take in a step, and those with the places behind them.
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

namespace {

// Steps in shared memory: the one that is multiplied, and those on their way. Two blocks have room
// on a multiprocessor; with 64 tokens one has, for its registers.
template <int BITS, int TILES>
constexpr int STAGES = BITS == 8 && TILES == 4 ? 3 : BITS == 4 && TILES == 8 ? 5 : 4;

// Pieces of a stage: what warps have of the weight, and x.
template <int BITS>
constexpr int OWN = PIECES<BITS> + SCALES;
template <int BITS, int TILES, int WARPS>
constexpr int STAGE = WARPS * OWN<BITS> + TILES * 8 * ROW;

// Eight integers become numbers in the registers that a tensor core takes, less their zero point.
// Exactly: their bits are put into the last ones of 64, 128 or 1024, which is then subtracted.
template <int BITS, bool WIDE>
__device__ inline void to_numbers(uint32_t (&to)[4], const uint32_t *words) {
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
        const uint32_t byte = words[BITS == 8 ? pair / 2 : 0] >> (BITS == 8 ? pair % 2 : pair / 2) * 8;
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

// A thread's part of the copies, step by step.
template <int BITS, int TILES, int WARPS>
class Copies {
  public:
    __device__ Copies(const Arguments &given, uint4 *memory, int unit, int first_token, int step)
        : policy_(read_once()), scale_pitch_(given.scale_pitch), pitch_(given.pitch) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        packed_ = given.packed + (size_t(unit) * given.steps + step) * PIECES<BITS> + lane;
        scales_ = given.scales + size_t(step) * scale_pitch_ + unit * UNIT + lane * 4;
        const int token = threadIdx.x / ROW, piece = threadIdx.x % ROW;
        column_ = step * DEPTH + piece * 8;
        x_ = given.x + size_t(first_token + token) * pitch_ + column_;
        tokens_ = given.tokens - first_token - token;
        own_ = shared_address(memory + warp * OWN<BITS> + lane);
        // Pieces of a token change places, so that those of eight tokens are in other banks.
        row_ = shared_address(memory + WARPS * OWN<BITS> + token * ROW + (piece ^ token % 8));
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
            if (TOKENS > TILES * 8 && threadIdx.x >= TILES * 8 * ROW) break;
            copy_known(to + token * ROW * 16, x_ + size_t(token) * pitch_,
                       token < tokens_ && column_ < pitch_);
        }
        x_ += DEPTH;
        column_ += DEPTH;
    }

  private:
    static constexpr int TOKENS = WARPS * 32 / ROW;  // that all threads copy at once
    static_assert(TOKENS % 8 == 0);

    const uint4 *packed_;
    const float *scales_;
    const uint16_t *x_;
    uint64_t policy_;
    int scale_pitch_, pitch_, column_, tokens_;
    uint32_t own_, row_;
};

// Warps that have the same rows, as many units of them, and each a part of the tokens. Of many
// tokens each warp would read more than shared memory gives; then two of them unpack each weight.
template <int TILES>
constexpr int SIDES = TILES == 8 ? 2 : 1;

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
    const uint4 *own = stage + row_of<TILES>(0, 0) / UNIT * OWN<BITS>;
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
    const uint32_t rows = shared_address(stage + WARPS * OWN<BITS> + token * ROW);
    Sums<TILES> sums = {};
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
        uint32_t left[2 * UNITS][4], right[4];
#pragma unroll
        for (int sixteen = 0; sixteen < 2 * UNITS; sixteen++) {
            const uint32_t *word = reinterpret_cast<const uint32_t *>(words[sixteen]);
            to_numbers<BITS, WIDE>(left[sixteen], word + quarter * BITS / 4);
        }
        const uint32_t row = rows + ((quarter * 4 + lane / 8) ^ lane % 8) * 16;
#pragma unroll
        for (int tile = 0; tile < OWN_TILES; tile++) {
            load_matrices(right, row + tile * 8 * ROW * 16);
#pragma unroll
            for (int unit = 0; unit < UNITS; unit++) {
                const uint32_t place = reinterpret_cast<const uint32_t *>(&places[unit])[quarter];
                multiply_sparse<WIDE, 0>(sums[2 * unit][tile], left[2 * unit], right, place);
                multiply_sparse<WIDE, 1>(sums[2 * unit + 1][tile], left[2 * unit + 1], right, place);
            }
        }
    }
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
    const int tile_of_grid = blockIdx.z * gridDim.x + blockIdx.x;
    const int lane = threadIdx.x % 32;
    // Lanes with the same tokens lie side by side: of few tokens little is moved.
    const int place = threadIdx.x - lane + lane % 4 * 8 + lane / 4;
    const size_t size = size_t(2 * TILES) * blockDim.x;
    float4 *all = given.sums + size_t(tile_of_grid) * gridDim.y * size + place;
    float4 *own = all + blockIdx.y * size;
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
    if (*before != int(gridDim.y) - 1) return false;
#pragma unroll
    for (int sixteen = 0; sixteen < SIXTEENS; sixteen++) {
#pragma unroll
        for (int tile = 0; tile < OWN_TILES; tile++) {
            float *four = total[sixteen][tile];
            four[0] = four[1] = four[2] = four[3] = 0;
            if (token_of<TILES>(tile, 0) >= known_tokens) continue;
            for (int part = 0; part < int(gridDim.y); part++) {
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

// Some rows of the weight, some of their columns, and some tokens.
template <int BITS, bool WIDE, int TILES, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, TILES == 8 ? 8 / WARPS : 16 / WARPS)
    sparse_int_multiply(const __grid_constant__ Arguments given) {
    extern __shared__ uint4 memory[];
    constexpr int ON_WAY = STAGES<BITS, TILES> - 1;
    const int unit = blockIdx.x * WARPS + threadIdx.x / 32;
    const int first_token = blockIdx.z * TILES * 8;
    const int begin = given.steps * blockIdx.y / gridDim.y;
    const int count = given.steps * (blockIdx.y + 1) / gridDim.y - begin;
    // Units past the end are the last one again; nothing of them is written.
    Copies<BITS, TILES, WARPS> copies(given, memory, min(unit, given.units - 1), first_token, begin);

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
    if (gridDim.y > 1 && !joined<TILES>(total, given, given.tokens - first_token,
                                        reinterpret_cast<int *>(memory))) {
        return;
    }
#pragma unroll
    for (int sixteen = 0; sixteen < 2 * SIDES<TILES>; sixteen++) {
#pragma unroll
        for (int tile = 0; tile < TILES / SIDES<TILES>; tile++) {
#pragma unroll
            for (int one = 0; one < 4; one++) {
                const int row = blockIdx.x * WARPS * UNIT + row_of<TILES>(sixteen, one);
                const int token = first_token + token_of<TILES>(tile, one);
                if (row < given.rows && token < given.tokens) {
                    given.output[size_t(token) * given.rows + row] =
                        rounded<WIDE>(total[sixteen][tile][one]);
                }
            }
        }
    }
}

// Makes a unit's rows of one step dense; each number is rounded once.
template <int BITS, bool WIDE>
__global__ void __launch_bounds__(32) sparse_int_unpack(const __grid_constant__ Arguments given) {
    const int lane = threadIdx.x, step = blockIdx.y, unit = given.first + blockIdx.x;
    const uint4 *pieces = given.packed + (size_t(unit) * given.steps + step) * PIECES<BITS>;
    const float *scales = given.scales + size_t(step) * given.scale_pitch + unit * UNIT;
    const uint4 places = pieces[WORDS<BITS> + lane];
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
            const int column = step * DEPTH + quarter * 32 + right * 16 + lane % 4 * 4;
            const uint32_t place = __shfl_sync(
                ~0u, reinterpret_cast<const uint32_t *>(&places)[quarter],
                lane / 4 * 4 + half * 2 + right) >> (upper * 16 + lane % 4 * 4);
            const uint32_t word =
                reinterpret_cast<const uint32_t *>(words)[quarter * BITS / 4 + (BITS == 8) * right];
            const uint32_t two = word >> (BITS == 4 ? 4 * (upper + 2 * right) : 8 * upper);
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

template <int BITS, int TILES, int WARPS>
constexpr int SHARED_BYTES = STAGES<BITS, TILES> * STAGE<BITS, TILES, WARPS> * 16;

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
    const dim3 grid((given.units + WARPS - 1) / WARPS, given.splits,
                    (given.tokens + TILES * 8 - 1) / (TILES * 8));
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
    return cudaFuncSetAttribute(sparse_int_multiply<BITS, WIDE, TILES, WARPS>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                SHARED_BYTES<BITS, TILES, WARPS>);
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
