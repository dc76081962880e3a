"""From the indexer's projections to its quantised queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from .._checks import Checker
from .._library import define_op
from ..formats import FP8, INDEX_HEAD_COUNTS, INDEX_HEAD_DIM
from ._cache_arguments import check_index_cache, check_rows, check_slot_mapping
from ._prepare_arguments import check_head_vectors, check_norm, check_rope, check_weights


def _check_prepare_index_q(
    q: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    weights: Tensor,
    softmax_scale: float,
    interleaved: bool,
    hadamard: bool,
    ue8m0: bool,
    q_out: Tensor,
    weights_out: Tensor,
) -> None:
    checker = Checker("prepare_index_q")
    checker.dtype(q, "q", torch.bfloat16)
    check_head_vectors(checker, q, "q", (-1, -1))
    rows, heads = q.shape[0], q.shape[1]
    check_rope(checker, positions, cos_sin_cache, rows, "num_rows")
    check_weights(checker, weights, "weights", (rows, heads))
    checker.dtype(q_out, "q_out", FP8)
    check_head_vectors(checker, q_out, "q_out", (rows, heads))
    check_weights(checker, weights_out, "weights_out", (rows, heads))
    checker.require(heads in INDEX_HEAD_COUNTS, "q", "of 8 or 16 or 32 or 64 heads", heads)
    checker.same_device(
        q=q,
        positions=positions,
        cos_sin_cache=cos_sin_cache,
        weights=weights,
        q_out=q_out,
        weights_out=weights_out,
    )


def _compute_prepare_index_q(
    q: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    weights: Tensor,
    softmax_scale: float,
    interleaved: bool,
    hadamard: bool,
    ue8m0: bool,
    q_out: Tensor,
    weights_out: Tensor,
) -> None:
    values, folded = reference.prepare_index_q(
        q,
        positions,
        cos_sin_cache,
        weights,
        softmax_scale,
        interleaved=interleaved,
        hadamard=hadamard,
        ue8m0=ue8m0,
    )
    q_out.view(torch.uint8).copy_(values.view(torch.uint8))
    weights_out.copy_(folded)


_PREPARE_INDEX_Q = define_op(
    "prepare_index_q(Tensor q, Tensor positions, Tensor cos_sin_cache, Tensor weights, "
    "float softmax_scale, bool interleaved, bool hadamard, bool ue8m0, Tensor(a!) q_out, "
    "Tensor(b!) weights_out) -> ()",
    _check_prepare_index_q,
    _compute_prepare_index_q,
)


def prepare_index_q(
    q: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    weights: Tensor,
    softmax_scale: float,
    *,
    interleaved: bool,
    hadamard: bool = False,
    ue8m0: bool = True,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Turns the indexer's query projection into FP8 queries and folded head weights.

    Per head vector ``x`` of row ``t``, as in the indexer of DeepSeek-V3.2's inference code::

        x[:64] = RoPE(x[:64], positions[t])
        x      = H x / sqrt(128)                        if hadamard, H in Sylvester order
        s      = max(amax |x|, 1e-4) / 448              rounded up to a power of two when ue8m0
        q_out  = e4m3(clamp(x / s, -448, 448))          round to nearest even
        weights_out[t, h] = weights[t, h] * s * softmax_scale * num_heads^-0.5

    Rounding points: bfloat16 on input, e4m3 on output, float32 and unrounded between (the
    inference code rounds to bfloat16 after RoPE and after the Hadamard transform). Folding ``s``
    and the two scales into the weights is exact up to rounding: ReLU commutes with factors > 0.

    Args:
        q: bfloat16 ``[num_rows, num_heads, 128]``, 8, 16, 32 or 64 heads, vectors aligned to 16
            bytes.
        positions: int64 ``[num_rows]``, clamped to ``[0, num_positions)``.
        cos_sin_cache: float32 ``[num_positions, 64]``: 32 cosines, then 32 sines.
        weights: float32 ``[num_rows, num_heads]``, the output of the weight projection.
        softmax_scale: scale of the index scores, ``128^-0.5`` in DeepSeek-V3.2.
        interleaved: RoPE rotates dims (2i, 2i + 1) instead of (i, i + 32). False for
            DeepSeek-V3.2, True for GLM-5.
        hadamard: apply the Hadamard transform; queries and keys must agree.
        ue8m0: the quantisation scale is a power of two.
        out: ``(q_out, weights_out)`` to write into.

    Returns:
        ``q_out`` float8_e4m3fn ``[num_rows, num_heads, 128]`` and ``weights_out`` float32
        ``[num_rows, num_heads]``, as :func:`indexer_logits` takes them.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> q = torch.randn(5, 8, 128).bfloat16()
        >>> angles = torch.arange(10.0)[:, None] * 1e4 ** -torch.linspace(0, 1, 32)
        >>> cos_sin_cache = torch.cat([angles.cos(), angles.sin()], dim=-1)
        >>> q_fp8, weights = dsa_ops.prepare_index_q(
        ...     q, torch.arange(5), cos_sin_cache, torch.ones(5, 8), 128**-0.5, interleaved=False)
        >>> q_fp8.shape, weights.shape
        (torch.Size([5, 8, 128]), torch.Size([5, 8]))
    """
    checker = Checker("prepare_index_q")
    if out is None:
        checker.tensors(q=q, weights=weights)
        out = (
            torch.empty(q.shape, dtype=FP8, device=q.device),
            torch.empty(weights.shape, dtype=torch.float32, device=q.device),
        )
    checker.outputs(out, "q_out", "weights_out")
    q_out, weights_out = out
    _PREPARE_INDEX_Q(
        q,
        positions,
        cos_sin_cache,
        weights,
        softmax_scale,
        interleaved,
        hadamard,
        ue8m0,
        q_out,
        weights_out,
    )
    return q_out, weights_out


