// What the launches of the listed selection carry.
#pragma once
#include <cstdint>

#include "kernels/indexer/args.h"
#include "kernels/topk/candidates.h"
#include "kernels/topk/listed/traits.h"
#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90::listed {

struct ListingArgs : indexer::PagedArgs {
  ListedPart* parts;
  Candidate* lists;  // [parts][kPartCandidates]
  int32_t top_k;
  indexer::PageTickets tickets;
};
// A kernel's arguments are constants from byte 528 on: all of these in one line of 64.
static_assert((528 + sizeof(indexer::PagedArgs)) % 64 == 16 && sizeof(indexer::PageTickets) == 24);

// A row that the lists do not settle is scored again, with logits: `listing` has row tiles of one
// row.
struct SelectArgs {
  ListingArgs listing;
  KernelArgs topk;
  int32_t listing_blocks;
};

}  // namespace dsa_ops::topk_sm90::listed
