"""The indexer's reference and public functions against loops in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from dsa_ops.formats import FP8
from tests import naive
from tests.select_arguments import filled_index_cache, index_keys, index_queries, ints

INT32 = torch.iinfo(torch.int32)


def naive_logits(
    q: Tensor, k: Tensor, k_scale: Tensor, weights: Tensor, starts: Tensor, ends: Tensor
) -> Tensor:
    logits = torch.full((q.shape[0], k.shape[0]), -torch.inf, dtype=torch.float64)
    for row in range(q.shape[0]):
        for n in range(max(int(starts[row]), 0), min(int(ends[row]), k.shape[0])):
            logits[row, n] = naive.logit(
                q[row].double().tolist(), k[n].double().tolist(), float(k_scale[n]),
                weights[row].tolist(),
            )  # fmt: skip
    return logits


def assert_logits(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """The same entries finite, and close relative to the norm of the finite ones."""
    assert torch.equal(actual.isneginf(), expected.isneginf())
    finite = expected.isfinite()
    error = (actual.double() - expected)[finite].norm()
    assert error <= tolerance * expected[finite].norm()


@pytest.mark.parametrize("num_heads", [8, 16, 32, 64])
def test_logits_match_loops(num_heads: int) -> None:
    q, weights = index_queries(6, num_heads), torch.randn(6, num_heads)
    k, k_scale = index_keys(11)
    starts = ints(0, -5, 3, 7, INT32.min, 2)
    ends = ints(11, 4, 99, 7, INT32.max, -1)
    expected = naive_logits(q, k, k_scale, weights, starts, ends)
    arguments = (q, k, k_scale, weights, starts, ends)
    oracle = reference.indexer_logits(*arguments, clean=True, compute_dtype=torch.float64)
    assert_logits(oracle, expected, 1e-14)
    assert_logits(dsa_ops.indexer_logits(*arguments, clean=True), expected, 1e-6)
    inside = expected.isfinite()
    unclean = dsa_ops.indexer_logits(*arguments)
    assert (unclean.double() - expected)[inside].norm() <= 1e-6 * expected[inside].norm()


def test_scores_below_zero_count_nothing() -> None:
    q = torch.cat([torch.ones(1, 4, 128), -torch.ones(1, 4, 128)], 1).to(FP8)
    weights = torch.tensor([[1.0, 1, 1, 1, 99, 99, 99, 99]])
    k = torch.ones(2, 128).to(FP8)
    logits = dsa_ops.indexer_logits(q, k, ints(1, -2).float(), weights, ints(0), ints(2))
    assert logits.tolist() == [[512.0, -1024.0]]


def test_float_inputs_are_not_quantised() -> None:
    q, k = torch.randn(3, 8, 128), torch.randn(5, 128)
    arguments = (q, k, torch.rand(5), torch.randn(3, 8), ints(0, 0, 0), ints(5, 5, 5))
    actual = reference.indexer_logits(*arguments)
    assert actual.dtype == torch.float32
    assert_logits(actual, naive_logits(*arguments), 1e-6)


def test_rows_and_keys_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    q, weights = index_queries(5, 8), torch.randn(5, 8)
    k, k_scale = index_keys(300)
    arguments = (q, k, k_scale, weights, ints(*[0] * 5), ints(*[300] * 5))
    whole = reference.indexer_logits(*arguments, compute_dtype=torch.float64)
    monkeypatch.setattr("dsa_ops.reference.indexer._KEYS_PER_BLOCK", 64)
    monkeypatch.setattr("dsa_ops.reference.indexer.BLOCK_ELEMENTS", 64 * 8 * 2)
    blocks = reference.indexer_logits(*arguments, clean=True, compute_dtype=torch.float64)
    assert_logits(blocks, whole, 1e-14)


def test_no_rows_or_no_keys() -> None:
    none = torch.empty(0, dtype=torch.int32)
    k, k_scale = index_keys(3)
    empty_rows = dsa_ops.indexer_logits(
        index_queries(0, 8), k, k_scale, torch.empty(0, 8), none, none
    )
    assert empty_rows.shape == (0, 3)
    empty_keys = dsa_ops.indexer_logits(
        index_queries(2, 8), k[:0], k_scale[:0], torch.ones(2, 8), ints(0, 0), ints(5, 5)
    )
    assert empty_keys.shape == (2, 0)


def test_nan_stays_in_its_row_and_column() -> None:
    q, weights = index_queries(3, 8), torch.randn(3, 8)
    k, k_scale = index_keys(6)
    rows = (ints(0, 0, 0), ints(6, 6, 4))
    clean = dsa_ops.indexer_logits(q, k, k_scale, weights, *rows, clean=True)
    k_scale[5] = torch.nan
    q[0, 3, 7] = torch.nan
    dirty = dsa_ops.indexer_logits(q, k, k_scale, weights, *rows, clean=True)
    assert dirty[0].isnan().all() and dirty[1, 5].isnan()
    assert torch.equal(dirty[1:, :5], clean[1:, :5]) and torch.equal(dirty[2], clean[2])


def test_strides_and_out() -> None:
    q = index_queries(4, 16)[::2, ::2]
    weights = torch.randn(2, 13)[:, 3:11]
    k, k_scale = index_keys(10)
    arguments = (q, k[::2], k_scale[:5], weights, ints(0, 1), ints(5, 4))
    expected = dsa_ops.indexer_logits(*[a.contiguous() for a in arguments], clean=True)
    out = torch.zeros(2, 9)[:, :5]
    assert dsa_ops.indexer_logits(*arguments, clean=True, out=out) is out
    assert torch.equal(out, expected)


def naive_cached_logits(
    q: Tensor, cache: Tensor, pages: Tensor, weights: Tensor, starts: Tensor, ends: Tensor
) -> Tensor:
    columns = 64 * len(pages)
    logits = torch.full((q.shape[0], columns), -torch.inf, dtype=torch.float64)
    bytes_of_page = [bytes(page.flatten().tolist()) for page in cache.reshape(len(cache), -1)]
    for row in range(q.shape[0]):
        for n in range(max(int(starts[row]), 0), min(int(ends[row]), columns)):
            page = int(pages[n // 64])
            if 0 <= page < len(cache):
                key, scale = naive.index_key(bytes_of_page[page], n % 64)
                logits[row, n] = naive.logit(
                    q[row].double().tolist(), key, scale, weights[row].tolist()
                )
    return logits


def test_cached_logits_match_loops() -> None:
    q, weights = index_queries(6, 8), torch.randn(6, 8)
    cache = filled_index_cache(4, page_stride=8448 + 48)
    pages = ints(3, -1, 0, 4, 2)
    starts = ints(0, -5, 60, 300, INT32.min, 7)
    ends = ints(320, 70, 999, 300, INT32.max, -1)
    expected = naive_cached_logits(q, cache, pages, weights, starts, ends)
    arguments = (q, cache, pages, weights, starts, ends)
    oracle = reference.cached_indexer_logits(*arguments, clean=True, compute_dtype=torch.float64)
    assert_logits(oracle, expected, 1e-14)
    clean = dsa_ops.cached_indexer_logits(*arguments, clean=True)
    assert_logits(clean, expected, 1e-6)
    inside = expected.isfinite()
    unclean = dsa_ops.cached_indexer_logits(q, cache.unsqueeze(2), *arguments[2:])
    assert torch.equal(unclean[inside], clean[inside])
    out = torch.zeros(6, 330)[:, :320]
    assert dsa_ops.cached_indexer_logits(*arguments, clean=True, out=out) is out
    assert torch.equal(out, clean)


def test_cached_logits_without_pages_or_rows() -> None:
    q, weights, ends = index_queries(2, 8), torch.randn(2, 8), ints(64, 64)
    cache, pages = filled_index_cache(2), ints(1)
    no_cache = dsa_ops.cached_indexer_logits(q, cache[:0], pages, weights, ends - 64, ends)
    assert no_cache.isneginf().all() and no_cache.shape == (2, 64)
    no_list = dsa_ops.cached_indexer_logits(q, cache, pages[:0], weights, ends - 64, ends)
    assert no_list.shape == (2, 0)
    no_rows = (q[:0], cache, pages, weights[:0], ends[:0], ends[:0])
    assert dsa_ops.cached_indexer_logits(*no_rows).shape == (0, 64)


def naive_paged_logits(
    q: Tensor, cache: Tensor, weights: Tensor, lens: list[list[int]], table: Tensor, columns: int
) -> Tensor:
    batch, next_n = q.shape[:2]
    logits = torch.full((batch * next_n, columns), -torch.inf, dtype=torch.float64)
    pages = [bytes(page.flatten().tolist()) for page in cache.reshape(len(cache), -1)]
    for b in range(batch):
        for j in range(next_n):
            for n in range(min(lens[b][j], columns, 64 * table.shape[1])):
                page = int(table[b, n // 64])
                if 0 <= page < len(pages):
                    key, scale = naive.index_key(pages[page], n % 64)
                    row = b * next_n + j
                    logits[row, n] = naive.logit(
                        q[b, j].double().tolist(), key, scale, weights[row].tolist()
                    )
    return logits


@pytest.mark.parametrize("next_n", [1, 2, 3, 4])
@pytest.mark.parametrize("per_token", [False, True])
def test_paged_logits_match_loops(next_n: int, per_token: bool) -> None:
    q, weights = index_queries(4, next_n, 8), torch.randn(4 * next_n, 8)
    cache = filled_index_cache(5, page_stride=8448 + 48)
    table = ints([4, 1], [3, -1], [0, 5], [INT32.max, 2])
    if per_token:
        lens = [[5, 70, 1, 0][:next_n], [66] * next_n, [-3] * next_n, [INT32.max] * next_n]
        context_lens = ints(*lens)
    else:
        last = [67, 65, 2, INT32.min]
        lens = [[length - next_n + 1 + j for j in range(next_n)] for length in last]
        context_lens = ints(*last)
    expected = naive_paged_logits(q, cache, weights, lens, table, 75)
    arguments = (q, cache, weights, context_lens, table, 75)
    oracle = reference.paged_indexer_logits(*arguments, compute_dtype=torch.float64)
    assert_logits(oracle, expected, 1e-14)
    actual = dsa_ops.paged_indexer_logits(*arguments)
    assert_logits(actual, expected, 1e-6)
    out = torch.zeros(4 * next_n, 80)[:, :75]
    as_4d = cache.unsqueeze(2)
    result = dsa_ops.paged_indexer_logits(q, as_4d, weights, context_lens, table, 75, out=out)
    assert result is out and torch.equal(out, actual)


def test_paged_logits_without_pages_or_columns() -> None:
    q, weights = index_queries(1, 2, 8), torch.randn(2, 8)
    cache, table = filled_index_cache(2), ints([0, 1])
    empty = dsa_ops.paged_indexer_logits(q, cache[:0], weights, ints(9), table, 4)
    assert empty.isneginf().all() and empty.shape == (2, 4)
    no_table = dsa_ops.paged_indexer_logits(q, cache, weights, ints(9), table[:, :0], 4)
    assert no_table.isneginf().all() and no_table.shape == (2, 4)
    assert dsa_ops.paged_indexer_logits(q, cache, weights, ints(9), table, 0).shape == (2, 0)
    no_requests = (q[:0], cache, weights[:0], ints(9)[:0], table[:0], 4)
    assert dsa_ops.paged_indexer_logits(*no_requests).shape == (0, 4)


def test_nan_in_unread_slots_never_leaks() -> None:
    q, weights = index_queries(1, 1, 8), torch.randn(1, 8)
    cache, table = filled_index_cache(3), ints([1, 2])
    expected = dsa_ops.paged_indexer_logits(q, cache, weights, ints(70), table, 128)
    keys, scales = dsa_ops.formats.index_cache_views(cache)
    for page, first in ((0, 0), (2, 6)):
        keys.view(torch.uint8)[page, first:] = 0x7F
        scales[page, first:] = torch.nan
    actual = dsa_ops.paged_indexer_logits(q, cache, weights, ints(70), table, 128)
    assert torch.equal(actual, expected) and expected.isfinite().sum() == 70


def test_paged_logits_equal_ragged_logits() -> None:
    num_pages, length = 5, 300
    cache = filled_index_cache(num_pages)
    table = torch.randperm(num_pages).int()[None]
    keys, scales = dsa_ops.formats.index_cache_views(cache)
    k = keys.view(torch.uint8)[table[0].long()].view(FP8).flatten(0, 1)[:length]
    k_scale = scales[table[0].long()].flatten()[:length]
    q, weights = index_queries(1, 2, 64), torch.randn(2, 64)
    ragged = dsa_ops.indexer_logits(
        q[0], k, k_scale, weights, ints(0, 0), ints(length - 1, length), clean=True
    )
    paged = dsa_ops.paged_indexer_logits(q, cache, weights, ints(length), table, length)
    assert_logits(paged, ragged.double(), 1e-6)


def test_real_size() -> None:
    num_keys = 131_072
    q, weights = index_queries(2, 64), torch.randn(2, 64)
    k, k_scale = index_keys(num_keys)
    starts, ends = ints(0, 1000), ints(num_keys, 130_000)
    logits = dsa_ops.indexer_logits(q, k, k_scale, weights, starts, ends, clean=True)
    assert logits.isfinite().sum(1).tolist() == [num_keys, 129_000]
    some = torch.tensor([1000, 65_535, 65_536, 129_999])
    expected = naive_logits(q, k[some], k_scale[some], weights, ints(0, 0), ints(4, 4))
    assert_logits(logits[:, some], expected, 1e-6)
