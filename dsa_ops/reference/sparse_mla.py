"""Sparse multi-head latent attention: each row attends to the tokens its index list selects."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats import MLA_HEAD_DIM, MLA_LATENT_DIM, MLA_SCALE_GROUP, mla_cache_views
from ._blocks import BLOCK_ELEMENTS, blocks


def sparse_mla_prefill(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    sm_scale: float,
    *,
    topk_lens: Tensor | None = None,
    attn_sink: Tensor | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """``(out, lse, max_logits)``; see :func:`dsa_ops.sparse_mla_prefill`.

    ``q`` and ``kv`` may be of any floating-point type. ``out`` has the type of ``q``, ``lse`` and
    ``max_logits`` are float32; with ``compute_dtype=torch.float64`` all three are float64.
    """
    out, lse, max_logits = _empty_outputs(q, compute_dtype)
    valid = _valid_entries(indices, kv.shape[0], topk_lens)
    for rows in blocks(q.shape[0], _rows_per_block(q, indices)):
        selected = _take_rows(kv, indices[rows], valid[rows]).to(compute_dtype)
        out[rows], lse[rows], max_logits[rows] = _attend(
            q[rows].to(compute_dtype), selected, valid[rows], sm_scale, attn_sink
        )
    return out, lse, max_logits


def sparse_mla_decode(
    q: Tensor,
    kv_cache: Tensor,
    indices: Tensor,
    sm_scale: float,
    *,
    topk_lens: Tensor | None = None,
    attn_sink: Tensor | None = None,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """``(out, lse)``; see :func:`dsa_ops.sparse_mla_decode`. Types as in
    :func:`sparse_mla_prefill`."""
    cache = kv_cache.squeeze(2) if kv_cache.dim() == 4 else kv_cache
    if cache.dtype != torch.bfloat16:
        cache = cache.view(torch.uint8)
    out, lse, _ = _empty_outputs(q, compute_dtype)
    valid = _valid_entries(indices, cache.shape[0] * cache.shape[1], topk_lens)
    for rows in blocks(q.shape[0], _rows_per_block(q, indices)):
        tokens = _take_tokens(cache, indices[rows], valid[rows])
        is_bf16 = tokens.dtype == torch.bfloat16
        selected = tokens.to(compute_dtype) if is_bf16 else _dequantise(tokens, compute_dtype)
        selected = torch.where(valid[rows].unsqueeze(-1), selected, 0)
        out[rows], lse[rows], _ = _attend(
            q[rows].to(compute_dtype), selected, valid[rows], sm_scale, attn_sink
        )
    return out, lse


def _empty_outputs(q: Tensor, compute_dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    oracle = compute_dtype == torch.float64
    num_rows, num_heads = q.shape[:2]
    out = torch.empty(
        num_rows, num_heads, MLA_LATENT_DIM,
        dtype=compute_dtype if oracle else q.dtype, device=q.device,
    )  # fmt: skip
    lse = torch.empty(
        num_rows, num_heads, dtype=compute_dtype if oracle else torch.float32, device=q.device
    )
    return out, lse, torch.empty_like(lse)


def _rows_per_block(q: Tensor, indices: Tensor) -> int:
    num_heads, head_dim = q.shape[1:]
    return BLOCK_ELEMENTS // (max(1, indices.shape[1]) * 3 * (num_heads + head_dim))


def _valid_entries(indices: Tensor, limit: int, topk_lens: Tensor | None) -> Tensor:
    valid = (indices >= 0) & (indices < limit)
    if topk_lens is not None:
        valid &= torch.arange(indices.shape[1], device=indices.device) < topk_lens[:, None]
    return valid


def _take_rows(kv: Tensor, indices: Tensor, valid: Tensor) -> Tensor:
    """``[R, k, D]`` rows of kv, zero where an entry is empty, whatever kv holds there."""
    if kv.shape[0] == 0:
        return kv.new_zeros(*indices.shape, kv.shape[1])
    selected = kv[torch.where(valid, indices, 0).long()]
    return torch.where(valid.unsqueeze(-1), selected, 0)


def _take_tokens(cache: Tensor, indices: Tensor, valid: Tensor) -> Tensor:
    """``[R, k, 656]`` or ``[R, k, 576]`` tokens of the cache, any token where an entry is empty."""
    num_pages, page_size, columns = cache.shape
    if num_pages * page_size == 0:
        return cache.new_zeros(*indices.shape, columns)
    slots = torch.where(valid, indices, 0).long()
    return cache[slots // page_size, slots % page_size]


def _dequantise(tokens: Tensor, compute_dtype: torch.dtype) -> Tensor:
    """``uint8[R, k, 656]`` -> ``[R, k, 576]``."""
    latent, scales, rope = mla_cache_views(tokens)
    kv = torch.empty(*tokens.shape[:-1], MLA_HEAD_DIM, dtype=compute_dtype, device=tokens.device)
    kv[..., MLA_LATENT_DIM:] = rope
    scales = scales.to(compute_dtype).unsqueeze(-1)
    groups = latent.to(compute_dtype).unflatten(-1, (-1, MLA_SCALE_GROUP))
    kv[..., :MLA_LATENT_DIM] = (groups * scales).flatten(-2)
    return kv


def _attend(
    q: Tensor, selected: Tensor, valid: Tensor, sm_scale: float, attn_sink: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of ``q[R, H, D]`` over ``selected[R, k, D]``, which is zero where not valid."""
    scores = torch.matmul(q, selected.transpose(1, 2)).mul_(sm_scale)
    scores.masked_fill_(~valid.unsqueeze(1), -torch.inf)
    max_logits = scores.amax(-1)
    # An empty row would compute -inf - -inf.
    shift = torch.where(max_logits == -torch.inf, 0, max_logits)
    weights = scores.sub_(shift.unsqueeze(-1)).exp_()
    total = weights.sum(-1)
    lse = shift + total.log()
    out = torch.matmul(weights, selected[..., :MLA_LATENT_DIM]) / total.unsqueeze(-1)
    if attn_sink is not None:
        out *= torch.sigmoid(lse - attn_sink.to(lse.dtype)).unsqueeze(-1)
    return torch.where(total.unsqueeze(-1) == 0, 0, out), lse, max_logits
