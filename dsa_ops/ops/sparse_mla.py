"""Sparse multi-head latent attention over dense bf16 rows (prefill) or the paged cache (decode)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import reference
from .._checks import Checker
from .._library import define_op
from ..formats import MLA_HEAD_DIM, MLA_LATENT_DIM
from ._arguments import check_aligned, check_attention_heads, check_plain
from ._cache_arguments import check_attention_cache


def _check_selection(
    checker: Checker,
    num_rows: int,
    num_heads: int,
    indices: Tensor,
    topk_lens: Tensor | None,
    attn_sink: Tensor | None,
) -> None:
    check_plain(checker, indices, "indices", torch.int32, (num_rows, -1), "[T, k]")
    if topk_lens is not None:
        check_plain(checker, topk_lens, "topk_lens", torch.int32, (num_rows,), "[T]")
    if attn_sink is not None:
        check_plain(checker, attn_sink, "attn_sink", torch.float32, (num_heads,), "[H]")


def _check_per_head(
    checker: Checker, tensor: Tensor, argument: str, num_rows: int, num_heads: int
) -> None:
    check_plain(checker, tensor, argument, torch.float32, (num_rows, num_heads), "[T, H]")
    strides = list(tensor.stride())
    checker.require(tensor.is_contiguous(), argument, "contiguous", f"strides {strides}")


def _check_counts(checker: Checker, num_heads: int, indices: Tensor) -> None:
    check_attention_heads(checker, num_heads)
    checker.require(indices.shape[1] >= 1, "indices", "of 1 or more columns", indices.shape[1])


def _compute(attention: Callable[..., tuple[Tensor, ...]]) -> Callable[..., None]:
    """The PyTorch implementation of an op whose reference is ``attention``."""

    def compute(
        q: Tensor,
        kv: Tensor,
        indices: Tensor,
        sm_scale: float,
        topk_lens: Tensor | None,
        attn_sink: Tensor | None,
        *outputs: Tensor,
    ) -> None:
        results = attention(q, kv, indices, sm_scale, topk_lens=topk_lens, attn_sink=attn_sink)
        for target, result in zip(outputs, results, strict=True):
            target.copy_(result)

    return compute


def _check_sparse_mla_prefill(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    sm_scale: float,
    topk_lens: Tensor | None,
    attn_sink: Tensor | None,
    out: Tensor,
    lse: Tensor,
    max_logits: Tensor,
) -> None:
    checker = Checker("sparse_mla_prefill")
    head_dim = MLA_LATENT_DIM if q.shape[-1:] == (MLA_LATENT_DIM,) else MLA_HEAD_DIM
    text = "[T, H, 576] or [T, H, 512]"
    check_aligned(checker, q, "q", torch.bfloat16, (-1, -1, head_dim), text)
    num_rows, num_heads = q.shape[:2]
    text = "[N, 576] or [N, 512], as wide as q"
    check_aligned(checker, kv, "kv", torch.bfloat16, (-1, head_dim), text)
    _check_selection(checker, num_rows, num_heads, indices, topk_lens, attn_sink)
    sizes = (num_rows, num_heads, MLA_LATENT_DIM)
    check_aligned(checker, out, "out", torch.bfloat16, sizes, "[T, H, 512]")
    _check_per_head(checker, lse, "lse", num_rows, num_heads)
    _check_per_head(checker, max_logits, "max_logits", num_rows, num_heads)
    _check_counts(checker, num_heads, indices)
    checker.same_device(
        q=q, kv=kv, indices=indices, topk_lens=topk_lens, attn_sink=attn_sink, out=out, lse=lse,
        max_logits=max_logits,
    )  # fmt: skip


_SPARSE_MLA_PREFILL = define_op(
    "sparse_mla_prefill(Tensor q, Tensor kv, Tensor indices, float sm_scale, Tensor? topk_lens, "
    "Tensor? attn_sink, Tensor(a!) out, Tensor(b!) lse, Tensor(c!) max_logits) -> ()",
    _check_sparse_mla_prefill,
    _compute(reference.sparse_mla_prefill),
)


def sparse_mla_prefill(
    q: Tensor,
    kv: Tensor,
    indices: Tensor,
    sm_scale: float,
    *,
    topk_lens: Tensor | None = None,
    attn_sink: Tensor | None = None,
    out: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Attention of each row over the rows of ``kv`` that its index list selects.

    .. math::
        s_{t,h,j} &= smscale \; q_{t,h} \cdot kv_{indices_{t,j}} \\
        out_{t,h} &= \textstyle\sum_j \mathrm{softmax}_j(s_{t,h,j}) \; kv_{indices_{t,j},\,:512} \\
        lse_{t,h} &= \log \textstyle\sum_j \exp(s_{t,h,j})

    This is multi-head latent attention in its multi-query form (DeepSeek-V2, arXiv:2405.04434,
    section 2.1: the up-projections absorbed into q and out) over the selection of the
    DeepSeek-V3.2-Exp technical report, equation (2).

    Entries of ``indices`` outside ``[0, N)`` and entries at and after ``topk_lens`` are empty, and
    what ``kv`` holds in rows that are not selected has no effect, NaN included. An index that
    occurs twice counts twice. A row without keys gives ``out = 0`` and ``lse = max_logits = -inf``.

    With up to 32 heads, neighbouring rows that select many keys in common attend together and fetch
    those once, whatever the order of the lists. This changes the rounding of a row's results only.

    Args:
        q: bfloat16 ``[T, H, 576]`` or ``[T, H, 512]``, H from 1 to 128. Strides of 16-byte
            multiples.
        kv: bfloat16 ``[N, 576]`` or ``[N, 512]``: 512 latent values, then RoPE. Strides of 16-byte
            multiples.
        indices: int32 ``[T, k]``, rows of ``kv``; any k >= 1, any row stride.
        sm_scale: Factor of the scores.
        topk_lens: int32 ``[T]``, the entries of ``indices`` that count; at or below 0 the row is
            empty.
        attn_sink: float32 ``[H]``; scales ``out`` by ``exp(lse) / (exp(lse) + exp(attn_sink))`` and
            leaves ``lse`` alone. -inf has no effect, +inf gives 0.
        out: ``(out, lse, max_logits)`` to write to: bfloat16 ``[T, H, 512]`` with strides of
            16-byte multiples, and two contiguous float32 ``[T, H]``.

    Returns:
        ``out`` bfloat16 ``[T, H, 512]``; ``lse`` float32 ``[T, H]``, natural logarithm;
        ``max_logits`` float32 ``[T, H]``, the largest scaled score.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> q, kv = torch.zeros(1, 2, 576).bfloat16(), torch.ones(4, 576).bfloat16()
        >>> indices = torch.tensor([[0, 3, -1]]).int()
        >>> out, lse, max_logits = dsa_ops.sparse_mla_prefill(q, kv, indices, 0.1)
        >>> out.shape, lse.exp().round().tolist(), max_logits.tolist()
        (torch.Size([1, 2, 512]), [[2.0, 2.0]], [[0.0, 0.0]])
    """
    checker = Checker("sparse_mla_prefill")
    checker.shape(q, "q", (-1, -1, -1), "[T, H, 576] or [T, H, 512]")
    if out is None:
        out = (*_new_outputs(q), torch.empty(q.shape[:2], dtype=torch.float32, device=q.device))
    checker.outputs(out, "out", "lse", "max_logits")
    _SPARSE_MLA_PREFILL(q, kv, indices, sm_scale, topk_lens, attn_sink, *out)
    return out


