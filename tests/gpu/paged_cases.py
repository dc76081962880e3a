"""Arguments of paged_indexer_topk with one row per request, and keys that make selection hard."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import dsa_ops
from bench.paged_indexer_logits import decode_inputs
from dsa_ops.reference.indexer import row_lengths
from tests.gpu.tools import DEVICE, assert_repeats, capture, poisoned
from tests.select_arguments import filled_index_cache, index_queries

PagedArguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]


def paged(batch: int, columns: int, num_heads: int = 64, pages: int = 0) -> PagedArguments:
    """Full rows, of pages of their own or of ``pages`` shared ones."""
    per_row = -(-columns // 64)
    cache = filled_index_cache(pages or batch * per_row)
    table = torch.randperm(batch * per_row).int().view(batch, per_row) % cache.shape[0]
    q, weights = index_queries(batch, 1, num_heads), torch.randn(batch, num_heads)
    return q, cache, weights, torch.full((batch,), columns).int(), table, columns


def model_like(batch: int, columns: int) -> PagedArguments:
    """Keys like a model's. Half of the rows are full, the others of any length."""
    shape = {"batch": batch, "context": columns, "next_n": 1, "index_heads": 64}
    inputs = decode_inputs(shape, torch.device(DEVICE), 0, "model_like")
    q, cache, weights, _, table = inputs.values()
    lens = torch.randint(1, columns + 1, (batch,)).int()
    lens[: batch // 2] = columns
    return q, cache, weights, lens, table, columns


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


def assert_random_rows(arguments: PagedArguments, top_k: int, draws: int, longish: int) -> None:
    """Draws of queries and lengths from ``top_k`` on, every other one from ``longish`` on."""
    q, _, weights, lens, table, columns = arguments
    for draw in range(draws):
        q.copy_(index_queries(q.shape[0], 1, q.shape[2])), weights.normal_()
        lens[:] = torch.randint(top_k if draw % 2 else longish, columns + 1, lens.shape)
        table.copy_(table.flip(0).roll(draw, 1))
        assert_equals_unfused(arguments, top_k)


def assert_rows_alone(arguments: PagedArguments, top_k: int, rows: Sequence[int]) -> None:
    """The same indices in every run, and of ``rows`` in a call of their own."""
    q, cache, weights, lens, table, columns = arguments
    batch = dsa_ops.paged_indexer_topk(*arguments, top_k)
    assert_repeats(lambda: (dsa_ops.paged_indexer_topk(*arguments, top_k),))
    for row in rows:
        own = slice(row, row + 1)
        alone = dsa_ops.paged_indexer_topk(
            q[own], cache, weights[own], lens[own], table[own], columns, top_k
        )
        assert torch.equal(alone, batch[own])


def assert_graph_replays(arguments: PagedArguments, top_k: int, longest: Sequence[int]) -> None:
    """A graph captured once gives what the lengths and pages of each replay ask for."""
    lens, table = arguments[3:5]
    indices = poisoned(lens.shape[0], top_k, dtype=torch.int32)
    lens.fill_(5000)
    graph = capture(lambda: dsa_ops.paged_indexer_topk(*arguments, top_k, out=indices))
    for length in longest:
        lens[:] = torch.randint(0, length + 1, lens.shape)
        table.copy_(table.flip(0))
        graph.replay()
        expected = dsa_ops.topk(dsa_ops.paged_indexer_logits(*arguments), top_k, lens)
        assert torch.equal(indices, expected)


def same(arguments: PagedArguments) -> None:
    arguments[1][:] = arguments[1][0, 0]


def nearly_same(arguments: PagedArguments) -> None:
    same(arguments)
    scales(arguments).mul_(torch.rand(arguments[1].shape[0], 64) * 1e-4 + 1)


def mostly_zero(arguments: PagedArguments) -> None:
    scales(arguments).mul_(torch.rand(arguments[1].shape[0], 64) < 0.02)


def all_zero(arguments: PagedArguments) -> None:
    scales(arguments).zero_()


def negative(arguments: PagedArguments) -> None:
    arguments[2].abs_().neg_()


def trend(arguments: PagedArguments) -> None:
    position = torch.arange(arguments[5]).view(-1, 64)
    for pages in arguments[4].long():
        scales(arguments)[pages] *= position * 1e-3


def in_runs(arguments: PagedArguments) -> None:
    for pages in arguments[4].long():
        scales(arguments)[pages[11:45]] *= 100


def not_a_number(arguments: PagedArguments) -> None:
    odd = torch.rand(arguments[1].shape[0], 64) < 0.3
    scales(arguments)[odd] = torch.nan
    scales(arguments)[0] = torch.inf


def huge(arguments: PagedArguments) -> None:
    scales(arguments).mul_(1e6)


def tiny(arguments: PagedArguments) -> None:
    scales(arguments).mul_(1e-9)


HARD_KEYS = (
    same,
    nearly_same,
    mostly_zero,
    all_zero,
    negative,
    trend,
    in_runs,
    not_a_number,
    huge,
    tiny,
)
