"""The ops in plain PyTorch: what every kernel is tested against, and what runs without one.

Each function has the signature of its public twin without ``out=``. Where there is arithmetic,
``compute_dtype=torch.float64`` makes it an oracle.
"""

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
