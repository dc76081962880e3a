// Sparse MLA over bf16 values: 64 heads of one row a tile, or the rows of a pack, tokens in pairs
// of blocks.
#pragma once
#include "kernels/sparse_mla/bf16/consumer.cuh"

namespace dsa_ops::sparse_mla::bf16 {

template <class Source>
__global__ void __launch_bounds__(kThreads, 1)
    sm90_bf16_sparse_mla_kernel(__grid_constant__ const KernelArgs args) {
  if (args.pack_rows > 1 && args.tiles == args.unions.repairs && *args.unions.leaked == 0) return;
  extern __shared__ uint8_t raw_storage[];
  auto& shared = *reinterpret_cast<SharedStorage*>(raw_storage);
  // The warp index as a uniform value keeps the role branches and descriptors in uniform registers.
  int const warpgroup = __shfl_sync(0xFFFFFFFFu, threadIdx.x >> 7, 0);
  int const thread = threadIdx.x & 127;
  if (threadIdx.x == 0) {
    for (int half = 0; half < 2; ++half) {
      ptx::mbarrier_init(&shared.query_full[half], kProducerThreads);
      for (int stage = 0; stage < 2; ++stage) {
        ptx::mbarrier_init(&shared.kv_full[stage][half],
                           kProducerThreads + (half == kRight ? kProducerThreads / 32 : 0));
        ptx::mbarrier_init(&shared.kv_empty[stage][half], 4);
      }
    }
    ptx::mbarrier_init(&shared.query_empty, kConsumerThreads / 32);
    ptx::fence_mbarrier_init();
  }
  __syncthreads();
  if (warpgroup == 2) {
    ptx::setmaxnreg_dec<kProducerRegisters>();
    Gather<Source>{shared, args, thread, ptx::evict_last_policy()}.run();
  } else {
    ptx::setmaxnreg_inc<kConsumerRegisters>();
    if (warpgroup == 0) {
      Consumer<Source::kHeadDim, 0>(shared, args, thread).run();
    } else {
      Consumer<Source::kHeadDim, 1>(shared, args, thread).run();
    }
  }
}

}  // namespace dsa_ops::sparse_mla::bf16
