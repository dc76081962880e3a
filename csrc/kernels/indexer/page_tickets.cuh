// Tickets for pages that no block has in its share: whichever is first to need more draws one.
//
// A row tile's word in global memory counts the tickets drawn, below the launch's tag. It may hold
// anything when the launch begins. Whoever finds another tag in it puts the launch's there, by
// compare-and-swap, so that one block does; from then on nobody but draws, and additions give each
// number once. The kernel behind the launch on its stream clears the words: a launch repeated by a
// graph has the same tag, and must not find it.
#pragma once
#include <cstdint>

#include "kernels/indexer/args.h"

namespace dsa_ops::indexer {

__device__ __forceinline__ int32_t draw_ticket(unsigned long long* word, unsigned long long tag) {
  constexpr unsigned long long kNumber = (1ull << kTicketBits) - 1;
  unsigned long long found = atomicAdd(word, 1ull);
  if ((found & ~kNumber) == tag) return static_cast<int32_t>(found & kNumber);
  ++found;
  // Fails only where another block has drawn in the meantime.
  while ((found & ~kNumber) != tag) {
    unsigned long long const expected = found;
    found = atomicCAS(word, expected, tag + 1);
    if (found == expected) return 0;
  }
  return static_cast<int32_t>(atomicAdd(word, 1ull) & kNumber);
}

}  // namespace dsa_ops::indexer
