"""Indexer logits of decode steps over the paged index cache."""

from __future__ import annotations

import torch

import dsa_ops

from . import data, formulas, peers
from .benchmark import Benchmark, Inputs
from .harness import Call
from .records import Shape, size

_SIZES = (
    *((1, context, next_n, 64) for context in (8192, 131072) for next_n in (1, 2)),
    *((4, 131072, next_n, 64) for next_n in (1, 2)),
    *((16, context, next_n, 64) for context in (32768, 131072) for next_n in (1, 2)),
    *((64, 32768, next_n, 64) for next_n in (1, 2, 4)),
    *((64, 131072, next_n, 64) for next_n in (1, 2)),
    *((128, context, next_n, 64) for context in (8192, 65536) for next_n in (1, 2)),
    (64, 32768, 1, 32),
)

SHAPES: tuple[Shape, ...] = tuple(
    {"batch": batch, "context": context, "next_n": next_n, "index_heads": heads}
    for batch, context, next_n, heads in _SIZES
)


def decode_inputs(shape: Shape, device: torch.device, seed: int, kind: str) -> Inputs:
    """Queries, a full cache with shuffled pages and per-token lengths; shared with the fused op."""
    gen = data.generator(device, seed)
    batch, context, next_n = size(shape, "batch"), size(shape, "context"), size(shape, "next_n")
    q, weights = data.index_queries(gen, batch * next_n, size(shape, "index_heads"), kind)
    index_cache, block_table = data.index_cache(gen, batch, context, kind)
    lengths = torch.arange(context - next_n + 1, context + 1, dtype=torch.int32, device=device)
    return {
        "q": q.view(batch, next_n, *q.shape[1:]),
        "index_cache": index_cache,
        "weights": weights,
        "context_lens": lengths.repeat(batch, 1),
        "block_table": block_table,
    }


def make_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    return decode_inputs(shape, device, seed, "random")


def ours(shape: Shape, inputs: Inputs) -> Call:
    context = size(shape, "context")
    out = torch.empty(inputs["weights"].shape[0], context, device=inputs["q"].device)
    return lambda: dsa_ops.paged_indexer_logits(**inputs, max_context_len=context, out=out)


BENCHMARKS = (
    Benchmark(
        op="paged_indexer_logits",
        shapes=SHAPES,
        quick=[shape for shape in SHAPES if shape["batch"] in (1, 64) and shape["next_n"] == 1],
        make_inputs=make_inputs,
        ours=ours,
        work=formulas.paged_indexer_logits,
        peers=peers.importable({"deep_gemm": peers.deep_gemm_paged_logits}),
    ),
)
