"""Top-k of full rows of given logits."""

from __future__ import annotations

import torch

import dsa_ops

from . import data, formulas, peers
from .benchmark import Benchmark, Inputs
from .harness import Call
from .records import Shape, size

_SIZES = (
    *((1, context, "random") for context in (8192, 32768, 131072, 1048576)),
    (4, 131072, "random"),
    *((16, context, "random") for context in (8192, 32768, 131072, 1048576)),
    *((64, context, "random") for context in (32768, 131072)),
    *((128, context, "random") for context in (8192, 65536)),
    (256, 131072, "random"),
    *((4096, context, "random") for context in (8192, 32768, 65536, 131072)),
    *((rows, context, "model_like") for rows, context in ((64, 131072), (4096, 32768))),
)

_QUICK_SIZES = ((1, 131072), (64, 131072), (4096, 32768))

SHAPES: tuple[Shape, ...] = tuple(
    {"rows": rows, "context": context, "k": 2048, "data": kind} for rows, context, kind in _SIZES
)


def make_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    rows, context = size(shape, "rows"), size(shape, "context")
    return {
        "logits": data.scores(device, rows, context, str(shape["data"]), seed),
        "row_ends": torch.full((rows,), context, dtype=torch.int32, device=device),
    }


def ours(shape: Shape, inputs: Inputs) -> Call:
    k = size(shape, "k")
    out = torch.empty(size(shape, "rows"), k, dtype=torch.int32, device=inputs["logits"].device)
    return lambda: dsa_ops.topk(inputs["logits"], k, inputs["row_ends"], out=out)


BENCHMARKS = (
    Benchmark(
        op="topk",
        shapes=SHAPES,
        quick=[shape for shape in SHAPES if (shape["rows"], shape["context"]) in _QUICK_SIZES],
        make_inputs=make_inputs,
        ours=ours,
        work=formulas.topk,
        peers=peers.topk_peers(),
    ),
)
