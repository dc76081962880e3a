"""Rotary position embedding: the cos/sin table and its application in PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..formats import MLA_ROPE_DIM
from .config import RopeConfig


def _yarn_mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def softmax_scale(rope: RopeConfig, qk_head_dim: int) -> float:
    """``qk_head_dim^-0.5``, times YaRN's squared attention factor."""
    return qk_head_dim**-0.5 * _yarn_mscale(rope.yarn_factor, rope.mscale_all_dim) ** 2


def _inverse_frequencies(rope: RopeConfig) -> Tensor:
    """float32[32]. YaRN keeps fast dimensions, divides slow ones by the factor, blends between."""
    dim = MLA_ROPE_DIM
    frequencies = 1.0 / rope.theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    if rope.yarn_factor <= 1.0:
        return frequencies

    def dimension_of(rotations: float) -> float:
        """The (fractional) dimension that turns this often over the original context."""
        wavelength = rope.original_positions / (rotations * 2 * math.pi)
        return dim * math.log(wavelength) / (2 * math.log(rope.theta))

    low = max(math.floor(dimension_of(rope.beta_fast)), 0)
    high = min(math.ceil(dimension_of(rope.beta_slow)), dim - 1)
    ramp = (torch.arange(dim // 2, dtype=torch.float32) - low) / max(high - low, 1e-3)
    slow = ramp.clamp(0, 1)
    return frequencies / rope.yarn_factor * slow + frequencies * (1 - slow)


def cos_sin_cache(rope: RopeConfig, positions: int) -> Tensor:
    """float32[positions, 64]: 32 cosines, then 32 sines of each position."""
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), _inverse_frequencies(rope))
    factor = rope.yarn_factor
    scale = _yarn_mscale(factor, rope.mscale) / _yarn_mscale(factor, rope.mscale_all_dim)
    return torch.cat([angles.cos(), angles.sin()], dim=-1) * scale


def apply_rope(x: Tensor, cos_sin: Tensor, *, interleaved: bool) -> Tensor:
    """Rotates ``x[..., 64]`` in float32 by ``cos_sin[..., 64]``; keeps layout and dtype of x."""
    cos, sin = cos_sin.chunk(2, dim=-1)
    pairs = x.float().unflatten(-1, (32, 2) if interleaved else (2, 32))
    a, b = pairs.unbind(-1 if interleaved else -2)
    rotated = torch.stack([a * cos - b * sin, b * cos + a * sin], -1 if interleaved else -2)
    return rotated.flatten(-2).to(x.dtype)
