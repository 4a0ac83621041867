// Weights of which all are kept, as int_packing.py packs them where warpgroups multiply: 64 rows of a
// step in a row, which are two units. They are [2 runs of columns, 4 sixteens of rows, 32 lanes].
#pragma once

#include "arguments.cuh"
#include "integers.cuh"

namespace aweigh {

template <int BITS_>
struct Int {
    static constexpr int BITS = BITS_;
    static constexpr int DEPTH = 512 / BITS;  // columns of a step
    static constexpr int MOST_TILES = 1;  // of more tokens others are faster

    // Pieces of 16 bytes that a unit takes in a step, and from a step to the next.
    static constexpr int PIECES = UNIT * DEPTH * BITS / 128;
    static constexpr int STRIDE = 2 * PIECES;

    // Steps in shared memory: the one that is multiplied, and those on their way.
    template <int TILES>
    static constexpr int STAGES = 4;

    // Where a unit's first piece is, and how far behind it another one of the same lane.
    __device__ static size_t first(int unit, int steps, int step) {
        return (size_t(unit / 2) * steps + step) * STRIDE + unit % 2 * (PIECES / 2);
    }
    __device__ static int behind(int part) { return part / 2 * PIECES + part % 2 * 32; }

    // A word has the upper bits of an fp32, and a zero point in the others.
    static constexpr uint32_t ZEROS = 511;
    __device__ static float scale(float given) {
        return __uint_as_float(__float_as_uint(given) & ~ZEROS);
    }

    // What a lane has of a unit's step.
    template <bool WIDE>
    class Lane {
      public:
        __device__ void load(const uint4 *pieces, const float *scales) {
            const int lane = threadIdx.x % 32;
#pragma unroll
            for (int part = 0; part < 4; part++) {
                words_[part % 2][part / 2] = pieces[part * 32 + lane];
            }
#pragma unroll
            for (int eight = 0; eight < 4; eight++) {
                const uint32_t zero = __float_as_uint(scales[eight * 8 + lane / 4]) & ZEROS;
                offsets_[eight / 2][eight % 2] = offset<BITS, WIDE>(zero, eight % 2);
            }
        }

        // Makes the next 32 columns what tensor cores take, 16 at once.
        __device__ void unpack(int quarter) {
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const int sixteen = part / 2, half = part % 2;
                const uint32_t *word = reinterpret_cast<const uint32_t *>(words_[sixteen]);
                to_numbers<BITS, WIDE, false>(left_[sixteen][half],
                                              word + (quarter * 2 + half) * BITS / 4,
                                              offsets_[sixteen]);
            }
        }

        __device__ void multiply(float (&low)[4], float (&high)[4], const uint32_t (&right)[4]) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                multiply_dense<WIDE>(low, left_[0][half], right[half * 2], right[half * 2 + 1]);
                multiply_dense<WIDE>(high, left_[1][half], right[half * 2], right[half * 2 + 1]);
            }
        }

      private:
        uint4 words_[2][2];
        uint32_t offsets_[2][2], left_[2][2][4];
    };
};

}  // namespace aweigh
