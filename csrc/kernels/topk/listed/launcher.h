// The listed form of paged_indexer_topk.
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/indexer/launchers.h"
#include "kernels/launch.h"
#include "kernels/topk/listed/args.h"

namespace dsa_ops::topk_sm90::listed {

Status launch_listing(ListingArgs const& args, int32_t num_heads, indexer::LaunchShape const& shape,
                      cudaStream_t stream, char const* op) noexcept;

Status launch_selection(SelectArgs const& args, int32_t num_heads, int32_t num_rows,
                        cudaStream_t stream, char const* op) noexcept;

// A call that lists_candidates, whose arguments have been checked. The logits of `scoring` are
// written only of rows that the lists do not settle.
Status listed_topk(PagedIndexerLogitsParams const& scoring, TopkParams const& selection,
                   void* workspace, cudaStream_t stream, char const* op) noexcept;

KernelList listing_kernels();
KernelList selection_kernels();

}  // namespace dsa_ops::topk_sm90::listed
