// A logit that may be among a row's best.
#pragma once
#include <cstdint>

namespace dsa_ops::topk_sm90 {

// A logit, as bits (float32), and its position.
struct Candidate {
  uint32_t bits;
  uint32_t position;
};

}  // namespace dsa_ops::topk_sm90
