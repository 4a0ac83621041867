// What csrc/instructions.cuh says in PTX, in C++, after NVIDIA's description of each instruction.
#pragma once

#include <array>
#include <cmath>

#include "cuda_runtime.h"

namespace aweigh {

inline uint32_t shared_address(const void *pointer) {
    return uint32_t(static_cast<const char *>(pointer) - reinterpret_cast<char *>(memory));
}

inline char *shared(uint32_t address, int rank = current->rank) {
    return reinterpret_cast<char *>(memory + rank * SHARED_PIECES) + address;
}

inline uint64_t read_once() { return 0; }

inline void copy_known(uint32_t to, const void *from, bool known) {
    const bool aligned = to % 16 == 0 && (!known || reinterpret_cast<uintptr_t>(from) % 16 == 0);
    const bool right = aligned && to + 16 <= SHARED_PIECES * 16;
    expect(right, "a copy is not aligned, or goes to what is not shared");
    const char *source = static_cast<const char *>(from);
    const bool of_x = known && source >= x_begin && source < x_end;
    expect(current->has_awaited || !of_x, "x is copied before the kernel that writes it has ended");
    if (right) current->copies.push_back({to, from, known ? 16 : 0});
}

inline void copy_once(uint32_t to, const void *from, uint64_t) { copy_known(to, from, true); }

inline void copies_end() {
    current->groups.push_back(current->copies);
    current->copies.clear();
}

template <int GROUPS>
void await_copies() {
    while (current->groups.size() > GROUPS) {
        for (const Copy &each : current->groups.front()) {
            memset(shared(each.to), 0, 16);
            memcpy(shared(each.to), each.from, each.bytes);
        }
        current->groups.erase(current->groups.begin());
    }
}

inline void let_next_start() {}
inline void await_earlier() { current->has_awaited = true; }
inline int arrive(int *count) { return (*count)++; }

inline void load_matrices(uint32_t (&to)[4], uint32_t row) {
    const Shown<uint32_t> rows(row);
    const int lane = threadIdx.x % WARP;
    for (int matrix = 0; matrix < 4; matrix++) {
        memcpy(&to[matrix], shared(rows.of(matrix * 8 + lane / 4)) + lane % 4 * 4, 4);
    }
}

template <uint32_t MASK, uint32_t MARK>
uint32_t marked(uint32_t word) { return (word & MASK) ^ MARK; }

template <bool WIDE>
float number(uint32_t bits) {
    const int sign = bits >> 15 & 1 ? -1 : 1;
    const int kept = WIDE ? 7 : 10, most = WIDE ? 255 : 31, bias = most / 2;
    const int exponent = bits >> kept & most, fraction = bits & ((1 << kept) - 1);
    if (exponent == most) return fraction ? NAN : sign * INFINITY;
    const int whole = exponent ? 1 << kept : 0;
    return sign * ldexpf(whole + fraction, std::max(exponent, 1) - bias - kept);
}

template <bool WIDE>
uint16_t rounded(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    if (WIDE) return std::isnan(number) ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    const _Float16 half = number;
    uint16_t found;
    memcpy(&found, &half, 2);
    return found;
}

template <bool WIDE>
float widened(uint16_t bits) { return number<WIDE>(bits); }

inline float divided(float number, float by) { return number / by; }
inline float exponential(float number) { return std::exp2(number * 1.4426950408889634f); }

inline float of_fp8(uint8_t bits) {
    const int sign = bits >> 7 ? -1 : 1, exponent = bits >> 3 & 15, fraction = bits & 7;
    if ((bits & 127) == 127) return NAN;
    return sign * ldexpf(fraction + (exponent ? 8 : 0), std::max(exponent, 1) - 10);
}

// The nearest of all, the even one of two.
inline uint8_t rounded_to_fp8(float number) {
    if (std::isnan(number)) return 127;
    const float least = std::min(std::fabs(number), 448.0f);
    uint8_t found = 0;
    for (int bits = 1; bits < 127; bits++) {
        const float far = least - of_fp8(found), near = std::fabs(of_fp8(bits) - least);
        if (near < std::fabs(far) || (near == std::fabs(far) && bits % 2 == 0)) found = bits;
    }
    return found | (std::signbit(number) ? 128 : 0);
}

template <bool WIDE>
uint32_t less(uint32_t pair, uint32_t other) {
    const uint32_t low = rounded<WIDE>(number<WIDE>(pair) - number<WIDE>(other));
    const uint32_t high = rounded<WIDE>(number<WIDE>(pair >> 16) - number<WIDE>(other >> 16));
    return low | high << 16;
}

// What a lane gives to a tensor core of the left matrix.
struct Given { uint32_t left[4], places; };

// One sum of a lane: `right` has the number that meets a column of the left matrix.
template <bool WIDE, int HALF, typename Right>
float sum_of(const Shown<Given> &lanes, int one, Right right) {
    const int row = threadIdx.x % WARP / 4 * 4, lower = one / 2;
    float sum = 0;
    for (int four = 0; four < 8; four++) {  // columns
        const uint32_t kept = lanes.of(row + four % 4).left[four / 4 * 2 + lower];
        const uint32_t told = lanes.of(row + HALF * 2 + four / 4).places;
        const uint32_t two = told >> (lower * 16 + four % 4 * 4);
        expect((two & 3) < (two >> 2 & 3), "two kept numbers are not in order");
        for (int which = 0; which < 2; which++) {
            const uint32_t other = right(four * 4 + int(two >> 2 * which & 3));
            sum += number<WIDE>(kept >> 16 * which) * number<WIDE>(other);
        }
    }
    return sum;
}

template <bool WIDE, int HALF>
void multiply_sparse(float (&sums)[4], const uint32_t (&left)[4], const uint32_t (&right)[4],
                     uint32_t places) {
    struct Column { uint32_t right[4]; };
    const Shown<Given> lanes(Given{{left[0], left[1], left[2], left[3]}, places});
    const Shown<Column> columns(Column{{right[0], right[1], right[2], right[3]}});
    for (int one = 0; one < 4; one++) {
        const int column = threadIdx.x % 4 * 2 + one % 2;
        sums[one] += sum_of<WIDE, HALF>(lanes, one, [&](int at) {
            return columns.of(column * 4 + at % 8 / 2).right[at / 8] >> at % 2 * 16;
        });
    }
}

template <bool WIDE>
void multiply_dense(float (&sums)[4], const uint32_t (&left)[4], uint32_t upper, uint32_t lower) {
    struct Given { uint32_t left[4], right[2]; } own;
    memcpy(own.left, left, sizeof left);
    own.right[0] = upper;
    own.right[1] = lower;
    const Shown<Given> lanes(own);
    const int lane = threadIdx.x % WARP;
    for (int one = 0; one < 4; one++) {
        const int column = lane % 4 * 2 + one % 2;
        for (int at = 0; at < 16; at++) {
            const int half = at / 8, pair = at % 8 / 2, shift = at % 2 * 16;
            const uint32_t kept = lanes.of(lane / 4 * 4 + pair).left[half * 2 + one / 2];
            const uint32_t other = lanes.of(column * 4 + pair).right[half];
            sums[one] += number<WIDE>(kept >> shift) * number<WIDE>(other >> shift);
        }
    }
}

}  // namespace aweigh
