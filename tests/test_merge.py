"""The merge of partial attentions against attention over the union, in numpy float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import dsa_ops
from tests.cache_arguments import BF16


def naive_merge(
    out_a: np.ndarray, lse_a: float, out_b: np.ndarray, lse_b: float
) -> tuple[np.ndarray, float]:
    """One head, by definition."""
    parts = [(out, lse) for out, lse in ((out_a, lse_a), (out_b, lse_b)) if not math.isinf(lse)]
    if not parts:
        return np.zeros_like(out_a), -math.inf
    largest = max(lse for _, lse in parts)
    total = sum(math.exp(lse - largest) for _, lse in parts)
    out = sum(out * math.exp(lse - largest) for out, lse in parts)
    return out / total, largest + math.log(total)


@pytest.mark.parametrize("head_dim", [8, 128, 512])
def test_merge_with_empty_and_lopsided_parts(head_dim: int) -> None:
    inf = torch.inf
    lse_a = torch.tensor([[0.0, 5.0, -inf, -inf], [inf, 3.0, 1e4, -900.0], [80.0, -90.0, 2.0, inf]])
    lse_b = torch.tensor(
        [[0.0, -5.0, 2.0, -inf], [inf, inf, 1e4, -901.0], [-80.0, -90.5, inf, -inf]]
    )
    out_a, out_b = torch.randn(2, 3, 4, head_dim).to(BF16)
    # An empty part may hold anything.
    out_a[lse_a.isinf()], out_b[lse_b.isinf()] = torch.nan, torch.inf
    out, lse = dsa_ops.merge_states(out_a, lse_a, out_b, lse_b)
    for t, h in np.ndindex(3, 4):
        expected, expected_lse = naive_merge(
            out_a[t, h].double().numpy(),
            float(lse_a[t, h]),
            out_b[t, h].double().numpy(),
            float(lse_b[t, h]),
        )
        np.testing.assert_allclose(out[t, h].double().numpy(), expected, rtol=2**-8, atol=1e-6)
        assert float(lse[t, h]) == pytest.approx(expected_lse, rel=1e-6, abs=1e-6)


def test_halves_of_a_softmax() -> None:
    scores, v = torch.randn(6, 4, 100, dtype=torch.float64), torch.randn(100, 64)

    def attention(keys: slice) -> tuple[torch.Tensor, torch.Tensor]:
        part = scores[..., keys]
        return part.softmax(-1) @ v[keys].double(), part.logsumexp(-1)

    (out_a, lse_a), (out_b, lse_b) = attention(slice(0, 37)), attention(slice(37, 100))
    whole, whole_lse = attention(slice(0, 100))
    out, lse = dsa_ops.merge_states(out_a.to(BF16), lse_a.float(), out_b.to(BF16), lse_b.float())
    assert (out.double() - whole).norm() < 4e-3 * whole.norm()
    torch.testing.assert_close(lse.double(), whole_lse, rtol=1e-6, atol=1e-6)
    exact, exact_lse = dsa_ops.reference.merge_states(
        out_a, lse_a, out_b, lse_b, compute_dtype=torch.float64
    )
    torch.testing.assert_close(exact, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(exact_lse.double(), whole_lse, rtol=1e-6, atol=1e-6)


def test_strided_parts_and_out() -> None:
    wide = torch.randn(5, 3, 1024).to(BF16)
    out_a, out_b, out = wide[..., :512], wide[:, :, 512:], torch.empty(3, 5, 520, dtype=BF16)
    out = out.transpose(0, 1)[..., :512]
    lses = torch.randn(5, 8)
    lse = torch.empty(5, 7)[:, :3]
    result = dsa_ops.merge_states(out_a, lses[:, :3], out_b, lses[:, 3:6], out=(out, lse))
    assert result[0] is out and result[1] is lse
    expected = dsa_ops.merge_states(
        out_a.contiguous(), lses[:, :3].contiguous(), out_b.contiguous(), lses[:, 3:6].contiguous()
    )
    assert torch.equal(out, expected[0]) and torch.equal(lse, expected[1])


def test_zero_rows() -> None:
    out, lse = dsa_ops.merge_states(
        torch.zeros(0, 4, 512, dtype=BF16),
        torch.zeros(0, 4),
        torch.zeros(0, 4, 512, dtype=BF16),
        torch.zeros(0, 4),
    )
    assert out.shape == (0, 4, 512) and lse.shape == (0, 4)
