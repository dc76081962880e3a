"""Exact selection of the best logits of each row."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .._checks import Checker
from .._library import define_op
from ._arguments import (
    check_indices,
    check_plain,
    check_rows_per_request,
    check_top_k,
    check_translation,
    indices_or_new,
)


def _check_topk(
    logits: Tensor,
    row_ends: Tensor,
    row_starts: Tensor | None,
    block_table: Tensor | None,
    row_to_request: Tensor | None,
    row_offsets: Tensor | None,
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
    if row_offsets is not None:
        check_plain(checker, row_offsets, "row_offsets", torch.int32, (num_rows,), "[T]")
    check_indices(checker, indices, num_rows, "[T, top_k]")
    check_rows_per_request(checker, num_rows, block_table, row_to_request)
    check_top_k(checker, indices.shape[1])
    checker.same_device(
        logits=logits, row_ends=row_ends, row_starts=row_starts, block_table=block_table,
        row_to_request=row_to_request, row_offsets=row_offsets, indices=indices,
    )  # fmt: skip


def _compute_topk(
    logits: Tensor,
    row_ends: Tensor,
    row_starts: Tensor | None,
    block_table: Tensor | None,
    row_to_request: Tensor | None,
    row_offsets: Tensor | None,
    indices: Tensor,
) -> None:
    indices.copy_(
        reference.topk(
            logits, indices.shape[1], row_ends, row_starts,
            block_table=block_table, row_to_request=row_to_request, row_offsets=row_offsets,
        )
    )  # fmt: skip


_TOPK = define_op(
    "topk(Tensor logits, Tensor row_ends, Tensor? row_starts, Tensor? block_table, "
    "Tensor? row_to_request, Tensor? row_offsets, Tensor(a!) indices) -> ()",
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
    row_offsets: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Selects the ``top_k`` largest logits of each row's range ``[row_starts, row_ends)``.

    The selection is exact and repeatable: equal logits go to the lower position, -0 equals +0, NaN
    ranks as -inf, and -inf inside the range is still a candidate. Positions count from the row's
    (clamped) start and ascend; a row with fewer than ``top_k`` candidates returns them all, then
    -1. This is the token selection of the DeepSeek-V3.2-Exp technical report, equation (2).

    With a block table, position p becomes the slot ``page * 64 + p % 64`` with
    ``page = block_table[request, p // 64]``, in place; it becomes -1 where the page is negative,
    past the table, or the request is not a row of it. Row offsets serve layouts whose rows lie one
    after the other in one array: what is not -1 is moved by the row's offset.

    Args:
        logits: float32 or bfloat16 ``[T, N]``, any row stride.
        top_k: 1 to 4096.
        row_ends: int32 ``[T]``; ranges are clamped to ``[0, N)``.
        row_starts: int32 ``[T]``, all zero if None.
        block_table: int32 ``[B, P]``, the pages of each request; positions are returned if None.
        row_to_request: int32 ``[T]``, the row of ``block_table`` of each row; ``t // (T // B)`` if
            None, which needs ``T % B == 0``.
        row_offsets: int32 ``[T]``, added to each position or slot of the row, all zero if None.
        out: int32 ``[T, top_k]`` to write to, any row stride.

    Returns:
        int32 ``[T, top_k]``.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 3.0, 2.0], [0.0, 5.0, 4.0, 6.0]])
        >>> dsa_ops.topk(logits, 3, torch.tensor([4, 2]).int())
        tensor([[ 0,  2,  3],
                [ 0,  1, -1]], dtype=torch.int32)
    """
    checker = Checker("topk")
    checker.shape(logits, "logits", (-1, -1), "[T, N]")
    indices = indices_or_new(checker, logits.shape[0], top_k, logits.device, out)
    _TOPK(logits, row_ends, row_starts, block_table, row_to_request, row_offsets, indices)
    return indices
