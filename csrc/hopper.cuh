// Hopper's own instructions, a function each: warpgroups multiply, barriers count bytes, and copies
// of whole tiles reach all blocks of a cluster. Shared memory is named by 32 bits. WIDE: numbers of
// 16 bits are bf16, else fp16.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace aweigh {

// Which of its cluster a block is.
__device__ inline int rank_in_cluster() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

// Whether this is the one lane of a warp, all of which ask, that does what is done once.
__device__ inline bool elected() {
    uint32_t found;
    asm volatile("{\n.reg .pred one;\nelect.sync _|one, 0xFFFFFFFF;\nselp.u32 %0, 1, 0, one;\n}"
                 : "=r"(found));
    return found;
}

// Waits for all threads of all blocks of a cluster. It shows no memory of one to another.
__device__ inline void await_cluster() {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Waits for as many threads that name the same barrier.
__device__ inline void await_named(int name, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// A warpgroup leaves registers to others, down to so many of a thread, or takes what they left.
template <int COUNT>
__device__ inline void leave_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ inline void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// A barrier opens when so many have arrived, and all bytes that are expected. It has phases: even
// and odd ones.
__device__ inline void make_barrier(uint32_t barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

// What has been made is seen by the copy engine and by the cluster, once they have waited for it.
__device__ inline void show_barriers() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void arrive_expecting(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 ::"r"(barrier), "r"(bytes) : "memory");
}

// Arrives at the same barrier of another block of the cluster.
__device__ inline void arrive_at(uint32_t barrier, int rank) {
    asm volatile("{\n.reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}"
                 ::"r"(barrier), "r"(rank) : "memory");
}

__device__ inline void await_phase(uint32_t barrier, uint32_t phase) {
    uint32_t done;
    do {
        asm volatile("{\n.reg .pred open;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 open, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, open;\n}"
                     : "=r"(done) : "r"(barrier), "r"(phase) : "memory");
    } while (!done);
}

// Copies what lies in a row; its bytes arrive at a barrier.
__device__ inline void copy_row(uint32_t to, const void *from, int bytes, uint32_t barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];"
                 ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

// Copies a tile to the same place of all blocks of the cluster that `blocks` has a bit for; its
// bytes arrive at the same barrier of each.
__device__ inline void copy_tile(uint32_t to, const CUtensorMap &map, int column, int row,
                                 uint32_t barrier, uint16_t blocks) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;"
                 ::"r"(to), "l"(&map), "r"(column), "r"(row), "r"(barrier), "h"(blocks)
                 : "memory");
}

__device__ inline uint4 load_shared(uint32_t from) {
    uint4 to;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w) : "r"(from));
    return to;
}

__device__ inline uint32_t load_shared_word(uint32_t from) {
    uint32_t to;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(to) : "r"(from));
    return to;
}

__device__ inline void store_shared_word(uint32_t to, uint32_t word) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(to), "r"(word) : "memory");
}

// Turns four matrices of 8 times 8 around: what was a column becomes 16 bytes. Each lane says where
// one of the 32 columns goes.
__device__ inline void store_turned(uint32_t column, const uint32_t (&from)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(column), "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
                 : "memory");
}

// Two numbers times two others, rounded.
template <bool WIDE>
__device__ inline uint32_t times(uint32_t pair, uint32_t other) {
    uint32_t found;
    if constexpr (WIDE) {
        asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(found) : "r"(pair), "r"(other));
    } else {
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(found) : "r"(pair), "r"(other));
    }
    return found;
}

// Two numbers in one register, the first in its lower half.
template <bool WIDE>
__device__ inline uint32_t rounded_pair(float first, float second) {
    uint32_t found;
    if constexpr (WIDE) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(found) : "f"(second), "f"(first));
    } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(found) : "f"(second), "f"(first));
    }
    return found;
}

// Before products whose registers this thread has written.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Ends a group of products.
__device__ inline void products_end() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits for the products but for those of the last groups.
template <int GROUPS>
__device__ inline void await_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}

