"""Top-k of full rows of given logits."""

from __future__ import annotations

import torch

import dsa_ops

from . import data, formulas, peers
from .benchmark import Benchmark, Inputs
from .harness import Call
from .records import Shape, size

#: (rows, context), each with both kinds of scores.
_SIZES = (
    *((rows, 131072) for rows in (1, 4, 16, 64, 256)),
    *((rows, 1048576) for rows in (1, 16)),
    *((64, 32768), (128, 8192), (128, 65536)),
    *((4096, context) for context in (8192, 32768, 65536, 131072)),
)
_SHORT_SIZES = tuple((rows, context) for rows in (1, 16) for context in (8192, 32768))
_SMALL_K_SIZES = ((1, 131072), (16, 131072), (64, 131072), (4096, 32768))

_CASES = (
    *((*sizes, 2048, "random") for sizes in (*_SHORT_SIZES, *_SIZES)),
    *((*sizes, 2048, "model_like") for sizes in _SIZES),
    *((*sizes, k, "random") for k in (1024, 512) for sizes in _SMALL_K_SIZES),
)

SHAPES: tuple[Shape, ...] = tuple(
    {"rows": rows, "context": context, "k": k, "data": kind} for rows, context, k, kind in _CASES
)

_QUICK_SIZES = ((1, 131072), (64, 131072), (4096, 32768))


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
        quick=[
            shape
            for shape in SHAPES
            if (shape["rows"], shape["context"]) in _QUICK_SIZES and shape["k"] == 2048
        ],
        make_inputs=make_inputs,
        ours=ours,
        work=formulas.topk,
        peers=peers.topk_peers(),
    ),
)
