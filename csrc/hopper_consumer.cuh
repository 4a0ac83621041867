// What multiplies, and writes.
#pragma once

#include "hopper.cuh"
#include "hopper_tile.cuh"
#include "integers.cuh"

namespace aweigh {
namespace {

// One thread of a warpgroup that multiplies.
template <class T, bool WIDE>
class Consumer {
  public:
    __device__ Consumer(const Arguments &given, uint32_t memory, int rank)
        : given_(given), memory_(memory), rank_(rank) {}

    __device__ void run() {
        Share<T> share(given_, rank_);
        Item<T> item;
        while (share.next(item)) {
            float sums[T::OWN][T::TOKENS / 2];
            add(sums, item.end - item.begin);
            if (item.parts > 1 && !joined(sums, item)) continue;
#pragma unroll
            for (int own = 0; own < T::OWN; own++) write(sums[own], item, own);
        }
    }

  private:
    static constexpr uint32_t ZEROS = 511;  // of a factor; the others are the scale's

    // The products of some steps. While half of one is multiplied the next is unpacked.
    __device__ void add(float (&sums)[T::OWN][T::TOKENS / 2], int steps) {
        uint32_t left[2][T::OWN][T::SIXTEENS][4], offsets[T::OWN][2], scales[T::OWN][2];
        int before = 0;  // the stage of the last step
        for (int step = 0; step < steps; step++) {
            const int stage = place_.stage;
            await_phase(memory_ + T::OF_FULL + stage * 8, place_.phase);
            load_factors(offsets, scales, stage);
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int own = 0; own < T::OWN; own++) {
                    unpack(left[half][own], stage, own, half, offsets[own], scales[own]);
                }
                const uint64_t right = half_of_x(stage, half);
                begin_products();
#pragma unroll
                for (int sixteen = 0; sixteen < T::SIXTEENS; sixteen++) {
#pragma unroll
                    for (int own = 0; own < T::OWN; own++) {
                        multiply_by_four_warps<WIDE>(sums[own], left[half][own][sixteen],
                                                     right + sixteen * 2,
                                                     half + sixteen > 0 || step > 0);
                    }
                }
                products_end();
                await_products<1>();
                if (half == 0 && step > 0) release(before);
            }
            before = stage;
            place_.advance();
        }
        await_products<0>();
        release(before);
    }

    // Where the columns of 4 bits are 64 in a matrix of their own, those of 8 bits are half of one.
    __device__ uint64_t half_of_x(int stage, int half) const {
        constexpr int BETWEEN = T::BITS == 4 ? T::TOKENS * 128 : 64;
        return swizzled(memory_ + stage * T::X) + half * BETWEEN / 16;
    }

    __device__ void load_factors(uint32_t (&offsets)[T::OWN][2], uint32_t (&scales)[T::OWN][2],
                                 int stage) {
        const uint32_t from = memory_ + T::OF_FACTORS + stage * T::FACTORS;
#pragma unroll
        for (int own = 0; own < T::OWN; own++) {
#pragma unroll
            for (int lower = 0; lower < 2; lower++) {
                const int row = unit(own) * 64 + row_of_lane() + lower * 8;
                const uint32_t factor = load_shared_word(from + row * 4);
                const float scale = __uint_as_float(factor & ~ZEROS);
                offsets[own][lower] = offset<T::BITS, WIDE>(factor & ZEROS, lower);
                scales[own][lower] = rounded_pair<WIDE>(scale, scale);
            }
        }
    }

    // Weights of half a step, each rounded once as a tensor core takes it.
    __device__ void unpack(uint32_t (&left)[T::SIXTEENS][4], int stage, int own, int half,
                           const uint32_t (&offsets)[2], const uint32_t (&scales)[2]) {
        const uint4 found = load_shared(memory_ + T::OF_WEIGHT + stage * T::WEIGHT +
                                        unit(own) * 4096 + half * 2048 + threadIdx.x % 128 * 16);
        const uint32_t words[4] = {found.x, found.y, found.z, found.w};
#pragma unroll
        for (int sixteen = 0; sixteen < T::SIXTEENS; sixteen++) {
            to_numbers<T::BITS, WIDE, false>(left[sixteen], words + sixteen * T::BITS / 4,
                                             offsets);
#pragma unroll
            for (int pair = 0; pair < 4; pair++) {
                left[sixteen][pair] = times<WIDE>(left[sixteen][pair], scales[pair % 2]);
            }
        }
    }

    // All copies to a stage are of all blocks of the cluster.
    __device__ void release(int stage) {
        const int lane = threadIdx.x % 32;
        if (lane < T::CLUSTER) arrive_at(memory_ + T::OF_EMPTY + stage * 8, lane);
    }

