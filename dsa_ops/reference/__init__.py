"""The ops in plain PyTorch: what every kernel is tested against, and what runs without one.

Each function has the signature of its public twin without ``out``, ``num_sms`` and ``pdl``. Where
there is arithmetic, ``compute_dtype=torch.float64`` makes it an oracle.
"""

from .caches import (
    gather_index_cache,
    gather_mla_cache,
    write_index_cache,
    write_mla_cache,
)
from .indexer import cached_indexer_logits, indexer_logits, paged_indexer_logits
from .merge import merge_states
from .prepare import prepare_index_k, prepare_index_q
from .sparse_mla import sparse_mla_decode, sparse_mla_prefill
from .topk import indexer_topk, paged_indexer_topk, topk

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
