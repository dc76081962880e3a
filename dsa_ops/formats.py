"""The byte formats of the two paged caches, and views into them.

Index cache page: ``uint8[64, 132]`` = 64 keys x 128 e4m3 values, then 64 fp32 scales (8,448 B).
MLA cache token: 656 B = 512 e4m3 latent values, 4 fp32 scales (one per 128), 64 bf16 RoPE values.
Page strides are free (a cache may be a slice of a larger allocation).
"""

from __future__ import annotations

import torch
from torch import Tensor

INDEX_PAGE_TOKENS = 64
INDEX_HEAD_DIM = 128
INDEX_TOKEN_BYTES = 132
INDEX_PAGE_BYTES = INDEX_PAGE_TOKENS * INDEX_TOKEN_BYTES
INDEX_HEAD_COUNTS = (8, 16, 32, 64)

MLA_LATENT_DIM = 512
MLA_ROPE_DIM = 64
MLA_HEAD_DIM = MLA_LATENT_DIM + MLA_ROPE_DIM
MLA_SCALE_GROUP = 128
MLA_TOKEN_BYTES = 656
MLA_PAGE_TOKENS = 64
MAX_ATTENTION_HEADS = 128
MAX_TOP_K = 4096

E4M3_MAX = 448.0
FP8 = torch.float8_e4m3fn


def new_index_cache(num_pages: int, device: torch.device | str = "cpu") -> Tensor:
    """A zeroed index cache, ``uint8[num_pages, 64, 132]``."""
    return torch.zeros(
        num_pages, INDEX_PAGE_TOKENS, INDEX_TOKEN_BYTES, dtype=torch.uint8, device=device
    )


def new_mla_cache(
    num_pages: int, page_size: int = MLA_PAGE_TOKENS, device: torch.device | str = "cpu"
) -> Tensor:
    """A zeroed MLA cache, ``uint8[num_pages, page_size, 656]``."""
    return torch.zeros(num_pages, page_size, MLA_TOKEN_BYTES, dtype=torch.uint8, device=device)


def _stride(cache: Tensor, dim: int, packed: int) -> int:
    """That of a dimension of one counts for nothing, but torch wants it to suit views."""
    return cache.stride(dim) if cache.shape[dim] > 1 else packed


def index_cache_views(index_cache: Tensor) -> tuple[Tensor, Tensor]:
    """Views of the keys ``e4m3[pages, 64, 128]`` and scales ``f32[pages, 64]`` of an index cache.

    ``index_cache`` is ``uint8[pages, 64, 132]`` with rows of 132 contiguous bytes and any page
    stride that is a multiple of 4 bytes.

    >>> keys, scales = dsa_ops.formats.index_cache_views(dsa_ops.new_index_cache(2))
    >>> keys.shape, scales.shape
    (torch.Size([2, 64, 128]), torch.Size([2, 64]))
    """
    pages = index_cache.shape[0]
    page_stride = _stride(index_cache, 0, INDEX_PAGE_BYTES)
    key_bytes = INDEX_PAGE_TOKENS * INDEX_HEAD_DIM
    offset = index_cache.storage_offset()
    keys = index_cache.as_strided(
        (pages, INDEX_PAGE_TOKENS, INDEX_HEAD_DIM), (page_stride, INDEX_HEAD_DIM, 1), offset
    )
    scales = index_cache.as_strided(
        (pages, 4 * INDEX_PAGE_TOKENS), (page_stride, 1), offset + key_bytes
    )
    return keys.view(FP8), scales.view(torch.float32)


def mla_cache_views(mla_cache: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the latent ``e4m3[pages, page, 512]``, its scales ``f32[pages, page, 4]`` and the
    RoPE part ``bf16[pages, page, 64]`` of an MLA cache ``[pages, page, 656]`` or ``[pages, page, 1,
    656]``, uint8 or e4m3.

    >>> latent, scales, rope = dsa_ops.formats.mla_cache_views(dsa_ops.new_mla_cache(2))
    >>> latent.shape, scales.shape, rope.shape
    (torch.Size([2, 64, 512]), torch.Size([2, 64, 4]), torch.Size([2, 64, 64]))
    """
    pages, page_size = mla_cache.shape[:2]
    token_stride = _stride(mla_cache, 1, MLA_TOKEN_BYTES)
    page_stride = _stride(mla_cache, 0, page_size * token_stride)
    mla_cache = mla_cache.as_strided(
        (pages, page_size, MLA_TOKEN_BYTES),
        (page_stride, token_stride, 1),
        mla_cache.storage_offset(),
    )
    latent = mla_cache[..., :MLA_LATENT_DIM].view(FP8)
    scales = mla_cache[..., MLA_LATENT_DIM : MLA_LATENT_DIM + 16].view(torch.float32)
    rope = mla_cache[..., MLA_LATENT_DIM + 16 :].view(torch.bfloat16)
    return latent, scales, rope
