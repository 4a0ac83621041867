// The product of many tokens with a weight of 4 or 8 bits, as int_packing.py packs it. Warpgroups unpack
// rows of their own into registers and multiply them with x in shared memory, which one more
// fills. Blocks of a cluster have other rows and the same tokens: each copies its part of x to all.
#pragma once

#include "hopper_consumer.cuh"
#include "hopper_producer.cuh"

namespace aweigh {
namespace {

template <class T, bool WIDE>
__global__ void __launch_bounds__(T::THREADS, 1)
    hopper_int_multiply(const __grid_constant__ Arguments given,
                        const __grid_constant__ CUtensorMap map) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(1024) uint4 memory[];
    const uint32_t shared = shared_address(memory);
    const int rank = rank_in_cluster();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < T::STAGES; stage++) {
            make_barrier(shared + T::OF_FULL + stage * 8, 1);
            make_barrier(shared + T::OF_EMPTY + stage * 8, T::WARPGROUPS * 4 * T::CLUSTER);
        }
        show_barriers();
    }
    await_cluster();
    let_next_start();
    if (threadIdx.x >= T::WARPGROUPS * 128) {
        leave_registers<40>();
        if (threadIdx.x < T::WARPGROUPS * 128 + 32) {
            Producer<T>(given, map, shared, rank).run();
        }
    } else {
        take_registers<T::REGISTERS>();
        await_earlier();  // which may still read what is written here
        Consumer<T, WIDE>(given, shared, rank).run();
    }
    __syncwarp();
    await_cluster();  // nobody copies into a block that has ended
#endif
}

}  // namespace
}  // namespace aweigh
