// The 656 bytes of an MLA token: 512 e4m3 values, 4 fp32 scales, 64 bf16 values. Every part starts
// at a multiple of 16 bytes, and so does every token of an aligned page.
#pragma once
#include "dsa_ops/caches.h"

namespace dsa_ops::caches {

inline constexpr int64_t kMlaScalesOffset = kMlaLatentDim;
inline constexpr int64_t kMlaRopeOffset = kMlaScalesOffset + 4 * sizeof(float);
inline constexpr int kMlaRopeLanes = 8;  // lanes that copy the RoPE part, 16 bytes each
static_assert(kMlaRopeOffset + 16 * kMlaRopeLanes == kMlaTokenBytes,
              "the three parts fill the token");
static_assert(kMlaTokenBytes % 16 == 0, "tokens of an aligned page are aligned");

}  // namespace dsa_ops::caches
