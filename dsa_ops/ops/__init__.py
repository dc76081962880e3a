"""One file per op family: schema, argument check, PyTorch implementation and public function."""

from .cached_indexer import cached_indexer_logits
from .caches import (
    gather_index_cache,
    gather_mla_cache,
    write_index_cache,
    write_mla_cache,
)
from .indexer import indexer_logits, paged_indexer_logits
from .indexer_topk import indexer_topk, paged_indexer_topk
from .merge import merge_states
from .prepare import prepare_index_k, prepare_index_q
from .sparse_mla import sparse_mla_decode, sparse_mla_prefill
from .topk import topk

__all__ = [
    "cached_indexer_logits",
    "gather_index_cache",
    "gather_mla_cache",
    "indexer_logits",
    "indexer_topk",
    "merge_states",
    "paged_indexer_logits",
    "paged_indexer_topk",
    "prepare_index_k",
    "prepare_index_q",
    "sparse_mla_decode",
    "sparse_mla_prefill",
    "topk",
    "write_index_cache",
    "write_mla_cache",
]
