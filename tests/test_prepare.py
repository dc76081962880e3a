"""Index preparation against an explicit evaluation in numpy float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dsa_ops
from dsa_ops.reference.prepare import hadamard_transform, layer_norm
from tests.cache_arguments import BF16, FP8, cos_sin_cache, paged
from tests.naive_quant import E4M3_VALUES, power_of_two_at_least

HADAMARD = np.array([[1.0]])
for _ in range(7):
    HADAMARD = np.block([[HADAMARD, HADAMARD], [HADAMARD, -HADAMARD]])


def naive_rotation(
    x: np.ndarray, position: int, angles: np.ndarray, interleaved: bool, hadamard: bool
) -> np.ndarray:
    """One 128-vector in float64."""
    x = x.astype(np.float64).copy()
    row = angles[min(max(position, 0), len(angles) - 1)].astype(np.float64)
    for i in range(32):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + 32)
        rotation = complex(row[i], row[32 + i]) * complex(x[first], x[second])
        x[first], x[second] = rotation.real, rotation.imag
    return HADAMARD @ x * 128**-0.5 if hadamard else x


def assert_quantised(y: np.ndarray, scale: float, x: np.ndarray, ue8m0: bool) -> None:
    """``y`` and ``scale`` are a quantisation of ``x``, allowing for float32 rounding before it."""
    wanted = max(np.abs(x).max(), 1e-4) / 448
    if ue8m0:
        wanted = power_of_two_at_least(wanted)
    assert scale == pytest.approx(wanted, rel=1e-5)
    # Half a step of e4m3: 2^-4 of the value, 2^-10 among the subnormal numbers.
    step = np.maximum(np.abs(x / scale) * 2**-4, 2.0**-10)
    assert (np.abs(y - x / scale) <= step * (1 + 1e-4)).all()


def rows(*shape: int) -> torch.Tensor:
    return (torch.randn(*shape) * torch.exp2(torch.randint(-16, 8, (*shape[:-1], 1)))).to(BF16)


POSITIONS = torch.tensor([3, 0, 19, 4, 5, -7, 20, 2**40])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("ue8m0", [False, True])
@pytest.mark.parametrize("heads", [8, 64])
def test_prepare_index_q(interleaved: bool, hadamard: bool, ue8m0: bool, heads: int) -> None:
    q, weights = rows(8, heads, 128), torch.randn(8, heads)
    q[2, 1] = 0.0
    angles = cos_sin_cache(20)
    q_out, weights_out = dsa_ops.prepare_index_q(
        q,
        POSITIONS,
        angles,
        weights,
        0.125,
        interleaved=interleaved,
        hadamard=hadamard,
        ue8m0=ue8m0,
    )
    y = E4M3_VALUES[q_out.view(torch.uint8).numpy()]
    for t, h in np.ndindex(8, heads):
        x = naive_rotation(
            q[t, h].float().numpy(), int(POSITIONS[t]), angles.numpy(), interleaved, hadamard
        )
        scale = float(weights_out[t, h]) / (float(weights[t, h]) * 0.125 * heads**-0.5)
        assert_quantised(y[t, h], scale, x, ue8m0)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_prepare_index_k(interleaved: bool, hadamard: bool, norm: bool) -> None:
    k, angles, cache = rows(8, 128), cos_sin_cache(20), paged(2, 64, 132, 16)
    before = cache.clone()
    weight, bias = torch.rand(128) + 0.5, torch.randn(128)
    slots = torch.tensor([5, 127, -1, 64, 0, 128, 63, 70])
    dsa_ops.prepare_index_k(
        k,
        weight if norm else None,
        bias if norm else None,
        1e-6,
        POSITIONS,
        angles,
        cache,
        slots,
        interleaved=interleaved,
        hadamard=hadamard,
    )
    keys, scales = dsa_ops.formats.index_cache_views(cache)
    for t, slot in enumerate(slots.tolist()):
        if not 0 <= slot < 128:
            continue
        x = k[t].double().numpy()
        if norm:
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-6) * weight.numpy() + bias.numpy()
        x = naive_rotation(x, int(POSITIONS[t]), angles.numpy(), interleaved, hadamard)
        y = E4M3_VALUES[keys.view(torch.uint8)[slot // 64, slot % 64].numpy()]
        assert_quantised(y, float(scales[slot // 64, slot % 64]), x, ue8m0=True)
    old_keys, old_scales = dsa_ops.formats.index_cache_views(before)
    written = torch.zeros(128, dtype=torch.bool)
    written[slots[(slots >= 0) & (slots < 128)]] = True
    for new, old in ((keys, old_keys), (scales, old_scales)):
        unchanged = (new.view(torch.uint8) == old.view(torch.uint8)).view(128, -1).all(-1)
        assert unchanged[~written].all()


def test_prepared_scores_equal_unprepared_ones() -> None:
    """Queries times keys keep their scores under the rotation that both share."""
    q, k = torch.randn(1, 8, 128).to(BF16), torch.randn(1, 128).to(BF16)
    position, angles, cache = torch.tensor([7]), cos_sin_cache(8), dsa_ops.new_index_cache(1)
    slot = torch.zeros(1, dtype=torch.int64)
    options = {"interleaved": False, "hadamard": True}
    dsa_ops.prepare_index_k(k, None, None, 0.0, position, angles, cache, slot, **options)
    q_out, folded = dsa_ops.prepare_index_q(
        q, position, angles, torch.ones(1, 8), 128**-0.5, **options
    )
    keys, scales = dsa_ops.formats.index_cache_views(cache)
    scores = q_out[0].double() @ keys[0, 0].double() * folded[0].double() * scales[0, 0].double()
    expected = q[0].double() @ k[0].double() * 128**-0.5 * 8**-0.5
    largest = q[0].double().norm(dim=-1) * k[0].double().norm() * 128**-0.5 * 8**-0.5
    assert ((scores - expected).abs() < 0.02 * largest).all()


def test_hadamard_is_the_sylvester_matrix() -> None:
    identity = torch.eye(128, dtype=torch.float64)
    torch.testing.assert_close(
        hadamard_transform(identity), torch.from_numpy(HADAMARD) * 128**-0.5, rtol=1e-14, atol=0
    )


def test_layer_norm_is_that_of_torch() -> None:
    x, weight, bias = torch.randn(9, 128), torch.randn(128), torch.randn(128)
    expected = torch.nn.functional.layer_norm(x, (128,), weight, bias, 1e-5)
    torch.testing.assert_close(layer_norm(x, weight, bias, 1e-5), expected)


def test_float64_is_an_oracle_of_float32() -> None:
    q, angles, weights = rows(16, 8, 128), cos_sin_cache(16), torch.randn(16, 8)
    prepare, options = dsa_ops.reference.prepare_index_q, {"interleaved": False, "hadamard": True}
    arguments = (q, torch.arange(16), angles, weights, 0.5)
    q_32, weights_32 = prepare(*arguments, **options)
    q_64, weights_64 = prepare(*arguments, **options, compute_dtype=torch.float64)
    torch.testing.assert_close(weights_32, weights_64, rtol=1e-6, atol=0)
    assert (q_32.view(torch.uint8) == q_64.view(torch.uint8)).float().mean() > 0.999


def test_rows_are_chunked_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (rows(7, 8, 128), torch.arange(7), cos_sin_cache(7), torch.randn(7, 8), 0.5)
    whole = dsa_ops.reference.prepare_index_q(*arguments, interleaved=True)
    monkeypatch.setattr("dsa_ops.reference.prepare._ROWS_PER_CHUNK", 3)
    chunked = dsa_ops.reference.prepare_index_q(*arguments, interleaved=True)
    assert torch.equal(whole[0].view(torch.uint8), chunked[0].view(torch.uint8))
    assert torch.equal(whole[1], chunked[1])


def test_zero_rows() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    q_out, weights_out = dsa_ops.prepare_index_q(
        rows(0, 8, 128), none, cos_sin_cache(1), torch.zeros(0, 8), 1.0, interleaved=False
    )
    assert q_out.shape == (0, 8, 128) and q_out.dtype == FP8 and weights_out.shape == (0, 8)
    cache = dsa_ops.new_index_cache(1)
    dsa_ops.prepare_index_k(
        rows(0, 128), None, None, 0.0, none, cos_sin_cache(1), cache, none, interleaved=False
    )
    assert not cache.any()
