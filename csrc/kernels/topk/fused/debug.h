// A handle for tests, exported but no part of the interface.
#pragma once
#include <cstdint>

#include "dsa_ops/status.h"

namespace dsa_ops {
inline namespace v0 {
namespace detail {

// From now on the lists of fused calls hold no more than `candidates` each, so that they overflow
// with little data. 0: as planned.
DSA_OPS_API void limit_candidate_lists(int32_t candidates) noexcept;

}  // namespace detail
}  // namespace v0
}  // namespace dsa_ops
