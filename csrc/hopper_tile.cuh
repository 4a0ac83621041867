// How a product of many tokens with a weight of 4 or 8 bits is divided, and where in a block's shared
// memory its parts lie.
#pragma once

#include "arguments.cuh"

namespace aweigh {
namespace {

// What a block has: WARPGROUPS that multiply, each with OWN times 64 rows, and TOKENS.
template <int BITS_, int WARPGROUPS_, int OWN_, int TOKENS_, int CLUSTER_>
struct Tile {
    static constexpr int BITS = BITS_;
    static constexpr int WARPGROUPS = WARPGROUPS_, OWN = OWN_, TOKENS = TOKENS_, CLUSTER = CLUSTER_;
    static constexpr int COLUMNS = 512 / BITS;  // of a step
    static constexpr int SIXTEENS = 16 / BITS;  // of columns, in half a step
    static constexpr int UNITS = WARPGROUPS * OWN;  // of 64 rows
    static constexpr int ROWS = UNITS * 64;
    static constexpr int THREADS = (WARPGROUPS + 1) * 128;
    static constexpr int REGISTERS = WARPGROUPS == 2 ? 232 : 152;  // of those that multiply

    // Bytes of a stage, which is a step, and of what warpgroups pass on to memory.
    static constexpr int X = TOKENS * COLUMNS * 2, WEIGHT = UNITS * 4096, FACTORS = UNITS * 256;
    static constexpr int OUTPUT = WARPGROUPS * 4096;
    static constexpr int FITTING = (227 * 1024 - OUTPUT - 1024) / (X + WEIGHT + FACTORS);
    static constexpr int STAGES = FITTING < 8 ? FITTING : 8;

    // Where all of a kind begin.
    static constexpr int OF_OUTPUT = STAGES * X;  // which is swizzled, too
    static constexpr int OF_WEIGHT = OF_OUTPUT + OUTPUT;
    static constexpr int OF_FACTORS = OF_WEIGHT + STAGES * WEIGHT;
    static constexpr int OF_FULL = OF_FACTORS + STAGES * FACTORS;
    static constexpr int OF_EMPTY = OF_FULL + STAGES * 8;
    static constexpr int OF_COUNT = OF_EMPTY + STAGES * 8;  // how many have left sums before
    static constexpr int SHARED_BYTES = OF_COUNT + WARPGROUPS * 4;
};

// Steps of some rows and tokens: all, or what one of several clusters has of them.
template <class T>
struct Item {
    int unit, token;  // the first
    int begin, end;   // steps
    int part, parts;  // which of how many; 1 where one cluster has all
    int tile, slot;   // of those that are shared, this block's; where its sums of part 0 are
};

// What a cluster has, one after the other: whole tiles, then as many steps as any other cluster of
// the tiles that are shared, which may be of two.
template <class T>
class Share {
  public:
    __device__ Share(const Arguments &given, int rank)
        : given_(given),
          rank_(rank),
          cluster_(blockIdx.x / T::CLUSTER),
          tokens_((given.tokens + T::TOKENS - 1) / T::TOKENS),
          whole_(cluster_),
          at_(first_step(cluster_)),
          end_(cluster_ < given.sharers ? first_step(cluster_ + 1) : at_) {}

    // False: there is no more.
    __device__ bool next(Item<T> &item) {
        const int steps = given_.steps;
        if (whole_ < given_.whole) {
            find(item, whole_);
            item.begin = item.part = 0;
            item.end = steps;
            item.parts = 1;
            whole_ += gridDim.x / T::CLUSTER;
            return true;
        }
        if (at_ >= end_) return false;
        const int tile = at_ / steps, first = owner(tile * steps);
        find(item, given_.whole + tile);
        item.begin = at_ % steps;
        item.end = min(steps, item.begin + end_ - at_);
        item.part = cluster_ - first;
        item.parts = owner(tile * steps + steps - 1) - first + 1;
        item.tile = tile * T::CLUSTER + rank_;
        item.slot = (first + tile) * T::CLUSTER + rank_;  // parts are in the order of both
        at_ += item.end - item.begin;
        return true;
    }

  private:
    // Those that run at the same time have the same rows or the same tokens.
    __device__ void find(Item<T> &item, int which) const {
        item.unit = (which / tokens_ * T::CLUSTER + rank_) * T::UNITS;
        item.token = which % tokens_ * T::TOKENS;
    }

    // Of the steps that are shared, those before a cluster's, and the cluster that has one.
    __device__ int first_step(int cluster) const {
        return given_.sharers ? shared() * cluster / given_.sharers : 0;
    }
    __device__ int owner(int step) const { return ((step + 1) * given_.sharers - 1) / shared(); }
    __device__ int shared() const {
        constexpr int ROWS = T::CLUSTER * T::UNITS * (64 / UNIT);
        return ((given_.units + ROWS - 1) / ROWS * tokens_ - given_.whole) * given_.steps;
    }

    const Arguments &given_;
    const int rank_, cluster_, tokens_;
    int whole_;
    int at_;
    const int end_;
};

// Where in the ring somebody is.
template <class T>
struct Place {
    int stage = 0;
    uint32_t phase = 0;

    __device__ void advance() {
        if (++stage < T::STAGES) return;
        stage = 0;
        phase ^= 1;
    }
};

}  // namespace
}  // namespace aweigh
