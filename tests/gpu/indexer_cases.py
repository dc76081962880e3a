"""Inputs of the GPU tests of the indexer."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.select_arguments import filled_index_cache, index_keys, index_queries, ints

INT32 = torch.iinfo(torch.int32)


def ranges(num_rows: int, num_keys: int) -> tuple[Tensor, Tensor]:
    """Starts and ends of every kind: whole, part, empty, past both ends."""
    starts = torch.randint(-num_keys // 4, num_keys, (num_rows,)).int()
    ends = torch.randint(0, num_keys + num_keys // 4 + 1, (num_rows,)).int()
    special = ints([0, INT32.max], [INT32.min, 5], [7, 7], [9, 3], [0, INT32.min], [0, num_keys])
    count = min(num_rows, len(special))
    starts[:count], ends[:count] = special[:count, 0], special[:count, 1]
    return starts, ends


def ragged(num_rows: int, num_keys: int, num_heads: int) -> tuple[Tensor, ...]:
    """q, k, k_scale, weights and ranges."""
    k, k_scale = index_keys(num_keys)
    starts, ends = ranges(num_rows, num_keys)
    weights = torch.randn(num_rows, num_heads)
    return index_queries(num_rows, num_heads), k, k_scale, weights, starts, ends


def paged(batch: int, next_n: int, num_heads: int, pages_per_request: int) -> tuple[Tensor, ...]:
    """q, index_cache, weights and a block table with missing pages; page strides have gaps."""
    num_pages = batch * pages_per_request
    cache = filled_index_cache(num_pages, page_stride=8448 + 80)
    table = torch.randperm(num_pages).int().view(batch, pages_per_request)
    table[0, -1], table[-1, 0] = -1, num_pages
    if pages_per_request > 2:
        table[0, 1], table[-1, 1] = INT32.max, INT32.min
    weights = torch.randn(batch * next_n, num_heads)
    return index_queries(batch, next_n, num_heads), cache, weights, table
