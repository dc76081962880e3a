"""Scoring and selection in one: the top-k of the logits that the indexer would give."""

from __future__ import annotations

from torch import Tensor

from .. import reference
from .._checks import Checker
from .._library import define_op
from ..formats import INDEX_HEAD_DIM
from ._arguments import (
    check_index_heads,
    check_indices,
    check_num_sms,
    check_paged_counts,
    check_paged_scoring,
    check_ragged_scoring,
    check_rows_per_request,
    check_top_k,
    check_translation,
    indices_or_new,
)


def _check_indexer_topk(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    block_table: Tensor | None,
    row_to_request: Tensor | None,
    num_sms: int,
    pdl: bool,
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
    check_num_sms(checker, num_sms)
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
    num_sms: int,
    pdl: bool,
    indices: Tensor,
) -> None:
    indices.copy_(
        reference.indexer_topk(
            q, k, k_scale, weights, row_starts, row_ends, indices.shape[1],
            block_table=block_table, row_to_request=row_to_request,
        )
    )  # fmt: skip


_INDEXER_TOPK = define_op(
    "indexer_topk(Tensor q, Tensor k, Tensor k_scale, Tensor weights, Tensor row_starts, "
    "Tensor row_ends, Tensor? block_table, Tensor? row_to_request, int num_sms, bool pdl, "
    "Tensor(a!) indices) -> ()",
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
    num_sms: int = 0,
    pdl: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """``topk(indexer_logits(...))`` without the ``[T, N]`` logits in memory.

    Returns the same indices as :func:`indexer_logits` followed by :func:`topk`, bit for bit.

    Args:
        q, k, k_scale, weights, row_starts, row_ends: As in :func:`indexer_logits`.
        top_k, block_table, row_to_request, out: As in :func:`topk`.
        num_sms, pdl: As in :func:`indexer_logits`; the selection is not bound by ``num_sms``.

    Returns:
        int32 ``[T, top_k]``: positions relative to the row's start, or slots.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
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
    indices = indices_or_new(checker, q.shape[0], top_k, q.device, out)
    _INDEXER_TOPK(
        q, k, k_scale, weights, row_starts, row_ends, block_table, row_to_request, num_sms, pdl,
        indices,
    )  # fmt: skip
    return indices


def _check_paged_indexer_topk(
    q: Tensor,
    index_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_context_len: int,
    return_slots: bool,
    num_sms: int,
    pdl: bool,
    indices: Tensor,
) -> None:
    checker = Checker("paged_indexer_topk")
    check_paged_scoring(checker, q, index_cache, weights, context_lens, block_table)
    check_indices(checker, indices, q.shape[0] * q.shape[1], "[B * next_n, top_k]")
    check_paged_counts(checker, q)
    checker.require(max_context_len >= 0, "max_context_len", "0 or more", max_context_len)
    check_top_k(checker, indices.shape[1])
    check_num_sms(checker, num_sms)
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
    num_sms: int,
    pdl: bool,
    indices: Tensor,
) -> None:
    indices.copy_(
        reference.paged_indexer_topk(
            q, index_cache, weights, context_lens, block_table, max_context_len,
            indices.shape[1], return_slots=return_slots,
        )
    )  # fmt: skip


_PAGED_INDEXER_TOPK = define_op(
    "paged_indexer_topk(Tensor q, Tensor index_cache, Tensor weights, Tensor context_lens, "
    "Tensor block_table, int max_context_len, bool return_slots, int num_sms, bool pdl, "
    "Tensor(a!) indices) -> ()",
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
    num_sms: int = 0,
    pdl: bool = False,
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
        num_sms, pdl: As in :func:`indexer_topk`.
        out: int32 ``[B * next_n, top_k]`` to write to, any row stride.

    Returns:
        int32 ``[B * next_n, top_k]``: ascending positions, then -1; or their slots.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> q = torch.ones(1, 1, 8, 128).to(torch.float8_e4m3fn)
        >>> cache = torch.zeros(4, 64, 132, dtype=torch.uint8)
        >>> lens, table = torch.tensor([3]).int(), torch.tensor([[2]]).int()
        >>> dsa_ops.paged_indexer_topk(
        ...     q, cache, torch.ones(1, 8), lens, table, 64, 4, return_slots=True)
        tensor([[128, 129, 130,  -1]], dtype=torch.int32)
    """
    checker = Checker("paged_indexer_topk")
    checker.shape(q, "q", (-1, -1, -1, INDEX_HEAD_DIM), "[B, next_n, Hi, 128]")
    indices = indices_or_new(checker, q.shape[0] * q.shape[1], top_k, q.device, out)
    _PAGED_INDEXER_TOPK(
        q, index_cache, weights, context_lens, block_table, max_context_len, return_slots, num_sms,
        pdl, indices,
    )  # fmt: skip
    return indices
