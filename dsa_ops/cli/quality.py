"""What the selection and the attention of a finished step are worth, on sampled rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..formats import INDEX_PAGE_TOKENS
from ..model import LayerCache
from .errors import attention_errors, finite, selection_shortfall
from .stages import Stages

_SAMPLED_ROWS = 16


def measure(stages: Stages, cache: LayerCache) -> dict[str, Any]:
    """Compares the last selection and attention of request 0 with float64 on up to 16 rows.

    ``attention_mass`` is the share of the full attention over all keys that the selected keys hold,
    mean over heads and rows; ``chance`` is the share of keys that they are.
    """
    attention = stages.last["sparse_mla_decode"]
    q, _, slots, sm_scale = attention.args
    rows = torch.linspace(0, len(q) - 1, min(len(q), _SAMPLED_ROWS), device=q.device).long()
    positions = _positions(cache, slots[rows])
    logits = _oracle_logits(stages, rows)
    row_ends = logits.isfinite().sum(1, dtype=torch.int32)
    best = reference.topk(logits, slots.shape[1], row_ends)
    pairs = zip(positions.tolist(), best.tolist(), strict=True)
    same = sum(len(set(got) & set(expected) - {-1}) for got, expected in pairs)
    selected = (positions >= 0).sum(1)

    oracle = reference.sparse_mla_decode(
        q[rows], cache.mla, slots[rows], sm_scale, compute_dtype=torch.float64
    )
    out, lse = attention.result
    output_error, lse_error = attention_errors((out[rows], lse[rows]), oracle)
    return {
        "rows": len(rows),
        "selection_shortfall": finite(selection_shortfall(positions, logits)),
        "same_keys_as_float64": same / int(selected.sum()),
        "attention_output_error": finite(output_error),
        "lse_error": finite(lse_error),
        "attention_mass": _attention_mass(cache, q[rows], positions, row_ends, sm_scale),
        "chance": float((selected / row_ends).mean()),
    }


def _positions(cache: LayerCache, slots: Tensor) -> Tensor:
    """Slots of request 0 -> its positions; -1 stays."""
    pages = cache.block_table[0].long()
    position_of_page = pages.new_zeros(int(pages.max()) + 1)
    position_of_page[pages] = INDEX_PAGE_TOKENS * torch.arange(len(pages), device=pages.device)
    slots = slots.long()
    found = position_of_page[slots.clamp(min=0) // INDEX_PAGE_TOKENS] + slots % INDEX_PAGE_TOKENS
    return torch.where(slots >= 0, found, -1)


def _oracle_logits(stages: Stages, rows: Tensor) -> Tensor:
    """float64 logits of the sampled rows of the last selection, -inf where a row may not look."""
    if "paged_indexer_topk" in stages.last:
        *args, _ = stages.last["paged_indexer_topk"].args
        return reference.paged_indexer_logits(*args, compute_dtype=torch.float64)[rows]
    q, k, k_scale, weights, starts, ends, _ = stages.last["indexer_topk"].args
    return reference.indexer_logits(
        q[rows],
        k,
        k_scale,
        weights[rows],
        starts[rows],
        ends[rows],
        clean=True,
        compute_dtype=torch.float64,
    )


def _attention_mass(
    cache: LayerCache, q: Tensor, positions: Tensor, row_ends: Tensor, sm_scale: float
) -> float:
    keys = int(row_ends.max())
    cu_seq_lens = torch.tensor([0, keys], dtype=torch.int32, device=q.device)
    kv = reference.gather_mla_cache(cache.mla, cache.block_table[:1], cu_seq_lens, keys).float()
    total = 0.0
    for row, selected, end in zip(q.float(), positions, row_ends.tolist(), strict=True):
        weights = torch.softmax(row @ kv[:end].T * sm_scale, dim=-1)
        total += float(weights[:, selected[selected >= 0]].sum(1).mean())
    return total / len(q)
