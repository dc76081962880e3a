"""Exact, deterministic DeepSeek Sparse Attention for Hopper GPUs, with a PyTorch twin of every op.

The public functions are exported here; :mod:`dsa_ops.reference` holds their readable twins and
:mod:`dsa_ops.formats` the byte formats of the caches.
"""

from . import reference
from .formats import new_index_cache, new_mla_cache
from .ops.caches import (
    gather_index_cache,
    gather_mla_cache,
    write_index_cache,
    write_mla_cache,
)
from .ops.merge import merge_states
from .ops.prepare import prepare_index_k, prepare_index_q

__version__ = "0.1.0"

__all__ = [
    "gather_index_cache",
    "gather_mla_cache",
    "merge_states",
    "new_index_cache",
    "new_mla_cache",
    "prepare_index_k",
    "prepare_index_q",
    "reference",
    "write_index_cache",
    "write_mla_cache",
]
