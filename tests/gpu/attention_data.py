"""Random inputs and poisoned outputs for the tests of sparse attention."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.gpu.tools import poisoned

INT32 = torch.iinfo(torch.int32)
SCALE = 576**-0.5


def queries(num_rows: int, num_heads: int, head_dim: int = 576) -> Tensor:
    return torch.randn(num_rows, num_heads, head_dim).bfloat16()


def rows_of_kv(num_keys: int, head_dim: int = 576) -> Tensor:
    return torch.randn(num_keys, head_dim).bfloat16()


def selection(num_rows: int, top_k: int, limit: int) -> Tensor:
    """Entries of every kind; where there are four rows or more, one is empty, one has empty
    blocks, one has one key and one repeats a key."""
    indices = torch.randint(-limit // 8 - 1, limit + limit // 8 + 1, (num_rows, top_k)).int()
    if num_rows >= 4:
        indices[0] = -1
        indices[1, : top_k // 2] = INT32.max
        indices[2], indices[2, -1] = INT32.min, limit - 1
        indices[3] = limit // 2
    return indices


def results_of(q: Tensor, count: int) -> tuple[Tensor, ...]:
    rows, heads = q.shape[:2]
    out = poisoned(rows, heads, 512, dtype=torch.bfloat16)
    return out, *[poisoned(rows, heads) for _ in range(count - 1)]
