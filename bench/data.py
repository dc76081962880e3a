"""Seeded inputs, made on the device that will read them.

Scores and index vectors come ``random`` (Gaussian) or ``model_like``: a few sinks at the start,
relevance that grows towards the recent end, and most scores exactly 0.0 because every head's ReLU
is off. Sets of selected keys come ``random`` (uniform without replacement) or ``local``
(neighbouring rows share 85 %); both are ascending, as selection returns them.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from dsa_ops import formats

#: Share of a row's scores that are exactly 0.0 in ``model_like`` data.
TIE_SHARE = 0.97
#: Share of a row's indices that the next row selects too, in ``local`` sets.
LOCAL_OVERLAP = 0.85

_SINKS = 4
_CHUNK_ELEMENTS = 1 << 26


def generator(device: torch.device, seed: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def normal(gen: torch.Generator, *sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(sizes, generator=gen, device=gen.device, dtype=dtype)


def _relevant(gen: torch.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Which keys score at all, ``bool[rows, length]``, denser towards the end; and the trend."""
    trend = torch.linspace(0.5, 1.5, length, device=gen.device)
    draws = torch.rand(rows, length, generator=gen, device=gen.device)
    relevant = draws < (1 - TIE_SHARE) * trend
    relevant[:, :_SINKS] = True
    return relevant, trend


def _model_like_scores(gen: torch.Generator, rows: int, length: int) -> Tensor:
    """Positive where relevant, one in eight negated (weights may be negative), else exactly 0."""
    relevant, trend = _relevant(gen, rows, length)
    values = normal(gen, rows, length).abs_().mul_(trend)
    values[:, :_SINKS] += 8.0
    negated = torch.rand(rows, length, generator=gen, device=gen.device) < 1 / 8
    return torch.where(negated, -values, values) * relevant