// Names a matrix in shared memory whose rows have 128 bytes, in the order of the copy engine's
// swizzle: pieces of 16 bytes change places by the last three bits of their row.
__device__ inline uint64_t swizzled(uint32_t address) {
    constexpr uint64_t EIGHT_ROWS = 1024 / 16, SWIZZLED = 1;
    return SWIZZLED << 62 | EIGHT_ROWS << 32 | uint64_t(1) << 16 | (address & 0x3FFFF) >> 4;
}

#define AWEIGH_SUMS_4(first) \
    "+f"(sums[first]), "+f"(sums[first + 1]), "+f"(sums[first + 2]), "+f"(sums[first + 3])
#define AWEIGH_SUMS_16(first) \
    AWEIGH_SUMS_4(first), AWEIGH_SUMS_4(first + 4), AWEIGH_SUMS_4(first + 8),                     \
        AWEIGH_SUMS_4(first + 12)
#define AWEIGH_SUMS_32(first) AWEIGH_SUMS_16(first), AWEIGH_SUMS_16(first + 16)
#define AWEIGH_SUMS_64(first) AWEIGH_SUMS_32(first), AWEIGH_SUMS_32(first + 32)
#define AWEIGH_SUMS_128(first) AWEIGH_SUMS_64(first), AWEIGH_SUMS_64(first + 64)

#define AWEIGH_NAMES_32                                                                           \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "  \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define AWEIGH_NAMES_64                                                                           \
    AWEIGH_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, "    \
    "%46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define AWEIGH_NAMES_128                                                                          \
    AWEIGH_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, "    \
    "%78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "  \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "      \
    "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, "  \
    "%126, %127"

#define AWEIGH_MULTIPLY(TOKENS, KIND, SUMS, LEFT, RIGHT, MORE)                                    \
    asm volatile("{\n.reg .pred more;\nsetp.ne.b32 more, %" MORE ", 0;\n"                         \
                 "wgmma.mma_async.sync.aligned.m64n" #TOKENS "k16.f32." KIND "." KIND " {"        \
                 AWEIGH_NAMES_##SUMS "}, {" LEFT "}, %" RIGHT ", more, 1, 1, 0;\n}"               \
                 : AWEIGH_SUMS_##SUMS(0)                                                          \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right),            \
                   "r"(int(more)))
#define AWEIGH_MULTIPLY_TOKENS(KIND)                                                              \
    if constexpr (SUMS == 32) {                                                                   \
        AWEIGH_MULTIPLY(64, KIND, 32, "%32, %33, %34, %35", "36", "37");                          \
    } else if constexpr (SUMS == 64) {                                                            \
        AWEIGH_MULTIPLY(128, KIND, 64, "%64, %65, %66, %67", "68", "69");                         \
    } else {                                                                                      \
        static_assert(SUMS == 128);                                                               \
        AWEIGH_MULTIPLY(256, KIND, 128, "%128, %129, %130, %131", "132", "133");                  \
    }

// Begins to multiply 64 rows of 16 columns, in the registers of four warps, with the 16 columns of
// 2 · SUMS rows in shared memory; adds to the sums if there are `more`, else they begin. No
// register of it may change before `await_products`.
template <bool WIDE, int SUMS>
__device__ inline void multiply_by_four_warps(float (&sums)[SUMS], const uint32_t (&left)[4],
                                              uint64_t right, bool more) {
    if constexpr (WIDE) {
        AWEIGH_MULTIPLY_TOKENS("bf16")
    } else {
        AWEIGH_MULTIPLY_TOKENS("f16")
    }
}

#undef AWEIGH_MULTIPLY_TOKENS
#undef AWEIGH_MULTIPLY
#undef AWEIGH_NAMES_128
#undef AWEIGH_NAMES_64
#undef AWEIGH_NAMES_32
#undef AWEIGH_SUMS_128
#undef AWEIGH_SUMS_64
#undef AWEIGH_SUMS_32
#undef AWEIGH_SUMS_16
#undef AWEIGH_SUMS_4

}  // namespace aweigh
