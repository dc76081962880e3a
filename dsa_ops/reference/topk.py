"""Exact selection of the best keys of each row, alone and chained with the indexer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats import INDEX_PAGE_TOKENS
from ._blocks import BLOCK_ELEMENTS, blocks
from .indexer import indexer_logits, paged_indexer_logits, row_lengths, rows_per_block


def topk(
    logits: Tensor,
    top_k: int,
    row_ends: Tensor,
    row_starts: Tensor | None = None,
    *,
    block_table: Tensor | None = None,
    row_to_request: Tensor | None = None,
    row_offsets: Tensor | None = None,
) -> Tensor:
    """``int32[T, top_k]`` positions or slots; see :func:`dsa_ops.topk`. ``logits`` may be of any
    floating-point type and is compared exactly."""
    num_rows, num_columns = logits.shape
    ends = row_ends.clamp(0, num_columns)
    starts = torch.zeros_like(ends) if row_starts is None else row_starts.clamp(0, num_columns)
    indices = torch.full((num_rows, top_k), -1, dtype=torch.int32, device=logits.device)
    count = min(top_k, num_columns)
    # A row needs about eight temporaries of its width, hence the divisor.
    for rows in blocks(num_rows, BLOCK_ELEMENTS // (8 * max(1, num_columns))):
        if count:
            best = _best_positions(logits[rows], count, starts[rows, None], ends[rows, None])
            indices[rows, :count] = best
    if block_table is not None:
        indices = _positions_to_slots(indices, block_table, row_to_request)
    if row_offsets is not None:
        indices = torch.where(indices >= 0, indices + row_offsets[:, None], indices)
    return indices


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
    compute_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``topk(indexer_logits(...))`` in blocks of rows; see :func:`dsa_ops.indexer_topk`."""
    num_rows, num_heads = q.shape[:2]
    indices = torch.empty(num_rows, top_k, dtype=torch.int32, device=q.device)
    for rows in blocks(num_rows, rows_per_block(num_heads)):
        logits = indexer_logits(
            q[rows], k, k_scale, weights[rows], row_starts[rows], row_ends[rows],
            compute_dtype=compute_dtype,
        )  # fmt: skip
        indices[rows] = topk(logits, top_k, row_ends[rows], row_starts[rows])
    if block_table is None:
        return indices
    return _positions_to_slots(indices, block_table, row_to_request)


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
    compute_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``topk(paged_indexer_logits(...))`` one request at a time; see
    :func:`dsa_ops.paged_indexer_topk`."""
    batch, next_n = q.shape[:2]
    indices = torch.empty(batch * next_n, top_k, dtype=torch.int32, device=q.device)
    max_context_len = min(max_context_len, block_table.shape[1] * INDEX_PAGE_TOKENS)
    row_lens = row_lengths(context_lens, next_n, max_context_len, block_table.shape[1]).int()
    for request in range(batch):
        own = slice(request, request + 1)
        rows = slice(request * next_n, (request + 1) * next_n)
        logits = paged_indexer_logits(
            q[own], index_cache, weights[rows], context_lens[own], block_table[own],
            max_context_len, compute_dtype=compute_dtype,
        )  # fmt: skip
        indices[rows] = topk(logits, top_k, row_lens[rows])
    return _positions_to_slots(indices, block_table, None) if return_slots else indices


def _ordered_keys(logits: Tensor) -> Tensor:
    """Integers in the order of the logits, with NaN as -inf and -0 as +0. The smallest integer is
    below every logit."""
    if logits.dtype != torch.float64:
        logits = logits.float()
    bits_dtype = torch.int64 if logits.dtype == torch.float64 else torch.int32
    # Adding zero turns -0 into +0 and changes nothing else.
    logits = torch.where(logits.isnan(), -torch.inf, logits) + 0.0
    bits = logits.view(bits_dtype)
    # The bits of negative floats grow with their magnitude: flip all but the sign.
    return torch.where(bits < 0, bits ^ torch.iinfo(bits_dtype).max, bits)


def _best_positions(logits: Tensor, count: int, starts: Tensor, ends: Tensor) -> Tensor:
    """The ``count`` best of ``[starts, ends)`` of every row (``count`` <= columns): positions
    relative to the start, ascending, then -1."""
    num_columns = logits.shape[1]
    columns = torch.arange(num_columns, dtype=torch.int32, device=logits.device)
    inside = (columns >= starts) & (columns < ends)
    keys = _ordered_keys(logits)
    keys = torch.where(inside, keys, torch.iinfo(keys.dtype).min)
    threshold = keys.topk(count, sorted=False).values.amin(1, keepdim=True)
    above = keys > threshold
    tied = keys == threshold
    room = count - above.sum(1, keepdim=True)
    chosen = above | (tied & (tied.cumsum(1, dtype=torch.int32) <= room))
    positions = torch.where(chosen & inside, columns, num_columns)
    positions = positions.topk(count, largest=False, sorted=True).values
    return torch.where(positions < num_columns, positions - starts, -1)


def _positions_to_slots(
    positions: Tensor, block_table: Tensor, row_to_request: Tensor | None
) -> Tensor:
    """Positions of each row's request -> slots of the paged cache; -1 where there is no page."""
    num_rows = positions.shape[0]
    num_requests, pages_per_request = block_table.shape
    if block_table.numel() == 0:
        return torch.full_like(positions, -1)
    if row_to_request is None:
        rows_per_request = max(1, num_rows // num_requests)
        row_to_request = torch.arange(num_rows, device=positions.device) // rows_per_request
    request = row_to_request.long()[:, None]
    page_of_request = positions.long() // INDEX_PAGE_TOKENS
    known = (request >= 0) & (request < num_requests)
    known = known & (positions >= 0) & (page_of_request < pages_per_request)
    pages = block_table[
        request.clamp(0, num_requests - 1), page_of_request.clamp(0, pages_per_request - 1)
    ]
    slots = pages * INDEX_PAGE_TOKENS + positions % INDEX_PAGE_TOKENS
    return torch.where(known & (pages >= 0), slots, -1)
