"""The indexer's kernels against float64 on the same quantised inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from dsa_ops.formats import FP8, index_cache_views
from tests.gpu.indexer_cases import INT32, paged, ragged
from tests.gpu.tools import Output, on_device, poisoned, relative_error, same_bits, spaced
from tests.select_arguments import filled_index_cache, index_keys, index_queries, ints

__all__ = ["on_device"]
TOLERANCE = 5e-4
#: The tensor cores align 32 products and the sum so far to the largest and keep about 14 bits.
TERM_TOLERANCE = 2.0**-13
#: From so many logits on the bound on their common error is meaningful.
MANY = 300


def oracle_logits(*arguments: Tensor) -> Tensor:
    return reference.indexer_logits(*arguments, clean=True, compute_dtype=torch.float64)


def assert_logits(actual: Tensor, expected: Tensor) -> None:
    """The bound of many logits together; of a few the terms may cancel."""
    inside = expected.isfinite()
    assert relative_error(actual[inside], expected[inside]) <= TOLERANCE


def assert_each_logit(actual: Tensor, expected: Tensor, magnitude: Tensor) -> None:
    """Each error against the sum of its products' magnitudes, the logit of absolute inputs."""
    inside = expected.isfinite()
    error = (actual.double() - expected)[inside].abs()
    assert (error <= TERM_TOLERANCE * magnitude[inside]).all()


@pytest.mark.parametrize("num_heads", [8, 16, 32, 64])
@pytest.mark.parametrize("num_rows", [1, 6, 67])
@pytest.mark.parametrize("num_keys", [1, 63, 1000, 4161])
def test_logits(num_rows: int, num_keys: int, num_heads: int) -> None:
    arguments = ragged(num_rows, num_keys, num_heads)
    expected = oracle_logits(*arguments)
    clean = poisoned(num_rows, num_keys)
    dsa_ops.indexer_logits(*arguments, clean=True, out=clean)
    assert torch.equal(clean.isneginf(), expected.isneginf())
    q, k, k_scale, weights, starts, ends = arguments
    q, k = q.float().abs(), k.float().abs()
    assert_each_logit(clean, expected, oracle_logits(q, k, k_scale, weights.abs(), starts, ends))
    if expected.isfinite().sum() >= MANY:
        assert_logits(clean, expected)
    unclean = poisoned(num_rows, num_keys)
    dsa_ops.indexer_logits(*arguments, out=unclean)
    inside = expected.isfinite()
    assert same_bits(unclean[inside], clean[inside])


@pytest.mark.parametrize("num_heads", [8, 64])
def test_strides(num_heads: int) -> None:
    q, k, k_scale, weights, starts, ends = ragged(37, 777, num_heads)
    expected = dsa_ops.indexer_logits(q, k, k_scale, weights, starts, ends, clean=True)
    output = Output(37, 777, dtype=torch.float32, offset=3)
    dsa_ops.indexer_logits(
        spaced(q, 16), spaced(k, 48), k_scale, spaced(weights, 5), starts, ends,
        clean=True, out=output.tensor,
    )  # fmt: skip
    assert same_bits(output.tensor, expected)
    output.assert_untouched_around()
    dsa_ops.indexer_logits(q, k, k_scale, weights, starts, ends, out=output.tensor)
    output.assert_untouched_around()


def test_a_single_row_and_key_with_odd_strides() -> None:
    q = torch.zeros(4096, dtype=torch.uint8).view(FP8).as_strided((1, 8, 128), (1, 128, 1))
    q.copy_(index_queries(1, 8))
    k, k_scale = index_keys(1)
    arguments = (k_scale, torch.randn(1, 8), ints(0), ints(1))
    expected = dsa_ops.indexer_logits(q.clone(), k, *arguments)
    assert same_bits(
        dsa_ops.indexer_logits(q, k.as_strided((1, 128), (3, 1)), *arguments), expected
    )


def test_no_rows_or_no_keys() -> None:
    q, k, k_scale, weights, starts, ends = ragged(4, 10, 8)
    no_rows = (q[:0], k, k_scale, weights[:0], starts[:0], ends[:0])
    assert dsa_ops.indexer_logits(*no_rows, clean=True).shape == (0, 10)
    no_keys = (q, k[:0], k_scale[:0], weights, starts, ends)
    assert dsa_ops.indexer_logits(*no_keys, clean=True).shape == (4, 0)
    torch.cuda.synchronize()


