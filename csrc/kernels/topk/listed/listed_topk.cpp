// Launches of the listed form: a kernel that scores and lists, one that selects.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "kernels/rounding.h"
#include "kernels/topk/kernel_args.h"
#include "kernels/topk/listed/launcher.h"
#include "kernels/topk/listed/plan.h"

namespace dsa_ops {
namespace topk_sm90::listed {
namespace {

// A launch's tag, no other's of this process, and none that memory is likely to hold.
unsigned long long next_tag() {
  static std::atomic<unsigned long long> next{
      static_cast<unsigned long long>(std::chrono::system_clock::now().time_since_epoch().count())};
  constexpr unsigned long long kOdd = 0x9E3779B97F4A7C15;
  return (next.fetch_add(1, std::memory_order_relaxed) * kOdd | 1ull) << indexer::kTicketBits;
}

// Blocks of a call that is not long take pages as they come. `words` is memory for one per row.
indexer::PageTickets page_tickets(PagedIndexerLogitsParams const& scoring, int32_t blocks,
                                  void* words) {
  indexer::PageTickets tickets{};
  tickets.inverse = ((uint64_t{1} << indexer::kInverseBits) + blocks - 1) / blocks;
  int64_t const pages = ceil_div(scoring.max_context_len, indexer::kPageKeys) * scoring.batch;
  if (scoring.next_n == 1 && pages < kMaxTakenPages) {
    tickets.words = static_cast<unsigned long long*>(words);
    tickets.tag = next_tag();
  }
  return tickets;
}

}  // namespace

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
  listing.tickets = page_tickets(scoring, plan.grid,
                                 listing.lists + (num_rows + kMaxParts) * int64_t{kPartCandidates});
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
