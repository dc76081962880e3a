"""Sparse attention's kernels on large memory, in graphs, on streams, again and again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dsa_ops
from tests.gpu.attention_data import (
    SCALE,
    SPLIT_ALIKE,
    queries,
    results_of,
    rows_of_kv,
    selection,
)
from tests.gpu.tools import (
    assert_registered,
    assert_repeats,
    assert_streams_do_not_mix,
    capture,
    on_device,
    same_bits,
)
from tests.select_arguments import filled_bf16_cache, filled_mla_cache, ints

__all__ = ["on_device"]


def test_kv_of_more_than_two_to_the_31_bytes() -> None:
    num_keys = 2**31 // 1152 + 5000
    kv = torch.empty(num_keys, 576, dtype=torch.bfloat16)
    small, used = rows_of_kv(256), torch.randperm(5000)[:256] + num_keys - 5000
    kv[used] = small
    q, chosen = queries(4, 64), torch.randint(0, 256, (4, 500))
    actual = dsa_ops.sparse_mla_prefill(q, kv, used[chosen].int(), SCALE)
    expected = dsa_ops.sparse_mla_prefill(q, small, chosen.int(), SCALE)
    assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("filled", [filled_mla_cache, filled_bf16_cache])
def test_a_cache_of_more_than_two_to_the_31_bytes(filled: Callable[[int, int], Tensor]) -> None:
    small = filled(4, 64)
    num_pages = 2**31 // small[0].nbytes + 200
    cache = torch.empty(num_pages, *small.shape[1:], dtype=small.dtype)
    pages = torch.tensor([0, num_pages - 150, num_pages - 2, num_pages - 1])
    cache[pages] = small
    q, chosen = queries(4, 64), torch.randint(0, 256, (4, 500))
    slots = pages[chosen // 64] * 64 + chosen % 64
    actual = dsa_ops.sparse_mla_decode(q, cache, slots.int(), SCALE)
    expected = dsa_ops.sparse_mla_decode(q, small, chosen.int(), SCALE)
    assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize(("num_heads", "few", "many"), SPLIT_ALIKE)
def test_a_row_does_not_depend_on_its_batch(num_heads: int, few: int, many: int) -> None:
    q, cache = queries(many, num_heads), filled_mla_cache(100, 64)
    indices = selection(many, 2048, 6400)
    whole = dsa_ops.sparse_mla_decode(q, cache, indices, SCALE)
    part = dsa_ops.sparse_mla_decode(q[:few], cache, indices[:few], SCALE)
    assert all(same_bits(a, b[:few]) for a, b in zip(part, whole, strict=True))


@pytest.mark.parametrize("num_heads", [8, 16, 64, 128])
def test_a_prefill_row_does_not_depend_on_its_batch(num_heads: int) -> None:
    """Too few rows to be packed, and with 64 heads or more no rows ever are."""
    q, kv, indices = queries(300, num_heads), rows_of_kv(6400), selection(300, 1000, 6400)
    whole = dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE)
    for rows in (slice(7, 8), slice(100, 240)):
        part = dsa_ops.sparse_mla_prefill(q[rows], kv, indices[rows], SCALE)
        assert all(same_bits(a, b[rows]) for a, b in zip(part, whole, strict=True))


@pytest.mark.parametrize("num_rows", [2, 33, 150])
@pytest.mark.parametrize("num_heads", [8, 16, 32, 64, 128])
def test_repeats(num_heads: int, num_rows: int) -> None:
    q, kv, cache = queries(num_rows, num_heads), rows_of_kv(6400), filled_mla_cache(100, 64)
    indices = selection(num_rows, 2048, 6400)
    assert_repeats(lambda: dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE))
    assert_repeats(lambda: dsa_ops.sparse_mla_decode(q, cache, indices, SCALE))
    rows = filled_bf16_cache(100, 64)
    assert_repeats(lambda: dsa_ops.sparse_mla_decode(q, rows, indices, SCALE))


@pytest.mark.parametrize("num_heads", [8, 16, 32, 64, 128])
def test_graph_replays_with_new_indices_lengths_and_contents(num_heads: int) -> None:
    q, kv, cache = queries(6, num_heads), rows_of_kv(1280), filled_mla_cache(20, 64)
    indices, lens = selection(6, 600, 1280), ints(600, 0, 5, 600, 64, 1)
    prefill, decode = results_of(q, 3), results_of(q, 2)

    def call() -> None:
        dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE, topk_lens=lens, out=prefill)
        dsa_ops.sparse_mla_decode(q, cache, indices, SCALE, topk_lens=lens, out=decode)

    graph = capture(call)
    q.copy_(q.flip(0)), kv.copy_(kv.flip(0)), cache.copy_(cache.flip(0))
    indices.copy_(selection(6, 600, 1280)), lens.copy_(ints(1, 600, 600, 0, 300, -1))
    for result in (*prefill, *decode):
        result.fill_(7)
    graph.replay()
    expected = (
        *dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE, topk_lens=lens),
        *dsa_ops.sparse_mla_decode(q, cache, indices, SCALE, topk_lens=lens),
    )
    assert all(same_bits(a, b) for a, b in zip((*prefill, *decode), expected, strict=True))


@pytest.mark.parametrize(("num_heads", "num_rows"), [(8, 3), (16, 33), (64, 50), (128, 3)])
def test_streams_do_not_mix(num_heads: int, num_rows: int) -> None:
    q, kv, cache = queries(num_rows, num_heads), rows_of_kv(6400), filled_mla_cache(100, 64)
    few, many = selection(num_rows, 2048, 6400), selection(num_rows, 2048, 6400)
    assert_streams_do_not_mix(
        [
            lambda: dsa_ops.sparse_mla_decode(q, cache, few, SCALE),
            lambda: dsa_ops.sparse_mla_decode(q, cache, many, SCALE),
            lambda: dsa_ops.sparse_mla_prefill(q, kv, many, SCALE),
        ]
    )


@pytest.mark.parametrize("num_heads", [16, 64])
def test_scratch_of_a_long_prompt(num_heads: int) -> None:
    """32,768 rows: neither splits of the decode op nor unions of the prefill op may grow with
    them."""
    num_rows, limit = 32_768, 256 << 20
    q, kv, cache = queries(num_rows, num_heads), rows_of_kv(6400), filled_mla_cache(100, 64)
    indices, results = torch.randint(0, 6400, (num_rows, 2048)).int(), results_of(q, 3)
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE, out=results)
    dsa_ops.sparse_mla_decode(q, cache, indices, SCALE, out=results[:2])
    assert torch.cuda.max_memory_allocated() - allocated < limit


@pytest.mark.parametrize("op", ["sparse_mla_prefill", "sparse_mla_decode"])
def test_registration(op: str) -> None:
    assert_registered(op)
