"""The union of two partial attentions."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .._checks import Checker
from .._library import define_op


def _check_part(
    checker: Checker, out: Tensor, lse: Tensor, suffix: str, sizes: tuple[int, ...]
) -> None:
    rows, heads, head_dim = sizes
    name = f"out{suffix}"
    checker.dtype(out, name, torch.bfloat16)
    checker.shape(out, name, (rows, heads, head_dim), "[num_rows, num_heads, head_dim]")
    checker.last_dim_contiguous(out, name)
    checker.aligned_16(out, name)
    name = f"lse{suffix}"
    checker.dtype(lse, name, torch.float32)
    checker.shape(lse, name, (out.shape[0], out.shape[1]), "[num_rows, num_heads]")
    checker.last_dim_contiguous(lse, name)


def _check(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor, out: Tensor, lse: Tensor
) -> None:
    checker = Checker("merge_states")
    _check_part(checker, out_a, lse_a, "_a", (-1, -1, -1))
    sizes = (out_a.shape[0], out_a.shape[1], out_a.shape[2])
    _check_part(checker, out_b, lse_b, "_b", sizes)
    _check_part(checker, out, lse, "", sizes)
    head_dim = sizes[2]
    checker.require(head_dim % 8 == 0, "out_a", "of a head_dim divisible by 8", head_dim)
    checker.same_device(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b, out=out, lse=lse)


def _compute(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor, out: Tensor, lse: Tensor
) -> None:
    merged, merged_lse = reference.merge_states(out_a, lse_a, out_b, lse_b)
    out.copy_(merged)
    lse.copy_(merged_lse)


_MERGE_STATES = define_op(
    "merge_states(Tensor out_a, Tensor lse_a, Tensor out_b, Tensor lse_b, Tensor(a!) out, "
    "Tensor(b!) lse) -> ()",
    _check,
    _compute,
)


def merge_states(
    out_a: Tensor,
    lse_a: Tensor,
    out_b: Tensor,
    lse_b: Tensor,
    *,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Joins two partial attentions over disjoint keys into the attention over their union.

    With natural-log lse, in float32 (the online-softmax identity of FlashAttention)::

        lse = log(exp(lse_a) + exp(lse_b))
        out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b

    An lse of -inf or +inf marks an empty part, whose ``out`` is not read. Two empty parts give
    ``out = 0`` and ``lse = -inf``.

    Args:
        out_a, out_b: bfloat16 ``[num_rows, num_heads, head_dim]``, rows aligned to 16 bytes,
            head_dim divisible by 8.
        lse_a, lse_b: float32 ``[num_rows, num_heads]``.
        out: ``(out, lse)`` to write into, laid out like the parts.

    Returns:
        ``out`` bfloat16 ``[num_rows, num_heads, head_dim]`` and ``lse`` float32
        ``[num_rows, num_heads]``.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> ones = torch.ones(1, 1, 8, dtype=torch.bfloat16)
        >>> lse = torch.zeros(1, 1)
        >>> out, lse = dsa_ops.merge_states(ones, lse, 3 * ones, lse)
        >>> float(out[0, 0, 0]), round(float(lse), 4)
        (2.0, 0.6931)
    """
    checker = Checker("merge_states")
    if out is None:
        checker.tensors(out_a=out_a, lse_a=lse_a)
        device = out_a.device
        out = (
            torch.empty(out_a.shape, dtype=torch.bfloat16, device=device),
            torch.empty(lse_a.shape, dtype=torch.float32, device=device),
        )
    checker.outputs(out, "out", "lse")
    merged, lse = out
    _MERGE_STATES(out_a, lse_a, out_b, lse_b, merged, lse)
    return merged, lse