def _check_sparse_mla_decode(
    q: Tensor,
    kv_cache: Tensor,
    indices: Tensor,
    sm_scale: float,
    topk_lens: Tensor | None,
    attn_sink: Tensor | None,
    out: Tensor,
    lse: Tensor,
) -> None:
    checker = Checker("sparse_mla_decode")
    check_aligned(checker, q, "q", torch.bfloat16, (-1, -1, MLA_HEAD_DIM), "[T, H, 576]")
    num_rows, num_heads = q.shape[:2]
    check_attention_cache(checker, kv_cache, "kv_cache")
    _check_selection(checker, num_rows, num_heads, indices, topk_lens, attn_sink)
    sizes = (num_rows, num_heads, MLA_LATENT_DIM)
    check_aligned(checker, out, "out", torch.bfloat16, sizes, "[T, H, 512]")
    _check_per_head(checker, lse, "lse", num_rows, num_heads)
    _check_counts(checker, num_heads, indices)
    checker.same_device(
        q=q, kv_cache=kv_cache, indices=indices, topk_lens=topk_lens, attn_sink=attn_sink,
        out=out, lse=lse,
    )  # fmt: skip


_SPARSE_MLA_DECODE = define_op(
    "sparse_mla_decode(Tensor q, Tensor kv_cache, Tensor indices, float sm_scale, "
    "Tensor? topk_lens, Tensor? attn_sink, Tensor(a!) out, Tensor(b!) lse) -> ()",
    _check_sparse_mla_decode,
    _compute(reference.sparse_mla_decode),
)


