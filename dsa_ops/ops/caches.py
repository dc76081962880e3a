"""Writes to and gathers from the two paged caches."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .._checks import Checker
from .._library import define_op
from ..formats import (
    FP8,
    INDEX_HEAD_DIM,
    INDEX_PAGE_TOKENS,
    MLA_HEAD_DIM,
    MLA_LATENT_DIM,
    MLA_ROPE_DIM,
)
from ..reference.caches import gathered_slots
from . import _cache_arguments as arguments


def _check_write_index_cache(
    k: Tensor, index_cache: Tensor, slot_mapping: Tensor, ue8m0: bool
) -> None:
    checker = Checker("write_index_cache")
    checker.dtype(k, "k", torch.bfloat16)
    arguments.check_rows(checker, k, "k", INDEX_HEAD_DIM, -1)
    arguments.check_index_cache(checker, index_cache, "index_cache")
    arguments.check_slot_mapping(checker, slot_mapping, k.shape[0])
    checker.same_device(k=k, index_cache=index_cache, slot_mapping=slot_mapping)


_WRITE_INDEX_CACHE = define_op(
    "write_index_cache(Tensor k, Tensor(a!) index_cache, Tensor slot_mapping, bool ue8m0) -> ()",
    _check_write_index_cache,
    lambda k, cache, slots, ue8m0: reference.write_index_cache(k, cache, slots, ue8m0=ue8m0),
)


def write_index_cache(
    k: Tensor, index_cache: Tensor, slot_mapping: Tensor, *, ue8m0: bool = True
) -> None:
    """Quantises indexer keys to FP8 and stores them in their slots of the paged index cache.

    One scale per key, as the inference code of DeepSeek-V3.2 quantises (``act_quant`` with blocks
    of 128)::

        s = max(amax |k[t]|, 1e-4) / 448        rounded up to a power of two when ue8m0
        y = e4m3(clamp(k[t] / s, -448, 448))    round to nearest even

    Token ``t`` goes to page ``slot // 64``, offset ``slot % 64``: its values to bytes
    ``128 offset`` and on of the page, its float32 scale to byte ``8192 + 4 offset``.

    Args:
        k: bfloat16 ``[num_tokens, 128]``, rows aligned to 16 bytes.
        index_cache: uint8 ``[num_pages, 64, 132]`` or ``[num_pages, 64, 1, 132]``, changed in
            place. Pages may lie any multiple of 16 bytes (at least 8,448) apart.
        slot_mapping: int64 ``[num_tokens]``. A slot outside ``[0, 64 num_pages)`` skips its token;
            slots given twice leave undefined bytes.
        ue8m0: scales are powers of two (the format of DeepSeek-V3.2's released weights).

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> cache = dsa_ops.new_index_cache(num_pages=2)
        >>> k = torch.full((3, 128), 2.0, dtype=torch.bfloat16)
        >>> dsa_ops.write_index_cache(k, cache, torch.tensor([0, 70, -1]))
        >>> keys, scales = dsa_ops.formats.index_cache_views(cache)
        >>> float(keys[1, 6, 0].float() * scales[1, 6])
        2.0
    """
    _WRITE_INDEX_CACHE(k, index_cache, slot_mapping, ue8m0)


def _check_gather_index_cache(
    index_cache: Tensor, block_table: Tensor, cu_seq_lens: Tensor, k: Tensor, k_scale: Tensor
) -> None:
    checker = Checker("gather_index_cache")
    arguments.check_index_cache(checker, index_cache, "index_cache")
    arguments.check_requests(checker, block_table, cu_seq_lens)
    checker.dtype(k, "k", FP8)
    arguments.check_rows(checker, k, "k", INDEX_HEAD_DIM, -1)
    checker.dtype(k_scale, "k_scale", torch.float32)
    checker.shape(k_scale, "k_scale", (k.shape[0],), "[num_tokens]")
    checker.last_dim_contiguous(k_scale, "k_scale")
    checker.same_device(
        index_cache=index_cache,
        block_table=block_table,
        cu_seq_lens=cu_seq_lens,
        k=k,
        k_scale=k_scale,
    )


def _compute_gather_index_cache(
    index_cache: Tensor, block_table: Tensor, cu_seq_lens: Tensor, k: Tensor, k_scale: Tensor
) -> None:
    rows = k.shape[0]
    keys, scales = reference.gather_index_cache(index_cache, block_table, cu_seq_lens, rows)
    _, covered = gathered_slots(
        block_table, cu_seq_lens, rows, index_cache.shape[0], INDEX_PAGE_TOKENS
    )
    k_bytes = k.view(torch.uint8)
    k_bytes.copy_(torch.where(covered[:, None], keys.view(torch.uint8), k_bytes))
    k_scale.copy_(torch.where(covered, scales, k_scale))


_GATHER_INDEX_CACHE = define_op(
    "gather_index_cache(Tensor index_cache, Tensor block_table, Tensor cu_seq_lens, Tensor(a!) k, "
    "Tensor(b!) k_scale) -> ()",
    _check_gather_index_cache,
    _compute_gather_index_cache,
)


def gather_index_cache(
    index_cache: Tensor,
    block_table: Tensor,
    cu_seq_lens: Tensor,
    num_tokens: int,
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Collects the keys and scales of every request into contiguous rows.

    Row ``cu_seq_lens[b] + j`` becomes token ``j`` of request ``b``, which lies in page
    ``block_table[b, j // 64]`` at offset ``j % 64``; bytes are copied as they are. The result
    feeds :func:`indexer_logits` and :func:`indexer_topk`.

    Args:
        index_cache: uint8 ``[num_pages, 64, 132]`` or ``[num_pages, 64, 1, 132]``.
        block_table: int32 ``[num_requests, pages_per_request]``. Tokens in a page outside
            ``[0, num_pages)`` or past ``pages_per_request`` are zeros with scale zero.
        cu_seq_lens: int32 ``[num_requests + 1]``, ascending: the first row of each request.
        num_tokens: rows of the result. Rows that belong to no request are left as they were
            (uninitialised without ``out``); tokens past ``num_tokens`` are dropped.
        out: ``(k, k_scale)`` to write into; rows of ``k`` aligned to 16 bytes.

    Returns:
        ``k`` float8_e4m3fn ``[num_tokens, 128]`` and ``k_scale`` float32 ``[num_tokens]``.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> cache = dsa_ops.new_index_cache(num_pages=4)
        >>> block_table = torch.tensor([[2, 0], [3, -1]], dtype=torch.int32)
        >>> cu_seq_lens = torch.tensor([0, 100, 110], dtype=torch.int32)
        >>> k, k_scale = dsa_ops.gather_index_cache(cache, block_table, cu_seq_lens, 110)
        >>> k.shape, k_scale.shape
        (torch.Size([110, 128]), torch.Size([110]))
    """
    checker = Checker("gather_index_cache")
    if out is None:
        checker.tensors(index_cache=index_cache)
        arguments.check_num_tokens("gather_index_cache", num_tokens, None)
        k = torch.empty(num_tokens, INDEX_HEAD_DIM, dtype=FP8, device=index_cache.device)
        k_scale = torch.empty(num_tokens, dtype=torch.float32, device=index_cache.device)
    else:
        checker.outputs(out, "k", "k_scale")
        k, k_scale = out
        checker.tensors(k=k)
        arguments.check_num_tokens("gather_index_cache", num_tokens, k)
    _GATHER_INDEX_CACHE(index_cache, block_table, cu_seq_lens, k, k_scale)
    return k, k_scale


def _check_write_mla_cache(
    kv_latent: Tensor, k_rope: Tensor, mla_cache: Tensor, slot_mapping: Tensor
) -> None:
    checker = Checker("write_mla_cache")
    checker.dtype(kv_latent, "kv_latent", torch.bfloat16)
    arguments.check_rows(checker, kv_latent, "kv_latent", MLA_LATENT_DIM, -1)
    checker.dtype(k_rope, "k_rope", torch.bfloat16)
    arguments.check_rows(checker, k_rope, "k_rope", MLA_ROPE_DIM, kv_latent.shape[0])
    arguments.check_mla_cache(checker, mla_cache, "mla_cache")
    arguments.check_slot_mapping(checker, slot_mapping, kv_latent.shape[0])
    checker.same_device(
        kv_latent=kv_latent, k_rope=k_rope, mla_cache=mla_cache, slot_mapping=slot_mapping
    )


_WRITE_MLA_CACHE = define_op(
    "write_mla_cache(Tensor kv_latent, Tensor k_rope, Tensor(a!) mla_cache, Tensor slot_mapping)"
    " -> ()",
    _check_write_mla_cache,
    reference.write_mla_cache,
)


def write_mla_cache(
    kv_latent: Tensor, k_rope: Tensor, mla_cache: Tensor, slot_mapping: Tensor
) -> None:
    """Quantises MLA latents to FP8 and stores whole tokens in their slots of the paged cache.

    A token takes 656 bytes: 512 e4m3 latent values, 4 float32 scales (one per 128 values), then
    the 64 bfloat16 RoPE values unchanged. This is the FP8 KV format that DeepSeek published with
    its sparse decoding kernel. Per group of 128::

        s = max(amax |x| / 448, FLT_MIN)        never rounded
        y = e4m3(clamp(x / s, -448, 448))       round to nearest even

    Args:
        kv_latent: bfloat16 ``[num_tokens, 512]``, rows aligned to 16 bytes (after the latent's
            RMSNorm).
        k_rope: bfloat16 ``[num_tokens, 64]``, rows aligned to 16 bytes (after RoPE).
        mla_cache: ``[num_pages, page_size, 656]`` or ``[num_pages, page_size, 1, 656]``, uint8 or
            its float8_e4m3fn view, changed in place. Any page size and aligned page stride.
        slot_mapping: int64 ``[num_tokens]``, ``page * page_size + offset``. A slot outside
            ``[0, num_pages * page_size)`` skips its token; slots given twice leave undefined bytes.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> cache = dsa_ops.new_mla_cache(num_pages=2)
        >>> latent = torch.ones(3, 512, dtype=torch.bfloat16)
        >>> rope = torch.ones(3, 64, dtype=torch.bfloat16)
        >>> dsa_ops.write_mla_cache(latent, rope, cache, torch.tensor([0, 70, -1]))
        >>> values, scales, rope = dsa_ops.formats.mla_cache_views(cache)
        >>> round(float(values[1, 6, 0].float() * scales[1, 6, 0]), 6)
        1.0
    """
    _WRITE_MLA_CACHE(kv_latent, k_rope, mla_cache, slot_mapping)


def _check_gather_mla_cache(
    mla_cache: Tensor, block_table: Tensor, cu_seq_lens: Tensor, kv: Tensor
) -> None:
    checker = Checker("gather_mla_cache")
    arguments.check_mla_cache(checker, mla_cache, "mla_cache")
    arguments.check_requests(checker, block_table, cu_seq_lens)
    checker.dtype(kv, "kv", torch.bfloat16)
    arguments.check_rows(checker, kv, "kv", MLA_HEAD_DIM, -1)
    checker.same_device(
        mla_cache=mla_cache, block_table=block_table, cu_seq_lens=cu_seq_lens, kv=kv
    )


def _compute_gather_mla_cache(
    mla_cache: Tensor, block_table: Tensor, cu_seq_lens: Tensor, kv: Tensor
) -> None:
    rows = kv.shape[0]
    gathered = reference.gather_mla_cache(mla_cache, block_table, cu_seq_lens, rows)
    _, covered = gathered_slots(
        block_table, cu_seq_lens, rows, mla_cache.shape[0], mla_cache.shape[1]
    )
    kv.copy_(torch.where(covered[:, None], gathered, kv))


_GATHER_MLA_CACHE = define_op(
    "gather_mla_cache(Tensor mla_cache, Tensor block_table, Tensor cu_seq_lens, Tensor(a!) kv)"
    " -> ()",
    _check_gather_mla_cache,
    _compute_gather_mla_cache,
)


def gather_mla_cache(
    mla_cache: Tensor,
    block_table: Tensor,
    cu_seq_lens: Tensor,
    num_tokens: int,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Collects and dequantises the MLA tokens of every request into contiguous bfloat16 rows.

    Row ``cu_seq_lens[b] + j`` becomes token ``j`` of request ``b``, which lies in page
    ``block_table[b, j // page_size]`` at offset ``j % page_size``: 512 values
    ``bfloat16(e4m3 * scale)``, the product in float32, then the 64 RoPE values unchanged. The
    result feeds :func:`sparse_mla_prefill`.

    Args:
        mla_cache: ``[num_pages, page_size, 656]`` or ``[num_pages, page_size, 1, 656]``, uint8 or
            its float8_e4m3fn view.
        block_table: int32 ``[num_requests, pages_per_request]``. Tokens in a page outside
            ``[0, num_pages)`` or past ``pages_per_request`` are zeros.
        cu_seq_lens: int32 ``[num_requests + 1]``, ascending: the first row of each request.
        num_tokens: rows of the result. Rows that belong to no request are left as they were
            (uninitialised without ``out``); tokens past ``num_tokens`` are dropped.
        out: ``kv`` to write into, rows aligned to 16 bytes.

    Returns:
        ``kv`` bfloat16 ``[num_tokens, 576]``.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> cache = dsa_ops.new_mla_cache(num_pages=4)
        >>> block_table = torch.tensor([[2, 0], [3, -1]], dtype=torch.int32)
        >>> cu_seq_lens = torch.tensor([0, 100, 110], dtype=torch.int32)
        >>> dsa_ops.gather_mla_cache(cache, block_table, cu_seq_lens, 110).shape
        torch.Size([110, 576])
    """
    checker = Checker("gather_mla_cache")
    if out is not None:
        checker.tensors(out=out)
    arguments.check_num_tokens("gather_mla_cache", num_tokens, out)
    if out is None:
        checker.tensors(mla_cache=mla_cache)
        device = mla_cache.device
        out = torch.empty(num_tokens, MLA_HEAD_DIM, dtype=torch.bfloat16, device=device)
    _GATHER_MLA_CACHE(mla_cache, block_table, cu_seq_lens, out)
    return out