def test_rows_do_not_depend_on_their_batch_or_keys() -> None:
    q, k, k_scale, weights, _, _ = ragged(150, 1500, 64)
    starts, ends = torch.zeros(150).int(), torch.full((150,), 1500).int()
    batch = dsa_ops.indexer_logits(q, k, k_scale, weights, starts, ends)
    for rows in (slice(0, 1), slice(77, 78), slice(3, 10), slice(149, 150)):
        alone = dsa_ops.indexer_logits(q[rows], k, k_scale, weights[rows], starts[rows], ends[rows])
        assert same_bits(alone, batch[rows])
    part = dsa_ops.indexer_logits(q, k[5:700], k_scale[5:700].clone(), weights, starts, ends)
    assert same_bits(part, batch[:, 5:700])
    narrow = dsa_ops.indexer_logits(q, k, k_scale, weights, starts + 700, ends - 790)
    assert same_bits(narrow[:, 700:710], batch[:, 700:710])


def test_nan_stays_in_its_row_and_column() -> None:
    q, k, k_scale, weights, _, _ = ragged(20, 300, 32)
    starts, ends = torch.zeros(20).int(), torch.full((20,), 300).int()
    clean = dsa_ops.indexer_logits(q, k, k_scale, weights, starts, ends)
    q.view(torch.uint8)[4, 9, 17] = 0x7F
    k.view(torch.uint8)[130, 5] = 0x7F
    k_scale[131], k_scale[132] = torch.nan, torch.inf
    dirty = dsa_ops.indexer_logits(q, k, k_scale, weights, starts, ends)
    assert dirty[4].isnan().all() and dirty[:, 130:132].isnan().all()
    rows = [row for row in range(20) if row != 4]
    columns = [*range(130), *range(133, 300)]
    assert same_bits(dirty[rows][:, columns], clean[rows][:, columns])


def test_seventy_thousand_rows() -> None:
    arguments = ragged(70_000, 130, 8)
    logits = poisoned(70_000, 130)
    dsa_ops.indexer_logits(*arguments, clean=True, out=logits)
    expected = oracle_logits(*arguments)
    assert torch.equal(logits.isneginf(), expected.isneginf())
    assert_logits(logits, expected)


def test_more_than_two_to_the_31_logits() -> None:
    num_rows, num_keys, width = 17_000, 131_072, 40
    q, weights = index_queries(num_rows, 8), torch.randn(num_rows, 8)
    k, k_scale = index_keys(num_keys)
    starts = torch.randint(0, num_keys - width, (num_rows,)).int()
    starts[-1] = num_keys - width
    logits = torch.empty(num_rows, num_keys)
    dsa_ops.indexer_logits(q, k, k_scale, weights, starts, starts + width, clean=True, out=logits)
    columns = starts.long()[:, None] + torch.arange(width)
    dots = torch.bmm(q.double(), k.double()[columns].transpose(1, 2)).relu_()
    expected = (weights.double()[..., None] * dots).sum(1) * k_scale.double()[columns]
    assert_logits(logits.gather(1, columns), expected)
    for rows in logits.split(2048):
        assert (rows.isfinite().sum(1) == width).all()


