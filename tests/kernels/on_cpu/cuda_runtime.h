// CUDA C++ on a CPU: threads of a cluster take turns, one cluster of blocks after the other. What is
// wrong with a kernel's arithmetic, its places or its barriers shows here as it would on a GPU; how
// memory is ordered between blocks does not.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

using std::max;
using std::min;

struct uint2 { uint32_t x, y; };
struct uint4 { uint32_t x, y, z, w; };
struct float4 { float x, y, z, w; };
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct dim3 {
    int x, y, z;
    dim3(int x = 1, int y = 1, int z = 1) : x(x), y(y), z(z) {}
};

constexpr int SHARED_PIECES = 227 * 1024 / 16, MOST_BLOCKS = 4;
namespace aweigh { namespace { uint4 memory[MOST_BLOCKS * SHARED_PIECES]; } }  // of those that run

// Bytes that a block may have of it. A test makes it less, as it is on some GPUs.
extern "C" { inline int shared_room = SHARED_PIECES * 16; }

constexpr int WARP = 32, MOST_WARPS = 32;

// A copy that has been asked for: nothing moves before somebody waits for it.
struct Copy { uint32_t to; const void *from; int bytes; };

struct Thread {
    ucontext_t state;
    std::unique_ptr<char[]> stack{new char[1 << 16]};
    dim3 place, block;
    int rank;  // of the block in its cluster
    bool done = false, has_awaited = false;  // the kernel before
    std::vector<Copy> copies;               // since the last group
    std::vector<std::vector<Copy>> groups;  // the oldest one first
};

// All of some threads wait for each other.
struct Barrier { int waiting = 0, passed = 0; };

inline std::vector<Thread> threads;
inline Thread *current;
inline ucontext_t scheduler;
inline std::function<void()> kernel_of_all;
inline Barrier of_blocks[MOST_BLOCKS], of_warps[MOST_BLOCKS * MOST_WARPS];
inline dim3 blockDim, gridDim;
inline int cluster_blocks;
inline const char *x_begin, *x_end;  // what the kernel before may still be writing
#define threadIdx (current->place)
#define blockIdx (current->block)

// What a kernel must not do; the first of it becomes the launch's error.
inline const char *wrong;
inline void expect(bool right, const char *otherwise) {
    if (!right && !wrong) wrong = otherwise;
}

inline void await(Barrier &barrier, int count) {
    const int passed = barrier.passed;
    if (++barrier.waiting == count) {
        barrier.waiting = 0;
        barrier.passed++;
    }
    while (barrier.passed == passed) swapcontext(&current->state, &scheduler);
}

inline int warp_of_all() { return current->rank * MOST_WARPS + threadIdx.x / WARP; }

inline void __syncthreads() { await(of_blocks[current->rank], blockDim.x); }
inline void __syncwarp() { await(of_warps[warp_of_all()], WARP); }

// What each lane of a warp shows to the others.
template <typename T>
struct Shown {
    static inline T all[MOST_BLOCKS * MOST_WARPS][WARP];
    Shown(const T &own) {
        __syncwarp();
        of(threadIdx.x % WARP) = own;
        __syncwarp();
    }
    T &of(int lane) const { return all[warp_of_all()][lane]; }
};

inline uint32_t __shfl_sync(uint32_t, uint32_t word, int lane) {
    return Shown<uint32_t>(word).of(lane);
}

inline uint32_t __float_as_uint(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

inline float __fdiv_rn(float number, float by) { return number / by; }

template <typename T>
T __ldcg(const T *from) { return *from; }

// Barriers that somebody has made in shared memory.
inline std::function<void()> forget_barriers = [] {};

inline void run_thread() {
    kernel_of_all();
    current->done = true;
}

inline void run_cluster(dim3 first) {
    threads = std::vector<Thread>(cluster_blocks * blockDim.x);
    std::fill(std::begin(of_blocks), std::end(of_blocks), Barrier());
    std::fill(std::begin(of_warps), std::end(of_warps), Barrier());
    forget_barriers();
    memset(aweigh::memory, 0xFF, sizeof aweigh::memory);  // no numbers: nobody has written any
    for (Thread &each : threads) {
        const int which = int(&each - threads.data());
        each.place = dim3(which % blockDim.x, 0, 0);
        each.rank = which / blockDim.x;
        each.block = dim3(first.x + each.rank, first.y, first.z);
        getcontext(&each.state);
        each.state.uc_stack.ss_sp = each.stack.get();
        each.state.uc_stack.ss_size = 1 << 16;
        each.state.uc_link = &scheduler;
        makecontext(&each.state, run_thread, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (Thread &each : threads) {
            if (each.done) continue;
            any = true;
            current = &each;
            swapcontext(&scheduler, &each.state);
        }
    }
}

// The part of CUDA's runtime that launches kernels.
using cudaError_t = int;
using cudaStream_t = void *;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;
constexpr int cudaLaunchAttributeProgrammaticStreamSerialization = 0;
constexpr int cudaLaunchAttributeClusterDimension = 1;
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 0;
constexpr int cudaFuncAttributePreferredSharedMemoryCarveout = 1;
constexpr int cudaSharedmemCarveoutMaxShared = 100;

struct cudaLaunchAttribute {
    int id;
    struct { int programmaticStreamSerializationAllowed; dim3 clusterDim; } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    int dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    int numAttrs;
};
struct cudaFuncAttributes {};

template <typename Arguments, typename... Others>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *how, void (*kernel)(Arguments, Others...),
                               const Arguments &given, const Others &...others) {
    wrong = nullptr;
    expect(how->dynamicSmemBytes <= shared_room, "a block shares too much memory");
    gridDim = how->gridDim;
    blockDim = how->blockDim;
    cluster_blocks = 1;
    for (int each = 0; each < how->numAttrs; each++) {
        const cudaLaunchAttribute &attribute = how->attrs[each];
        if (attribute.id != cudaLaunchAttributeClusterDimension) continue;
        cluster_blocks = attribute.val.clusterDim.x;
    }
    expect(gridDim.x % cluster_blocks == 0, "a cluster has too few blocks");
    kernel_of_all = [=] { kernel(given, others...); };
    x_begin = reinterpret_cast<const char *>(given.x);
    x_end = x_begin + size_t(given.tokens) * given.pitch * sizeof *given.x;
    for (int z = 0; z < gridDim.z; z++)
        for (int y = 0; y < gridDim.y; y++)
            for (int x = 0; x < gridDim.x; x += cluster_blocks) run_cluster(dim3(x, y, z));
    return wrong ? cudaErrorInvalidValue : cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel *, int attribute, int value) {
    const bool fits = attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value <= shared_room;
    return fits ? cudaSuccess : cudaErrorInvalidValue;
}
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *, Kernel *) { return cudaSuccess; }
inline const char *cudaGetErrorString(cudaError_t) { return wrong ? wrong : "invalid value"; }
