// Instructions that C++ has no words for, a function each. WIDE: numbers of 16 bits are bf16, else
// fp16.
#pragma once

#include <cstdint>

namespace aweigh {

__device__ inline uint32_t shared_address(const void *pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// For memory that is read once: it is the first to make room in the second-level cache.
__device__ inline uint64_t read_once() {
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// Copies 16 bytes into shared memory while the thread goes on.
__device__ inline void copy_once(uint32_t to, const void *from, uint64_t policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;"
                 ::"r"(to), "l"(from), "l"(policy) : "memory");
}

// The same of what others read, too; zeros where it is not known.
__device__ inline void copy_known(uint32_t to, const void *from, bool known) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 ::"r"(to), "l"(from), "r"(known ? 16 : 0) : "memory");
}

// Ends a group of copies.
__device__ inline void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits for this thread's copies, but for those of the last groups.
template <int GROUPS>
__device__ inline void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// The kernel behind this one may start once all blocks have come here.
__device__ inline void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the kernel before this one has ended, and what it wrote is seen.
__device__ inline void await_earlier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Counts one more, after all that the block's threads wrote before a barrier; returns how many
// there were. What those had written is seen by whoever comes behind the next barrier.
__device__ inline int arrive(int *count) {
    int before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;"
                 : "=r"(before)
                 : "l"(count)
                 : "memory");
    return before;
}

// Four matrices of 8 rows of 16 bytes; each lane says where one of the 32 rows is.
__device__ inline void load_matrices(uint32_t (&to)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}

// Some bits of a word, some others turned over.
template <uint32_t MASK, uint32_t MARK>
__device__ inline uint32_t marked(uint32_t word) {
    uint32_t found;
    asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(found) : "r"(word), "n"(MASK), "n"(MARK));
    return found;
}

// Two numbers less two others.
template <bool WIDE>
__device__ inline uint32_t less(uint32_t pair, uint32_t other) {
    uint32_t found;
    if constexpr (WIDE) {  // other · -1 + pair: before Hopper there is no such subtraction
        asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(found) : "r"(other), "r"(0xBF80BF80), "r"(pair));
    } else {
        asm("sub.f16x2 %0, %1, %2;" : "=r"(found) : "r"(pair), "r"(other));
    }
    return found;
}

template <bool WIDE>
__device__ inline uint16_t rounded(float number) {
    uint16_t found;
    if constexpr (WIDE) {
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(found) : "f"(number));
    } else {
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(found) : "f"(number));
    }
    return found;
}

template <bool WIDE>
__device__ inline float widened(uint16_t number) {
    float found;
    if constexpr (WIDE) {
        found = __uint_as_float(uint32_t(number) << 16);
    } else {
        asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"(number));
    }
    return found;
}

// The instructions by which Triton has `a / b` and `exp(x)`, so that bits are the same.
__device__ inline float divided(float number, float by) {
    float found;
    asm("div.full.f32 %0, %1, %2;" : "=f"(found) : "f"(number), "f"(by));
    return found;
}
__device__ inline float exponential(float number) {
    float found;
    asm("ex2.approx.f32 %0, %1;" : "=f"(found) : "f"(number * 1.4426950408889634f));
    return found;
}

// E4M3; what is too large becomes the largest. Before sm_89 nothing is kept so.
__device__ inline uint8_t rounded_to_fp8(float number) {
    uint16_t found = 0;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(found) : "f"(0.0f), "f"(number));
#endif
    return uint8_t(found);
}
__device__ inline float of_fp8(uint8_t number) {
    uint32_t found = 0;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(found) : "h"(uint16_t(number)));
#endif
    return widened<false>(uint16_t(found));
}

#define AWEIGH_MULTIPLY_SPARSE(KIND)                                                              \
    asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." KIND "." KIND      \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, "                  \
                 "{%0, %1, %2, %3}, %12, %13;"                                                    \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                     \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]),         \
                   "r"(right[1]), "r"(right[2]), "r"(right[3]), "r"(places), "n"(HALF))

// Adds 16 rows of 32 columns, of which two in four are kept, times 32 rows of 8 columns. Which two
// stands in the places of those lanes whose last two bits are 0 and 1, or where HALF is 1, 2 and 3.
template <bool WIDE, int HALF>
__device__ inline void multiply_sparse(float (&sums)[4], const uint32_t (&left)[4],
                                       const uint32_t (&right)[4], uint32_t places) {
    if constexpr (WIDE) {
        AWEIGH_MULTIPLY_SPARSE("bf16");
    } else {
        AWEIGH_MULTIPLY_SPARSE("f16");
    }
}

#undef AWEIGH_MULTIPLY_SPARSE

#define AWEIGH_MULTIPLY_DENSE(KIND)                                                               \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." KIND "." KIND                           \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"           \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                     \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(upper), "r"(lower))

// Adds 16 rows of 16 columns times 16 rows of 8 columns, whose upper and lower 8 are apart.
template <bool WIDE>
__device__ inline void multiply_dense(float (&sums)[4], const uint32_t (&left)[4], uint32_t upper,
                                      uint32_t lower) {
    if constexpr (WIDE) {
        AWEIGH_MULTIPLY_DENSE("bf16");
    } else {
        AWEIGH_MULTIPLY_DENSE("f16");
    }
}

#undef AWEIGH_MULTIPLY_DENSE

}  // namespace aweigh
