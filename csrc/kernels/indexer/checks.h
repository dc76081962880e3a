// Argument checks of the indexer's entry points, for every op that starts with one of them.
#pragma once
#include "dsa_ops/indexer.h"

namespace dsa_ops::indexer {

Status check_arguments(IndexerLogitsParams const& params, char const* op) noexcept;
Status check_arguments(CachedIndexerLogitsParams const& params, char const* op) noexcept;
Status check_arguments(PagedIndexerLogitsParams const& params, char const* op) noexcept;

}  // namespace dsa_ops::indexer
