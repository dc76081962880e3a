"""The lightning indexer: the score of every key for every query row, over dense or paged keys."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .._checks import Checker
from .._library import define_op
from ..formats import INDEX_HEAD_DIM
from ._arguments import (
    check_index_heads,
    check_num_sms,
    check_paged_counts,
    check_paged_scoring,
    check_plain,
    check_ragged_scoring,
)


def _check_indexer_logits(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    clean: bool,
    num_sms: int,
    pdl: bool,
    logits: Tensor,
) -> None:
    checker = Checker("indexer_logits")
    check_ragged_scoring(checker, q, k, k_scale, weights, row_starts, row_ends)
    sizes = (q.shape[0], k.shape[0])
    check_plain(checker, logits, "logits", torch.float32, sizes, "[T, N]")
    check_index_heads(checker, q.shape[1])
    check_num_sms(checker, num_sms)
    checker.same_device(
        q=q, k=k, k_scale=k_scale, weights=weights, row_starts=row_starts, row_ends=row_ends,
        logits=logits,
    )  # fmt: skip


def _compute_indexer_logits(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    clean: bool,
    num_sms: int,
    pdl: bool,
    logits: Tensor,
) -> None:
    logits.copy_(
        reference.indexer_logits(q, k, k_scale, weights, row_starts, row_ends, clean=clean)
    )


_INDEXER_LOGITS = define_op(
    "indexer_logits(Tensor q, Tensor k, Tensor k_scale, Tensor weights, Tensor row_starts, "
    "Tensor row_ends, bool clean, int num_sms, bool pdl, Tensor(a!) logits) -> ()",
    _check_indexer_logits,
    _compute_indexer_logits,
)


def indexer_logits(
    q: Tensor,
    k: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    *,
    clean: bool = False,
    num_sms: int = 0,
    pdl: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    r"""Scores every key of each row's range.

    .. math:: logits_{t,n} = kscale_n \sum_h weights_{t,h} \max(q_{t,h} \cdot k_n, 0)
              \quad \text{for } rowstarts_t \le n < rowends_t

    This is the index score of the DeepSeek-V3.2-Exp technical report, equation (1), on quantised
    queries and keys; the scale of the query and the softmax scale are part of ``weights``.

    Args:
        q: float8_e4m3fn ``[T, Hi, 128]``, Hi one of 8, 16, 32, 64. Strides of 16-byte multiples.
        k: float8_e4m3fn ``[N, 128]``. Strides of 16-byte multiples.
        k_scale: float32 ``[N]``, one scale per key.
        weights: float32 ``[T, Hi]``, any row stride.
        row_starts, row_ends: int32 ``[T]``; ranges are clamped to ``[0, N)`` and a row whose end is
            not after its start is empty.
        clean: Set the columns outside a row's range to -inf. Otherwise they hold any value.
        num_sms: Multiprocessors to occupy at most, for engines that overlap streams; 0 for all.
        pdl: Programmatic dependent launch: the kernel's first steps overlap the end of the kernel
            before it on the stream.
        out: float32 ``[T, N]`` to write to, any row stride.

    Returns:
        float32 ``[T, N]``.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> q = torch.randn(2, 8, 128).to(torch.float8_e4m3fn)
        >>> k = torch.randn(5, 128).to(torch.float8_e4m3fn)
        >>> starts, ends = torch.tensor([0, 1]).int(), torch.tensor([4, 5]).int()
        >>> logits = dsa_ops.indexer_logits(
        ...     q, k, torch.ones(5), torch.ones(2, 8), starts, ends, clean=True)
        >>> logits.isfinite().tolist()
        [[True, True, True, True, False], [False, True, True, True, True]]
    """
    checker = Checker("indexer_logits")
    checker.shape(q, "q", (-1, -1, INDEX_HEAD_DIM), "[T, Hi, 128]")
    checker.shape(k, "k", (-1, INDEX_HEAD_DIM), "[N, 128]")
    if out is None:
        out = torch.empty(q.shape[0], k.shape[0], dtype=torch.float32, device=q.device)
    _INDEXER_LOGITS(q, k, k_scale, weights, row_starts, row_ends, clean, num_sms, pdl, out)
    return out


def _check_paged_indexer_logits(
    q: Tensor,
    index_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    num_sms: int,
    pdl: bool,
    logits: Tensor,
) -> None:
    checker = Checker("paged_indexer_logits")
    check_paged_scoring(checker, q, index_cache, weights, context_lens, block_table)
    text = "[B * next_n, max_context_len]"
    sizes = (q.shape[0] * q.shape[1], -1)
    check_plain(checker, logits, "logits", torch.float32, sizes, text)
    check_paged_counts(checker, q)
    check_num_sms(checker, num_sms)
    checker.same_device(
        q=q, index_cache=index_cache, weights=weights, context_lens=context_lens,
        block_table=block_table, logits=logits,
    )  # fmt: skip


def _compute_paged_indexer_logits(
    q: Tensor,
    index_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    num_sms: int,
    pdl: bool,
    logits: Tensor,
) -> None:
    logits.copy_(
        reference.paged_indexer_logits(
            q, index_cache, weights, context_lens, block_table, logits.shape[1]
        )
    )


_PAGED_INDEXER_LOGITS = define_op(
    "paged_indexer_logits(Tensor q, Tensor index_cache, Tensor weights, Tensor context_lens, "
    "Tensor block_table, int num_sms, bool pdl, Tensor(a!) logits) -> ()",
    _check_paged_indexer_logits,
    _compute_paged_indexer_logits,
)


def paged_indexer_logits(
    q: Tensor,
    index_cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_context_len: int,
    *,
    num_sms: int = 0,
    pdl: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    r"""Scores the cached keys of each request for its query tokens.

    Row ``b * next_n + j`` holds, for position n of request b, the score of
    :func:`indexer_logits` on the key and scale at slot ``block_table[b, n // 64] * 64 + n % 64``.
    Columns at and after the row's length are -inf, as are columns whose page is not a page of the
    cache.

    Args:
        q: float8_e4m3fn ``[B, next_n, Hi, 128]``, next_n >= 1, Hi one of 8, 16, 32, 64. Strides of
            16-byte multiples.
        index_cache: uint8 ``[pages, 64, 132]`` or ``[pages, 64, 1, 132]`` (see
            :mod:`dsa_ops.formats`); any page stride that is a multiple of 16 bytes.
        weights: float32 ``[B * next_n, Hi]``, any row stride.
        context_lens: int32 ``[B, next_n]``, the number of keys that each row sees, or ``[B]``, the
            number that the last token of each request sees: row (b, j) then sees
            ``context_lens[b] - next_n + 1 + j``. Lengths are clamped to
            ``[0, min(max_context_len, 64 P)]``.
        block_table: int32 ``[B, P]``, the pages of each request; entries outside ``[0, pages)`` are
            never dereferenced.
        max_context_len: Columns of the result.
        num_sms, pdl: As in :func:`indexer_logits`.
        out: float32 ``[B * next_n, max_context_len]`` to write to, any row stride.

    Returns:
        float32 ``[B * next_n, max_context_len]``.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> q = torch.randn(1, 2, 8, 128).to(torch.float8_e4m3fn)
        >>> cache = torch.zeros(4, 64, 132, dtype=torch.uint8)
        >>> lens, table = torch.tensor([3]).int(), torch.tensor([[2]]).int()
        >>> dsa_ops.paged_indexer_logits(q, cache, torch.ones(2, 8), lens, table, 4)
        tensor([[0., 0., -inf, -inf],
                [0., 0., 0., -inf]])
    """
    checker = Checker("paged_indexer_logits")
    checker.integer(max_context_len, "max_context_len")
    checker.require(max_context_len >= 0, "max_context_len", "0 or more", max_context_len)
    checker.shape(q, "q", (-1, -1, -1, INDEX_HEAD_DIM), "[B, next_n, Hi, 128]")
    shape = (q.shape[0] * q.shape[1], max_context_len)
    if out is None:
        out = torch.empty(shape, dtype=torch.float32, device=q.device)
    checker.shape(out, "out", shape, "[B * next_n, max_context_len]")
    _PAGED_INDEXER_LOGITS(q, index_cache, weights, context_lens, block_table, num_sms, pdl, out)
    return out
