// How a product of many tokens with a weight of 4 bits is divided, and where in a block's shared
// memory its parts lie.
#pragma once

#include "arguments.cuh"

namespace aweigh {
namespace {

// What a block has: WARPGROUPS that multiply, each with OWN times 64 rows, and TOKENS.
template <int WARPGROUPS_, int OWN_, int TOKENS_, int CLUSTER_>
struct Tile {
    static constexpr int WARPGROUPS = WARPGROUPS_, OWN = OWN_, TOKENS = TOKENS_, CLUSTER = CLUSTER_;
    static constexpr int UNITS = WARPGROUPS * OWN;  // of 64 rows
    static constexpr int ROWS = UNITS * 64;
    static constexpr int THREADS = (WARPGROUPS + 1) * 128;
    static constexpr int REGISTERS = WARPGROUPS == 2 ? 232 : 152;  // of those that multiply

    // Bytes of a stage, which is 128 columns, and of what warpgroups pass on to memory.
    static constexpr int X = TOKENS * 256, WEIGHT = UNITS * 4096, FACTORS = UNITS * 256;
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

// A part of the columns of some rows and tokens, of which a cluster has one after the other.
template <class T>
struct Item {
    int part, tile;   // of all blocks
    int unit, token;  // the first
    int begin, end;   // steps of 128 columns

    __device__ static int count(const Arguments &given) {
        return count_rows(given) * count_tokens(given) * given.splits;
    }

    // Those that run at the same time have the same rows or the same tokens.
    __device__ Item(const Arguments &given, int which, int rank) {
        const int tokens = count_tokens(given), cluster = which / given.splits;
        part = which % given.splits;
        tile = cluster * T::CLUSTER + rank;
        unit = (cluster / tokens * T::CLUSTER + rank) * T::UNITS;
        token = cluster % tokens * T::TOKENS;
        begin = given.steps * part / given.splits;
        end = given.steps * (part + 1) / given.splits;
    }

  private:
    __device__ static int count_rows(const Arguments &given) {
        constexpr int ROWS = T::CLUSTER * T::UNITS * (64 / UNIT);
        return (given.units + ROWS - 1) / ROWS;
    }
    __device__ static int count_tokens(const Arguments &given) {
        return (given.tokens + T::TOKENS - 1) / T::TOKENS;
    }
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
