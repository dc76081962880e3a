"""Checks of the paged caches and of what comes with them, shared by every op that takes one;
mirrors ``csrc/torch/cache_arguments.h``."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import Checker
from ..formats import (
    FP8,
    INDEX_PAGE_BYTES,
    INDEX_PAGE_TOKENS,
    INDEX_TOKEN_BYTES,
    MLA_HEAD_DIM,
    MLA_TOKEN_BYTES,
)


def check_index_cache(checker: Checker, cache: Tensor, argument: str) -> None:
    """``uint8[num_pages, 64, 132]`` or ``[num_pages, 64, 1, 132]``, any aligned page stride."""
    checker.dtype(cache, argument, torch.uint8)
    page = (INDEX_PAGE_TOKENS, 1, INDEX_TOKEN_BYTES)
    if cache.dim() == 4:
        checker.shape(cache, argument, (-1, *page), "[num_pages, 64, 1, 132]")
    else:
        checker.shape(cache, argument, (-1, page[0], page[2]), "[num_pages, 64, 132]")
    _check_layout(checker, cache, argument, INDEX_TOKEN_BYTES, INDEX_PAGE_BYTES)


def check_mla_cache(checker: Checker, cache: Tensor, argument: str) -> None:
    """``[num_pages, page_size, 656]`` or ``[num_pages, page_size, 1, 656]``, uint8 or e4m3, any
    aligned page stride."""
    checker.dtype(cache, argument, torch.uint8, FP8)
    _check_tokens(checker, cache, argument, MLA_TOKEN_BYTES)


def check_attention_cache(checker: Checker, cache: Tensor, argument: str) -> None:
    """An MLA cache, or bfloat16 ``[num_pages, page_size, 576]`` or ``[num_pages, page_size, 1,
    576]`` of the same layout rules."""
    checker.dtype(cache, argument, torch.uint8, FP8, torch.bfloat16)
    is_bf16 = cache.dtype == torch.bfloat16
    _check_tokens(checker, cache, argument, MLA_HEAD_DIM if is_bf16 else MLA_TOKEN_BYTES)


def _check_tokens(checker: Checker, cache: Tensor, argument: str, columns: int) -> None:
    if cache.dim() == 4:
        text = f"[num_pages, page_size, 1, {columns}]"
        checker.shape(cache, argument, (-1, -1, 1, columns), text)
    else:
        text = f"[num_pages, page_size, {columns}]"
        checker.shape(cache, argument, (-1, -1, columns), text)
    page_size = cache.shape[1]
    checker.require(page_size >= 1, argument, "of page size at least 1", page_size)
    token_bytes = columns * cache.element_size()
    _check_layout(checker, cache, argument, token_bytes, page_size * token_bytes)


def _check_layout(
    checker: Checker, cache: Tensor, argument: str, token_bytes: int, page_bytes: int
) -> None:
    checker.last_dim_contiguous(cache, argument)
    token_stride = cache.stride(1) * cache.element_size()
    checker.require(
        cache.shape[1] == 1 or token_stride == token_bytes or not cache.shape[0],
        argument,
        f"packed, {token_bytes} bytes per token",
        f"a stride of {token_stride} bytes",
    )
    if cache.shape[0] > 1:
        page_stride = cache.stride(0) * cache.element_size()
        checker.require(
            page_stride >= page_bytes,
            argument,
            f"made of pages at least {page_bytes} bytes apart",
            f"a stride of {page_stride} bytes",
        )
        checker.require(
            page_stride % 16 == 0,
            argument,
            "aligned to 16 bytes in every stride",
            f"a stride of {page_stride} bytes",
        )
    checker.require(
        cache.storage_offset() * cache.element_size() % 16 == 0,
        argument,
        "aligned to 16 bytes",
        "a misaligned base address",
    )


def check_rows(checker: Checker, tensor: Tensor, argument: str, columns: int, rows: int) -> None:
    """A 16-byte aligned ``[num_tokens, columns]``; ``rows`` of -1 accepts any number."""
    checker.shape(tensor, argument, (rows, columns), f"[num_tokens, {columns}]")
    checker.last_dim_contiguous(tensor, argument)
    checker.aligned_16(tensor, argument)


def check_slot_mapping(checker: Checker, slot_mapping: Tensor, num_tokens: int) -> None:
    checker.dtype(slot_mapping, "slot_mapping", torch.int64)
    checker.shape(slot_mapping, "slot_mapping", (num_tokens,), "[num_tokens]")
    checker.last_dim_contiguous(slot_mapping, "slot_mapping")


def check_requests(checker: Checker, block_table: Tensor, cu_seq_lens: Tensor) -> None:
    checker.dtype(block_table, "block_table", torch.int32)
    text = "[num_requests, pages_per_request]"
    checker.shape(block_table, "block_table", (-1, -1), text)
    checker.last_dim_contiguous(block_table, "block_table")
    checker.dtype(cu_seq_lens, "cu_seq_lens", torch.int32)
    requests = block_table.shape[0]
    checker.shape(cu_seq_lens, "cu_seq_lens", (requests + 1,), "[num_requests + 1]")
    checker.last_dim_contiguous(cu_seq_lens, "cu_seq_lens")


def check_num_tokens(op: str, num_tokens: int, out: Tensor | None) -> None:
    checker = Checker(op)
    checker.integer(num_tokens, "num_tokens")
    checker.require(num_tokens >= 0, "num_tokens", "non-negative", num_tokens)
    # Sizes in a text would make them constants of a compiled graph: only where it fails.
    if out is not None and out.dim() and num_tokens != out.shape[0]:
        checker.fail("num_tokens", f"the rows of out ({out.shape[0]})", num_tokens)
