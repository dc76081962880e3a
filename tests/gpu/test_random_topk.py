"""topk of random sizes, ranges, layouts and data, for every kernel and cluster size, against the
PyTorch implementation on the same logits."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from tests.gpu.tools import Output, on_device

__all__ = ["on_device"]
INT32 = torch.iinfo(torch.int32)
#: Rows and columns, from and to, by the kernel that 132 multiprocessors take for them.
SIZES = {
    "binned": ((1, 132), (1, 8192)),
    "staged": ((133, 300), (1, 8192)),
    "resident": ((1, 7), (8193, 131_072)),
    "gated, 8 blocks": ((8, 29), (8193, 70_000)),
    "gated, 16 blocks": ((1, 7), (262_145, 400_000)),
    "gated, 2 blocks": ((30, 132), (8193, 20_000)),
    "gated, 1 block": ((133, 200), (8193, 12_000)),
}
TOP_KS = [1, 2, 63, 64, 511, 512, 513, 1000, 2047, 2048, 2049, 4095, 4096]


def random_logits(rng: random.Random, rows: int, columns: int) -> Tensor:
    kind = rng.choice(["random", "bits", "few", "tied", "nan", "denormal", "last bits", "trend"])
    logits = torch.randn(rows, columns)
    if kind == "bits":
        logits.view(torch.int32).random_(INT32.min, INT32.max)
    elif kind == "few":
        logits = torch.randint(-1, 2, (rows, columns)).float()
    elif kind == "tied":
        logits.relu_()
        logits *= torch.rand(rows, columns) < rng.choice([0.01, 0.1, 0.5])
    elif kind == "nan":
        draws = torch.rand(rows, columns)
        logits[draws < 0.7], logits[draws < 0.3] = torch.nan, -torch.inf
    elif kind == "denormal":
        logits *= 1e-42
    elif kind == "last bits":
        logits.fill_(1).view(torch.int32).add_(torch.randint(0, 3, (rows, columns)).int())
    elif kind == "trend":
        logits += torch.arange(columns) * rng.choice([-1e-3, 1e-3])
    return logits


def random_bounds(rng: random.Random, rows: int, columns: int, top_k: int) -> Tensor:
    bounds = torch.randint(-3, columns + 4, (rows,))
    special = [INT32.min, INT32.max, 0, 1, top_k - 1, top_k, top_k + 1, columns]
    odd = torch.rand(rows) < rng.choice([0.1, 0.9])
    bounds[odd] = torch.tensor(special)[torch.randint(0, len(special), (int(odd.sum()),))]
    return bounds.int()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", SIZES)
def test_random_calls(sizes: str, seed: int) -> None:
    rng = random.Random(seed)
    rows, columns = (rng.choice([*limits, rng.randint(*limits)]) for limits in SIZES[sizes])
    top_k, padding, offset = rng.choice(TOP_KS), rng.choice([0, 1, 8]), rng.choice([0, 1, 4])
    values = random_logits(rng, rows, columns)
    logits = torch.full((rows, offset + columns + padding), torch.inf)[:, offset:][:, :columns]
    logits.copy_(values)
    if rng.random() < 0.3:
        logits = torch.full((rows, columns + padding), torch.inf).bfloat16()[:, :columns]
        logits.copy_(values)
    ends = random_bounds(rng, rows, columns, top_k)
    starts = random_bounds(rng, rows, columns, top_k) if rng.random() < 0.5 else None
    output = Output(rows, top_k, dtype=torch.int32, offset=rng.choice([0, 3]))
    dsa_ops.topk(logits, top_k, ends, starts, out=output.tensor)
    assert torch.equal(output.tensor, reference.topk(logits, top_k, ends, starts))
    output.assert_untouched_around()
