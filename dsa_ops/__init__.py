"""Exact, deterministic DeepSeek Sparse Attention for Hopper GPUs, with a PyTorch twin of every op.

The public functions are exported here; :mod:`dsa_ops.reference` holds their readable twins,
:mod:`dsa_ops.formats` the byte formats of the caches and :mod:`dsa_ops.model` an attention layer.
The examples in their docstrings assume ``import torch, dsa_ops``. Ops are forward only: outputs
never require gradients.

A bad argument raises before any work, with the same sentence from Python (ValueError) and from the
compiled ops (RuntimeError): ``op: argument must be X, got Y``.
"""

from . import reference
from .formats import new_index_cache, new_mla_cache
from .ops.cached_indexer import cached_indexer_logits
from .ops.caches import (
    gather_index_cache,
    gather_mla_cache,
    write_index_cache,
    write_mla_cache,
)
from .ops.indexer import indexer_logits, paged_indexer_logits
from .ops.indexer_topk import indexer_topk, paged_indexer_topk
from .ops.merge import merge_states
from .ops.prepare import prepare_index_k, prepare_index_q
from .ops.sparse_mla import sparse_mla_decode, sparse_mla_prefill
from .ops.topk import topk

__version__ = "0.1.0"

__all__ = [
    "cached_indexer_logits",
    "gather_index_cache",
    "gather_mla_cache",
    "indexer_logits",
    "indexer_topk",
    "merge_states",
    "new_index_cache",
    "new_mla_cache",
    "paged_indexer_logits",
    "paged_indexer_topk",
    "prepare_index_k",
    "prepare_index_q",
    "reference",
    "sparse_mla_decode",
    "sparse_mla_prefill",
    "topk",
    "write_index_cache",
    "write_mla_cache",
]
