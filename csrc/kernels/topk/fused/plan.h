// How a fused call is cut and where its scratch lies. A pure host function of the sizes.
#pragma once
#include <cstdint>

namespace dsa_ops::topk_sm90::fused {

struct FusedPlan {
  int32_t group_rows;     // rows that share a sample, and a launch for what lists do not settle
  int32_t scan_rows;      // rows of a scan, whose lists exist together; 0: the call is not fused
  int32_t num_scans;      // of a group
  int32_t list_capacity;  // candidates of a list
  int32_t samples;        // keys of the sample
  int32_t sample_stride;  // between the rows of its logits
  int32_t grid;           // blocks of a scan
  int32_t rescore_clusters;
  int64_t logits_stride;  // of rows scored again
  // Bytes from the start of the workspace. Lists, the sample's logits and those of rows scored
  // again take turns.
  int64_t gates, work, tile_begins, first_tiles, redo_count, redo_tiles, redo_rows, counts, lists;
  int64_t workspace_bytes;
};

// `num_sms`: that a scan may occupy.
FusedPlan plan_fused(int64_t num_rows, int64_t num_keys, int32_t num_heads, int32_t top_k,
                     int32_t num_sms) noexcept;

// Whether there are numbers of heads and of keys to select for which such a call is fused: it then
// has kFusedBytes of workspace.
bool may_fuse(int64_t num_rows, int64_t num_keys) noexcept;
inline constexpr int64_t kFusedBytes = int64_t{64} << 20;

}  // namespace dsa_ops::topk_sm90::fused
