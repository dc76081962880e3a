// What the launch of the owned selection carries.
#pragma once
#include "kernels/indexer/args.h"
#include "kernels/topk/traits.h"

namespace dsa_ops::topk_sm90::owned {

struct OwnedArgs {
  indexer::PagedArgs scoring;  // logits are not written
  KernelArgs topk;
};

}  // namespace dsa_ops::topk_sm90::owned
