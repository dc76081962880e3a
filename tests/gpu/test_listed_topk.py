"""paged_indexer_topk of many long rows, which lists candidates instead of storing logits: the
indices of the two ops alone, where lists settle a row and where it is scored again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dsa_ops
from bench.paged_indexer_logits import decode_inputs
from dsa_ops.reference.indexer import row_lengths
from tests.gpu.tools import DEVICE, assert_repeats, capture, on_device, poisoned
from tests.select_arguments import filled_index_cache, index_queries, ints

__all__ = ["on_device"]

PagedArguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]


def paged(batch: int, columns: int, num_heads: int = 64, pages: int = 0) -> PagedArguments:
    """Full rows, of pages of their own or of ``pages`` shared ones."""
    per_row = -(-columns // 64)
    cache = filled_index_cache(pages or batch * per_row)
    table = torch.randperm(batch * per_row).int().view(batch, per_row) % cache.shape[0]
    q, weights = index_queries(batch, 1, num_heads), torch.randn(batch, num_heads)
    return q, cache, weights, torch.full((batch,), columns).int(), table, columns


def scales(arguments: PagedArguments) -> Tensor:
    """``f32[pages, 64]``, the cache's own."""
    return (
        arguments[1]
        .as_strided((arguments[1].shape[0], 64 * 132), (64 * 132, 1))[:, 64 * 128 :]
        .view(torch.float32)
    )


def assert_equals_unfused(arguments: PagedArguments, top_k: int) -> None:
    lens, table, columns = arguments[3:]
    logits = dsa_ops.paged_indexer_logits(*arguments)
    ends = row_lengths(lens, 1, columns, table.shape[1]).int().view(-1)
    positions = poisoned(lens.shape[0], top_k, dtype=torch.int32)
    dsa_ops.paged_indexer_topk(*arguments, top_k, out=positions)
    assert torch.equal(positions, dsa_ops.topk(logits, top_k, ends))
    slots = dsa_ops.paged_indexer_topk(*arguments, top_k, return_slots=True)
    assert torch.equal(slots, dsa_ops.topk(logits, top_k, ends, block_table=table))


@pytest.mark.parametrize("num_heads", [8, 16, 32, 64])
@pytest.mark.parametrize("top_k", [1, 512, 2048])
def test_lengths_of_all_kinds(num_heads: int, top_k: int) -> None:
    arguments = paged(40, 65_000, num_heads)
    lens, table = arguments[3:5]
    lens[:] = torch.randint(-5, 65_100, (40,))
    lens[:8] = top_k + torch.arange(-2, 6)
    lens[8:11] = ints(65_000, 4096, 8191)
    table[3::7, 5::9] = -1
    table[4::7, 6::11] = arguments[1].shape[0]
    assert_equals_unfused(arguments, top_k)


@pytest.mark.parametrize(
    ("batch", "columns"), [(130, 8256), (64, 16_384), (9, 131_072), (5, 250_000)]
)
def test_sizes(batch: int, columns: int) -> None:
    assert_equals_unfused(paged(batch, columns), 2048)


@pytest.mark.parametrize("top_k", [512, 1024, 2048])
def test_many_random_rows(top_k: int) -> None:
    """More than 10,000 of them in all."""
    arguments = paged(132, 16_384, pages=5000)
    q, _, weights, lens, table = arguments[:5]
    for draw in range(26):
        q.copy_(index_queries(132, 1, 64)), weights.normal_()
        lens[:] = torch.randint(top_k if draw % 2 else 12_000, 16_385, (132,))
        table.copy_(table.flip(0).roll(draw, 1))
        assert_equals_unfused(arguments, top_k)


@pytest.mark.parametrize("top_k", [512, 1024, 2048])
def test_keys_like_a_models(top_k: int) -> None:
    shape = {"batch": 20, "context": 65_536, "next_n": 1, "index_heads": 64}
    inputs = decode_inputs(shape, torch.device(DEVICE), 0, "model_like")
    q, cache, weights, _, table = inputs.values()
    lens = torch.randint(1, 65_537, (20,)).int()
    lens[:10] = 65_536
    assert_equals_unfused((q, cache, weights, lens, table, 65_536), top_k)


def _same(arguments: PagedArguments) -> None:
    arguments[1][:] = arguments[1][0, 0]


def _nearly_same(arguments: PagedArguments) -> None:
    _same(arguments)
    scales(arguments).mul_(torch.rand(arguments[1].shape[0], 64) * 1e-4 + 1)


def _zeros(arguments: PagedArguments) -> None:
    scales(arguments).mul_(torch.rand(arguments[1].shape[0], 64) < 0.02)


def _all_zero(arguments: PagedArguments) -> None:
    scales(arguments).zero_()


def _negative(arguments: PagedArguments) -> None:
    arguments[2].abs_().neg_()


def _trend(arguments: PagedArguments) -> None:
    position = torch.arange(arguments[5]).view(-1, 64)
    for pages in arguments[4].long():
        scales(arguments)[pages] *= position * 1e-3


def _runs(arguments: PagedArguments) -> None:
    for pages in arguments[4].long():
        scales(arguments)[pages[11:45]] *= 100


def _not_a_number(arguments: PagedArguments) -> None:
    odd = torch.rand(arguments[1].shape[0], 64) < 0.3
    scales(arguments)[odd] = torch.nan
    scales(arguments)[0] = torch.inf


def _huge(arguments: PagedArguments) -> None:
    scales(arguments).mul_(1e6)


def _tiny(arguments: PagedArguments) -> None:
    scales(arguments).mul_(1e-9)


@pytest.mark.parametrize(
    "shape",
    [_same, _nearly_same, _zeros, _all_zero, _negative, _trend, _runs, _not_a_number, _huge, _tiny],
)
def test_adversarial_keys(shape: Callable[[PagedArguments], None]) -> None:
    arguments = paged(16, 65_536)
    shape(arguments)
    arguments[3][3::4] = torch.randint(1, 65_536, (4,)).int()
    assert_equals_unfused(arguments, 2048)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    q, cache, weights, lens, table, columns = paged(33, 40_000)
    lens[1::2] = torch.randint(1, 40_000, (16,)).int()
    batch = dsa_ops.paged_indexer_topk(q, cache, weights, lens, table, columns, 2048)
    assert_repeats(
        lambda: (dsa_ops.paged_indexer_topk(q, cache, weights, lens, table, columns, 2048),)
    )
    for row in (0, 7, 32):
        own = slice(row, row + 1)
        alone = dsa_ops.paged_indexer_topk(
            q[own], cache, weights[own], lens[own], table[own], columns, 2048
        )
        assert torch.equal(alone, batch[own])


def test_several_chunks() -> None:
    """More rows than the workspace has logits for; the last chunk alone would not be listed."""
    arguments = paged(132, 131_072, 8, pages=5000)
    assert_equals_unfused(arguments, 600)


def test_graph_replays_with_other_lengths() -> None:
    arguments = paged(20, 60_000, 16, pages=3000)
    lens, table = arguments[3:5]
    indices = poisoned(20, 2048, dtype=torch.int32)
    lens.fill_(5000)
    graph = capture(lambda: dsa_ops.paged_indexer_topk(*arguments, 2048, out=indices))
    for longest in (60_000, 3000, 1000, 60_000):
        lens[:] = torch.randint(0, longest + 1, (20,))
        table.copy_(table.flip(0))
        graph.replay()
        expected = dsa_ops.topk(dsa_ops.paged_indexer_logits(*arguments), 2048, lens)
        assert torch.equal(indices, expected)
