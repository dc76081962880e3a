"""Exact selection of the best keys of each row, alone and chained with the indexer."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .._checks import Checker
from .._library import define_op
from ..formats import INDEX_HEAD_DIM
from ._arguments import (
    check_index_heads,
    check_indices,
    check_paged_counts,
    check_paged_scoring,
    check_plain,
    check_ragged_scoring,
    check_rows_per_request,
    check_top_k,
    check_translation,
)


def _indices(
    checker: Checker, num_rows: int, top_k: int, device: torch.device, out: Tensor | None
) -> Tensor:
    """The result of a public function: ``out``, or a new tensor where the caller gives none."""
    check_top_k(checker, top_k)
    if out is None:
        return torch.empty(num_rows, top_k, dtype=torch.int32, device=device)
    checker.shape(out, "out", (num_rows, top_k), f"[{num_rows}, {top_k}]")
    return out


def _check_topk(
    logits: Tensor,
    row_ends: Tensor,
    row_starts: Tensor | None,
    block_table: Tensor | None,
    row_to_request: Tensor | None,
    indices: Tensor,
) -> None:
    checker = Checker("topk")
    checker.dtype(logits, "logits", torch.float32, torch.bfloat16)
    checker.shape(logits, "logits", (-1, -1), "[T, N]")
    checker.last_dim_contiguous(logits, "logits")
    num_rows = logits.shape[0]
    check_plain(checker, row_ends, "row_ends", torch.int32, (num_rows,), "[T]")
    if row_starts is not None:
        check_plain(checker, row_starts, "row_starts", torch.int32, (num_rows,), "[T]")
    check_translation(checker, num_rows, block_table, row_to_request)
    check_indices(checker, indices, num_rows, "[T, top_k]")
    check_rows_per_request(checker, num_rows, block_table, row_to_request)
    check_top_k(checker, indices.shape[1])
    checker.same_device(
        logits=logits, row_ends=row_ends, row_starts=row_starts, block_table=block_table,
        row_to_request=row_to_request, indices=indices,
    )  # fmt: skip


def _compute_topk(
    logits: Tensor,
    row_ends: Tensor,
    row_starts: Tensor | None,
    block_table: Tensor | None,
    row_to_request: Tensor | None,
    indices: Tensor,
) -> None:
    indices.copy_(
        reference.topk(
            logits, indices.shape[1], row_ends, row_starts,
            block_table=block_table, row_to_request=row_to_request,
        )
    )  # fmt: skip


_topk = define_op(
    "topk(Tensor logits, Tensor row_ends, Tensor? row_starts, Tensor? block_table, "
    "Tensor? row_to_request, Tensor(a!) indices) -> ()",
    _check_topk,
    _compute_topk,
)


def topk(
    logits: Tensor,
    top_k: int,
    row_ends: Tensor,
    row_starts: Tensor | None = None,
    *,
    block_table: Tensor | None = None,
    row_to_request: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Selects the ``top_k`` largest logits of each row's range ``[row_starts, row_ends)``.

    The selection is exact and repeatable: equal logits go to the lower position, -0 equals +0, NaN
    ranks as -inf, and -inf inside the range is still a candidate. Positions count from the row's
    (clamped) start and ascend; a row with fewer than ``top_k`` candidates returns them all, then
    -1. This is the token selection of the DeepSeek-V3.2-Exp technical report, equation (2).

    With a block table, position p becomes the slot ``page * 64 + p % 64`` with
    ``page = block_table[request, p // 64]``, in place; it becomes -1 where the page is negative,
    past the table, or the request is not a row of it.

    Args:
        logits: float32 or bfloat16 ``[T, N]``, any row stride.
        top_k: 1 to 4096.
        row_ends: int32 ``[T]``; ranges are clamped to ``[0, N)``.
        row_starts: int32 ``[T]``, all zero if None.
        block_table: int32 ``[B, P]``, the pages of each request; positions are returned if None.
        row_to_request: int32 ``[T]``, the row of ``block_table`` of each row; ``t // (T // B)`` if
            None, which needs ``T % B == 0``.
        out: int32 ``[T, top_k]`` to write to, any row stride.

    Returns:
        int32 ``[T, top_k]``.

    Raises:
        ValueError: For a wrong dtype, shape, stride, ``top_k`` or device, before any work.

    Example:
        >>> import torch, dsa_ops
        >>> logits = torch.tensor([[3.0, 1.0, 3.0, 2.0], [0.0, 5.0, 4.0, 6.0]])
        >>> dsa_ops.topk(logits, 3, torch.tensor([4, 2]).int())
        tensor([[ 0,  2,  3],
                [ 0,  1, -1]], dtype=torch.int32)
    """
    checker = Checker("topk")
    checker.shape(logits, "logits", (-1, -1), "[T, N]")
    indices = _indices(checker, logits.shape[0], top_k, logits.device, out)
    _topk(logits, row_ends, row_starts, block_table, row_to_request, indices)
    return indices


def _check_indexer_topk(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    block_table: Tensor | None,
    row_to_request: Tensor | None,
    indices: Tensor,
) -> None:
    checker = Checker("indexer_topk")
    check_ragged_scoring(checker, q, k, k_scale, weights, row_starts, row_ends)
    num_rows = q.shape[0]
    check_translation(checker, num_rows, block_table, row_to_request)
    check_indices(checker, indices, num_rows, "[T, top_k]")
    check_index_heads(checker, q.shape[1])
    check_rows_per_request(checker, num_rows, block_table, row_to_request)
    check_top_k(checker, indices.shape[1])
    checker.same_device(
        q=q, k=k, k_scale=k_scale, weights=weights, row_starts=row_starts, row_ends=row_ends,
        block_table=block_table, row_to_request=row_to_request, indices=indices,
    )  # fmt: skip


