"""FP8 quantisation by definition, in numpy and without PyTorch: the oracle of the format tests."""

from __future__ import annotations

import math

import numpy as np

#: The value of every e4m3 byte.
E4M3_VALUES = np.array(
    [
        (-1.0 if byte & 0x80 else 1.0)
        * (
            math.nan
            if byte & 0x7F == 0x7F
            else (byte & 7) * 2.0**-9
            if byte & 0x78 == 0
            else (8 + (byte & 7)) * 2.0 ** ((byte >> 3 & 15) - 10)
        )
        for byte in range(256)
    ]
)
_MAGNITUDES = E4M3_VALUES[:127]


def encode_e4m3(x: np.ndarray) -> np.ndarray:
    """The bytes of the nearest e4m3 values, ties to the even byte, clamped to 448."""
    magnitude = np.minimum(np.abs(x.astype(np.float64)), 448.0)
    above = np.searchsorted(_MAGNITUDES, magnitude)
    below = np.maximum(above - 1, 0)
    to_above, to_below = _MAGNITUDES[above] - magnitude, magnitude - _MAGNITUDES[below]
    take_above = (to_above < to_below) | ((to_above == to_below) & (above % 2 == 0))
    nearest = np.where(take_above, above, below).astype(np.uint8)
    return nearest | (np.signbit(x).astype(np.uint8) << 7)


def power_of_two_at_least(x: float) -> float:
    mantissa, exponent = math.frexp(x)
    return math.ldexp(0.5, exponent) if mantissa == 0.5 else math.ldexp(1.0, exponent)


def quantize_index_vector(x: np.ndarray, ue8m0: bool) -> tuple[np.ndarray, np.float32]:
    """128 float32 values to e4m3 bytes and their scale."""
    scale = np.maximum(np.abs(x).max(), np.float32(1e-4)) / np.float32(448)
    if ue8m0:
        scale = np.float32(power_of_two_at_least(float(scale)))
    return encode_e4m3(x / scale), scale


def quantize_mla_group(x: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """128 float32 values to e4m3 bytes and their scale."""
    scale = np.maximum(np.abs(x).max() / np.float32(448), np.finfo(np.float32).tiny)
    return encode_e4m3(x / scale), scale
