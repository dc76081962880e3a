// The compiled kernels of this folder, chosen by head count and variant.
#pragma once
#include <cuda_runtime_api.h>

#include "kernels/indexer/args.h"
#include "kernels/indexer/plan.h"
#include "kernels/launch.h"

namespace dsa_ops::indexer {

struct LaunchShape {
  int32_t grid;
  bool pdl;            // programmatic dependent launch
  bool alone = false;  // no two blocks on a multiprocessor
};

Status launch_ragged(RaggedArgs const& args, int32_t num_heads, bool clean,
                     LaunchShape const& shape, cudaStream_t stream) noexcept;
Status launch_cached(CachedArgs const& args, int32_t num_heads, bool clean,
                     LaunchShape const& shape, cudaStream_t stream) noexcept;
KernelList ragged_kernels();

Status launch_paged(PagedArgs const& args, int32_t num_heads, int32_t tile_rows,
                    LaunchShape const& shape, cudaStream_t stream) noexcept;
KernelList paged_kernels();

// Plan and arguments of a paged call that scores at least one key.
Status prepare_pages(PagedIndexerLogitsParams const& params, int32_t unscored_length,
                     PagedPlan* plan, PagedArgs* args, char const* op) noexcept;

// Makes of such arguments those of the same rows in row tiles of one row.
Status use_tiles_of_one_row(PagedIndexerLogitsParams const& params, PagedArgs* args,
                            char const* op) noexcept;

// indexer_logits for a selection: rows of up to `unscored_length` keys, which win as a whole, get
// no logits.
Status score_rows(IndexerLogitsParams const& params, int32_t unscored_length, cudaStream_t stream,
                  char const* op) noexcept;

// paged_indexer_logits for a selection: rows of up to `unscored_length` keys, which win as a whole,
// get no logits, and columns past a row's pages keep what they hold.
Status score_pages(PagedIndexerLogitsParams const& params, int32_t unscored_length,
                   cudaStream_t stream, char const* op) noexcept;

}  // namespace dsa_ops::indexer
