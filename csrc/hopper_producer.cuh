// What fills the ring in shared memory.
#pragma once

#include "hopper.cuh"
#include "hopper_tile.cuh"
#include "instructions.cuh"

namespace aweigh {
namespace {

// The warp that copies.
template <class T>
class Producer {
  public:
    __device__ Producer(const Arguments &given, const CUtensorMap &map, uint32_t memory, int rank)
        : given_(given), map_(map), memory_(memory), rank_(rank) {}

    __device__ void run() {
        Share<T> share(given_, rank_);
        Item<T> item;
        if (!share.next(item)) return;
        // Before x is there, as much of the weight as has room.
        int copied = min(T::STAGES, item.end - item.begin);
        begin(item);
        for (int stage = 0; stage < copied; stage++) copy_weight(stage);
        await_earlier();  // whose output x is
        Place<T> place;
        do {
            if (copied == 0) begin(item);
            for (int step = item.begin; step < item.end; step++) {
                if (step - item.begin >= copied) {
                    await_phase(memory_ + T::OF_EMPTY + place.stage * 8, place.phase ^ 1);
                    copy_weight(place.stage);
                }
                copy_x(step, item.token, place.stage);
                place.advance();
            }
            copied = 0;
        } while (share.next(item));
    }

  private:
    __device__ void begin(const Item<T> &item) {
        known_ = max(0, min(T::UNITS, given_.units / (64 / UNIT) - item.unit));
        weight_ = given_.packed + (size_t(item.unit) * given_.steps + item.begin) * STEP;
        factors_ = given_.scales + item.unit * 64 +
                   size_t(item.begin / given_.scale_steps) * given_.scale_pitch;
        left_ = given_.scale_steps - item.begin % given_.scale_steps;
    }

    // The next step. Units past the end are left out.
    __device__ void copy_weight(int stage) {
        const uint32_t full = memory_ + T::OF_FULL + stage * 8;
        const uint32_t to = memory_ + T::OF_WEIGHT + stage * T::WEIGHT;
        const uint32_t to_factors = memory_ + T::OF_FACTORS + stage * T::FACTORS;
        if (elected()) {
            arrive_expecting(full, T::X + known_ * (STEP * 16 + 256));
#pragma unroll
            for (int unit = 0; unit < T::UNITS; unit++) {
                const uint4 *from = weight_ + unit * size_t(given_.steps) * STEP;
                if (unit < known_) copy_row(to + unit * STEP * 16, from, STEP * 16, full);
            }
            if (known_ > 0) copy_row(to_factors, factors_, known_ * 256, full);
        }
        weight_ += STEP;
        if (--left_ == 0) {
            left_ = given_.scale_steps;
            factors_ += given_.scale_pitch;
        }
    }

    __device__ void copy_x(int step, int token, int stage) {
        constexpr int TOKENS = T::TOKENS / T::CLUSTER, ALL = (1 << T::CLUSTER) - 1;
        const uint32_t full = memory_ + T::OF_FULL + stage * 8;
        const uint32_t to = memory_ + stage * T::X + rank_ * TOKENS * 128;
        if (!elected()) return;
#pragma unroll
        for (int first = 0; first < T::COLUMNS; first += 64) {
            copy_tile(to + first / 64 * T::TOKENS * 128, map_, step * T::COLUMNS + first,
                      token + rank_ * TOKENS, full, ALL);
        }
    }

    static constexpr int STEP = 256;  // pieces of 16 bytes that a unit takes in a step

    const Arguments &given_;
    const CUtensorMap &map_;
    const uint32_t memory_;
    const int rank_;
    const uint4 *weight_;
    const float *factors_;
    int known_;  // units
    int left_;   // steps with the same factors
};

}  // namespace
}  // namespace aweigh
