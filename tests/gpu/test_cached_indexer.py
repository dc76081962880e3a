"""Logits straight from the index cache: those of the gathered keys, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from dsa_ops.formats import index_cache_views
from tests.gpu.indexer_cases import INT32, ranges
from tests.gpu.tools import (
    Output,
    assert_registered,
    assert_repeats,
    capture,
    on_device,
    poisoned,
    same_bits,
    spaced,
)
from tests.select_arguments import filled_index_cache, index_queries, ints

__all__ = ["on_device"]


def cached(num_rows: int, num_list: int, num_heads: int) -> tuple[Tensor, ...]:
    """q, a cache with gaps between shuffled pages, a page list, weights and ranges."""
    cache = filled_index_cache(num_list + 3, page_stride=8448 + 112)
    pages = torch.randperm(num_list + 3)[:num_list].int()
    starts, ends = ranges(num_rows, 64 * num_list)
    weights = torch.randn(num_rows, num_heads)
    return index_queries(num_rows, num_heads), cache, pages, weights, starts, ends


def from_gathered(arguments: tuple[Tensor, ...], clean: bool) -> Tensor:
    """The flat op on gathered keys, and -inf where a page is not in the cache."""
    q, cache, pages, weights, starts, ends = arguments
    num_keys = 64 * len(pages)
    missing = (pages < 0) | (pages >= len(cache))
    table = torch.where(missing, 0, pages)[None]
    k, k_scale = dsa_ops.gather_index_cache(cache, table, ints(0, num_keys), num_keys)
    logits = dsa_ops.indexer_logits(q, k, k_scale, weights, starts, ends, clean=clean)
    return logits.masked_fill_(missing.repeat_interleave(64), -torch.inf)


def inside(arguments: tuple[Tensor, ...]) -> Tensor:
    pages, starts, ends = arguments[2], arguments[4], arguments[5]
    columns = torch.arange(64 * len(pages))
    return (columns >= starts[:, None]) & (columns < ends[:, None])


@pytest.mark.parametrize("num_heads", [8, 16, 32, 64])
@pytest.mark.parametrize("num_rows", [1, 6, 67])
@pytest.mark.parametrize("num_list", [1, 2, 3, 70, 141])
def test_equal_to_gathered_keys(num_rows: int, num_list: int, num_heads: int) -> None:
    arguments = cached(num_rows, num_list, num_heads)
    columns = 64 * num_list
    clean = poisoned(num_rows, columns)
    dsa_ops.cached_indexer_logits(*arguments, clean=True, out=clean)
    assert same_bits(clean, from_gathered(arguments, clean=True))
    unclean = poisoned(num_rows, columns)
    dsa_ops.cached_indexer_logits(*arguments, out=unclean)
    seen = inside(arguments)
    assert same_bits(unclean[seen], clean[seen])


@pytest.mark.parametrize("num_heads", [8, 64])
def test_pages_that_are_not_in_the_cache(num_heads: int) -> None:
    arguments = cached(40, 90, num_heads)
    pages = arguments[2]
    pages[::7], pages[3], pages[4], pages[11:15], pages[-1] = -1, INT32.max, INT32.min, 93, -9
    clean = dsa_ops.cached_indexer_logits(*arguments, clean=True)
    assert same_bits(clean, from_gathered(arguments, clean=True))
    unclean = dsa_ops.cached_indexer_logits(*arguments)
    seen = inside(arguments)
    assert same_bits(unclean[seen], clean[seen])


def test_against_float64() -> None:
    arguments = cached(50, 40, 64)
    expected = reference.cached_indexer_logits(*arguments, clean=True, compute_dtype=torch.float64)
    logits = dsa_ops.cached_indexer_logits(*arguments, clean=True)
    finite = expected.isfinite()
    assert torch.equal(logits.isfinite(), finite)
    error = (logits.double() - expected)[finite].norm()
    assert error <= 5e-4 * expected[finite].norm()


def test_requests_of_a_block_table() -> None:
    """Several requests in one call score what each scores alone, and what decode scores."""
    batch, per_request, heads = 5, 12, 64
    cache = filled_index_cache(batch * per_request)
    table = torch.randperm(batch * per_request).int().view(batch, per_request)
    lengths = [700, 768, 1, 65, 400]
    rows_of = [100, 3, 1, 65, 30]
    q, weights = index_queries(sum(rows_of), heads), torch.randn(sum(rows_of), heads)
    request = torch.repeat_interleave(torch.arange(batch), torch.tensor(rows_of))
    last = [
        torch.arange(length - rows + 1, length + 1)
        for length, rows in zip(lengths, rows_of, strict=True)
    ]
    lens = torch.cat(last).int()
    starts = (request * per_request * 64).int()
    logits = dsa_ops.cached_indexer_logits(
        q, cache, table.flatten(), weights, starts, starts + lens
    )
    for b in range(batch):
        rows = request == b
        alone = dsa_ops.paged_indexer_logits(
            q[rows][None], cache, weights[rows], lens[rows][None], table[b : b + 1], lengths[b]
        )
        first = b * per_request * 64
        columns = logits[rows, first : first + lengths[b]]
        seen = alone.isfinite()
        assert same_bits(columns[seen], alone[seen])
        assert int(seen.sum()) == int(lens[rows].sum())


def test_strides() -> None:
    q, cache, pages, weights, starts, ends = cached(37, 13, 16)
    expected = dsa_ops.cached_indexer_logits(q, cache, pages, weights, starts, ends, clean=True)
    output = Output(37, 13 * 64, dtype=torch.float32, offset=3)
    dsa_ops.cached_indexer_logits(
        spaced(q, 16), cache.unsqueeze(2), pages, spaced(weights, 5), starts, ends,
        clean=True, out=output.tensor,
    )  # fmt: skip
    assert same_bits(output.tensor, expected)
    output.assert_untouched_around()
    dsa_ops.cached_indexer_logits(q, cache, pages, weights, starts, ends, out=output.tensor)
    output.assert_untouched_around()


def test_nan_in_pages_off_the_list_never_leaks() -> None:
    q, cache, pages, weights, starts, ends = cached(20, 9, 32)
    expected = dsa_ops.cached_indexer_logits(q, cache, pages, weights, starts, ends, clean=True)
    keys, scales = index_cache_views(cache)
    listed = set(pages.tolist())
    for page in set(range(len(cache))) - listed:
        keys.view(torch.uint8)[page] = 0x7F
        scales[page] = torch.nan
    actual = dsa_ops.cached_indexer_logits(q, cache, pages, weights, starts, ends, clean=True)
    assert same_bits(actual, expected)


def test_empty_calls() -> None:
    q, cache, pages, weights, starts, ends = cached(4, 2, 8)
    no_rows = (q[:0], cache, pages, weights[:0], starts[:0], ends[:0])
    assert dsa_ops.cached_indexer_logits(*no_rows, clean=True).shape == (0, 128)
    no_list = (q, cache, pages[:0], weights, starts, ends)
    assert dsa_ops.cached_indexer_logits(*no_list, clean=True).shape == (4, 0)
    no_pages = (q, cache[:0], pages, weights, starts, ends)
    assert dsa_ops.cached_indexer_logits(*no_pages, clean=True).isneginf().all()
    torch.cuda.synchronize()


def test_a_cache_of_more_than_two_to_the_31_bytes() -> None:
    num_pages = 2**31 // 8448 + 100
    small = filled_index_cache(4)
    cache = torch.empty(num_pages, 64, 132, dtype=torch.uint8)
    pages = ints(0, num_pages // 2, num_pages - 1, num_pages - 50)
    cache[pages.long()] = small
    q, weights, zeros = index_queries(9, 64), torch.randn(9, 64), torch.zeros(9).int()
    rest = (weights, zeros, zeros + 256)
    expected = dsa_ops.cached_indexer_logits(q, small, ints(0, 1, 2, 3), *rest)
    assert same_bits(dsa_ops.cached_indexer_logits(q, cache, pages, *rest), expected)


def test_repeats_and_graphs() -> None:
    arguments = cached(130, 47, 64)
    assert_repeats(lambda: (dsa_ops.cached_indexer_logits(*arguments, clean=True),))
    logits = poisoned(130, 47 * 64)
    graph = capture(lambda: dsa_ops.cached_indexer_logits(*arguments, clean=True, out=logits))
    for target, source in zip(arguments, cached(130, 47, 64), strict=True):
        target.copy_(source)
    logits.fill_(0)
    graph.replay()
    assert same_bits(logits, dsa_ops.cached_indexer_logits(*arguments, clean=True))


def test_registration() -> None:
    assert_registered("cached_indexer_logits")
