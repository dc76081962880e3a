// Sparse MLA over bf16 values: 64 heads of one row a tile, or the rows of a pack, tokens in pairs
// of blocks.
#pragma once
#include "device/ptx/grid.cuh"
#include "kernels/sparse_mla/bf16/consumer.cuh"

namespace dsa_ops::sparse_mla::bf16 {

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_bf16_sparse_mla_kernel(__grid_constant__ const KernelArgs args) {
  if (Source::kPacks && args.tiles == args.unions.repairs && *args.unions.leaked == 0) return;
  // The kernel that joins the parts, and none of others.
  if (Source::kPaged && args.num_splits > 1) ptx::launch_dependent_kernels();
  extern __shared__ uint8_t raw_storage[];
  auto& shared = *reinterpret_cast<SharedStorage*>(raw_storage);
  // The warp index as a uniform value keeps the role branches and descriptors in uniform registers.
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  if (threadIdx.x == 0) {
    for (int half = 0; half < 2; ++half) {
      ptx::mbarrier_init(&shared.query_full[half], kProducerThreads);
      ptx::mbarrier_init(&shared.kv_empty[0][half], 4);
      ptx::mbarrier_init(&shared.kv_empty[1][half], 4);
    }
    for (int quarter = 0; quarter < kQuarters; ++quarter) {
      bool const last = quarter + 1 == kQuarters;
      int const arrivals = kProducerThreads + (last ? kProducerThreads / 32 : 0);
      ptx::mbarrier_init(&shared.kv_full[0][quarter], arrivals);
      ptx::mbarrier_init(&shared.kv_full[1][quarter], arrivals);
    }
    ptx::mbarrier_init(&shared.query_empty, kConsumerThreads / 32);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (warpgroup == 2) {
    ptx::setmaxnreg_dec<kProducerRegisters>();
    // Where no thread block has a second tile, hardly a token is read again: what the L2 holds is
    // older and, if it was written, costs a write to memory when a token displaces it.
    bool const reads_once = num_tiles<Source>(args) <= gridDim.x;
    uint64_t const policy = reads_once ? ptx::evict_first_policy() : ptx::evict_last_policy();
    Gather<Source>{shared, args, thread, policy}.run();
  } else {
    ptx::setmaxnreg_inc<kConsumerRegisters>();
    if (warpgroup == 0) {
      Consumer<Source, 0>(shared, args, thread).run();
    } else {
      Consumer<Source, 1>(shared, args, thread).run();
    }
  }
}

}  // namespace dsa_ops::sparse_mla::bf16
