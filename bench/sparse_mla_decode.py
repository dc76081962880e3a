"""Sparse MLA of decode steps over the paged FP8 or bf16 cache; each request has its own context."""

from __future__ import annotations

import torch

import dsa_ops
from dsa_ops import formats

from . import data, formulas, peers
from .benchmark import Benchmark, Inputs
from .harness import Call
from .records import Shape, size
from .sparse_mla_prefill import outputs

_STEPS = ((1, 1), (1, 2), (8, 1), (32, 1), (64, 1), (64, 2), (128, 1), (128, 2))

_SIZES = (
    *((heads, batch, s_q, "fp8") for heads in (128, 64) for batch, s_q in _STEPS),
    *((16, batch, s_q, "fp8") for batch, s_q in ((1, 1), (1, 2), (32, 1), (64, 1), (128, 1))),
    *((8, batch, 1, "fp8") for batch in (8, 128)),
    *((heads, batch, 1, "bf16") for heads in (128, 64, 16) for batch in (1, 32, 128)),
)

SHAPES: tuple[Shape, ...] = tuple(
    {
        "batch": batch,
        "s_q": s_q,
        "context": 32768,
        "heads": heads,
        "k": 2048,
        "kv": kv,
        "indices": "random",
    }
    for heads, batch, s_q, kv in _SIZES
)


def make_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    """Request b owns the slots ``[b * context, (b + 1) * context)``: ascending positions are
    ascending slots."""
    gen = data.generator(device, seed)
    batch, s_q, context = size(shape, "batch"), size(shape, "s_q"), size(shape, "context")
    rows = batch * s_q
    q = data.normal(gen, rows, size(shape, "heads"), formats.MLA_HEAD_DIM, dtype=torch.bfloat16)
    sets = data.index_sets(device, rows, context, size(shape, "k"), str(shape["indices"]), seed)
    requests = torch.arange(rows, dtype=torch.int32, device=device) // s_q
    return {
        "q": q,
        "kv_cache": data.mla_cache(gen, batch * context, str(shape["kv"])),
        "indices": sets + requests.unsqueeze(1) * context,
    }


def _flash_mla(shape: Shape, inputs: Inputs) -> Call | None:
    """Its sparse decode reads FP8 caches alone."""
    return peers.flash_mla_decode(shape, inputs) if shape["kv"] == "fp8" else None


def ours(shape: Shape, inputs: Inputs) -> Call:
    out = outputs(inputs["q"])
    return lambda: dsa_ops.sparse_mla_decode(**inputs, sm_scale=formats.MLA_HEAD_DIM**-0.5, out=out)


BENCHMARKS = (
    Benchmark(
        op="sparse_mla_decode",
        shapes=SHAPES,
        quick=[
            shape
            for shape in SHAPES
            if shape["batch"] in (1, 64) and shape["s_q"] == 1 and shape["kv"] == "fp8"
        ],
        make_inputs=make_inputs,
        ours=ours,
        work=formulas.sparse_mla_decode,
        peers=peers.importable({"flash_mla": _flash_mla}),
    ),
)
