"""paged_indexer_topk of as many short rows as multiprocessors, of which a block scores one and
selects from it: the indices of the two ops alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.gpu.paged_cases import (
    HARD_KEYS,
    PagedArguments,
    assert_equals_unfused,
    assert_graph_replays,
    assert_random_rows,
    assert_requests_alone,
    model_like,
    paged,
)
from tests.gpu.tools import on_device
from tests.select_arguments import ints

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
    assert_random_rows(paged(132, 8192, pages=5000), top_k, draws=20, longish=6000)


@pytest.mark.parametrize("top_k", [512, 2048])
def test_keys_like_a_models(top_k: int) -> None:
    assert_equals_unfused(model_like(128, 8192), top_k)


@pytest.mark.parametrize("shape", HARD_KEYS)
def test_adversarial_keys(shape: Callable[[PagedArguments], None]) -> None:
    arguments = paged(128, 8192)
    shape(arguments)
    arguments[3][3::4] = torch.randint(1, 8192, (32,)).int()
    for top_k in (300, 2048):
        assert_equals_unfused(arguments, top_k)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    arguments = paged(128, 8000)
    arguments[3][1::2] = torch.randint(1, 8000, (64,)).int()
    assert_requests_alone(arguments, 2048, (0, 7, 127))


def test_graph_replays_with_other_lengths() -> None:
    assert_graph_replays(paged(128, 8192, 16, pages=3000), 1024, (8192, 3000, 1000, 8192))
