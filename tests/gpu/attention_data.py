"""Random inputs and poisoned outputs for the tests of sparse attention."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.gpu.tools import poisoned

INT32 = torch.iinfo(torch.int32)
SCALE = 576**-0.5
#: Heads and two numbers of rows whose lists of 2,048 the FP8 decode splits alike on 132
#: multiprocessors: in a cluster (of two, three or more), through scratch, not at all.
SPLIT_ALIKE = [
    *[(8, 1, 7), (8, 29, 33), (8, 45, 66), (8, 67, 140)],
    *[(16, 4, 7), (16, 29, 38), (16, 39, 44), (16, 45, 66), (16, 100, 140)],
    *[(32, 19, 28), (32, 34, 44), (32, 45, 66), (32, 67, 133)],
    *[(64, 2, 3), (64, 45, 66), (64, 67, 200)],
    *[(128, 2, 3), (128, 10, 11), (128, 23, 33), (128, 140, 200)],
]


def queries(num_rows: int, num_heads: int, head_dim: int = 576) -> Tensor:
    return torch.randn(num_rows, num_heads, head_dim).bfloat16()


def rows_of_kv(num_keys: int, head_dim: int = 576) -> Tensor:
    return torch.randn(num_keys, head_dim).bfloat16()


def selection(num_rows: int, top_k: int, limit: int) -> Tensor:
    """Entries of every kind; where there are five rows or more, one is empty, one has empty blocks
    first and one has them last, one has one key and one repeats a key."""
    indices = torch.randint(-limit // 8 - 1, limit + limit // 8 + 1, (num_rows, top_k)).int()
    if num_rows >= 5:
        indices[0] = -1
        indices[1, : top_k // 2], indices[4, top_k // 2 :] = INT32.max, -1
        indices[2], indices[2, -1] = INT32.min, limit - 1
        indices[3] = limit // 2
    return indices


def results_of(q: Tensor, count: int) -> tuple[Tensor, ...]:
    rows, heads = q.shape[:2]
    out = poisoned(rows, heads, 512, dtype=torch.bfloat16)
    return out, *[poisoned(rows, heads) for _ in range(count - 1)]
