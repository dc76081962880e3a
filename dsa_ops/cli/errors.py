"""How far two results are apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_l2(got: Tensor, expected: Tensor) -> float:
    got, expected = got.double(), expected.double()
    return float((got - expected).norm() / expected.norm())


def finite(error: float) -> float | None:
    """For JSON, which has no infinity: None says that two results cannot even be compared."""
    return error if math.isfinite(error) else None


def mismatches(got: Tensor, expected: Tensor) -> float:
    """The number of elements whose bytes differ."""
    return float((got.view(torch.uint8) != expected.view(torch.uint8)).sum())


def logits_error(got: Tensor, expected: Tensor) -> float:
    """Relative L2 error inside the ranges; infinite if the ranges differ."""
    inside = expected.isfinite()
    if not torch.equal(inside, got.isfinite()):
        return float("inf")
    return relative_l2(got[inside], expected[inside])


def selection_shortfall(indices: Tensor, logits: Tensor) -> float:
    """How far the worst selected key lies below the best that was left out, over all rows, as a
    share of the row's rms. ``indices`` are positions, ``logits`` -inf outside the row's range."""
    worst = 0.0
    for selected, row in zip(indices.long(), logits.double(), strict=True):
        selected = selected[selected >= 0]
        inside = row.isfinite()
        if len(selected) != min(len(indices[0]), int(inside.sum())):
            return float("inf")
        left_out = inside.clone()
        left_out[selected] = False
        if left_out.any() and len(selected):
            gap = row[left_out].max() - row[selected].min()
            worst = max(worst, float(gap / row[inside].square().mean().sqrt()))
    return worst


def attention_errors(got: tuple[Tensor, ...], oracle: tuple[Tensor, ...]) -> tuple[float, float]:
    """Relative L2 error of out, largest absolute error of lse; infinite if other rows are empty."""
    lse, expected = got[1].double(), oracle[1].double()
    full = expected.isfinite()
    if not torch.equal(full, lse.isfinite()):
        return float("inf"), float("inf")
    return relative_l2(got[0], oracle[0]), float((lse - expected)[full].abs().max())
