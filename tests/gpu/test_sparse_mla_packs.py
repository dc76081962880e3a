"""Prefill rows that attend as a pack, over the union of their index lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from tests.gpu.attention_data import INT32, SCALE, queries, results_of, rows_of_kv
from tests.gpu.test_sparse_mla import LSE_TOLERANCE, assert_attention, check_prefill
from tests.gpu.tools import (
    assert_repeats,
    assert_streams_do_not_mix,
    capture,
    on_device,
    relative_error,
    same_bits,
)

__all__ = ["on_device"]
#: Between a row in a pack and the same row alone: the order of its sums, and their roundings.
OUT_TOLERANCE = 4e-3
ROUNDING = 1e-5
#: Enough work to be packed, and the last pack not full.
NUM_ROWS, TOP_K = 2605, 830
NUM_KEYS = 3000
ALONE_ROWS = 64


def one_by_one(q: Tensor, kv: Tensor, indices: Tensor, **options: Any) -> tuple[Tensor, ...]:
    """The same rows, so few at a time that none is packed."""
    lens = options.pop("topk_lens", None)
    parts = [
        dsa_ops.sparse_mla_prefill(
            q[rows], kv, indices[rows], SCALE,
            topk_lens=None if lens is None else lens[rows], **options,
        )
        for rows in map(lambda t: slice(t, t + ALONE_ROWS), range(0, len(q), ALONE_ROWS))
    ]  # fmt: skip
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def assert_same_rows(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert relative_error(actual[0], expected[0]) <= OUT_TOLERANCE
    for result, target in zip(actual[1:], expected[1:], strict=True):
        torch.testing.assert_close(result, target, rtol=0, atol=ROUNDING)


def check_packs(q: Tensor, kv: Tensor, indices: Tensor, **options: Any) -> None:
    actual = results_of(q, 3)
    torch.cuda.reset_peak_memory_stats()
    allocated = torch.cuda.memory_allocated()
    dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE, **options, out=actual)
    assert torch.cuda.max_memory_allocated() > allocated, "no scratch for unions"
    assert_same_rows(actual, one_by_one(q, kv, indices, **options))


def ascending(num_rows: int, top_k: int, num_keys: int) -> Tensor:
    return torch.rand(num_rows, num_keys).topk(top_k).indices.sort().values.int()


def identical(num_rows: int, top_k: int, num_keys: int) -> Tensor:
    return ascending(1, top_k, num_keys).expand(num_rows, -1).contiguous()


def drifting(num_rows: int, top_k: int, num_keys: int) -> Tensor:
    """Each row replaces an eighth of the one before."""
    order = torch.rand(num_keys).argsort().repeat(2)
    start = torch.arange(num_rows)[:, None] * (top_k // 8) % num_keys
    return order[start + torch.arange(top_k)].sort().values.int()


def disjoint(num_rows: int, top_k: int, num_keys: int) -> Tensor:
    return ((torch.arange(num_rows * top_k) % num_keys).view(num_rows, top_k)).int()


def alternating(num_rows: int, top_k: int, num_keys: int) -> Tensor:
    """Even rows agree, odd rows agree, and neighbours have nothing in common."""
    both = torch.rand(num_keys).argsort()[: 2 * top_k].view(2, top_k).sort().values.int()
    return both[torch.arange(num_rows) % 2]


def one_stranger(num_rows: int, top_k: int, num_keys: int) -> Tensor:
    """Every fifth row shares nothing with the others."""
    rows = alternating(2, top_k, num_keys)
    return rows[(torch.arange(num_rows) % 5 == 4).long()]


NEIGHBOURS = [ascending, identical, drifting, disjoint, alternating, one_stranger]


@pytest.mark.parametrize("neighbours", NEIGHBOURS)
@pytest.mark.parametrize("num_heads", [8, 16, 32])
def test_neighbours(num_heads: int, neighbours: Callable[[int, int, int], Tensor]) -> None:
    q, kv = queries(NUM_ROWS, num_heads), rows_of_kv(7000)
    check_packs(q, kv, neighbours(NUM_ROWS, TOP_K, 7000))


@pytest.mark.parametrize("head_dim", [576, 512])
@pytest.mark.parametrize("num_heads", [1, 3, 5, 8, 11, 12, 16, 21, 24, 32])
def test_heads_against_float64(num_heads: int, head_dim: int) -> None:
    q, kv = queries(NUM_ROWS, num_heads, head_dim), rows_of_kv(NUM_KEYS, head_dim)
    check_prefill(q, kv, drifting(NUM_ROWS, TOP_K, NUM_KEYS))


@pytest.mark.parametrize("num_rows", range(2600, 2609))
def test_the_last_pack(num_rows: int) -> None:
    indices = drifting(num_rows, TOP_K, NUM_KEYS)
    check_packs(queries(num_rows, 8), rows_of_kv(NUM_KEYS), indices)


@pytest.mark.parametrize("top_k", [1, 63, 64, 65, 2048])
def test_any_k(top_k: int) -> None:
    num_rows = 34_000 // -(-top_k // 64)
    check_packs(queries(num_rows, 8), rows_of_kv(4000), drifting(num_rows, top_k, 4000))


def test_packs_across_sequences() -> None:
    """Sequences of 61 rows, each with its own keys: most packs at their ends hold rows of two."""
    sequence = torch.arange(NUM_ROWS)[:, None] // 61
    indices = drifting(NUM_ROWS, TOP_K, 1200) + sequence.int() * 1200
    check_packs(queries(NUM_ROWS, 8), rows_of_kv(1200 * 43), indices)


def test_options() -> None:
    q, kv = queries(NUM_ROWS, 8), rows_of_kv(NUM_KEYS)
    indices = drifting(NUM_ROWS, TOP_K, NUM_KEYS)
    lens = torch.randint(-3, TOP_K + 20, (NUM_ROWS,)).int()
    lens[::7], lens[16:24], lens[32] = 0, 0, INT32.max
    sink = torch.randn(8) + 5
    sink[:2] = torch.tensor([math.inf, -math.inf])
    for options in ({"topk_lens": lens}, {"attn_sink": sink}):
        check_packs(q, kv, indices, **options)
        check_prefill(q, kv, indices, **options)


def test_the_first_rows_of_a_prompt() -> None:
    """Row t sees t + 1 keys; the rest of its list is -1."""
    position = torch.arange(TOP_K)
    indices = torch.where(position <= torch.arange(NUM_ROWS)[:, None], position, -1).int()
    check_packs(queries(NUM_ROWS, 16), rows_of_kv(NUM_ROWS), indices)


def test_lists_of_any_order() -> None:
    indices = drifting(NUM_ROWS, TOP_K, NUM_KEYS)
    order = torch.rand(NUM_ROWS, TOP_K).argsort()
    check_packs(queries(NUM_ROWS, 8), rows_of_kv(NUM_KEYS), indices.gather(1, order))


def test_entries_that_are_no_keys() -> None:
    indices = drifting(NUM_ROWS, TOP_K, NUM_KEYS)
    indices[::2, ::3], indices[::3, 5], indices[5::11, 7:9] = -1, INT32.min, INT32.max
    indices[4], indices[40:48], indices[100:116, 1:] = NUM_KEYS, -1, NUM_KEYS
    check_packs(queries(NUM_ROWS, 8), rows_of_kv(NUM_KEYS), indices)


def test_duplicates_count_twice() -> None:
    indices = drifting(NUM_ROWS, TOP_K, NUM_KEYS)
    indices[::24, 3], indices[8, :] = indices[::24, 2], indices[8, 0]
    q, kv = queries(NUM_ROWS, 8), rows_of_kv(NUM_KEYS)
    check_packs(q, kv, indices)
    check_prefill(q, kv, indices)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dim", [0, 511, 575])
def test_a_poisoned_key_stays_with_the_rows_that_select_it(dim: int, poison: float) -> None:
    q, kv = queries(NUM_ROWS, 8), rows_of_kv(NUM_KEYS)
    indices = drifting(NUM_ROWS, TOP_K, NUM_KEYS)
    kv[[123, 1456], dim] = poison
    expected = one_by_one(q, kv, indices)
    actual = results_of(q, 3)
    dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE, out=actual)
    selects = ((indices == 123) | (indices == 1456)).any(1)
    assert selects.any() and not selects.all()
    assert actual[0][~selects].isfinite().all()
    clean = [tuple(t[~selects] for t in results) for results in (actual, expected)]
    assert_same_rows(*clean)
    for result, target in zip(actual, expected, strict=True):
        assert torch.equal(result[selects].isfinite(), target[selects].isfinite())


def test_unselected_keys_do_not_matter() -> None:
    q, kv = queries(NUM_ROWS, 8), rows_of_kv(2 * NUM_KEYS)
    indices = drifting(NUM_ROWS, TOP_K, NUM_KEYS) * 2
    expected = dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE)
    kv[1::2] = math.nan
    actual = dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE)
    assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("num_heads", [8, 16, 32])
def test_keys_far_apart(num_heads: int) -> None:
    """More keys than the builder maps at once, and so far apart that it gives up."""
    num_keys = 2_500_000
    kv, spread = torch.zeros(num_keys, 512, dtype=torch.bfloat16), torch.arange(1000)
    indices = drifting(NUM_ROWS, TOP_K, 1000)
    for step in (200, 2400):
        used = spread * step + 11
        kv[used] = rows_of_kv(1000, 512)
        check_packs(queries(NUM_ROWS, num_heads, 512), kv, used.int()[indices])


def test_more_rows_than_a_chunk() -> None:
    num_rows, top_k = 9001, 2048
    q, kv = queries(num_rows, 2), rows_of_kv(6000)
    indices = drifting(num_rows, top_k, 6000)
    actual = results_of(q, 3)
    dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE, out=actual)
    for rows in (slice(0, 64), slice(4480, 4544), slice(num_rows - 64, num_rows)):
        expected = one_by_one(q[rows], kv, indices[rows])
        assert_same_rows(tuple(t[rows] for t in actual), expected)
    oracle = reference.sparse_mla_prefill(
        q[::450], kv, indices[::450], SCALE, compute_dtype=torch.float64
    )
    assert_attention(tuple(t[::450] for t in actual), oracle, LSE_TOLERANCE)


def test_graph_replays_with_other_neighbours() -> None:
    q, kv = queries(NUM_ROWS, 16), rows_of_kv(4000)
    indices, results = identical(NUM_ROWS, TOP_K, 4000), results_of(q, 3)
    graph = capture(lambda: dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE, out=results))
    for neighbours in (disjoint, drifting):
        indices.copy_(neighbours(NUM_ROWS, TOP_K, 4000))
        for result in results:
            result.fill_(7)
        graph.replay()
        expected = dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE)
        assert all(same_bits(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("num_heads", [8, 16, 32])
def test_repeats(num_heads: int) -> None:
    q, kv = queries(NUM_ROWS, num_heads), rows_of_kv(NUM_KEYS)
    indices = drifting(NUM_ROWS, TOP_K, NUM_KEYS)
    indices[torch.rand(NUM_ROWS) < 0.1] = 1
    assert_repeats(lambda: dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE))


def test_streams_do_not_mix() -> None:
    q, kv = queries(NUM_ROWS, 16), rows_of_kv(NUM_KEYS)
    lists = [make(NUM_ROWS, TOP_K, NUM_KEYS) for make in (drifting, identical)]
    assert_streams_do_not_mix(
        [lambda i=indices: dsa_ops.sparse_mla_prefill(q, kv, i, SCALE) for indices in lists]
    )
