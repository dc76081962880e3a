"""Ragged indexer logits: the last rows of a causal context against all of its keys, which lie flat
or in the shuffled pages of a cache."""

from __future__ import annotations

import torch

import dsa_ops

from . import data, formulas, peers
from .benchmark import Benchmark, Inputs
from .harness import Call
from .records import Shape, size

_SIZES = (
    *((1024, context, 64) for context in (4096, 32768, 65536, 131072)),
    *((4096, context, 64) for context in (4096, 8192, 32768, 65536, 131072)),
    *((128, context, 64) for context in (32768, 131072)),
    *((4096, context, 32) for context in (32768, 65536)),
    *((4096, 32768, heads) for heads in (16, 8)),
)

SHAPES: tuple[Shape, ...] = tuple(
    {"rows": rows, "context": context, "index_heads": heads} for rows, context, heads in _SIZES
)


def prefill_inputs(shape: Shape, device: torch.device, seed: int, kind: str) -> Inputs:
    """Queries, keys and causal ranges; shared with the fused op."""
    gen = data.generator(device, seed)
    rows, context = size(shape, "rows"), size(shape, "context")
    q, weights = data.index_queries(gen, rows, size(shape, "index_heads"), kind)
    k, k_scale = data.index_keys(gen, context, kind)
    first_end = context - rows + 1
    return {
        "q": q,
        "k": k,
        "k_scale": k_scale,
        "weights": weights,
        "row_starts": torch.zeros(rows, dtype=torch.int32, device=device),
        "row_ends": torch.arange(first_end, context + 1, dtype=torch.int32, device=device),
    }


_CACHED_SIZES = (
    *((1, 4096, context, 64) for context in (8192, 32768, 131072)),
    (1, 128, 131072, 64),
    (4, 4096, 8192, 64),
    (1, 4096, 32768, 32),
)

CACHED_SHAPES: tuple[Shape, ...] = tuple(
    {"batch": batch, "rows": rows, "context": context, "index_heads": heads}
    for batch, rows, context, heads in _CACHED_SIZES
)


def cached_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    """Rows of several requests, their pages one request after the other."""
    gen = data.generator(device, seed)
    batch, context = size(shape, "batch"), size(shape, "context")
    rows = size(shape, "rows")
    q, weights = data.index_queries(gen, rows, size(shape, "index_heads"), "random")
    index_cache, block_table = data.index_cache(gen, batch, context, "random")
    own = torch.arange(rows, dtype=torch.int32, device=device)
    row_starts = own // (rows // batch) * context
    return {
        "q": q,
        "index_cache": index_cache,
        "page_ids": block_table.flatten(),
        "weights": weights,
        "row_starts": row_starts,
        "row_ends": row_starts + own % (rows // batch) + context - rows // batch + 1,
    }


def ours_cached(shape: Shape, inputs: Inputs) -> Call:
    columns = size(shape, "batch") * size(shape, "context")
    out = torch.empty(size(shape, "rows"), columns, device=inputs["q"].device)
    return lambda: dsa_ops.cached_indexer_logits(**inputs, out=out)


def make_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    return prefill_inputs(shape, device, seed, "random")


def ours(shape: Shape, inputs: Inputs) -> Call:
    out = torch.empty(size(shape, "rows"), size(shape, "context"), device=inputs["q"].device)
    return lambda: dsa_ops.indexer_logits(**inputs, out=out)


BENCHMARKS = (
    Benchmark(
        op="indexer_logits",
        shapes=SHAPES,
        quick=[shape for shape in SHAPES if shape["context"] == 32768],
        make_inputs=make_inputs,
        ours=ours,
        work=formulas.indexer_logits,
        peers=peers.importable({"deep_gemm": peers.deep_gemm_logits}),
    ),
    Benchmark(
        op="cached_indexer_logits",
        shapes=CACHED_SHAPES,
        quick=[shape for shape in CACHED_SHAPES if shape["context"] == 32768],
        make_inputs=cached_inputs,
        ours=ours_cached,
        work=formulas.cached_indexer_logits,
    ),
)
