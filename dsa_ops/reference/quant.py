"""The two FP8 quantisations, to the bit."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats import E4M3_MAX, FP8, MLA_SCALE_GROUP

_INDEX_AMAX_FLOOR = 1e-4


def divide_by_e4m3_max(x: Tensor) -> Tensor:
    # A tensor divisor: PyTorch on CUDA turns a scalar divisor into a multiplication by its
    # reciprocal, which is not the IEEE quotient.
    return x / x.new_full((), E4M3_MAX)


def round_up_to_power_of_two(x: Tensor) -> Tensor:
    """The smallest power of two >= x, for positive normal float32; NaN and inf stay."""
    bits = x.view(torch.int32)
    # Adding the mantissa mask carries into the exponent unless the mantissa is zero.
    rounded = ((bits + 0x007FFFFF) & 0x7F800000).view(torch.float32)
    return torch.where(x.isfinite(), rounded, x)


def to_e4m3(x: Tensor) -> Tensor:
    """Clamps to the largest finite value and rounds to nearest even; NaN stays NaN."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(FP8)


def quantize_index_vectors(x: Tensor, ue8m0: bool) -> tuple[Tensor, Tensor]:
    """``x [..., 128]`` to e4m3 of the same shape and one float32 scale per vector ``[...]``:
    ``s = max(amax |x|, 1e-4) / 448``, rounded up to a power of two when ``ue8m0``."""
    x = x.float()
    scale = divide_by_e4m3_max(x.abs().amax(-1).clamp(min=_INDEX_AMAX_FLOOR))
    if ue8m0:
        scale = round_up_to_power_of_two(scale)
    return to_e4m3(x / scale[..., None]), scale


def quantize_mla_latent(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x [..., 512]`` to e4m3 of the same shape and float32 scales ``[..., 4]``:
    ``s = max(amax |x| / 448, FLT_MIN)`` per 128 values, so that zeros stay zeros."""
    groups = x.float().unflatten(-1, (-1, MLA_SCALE_GROUP))
    scale = divide_by_e4m3_max(groups.abs().amax(-1)).clamp(min=torch.finfo(torch.float32).tiny)
    return to_e4m3(groups / scale[..., None]).flatten(-2), scale