def _compute_indexer_topk(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    block_table: Tensor | None,
    row_to_request: Tensor | None,
    indices: Tensor,
) -> None:
    indices.copy_(
        reference.indexer_topk(
            q, k, k_scale, weights, row_starts, row_ends, indices.shape[1],
            block_table=block_table, row_to_request=row_to_request,
        )
    )  # fmt: skip


_indexer_topk = define_op(
    "indexer_topk(Tensor q, Tensor k, Tensor k_scale, Tensor weights, Tensor row_starts, "
    "Tensor row_ends, Tensor? block_table, Tensor? row_to_request, Tensor(a!) indices) -> ()",
    _check_indexer_topk,
    _compute_indexer_topk,
)


def indexer_topk(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    top_k: int,
    *,
    block_table: Tensor | None = None,
    row_to_request: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``topk(indexer_logits(...))`` without the ``[T, N]`` logits in memory.

    Returns the same indices as :func:`indexer_logits` followed by :func:`topk`, bit for bit.

    Args:
        q, k, k_scale, weights, row_starts, row_ends: As in :func:`indexer_logits`.
        top_k, block_table, row_to_request, out: As in :func:`topk`.

    Returns:
        int32 ``[T, top_k]``: positions relative to the row's start, or slots.

    Raises:
        ValueError: For a wrong dtype, shape, stride, head count, ``top_k`` or device, before any
            work.

    Example:
        >>> import torch, dsa_ops
        >>> q, k = torch.ones(2, 8, 128), torch.tensor([1.0, 3.0, 2.0])[:, None].expand(3, 128)
        >>> starts, ends = torch.tensor([0, 1]).int(), torch.tensor([3, 3]).int()
        >>> fp8 = torch.float8_e4m3fn
        >>> dsa_ops.indexer_topk(
        ...     q.to(fp8), k.to(fp8), torch.ones(3), torch.ones(2, 8), starts, ends, 2)
        tensor([[1, 2],
                [0, 1]], dtype=torch.int32)
    """
    checker = Checker("indexer_topk")
    checker.shape(q, "q", (-1, -1, INDEX_HEAD_DIM), "[T, Hi, 128]")
    indices = _indices(checker, q.shape[0], top_k, q.device, out)
    _indexer_topk(
        q, k, k_scale, weights, row_starts, row_ends, block_table, row_to_request, indices
    )
    return indices


def _check_paged_indexer_topk(
    q: Tensor,
    index_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_context_len: int,
    return_slots: bool,
    indices: Tensor,
) -> None:
    checker = Checker("paged_indexer_topk")
    check_paged_scoring(checker, q, index_cache, weights, context_lens, block_table)
    check_indices(checker, indices, q.shape[0] * q.shape[1], "[B * next_n, top_k]")
    check_paged_counts(checker, q)
    checker.require(max_context_len >= 0, "max_context_len", "0 or more", max_context_len)
    check_top_k(checker, indices.shape[1])
    checker.same_device(
        q=q, index_cache=index_cache, weights=weights, context_lens=context_lens,
        block_table=block_table, indices=indices,
    )  # fmt: skip


def _compute_paged_indexer_topk(
    q: Tensor,
    index_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_context_len: int,
    return_slots: bool,
    indices: Tensor,
) -> None:
    indices.copy_(
        reference.paged_indexer_topk(
            q, index_cache, weights, context_lens, block_table, max_context_len,
            indices.shape[1], return_slots=return_slots,
        )
    )  # fmt: skip


_paged_indexer_topk = define_op(
    "paged_indexer_topk(Tensor q, Tensor index_cache, Tensor weights, Tensor context_lens, "
    "Tensor block_table, int max_context_len, bool return_slots, Tensor(a!) indices) -> ()",
    _check_paged_indexer_topk,
    _compute_paged_indexer_topk,
)


def paged_indexer_topk(
    q: Tensor,
    index_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_context_len: int,
    top_k: int,
    *,
    return_slots: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """``topk(paged_indexer_logits(...))``: selects among the cached keys of each request.

    Returns the same indices as :func:`paged_indexer_logits` followed by :func:`topk` over each
    row's length, bit for bit.

    Args:
        q, index_cache, weights, context_lens, block_table, max_context_len: As in
            :func:`paged_indexer_logits`; ``max_context_len`` bounds the lengths.
        top_k: 1 to 4096.
        return_slots: Return slots of the cache, ``page * 64 + offset``, instead of positions.
        out: int32 ``[B * next_n, top_k]`` to write to, any row stride.

    Returns:
        int32 ``[B * next_n, top_k]``: ascending positions, then -1; or their slots.

    Raises:
        ValueError: For a wrong dtype, shape, stride, count or device, before any work.

    Example:
        >>> import torch, dsa_ops
        >>> q = torch.ones(1, 1, 8, 128).to(torch.float8_e4m3fn)
        >>> cache = torch.zeros(4, 64, 132, dtype=torch.uint8)
        >>> lens, table = torch.tensor([3]).int(), torch.tensor([[2]]).int()
        >>> dsa_ops.paged_indexer_topk(
        ...     q, cache, torch.ones(1, 8), lens, table, 64, 4, return_slots=True)
        tensor([[128, 129, 130,  -1]], dtype=torch.int32)
    """
    checker = Checker("paged_indexer_topk")
    checker.shape(q, "q", (-1, -1, -1, INDEX_HEAD_DIM), "[B, next_n, Hi, 128]")
    indices = _indices(checker, q.shape[0] * q.shape[1], top_k, q.device, out)
    _paged_indexer_topk(
        q, index_cache, weights, context_lens, block_table, max_context_len, return_slots, indices
    )
    return indices
