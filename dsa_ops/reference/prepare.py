"""From the indexer's projections to its quantised queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats import FP8, INDEX_HEAD_DIM
from .caches import store_index_vectors
from .quant import quantize_index_vectors

_ROPE_DIM = 64
# 2,048 rows of 64 heads are 67 MB in float32, and a handful of such temporaries live at a time.
_ROWS_PER_CHUNK = 2048


def prepare_index_q(
    q: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    weights: Tensor,
    softmax_scale: float,
    *,
    interleaved: bool,
    hadamard: bool = False,
    ue8m0: bool = True,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    q_out = torch.empty(q.shape, dtype=FP8, device=q.device)
    weights_out = torch.empty(weights.shape, dtype=torch.float32, device=q.device)
    head_scale = q.shape[1] ** -0.5
    for start in range(0, q.shape[0], _ROWS_PER_CHUNK):
        rows = slice(start, start + _ROWS_PER_CHUNK)
        vectors = rotate_index_vectors(
            q[rows].to(compute_dtype),
            positions[rows, None],
            cos_sin_cache,
            interleaved=interleaved,
            hadamard=hadamard,
        )
        values, scale = quantize_index_vectors(vectors, ue8m0)
        q_out.view(torch.uint8)[rows] = values.view(torch.uint8)
        weights_out[rows] = weights[rows].to(compute_dtype) * scale * softmax_scale * head_scale
    return q_out, weights_out


def prepare_index_k(
    k: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    positions: Tensor,
    cos_sin_cache: Tensor,
    index_cache: Tensor,
    slot_mapping: Tensor,
    *,
    interleaved: bool,
    hadamard: bool = False,
    ue8m0: bool = True,
    compute_dtype: torch.dtype = torch.float32,
) -> None:
    vectors = k.to(compute_dtype)
    if norm_weight is not None and norm_bias is not None:
        vectors = layer_norm(vectors, norm_weight, norm_bias, eps)
    vectors = rotate_index_vectors(
        vectors, positions, cos_sin_cache, interleaved=interleaved, hadamard=hadamard
    )
    store_index_vectors(vectors, index_cache, slot_mapping, ue8m0)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last dimension with the biased variance, in the dtype of ``x``."""
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return centred * torch.rsqrt(variance + eps) * weight.to(x.dtype) + bias.to(x.dtype)


def rotate_index_vectors(
    x: Tensor, positions: Tensor, cos_sin_cache: Tensor, *, interleaved: bool, hadamard: bool
) -> Tensor:
    """RoPE and the optional Hadamard transform of ``x [..., 128]`` in its own dtype, unquantised;
    ``positions`` broadcasts against the leading dimensions of ``x``."""
    x = apply_rope(x, positions, cos_sin_cache, interleaved=interleaved)
    return hadamard_transform(x) if hadamard else x


def apply_rope(x: Tensor, positions: Tensor, cos_sin_cache: Tensor, *, interleaved: bool) -> Tensor:
    """Rotates the first 64 dims: pairs (2i, 2i + 1) when ``interleaved``, else (i, i + 32)."""
    if positions.numel() == 0:
        return x
    positions = positions.clamp(0, cos_sin_cache.shape[0] - 1)
    cos, sin = cos_sin_cache[positions].to(x.dtype).chunk(2, dim=-1)
    rotated, rest = x.split([_ROPE_DIM, INDEX_HEAD_DIM - _ROPE_DIM], dim=-1)
    if interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
    else:
        first, second = rotated.chunk(2, dim=-1)
    pair = (first * cos - second * sin, second * cos + first * sin)
    rotated = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
    return torch.cat([rotated, rest], dim=-1)


def hadamard_transform(x: Tensor) -> Tensor:
    """The Walsh-Hadamard transform in Sylvester order over the last dimension, orthonormal."""
    shape, size = x.shape, x.shape[-1]
    half = 1
    while half < size:
        low, high = x.unflatten(-1, (-1, 2, half)).unbind(-2)
        x = torch.stack((low + high, low - high), dim=-2).reshape(shape)
        half *= 2
    return x * size**-0.5
