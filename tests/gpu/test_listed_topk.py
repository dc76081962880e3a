"""paged_indexer_topk of many long rows, which lists candidates instead of storing logits: the
indices of the two ops alone, where lists settle a row and where it is scored again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import dsa_ops
from tests.gpu.paged_cases import (
    HARD_KEYS,
    PagedArguments,
    assert_equals_unfused,
    assert_graph_replays,
    assert_random_rows,
    assert_requests_alone,
    model_like,
    paged,
    row_ends,
)
from tests.gpu.tools import assert_streams_do_not_mix, capture, on_device, poisoned
from tests.select_arguments import ints

__all__ = ["on_device"]


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


@pytest.mark.parametrize(("batch", "columns"), [(8, 131_072), (5, 250_000), (64, 32_768)])
def test_a_long_row_among_short_ones(batch: int, columns: int) -> None:
    """Its parts are of few pages, whose gates let more candidates pass than a block holds."""
    arguments = paged(batch, columns, pages=5000)
    arguments[3][:] = columns // 4
    arguments[3][batch // 2] = columns
    assert_equals_unfused(arguments, 2048)


@pytest.mark.parametrize("top_k", [512, 1024, 2048])
def test_many_random_rows(top_k: int) -> None:
    """More than 10,000 of them in all."""
    assert_random_rows(paged(132, 16_384, pages=5000), top_k, draws=26, longish=12_000)


@pytest.mark.parametrize("top_k", [512, 1024, 2048])
def test_keys_like_a_models(top_k: int) -> None:
    assert_equals_unfused(model_like(20, 65_536), top_k)


@pytest.mark.parametrize("shape", HARD_KEYS)
def test_adversarial_keys(shape: Callable[[PagedArguments], None]) -> None:
    arguments = paged(16, 65_536)
    shape(arguments)
    arguments[3][3::4] = torch.randint(1, 65_536, (4,)).int()
    assert_equals_unfused(arguments, 2048)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    arguments = paged(33, 40_000)
    arguments[3][1::2] = torch.randint(1, 40_000, (16,)).int()
    assert_requests_alone(arguments, 2048, (0, 7, 32))


def test_several_chunks() -> None:
    """More rows than the workspace has logits for; the last chunk alone would not be listed."""
    arguments = paged(132, 131_072, 8, pages=5000)
    assert_equals_unfused(arguments, 600)


def test_graph_replays_with_other_lengths() -> None:
    assert_graph_replays(paged(20, 60_000, 16, pages=3000), 2048, (60_000, 3000, 1000, 60_000))


@pytest.mark.parametrize("word", [0, 1 << 20, -1])
def test_memory_that_held_something_else(word: int) -> None:
    """Pages that blocks take as they come are counted in memory that nobody has prepared."""
    arguments = paged(20, 60_000, pages=3000)
    torch.cuda.empty_cache()
    held_before = torch.full((1 << 26,), word)
    del held_before
    assert_equals_unfused(arguments, 2048)


def test_calls_on_two_streams_at_once() -> None:
    calls = [paged(20, 60_000, pages=3000), paged(9, 131_072, 16, pages=3000)]
    assert_streams_do_not_mix(
        [lambda own=own: (dsa_ops.paged_indexer_topk(*own, 2048),) for own in calls]
    )


def test_graphs_at_once_with_other_lengths() -> None:
    """Each replay finds what the one before has left in the workspace, of other lengths."""
    calls = [paged(20, 60_000, 16, pages=3000), paged(9, 131_072, pages=3000)]
    results = [poisoned(own[3].numel(), 2048, dtype=torch.int32) for own in calls]
    graphs = [
        capture(lambda own=own, out=out: dsa_ops.paged_indexer_topk(*own, 2048, out=out))
        for own, out in zip(calls, results, strict=True)
    ]
    streams = [torch.cuda.Stream() for _ in calls]
    for longest in (60_000, 3000, 20_000, 131_072):
        for own in calls:
            own[3][:] = torch.randint(0, longest + 1, own[3].shape)
        torch.cuda.synchronize()
        for _ in range(10):
            for graph, stream in zip(graphs, streams, strict=True):
                with torch.cuda.stream(stream):
                    graph.replay()
        torch.cuda.synchronize()
        for own, result in zip(calls, results, strict=True):
            expected = dsa_ops.topk(dsa_ops.paged_indexer_logits(*own), 2048, row_ends(own))
            assert torch.equal(result, expected)


@pytest.mark.parametrize("top_k", [1, 512, 2048])
def test_two_rows_of_all_kinds_share_pages(top_k: int) -> None:
    arguments = paged(66, 65_000, pages=5000, next_n=2)
    lens, table = arguments[3:5]
    lens[:] = torch.randint(-5, 65_100, (66, 2))
    lens[:8, 0] = top_k + torch.arange(-2, 6)
    lens[8:16, 1] = top_k + torch.arange(-2, 6)
    lens[16:24] = ints(64_999, 65_000)
    lens[24:28] = 3
    table[3::7, 5::9] = -1
    table[4::7, 6::11] = arguments[1].shape[0]
    assert_equals_unfused(arguments, top_k)


@pytest.mark.parametrize(("batch", "columns"), [(66, 64_000), (32, 131_072), (17, 250_000)])
def test_sizes_of_two_rows(batch: int, columns: int) -> None:
    arguments = paged(batch, columns, pages=5000, next_n=2)
    arguments[3][:, 0] -= 1
    assert_equals_unfused(arguments, 2048)
    last = (*arguments[:3], arguments[3][:, 1].contiguous(), *arguments[4:])
    assert_equals_unfused(last, 2048)


@pytest.mark.parametrize("top_k", [512, 2048])
def test_many_random_pairs_of_rows(top_k: int) -> None:
    """More than 4,000 rows in all, those of a request of any two lengths."""
    assert_random_rows(paged(66, 64_000, pages=5000, next_n=2), top_k, draws=16, longish=50_000)


def test_pairs_of_rows_of_keys_like_a_models() -> None:
    assert_equals_unfused(model_like(64, 65_536, next_n=2), 2048)


@pytest.mark.parametrize("shape", HARD_KEYS)
def test_adversarial_keys_of_two_rows(shape: Callable[[PagedArguments], None]) -> None:
    arguments = paged(64, 65_536, next_n=2)
    shape(arguments)
    arguments[3][3::4] = torch.randint(1, 65_536, (16, 2)).int()
    assert_equals_unfused(arguments, 2048)


def test_two_rows_alone_in_chunks_and_in_a_graph() -> None:
    arguments = paged(66, 64_000, pages=5000, next_n=2)
    arguments[3][1::2] = torch.randint(1, 64_000, (33, 2)).int()
    assert_requests_alone(arguments, 2048, (0, 7, 65))
    assert_equals_unfused(paged(65, 131_072, pages=5000, next_n=2), 600)
    assert_graph_replays(paged(66, 64_000, pages=3000, next_n=2), 2048, (64_000, 3000, 64_000))
