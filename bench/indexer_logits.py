"""Ragged indexer logits: the last rows of one causal context against all of its keys."""

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
)