@pytest.mark.parametrize("num_heads", [8, 16, 32, 64])
@pytest.mark.parametrize("next_n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("per_token", [False, True])
def test_paged_logits(next_n: int, num_heads: int, per_token: bool) -> None:
    batch, columns = 7, 300
    q, cache, weights, table = paged(batch, next_n, num_heads, 5)
    context_lens = ints(320, 64, 65, 0, INT32.min, INT32.max, 129)
    if per_token:
        context_lens = torch.randint(-5, 330, (batch, next_n)).int()
        context_lens[1, 0], context_lens[2, -1] = INT32.min, INT32.max
    arguments = (q, cache, weights, context_lens, table, columns)
    expected = reference.paged_indexer_logits(*arguments, compute_dtype=torch.float64)
    logits = poisoned(batch * next_n, columns)
    dsa_ops.paged_indexer_logits(*arguments, out=logits)
    assert torch.equal(logits.isneginf(), expected.isneginf())
    absolute_cache = cache.clone()
    index_cache_views(absolute_cache)[0].view(torch.uint8).bitwise_and_(0x7F)  # the signs
    magnitude = reference.paged_indexer_logits(
        q.float().abs(), absolute_cache, weights.abs(), context_lens, table, columns,
        compute_dtype=torch.float64,
    )  # fmt: skip
    assert_each_logit(logits, expected, magnitude)
    if expected.isfinite().sum() >= MANY:
        assert_logits(logits, expected)
    output = Output(batch * next_n, columns, dtype=torch.float32, offset=1)
    strided = (spaced(q, 32), cache.unsqueeze(2), spaced(weights, 3), context_lens)
    dsa_ops.paged_indexer_logits(*strided, spaced(table, 2), columns, out=output.tensor)
    assert same_bits(output.tensor, logits)
    output.assert_untouched_around()


@pytest.mark.parametrize("num_heads", [8, 64])
@pytest.mark.parametrize("length", [1, 64, 1000, 5000])
def test_paged_logits_equal_ragged_logits(length: int, num_heads: int) -> None:
    pages = (length + 63) // 64
    cache, table = filled_index_cache(pages), torch.randperm(pages).int()[None]
    k, k_scale = dsa_ops.gather_index_cache(cache, table, ints(0, length), length)
    q, weights = index_queries(1, 3, num_heads), torch.randn(3, num_heads)
    lens = torch.tensor([[length - 1, length, length // 2]]).int()
    by_page = dsa_ops.paged_indexer_logits(q, cache, weights, lens, table, length)
    by_row = dsa_ops.indexer_logits(q[0], k, k_scale, weights, ints(0, 0, 0), lens[0], clean=True)
    assert same_bits(by_page, by_row)


def test_requests_do_not_depend_on_their_batch() -> None:
    q, cache, weights, table = paged(9, 2, 64, 30)
    context_lens = torch.randint(0, 1900, (9,)).int()
    batch = dsa_ops.paged_indexer_logits(q, cache, weights, context_lens, table, 1900)
    for b in range(9):
        own, rows = slice(b, b + 1), slice(2 * b, 2 * b + 2)
        alone = dsa_ops.paged_indexer_logits(
            q[own], cache, weights[rows], context_lens[own], table[own], 1900
        )
        assert same_bits(alone, batch[rows])


def test_nan_in_unread_slots_never_leaks() -> None:
    cache, table = filled_index_cache(6), ints([3, 1], [5, 0])
    q, weights, lens = index_queries(2, 2, 32), torch.randn(4, 32), ints(70, 128)
    expected = dsa_ops.paged_indexer_logits(q, cache, weights, lens, table, 128)
    keys, scales = index_cache_views(cache)
    for page, first in ((2, 0), (4, 0), (1, 6)):
        keys.view(torch.uint8)[page, first:] = 0x7F
        scales[page, first:] = torch.nan
    assert same_bits(dsa_ops.paged_indexer_logits(q, cache, weights, lens, table, 128), expected)


def test_empty_paged_calls() -> None:
    q, cache, weights, table = paged(2, 2, 8, 2)
    lens = ints(90, 90)
    no_pages = dsa_ops.paged_indexer_logits(q, cache[:0], weights, lens, table, 100)
    assert no_pages.isneginf().all()
    no_table = dsa_ops.paged_indexer_logits(q, cache, weights, lens, table[:, :0], 100)
    assert no_table.isneginf().all()
    assert dsa_ops.paged_indexer_logits(q, cache, weights, lens, table, 0).shape == (4, 0)
    none = dsa_ops.paged_indexer_logits(q[:0], cache, weights[:0], lens[:0], table[:0], 100)
    assert none.shape == (0, 100)
    torch.cuda.synchronize()


def test_a_cache_of_more_than_two_to_the_31_bytes() -> None:
    num_pages = 2**31 // 8448 + 100
    small = filled_index_cache(4)
    cache = torch.empty(num_pages, 64, 132, dtype=torch.uint8)
    pages = ints(0, num_pages // 2, num_pages - 1, num_pages - 50)
    cache[pages.long()] = small
    q, weights, lens = index_queries(1, 2, 64), torch.randn(2, 64), ints(250)
    expected = dsa_ops.paged_indexer_logits(q, small, weights, lens, ints([0, 1, 2, 3]), 256)
    actual = dsa_ops.paged_indexer_logits(q, cache, weights, lens, pages[None], 256)
    assert same_bits(actual, expected)
