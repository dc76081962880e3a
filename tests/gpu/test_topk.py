"""Top-k against the reference's exact selection, index for index."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import dsa_ops
from bench import data
from dsa_ops import reference
from tests.gates.native_build import compiled_module
from tests.gpu.tools import (
    DEVICE,
    Output,
    assert_registered,
    assert_repeats,
    assert_streams_do_not_mix,
    capture,
    on_device,
    poisoned,
)
from tests.select_arguments import ints

__all__ = ["on_device"]
INT32 = torch.iinfo(torch.int32)
TOP_KS = [1, 17, 64, 100, 512, 1024, 2048, 2051, 4096]
# Repeats of three rows, and columns: together every kernel, cluster and block size of a 132-SM GPU.
HELD_SHAPES = [(1, 300), (1, 8192), (2, 130_000), (1, 20_000)]
STAGED_SHAPES = [(50, 6000), (45, 8192), (45, 300)]
GATED_SHAPES = [(47, 40_000), (34, 70_000), (12, 20_000), (7, 140_000), (4, 140_000), (1, 400_000)]


def every_31st_large(n: int) -> Tensor:
    """Large where a sample of one warp lane would look, small elsewhere."""
    row = torch.randn(n) * 1e-3
    lanes = torch.arange(n) % 32
    row[(lanes == 0) | (lanes == 1)] += 100
    return row


def special_values(n: int) -> Tensor:
    values = torch.tensor(
        [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40, -1e-40, 1.0, 1 + 2**-23, 3e38, -3e38]
    )
    return values[torch.randint(0, len(values), (n,))]


def last_bits(n: int) -> Tensor:
    """Neighbouring floats around 1, shuffled."""
    one = 0x3F800000
    return (one - n // 2 + torch.randperm(n)).int().view(torch.float32)


def ties_at_the_boundary(n: int) -> Tensor:
    row = torch.randn(n)
    row[torch.randperm(n)[: n // 2]] = 1.0
    return row


def best_at_the_end(n: int) -> Tensor:
    """Some blocks of a cluster have most of the best, more than they tell the others at once."""
    row = torch.randn(n)
    row[: n - n // 8] -= 10
    return row


def crowd(n: int, above: int, value: float = 0.0) -> Tensor:
    """One value but for some logits above it and as many below."""
    row = torch.full((n,), value)
    others = torch.randperm(n)[: 2 * above]
    row[others] += torch.rand(len(others)) + 0.5
    row[others[above:]] -= 2
    return row


def late_crowd(n: int) -> Tensor:
    """Its first logits are none of the ties that the best end with."""
    row = crowd(n, n // 50)
    row[: n // 3] = -5
    return row


def sparse_crowd(n: int) -> Tensor:
    """Its first logits have some of the ties that the best end with, but too few."""
    row = crowd(n, n // 50)
    row[: n // 3][torch.rand(n // 3) < 0.97] = -5
    return row


ROWS: dict[str, Callable[[int], Tensor]] = {
    "normal": torch.randn,
    "all equal": torch.ones,
    "two values": lambda n: (torch.rand(n) < 0.1).float(),
    "ascending": lambda n: torch.arange(n).float(),
    "descending": lambda n: -torch.arange(n).float(),
    "sawtooth": lambda n: (torch.arange(n) % 1009).float(),
    "all -inf": lambda n: torch.full((n,), -torch.inf),
    "all NaN": lambda n: torch.full((n,), torch.nan),
    "one +inf": lambda n: torch.full((n,), -1.0).index_fill(0, torch.tensor([n // 3]), torch.inf),
    "zeros of both signs": lambda n: torch.randint(0, 2, (n,)).float().copysign(torch.randn(n)) * 0,
    "special values": special_values,
    "huge range": lambda n: torch.exp(torch.randn(n) * 40).copysign(torch.randn(n)),
    "subnormals": lambda n: torch.randn(n) * 1e-40,
    "last mantissa bits": last_bits,
    "one bin": lambda n: 100 + torch.rand(n) * 1e-3,
    "ties at the boundary": ties_at_the_boundary,
    "sample-adversarial": every_31st_large,
    "a crowd": lambda n: crowd(n, n // 50, -3.0),
    "as many as k above a crowd": lambda n: crowd(n, 2048),
    "one fewer than k above a crowd": lambda n: crowd(n, 2047, 7.0),
    "a crowd that begins late": late_crowd,
    "a crowd that begins sparsely": sparse_crowd,
    "coarse": lambda n: (torch.randn(n) * 8).round() / 8,
    "best at the end": best_at_the_end,
    "like a model's": lambda n: data.scores(torch.device(DEVICE), 1, n, "model_like", 0)[0],
}


def assert_exact(
    logits: Tensor,
    top_k: int,
    ends: Tensor,
    starts: Tensor | None = None,
    repeats: int = 1,
    **options: Tensor,
) -> None:
    """Index for index the reference's selection, into a poisoned output with gaps. The op sees
    all rows ``repeats`` times."""
    expected = reference.topk(logits, top_k, ends, starts, **options).repeat(repeats, 1)
    output = Output(len(expected), top_k, dtype=torch.int32, offset=1, padding=3)
    if repeats > 1:
        logits, ends = logits.repeat(repeats, 1), ends.repeat(repeats)
        starts = None if starts is None else starts.repeat(repeats)
    dsa_ops.topk(logits, top_k, ends, starts, out=output.tensor, **options)
    assert torch.equal(output.tensor, expected)
    output.assert_untouched_around()


def test_shapes_reach_every_kernel() -> None:
    plans = [
        compiled_module().plan_topk(3 * repeats, num_columns, 2048, 132, from_zero=False)
        for repeats, num_columns in HELD_SHAPES + STAGED_SHAPES + GATED_SHAPES
    ]
    chosen = {(plan["selector"], plan["cluster_size"], plan["block_threads"]) for plan in plans}
    held = {("binned", 1, 512), ("staged", 1, 256), ("resident", 16, 512)}
    assert chosen == held | {("gated", size, 512) for size in (1, 2, 8, 16)}


@pytest.mark.parametrize(("repeats", "num_columns"), HELD_SHAPES + STAGED_SHAPES + GATED_SHAPES)
@pytest.mark.parametrize("kind", ROWS)
def test_adversarial_rows(kind: str, repeats: int, num_columns: int) -> None:
    logits = torch.stack([ROWS[kind](num_columns) for _ in range(3)])
    ends = ints(num_columns, num_columns - 1, num_columns // 2)
    starts = ints(0, 3, 1)
    for top_k in (64, 2048):
        assert_exact(logits, top_k, ends, starts, repeats)
        assert_exact(logits.bfloat16(), top_k, ends, starts, repeats)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(140, 200_000), (100, 400_000)])
def test_samples_that_mislead(num_rows: int, num_columns: int, dtype: torch.dtype) -> None:
    """Runs of 64 similar logits make four samples worth little more than one: some rows find too
    many or too few candidates, and list the best of every slice instead."""
    runs = torch.randn(num_rows, num_columns // 64 + 1).repeat_interleave(64, 1)[:, :num_columns]
    logits = (runs + 1e-3 * torch.randn(num_rows, num_columns)).to(dtype)
    assert_exact(logits, 2048, torch.full((num_rows,), num_columns).int())


@pytest.mark.parametrize(
    ("repeats", "num_columns"), [(1, 12_000), (12, 7000), (12, 20_000), (1, 300_000)]
)
@pytest.mark.parametrize("top_k", TOP_KS)
def test_lengths_around_k(top_k: int, repeats: int, num_columns: int) -> None:
    lengths = [0, 1, 2, top_k - 1, top_k, top_k + 1, 2 * top_k, 31, 32, 33, 9000, INT32.max]
    starts = torch.randint(0, 100, (len(lengths),)).int()
    ends = (starts + torch.tensor(lengths)).clamp(max=INT32.max).int()
    starts[-2:] = ints(-7, INT32.min)
    logits = torch.randn(len(lengths), num_columns)
    assert_exact(logits, top_k, ends, starts, repeats)
    assert_exact(logits, top_k, torch.full_like(ends, INT32.min), starts, repeats)


@pytest.mark.parametrize("num_rows", [1, 2, 8, 33, 131, 133, 400])
@pytest.mark.parametrize("num_columns", [1, 777, 20_001])
def test_batches(num_rows: int, num_columns: int) -> None:
    logits = torch.randn(num_rows, num_columns)
    ends = torch.randint(0, num_columns + 1, (num_rows,)).int()
    assert_exact(logits, 1024, ends)
    assert_exact(logits, 2048, ends.fill_(num_columns))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [1, 2, 3, 5])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(9, 4990), (140, 4990), (140, 19_990)])
def test_strides_and_misaligned_rows(
    num_rows: int, num_columns: int, offset: int, dtype: torch.dtype
) -> None:
    logits = torch.randn(num_rows, num_columns + 13).to(dtype)[:, offset : offset + num_columns]
    starts = torch.randint(0, 9, (num_rows,)).int()
    assert_exact(logits, 500, torch.full_like(starts, num_columns), starts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [9, 140])
def test_ranges_to_the_end_of_the_longest_rows_of_one_block(
    num_rows: int, dtype: torch.dtype
) -> None:
    """What lies before a range in its first 16 bytes takes the place of what the range lacks."""
    logits = torch.randn(num_rows, 8192).to(dtype)
    starts = (torch.arange(num_rows) % 19).int()
    assert_exact(logits, 2048, torch.full_like(starts, 8192), starts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_k", [512, 2048, 4096])
def test_rows_of_a_million(top_k: int, dtype: torch.dtype) -> None:
    logits = torch.randn(3, 1_048_576)
    logits[1] = (logits[1] * 4).round()
    logits[2] *= torch.rand(1_048_576) < 1e-3
    assert_exact(logits.to(dtype), top_k, ints(1_048_576, 1_048_575, 1_000_003), ints(0, 3, 0))


@pytest.mark.parametrize(
    ("num_rows", "num_columns", "top_k"), [(70_000, 100, 7), (131_072, 2500, 1024)]
)
def test_many_rows(num_rows: int, num_columns: int, top_k: int) -> None:
    logits = torch.randn(num_rows, num_columns)
    ends = torch.randint(-5, num_columns + 10, (num_rows,)).int()
    assert_exact(logits, top_k, ends)


def test_more_than_two_to_the_31_logits() -> None:
    num_rows, num_columns, width = 17_000, 131_072, 40
    logits = torch.empty(num_rows, num_columns)
    starts = torch.randint(0, num_columns - width, (num_rows,)).int()
    values = torch.randn(num_rows, width)
    logits.scatter_(1, starts.long()[:, None] + torch.arange(width), values)
    actual = dsa_ops.topk(logits, 16, starts + width, starts)
    assert torch.equal(actual, reference.topk(values, 16, torch.full_like(starts, width)))


def test_no_rows_or_no_columns() -> None:
    none = torch.empty(0, dtype=torch.int32)
    assert dsa_ops.topk(torch.empty(0, 9), 4, none).shape == (0, 4)
    indices = poisoned(2, 3, dtype=torch.int32)
    dsa_ops.topk(torch.empty(2, 0), 3, ints(5, 5), out=indices)
    assert (indices == -1).all()


@pytest.mark.parametrize("kind", ["random", "model_like"])
@pytest.mark.parametrize("given_requests", [False, True])
@pytest.mark.parametrize("top_k", [64, 2048])
@pytest.mark.parametrize(("num_rows", "num_columns"), [(12, 5000), (144, 5000), (144, 20_000)])
def test_slots(
    num_rows: int, num_columns: int, top_k: int, given_requests: bool, kind: str
) -> None:
    logits = data.scores(torch.device(DEVICE), num_rows, num_columns, kind, 0)
    starts = torch.randint(0, 50, (num_rows,)).int()
    ends = torch.randint(0, num_columns, (num_rows,)).int()
    table = torch.randint(-1, 100_000, (4, 97)).int()[:, :70]
    options = {"block_table": table, "row_offsets": torch.randint(0, 9, (num_rows,)).int()}
    if given_requests:
        requests = torch.randint(0, 4, (num_rows,)).int()
        requests[:4] = ints(-1, 4, INT32.max, INT32.min)
        options["row_to_request"] = requests
    assert_exact(logits, top_k, ends, starts, **options)
    assert_exact(logits, top_k, ends, starts, **options | {"block_table": table[:, :0]})
    assert_exact(logits, top_k, ends, starts, row_offsets=options["row_offsets"])


@pytest.mark.parametrize(("num_rows", "num_columns"), [(60, 50_000), (140, 50_000), (140, 8000)])
def test_repeats_and_rows_alone(num_rows: int, num_columns: int) -> None:
    """A row alone is selected as in a batch: by the resident kernel as by the others."""
    logits = (torch.randn(num_rows, num_columns) * 8).round()
    ends = torch.full((num_rows,), num_columns).int()
    assert_repeats(lambda: (dsa_ops.topk(logits, 2048, ends),))
    batch = dsa_ops.topk(logits, 2048, ends)
    for row in (0, 31, 59):
        own = slice(row, row + 1)
        assert torch.equal(dsa_ops.topk(logits[own], 2048, ends[own]), batch[own])


@pytest.mark.parametrize(("num_rows", "num_columns"), [(2, 30_000), (200, 30_000), (200, 8000)])
def test_graph_replays_with_new_lengths_and_logits(num_rows: int, num_columns: int) -> None:
    logits, ends = torch.randn(num_rows, num_columns), torch.full((num_rows,), 9).int()
    indices = poisoned(num_rows, 2048, dtype=torch.int32)
    graph = capture(lambda: dsa_ops.topk(logits, 2048, ends, out=indices))
    for length in (num_columns, 2048, 0, 2500):
        logits.copy_(torch.randn(num_rows, num_columns))
        ends.fill_(length)
        graph.replay()
        assert torch.equal(indices, reference.topk(logits, 2048, ends))


def test_streams_do_not_mix() -> None:
    wide, tall = torch.randn(3, 90_000), torch.randn(300, 5000)
    wide_ends, tall_ends = ints(90_000, 80_000, 70_000), torch.full((300,), 5000).int()
    wider, wider_ends = torch.randn(20, 80_000), torch.full((20,), 80_000).int()
    assert_streams_do_not_mix(
        [
            lambda: (dsa_ops.topk(wide, 2048, wide_ends),),
            lambda: (dsa_ops.topk(tall, 2048, tall_ends),),
            lambda: (dsa_ops.topk(wide, 64, wide_ends),),
            lambda: (dsa_ops.topk(wider, 2048, wider_ends),),
        ]
    )


def test_registration() -> None:
    assert_registered("topk")
