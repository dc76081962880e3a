"""Index preparation kernels against the PyTorch implementation on the same tensors.

The two may differ by float32 rounding before the quantisation, which now and then moves a value
across a rounding boundary of e4m3. So values are compared dequantised, and nearly all bytes must
agree.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from dsa_ops.formats import index_cache_views
from tests.gpu.cache_cases import (
    FP8,
    captured,
    copy_with_storage,
    cos_sin_cache,
    random_cache,
    random_rows,
    storage_bytes,
)


def assert_same_quantisation(
    ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], least_equal: float = 0.999
) -> None:
    """e4m3 vectors ``[..., 128]`` and a float per vector, compared dequantised and in bytes."""
    (x, x_scale), (y, y_scale) = ours, theirs
    equal = x.view(torch.uint8) == y.view(torch.uint8)
    assert not equal.numel() or equal.float().mean() >= least_equal
    largest = y.float().abs().amax(-1, keepdim=True) * y_scale[..., None].abs()
    error = (x.float() * x_scale[..., None] - y.float() * y_scale[..., None]).abs()
    # One step of e4m3 is at most 32 of 448, and 2^-9 among the subnormal numbers.
    assert (error <= 0.08 * largest + 2**-9 * y_scale[..., None].abs()).all()
    torch.testing.assert_close(x_scale, y_scale, rtol=1e-5, atol=0)


def positions_of(num_rows: int, num_positions: int) -> Tensor:
    """Random positions, some outside the cache."""
    positions = torch.randint(0, num_positions, (num_rows,), device="cuda")
    positions[3::17] = -5
    positions[4::19] = 2**40
    return positions


@pytest.mark.parametrize("heads", [8, 16, 32, 64])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("ue8m0", [False, True])
def test_prepare_index_q(heads: int, interleaved: bool, hadamard: bool, ue8m0: bool) -> None:
    options = {"interleaved": interleaved, "hadamard": hadamard, "ue8m0": ue8m0}
    for rows in (0, 1, 77):
        q = random_rows(rows, heads, 128)
        weights = torch.randn(rows, heads + 3, device="cuda")[:, :heads]
        arguments = (q, positions_of(rows, 50), cos_sin_cache(50), weights, 128**-0.5)
        ours = dsa_ops.prepare_index_q(*arguments, **options)
        assert_same_quantisation(ours, reference.prepare_index_q(*arguments, **options))


def test_prepare_index_q_with_strides() -> None:
    """Padded heads and rows, angles and weights at addresses that allow no vector access."""
    q = random_rows(40, 16, 128, row_elements=136)
    angles = torch.randn(30, 67, device="cuda")[:, 1:65]
    weights = torch.randn(40, 19, device="cuda")[:, 3:]
    arguments = (q, positions_of(40, 30), angles, weights, 0.25)
    guarded = torch.full((40, 18, 144), 77, dtype=torch.uint8, device="cuda")
    wide = torch.full((40, 20), 77.0, device="cuda")
    out = (guarded[:, 1:17, :128].view(FP8), wide[:, 2:18])
    for interleaved in (False, True):
        dsa_ops.prepare_index_q(*arguments, interleaved=interleaved, out=out)
        expected = reference.prepare_index_q(*arguments, interleaved=interleaved)
        assert_same_quantisation(out, expected)
        assert (guarded[:, ::17] == 77).all() and (guarded[..., 128:] == 77).all()
        assert (wide[:, :2] == 77).all() and (wide[:, 18:] == 77).all()


def test_prepare_index_q_of_70_000_rows() -> None:
    arguments = (
        random_rows(70_000, 8, 128),
        positions_of(70_000, 70_000),
        cos_sin_cache(70_000),
        torch.randn(70_000, 8, device="cuda"),
        0.125,
    )
    ours = dsa_ops.prepare_index_q(*arguments, interleaved=False)
    assert_same_quantisation(ours, reference.prepare_index_q(*arguments, interleaved=False))


def norm_parameters() -> tuple[Tensor, Tensor]:
    """Weight and bias at odd multiples of 4 bytes."""
    storage = torch.randn(300, device="cuda")
    return storage[1:129], storage[131:259]


def stored(cache: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and scales of some slots of an index cache."""
    keys, scales = index_cache_views(cache)
    at = (slots // 64, slots % 64)
    return keys.view(torch.uint8)[at].view(FP8), scales[at]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("hadamard", [False, True])
@pytest.mark.parametrize("ue8m0", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_prepare_index_k(interleaved: bool, hadamard: bool, ue8m0: bool, norm: bool) -> None:
    options = {"interleaved": interleaved, "hadamard": hadamard, "ue8m0": ue8m0}
    weight, bias = norm_parameters() if norm else (None, None)
    for tokens in (0, 1, 500):
        k = random_rows(tokens, 128, row_elements=136)
        slots = torch.randperm(640, device="cuda")[:tokens]
        slots[1::11], slots[5::13] = -1, 640
        native = random_cache(10, 64, 132, padding=48)
        before, expected = copy_with_storage(native), copy_with_storage(native)
        head = (k, weight, bias, 1e-6, positions_of(tokens, 50), cos_sin_cache(50))
        dsa_ops.prepare_index_k(*head, native, slots, **options)
        reference.prepare_index_k(*head, expected, slots, **options)
        written = slots[(slots >= 0) & (slots < 640)]
        assert_same_quantisation(stored(native, written), stored(expected, written))
        # With the old tokens put back, nothing has changed, padding included.
        keys, scales = index_cache_views(native)
        at = (written // 64, written % 64)
        old_keys, old_scales = stored(before, written)
        keys.view(torch.uint8)[at], scales[at] = old_keys.view(torch.uint8), old_scales
        assert torch.equal(storage_bytes(native), storage_bytes(before))


def test_prepare_index_k_past_2_to_31_bytes() -> None:
    stride = 2**30 + 80
    storage = torch.empty(2 * stride + 8448, dtype=torch.uint8, device="cuda")
    native = storage.as_strided((3, 64, 132), (stride, 132, 1))
    expected = torch.zeros(3, 64, 132, dtype=torch.uint8, device="cuda")
    slots = torch.arange(192, device="cuda")
    head = (random_rows(192, 128), *norm_parameters(), 1e-6, slots, cos_sin_cache(192))
    dsa_ops.prepare_index_k(*head, native, slots, interleaved=True)
    reference.prepare_index_k(*head, expected, slots, interleaved=True)
    assert (native == expected).float().mean() > 0.999


def test_graph_replay_with_changed_contents() -> None:
    q, k = random_rows(60, 64, 128), random_rows(60, 128)
    weights, positions = torch.randn(60, 64, device="cuda"), positions_of(60, 50)
    angles, cache = cos_sin_cache(50), random_cache(1, 64, 132)
    slots = torch.randperm(64, device="cuda")[:60]
    out = (torch.zeros(60, 64, 128, device="cuda").to(FP8), torch.zeros(60, 64, device="cuda"))
    query = (q, positions, angles, weights, 0.125)
    key = (k, *norm_parameters(), 1e-6, positions, angles)

    def call() -> None:
        dsa_ops.prepare_index_q(*query, interleaved=False, hadamard=True, out=out)
        dsa_ops.prepare_index_k(*key, cache, slots, interleaved=False, hadamard=True)

    graph = captured(call)
    for _ in range(3):
        q.copy_(random_rows(60, 64, 128))
        k.copy_(random_rows(60, 128))
        weights.normal_()
        positions.copy_(positions_of(60, 50))
        slots.copy_(torch.randperm(64, device="cuda")[:60])
        expected = copy_with_storage(cache)
        graph.replay()
        theirs = reference.prepare_index_q(*query, interleaved=False, hadamard=True)
        assert_same_quantisation(out, theirs)
        reference.prepare_index_k(*key, expected, slots, interleaved=False, hadamard=True)
        assert (cache == expected).float().mean() > 0.999
