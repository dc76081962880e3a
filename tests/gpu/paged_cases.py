"""Arguments of paged_indexer_topk, and keys that make selection hard."""

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


def paged(
    batch: int, columns: int, num_heads: int = 64, pages: int = 0, next_n: int = 1
) -> PagedArguments:
    """Full rows, of pages of their own or of ``pages`` shared ones."""
    per_row = -(-columns // 64)
    cache = filled_index_cache(pages or batch * per_row)
    table = torch.randperm(batch * per_row).int().view(batch, per_row) % cache.shape[0]
    q, weights = index_queries(batch, next_n, num_heads), torch.randn(batch * next_n, num_heads)
    lens = torch.full((batch, next_n) if next_n > 1 else (batch,), columns)
    return q, cache, weights, lens.int(), table, columns


def model_like(batch: int, columns: int, next_n: int = 1) -> PagedArguments:
    """Keys like a model's. Half of the rows are full, the others of any length."""
    shape = {"batch": batch, "context": columns, "next_n": next_n, "index_heads": 64}
    inputs = decode_inputs(shape, torch.device(DEVICE), 0, "model_like")
    q, cache, weights, lens, table = inputs.values()
    lens[batch // 2 :] = torch.randint(1, columns + 1, lens[batch // 2 :].shape).int()
    return q, cache, weights, lens, table, columns


def row_ends(arguments: PagedArguments) -> Tensor:
    q, _, _, lens, table, columns = arguments
    return row_lengths(lens, q.shape[1], columns, table.shape[1]).int().view(-1)


def scales(arguments: PagedArguments) -> Tensor:
    """``f32[pages, 64]``, the cache's own."""
    return (
        arguments[1]
        .as_strided((arguments[1].shape[0], 64 * 132), (64 * 132, 1))[:, 64 * 128 :]
        .view(torch.float32)
    )


def assert_equals_unfused(arguments: PagedArguments, top_k: int) -> None:
    table = arguments[4]
    logits = dsa_ops.paged_indexer_logits(*arguments)
    ends = row_ends(arguments)
    positions = poisoned(ends.shape[0], top_k, dtype=torch.int32)
    dsa_ops.paged_indexer_topk(*arguments, top_k, out=positions)
    assert torch.equal(positions, dsa_ops.topk(logits, top_k, ends))
    slots = dsa_ops.paged_indexer_topk(*arguments, top_k, return_slots=True)
    assert torch.equal(slots, dsa_ops.topk(logits, top_k, ends, block_table=table))


def assert_random_rows(arguments: PagedArguments, top_k: int, draws: int, longish: int) -> None:
    """Draws of queries and lengths from ``top_k`` on, every other one from ``longish`` on."""
    q, _, weights, lens, table, columns = arguments
    for draw in range(draws):
        q.copy_(index_queries(*q.shape[:3])), weights.normal_()
        lens[:] = torch.randint(top_k if draw % 2 else longish, columns + 1, lens.shape)
        table.copy_(table.flip(0).roll(draw, 1))
        assert_equals_unfused(arguments, top_k)


def assert_requests_alone(arguments: PagedArguments, top_k: int, requests: Sequence[int]) -> None:
    """The same indices in every run, and of ``requests`` in a call of their own."""
    q, cache, weights, lens, table, columns = arguments
    batch = dsa_ops.paged_indexer_topk(*arguments, top_k)
    assert_repeats(lambda: (dsa_ops.paged_indexer_topk(*arguments, top_k),))
    for request in requests:
        own = slice(request, request + 1)
        rows = slice(request * q.shape[1], (request + 1) * q.shape[1])
        alone = dsa_ops.paged_indexer_topk(
            q[own], cache, weights[rows], lens[own], table[own], columns, top_k
        )
        assert torch.equal(alone, batch[rows])


def assert_graph_replays(arguments: PagedArguments, top_k: int, longest: Sequence[int]) -> None:
    """A graph captured once gives what the lengths and pages of each replay ask for."""
    lens, table = arguments[3:5]
    indices = poisoned(lens.numel(), top_k, dtype=torch.int32)
    lens.fill_(5000)
    graph = capture(lambda: dsa_ops.paged_indexer_topk(*arguments, top_k, out=indices))
    for length in longest:
        lens[:] = torch.randint(0, length + 1, lens.shape)
        table.copy_(table.flip(0))
        graph.replay()
        logits = dsa_ops.paged_indexer_logits(*arguments)
        expected = dsa_ops.topk(logits, top_k, row_ends(arguments))
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
