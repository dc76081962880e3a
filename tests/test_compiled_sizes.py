"""Under torch.compile one graph serves every number of rows, also where outputs are given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dsa_ops
from tests.cache_arguments import BF16
from tests.select_arguments import index_queries, ints

Case = tuple[Callable[..., object], Callable[[int], tuple[object, ...]]]


def lengths(rows: int) -> Tensor:
    return torch.full((rows,), 40, dtype=torch.int32)


def new_indices(rows: int) -> Tensor:
    return torch.zeros(rows, 5, dtype=torch.int32)


def topk() -> Case:
    def call(logits, ends, out):
        return dsa_ops.topk(logits, out.shape[1], ends, out=out)

    return call, lambda rows: (torch.randn(rows, 60), lengths(rows), new_indices(rows))


def indexer_topk() -> Case:
    k, k_scale = torch.ones(50, 128).to(torch.float8_e4m3fn), torch.ones(50)

    def call(q, weights, ends, out):
        starts = torch.zeros_like(ends)
        return dsa_ops.indexer_topk(q, k, k_scale, weights, starts, ends, 5, out=out)

    return call, lambda rows: (
        index_queries(rows, 8),
        torch.ones(rows, 8),
        lengths(rows),
        new_indices(rows),
    )


def paged_indexer_topk() -> Case:
    cache = dsa_ops.new_index_cache(4)

    def call(q, weights, ends, table, out):
        return dsa_ops.paged_indexer_topk(q, cache, weights, ends, table, 100, 5, out=out)

    return call, lambda rows: (
        index_queries(rows, 1, 8),
        torch.ones(rows, 8),
        lengths(rows),
        torch.zeros(rows, 2, dtype=torch.int32),
        new_indices(rows),
    )


def gather_mla_cache() -> Case:
    cache, table = dsa_ops.new_mla_cache(4), ints([0, 1])

    def call(bounds, out):
        return dsa_ops.gather_mla_cache(cache, table, bounds, out.shape[0], out=out)

    return call, lambda rows: (ints(0, rows), torch.zeros(rows, 576, dtype=BF16))


def gather_index_cache() -> Case:
    cache, table = dsa_ops.new_index_cache(4), ints([0, 1])

    def call(bounds, k, k_scale):
        rows = k.shape[0]
        return dsa_ops.gather_index_cache(cache, table, bounds, rows, out=(k, k_scale))

    return call, lambda rows: (
        ints(0, rows),
        torch.zeros(rows, 128).to(torch.float8_e4m3fn),
        torch.zeros(rows),
    )


@pytest.mark.parametrize(
    "case", [topk, indexer_topk, paged_indexer_topk, gather_mla_cache, gather_index_cache]
)
def test_graphs_do_not_grow_with_row_counts(case: Callable[[], Case]) -> None:
    call, arguments = case()
    graphs = []

    def backend(module, _):
        graphs.append(module)
        return module

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    for rows in range(4, 16):
        compiled(*arguments(rows))
    # The first size, and all others.
    assert len(graphs) <= 2
