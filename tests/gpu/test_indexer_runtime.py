"""The indexer's kernels in use: repeated, in CUDA graphs, on several streams, compiled."""

from __future__ import annotations

import pytest
import torch

import dsa_ops
from tests.gpu.indexer_cases import paged, ragged
from tests.gpu.tools import (
    assert_registered,
    assert_repeats,
    assert_streams_do_not_mix,
    capture,
    on_device,
    poisoned,
    same_bits,
)
from tests.select_arguments import filled_index_cache, ints

__all__ = ["on_device"]


def test_repeats() -> None:
    arguments = ragged(130, 3000, 64)
    assert_repeats(lambda: (dsa_ops.indexer_logits(*arguments, clean=True),))
    q, cache, weights, table = paged(6, 2, 64, 40)
    lens = torch.randint(0, 2500, (6,)).int()
    assert_repeats(lambda: (dsa_ops.paged_indexer_logits(q, cache, weights, lens, table, 2500),))


def test_graph_replays_with_new_ranges_and_contents() -> None:
    arguments = ragged(20, 500, 32)
    logits = poisoned(20, 500)
    graph = capture(lambda: dsa_ops.indexer_logits(*arguments, clean=True, out=logits))
    for target, source in zip(arguments, ragged(20, 500, 32), strict=True):
        target.copy_(source.flip(0) if source.dtype == torch.int32 else source)
    logits.fill_(0)
    graph.replay()
    assert same_bits(logits, dsa_ops.indexer_logits(*arguments, clean=True))


def test_graph_replays_with_new_lengths_and_pages() -> None:
    q, cache, weights, table = paged(5, 2, 32, 8)
    lens = ints(500, 3, 64, 0, 512)
    logits = poisoned(10, 512)
    arguments = (q, cache, weights, lens, table, 512)
    graph = capture(lambda: dsa_ops.paged_indexer_logits(*arguments, out=logits))
    lens.copy_(ints(1, 512, 300, 65, -1))
    table.copy_(table.flip(1))
    cache.copy_(cache.flip(0))
    logits.fill_(0)
    graph.replay()
    assert same_bits(logits, dsa_ops.paged_indexer_logits(*arguments))


def test_streams_do_not_mix() -> None:
    first, second = ragged(100, 2000, 64), ragged(50, 3000, 16)
    q, cache, weights, table = paged(4, 2, 32, 20)
    lens = ints(1280, 1000, 5, 700)
    assert_streams_do_not_mix(
        [
            lambda: (dsa_ops.indexer_logits(*first, clean=True),),
            lambda: (dsa_ops.indexer_logits(*second, clean=True),),
            lambda: (dsa_ops.paged_indexer_logits(q, cache, weights, lens, table, 1280),),
        ]
    )


@pytest.mark.parametrize("num_sms", [0, 1, 7, 100, 100_000])
@pytest.mark.parametrize("pdl", [False, True])
def test_results_do_not_depend_on_the_launch(num_sms: int, pdl: bool) -> None:
    """Behind a kernel that is still writing what they read, so that a start too early shows."""
    launch = {"num_sms": num_sms, "pdl": pdl}
    arguments = ragged(150, 3000, 64)
    cache, pages = filled_index_cache(50), torch.randperm(50).int()
    cached = (arguments[0], cache, pages, *arguments[3:])
    q, _, weights, table = paged(6, 2, 64, 8)
    lens = torch.randint(0, 500, (6,)).int()
    calls = [
        lambda **launch: dsa_ops.indexer_logits(*arguments, clean=True, **launch),
        lambda **launch: dsa_ops.cached_indexer_logits(*cached, clean=True, **launch),
        lambda **launch: dsa_ops.paged_indexer_logits(
            q, cache, weights, lens, table, 512, **launch
        ),
    ]
    expected = [call() for call in calls]
    inputs = [*arguments, cache, pages, q, weights, lens, table]
    kept = [tensor.clone() for tensor in inputs]
    for call, target in zip(calls, expected, strict=True):
        for tensor in inputs:
            tensor.view(torch.uint8).zero_()
        torch.cuda._sleep(1_000_000)
        for tensor, source in zip(inputs, kept, strict=True):
            tensor.copy_(source)
        assert same_bits(call(**launch), target)
        call(**launch)
        assert same_bits(call(**launch), target)


@pytest.mark.parametrize("op", ["indexer_logits", "paged_indexer_logits"])
def test_registration(op: str) -> None:
    assert_registered(op)
