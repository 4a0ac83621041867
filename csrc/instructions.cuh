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

#define AWEIGH_MULTIPLY_SPARSE(KIND)                                                              \
    asm volatile("mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32." KIND "." KIND      \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9, %10, %11}, "                  \
                 "{%0, %1, %2, %3}, %12, %13;"                                                    \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                     \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]),         \
                   "r"(right[1]), "r"(right[2]), "r"(right[3]), "r"(places), "n"(HALF))

// Whether four warps can hand their rows to a tensor core together, which reads x where it lies: it
// is four times as fast.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool WARPGROUPS = true;
#else
constexpr bool WARPGROUPS = false;
#endif

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

// What this thread's copies wrote becomes what tensor cores read, behind the next barrier.
__device__ inline void show_to_tensor_cores() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Registers have what the products behind this take.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Waits for all products.
__device__ inline void await_products() {
    asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// Where rows of 128 bytes lie, one for each token, whose pieces have changed places.
__device__ inline uint64_t matrix_at(uint32_t address) {
    return uint64_t(1) << 62 | uint64_t(1024 / 16) << 32 | uint64_t(1) << 16 | address >> 4 & 0x3FFF;
}

#define AWEIGH_SUMS(TILE) \
    "+f"(sums[TILE][0]), "+f"(sums[TILE][1]), "+f"(sums[TILE][2]), "+f"(sums[TILE][3])

#define AWEIGH_MULTIPLY_32(KIND)                                                                  \
    asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %22, 0; "                                  \
                 "wgmma.mma_async.sp.sync.aligned.m64n32k32.f32." KIND "." KIND                   \
                 " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "      \
                 "{%16, %17, %18, %19}, %20, %21, %23, adds, 1, 1, 0; }"                          \
                 : AWEIGH_SUMS(0), AWEIGH_SUMS(1), AWEIGH_SUMS(2), AWEIGH_SUMS(3)                 \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right),            \
                   "r"(places), "r"(int(adds)), "n"(HALF))

#define AWEIGH_MULTIPLY_64(KIND)                                                                  \
    asm volatile("{ .reg .pred adds; setp.ne.b32 adds, %38, 0; "                                  \
                 "wgmma.mma_async.sp.sync.aligned.m64n64k32.f32." KIND "." KIND                   \
                 " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "       \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "    \
                 "%31}, {%32, %33, %34, %35}, %36, %37, %39, adds, 1, 1, 0; }"                    \
                 : AWEIGH_SUMS(0), AWEIGH_SUMS(1), AWEIGH_SUMS(2), AWEIGH_SUMS(3),                \
                   AWEIGH_SUMS(4), AWEIGH_SUMS(5), AWEIGH_SUMS(6), AWEIGH_SUMS(7)                 \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right),            \
                   "r"(places), "r"(int(adds)), "n"(HALF))

// The same of 32 or 64 tokens, for all four warps, each with 16 rows; `adds`: to what is there.
template <bool WIDE, int HALF, int TILES>
__device__ inline void multiply_sparse(float (&sums)[TILES][4], const uint32_t (&left)[4],
                                       uint64_t right, uint32_t places, bool adds) {
    static_assert(TILES == 4 || TILES == 8);
    if constexpr (TILES == 4 && WIDE) {
        AWEIGH_MULTIPLY_32("bf16");
    } else if constexpr (TILES == 4) {
        AWEIGH_MULTIPLY_32("f16");
    } else if constexpr (WIDE) {
        AWEIGH_MULTIPLY_64("bf16");
    } else {
        AWEIGH_MULTIPLY_64("f16");
    }
}

#undef AWEIGH_MULTIPLY_32
#undef AWEIGH_MULTIPLY_64
#undef AWEIGH_SUMS

}  // namespace aweigh
