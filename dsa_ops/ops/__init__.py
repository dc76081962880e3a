"""One file per op family: schema, argument check, PyTorch implementation and public function."""

from .caches import (
    gather_index_cache,
    gather_mla_cache,
    write_index_cache,
    write_mla_cache,
)
from .merge import merge_states
from .prepare import prepare_index_k, prepare_index_q

__all__ = [
    "gather_index_cache",
    "gather_mla_cache",
    "merge_states",
    "prepare_index_k",
    "prepare_index_q",
    "write_index_cache",
    "write_mla_cache",
]
