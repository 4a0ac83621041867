// CUDA C++ on a CPU: threads of a block take turns, one block after the other. What is wrong with
// a kernel's arithmetic, its places or its barriers shows here as it would on a GPU; how memory is
// ordered between blocks does not.
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

constexpr int SHARED_PIECES = 227 * 1024 / 16;
namespace aweigh { namespace { uint4 memory[SHARED_PIECES]; } }  // of the block that runs

// Bytes that a block may have of it. A test makes it less, as it is on some GPUs.
extern "C" { inline int shared_room = SHARED_PIECES * 16; }

constexpr int WARP = 32;

// A copy that has been asked for: nothing moves before somebody waits for it.
struct Copy { uint32_t to; const void *from; int bytes; };

struct Thread {
    ucontext_t state;
    std::unique_ptr<char[]> stack{new char[1 << 16]};
    dim3 place;
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
inline Barrier of_block, of_warps[32];
inline dim3 blockIdx, blockDim, gridDim;
inline const char *x_begin, *x_end;  // what the kernel before may still be writing
#define threadIdx (current->place)

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

inline void __syncthreads() { await(of_block, blockDim.x); }
inline void sync_warp() { await(of_warps[threadIdx.x / WARP], WARP); }

// What each lane of a warp shows to the others.
template <typename T>
struct Shown {
    static inline T all[32][WARP];
    Shown(const T &own) {
        sync_warp();
        of(threadIdx.x % WARP) = own;
        sync_warp();
    }
    T &of(int lane) const { return all[threadIdx.x / WARP][lane]; }
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

template <typename T>
T __ldcg(const T *from) { return *from; }

inline void run_thread() {
    kernel_of_all();
    current->done = true;
}

inline void run_block() {
    threads = std::vector<Thread>(blockDim.x);
    of_block = Barrier();
    std::fill(std::begin(of_warps), std::end(of_warps), Barrier());
    memset(aweigh::memory, 0xFF, sizeof aweigh::memory);  // no numbers: nobody has written any
    for (Thread &each : threads) {
        each.place = dim3(int(&each - threads.data()), 0, 0);
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
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 0;
constexpr int cudaFuncAttributePreferredSharedMemoryCarveout = 1;
constexpr int cudaSharedmemCarveoutMaxShared = 100;

struct cudaLaunchAttribute {
    int id;
    struct { int programmaticStreamSerializationAllowed; } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    int dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    int numAttrs;
};
struct cudaFuncAttributes {};

template <typename Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *how, void (*kernel)(Arguments),
                               const Arguments &given) {
    wrong = nullptr;
    expect(how->dynamicSmemBytes <= shared_room, "a block shares too much memory");
    gridDim = how->gridDim;
    blockDim = how->blockDim;
    kernel_of_all = [=] { kernel(given); };
    x_begin = reinterpret_cast<const char *>(given.x);
    x_end = x_begin + size_t(given.tokens) * given.pitch * sizeof *given.x;
    for (int z = 0; z < gridDim.z; z++)
        for (int y = 0; y < gridDim.y; y++)
            for (int x = 0; x < gridDim.x; x++) {
                blockIdx = dim3(x, y, z);
                run_block();
            }
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
