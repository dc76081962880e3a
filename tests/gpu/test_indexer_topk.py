"""The indexer chained with top-k: the indices of the two ops alone, and float64's by value."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from dsa_ops.reference.indexer import row_lengths
from tests.gpu.tools import (
    assert_registered,
    assert_repeats,
    assert_streams_do_not_mix,
    capture,
    on_device,
    poisoned,
)
from tests.select_arguments import filled_index_cache, index_keys, index_queries, ints

__all__ = ["on_device"]
INT32 = torch.iinfo(torch.int32)


def scored(num_rows: int, num_keys: int, num_heads: int) -> tuple[Tensor, ...]:
    k, k_scale = index_keys(num_keys)
    starts = torch.randint(-5, num_keys, (num_rows,)).int()
    ends = torch.randint(-5, num_keys + 5, (num_rows,)).int()
    starts[: num_rows // 2], ends[: num_rows // 4] = 0, num_keys
    weights = torch.randn(num_rows, num_heads)
    return index_queries(num_rows, num_heads), k, k_scale, weights, starts, ends


@pytest.mark.parametrize("num_heads", [8, 64])
@pytest.mark.parametrize("shape", [(1, 100), (70, 3000), (700, 40_000)])
def test_fused_selection_equals_unfused(shape: tuple[int, int], num_heads: int) -> None:
    arguments = scored(*shape, num_heads)
    starts, ends = arguments[4:]
    logits = dsa_ops.indexer_logits(*arguments)
    fused = poisoned(shape[0], 2048, dtype=torch.int32)
    dsa_ops.indexer_topk(*arguments, 2048, out=fused)
    assert torch.equal(fused, reference.topk(logits, 2048, ends, starts))
    table = torch.randint(-1, 999, (1, 500)).int()
    slots = dsa_ops.indexer_topk(*arguments, 2048, block_table=table)
    assert torch.equal(slots, reference.topk(logits, 2048, ends, starts, block_table=table))
    requests = torch.randint(-1, 2, (shape[0],)).int()
    options = {"block_table": table, "row_to_request": requests}
    slots = dsa_ops.indexer_topk(*arguments, 2048, **options)
    assert torch.equal(slots, reference.topk(logits, 2048, ends, starts, **options))


def test_fused_slots_of_many_requests_in_several_chunks() -> None:
    arguments = scored(900, 30_000, 8)
    table = torch.randint(0, 999, (9, 469)).int()
    slots = dsa_ops.indexer_topk(*arguments, 100, block_table=table)
    logits = dsa_ops.indexer_logits(*arguments)
    starts, ends = arguments[4:]
    assert torch.equal(slots, reference.topk(logits, 100, ends, starts, block_table=table))


@pytest.mark.parametrize("next_n", [1, 2, 5, 8])
@pytest.mark.parametrize("columns", [200, 6000])
@pytest.mark.parametrize("per_token", [False, True])
def test_paged_fused_selection_equals_unfused(columns: int, next_n: int, per_token: bool) -> None:
    batch, pages = 6, columns // 64 + 1
    cache = filled_index_cache(batch * pages, page_stride=8448 + 16)
    table = torch.randperm(batch * pages).int().view(batch, pages)
    table[1, 0], table[2, -1] = -1, batch * pages
    lens = ints(columns, columns + 50, 70, next_n, 0, INT32.min)
    if per_token:
        lens = torch.randint(-3, columns + 9, (batch, next_n)).int()
    q, weights = index_queries(batch, next_n, 64), torch.randn(batch * next_n, 64)
    arguments = (q, cache, weights, lens, table, columns)
    logits = dsa_ops.paged_indexer_logits(*arguments)
    row_lens = row_lengths(lens, next_n, columns, pages).int()
    positions = poisoned(batch * next_n, 2048, dtype=torch.int32)
    dsa_ops.paged_indexer_topk(*arguments, 2048, out=positions)
    assert torch.equal(positions, reference.topk(logits, 2048, row_lens))
    slots = dsa_ops.paged_indexer_topk(*arguments, 2048, return_slots=True)
    assert torch.equal(slots, reference.topk(logits, 2048, row_lens, block_table=table))


def test_paged_selection_in_several_chunks() -> None:
    batch, next_n, columns = 70, 3, 131_072
    cache = filled_index_cache(2100)
    table = torch.randint(0, 2100, (batch, columns // 64)).int()
    lens = torch.randint(1000, 5000, (batch,)).int()
    q, weights = index_queries(batch, next_n, 8), torch.randn(batch * next_n, 8)
    arguments = (q, cache, weights, lens, table)
    long = dsa_ops.paged_indexer_topk(*arguments, columns, 512, return_slots=True)
    short = dsa_ops.paged_indexer_topk(*arguments, 5056, 512, return_slots=True)
    assert torch.equal(long, short)
    logits = dsa_ops.paged_indexer_logits(*arguments, 5056)
    row_lens = row_lengths(lens, next_n, 5056, 79).int()
    expected = reference.topk(logits, 512, row_lens, block_table=table)
    assert torch.equal(short, expected)


def test_pages_bound_the_columns() -> None:
    cache, table, lens = filled_index_cache(9), ints([0, 8, 2], [3, -1, 5]), ints(150, 192)
    arguments = (index_queries(2, 1, 64), cache, torch.randn(2, 64), lens, table)
    expected = dsa_ops.paged_indexer_topk(*arguments, 192, 100)
    assert torch.equal(dsa_ops.paged_indexer_topk(*arguments, 1 << 62, 100), expected)


def test_empty_fused_calls() -> None:
    q, k, k_scale, weights, starts, ends = scored(4, 10, 8)
    none = dsa_ops.indexer_topk(q[:0], k, k_scale, weights[:0], starts[:0], ends[:0], 5)
    assert none.shape == (0, 5)
    empty = dsa_ops.indexer_topk(q, k[:0], k_scale[:0], weights, starts, ends, 5)
    assert (empty == -1).all()
    cache, table, lens = filled_index_cache(3), ints([0], [1]), ints(9, 9)
    paged = (q.view(2, 2, 8, 128), cache[:0], weights, lens, table)
    assert dsa_ops.paged_indexer_topk(*paged, 0, 5).tolist() == [[-1] * 5] * 4
    assert dsa_ops.paged_indexer_topk(*paged, 4, 5).tolist() == [[0, 1, 2, 3, -1]] * 4


@pytest.mark.parametrize("num_heads", [8, 16, 32, 64])
def test_selection_against_float64(num_heads: int) -> None:
    """By value: a selected key is at most the logits' error below the k-th best of float64."""
    num_keys, top_k = 20_000, 2048
    q, k, k_scale, weights, starts, ends = scored(8, num_keys, num_heads)
    starts.zero_(), ends.fill_(num_keys)
    arguments = (q, k, k_scale, weights, starts, ends)
    exact = reference.indexer_logits(*arguments, compute_dtype=torch.float64)
    error = (dsa_ops.indexer_logits(*arguments) - exact).abs().amax(1)
    selected = exact.gather(1, dsa_ops.indexer_topk(*arguments, top_k).long())
    kth = exact.topk(top_k).values[:, -1]
    assert (selected.amin(1) >= kth - 2 * error).all()
    assert ((selected < kth[:, None]).sum(1) <= top_k // 100).all()


def test_repeats_and_rows_alone() -> None:
    q, k, k_scale, weights, starts, ends = scored(50, 9000, 64)
    arguments = (q, k, k_scale, weights, starts, ends, 2048)
    assert_repeats(lambda: (dsa_ops.indexer_topk(*arguments),))
    batch = dsa_ops.indexer_topk(*arguments)
    for row in (0, 13, 49):
        own = slice(row, row + 1)
        alone = dsa_ops.indexer_topk(q[own], k, k_scale, weights[own], starts[own], ends[own], 2048)
        assert torch.equal(alone, batch[own])


def test_graph_replays_the_fused_ops() -> None:
    q, k, k_scale, weights, starts, ends = scored(50, 4000, 32)
    indices = poisoned(50, 512, dtype=torch.int32)
    ragged = (q, k, k_scale, weights, starts, ends, 512)
    graph = capture(lambda: dsa_ops.indexer_topk(*ragged, out=indices))
    starts.copy_(starts.flip(0)), ends.copy_(ends.flip(0)), weights.copy_(weights.flip(0))
    graph.replay()
    assert torch.equal(indices, dsa_ops.indexer_topk(*ragged))
    cache, table, lens = filled_index_cache(128), torch.randperm(128).int().view(2, 64), ints(9, 70)
    slots = poisoned(50, 512, dtype=torch.int32)
    paged = (q.view(2, 25, 32, 128), cache, weights, lens, table, 4096, 512)
    graph = capture(lambda: dsa_ops.paged_indexer_topk(*paged, return_slots=True, out=slots))
    lens.copy_(ints(4096, 3000)), table.copy_(table.flip(1))
    graph.replay()
    assert torch.equal(slots, dsa_ops.paged_indexer_topk(*paged, return_slots=True))


def test_streams_do_not_mix() -> None:
    first, second = scored(40, 9000, 64), scored(3, 20_000, 8)
    cache, table, lens = (
        filled_index_cache(128),
        torch.randperm(128).int().view(2, 64),
        ints(4096, 999),
    )
    paged = (index_queries(2, 2, 16), cache, torch.randn(4, 16), lens, table, 4096, 512)
    assert_streams_do_not_mix(
        [
            lambda: (dsa_ops.indexer_topk(*first, 2048),),
            lambda: (dsa_ops.indexer_topk(*second, 2048),),
            lambda: (dsa_ops.paged_indexer_topk(*paged),),
        ]
    )


@pytest.mark.parametrize("op", ["indexer_topk", "paged_indexer_topk"])
def test_registration(op: str) -> None:
    assert_registered(op)
