"""Fused indexer and top-k of decode steps over the paged index cache."""

from __future__ import annotations

import torch

import dsa_ops

from . import formulas, peers
from .benchmark import Benchmark, Inputs
from .harness import Call
from .paged_indexer_logits import decode_inputs
from .records import Shape, size

#: (batch, context), each with both kinds of data.
_SIZES = (*((batch, 131072) for batch in (1, 16, 64)), (128, 8192))

_CASES = (
    *((*sizes, 1, 2048, "random") for sizes in _SIZES),
    (64, 131072, 2, 2048, "random"),
    *((*sizes, 1, 2048, "model_like") for sizes in _SIZES),
    *((batch, 131072, 1, k, "random") for k in (1024, 512) for batch in (1, 64)),
)

SHAPES: tuple[Shape, ...] = tuple(
    {
        "batch": batch,
        "context": context,
        "next_n": next_n,
        "index_heads": 64,
        "k": k,
        "data": kind,
    }
    for batch, context, next_n, k, kind in _CASES
)


def make_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    return decode_inputs(shape, device, seed, str(shape["data"]))


def ours(shape: Shape, inputs: Inputs) -> Call:
    context, k = size(shape, "context"), size(shape, "k")
    rows = inputs["weights"].shape[0]
    out = torch.empty(rows, k, dtype=torch.int32, device=inputs["q"].device)
    return lambda: dsa_ops.paged_indexer_topk(**inputs, max_context_len=context, top_k=k, out=out)


BENCHMARKS = (
    Benchmark(
        op="paged_indexer_topk",
        shapes=SHAPES,
        quick=[shape for shape in SHAPES if shape["batch"] in (1, 128) and shape["k"] == 2048],
        make_inputs=make_inputs,
        ours=ours,
        work=formulas.paged_indexer_topk,
        peers=peers.chained_peers(peers.deep_gemm_paged_logits, ends="context_lens"),
    ),
)
