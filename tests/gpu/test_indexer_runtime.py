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
from tests.select_arguments import ints

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


@pytest.mark.parametrize("op", ["indexer_logits", "paged_indexer_logits"])
def test_registration(op: str) -> None:
    assert_registered(op)
