"""Top-k against a full sort in Python, alone and chained with the indexer."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from dsa_ops.reference.indexer import row_lengths
from tests import naive
from tests.select_arguments import filled_index_cache, index_keys, index_queries, ints

INT32 = torch.iinfo(torch.int32)
ONE_UP = math.nextafter(1.0, 2.0)
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 1 + 2.0**-23, -1.0, 1e-40, -1e-40, 3e38)


def naive_topk(logits: Tensor, top_k: int, ends: Tensor, starts: Tensor) -> Tensor:
    rows = zip(logits.tolist(), starts.tolist(), ends.tolist(), strict=True)
    indices = [naive.best_positions(row, top_k, start, end) for row, start, end in rows]
    return torch.tensor(indices, dtype=torch.int32).reshape(len(logits), top_k)


@st.composite
def selections(draw: st.DrawFn) -> tuple[Tensor, int, Tensor, Tensor]:
    num_rows, num_columns = draw(st.integers(1, 4)), draw(st.integers(0, 40))
    values = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32))
    row = st.lists(values, min_size=num_columns, max_size=num_columns)
    logits = torch.tensor([draw(row) for _ in range(num_rows)]).reshape(num_rows, num_columns)
    bound = st.one_of(st.integers(-3, num_columns + 3), st.sampled_from([INT32.min, INT32.max]))
    starts, ends = ([draw(bound) for _ in range(num_rows)] for _ in range(2))
    return logits, draw(st.integers(1, num_columns + 5)), ints(*ends), ints(*starts)


@settings(max_examples=150, deadline=None)
@given(selections())
def test_topk_equals_a_full_sort(case: tuple[Tensor, int, Tensor, Tensor]) -> None:
    logits, top_k, ends, starts = case
    for typed in (logits, logits.bfloat16()):
        expected = naive_topk(typed, top_k, ends, starts)
        assert torch.equal(dsa_ops.topk(typed, top_k, ends, starts), expected)


def test_float64_is_compared_exactly() -> None:
    logits = torch.tensor([[1.0, ONE_UP, -math.inf, -ONE_UP, -1.0, math.nan]], dtype=torch.float64)
    for top_k, best in ((1, [1]), (2, [0, 1]), (3, [0, 1, 4]), (5, [0, 1, 2, 3, 4])):
        assert reference.topk(logits, top_k, ints(6)).tolist() == [best]


@pytest.mark.parametrize("top_k", [1, 64, 2048, 4096])
@pytest.mark.parametrize("length", [0, 1, 63, 2047, 2048, 2049, 5000])
def test_lengths_around_k(length: int, top_k: int) -> None:
    logits = torch.randn(2, 5000)
    ends, starts = ints(length, 5000), ints(0, 5000 - length)
    expected = naive_topk(logits, top_k, ends, starts)
    assert torch.equal(dsa_ops.topk(logits, top_k, ends, starts), expected)


def test_ties_go_to_the_lower_position() -> None:
    logits = torch.zeros(3, 6000)
    logits[1, ::3] = -0.0
    logits[2, 5000:] = 1.0
    indices = dsa_ops.topk(logits, 2048, ints(6000, 6000, 6000))
    first = torch.arange(2048, dtype=torch.int32)
    assert torch.equal(indices[0], first) and torch.equal(indices[1], first)
    assert torch.equal(indices[2], torch.cat([first[:1048], torch.arange(5000, 6000).int()]))


def test_rows_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, starts = torch.randn(50, 30), torch.randint(0, 20, (50,)).int()
    ends = torch.full((50,), 25, dtype=torch.int32)
    expected = naive_topk(logits, 7, ends, starts)
    # dsa_ops.reference.topk is the function; the module of that name is found only here.
    monkeypatch.setattr(sys.modules["dsa_ops.reference.topk"], "BLOCK_ELEMENTS", 8 * 30 * 4)
    assert torch.equal(dsa_ops.topk(logits, 7, ends, starts), expected)


def test_no_rows_no_columns_and_out() -> None:
    none = torch.empty(0, dtype=torch.int32)
    assert dsa_ops.topk(torch.empty(0, 9), 4, none).shape == (0, 4)
    assert dsa_ops.topk(torch.empty(2, 0), 3, ints(5, 5)).tolist() == [[-1] * 3] * 2
    logits = torch.randn(2, 40)[:, 3:33]
    out = torch.zeros(2, 12, dtype=torch.int32)[:, :5]
    assert dsa_ops.topk(logits, 5, ints(30, 9), out=out) is out
    assert torch.equal(out, naive_topk(logits, 5, ints(30, 9), ints(0, 0)))


@pytest.mark.parametrize("given_requests", [False, True])
def test_positions_become_slots(given_requests: bool) -> None:
    logits = torch.randn(6, 200)
    starts, ends = ints(0, 10, 0, 0, 3, 0), ints(200, 180, 70, 0, 200, 5)
    table = ints([7, -1, 2], [0, 4, 9])
    requests = [0, 1, -1, 2, 1, INT32.max] if given_requests else [0, 0, 0, 1, 1, 1]
    positions = dsa_ops.topk(logits, 90, ends, starts)
    slots = dsa_ops.topk(
        logits, 90, ends, starts, block_table=table,
        row_to_request=ints(*requests) if given_requests else None,
    )  # fmt: skip
    expected = [
        [naive.slot(position, request, table.tolist()) for position in row]
        for row, request in zip(positions.tolist(), requests, strict=True)
    ]
    assert slots.tolist() == expected


def test_row_offsets_move_positions_and_slots() -> None:
    logits, ends = torch.randn(3, 200), ints(200, 40, 0)
    offsets, table = ints(1000, 7, 5), ints([3, -1, 5, 1])
    for options in ({}, {"block_table": table}):
        plain = dsa_ops.topk(logits, 90, ends, **options)
        moved = dsa_ops.topk(logits, 90, ends, **options, row_offsets=offsets)
        assert torch.equal(moved, torch.where(plain < 0, plain, plain + offsets[:, None]))


def test_an_empty_block_table_has_no_slots() -> None:
    logits, ends = torch.randn(2, 9), ints(9, 9)
    table = torch.empty(2, 0, dtype=torch.int32)
    assert (dsa_ops.topk(logits, 3, ends, block_table=table) == -1).all()
    no_requests = torch.empty(0, 4, dtype=torch.int32)
    slots = dsa_ops.topk(logits, 3, ends, block_table=no_requests, row_to_request=ints(0, 1))
    assert (slots == -1).all()


@pytest.mark.parametrize("num_heads", [8, 64])
def test_fused_selection_equals_unfused(num_heads: int) -> None:
    num_rows, num_keys = 130, 300
    q, weights = index_queries(num_rows, num_heads), torch.randn(num_rows, num_heads)
    k, k_scale = index_keys(num_keys)
    starts = torch.randint(-5, num_keys, (num_rows,)).int()
    ends = torch.randint(-5, num_keys + 5, (num_rows,)).int()
    logits = dsa_ops.indexer_logits(q, k, k_scale, weights, starts, ends)
    fused = dsa_ops.indexer_topk(q, k, k_scale, weights, starts, ends, 100)
    assert torch.equal(fused, dsa_ops.topk(logits, 100, ends, starts))
    table = torch.randint(-1, 9, (2, 4)).int()
    fused = dsa_ops.indexer_topk(q, k, k_scale, weights, starts, ends, 100, block_table=table)
    assert torch.equal(fused, dsa_ops.topk(logits, 100, ends, starts, block_table=table))


@pytest.mark.parametrize("next_n", [1, 3])
@pytest.mark.parametrize("per_token", [False, True])
def test_paged_fused_selection_equals_unfused(next_n: int, per_token: bool) -> None:
    cache = filled_index_cache(6)
    q, weights = index_queries(3, next_n, 8), torch.randn(3 * next_n, 8)
    table = ints([5, 0, 3], [2, -1, 1], [4, 6, 0])
    context_lens = ints(150, 192, 1)
    if per_token:
        context_lens = torch.randint(-2, 200, (3, next_n)).int()
    arguments = (q, cache, weights, context_lens, table, 180)
    logits = dsa_ops.paged_indexer_logits(*arguments)
    lens = row_lengths(context_lens, next_n, 180, 3).int()
    positions = dsa_ops.paged_indexer_topk(*arguments, 170)
    assert torch.equal(positions, dsa_ops.topk(logits, 170, lens))
    slots = dsa_ops.paged_indexer_topk(*arguments, 170, return_slots=True)
    assert torch.equal(slots, dsa_ops.topk(logits, 170, lens, block_table=table))


def test_keys_of_missing_pages_are_candidates() -> None:
    cache, q = filled_index_cache(2), index_queries(1, 1, 8)
    arguments = (q, cache, torch.randn(1, 8), ints(130), ints([-1, 9, 1]), 192)
    assert dsa_ops.paged_indexer_topk(*arguments, 132).tolist() == [[*range(130), -1, -1]]
    slots = dsa_ops.paged_indexer_topk(*arguments, 132, return_slots=True)[0].tolist()
    assert slots == [-1] * 64 + [*range(9 * 64, 10 * 64), 64, 65, -1, -1]


@pytest.mark.parametrize("max_context_len", [0, 5])
def test_paged_selection_without_columns_pages_or_requests(max_context_len: int) -> None:
    q, weights, table = index_queries(2, 2, 8), torch.randn(4, 8), ints([0], [0])
    arguments = (q, filled_index_cache(1)[:0], weights, ints(9, 9), table)
    indices = dsa_ops.paged_indexer_topk(*arguments, max_context_len, 7)
    positions = [*range(max_context_len)] + [-1] * (7 - max_context_len)
    assert indices.tolist() == [positions] * 4
    no_requests = (q[:0], filled_index_cache(1), weights[:0], ints(9)[:0], table[:0])
    for return_slots in (False, True):
        indices = dsa_ops.paged_indexer_topk(
            *no_requests, max_context_len, 7, return_slots=return_slots
        )
        assert indices.shape == (0, 7)


def test_pages_bound_the_columns() -> None:
    q, weights, table = index_queries(2, 2, 8), torch.randn(4, 8), ints([0, 2], [1, -1])
    arguments = (q, filled_index_cache(3), weights, ints(128, 70), table)
    expected = dsa_ops.paged_indexer_topk(*arguments, 128, 50)
    assert torch.equal(dsa_ops.paged_indexer_topk(*arguments, 1 << 62, 50), expected)


def test_real_size() -> None:
    logits = torch.randn(4, 131_072)
    starts, ends = ints(0, 5, 100_000, 0), ints(131_072, 131_000, 100_100, 1 << 30)
    indices = dsa_ops.topk(logits, 2048, ends, starts)
    for row, start, end, chosen in zip(logits, starts, ends, indices, strict=True):
        order = row[start:end].sort(descending=True, stable=True).indices[:2048]
        assert torch.equal(chosen[: len(order)].long(), order.sort().values)
        assert (chosen[len(order) :] == -1).all()
