"""The arithmetic or the bytes that a stage cannot avoid, from the sizes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..formats import (
    INDEX_HEAD_DIM,
    INDEX_TOKEN_BYTES,
    MLA_HEAD_DIM,
    MLA_LATENT_DIM,
    MLA_TOKEN_BYTES,
)
from ..model import DsaAttention

#: Everything in a layer that is no op of this package: projections, norms, MLA's RoPE.
PROJECTIONS = "projections"

_BF16_BYTES = 2


class Work(NamedTuple):
    amount: float
    unit: str  #: "flop" or "byte"


def stage_work(layer: DsaAttention, steps: Sequence[tuple[int, int]]) -> dict[str, Work]:
    """Work per stage of one request's ``steps``, each the tokens ``[start, end)`` of its context.

    The selection and the attention of a prefill are bound by arithmetic, those of a decode by the
    bytes that each token reads from the caches; so are a decode's projections, by their weights.
    """
    config = layer.config
    tokens = sum(end - start for start, end in steps)
    contexts = [position + 1 for start, end in steps for position in range(start, end)]
    visible, selected = sum(contexts), sum(min(n, config.index_topk) for n in contexts)
    weights = [p for p in layer.parameters() if p.dim() == 2]
    index_pair_flops = 2 * INDEX_HEAD_DIM * config.index_heads
    mla_pair_flops = 2 * (MLA_HEAD_DIM + MLA_LATENT_DIM) * config.num_heads
    index_query_bytes = config.index_heads * (INDEX_HEAD_DIM * (_BF16_BYTES + 1) + 2 * 4)
    work = {
        "prepare_index_k": Work(
            tokens * (INDEX_HEAD_DIM * _BF16_BYTES + INDEX_TOKEN_BYTES), "byte"
        ),
        "write_mla_cache": Work(tokens * (MLA_HEAD_DIM * _BF16_BYTES + MLA_TOKEN_BYTES), "byte"),
        "prepare_index_q": Work(tokens * index_query_bytes, "byte"),
        "gather_index_cache": Work(sum(2 * end * INDEX_TOKEN_BYTES for _, end in steps), "byte"),
        "indexer_topk": Work(visible * index_pair_flops, "flop"),
        "paged_indexer_topk": Work(visible * INDEX_TOKEN_BYTES, "byte"),
    }
    if all(end - start == 1 for start, end in steps):
        work["sparse_mla_decode"] = Work(selected * MLA_TOKEN_BYTES, "byte")
        weight_bytes = sum(p.numel() * p.element_size() for p in weights)
        work[PROJECTIONS] = Work(len(steps) * weight_bytes, "byte")
    else:
        work["sparse_mla_decode"] = Work(selected * mla_pair_flops, "flop")
        work[PROJECTIONS] = Work(2 * tokens * sum(p.numel() for p in weights), "flop")
    return work
