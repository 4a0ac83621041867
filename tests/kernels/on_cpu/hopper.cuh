// What csrc/hopper.cuh says in PTX, in C++, after NVIDIA's description of each instruction. Nothing
// is copied or multiplied before somebody waits for it.
#pragma once

#include <map>
#include <utility>

#include "instructions.cuh"

// What the copy engine is told of x.
struct CUtensorMap { const uint16_t *x; int tokens, columns, box; };

namespace aweigh {

// A barrier in shared memory.
struct Phases {
    int count, missing, bytes = 0;
    uint32_t phase = 0;
    std::vector<std::function<void()>> copies = {};  // that arrive here

    void pass_if_complete() {
        if (missing || bytes) return;
        missing = count;
        phase ^= 1;
    }
};
inline std::map<std::pair<int, uint32_t>, Phases> phases;
inline const bool forgets = [] {
    forget_barriers = [] { phases.clear(); };
    return true;
}();

inline Phases &phases_of(int rank, uint32_t barrier) {
    const auto found = phases.find({rank, barrier});
    static Phases none{1, 1};
    expect(found != phases.end(), "a barrier is used that nobody made");
    return found == phases.end() ? none : found->second;
}

inline int rank_in_cluster() { return current->rank; }
inline bool elected() { return threadIdx.x % WARP == 0; }
inline void await_cluster() {
    static Barrier all;
    await(all, cluster_blocks * blockDim.x);
}
inline void await_named(int name, int threads) {
    static Barrier named[MOST_BLOCKS][16];
    await(named[current->rank][name], threads);
}

template <int COUNT> void leave_registers() {}
template <int COUNT> void take_registers() {}

inline void make_barrier(uint32_t barrier, int count) {
    phases.insert({{current->rank, barrier}, Phases{count, count}});
}
inline void show_barriers() {}

inline void arrive_expecting(uint32_t barrier, int bytes) {
    Phases &found = phases_of(current->rank, barrier);
    found.missing--;
    found.bytes += bytes;
    found.pass_if_complete();
}

inline void arrive_at(uint32_t barrier, int rank) {
    Phases &found = phases_of(rank, barrier);
    found.missing--;
    found.pass_if_complete();
}

inline void await_phase(uint32_t barrier, uint32_t phase) {
    Phases &found = phases_of(current->rank, barrier);
    for (const auto &each : std::exchange(found.copies, {})) each();
    while (found.phase == phase && !wrong) {
        swapcontext(&current->state, &scheduler);
        for (const auto &each : std::exchange(found.copies, {})) each();
    }
}

inline void copy_row(uint32_t to, const void *from, int bytes, uint32_t barrier) {
    const bool aligned = to % 16 == 0 && bytes % 16 == 0 && uintptr_t(from) % 16 == 0;
    const bool right = aligned && bytes > 0 && to + bytes <= SHARED_PIECES * 16;
    expect(right, "a copy is not aligned, or goes to what is not shared");
    if (!right) return;
    const int rank = current->rank;
    phases_of(rank, barrier).copies.push_back([=] {
        memcpy(shared(to, rank), from, bytes);
        Phases &found = phases_of(rank, barrier);
        found.bytes -= bytes;
        found.pass_if_complete();
    });
}

// Pieces of 16 bytes change places by the last three bits of their row.
inline uint32_t place_of(uint32_t matrix, int row, int column) {
    return matrix + row * 128 + ((column / 8 ^ row % 8) * 16) + column % 8 * 2;
}

inline void copy_tile(uint32_t to, const CUtensorMap &given, int column, int row, uint32_t barrier,
                      uint16_t blocks) {
    expect(current->has_awaited, "x is copied before the kernel that writes it has ended");
    expect(to % 1024 == 0, "a tile is not where its pieces change places");
    const CUtensorMap map = given;
    for (int rank = 0; rank < cluster_blocks; rank++) {
        if (!(blocks >> rank & 1)) continue;
        phases_of(rank, barrier).copies.push_back([=] {
            for (int token = 0; token < map.box; token++) {
                for (int each = 0; each < 64; each++) {
                    const bool known = row + token < map.tokens && column + each < map.columns;
                    const size_t from = size_t(row + token) * map.columns + column + each;
                    const uint16_t number = known ? map.x[from] : 0;
                    memcpy(shared(place_of(to, token, each), rank), &number, 2);
                }
            }
            Phases &found = phases_of(rank, barrier);
            found.bytes -= map.box * 128;
            found.pass_if_complete();
        });
    }
}

inline uint4 load_shared(uint32_t from) {
    uint4 to;
    memcpy(&to, shared(from), 16);
    return to;
}
inline uint32_t load_shared_word(uint32_t from) {
    uint32_t to;
    memcpy(&to, shared(from), 4);
    return to;
}
inline void store_shared_word(uint32_t to, uint32_t word) { memcpy(shared(to), &word, 4); }

inline void store_turned(uint32_t column, const uint32_t (&from)[4]) {
    struct Given { uint32_t column, from[4]; };
    const Shown<Given> lanes(Given{column, {from[0], from[1], from[2], from[3]}});
    const int lane = threadIdx.x % WARP, matrix = lane / 8;
    for (int row = 0; row < 8; row++) {
        const uint32_t pair = lanes.of(row * 4 + lane % 8 / 2).from[matrix];
        const uint16_t number = pair >> lane % 2 * 16;
        memcpy(shared(column) + row * 2, &number, 2);
    }
    __syncwarp();
}

template <bool WIDE>
uint32_t times(uint32_t pair, uint32_t other) {
    const uint32_t low = rounded<WIDE>(number<WIDE>(pair) * number<WIDE>(other));
    const uint32_t high = rounded<WIDE>(number<WIDE>(pair >> 16) * number<WIDE>(other >> 16));
    return low | high << 16;
}

template <bool WIDE>
uint32_t rounded_pair(float first, float second) {
    return rounded<WIDE>(first) | uint32_t(rounded<WIDE>(second)) << 16;
}

// Products that have begun, the last group of which has not ended.
inline std::map<Thread *, std::vector<std::vector<std::function<void()>>>> begun;

inline void begin_products() {}
inline void products_end() { begun[current].emplace_back(); }

template <int GROUPS>
void await_products() {
    auto &groups = begun[current];
    while (groups.size() > GROUPS + 1) {
        for (const auto &each : groups.front()) each();
        groups.erase(groups.begin());
    }
}

inline uint64_t swizzled(uint32_t address) { return address / 16; }

template <bool WIDE, int SUMS>
void multiply_by_four_warps(float (&sums)[SUMS], const uint32_t (&left)[4], uint64_t right,
                            bool more) {
    struct Given { uint32_t left[4]; };
    const Shown<Given> lanes(Given{{left[0], left[1], left[2], left[3]}});
    const int lane = threadIdx.x % WARP;
    std::array<std::array<float, 16>, 2> rows;
    for (int column = 0; column < 16; column++) {
        const Given &from = lanes.of(lane / 4 * 4 + column % 8 / 2);
        for (int lower = 0; lower < 2; lower++) {
            const uint32_t pair = from.left[column / 8 * 2 + lower];
            rows[lower][column] = number<WIDE>(pair >> column % 2 * 16);
        }
    }
    // Sixteen columns begin at one of four places in rows of 128 bytes.
    const uint32_t matrix = right * 16 / 1024 * 1024, first = right * 16 % 128 / 2;
    float *to = sums;
    auto &groups = begun[current];
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back([=] {
        for (int one = 0; one < SUMS; one++) {
            const int token = one / 4 * 8 + lane % 4 * 2 + one % 2;
            float sum = more ? to[one] : 0;
            for (int column = 0; column < 16; column++) {
                uint16_t other;
                memcpy(&other, shared(place_of(matrix, token, first + column)), 2);
                sum += rows[one / 2 % 2][column] * number<WIDE>(other);
            }
            to[one] = sum;
        }
    });
}

}  // namespace aweigh
