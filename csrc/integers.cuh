// Integers become numbers, exactly: their bits are put into the last ones of 64, 128 or 1024, and one
// subtraction takes that and the zero point away.
#pragma once

#include "instructions.cuh"

namespace aweigh {

// What is subtracted for a zero point, from the first or the second (`lower`) of two times 8 rows.
template <int BITS, bool WIDE>
__device__ inline uint32_t offset(uint32_t zero, bool lower) {
    uint32_t number;
    if constexpr (BITS == 8 && WIDE) {  // of which 128 are gone already
        number = __float_as_uint(float(int(zero) - 128)) >> 16;
    } else if constexpr (WIDE) {
        number = 0x4300 + zero;
    } else {
        number = BITS == 4 && lower ? 0x5400 + (zero << 4) : 0x6400 + zero;
    }
    return number * 0x00010001;
}

// Eight integers in the registers that a tensor core takes: two rows, 8 apart, and four columns. If
// they are CENTRED all zero points are half of what there is, and `offsets` are of those.
template <int BITS, bool WIDE, bool CENTRED>
__device__ inline void to_numbers(uint32_t (&to)[4], const uint32_t *words,
                                  const uint32_t (&offsets)[2]) {
#pragma unroll
    for (int pair = 0; pair < 4; pair++) {
        const int lower = pair % 2, right = pair / 2;
        const uint32_t byte = (BITS == 8 ? words[lower] : words[0]) >> 8 * right;
        uint32_t found;
        if constexpr (BITS == 4 && WIDE) {
            found = marked<0x000F000F, 0x43004300>(words[0] >> 4 * pair);
        } else if constexpr (BITS == 4) {  // fp16 has room for two integers
            found = lower ? marked<0x00F000F0, 0x54005400>(byte)
                          : marked<0x000F000F, 0x64006400>(byte);
        } else if constexpr (WIDE) {  // seven bits and 128, less 256 or 128 for the eighth
            found = less<WIDE>(marked<0x007F007F, 0x43004300>(byte),
                               marked<0x00800080, 0x43004300>(byte));
        } else {
            found = marked<0x00FF00FF, 0x64806480>(byte);
        }
        to[pair] = CENTRED && BITS == 8 && WIDE ? found : less<WIDE>(found, offsets[lower]);
    }
}

}  // namespace aweigh
