"""Writes to and gathers from the two paged caches."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats import (
    FP8,
    INDEX_HEAD_DIM,
    INDEX_PAGE_TOKENS,
    MLA_HEAD_DIM,
    MLA_LATENT_DIM,
    MLA_SCALE_GROUP,
    index_cache_views,
    mla_cache_views,
)
from .quant import quantize_index_vectors, quantize_mla_latent


def store_index_vectors(
    vectors: Tensor, index_cache: Tensor, slot_mapping: Tensor, ue8m0: bool
) -> None:
    """Quantises ``vectors [num_tokens, 128]`` (any float dtype) and stores them in their slots."""
    keys, scales = index_cache_views(index_cache)
    tokens, pages, offsets = _stored_tokens(slot_mapping, keys.shape[0], INDEX_PAGE_TOKENS)
    values, scale = quantize_index_vectors(vectors[tokens], ue8m0)
    keys.view(torch.uint8)[pages, offsets] = values.view(torch.uint8)
    scales[pages, offsets] = scale


def write_index_cache(
    k: Tensor, index_cache: Tensor, slot_mapping: Tensor, *, ue8m0: bool = True
) -> None:
    store_index_vectors(k, index_cache, slot_mapping, ue8m0)


def write_mla_cache(
    kv_latent: Tensor, k_rope: Tensor, mla_cache: Tensor, slot_mapping: Tensor
) -> None:
    latent, scales, rope = mla_cache_views(mla_cache)
    tokens, pages, offsets = _stored_tokens(slot_mapping, latent.shape[0], latent.shape[1])
    values, scale = quantize_mla_latent(kv_latent[tokens])
    latent.view(torch.uint8)[pages, offsets] = values.view(torch.uint8)
    scales[pages, offsets] = scale
    rope[pages, offsets] = k_rope[tokens].to(torch.bfloat16)


def gather_index_cache(
    index_cache: Tensor, block_table: Tensor, cu_seq_lens: Tensor, num_tokens: int
) -> tuple[Tensor, Tensor]:
    """Rows that belong to no request are zeros here; the op leaves them as they were."""
    keys, scales = index_cache_views(index_cache)
    slots, _ = gathered_slots(
        block_table, cu_seq_lens, num_tokens, keys.shape[0], INDEX_PAGE_TOKENS
    )
    if keys.shape[0] == 0:
        zeros = scales.new_zeros(num_tokens, INDEX_HEAD_DIM)
        return zeros.to(FP8), zeros[:, 0].clone()
    pages, offsets = _pages_and_offsets(slots.clamp(min=0), INDEX_PAGE_TOKENS)
    k = torch.where(slots[:, None] >= 0, keys.view(torch.uint8)[pages, offsets], 0)
    return k.view(FP8), torch.where(slots >= 0, scales[pages, offsets], 0.0)


def gather_mla_cache(
    mla_cache: Tensor, block_table: Tensor, cu_seq_lens: Tensor, num_tokens: int
) -> Tensor:
    """Rows that belong to no request are zeros here; the op leaves them as they were."""
    latent, scales, rope = mla_cache_views(mla_cache)
    num_pages, page_size = latent.shape[:2]
    slots, _ = gathered_slots(block_table, cu_seq_lens, num_tokens, num_pages, page_size)
    if num_pages == 0:
        return rope.new_zeros(num_tokens, MLA_HEAD_DIM)
    pages, offsets = _pages_and_offsets(slots.clamp(min=0), page_size)
    values = latent.view(torch.uint8)[pages, offsets].view(FP8).float()
    groups = values.unflatten(-1, (-1, MLA_SCALE_GROUP)) * scales[pages, offsets][..., None]
    kv = rope.new_empty(num_tokens, MLA_HEAD_DIM)
    kv[:, :MLA_LATENT_DIM] = groups.flatten(-2)
    kv[:, MLA_LATENT_DIM:] = rope[pages, offsets]
    return torch.where(slots[:, None] >= 0, kv, 0.0)


def gathered_slots(
    block_table: Tensor, cu_seq_lens: Tensor, num_tokens: int, num_pages: int, page_size: int
) -> tuple[Tensor, Tensor]:
    """The slot that each gathered row reads, int64 (-1: no page of the cache), and whether the row
    belongs to a request at all, bool."""
    rows = torch.arange(num_tokens, device=cu_seq_lens.device)
    num_requests, pages_per_request = block_table.shape
    if num_requests == 0:
        return torch.full_like(rows, -1), torch.zeros_like(rows, dtype=torch.bool)
    cu_seq_lens = cu_seq_lens.long()
    request = torch.searchsorted(cu_seq_lens, rows, right=True) - 1
    covered = (request >= 0) & (request < num_requests)
    request = request.clamp(0, num_requests - 1)
    position = rows - cu_seq_lens[request]
    covered &= (position >= 0) & (rows < cu_seq_lens[request + 1])
    if pages_per_request == 0:
        return torch.full_like(rows, -1), covered
    column = position.div(page_size, rounding_mode="floor")
    page = block_table[request, column.clamp(0, pages_per_request - 1)].long()
    known = covered & (column < pages_per_request) & (page >= 0) & (page < num_pages)
    return torch.where(known, page * page_size + position % page_size, -1), covered


def _stored_tokens(
    slot_mapping: Tensor, num_pages: int, page_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens with a slot inside the cache, and their pages and offsets."""
    inside = (slot_mapping >= 0) & (slot_mapping < num_pages * page_size)
    tokens = inside.nonzero().squeeze(1)
    return tokens, *_pages_and_offsets(slot_mapping[tokens], page_size)


def _pages_and_offsets(slots: Tensor, page_size: int) -> tuple[Tensor, Tensor]:
    return slots.div(page_size, rounding_mode="floor"), slots % page_size
