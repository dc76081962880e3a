"""The lightning indexer: ``logits[t, n] = k_scale[n] * sum_h weights[t, h] relu(q[t, h] . k[n])``.

The blocks depend on the number of heads alone, so a caller that walks the rows in steps of
:func:`rows_per_block` runs the same matrix products as one call over all rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..formats import INDEX_PAGE_TOKENS, INDEX_TOKEN_BYTES, index_cache_views
from ._blocks import BLOCK_ELEMENTS, blocks

_KEYS_PER_BLOCK = 8192
_PAGES_PER_BLOCK = _KEYS_PER_BLOCK // INDEX_PAGE_TOKENS


def rows_per_block(num_heads: int) -> int:
    """Rows that are scored at once."""
    return max(1, BLOCK_ELEMENTS // (num_heads * _KEYS_PER_BLOCK))


def indexer_logits(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    *,
    clean: bool = False,
    compute_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``[T, N]`` logits in ``compute_dtype``; see :func:`dsa_ops.indexer_logits`.

    ``q`` and ``k`` may be of any floating-point type. Columns outside a row's range are -inf when
    ``clean``, else whatever the formula gives there.
    """
    num_rows, num_keys = q.shape[0], k.shape[0]
    logits = torch.empty(num_rows, num_keys, dtype=compute_dtype, device=q.device)
    for keys in blocks(num_keys, _KEYS_PER_BLOCK):
        scores = _score(q, k[keys], k_scale[keys], weights, compute_dtype)
        for rows, block in scores:
            if clean:
                columns = torch.arange(keys.start, keys.stop, device=q.device)
                inside = (columns >= row_starts[rows, None]) & (columns < row_ends[rows, None])
                block = block.masked_fill(~inside, -torch.inf)
            logits[rows, keys] = block
    return logits


def cached_indexer_logits(
    q: Tensor,
    index_cache: Tensor,
    page_ids: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    *,
    clean: bool = False,
    compute_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``[T, 64 P]`` logits in ``compute_dtype``; see :func:`dsa_ops.cached_indexer_logits`.

    ``q`` may be of any floating-point type. Columns outside a row's range are -inf when ``clean``,
    else whatever the formula gives there.
    """
    num_rows, num_keys = q.shape[0], page_ids.shape[0] * INDEX_PAGE_TOKENS
    cache = index_cache.squeeze(2) if index_cache.dim() == 4 else index_cache
    logits = torch.full((num_rows, num_keys), -torch.inf, dtype=compute_dtype, device=q.device)
    if cache.shape[0] == 0:
        return logits
    for keys in blocks(num_keys, _KEYS_PER_BLOCK):
        k, k_scale, present = _gather_keys(cache, page_ids, keys)
        columns = torch.arange(keys.start, keys.stop, device=q.device)
        for rows, block in _score(q, k, k_scale, weights, compute_dtype):
            inside = present.expand_as(block)
            if clean:
                inside = inside & (columns >= row_starts[rows, None])
                inside = inside & (columns < row_ends[rows, None])
            logits[rows, keys] = block.masked_fill(~inside, -torch.inf)
    return logits


def paged_indexer_logits(
    q: Tensor,
    index_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_context_len: int,
    *,
    compute_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``[B * next_n, max_context_len]`` logits in ``compute_dtype``; see
    :func:`dsa_ops.paged_indexer_logits`. ``q`` may be of any floating-point type."""
    batch, next_n = q.shape[:2]
    cache = index_cache.squeeze(2) if index_cache.dim() == 4 else index_cache
    logits = torch.full(
        (batch * next_n, max_context_len), -torch.inf, dtype=compute_dtype, device=q.device
    )
    if cache.shape[0] == 0:
        return logits
    row_lens = row_lengths(context_lens, next_n, max_context_len, block_table.shape[1])
    num_keys = min(max_context_len, block_table.shape[1] * INDEX_PAGE_TOKENS)
    for request in range(batch):
        first_row = request * next_n
        own_rows = slice(first_row, first_row + next_n)
        for keys in blocks(num_keys, _KEYS_PER_BLOCK):
            k, k_scale, present = _gather_keys(cache, block_table[request], keys)
            columns = torch.arange(keys.start, keys.stop, device=q.device)
            for rows, block in _score(q[request], k, k_scale, weights[own_rows], compute_dtype):
                inside = present & (columns < row_lens[own_rows][rows, None])
                target = logits[own_rows][rows, keys]
                target.copy_(block.masked_fill(~inside, -torch.inf))
    return logits


def row_lengths(
    context_lens: Tensor, next_n: int, max_context_len: int, pages_per_request: int
) -> Tensor:
    """The number of keys that each row sees, int64 ``[B * next_n]``.

    ``context_lens`` is ``[B, next_n]``, or ``[B]`` where the last token of a request sees all its
    keys and every earlier one sees one less. Lengths are clamped to the columns and the pages.
    """
    lens = context_lens.long()
    if lens.dim() == 1:
        lens = lens[:, None] + torch.arange(1 - next_n, 1, device=lens.device)
    return lens.clamp(0, min(max_context_len, pages_per_request * INDEX_PAGE_TOKENS)).flatten()


def _score(
    q: Tensor, k: Tensor, k_scale: Tensor, weights: Tensor, compute_dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor]]:
    """Yields ``(rows, logits[rows, K])`` for the ``K`` keys of one block."""
    k = k.to(compute_dtype)
    k_scale = k_scale.to(compute_dtype)
    for rows in blocks(q.shape[0], rows_per_block(q.shape[1])):
        scores = torch.matmul(q[rows].to(compute_dtype), k.T).relu_()  # [R, Hi, K]
        scores.mul_(weights[rows].to(compute_dtype).unsqueeze(-1))
        yield rows, scores.sum(1).mul_(k_scale)


def _gather_keys(cache: Tensor, pages: Tensor, keys: slice) -> tuple[Tensor, Tensor, Tensor]:
    """Keys ``e4m3[K, 128]``, scales ``f32[K]`` and whether the cache has each, for the positions
    ``keys`` of the request whose pages are given. ``keys`` starts on a page."""
    first_page = keys.start // INDEX_PAGE_TOKENS
    pages = pages[first_page : first_page + _PAGES_PER_BLOCK].long()
    present = (pages >= 0) & (pages < cache.shape[0])
    gathered = cache.index_select(0, torch.where(present, pages, 0))
    gathered = gathered.view(-1, INDEX_PAGE_TOKENS, INDEX_TOKEN_BYTES)
    k, k_scale = index_cache_views(gathered)
    count = keys.stop - keys.start
    return (
        k.flatten(0, 1)[:count],
        k_scale.flatten()[:count],
        present.repeat_interleave(INDEX_PAGE_TOKENS)[:count],
    )
