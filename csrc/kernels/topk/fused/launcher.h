// The fused form of indexer_topk.
#pragma once
#include <cuda_runtime_api.h>

#include "dsa_ops/topk.h"
#include "kernels/indexer/launchers.h"
#include "kernels/launch.h"
#include "kernels/topk/fused/args.h"
#include "kernels/topk/fused/plan.h"

namespace dsa_ops::topk_sm90::fused {

// The kernels of a group of rows, in the order of their launches.
Status launch_sample(SampleArgs const& args, indexer::LaunchShape const& shape, cudaStream_t stream,
                     char const* op) noexcept;
Status launch_gates(GateArgs const& args, int32_t num_rows, cudaStream_t stream,
                    char const* op) noexcept;
Status launch_scan(ScanArgs const& args, int32_t grid, cudaStream_t stream,
                   char const* op) noexcept;
Status launch_select(SelectArgs const& args, int32_t num_rows, cudaStream_t stream,
                     char const* op) noexcept;
Status launch_rescore(RescoreArgs const& args, int32_t clusters, cudaStream_t stream,
                      char const* op) noexcept;

// All of a call whose arguments have been checked and whose plan is fused.
Status fused_topk(IndexerTopkParams const& params, FusedPlan const& plan,
                  cudaStream_t stream) noexcept;

KernelList scoring_kernels();
KernelList selection_kernels();

}  // namespace dsa_ops::topk_sm90::fused