def sparse_mla_decode(
    q: Tensor,
    kv_cache: Tensor,
    indices: Tensor,
    sm_scale: float,
    *,
    topk_lens: Tensor | None = None,
    attn_sink: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of each row over the slots of the paged MLA cache that its index list selects.

    The formula, the empty entries and ``attn_sink`` are those of :func:`sparse_mla_prefill`, with
    ``kv`` the tokens of the cache. Those of an FP8 cache are dequantised: each of the 512 latent
    values times the scale of its group of 128, then 64 RoPE values. A row is a token, so decode,
    speculative and prefill rows mix freely.

    With few rows the index lists are split over the device and their parts joined. How depends on
    T, H, k and the device alone, and changes the rounding of a row's results only.

    Thousands of rows over one context take less time by :func:`gather_mla_cache` and
    :func:`sparse_mla_prefill` (``bench`` has both ways), for 1,152 bytes of memory a token and
    keys rounded to bfloat16.

    Args:
        q: bfloat16 ``[T, H, 576]``, H from 1 to 128. Strides of 16-byte multiples.
        kv_cache: FP8: uint8 or its float8_e4m3fn view, ``[pages, page_size, 656]`` or
            ``[pages, page_size, 1, 656]`` (see :mod:`dsa_ops.formats`). Or bfloat16,
            ``[pages, page_size, 576]`` or ``[pages, page_size, 1, 576]``, tokens as rows of the
            prefill's ``kv``. Any page_size >= 1, any page stride that is a multiple of 16 bytes.
        indices: int32 ``[T, k]`` slots, ``page * page_size + offset``; any k >= 1, any row stride.
        sm_scale: Factor of the scores.
        topk_lens: int32 ``[T]``, the entries of ``indices`` that count; at or below 0 the row is
            empty.
        attn_sink: float32 ``[H]``.
        out: ``(out, lse)`` to write to: bfloat16 ``[T, H, 512]`` with strides of 16-byte
            multiples, and contiguous float32 ``[T, H]``.

    Returns:
        ``out`` bfloat16 ``[T, H, 512]``; ``lse`` float32 ``[T, H]``, natural logarithm.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> q = torch.zeros(1, 2, 576).bfloat16()
        >>> cache = torch.zeros(2, 64, 656, dtype=torch.uint8)
        >>> out, lse = dsa_ops.sparse_mla_decode(q, cache, torch.tensor([[5, 64, -1]]).int(), 0.1)
        >>> out.shape, lse.exp().round().tolist()
        (torch.Size([1, 2, 512]), [[2.0, 2.0]])
    """
    checker = Checker("sparse_mla_decode")
    checker.shape(q, "q", (-1, -1, -1), "[T, H, 576]")
    if out is None:
        out = _new_outputs(q)
    checker.outputs(out, "out", "lse")
    _SPARSE_MLA_DECODE(q, kv_cache, indices, sm_scale, topk_lens, attn_sink, *out)
    return out


def _new_outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    num_rows, num_heads = q.shape[:2]
    return (
        torch.empty(num_rows, num_heads, MLA_LATENT_DIM, dtype=torch.bfloat16, device=q.device),
        torch.empty(num_rows, num_heads, dtype=torch.float32, device=q.device),
    )
