// Weights of which two in four are kept, as sparse_packing.py packs them: a unit's step in a row.
#pragma once

#include "arguments.cuh"
#include "integers.cuh"

namespace aweigh {

template <int BITS_>
struct SparseInt {
    static constexpr int BITS = BITS_;
    static constexpr int DEPTH = 128;  // columns of a step
    static constexpr int MOST_TILES = 8;

    // Pieces of 16 bytes that a unit's integers take in a step, and those with the places behind
    // them. So many are from a step to the next.
    static constexpr int WORDS = UNIT * DEPTH / 2 * BITS / 128;
    static constexpr int PIECES = WORDS + UNIT * DEPTH / 2 * 2 / 128;
    static constexpr int STRIDE = PIECES;

    // Steps in shared memory: the one that is multiplied, and those on their way. Two blocks have
    // room on a multiprocessor; with 64 tokens one has, for its registers.
    template <int TILES>
    static constexpr int STAGES = BITS == 8 && TILES == 4 ? 3 : BITS == 4 && TILES == 8 ? 5 : 4;

    // Where a unit's first piece is, and how far behind it another one of the same lane.
    __device__ static size_t first(int unit, int steps, int step) {
        return (size_t(unit) * steps + step) * PIECES;
    }
    __device__ static int behind(int part) { return part * 32; }

    __device__ static float scale(float given) { return given; }

    // What a lane has of a unit's step.
    template <bool WIDE>
    class Lane {
      public:
        __device__ void load(const uint4 *pieces, const float *) {
            const int lane = threadIdx.x % 32;
#pragma unroll
            for (int part = 0; part < BITS / 2; part++) {
                words_[part / (BITS / 4)][part % (BITS / 4)] = pieces[part * 32 + lane];
            }
            places_ = pieces[WORDS + lane];
        }

        // Makes the next 32 columns what tensor cores take.
        __device__ void unpack(int quarter) {
            const uint32_t offsets[2] = {offset<BITS, WIDE>(1 << (BITS - 1), false),
                                         offset<BITS, WIDE>(1 << (BITS - 1), true)};
#pragma unroll
            for (int sixteen = 0; sixteen < 2; sixteen++) {
                const uint32_t *word = reinterpret_cast<const uint32_t *>(words_[sixteen]);
                to_numbers<BITS, WIDE, true>(left_[sixteen], word + quarter * BITS / 4, offsets);
            }
            place_ = reinterpret_cast<const uint32_t *>(&places_)[quarter];
        }

        __device__ void multiply(float (&low)[4], float (&high)[4], const uint32_t (&right)[4]) {
            multiply_sparse<WIDE, 0>(low, left_[0], right, place_);
            multiply_sparse<WIDE, 1>(high, left_[1], right, place_);
        }

      private:
        uint4 words_[2][BITS / 4], places_;
        uint32_t left_[2][4], place_;
    };
};

}  // namespace aweigh
