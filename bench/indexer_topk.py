"""Fused indexer and top-k over one causal context."""

from __future__ import annotations

import torch

import dsa_ops

from . import formulas, peers
from .benchmark import Benchmark, Inputs
from .harness import Call
from .indexer_logits import prefill_inputs
from .records import Shape, size

_CASES = (
    *(
        (context, 2048, kind)
        for kind in ("random", "model_like")
        for context in (8192, 32768, 65536, 131072)
    ),
    *((32768, k, "random") for k in (1024, 512)),
)

SHAPES: tuple[Shape, ...] = tuple(
    {"rows": 4096, "context": context, "index_heads": 64, "k": k, "data": kind}
    for context, k, kind in _CASES
)


def make_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    return prefill_inputs(shape, device, seed, str(shape["data"]))


def ours(shape: Shape, inputs: Inputs) -> Call:
    k = size(shape, "k")
    out = torch.empty(size(shape, "rows"), k, dtype=torch.int32, device=inputs["q"].device)
    return lambda: dsa_ops.indexer_topk(**inputs, top_k=k, out=out)


BENCHMARKS = (
    Benchmark(
        op="indexer_topk",
        shapes=SHAPES,
        quick=[shape for shape in SHAPES if (shape["context"], shape["k"]) == (32768, 2048)],
        make_inputs=make_inputs,
        ours=ours,
        work=formulas.indexer_topk,
        peers=peers.chained_peers(peers.deep_gemm_logits, ends="row_ends"),
    ),
)
