"""``check``: every op against its float64 reference on this machine, on small random inputs.

Bounds: copies and quantisation of the same values are exact. Index logits, attention and lse have
the accuracy that every implementation of the ops promises. A value that is computed before it is
quantised may be rounded to the neighbouring e4m3 number where float32 falls on the other side of a
tie, which happens to fewer than one value in 10,000 and moves it by at most 1/8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

import dsa_ops

from .. import formats, reference
from .._library import OPS
from .check_inputs import (
    CONTEXT,
    HEADS,
    INDEX_HEADS,
    NEXT_N,
    REQUESTS,
    ROWS,
    SM_SCALE,
    TOP_K,
    Inputs,
)
from .errors import (
    attention_errors,
    finite,
    logits_error,
    mismatches,
    relative_l2,
    selection_shortfall,
)
from .format import number, table

LOGITS_BOUND = 5e-4
OUTPUT_BOUND = 4e-3
LSE_BOUND_BF16 = 2e-4
LSE_BOUND_FP8 = 1e-3
ROUNDING_BOUND = 1.25e-3  # sqrt(1 / 10,000) * 1/8
FLOAT32_BOUND = 1e-5
# Two logits, each off by twice the rms error that is allowed.
SHORTFALL_BOUND = 4 * LOGITS_BOUND


class Line(NamedTuple):
    """One measured error; ``what`` names the output where an op has several."""

    what: str
    error: float
    bound: float


def _write_index_cache(x: Inputs) -> Iterator[Line]:
    k, caches = x.normal(len(x.slots), 128), (x.index_cache.clone(), x.index_cache.clone())
    dsa_ops.write_index_cache(k, caches[0], x.slots)
    reference.write_index_cache(k, caches[1], x.slots)
    yield Line("", mismatches(*caches), 0)


def _gather_index_cache(x: Inputs) -> Iterator[Line]:
    args = (x.index_cache, x.block_table, x.cu_seq_lens, sum(x.lengths))
    got, expected = dsa_ops.gather_index_cache(*args), reference.gather_index_cache(*args)
    yield Line("", sum(map(mismatches, got, expected)), 0)


def _write_mla_cache(x: Inputs) -> Iterator[Line]:
    latent, rope = x.normal(len(x.slots), 512), x.normal(len(x.slots), 64)
    caches = x.mla_cache.clone(), x.mla_cache.clone()
    dsa_ops.write_mla_cache(latent, rope, caches[0], x.slots)
    reference.write_mla_cache(latent, rope, caches[1], x.slots)
    yield Line("", mismatches(*caches), 0)


def _gather_mla_cache(x: Inputs) -> Iterator[Line]:
    args = (x.mla_cache, x.block_table, x.cu_seq_lens, sum(x.lengths))
    got, expected = dsa_ops.gather_mla_cache(*args), reference.gather_mla_cache(*args)
    yield Line("", mismatches(got, expected), 0)


def _prepare_index_q(x: Inputs) -> Iterator[Line]:
    q = x.normal(ROWS, INDEX_HEADS, 128)
    weights = x.normal(ROWS, INDEX_HEADS, dtype=torch.float32)
    args = (q, x.positions[:ROWS] * 17, x.cos_sin, weights, 128**-0.5)
    options: dict[str, Any] = {"interleaved": False, "hadamard": True}
    got = dsa_ops.prepare_index_q(*args, **options)
    expected = reference.prepare_index_q(*args, **options, compute_dtype=torch.float64)
    yield Line("q", relative_l2(got[0], expected[0]), ROUNDING_BOUND)
    yield Line("weights", relative_l2(got[1], expected[1]), FLOAT32_BOUND)


def _prepare_index_k(x: Inputs) -> Iterator[Line]:
    k = x.normal(len(x.slots), 128)
    norm = (x.normal(128, dtype=torch.float32), x.normal(128, dtype=torch.float32))
    caches = x.index_cache.clone(), x.index_cache.clone()
    before = (k, *norm, 1e-6, x.positions, x.cos_sin)
    options: dict[str, Any] = {"interleaved": True, "hadamard": False}
    dsa_ops.prepare_index_k(*before, caches[0], x.slots, **options)
    reference.prepare_index_k(*before, caches[1], x.slots, **options, compute_dtype=torch.float64)
    values = [
        keys.double() * scales.double()[..., None]
        for keys, scales in map(formats.index_cache_views, caches)
    ]
    yield Line("", relative_l2(*values), ROUNDING_BOUND)


def _merge_states(x: Inputs) -> Iterator[Line]:
    outs = [x.normal(ROWS, HEADS, 512) for _ in range(2)]
    lses = [3 * x.normal(ROWS, HEADS, dtype=torch.float32) for _ in range(2)]
    lses[0][:5] = -torch.inf
    args = (outs[0], lses[0], outs[1], lses[1])
    got = dsa_ops.merge_states(*args)
    expected = reference.merge_states(*args, compute_dtype=torch.float64)
    yield Line("out", relative_l2(got[0], expected[0]), OUTPUT_BOUND)
    yield Line("lse", relative_l2(got[1], expected[1]), FLOAT32_BOUND)


def _indexer_logits(x: Inputs) -> Iterator[Line]:
    args = x.ragged()
    got = dsa_ops.indexer_logits(*args, clean=True)
    expected = reference.indexer_logits(*args, clean=True, compute_dtype=torch.float64)
    yield Line("", logits_error(got, expected), LOGITS_BOUND)


def _cached_indexer_logits(x: Inputs) -> Iterator[Line]:
    q, _, _, weights, row_starts, row_ends = x.ragged()
    pages = x.block_table.flatten()
    args = (q, x.index_cache, pages, weights, row_starts + 100, row_ends + 300)
    got = dsa_ops.cached_indexer_logits(*args, clean=True)
    expected = reference.cached_indexer_logits(*args, clean=True, compute_dtype=torch.float64)
    yield Line("", logits_error(got, expected), LOGITS_BOUND)


def _paged_indexer_logits(x: Inputs) -> Iterator[Line]:
    args = x.paged()
    got = dsa_ops.paged_indexer_logits(*args)
    expected = reference.paged_indexer_logits(*args, compute_dtype=torch.float64)
    yield Line("", logits_error(got, expected), LOGITS_BOUND)


def _topk(x: Inputs) -> Iterator[Line]:
    logits = x.normal(ROWS, CONTEXT, dtype=torch.float32).relu()
    row_ends = x.integers(0, CONTEXT + 1, ROWS)
    got = dsa_ops.topk(logits, TOP_K, row_ends, block_table=x.block_table)
    expected = reference.topk(logits, TOP_K, row_ends, block_table=x.block_table)
    yield Line("", mismatches(got, expected), 0)


def _indexer_topk(x: Inputs) -> Iterator[Line]:
    q, k, k_scale, weights, _, row_ends = x.ragged()
    args = (q, k, k_scale, weights, torch.zeros_like(row_ends), row_ends)
    got = dsa_ops.indexer_topk(*args, TOP_K)
    unfused = dsa_ops.topk(dsa_ops.indexer_logits(*args), TOP_K, row_ends)
    oracle = reference.indexer_logits(*args, clean=True, compute_dtype=torch.float64)
    yield Line("against unfused", mismatches(got, unfused), 0)
    yield Line("shortfall", selection_shortfall(got, oracle), SHORTFALL_BOUND)


def _paged_indexer_topk(x: Inputs) -> Iterator[Line]:
    args = x.paged()
    got = dsa_ops.paged_indexer_topk(*args, TOP_K)
    row_lens = (x.context_lens[:, None] + torch.arange(1 - NEXT_N, 1, device=x.device)).clamp(0)
    unfused = dsa_ops.topk(dsa_ops.paged_indexer_logits(*args), TOP_K, row_lens.flatten().int())
    oracle = reference.paged_indexer_logits(*args, compute_dtype=torch.float64)
    yield Line("against unfused", mismatches(got, unfused), 0)
    yield Line("shortfall", selection_shortfall(got, oracle), SHORTFALL_BOUND)


def _sparse_mla_prefill(x: Inputs) -> Iterator[Line]:
    kv = x.normal(CONTEXT, formats.MLA_HEAD_DIM)
    q, indices, options = x.attention(CONTEXT)
    args = (q, kv, indices, SM_SCALE)
    got = dsa_ops.sparse_mla_prefill(*args, **options)
    oracle = reference.sparse_mla_prefill(*args, **options, compute_dtype=torch.float64)
    out_error, lse_error = attention_errors(got, oracle)
    _, max_error = attention_errors((got[0], got[2]), (oracle[0], oracle[2]))
    yield Line("out", out_error, OUTPUT_BOUND)
    yield Line("lse", lse_error, LSE_BOUND_BF16)
    yield Line("max_logits", max_error, LSE_BOUND_BF16)


def _sparse_mla_decode(x: Inputs) -> Iterator[Line]:
    q, indices, options = x.attention(REQUESTS * CONTEXT)
    args = (q, x.mla_cache, indices, SM_SCALE)
    got = dsa_ops.sparse_mla_decode(*args, **options)
    oracle = reference.sparse_mla_decode(*args, **options, compute_dtype=torch.float64)
    out_error, lse_error = attention_errors(got, oracle)
    yield Line("out", out_error, OUTPUT_BOUND)
    yield Line("lse", lse_error, LSE_BOUND_FP8)


CHECKS: dict[str, Callable[[Inputs], Iterator[Line]]] = {
    check.__name__[1:]: check
    for check in (
        _write_index_cache,
        _gather_index_cache,
        _write_mla_cache,
        _gather_mla_cache,
        _prepare_index_q,
        _prepare_index_k,
        _merge_states,
        _indexer_logits,
        _cached_indexer_logits,
        _paged_indexer_logits,
        _topk,
        _indexer_topk,
        _paged_indexer_topk,
        _sparse_mla_prefill,
        _sparse_mla_decode,
    )
}


def run(device: torch.device) -> dict[str, Any]:
    inputs = Inputs(device)
    lines = [
        {
            "op": op,
            "what": line.what,
            "error": finite(line.error),
            "bound": line.bound,
            "passed": line.error <= line.bound,
        }
        for op in OPS
        for line in CHECKS[op](inputs)
    ]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "checks": lines,
        "passed": all(line["passed"] for line in lines),
    }


def render(report: dict[str, Any]) -> str:
    rows = [
        [
            f"{line['op']} {line['what']}".rstrip(),
            number(line["error"], ".2e"),
            number(line["bound"], ".2e"),
            "ok" if line["passed"] else "FAILED",
        ]
        for line in report["checks"]
    ]
    failed = sum(not line["passed"] for line in report["checks"])
    verdict = f"{failed} of {len(rows)} checks FAILED" if failed else f"{len(rows)} checks passed"
    return f"{table(['op', 'error', 'bound', ''], rows)}\n\n{verdict} on {report['device']}"