def _check_prepare_index_k(
    k: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    positions: Tensor,
    cos_sin_cache: Tensor,
    interleaved: bool,
    hadamard: bool,
    ue8m0: bool,
    index_cache: Tensor,
    slot_mapping: Tensor,
) -> None:
    checker = Checker("prepare_index_k")
    checker.dtype(k, "k", torch.bfloat16)
    check_rows(checker, k, "k", INDEX_HEAD_DIM, -1)
    check_norm(checker, norm_weight, norm_bias)
    check_rope(checker, positions, cos_sin_cache, k.shape[0], "num_tokens")
    check_index_cache(checker, index_cache, "index_cache")
    check_slot_mapping(checker, slot_mapping, k.shape[0])
    checker.same_device(
        k=k,
        norm_weight=norm_weight,
        norm_bias=norm_bias,
        positions=positions,
        cos_sin_cache=cos_sin_cache,
        index_cache=index_cache,
        slot_mapping=slot_mapping,
    )


def _compute_prepare_index_k(
    k: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    positions: Tensor,
    cos_sin_cache: Tensor,
    interleaved: bool,
    hadamard: bool,
    ue8m0: bool,
    index_cache: Tensor,
    slot_mapping: Tensor,
) -> None:
    reference.prepare_index_k(
        k,
        norm_weight,
        norm_bias,
        eps,
        positions,
        cos_sin_cache,
        index_cache,
        slot_mapping,
        interleaved=interleaved,
        hadamard=hadamard,
        ue8m0=ue8m0,
    )


_PREPARE_INDEX_K = define_op(
    "prepare_index_k(Tensor k, Tensor? norm_weight, Tensor? norm_bias, float eps, "
    "Tensor positions, Tensor cos_sin_cache, bool interleaved, bool hadamard, bool ue8m0, "
    "Tensor(a!) index_cache, Tensor slot_mapping) -> ()",
    _check_prepare_index_k,
    _compute_prepare_index_k,
)


def prepare_index_k(
    k: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    positions: Tensor,
    cos_sin_cache: Tensor,
    index_cache: Tensor,
    slot_mapping: Tensor,
    *,
    interleaved: bool,
    hadamard: bool = False,
    ue8m0: bool = True,
) -> None:
    """Turns the indexer's key projection into FP8 keys and stores them in the index cache.

    Per token, as in the indexer of DeepSeek-V3.2's inference code::

        x      = (k[t] - mean) / sqrt(var + eps) * norm_weight + norm_bias     biased variance
        x[:64] = RoPE(x[:64], positions[t])
        x      = H x / sqrt(128)                        if hadamard, H in Sylvester order
        write_index_cache(x) at slot_mapping[t]

    Rounding points: bfloat16 on input, e4m3 in the cache, float32 and unrounded between.

    Args:
        k: bfloat16 ``[num_tokens, 128]``, rows aligned to 16 bytes.
        norm_weight, norm_bias: float32 ``[128]``, or both None to skip the LayerNorm.
        eps: of the LayerNorm.
        positions: int64 ``[num_tokens]``, clamped to ``[0, num_positions)``.
        cos_sin_cache: float32 ``[num_positions, 64]``: 32 cosines, then 32 sines.
        index_cache: uint8 ``[num_pages, 64, 132]``, changed in place; see
            :func:`write_index_cache`.
        slot_mapping: int64 ``[num_tokens]``; a slot outside the cache skips its token.
        interleaved, hadamard, ue8m0: as for :func:`prepare_index_q`; queries and keys must agree
            in the first two.

    Raises:
        ValueError, RuntimeError: an argument has a wrong dtype, shape, layout, size or device.

    Example:
        >>> k = torch.randn(5, 128).bfloat16()
        >>> angles = torch.arange(10.0)[:, None] * 1e4 ** -torch.linspace(0, 1, 32)
        >>> cos_sin_cache = torch.cat([angles.cos(), angles.sin()], dim=-1)
        >>> cache = dsa_ops.new_index_cache(num_pages=1)
        >>> dsa_ops.prepare_index_k(
        ...     k, torch.ones(128), torch.zeros(128), 1e-6, torch.arange(5), cos_sin_cache, cache,
        ...     torch.arange(5), interleaved=False)
    """
    _PREPARE_INDEX_K(
        k,
        norm_weight,
        norm_bias,
        eps,
        positions,
        cos_sin_cache,
        interleaved,
        hadamard,
        ue8m0,
        index_cache,
        slot_mapping,
    )
