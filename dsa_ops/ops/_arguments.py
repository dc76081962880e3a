"""Checks of arguments that the indexer, top-k and attention ops share; mirrors
``csrc/torch/arguments.h``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._checks import Checker
from ..formats import FP8, INDEX_HEAD_COUNTS, INDEX_HEAD_DIM, MAX_ATTENTION_HEADS, MAX_TOP_K
from ._cache_arguments import check_index_cache


def check_plain(
    checker: Checker,
    tensor: Tensor,
    argument: str,
    dtype: torch.dtype,
    sizes: Sequence[int],
    text: str,
) -> None:
    """A tensor of one dtype and shape with any strides but the last."""
    checker.dtype(tensor, argument, dtype)
    checker.shape(tensor, argument, sizes, text)
    checker.last_dim_contiguous(tensor, argument)


def check_aligned(
    checker: Checker,
    tensor: Tensor,
    argument: str,
    dtype: torch.dtype,
    sizes: Sequence[int],
    text: str,
) -> None:
    """The same for a tensor that the kernels read or write in 16-byte pieces."""
    check_plain(checker, tensor, argument, dtype, sizes, text)
    checker.aligned_16(tensor, argument)


def check_index_heads(checker: Checker, num_heads: int) -> None:
    expected = " or ".join(str(count) for count in INDEX_HEAD_COUNTS)
    checker.require(num_heads in INDEX_HEAD_COUNTS, "q", f"of {expected} heads", num_heads)


def check_attention_heads(checker: Checker, num_heads: int) -> None:
    in_range = 1 <= num_heads <= MAX_ATTENTION_HEADS
    checker.require(in_range, "q", f"of 1 to {MAX_ATTENTION_HEADS} heads", num_heads)


def check_scored_rows(
    checker: Checker, q: Tensor, weights: Tensor, row_starts: Tensor, row_ends: Tensor
) -> None:
    """What the rows of ragged queries have beside the keys."""
    rows, heads = q.shape[:2]
    check_plain(checker, weights, "weights", torch.float32, (rows, heads), "[T, Hi]")
    check_plain(checker, row_starts, "row_starts", torch.int32, (rows,), "[T]")
    check_plain(checker, row_ends, "row_ends", torch.int32, (rows,), "[T]")


def check_ragged_scoring(
    checker: Checker,
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
) -> None:
    """The inputs that score dense keys: dtypes, shapes, strides."""
    check_aligned(checker, q, "q", FP8, (-1, -1, INDEX_HEAD_DIM), "[T, Hi, 128]")
    check_aligned(checker, k, "k", FP8, (-1, INDEX_HEAD_DIM), "[N, 128]")
    check_plain(checker, k_scale, "k_scale", torch.float32, (k.shape[0],), "[N]")
    check_scored_rows(checker, q, weights, row_starts, row_ends)


def check_cached_scoring(
    checker: Checker,
    q: Tensor,
    index_cache: Tensor,
    page_ids: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
) -> None:
    """The inputs that score a list of pages of an index cache: dtypes, shapes, strides."""
    check_aligned(checker, q, "q", FP8, (-1, -1, INDEX_HEAD_DIM), "[T, Hi, 128]")
    check_index_cache(checker, index_cache, "index_cache")
    check_plain(checker, page_ids, "page_ids", torch.int32, (-1,), "[P]")
    check_scored_rows(checker, q, weights, row_starts, row_ends)


def check_paged_scoring(
    checker: Checker,
    q: Tensor,
    index_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
) -> None:
    """The inputs that score the pages of an index cache: dtypes, shapes, strides."""
    check_aligned(checker, q, "q", FP8, (-1, -1, -1, INDEX_HEAD_DIM), "[B, next_n, Hi, 128]")
    batch, next_n, heads = q.shape[:3]
    check_index_cache(checker, index_cache, "index_cache")
    rows = batch * next_n
    check_plain(checker, weights, "weights", torch.float32, (rows, heads), "[B * next_n, Hi]")
    checker.dtype(context_lens, "context_lens", torch.int32)
    sizes = (batch, next_n) if context_lens.dim() == 2 else (batch,)
    checker.shape(context_lens, "context_lens", sizes, "[B] or [B, next_n]")
    checker.last_dim_contiguous(context_lens, "context_lens")
    check_plain(checker, block_table, "block_table", torch.int32, (batch, -1), "[B, P]")


def check_paged_counts(checker: Checker, q: Tensor) -> None:
    """The values of the shapes of :func:`check_paged_scoring`."""
    checker.require(q.shape[1] >= 1, "q", "of 1 or more tokens per request", q.shape[1])
    check_index_heads(checker, q.shape[2])


def check_num_sms(checker: Checker, num_sms: int) -> None:
    checker.require(num_sms >= 0, "num_sms", "0 or more", num_sms)


def check_translation(
    checker: Checker, num_rows: int, block_table: Tensor | None, row_to_request: Tensor | None
) -> None:
    """The optional block table of a top-k op: dtypes, shapes, strides."""
    if block_table is not None:
        check_plain(checker, block_table, "block_table", torch.int32, (-1, -1), "[B, P]")
    if row_to_request is not None:
        sizes = (num_rows,)
        check_plain(checker, row_to_request, "row_to_request", torch.int32, sizes, "[T]")


def check_rows_per_request(
    checker: Checker, num_rows: int, block_table: Tensor | None, row_to_request: Tensor | None
) -> None:
    """The values of the shapes of :func:`check_translation`."""
    if block_table is None:
        checker.require(
            row_to_request is None, "row_to_request", "None without block_table", "a tensor"
        )
    elif row_to_request is None:
        num_requests = block_table.shape[0]
        divides = num_rows % num_requests == 0 if num_requests else num_rows == 0
        got = f"B = {num_requests} for T = {num_rows}"
        checker.require(divides, "block_table", "of a row count B that divides T", got)


def check_indices(checker: Checker, indices: Tensor, num_rows: int, text: str) -> None:
    """The output of a top-k op."""
    check_plain(checker, indices, "indices", torch.int32, (num_rows, -1), text)


def check_top_k(checker: Checker, top_k: int) -> None:
    checker.integer(top_k, "top_k")
    checker.require(1 <= top_k <= MAX_TOP_K, "top_k", f"from 1 to {MAX_TOP_K}", top_k)


def indices_or_new(
    checker: Checker, num_rows: int, top_k: int, device: torch.device, out: Tensor | None
) -> Tensor:
    """The output of a public function: ``out``, or a new tensor where the caller gives none."""
    check_top_k(checker, top_k)
    if out is None:
        return torch.empty(num_rows, top_k, dtype=torch.int32, device=device)
    checker.tensors(out=out)
    # Sizes in a text would make them constants of a compiled graph: only where it fails.
    if out.dim() != 2 or out.shape[0] != num_rows or out.shape[1] != top_k:
        checker.fail("out", f"of shape [{num_rows}, {top_k}]", list(out.shape))
    checker.dtype(out, "out", torch.int32)
    return out