def scores(device: torch.device, rows: int, length: int, data: str, seed: int) -> Tensor:
    """Index logits ``f32[rows, length]``."""
    gen = generator(device, seed)
    if data == "random":
        return normal(gen, rows, length)
    out = torch.empty(rows, length, device=device)
    step = max(1, _CHUNK_ELEMENTS // length)
    for start in range(0, rows, step):
        chunk = out[start : start + step]
        chunk.copy_(_model_like_scores(gen, chunk.shape[0], length))
    return out


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 values and one scale, a power of two, per last-dimension vector."""
    scale = torch.exp2(torch.ceil(torch.log2(x.abs().amax(-1).clamp_min(1e-4) / formats.E4M3_MAX)))
    return (x / scale.unsqueeze(-1)).to(formats.FP8), scale


def _index_direction(device: torch.device) -> Tensor:
    """The direction (entries +-1) along which model-like queries and keys agree."""
    gen = generator(torch.device("cpu"), 7)
    signs = torch.randint(2, (formats.INDEX_HEAD_DIM,), generator=gen, device=gen.device)
    return (2.0 * signs - 1.0).to(device)


def index_queries(
    gen: torch.Generator, rows: int, index_heads: int, data: str
) -> tuple[Tensor, Tensor]:
    """``q e4m3[rows, index_heads, 128]`` and ``weights f32[rows, index_heads]``."""
    q = normal(gen, rows, index_heads, formats.INDEX_HEAD_DIM)
    weights = normal(gen, rows, index_heads)
    if data == "model_like":
        q = _index_direction(gen.device) + 0.3 * q
        weights += 1.0
    return quantize(q)[0], weights * index_heads**-0.5


def index_keys(gen: torch.Generator, tokens: int, data: str) -> tuple[Tensor, Tensor]:
    """``k e4m3[tokens, 128]`` and ``k_scale f32[tokens]``.

    A model-like key that is not relevant points away from every query head by more than the noise,
    so that all ReLUs are off and its logit is exactly zero.
    """
    k = normal(gen, tokens, formats.INDEX_HEAD_DIM)
    if data == "model_like":
        relevant, trend = _relevant(gen, 1, tokens)
        alignment = torch.where(relevant[0], 0.5 * trend, torch.full_like(trend, -0.35))
        alignment[:_SINKS] = 2.0
        k += alignment.unsqueeze(1) * _index_direction(gen.device)
    return quantize(k)


def index_cache(gen: torch.Generator, batch: int, context: int, data: str) -> tuple[Tensor, Tensor]:
    """An index cache of ``batch`` requests and their shuffled ``block_table i32[batch, pages]``."""
    pages = -(-context // formats.INDEX_PAGE_TOKENS)
    order = torch.randperm(batch * pages, generator=gen, device=gen.device)
    block_table = order.view(batch, pages)
    cache = formats.new_index_cache(batch * pages, gen.device)
    keys, scales = formats.index_cache_views(cache)
    for request in range(batch):
        k, k_scale = index_keys(gen, pages * formats.INDEX_PAGE_TOKENS, data)
        keys.view(torch.uint8)[block_table[request]] = k.view(torch.uint8).view(pages, 64, -1)
        scales[block_table[request]] = k_scale.view(pages, formats.INDEX_PAGE_TOKENS)
    return cache, block_table.int()


def latents(gen: torch.Generator, tokens: int) -> tuple[Tensor, Tensor]:
    """``kv_latent bf16[tokens, 512]`` and ``k_rope bf16[tokens, 64]``; magnitudes vary by token."""
    magnitude = normal(gen, tokens, 1).mul_(0.5).exp_()
    latent = normal(gen, tokens, formats.MLA_LATENT_DIM).mul_(magnitude)
    return latent.bfloat16(), normal(gen, tokens, formats.MLA_ROPE_DIM, dtype=torch.bfloat16)


def mla_cache(gen: torch.Generator, tokens: int, kv: str = "fp8") -> Tensor:
    """An MLA cache with every slot filled: ``uint8[pages, 64, 656]``, or of ``kv="bf16"``
    ``bfloat16[pages, 64, 576]``, of plain Gaussian values."""
    pages = -(-tokens // formats.MLA_PAGE_TOKENS)
    if kv == "bf16":
        sizes = (pages, formats.MLA_PAGE_TOKENS, formats.MLA_HEAD_DIM)
        return normal(gen, *sizes, dtype=torch.bfloat16)
    cache = formats.new_mla_cache(pages, device=gen.device)
    step = _CHUNK_ELEMENTS // (formats.MLA_PAGE_TOKENS * formats.MLA_LATENT_DIM)
    groups = formats.MLA_LATENT_DIM // formats.MLA_SCALE_GROUP
    for start in range(0, pages, step):
        chunk = cache[start : start + step]
        latent, scales, rope = formats.mla_cache_views(chunk)
        values, k_rope = latents(gen, chunk.shape[0] * formats.MLA_PAGE_TOKENS)
        grouped = values.float().view(-1, groups, formats.MLA_SCALE_GROUP)
        scale = grouped.abs().amax(-1) / formats.E4M3_MAX
        quantized = (grouped / scale.unsqueeze(-1)).to(formats.FP8)
        latent.view(torch.uint8).copy_(quantized.view(torch.uint8).view(latent.shape))
        scales.copy_(scale.view(scales.shape))
        rope.copy_(k_rope.view(rope.shape))
    return cache


def _random_sets(gen: torch.Generator, rows: int, context: int, k: int) -> Tensor:
    sets = torch.empty(rows, k, dtype=torch.int32, device=gen.device)
    step = max(1, _CHUNK_ELEMENTS // context)
    for start in range(0, rows, step):
        chunk = sets[start : start + step]
        draws = torch.rand(chunk.shape[0], context, generator=gen, device=gen.device)
        chunk.copy_(draws.topk(k, dim=1).indices.sort(dim=1).values)
    return sets


def _local_sets(gen: torch.Generator, rows: int, context: int, k: int) -> Tensor:
    """Row t ends at ``context - rows + 1 + t``. It selects the sinks, the recent window before its
    end, and free keys between them; each row replaces just so many free keys that it shares 85 %
    of its set with the row before (the moving window costs one)."""
    sinks, window = k // 128, k // 8
    free = k - sinks - window
    replaced = round((1 - LOCAL_OVERLAP) * k) - 1
    first_limit = context - rows + 1 - window
    if first_limit - sinks < free + replaced:
        raise ValueError(f"local sets: context must hold k={k} and {rows} rows, got {context}")
    sets = torch.empty(rows, k, dtype=torch.int32, device=gen.device)
    fixed = torch.arange(sinks, device=gen.device)
    draws = torch.rand(first_limit - sinks, generator=gen, device=gen.device)
    chosen = draws.topk(free).indices
    for row in range(rows):
        limit = first_limit + row
        if row:
            draws = torch.rand(limit - sinks, generator=gen, device=gen.device)
            kept = chosen[draws[chosen].topk(free - replaced).indices]
            added = draws.index_fill(0, chosen, -1.0).topk(replaced).indices
            chosen = torch.cat((kept, added))
        recent = torch.arange(limit, limit + window, device=gen.device)
        sets[row] = torch.cat((fixed, chosen + sinks, recent))
    return sets.sort(dim=1).values


@functools.lru_cache(maxsize=8)
def index_sets(
    device: torch.device, rows: int, context: int, k: int, indices: str, seed: int
) -> Tensor:
    """Selected positions ``i32[rows, k]``, ascending, in ``[0, context)``."""
    make = {"random": _random_sets, "local": _local_sets}[indices]
    return make(generator(device, seed), rows, context, k)
