#include "kernels/indexer/launch_kernel.cuh"
#include "kernels/indexer/launchers.h"
#include "kernels/indexer/sm90_ragged.cuh"

namespace dsa_ops::indexer {
namespace {

template <int kHeads, class Keys>
using Storage = typename Keys::template Storage<RaggedTile<kHeads>>;

template <int kHeads, class Keys>
Status launch_heads(typename Keys::Args const& args, bool clean, LaunchShape const& shape,
                    cudaStream_t stream, char const* op) {
  return clean
             ? launch_kernel<sm90_indexer_logits_kernel<kHeads, Keys, true>, Storage<kHeads, Keys>>(
                   args, shape, stream, op)
             : launch_kernel<sm90_indexer_logits_kernel<kHeads, Keys, false>,
                             Storage<kHeads, Keys>>(args, shape, stream, op);
}

template <class Keys>
Status launch(typename Keys::Args const& args, int32_t num_heads, bool clean,
              LaunchShape const& shape, cudaStream_t stream, char const* op) {
  switch (num_heads) {
    case 8: return launch_heads<8, Keys>(args, clean, shape, stream, op);
    case 16: return launch_heads<16, Keys>(args, clean, shape, stream, op);
    case 32: return launch_heads<32, Keys>(args, clean, shape, stream, op);
    default: return launch_heads<64, Keys>(args, clean, shape, stream, op);
  }
}

template <int kHeads, class Keys, bool kClean>
KernelEntry entry(char const* op, char const* tile) {
  return kernel_entry<sm90_indexer_logits_kernel<kHeads, Keys, kClean>, Storage<kHeads, Keys>>(
      "sm90_indexer_logits_kernel", op, tile);
}

}  // namespace

Status launch_ragged(RaggedArgs const& args, int32_t num_heads, bool clean,
                     LaunchShape const& shape, cudaStream_t stream) noexcept {
  return launch<FlatKeys>(args, num_heads, clean, shape, stream, "indexer_logits");
}

Status launch_cached(CachedArgs const& args, int32_t num_heads, bool clean,
                     LaunchShape const& shape, cudaStream_t stream) noexcept {
  return launch<CachedKeys>(args, num_heads, clean, shape, stream, "cached_indexer_logits");
}

KernelList ragged_kernels() {
  static constexpr char const* kFlat = "indexer_logits";
  static constexpr char const* kCached = "cached_indexer_logits";
  static KernelEntry const kEntries[] = {
      entry<64, FlatKeys, false>(kFlat, "4 rows of 64 heads x 128 keys"),
      entry<32, FlatKeys, false>(kFlat, "8 rows of 32 heads x 128 keys"),
      entry<16, FlatKeys, false>(kFlat, "16 rows of 16 heads x 128 keys"),
      entry<8, FlatKeys, false>(kFlat, "32 rows of 8 heads x 128 keys"),
      entry<64, FlatKeys, true>(kFlat, "4 rows of 64 heads x 128 keys, -inf outside the ranges"),
      entry<32, FlatKeys, true>(kFlat, "8 rows of 32 heads x 128 keys, -inf outside the ranges"),
      entry<16, FlatKeys, true>(kFlat, "16 rows of 16 heads x 128 keys, -inf outside the ranges"),
      entry<8, FlatKeys, true>(kFlat, "32 rows of 8 heads x 128 keys, -inf outside the ranges"),
      entry<64, CachedKeys, false>(kCached, "4 rows of 64 heads x 2 pages"),
      entry<32, CachedKeys, false>(kCached, "8 rows of 32 heads x 2 pages"),
      entry<16, CachedKeys, false>(kCached, "16 rows of 16 heads x 2 pages"),
      entry<8, CachedKeys, false>(kCached, "32 rows of 8 heads x 2 pages"),
      entry<64, CachedKeys, true>(kCached, "4 rows of 64 heads x 2 pages, -inf outside the ranges"),
      entry<32, CachedKeys, true>(kCached, "8 rows of 32 heads x 2 pages, -inf outside the ranges"),
      entry<16, CachedKeys, true>(kCached,
                                  "16 rows of 16 heads x 2 pages, -inf outside the ranges"),
      entry<8, CachedKeys, true>(kCached, "32 rows of 8 heads x 2 pages, -inf outside the ranges"),
  };
  return KernelList{kEntries, sizeof(kEntries) / sizeof(kEntries[0])};
}

}  // namespace dsa_ops::indexer
