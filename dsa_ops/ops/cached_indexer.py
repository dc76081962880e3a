"""The lightning indexer over pages of the index cache, for the many rows of a prefill."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .._checks import Checker
from .._library import define_op
from ..formats import INDEX_HEAD_DIM, INDEX_PAGE_TOKENS
from ._arguments import check_cached_scoring, check_index_heads, check_num_sms, check_plain


def _check_cached_indexer_logits(
    q: Tensor,
    index_cache: Tensor,
    page_ids: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    clean: bool,
    num_sms: int,
    pdl: bool,
    logits: Tensor,
) -> None:
    checker = Checker("cached_indexer_logits")
    check_cached_scoring(checker, q, index_cache, page_ids, weights, row_starts, row_ends)
    sizes = (q.shape[0], page_ids.shape[0] * INDEX_PAGE_TOKENS)
    check_plain(checker, logits, "logits", torch.float32, sizes, "[T, 64 P]")
    check_index_heads(checker, q.shape[1])
    check_num_sms(checker, num_sms)
    checker.same_device(
        q=q, index_cache=index_cache, page_ids=page_ids, weights=weights, row_starts=row_starts,
        row_ends=row_ends, logits=logits,
    )  # fmt: skip


def _compute_cached_indexer_logits(
    q: Tensor,
    index_cache: Tensor,
    page_ids: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    clean: bool,
    num_sms: int,
    pdl: bool,
    logits: Tensor,
) -> None:
    logits.copy_(
        reference.cached_indexer_logits(
            q, index_cache, page_ids, weights, row_starts, row_ends, clean=clean
        )
    )


_CACHED_INDEXER_LOGITS = define_op(
    "cached_indexer_logits(Tensor q, Tensor index_cache, Tensor page_ids, Tensor weights, "
    "Tensor row_starts, Tensor row_ends, bool clean, int num_sms, bool pdl, "
    "Tensor(a!) logits) -> ()",
    _check_cached_indexer_logits,
    _compute_cached_indexer_logits,
)


def cached_indexer_logits(
    q: Tensor,
    index_cache: Tensor,
    page_ids: Tensor,
    weights: Tensor,
    row_starts: Tensor,
    row_ends: Tensor,
    *,
    clean: bool = False,
    num_sms: int = 0,
    pdl: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Scores every key of each row's range, reading the keys from the index cache in place.

    The result is that of :func:`indexer_logits`, bit for bit, on the keys and scales that
    ``page_ids`` lays end to end: key n is token ``n % 64`` of page ``page_ids[n // 64]``. One call
    serves rows of many requests. With a rectangular block table ``[B, P]``, for instance,
    ``page_ids`` is ``block_table.flatten()`` and the keys of request b start at ``64 * P * b``.

    Args:
        q: float8_e4m3fn ``[T, Hi, 128]``, Hi one of 8, 16, 32, 64. Strides of 16-byte multiples.
        index_cache: uint8 ``[pages, 64, 132]`` or ``[pages, 64, 1, 132]`` (see
            :mod:`dsa_ops.formats`); any page stride that is a multiple of 16 bytes.
        page_ids: int32 ``[P]``. Entries outside ``[0, pages)`` are never dereferenced; their
            columns are -inf.
        weights: float32 ``[T, Hi]``, any row stride.
        row_starts, row_ends: int32 ``[T]``; ranges are clamped to ``[0, 64 P)`` and a row whose end
            is not after its start is empty.
        clean: Set the columns outside a row's range to -inf. Otherwise they hold any value.
        num_sms, pdl: As in :func:`indexer_logits`.
        out: float32 ``[T, 64 P]`` to write to, any row stride.

    Returns:
        float32 ``[T, 64 P]``.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> q = torch.randn(2, 8, 128).to(torch.float8_e4m3fn)
        >>> cache = torch.zeros(4, 64, 132, dtype=torch.uint8)
        >>> pages = torch.tensor([2, -1, 3]).int()
        >>> starts, ends = torch.tensor([0, 128]).int(), torch.tensor([70, 130]).int()
        >>> logits = dsa_ops.cached_indexer_logits(
        ...     q, cache, pages, torch.ones(2, 8), starts, ends, clean=True)
        >>> logits.isfinite().sum(1).tolist()
        [64, 2]
    """
    checker = Checker("cached_indexer_logits")
    checker.shape(q, "q", (-1, -1, INDEX_HEAD_DIM), "[T, Hi, 128]")
    checker.shape(page_ids, "page_ids", (-1,), "[P]")
    if out is None:
        num_keys = page_ids.shape[0] * INDEX_PAGE_TOKENS
        out = torch.empty(q.shape[0], num_keys, dtype=torch.float32, device=q.device)
    _CACHED_INDEXER_LOGITS(
        q, index_cache, page_ids, weights, row_starts, row_ends, clean, num_sms, pdl, out
    )
    return out
