"""The ops once more, one number at a time in Python's float64: the oracles of the references."""

from __future__ import annotations

import math
import struct

import torch
from torch import Tensor


def e4m3(byte: int) -> float:
    """The value of one float8_e4m3fn byte."""
    sign = -1.0 if byte & 0x80 else 1.0
    exponent, mantissa = byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


def index_key(page: bytes, offset: int) -> tuple[list[float], float]:
    """The 128 values and the scale of one key of an index-cache page."""
    values = [e4m3(byte) for byte in page[128 * offset : 128 * (offset + 1)]]
    (scale,) = struct.unpack_from("<f", page, 64 * 128 + 4 * offset)
    return values, scale


def mla_token(token: bytes) -> list[float]:
    """The 576 values of one 656-byte token of an MLA cache."""
    scales = struct.unpack_from("<4f", token, 512)
    latent = [e4m3(byte) * scales[i // 128] for i, byte in enumerate(token[:512])]
    rope = [
        struct.unpack("<f", struct.pack("<I", bits << 16))[0]
        for bits in struct.unpack_from("<64H", token, 528)
    ]
    return latent + rope


def logit(q: list[list[float]], k: list[float], k_scale: float, weights: list[float]) -> float:
    """The index score of one key for one row: ``q`` is ``[Hi][128]``."""
    total = 0.0
    for head, weight in zip(q, weights, strict=True):
        total += weight * max(math.fsum(a * b for a, b in zip(head, k, strict=True)), 0.0)
    return total * k_scale


def best_positions(logits: list[float], top_k: int, start: int, end: int) -> list[int]:
    """The best of ``logits[start:end]`` by a full sort: ascending positions, then -1."""
    start, end = max(start, 0), max(min(end, len(logits)), 0)
    values = [-math.inf if math.isnan(value) else value for value in logits[start:end]]
    order = sorted(range(len(values)), key=lambda position: (-values[position], position))
    chosen = sorted(order[:top_k])
    return chosen + [-1] * (top_k - len(chosen))


def slot(position: int, request: int, block_table: list[list[int]]) -> int:
    """The slot of a position of a request, -1 where it has none."""
    if position < 0 or not 0 <= request < len(block_table):
        return -1
    pages = block_table[request]
    if position // 64 >= len(pages) or pages[position // 64] < 0:
        return -1
    return pages[position // 64] * 64 + position % 64


def attention(
    q: Tensor, keys: list[Tensor], sm_scale: float, sink: float | None
) -> tuple[Tensor, float, float]:
    """``out[512]``, lse and the largest score of one row and head over a list of keys."""
    out = torch.zeros(512, dtype=torch.float64)
    if not keys:
        return out, -math.inf, -math.inf
    scores = [sm_scale * float(q.double() @ key.double()) for key in keys]
    largest = max(scores)
    total = sum(math.exp(score - largest) for score in scores)
    for score, key in zip(scores, keys, strict=True):
        out += math.exp(score - largest) / total * key[:512].double()
    lse = largest + math.log(total)
    if sink is not None:
        out *= 0.0 if sink == math.inf else 1 / (1 + math.exp(sink - lse))
    return out, lse, largest
