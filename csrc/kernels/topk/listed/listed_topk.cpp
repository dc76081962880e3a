// Launches of the listed form: a kernel that scores and lists, one that selects.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/topk/kernel_args.h"
#include "kernels/topk/listed/launcher.h"

namespace dsa_ops {
namespace topk_sm90::listed {

Status listed_topk(PagedIndexerLogitsParams const& scoring, TopkParams const& selection,
                   void* workspace, cudaStream_t stream, char const* op) noexcept {
  SelectArgs args{};
  ListingArgs& listing = args.listing;
  indexer::PagedPlan plan;
  Status status = indexer::prepare_pages(scoring, selection.top_k, &plan, &listing, op);
  DeviceProperties device;
  if (status.ok()) status = current_device(&device, op);
  if (!status.ok()) return status;
  int32_t const rows = static_cast<int32_t>(scoring.next_n);
  int64_t const num_rows = scoring.batch * rows;
  plan.grid = std::min(plan.grid, std::min(device.num_sms, kMaxRows) * listing_blocks_per_sm(rows));
  listing.parts = static_cast<ListedPart*>(workspace);
  listing.lists = reinterpret_cast<Candidate*>(listing.parts + num_rows + kMaxParts);
  listing.top_k = selection.top_k;
  status = launch_listing(listing, scoring.num_heads, {plan.grid, scoring.pdl}, stream, op);
  if (!status.ok()) return status;

  status = indexer::use_tiles_of_one_row(scoring, &listing, op);
  if (!status.ok()) return status;
  int64_t const window_words = (selection.num_columns + 1023) / 1024 * 32;  // of the bitmap
  args.topk = kernel_args(selection, indexer::row_lengths_of(scoring), kRowCandidates,
                          static_cast<int32_t>(window_words));
  args.listing_blocks = plan.grid;
  return launch_selection(args, scoring.num_heads, static_cast<int32_t>(num_rows), stream, op);
}

}  // namespace topk_sm90::listed

KernelList listed_topk_kernels() {
  using namespace topk_sm90::listed;
  static std::vector<KernelEntry> const kEntries = [] {
    std::vector<KernelEntry> entries;
    for (KernelList const list : {listing_kernels(), selection_kernels()}) {
      entries.insert(entries.end(), list.entries, list.entries + list.count);
    }
    return entries;
  }();
  return KernelList{kEntries.data(), static_cast<int>(kEntries.size())};
}

}  // namespace dsa_ops
