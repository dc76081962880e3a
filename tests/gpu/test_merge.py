"""The merge kernel against the PyTorch implementation in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from tests.gpu.cache_cases import BF16, captured


def random_part(rows: int, heads: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """A partial attention; empty heads hold NaN and have an lse of either infinity."""
    out = torch.randn(rows, heads, head_dim, device="cuda").to(BF16)
    lse = torch.randn(rows, heads, device="cuda") * 10
    empty = torch.rand(rows, heads, device="cuda") < 0.2
    out[empty] = torch.nan
    lse[empty] = torch.where(torch.rand(rows, heads, device="cuda") < 0.5, 1, -1)[empty] * torch.inf
    return out, lse


def assert_merged(merged: tuple[Tensor, Tensor], *parts: Tensor) -> None:
    out, lse = reference.merge_states(*parts, compute_dtype=torch.float64)
    # One unit in the last place of bfloat16, and float32 rounding where the parts cancel.
    torch.testing.assert_close(merged[0].float(), out.float(), rtol=2**-7, atol=4e-6)
    torch.testing.assert_close(merged[1], lse, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("rows,heads", [(0, 4), (1, 1), (77, 3), (50, 128)])
@pytest.mark.parametrize("head_dim", [8, 64, 512, 520])
def test_merge_states(rows: int, heads: int, head_dim: int) -> None:
    parts = (*random_part(rows, heads, head_dim), *random_part(rows, heads, head_dim))
    assert_merged(dsa_ops.merge_states(*parts), *parts)


def test_extreme_lse() -> None:
    lse_a = torch.tensor([[0.0, 1e4, -1e4, 80.0, 3e38]], device="cuda")
    lse_b = torch.tensor([[-200.0, 1e4, -1e4 - 1, -80.0, -3e38]], device="cuda")
    out_a, out_b = torch.randn(2, 1, 5, 512, device="cuda").to(BF16)
    assert_merged(dsa_ops.merge_states(out_a, lse_a, out_b, lse_b), out_a, lse_a, out_b, lse_b)


def test_strided_parts_leave_their_surroundings() -> None:
    wide = torch.randn(20, 3, 1040, device="cuda").to(BF16)
    lses = torch.randn(20, 9, device="cuda")
    parts = (wide[..., :512], lses[:, 1:4], wide[..., 520:1032], lses[:, 5:8])
    guarded = torch.full((3, 22, 528), 77.0, dtype=BF16, device="cuda").transpose(0, 1)
    guarded_lse = torch.full((20, 5), 77.0, device="cuda")
    out, lse = guarded[1:-1, :, 8:520], guarded_lse[:, 1:4]
    assert_merged(dsa_ops.merge_states(*parts, out=(out, lse)), *parts)
    assert (guarded[::21] == 77).all() and (guarded[..., :8] == 77).all()
    assert (guarded[..., 520:] == 77).all() and (guarded_lse[:, ::4] == 77).all()


def test_70_000_rows() -> None:
    parts = (*random_part(70_000, 2, 64), *random_part(70_000, 2, 64))
    assert_merged(dsa_ops.merge_states(*parts), *parts)


def test_graph_replay_with_changed_contents() -> None:
    parts = (*random_part(30, 16, 512), *random_part(30, 16, 512))
    out = (torch.zeros(30, 16, 512, dtype=BF16, device="cuda"), torch.zeros(30, 16, device="cuda"))
    graph = captured(lambda: dsa_ops.merge_states(*parts, out=out))
    for _ in range(3):
        for tensor, fresh in zip(
            parts, (*random_part(30, 16, 512), *random_part(30, 16, 512)), strict=True
        ):
            tensor.copy_(fresh)
        for tensor in out:
            tensor.fill_(77.0)
        graph.replay()
        assert_merged(out, *parts)
