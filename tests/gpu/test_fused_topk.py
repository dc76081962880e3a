"""The fused indexer and top-k: the indices of the two ops alone, on random and adversarial keys,
with lists as planned and with lists so short that rows overflow them and are scored again."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dsa_ops
from bench.indexer_logits import prefill_inputs
from dsa_ops.formats import FP8
from tests.gpu.tools import DEVICE, assert_repeats, capture, on_device, poisoned
from tests.select_arguments import index_keys, index_queries

__all__ = ["on_device"]
WORKSPACE_BYTES = 64 << 20
#: Candidates of a list: as planned; so few that some rows overflow; so few that all do.
LISTS = [0, 28, 4]


@contextmanager
def candidate_lists(candidates: int) -> Iterator[None]:
    """Lists hold at most ``candidates`` (0: as planned) meanwhile."""
    library = ctypes.CDLL(str(Path(dsa_ops.__file__).parent / "lib" / "libdsa_ops.so.0"))
    limit = library["_ZN7dsa_ops2v06detail21limit_candidate_listsEi"]
    limit(ctypes.c_int32(candidates))
    try:
        yield
    finally:
        limit(ctypes.c_int32(0))


def scored(num_rows: int, num_keys: int, num_heads: int = 64) -> list[Tensor]:
    """Rows of all lengths: whole ones, causal ones, others in groups of one start, and of about
    2,048 keys."""
    k, k_scale = index_keys(num_keys)
    starts = torch.zeros(num_rows).int()
    ends = torch.arange(num_keys - num_rows + 1, num_keys + 1).clamp_min(0).int()
    third = num_rows // 3
    groups = torch.randint(-5, num_keys, (third // 7 + 1,)).repeat_interleave(7)
    starts[:third] = groups[:third].int()
    ends[:third] = torch.randint(-5, num_keys + 9, (third,)).int()
    about = torch.arange(third // 2, third)
    ends[about] = starts[about].clamp_min(0) + 2048 - 5 + (about % 13).int()
    weights = torch.randn(num_rows, num_heads)
    return [index_queries(num_rows, num_heads), k, k_scale, weights, starts, ends]


def assert_fused_equals_unfused(arguments: list[Tensor], top_k: int, **options: Tensor) -> None:
    fused = poisoned(arguments[0].shape[0], top_k, dtype=torch.int32)
    dsa_ops.indexer_topk(*arguments, top_k, out=fused, **options)
    logits = dsa_ops.indexer_logits(*arguments)
    starts, ends = arguments[4:]
    assert torch.equal(fused, dsa_ops.topk(logits, top_k, ends, starts, **options))


@pytest.mark.parametrize("candidates", LISTS)
@pytest.mark.parametrize(
    ("num_rows", "num_keys", "num_heads", "top_k"),
    [
        (1030, 70_001, 64, 2048),
        (600, 140_001, 64, 1),
        (2111, 65_536, 64, 777),
        (1021, 66_001, 64, 2000),
        (4222, 40_000, 64, 2048),
        (1000, 1_048_576, 64, 512),
        (131_072, 1500, 64, 1024),
    ],
)
def test_random_rows(
    num_rows: int, num_keys: int, num_heads: int, top_k: int, candidates: int
) -> None:
    """Several scans of a group of rows, and several groups."""
    with candidate_lists(candidates):
        assert_fused_equals_unfused(scored(num_rows, num_keys, num_heads), top_k)


def ascending(k: Tensor, k_scale: Tensor) -> None:
    k.copy_(k[:1].clone().view(torch.uint8).expand(k.shape).view(FP8))
    k_scale.copy_(torch.linspace(1, 2, k_scale.shape[0]))


def descending(k: Tensor, k_scale: Tensor) -> None:
    ascending(k, k_scale)
    k_scale.copy_(k_scale.flip(0))


def equal(k: Tensor, k_scale: Tensor) -> None:
    ascending(k, k_scale)
    k_scale.fill_(1)


def last_bits(k: Tensor, k_scale: Tensor) -> None:
    equal(k, k_scale)
    k_scale.view(torch.int32).add_(torch.randint(0, 3, k_scale.shape).int())


def mostly_zero(k: Tensor, k_scale: Tensor) -> None:
    k_scale.mul_(torch.rand_like(k_scale) < 0.03)


def crowded(k: Tensor, k_scale: Tensor) -> None:
    k_scale[torch.arange(k_scale.shape[0]) % 32 != 0] *= 1e-6


def one_list(k: Tensor, k_scale: Tensor) -> None:
    k_scale[torch.arange(k_scale.shape[0]) % 128 != 5] *= 1e-6


def not_numbers(k: Tensor, k_scale: Tensor) -> None:
    draws = torch.rand_like(k_scale)
    k_scale[draws < 0.4] = 0
    k_scale[draws < 0.2] = torch.inf
    k_scale[draws < 0.1] = torch.nan


def nothing_but_nan(k: Tensor, k_scale: Tensor) -> None:
    k_scale.fill_(torch.nan)


ADVERSARIES = [
    ascending,
    descending,
    equal,
    last_bits,
    mostly_zero,
    crowded,
    one_list,
    not_numbers,
    nothing_but_nan,
]


@pytest.mark.parametrize("candidates", LISTS)
@pytest.mark.parametrize("change", ADVERSARIES, ids=lambda change: change.__name__)
def test_adversarial_keys(change: Callable[[Tensor, Tensor], None], candidates: int) -> None:
    arguments = scored(1060, 66_000)
    change(arguments[1], arguments[2])
    with candidate_lists(candidates):
        assert_fused_equals_unfused(arguments, 2048)


@pytest.mark.parametrize("candidates", LISTS)
@pytest.mark.parametrize("top_k", [512, 1024, 2048])
def test_keys_like_a_models(top_k: int, candidates: int) -> None:
    shape = {"rows": 1060, "context": 66_000, "index_heads": 64}
    inputs = prefill_inputs(shape, torch.device(DEVICE), 0, "model_like")
    with candidate_lists(candidates):
        assert_fused_equals_unfused(list(inputs.values()), top_k)


#: Every so many keys are in the sample.
SAMPLE_STRIDE = 61


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("factor", [8.0, 1 / 64])
def test_sample_that_misleads(whole: bool, factor: float) -> None:
    """The sampled keys are all among the best or all among the worst: too few logits pass the
    gates, or more than the lists take."""
    q, k, k_scale, weights, starts, ends = scored(1056, 66_000)
    if whole:
        starts.zero_(), ends.fill_(66_000)
    k_scale[::SAMPLE_STRIDE] *= factor
    assert_fused_equals_unfused([q, k, k_scale, weights, starts, ends], 2048)


def test_long_rows() -> None:
    """Positions beyond one window of the bitmap, and ascending logits over all of them."""
    arguments = scored(528, 300_000)
    assert_fused_equals_unfused(arguments, 2048)
    ascending(arguments[1], arguments[2])
    assert_fused_equals_unfused(arguments, 2048)


def test_slots() -> None:
    arguments = scored(1120, 66_000)
    table = torch.randint(-1, 999, (4, 1032)).int()
    assert_fused_equals_unfused(arguments, 2048, block_table=table)
    requests = torch.randint(-1, 5, (1120,)).int()
    assert_fused_equals_unfused(arguments, 2048, block_table=table, row_to_request=requests)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    q, k, k_scale, weights, starts, ends = scored(1056, 66_000)
    batch = dsa_ops.indexer_topk(q, k, k_scale, weights, starts, ends, 2048)
    order = torch.randperm(1056)
    shuffled = [t[order] for t in (q.view(torch.uint8), weights, starts, ends)]
    again = dsa_ops.indexer_topk(
        shuffled[0].view(FP8), k, k_scale, shuffled[1], shuffled[2], shuffled[3], 2048
    )
    assert torch.equal(again, batch[order])


@pytest.mark.parametrize("num_sms", [7, 8, 100])
def test_results_do_not_depend_on_the_launch(num_sms: int) -> None:
    arguments = scored(1056, 66_000)
    expected = dsa_ops.indexer_topk(*arguments, 2048)
    launched = dsa_ops.indexer_topk(*arguments, 2048, num_sms=num_sms, pdl=True)
    assert torch.equal(launched, expected)


def test_repeats() -> None:
    arguments = scored(1056, 66_000)
    assert_repeats(lambda: (dsa_ops.indexer_topk(*arguments, 2048),))


def test_graph_replays_with_other_lengths() -> None:
    arguments = scored(1056, 66_000)
    indices = poisoned(1056, 2048, dtype=torch.int32)
    graph = capture(lambda: dsa_ops.indexer_topk(*arguments, 2048, out=indices))
    for tensor in arguments[3:]:
        tensor.copy_(tensor.flip(0))
    graph.replay()
    assert torch.equal(indices, dsa_ops.indexer_topk(*arguments, 2048))


@pytest.mark.parametrize("shape", [(4096, 8192), (1056, 131_072), (4096, 131_072)])
def test_memory_beside_the_output(shape: tuple[int, int]) -> None:
    num_rows, num_keys = shape
    arguments = scored(num_rows, num_keys)
    out = poisoned(num_rows, 2048, dtype=torch.int32)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    dsa_ops.indexer_topk(*arguments, 2048, out=out)
    assert torch.cuda.max_memory_allocated() - before <= WORKSPACE_BYTES
