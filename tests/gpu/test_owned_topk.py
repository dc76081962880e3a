"""paged_indexer_topk of as many short rows as multiprocessors, of which a block scores one and
selects from it: the indices of the two ops alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import dsa_ops
from bench.paged_indexer_logits import decode_inputs
from tests.gpu.paged_cases import HARD_KEYS, PagedArguments, assert_equals_unfused, paged
from tests.gpu.tools import DEVICE, assert_repeats, capture, on_device, poisoned
from tests.select_arguments import index_queries, ints

__all__ = ["on_device"]


@pytest.mark.parametrize("num_heads", [8, 16, 32, 64])
@pytest.mark.parametrize("top_k", [1, 64, 512, 2048, 4096])
def test_lengths_of_all_kinds(num_heads: int, top_k: int) -> None:
    arguments = paged(128, 8000, num_heads)
    lens, table = arguments[3:5]
    lens[:] = torch.randint(-5, 8100, (128,))
    lens[:8] = top_k + torch.arange(-2, 6)
    lens[8:13] = ints(8000, 7999, 2112, 2113, 1)
    table[3::7, 5::9] = -1
    table[4::7, 6::11] = arguments[1].shape[0]
    table[5] = -1
    assert_equals_unfused(arguments, top_k)


@pytest.mark.parametrize("batch", [66, 128, 132, 300])
@pytest.mark.parametrize("columns", [1, 64, 1000, 2049, 4200, 8191, 8192])
def test_sizes(batch: int, columns: int) -> None:
    for top_k in (30, 2048):
        assert_equals_unfused(paged(batch, columns), top_k)


@pytest.mark.parametrize("top_k", [512, 2048])
def test_many_random_rows(top_k: int) -> None:
    """More than 5,000 of them in all."""
    arguments = paged(132, 8192, pages=5000)
    q, _, weights, lens, table = arguments[:5]
    for draw in range(20):
        q.copy_(index_queries(132, 1, 64)), weights.normal_()
        lens[:] = torch.randint(top_k if draw % 2 else 6000, 8193, (132,))
        table.copy_(table.flip(0).roll(draw, 1))
        assert_equals_unfused(arguments, top_k)


@pytest.mark.parametrize("top_k", [512, 2048])
def test_keys_like_a_models(top_k: int) -> None:
    shape = {"batch": 128, "context": 8192, "next_n": 1, "index_heads": 64}
    inputs = decode_inputs(shape, torch.device(DEVICE), 0, "model_like")
    q, cache, weights, _, table = inputs.values()
    lens = torch.randint(1, 8193, (128,)).int()
    lens[:64] = 8192
    assert_equals_unfused((q, cache, weights, lens, table, 8192), top_k)


@pytest.mark.parametrize("shape", HARD_KEYS)
def test_adversarial_keys(shape: Callable[[PagedArguments], None]) -> None:
    arguments = paged(128, 8192)
    shape(arguments)
    arguments[3][3::4] = torch.randint(1, 8192, (32,)).int()
    for top_k in (300, 2048):
        assert_equals_unfused(arguments, top_k)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    q, cache, weights, lens, table, columns = paged(128, 8000)
    lens[1::2] = torch.randint(1, 8000, (64,)).int()
    batch = dsa_ops.paged_indexer_topk(q, cache, weights, lens, table, columns, 2048)
    assert_repeats(
        lambda: (dsa_ops.paged_indexer_topk(q, cache, weights, lens, table, columns, 2048),)
    )
    for row in (0, 7, 127):
        own = slice(row, row + 1)
        alone = dsa_ops.paged_indexer_topk(
            q[own], cache, weights[own], lens[own], table[own], columns, 2048
        )
        assert torch.equal(alone, batch[own])


def test_graph_replays_with_other_lengths() -> None:
    arguments = paged(128, 8192, 16, pages=3000)
    lens, table = arguments[3:5]
    indices = poisoned(128, 1024, dtype=torch.int32)
    lens.fill_(5000)
    graph = capture(lambda: dsa_ops.paged_indexer_topk(*arguments, 1024, out=indices))
    for longest in (8192, 3000, 1000, 8192):
        lens[:] = torch.randint(0, longest + 1, (128,))
        table.copy_(table.flip(0))
        graph.replay()
        expected = dsa_ops.topk(dsa_ops.paged_indexer_logits(*arguments), 1024, lens)
        assert torch.equal(indices, expected)