    // Leaves sums; the warpgroup that is last adds those of all parts, in their order. False: this
    // is another one.
    __device__ bool joined(float (&sums)[T::OWN][T::TOKENS / 2], const Item<T> &item) {
        constexpr int FOURS = T::TOKENS / 8, OWN = T::OWN * FOURS * 128;
        constexpr int PART = T::CLUSTER * T::WARPGROUPS * OWN;  // from one to the next
        const int first = item.slot * T::WARPGROUPS + warpgroup();
        float4 *all = given_.sums + size_t(first) * OWN + threadIdx.x % 128;
        float4 *own_part = all + item.part * PART;
#pragma unroll
        for (int own = 0; own < T::OWN; own++) {
#pragma unroll
            for (int four = 0; four < FOURS; four++) {
                const float *found = sums[own] + four * 4;
                own_part[(own * FOURS + four) * 128] =
                    make_float4(found[0], found[1], found[2], found[3]);
            }
        }
        await_warpgroup();  // all have left theirs
        const uint32_t shared_count = memory_ + T::OF_COUNT + warpgroup() * 4;
        int *count = given_.arrived + item.tile * T::WARPGROUPS + warpgroup();
        if (threadIdx.x % 128 == 0) store_shared_word(shared_count, arrive(count));
        await_warpgroup();
        if (int(load_shared_word(shared_count)) != item.parts - 1) return false;
#pragma unroll
        for (int own = 0; own < T::OWN; own++) {
#pragma unroll
            for (float &each : sums[own]) each = 0;
        }
#pragma unroll 1
        for (int part = 0; part < item.parts; part++, all += PART) {
#pragma unroll
            for (int own = 0; own < T::OWN; own++) {
#pragma unroll
                for (int four = 0; four < FOURS; four++) {
                    const float4 found = __ldcg(all + (own * FOURS + four) * 128);
                    sums[own][four * 4] += found.x;
                    sums[own][four * 4 + 1] += found.y;
                    sums[own][four * 4 + 2] += found.z;
                    sums[own][four * 4 + 3] += found.w;
                }
            }
        }
        if (threadIdx.x % 128 == 0) *count = 0;
        return true;
    }

    // 64 rows. 32 tokens at a time become rows of 128 bytes in shared memory, pieces of 16 of which
    // change places, so that those of eight tokens are in other banks.
    __device__ void write(const float (&sums)[T::TOKENS / 2], const Item<T> &item, int own) {
        const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
        const uint32_t buffer = memory_ + T::OF_OUTPUT + warpgroup() * 4096;
        const int token = lane / 16 * 8 + lane % 8, piece = warp * 2 + lane / 8 % 2;
        const uint32_t to = buffer + token * 128 + ((piece ^ token % 8) * 16);
        const int first_row = (item.unit + unit(own)) * 64;
#pragma unroll
        for (int first = 0; first < T::TOKENS; first += 32) {
            await_warpgroup();  // nobody reads what was there
#pragma unroll
            for (int sixteen = 0; sixteen < 2; sixteen++) {
                const float *found = sums + first / 2 + sixteen * 8;
                const uint32_t four[4] = {
                    rounded_pair<WIDE>(found[0], found[1]), rounded_pair<WIDE>(found[2], found[3]),
                    rounded_pair<WIDE>(found[4], found[5]), rounded_pair<WIDE>(found[6], found[7])};
                store_turned(to + sixteen * 16 * 128, four);
            }
            await_warpgroup();
#pragma unroll
            for (int sixteen = 0; sixteen < 2; sixteen++) {
                const int at = sixteen * 16 + threadIdx.x % 128 / 8, eight = threadIdx.x % 8;
                const uint4 rows = load_shared(buffer + at * 128 + ((eight ^ at % 8) * 16));
                write_eight(rows, item.token + first + at, first_row + eight * 8);
            }
        }
    }

    __device__ void write_eight(const uint4 &rows, int token, int row) {
        if (token >= given_.tokens) return;
        uint16_t *to = given_.output + size_t(token) * given_.rows + row;
        if (given_.rows % 8 == 0) {
            if (row < given_.rows) *reinterpret_cast<uint4 *>(to) = rows;
            return;
        }
        const uint32_t words[4] = {rows.x, rows.y, rows.z, rows.w};
#pragma unroll
        for (int one = 0; one < 8; one++) {
            if (row + one < given_.rows) to[one] = words[one / 2] >> 16 * (one % 2);
        }
    }

    __device__ static int warpgroup() { return threadIdx.x / 128; }
    __device__ static int unit(int own) { return warpgroup() * T::OWN + own; }
    __device__ static int row_of_lane() {
        return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    }
    __device__ static void await_warpgroup() { await_named(1 + warpgroup(), 128); }

    const Arguments &given_;
    const uint32_t memory_;
    const int rank_;
    Place<T> place_;
};

}  // namespace
}  // namespace aweigh
