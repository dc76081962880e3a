"""Sparse MLA of prefill rows over bf16 keys, or (``kv=fp8``) straight from the paged FP8 cache."""

from __future__ import annotations

import torch

import dsa_ops
from dsa_ops import formats

from . import data, formulas, peers
from .benchmark import Benchmark, Inputs
from .harness import Call
from .records import Shape, size

_SIZES = (
    *(
        (heads, context, "bf16", "random")
        for heads in (128, 64)
        for context in (8192, 32768, 131072)
    ),
    (128, 131072, "bf16", "local"),
    (32, 32768, "bf16", "random"),
    *((heads, 32768, "bf16", sets) for heads in (16, 8) for sets in ("random", "local")),
    *((128, context, "fp8", "random") for context in (8192, 131072)),
)

SHAPES: tuple[Shape, ...] = tuple(
    {"rows": 4096, "context": context, "heads": heads, "k": 2048, "kv": kv, "indices": sets}
    for heads, context, kv, sets in _SIZES
)


def make_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    gen = data.generator(device, seed)
    rows, context = size(shape, "rows"), size(shape, "context")
    q = data.normal(gen, rows, size(shape, "heads"), formats.MLA_HEAD_DIM, dtype=torch.bfloat16)
    indices = data.index_sets(device, rows, context, size(shape, "k"), str(shape["indices"]), seed)
    if shape["kv"] == "fp8":
        return {"q": q, "kv_cache": data.mla_cache(gen, context), "indices": indices}
    return {"q": q, "kv": torch.cat(data.latents(gen, context), dim=1), "indices": indices}


def outputs(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``out`` and ``lse`` for ``q``."""
    out = torch.empty(*q.shape[:2], formats.MLA_LATENT_DIM, dtype=q.dtype, device=q.device)
    return out, torch.empty(q.shape[:2], device=q.device)


def ours(shape: Shape, inputs: Inputs) -> Call:
    out, lse = outputs(inputs["q"])
    scale = formats.MLA_HEAD_DIM**-0.5
    if shape["kv"] == "fp8":
        return lambda: dsa_ops.sparse_mla_decode(**inputs, sm_scale=scale, out=(out, lse))
    max_logits = torch.empty_like(lse)
    return lambda: dsa_ops.sparse_mla_prefill(**inputs, sm_scale=scale, out=(out, lse, max_logits))


def _flash_mla(shape: Shape, inputs: Inputs) -> Call:
    if shape["kv"] == "fp8":
        return peers.flash_mla_decode({**shape, "batch": 1, "s_q": shape["rows"]}, inputs)
    return peers.flash_mla_prefill(shape, inputs)


def _gather(shape: Shape, inputs: Inputs) -> tuple[Call, torch.Tensor]:
    """Dequantises the whole context; and where to."""
    cache = inputs["kv_cache"]
    context = size(shape, "context")
    boundaries = torch.tensor([0, context], dtype=torch.int32, device=cache.device)
    pages = torch.arange(cache.shape[0], dtype=torch.int32, device=cache.device).unsqueeze(0)
    kv = torch.empty(context, formats.MLA_HEAD_DIM, dtype=torch.bfloat16, device=cache.device)
    return lambda: dsa_ops.gather_mla_cache(cache, pages, boundaries, context, out=kv), kv


def _over_bf16(shape: Shape, inputs: Inputs, kv: torch.Tensor) -> Call:
    inputs = {"q": inputs["q"], "kv": kv, "indices": inputs["indices"]}
    return ours({**shape, "kv": "bf16"}, inputs)


def _over_gathered(shape: Shape, inputs: Inputs) -> Call | None:
    """The kernel over bf16 rows, on the cache's tokens dequantised outside the timing."""
    if shape["kv"] != "fp8":
        return None
    gather, kv = _gather(shape, inputs)
    gather()
    return _over_bf16(shape, inputs, kv)


def _gather_and_attend(shape: Shape, inputs: Inputs) -> Call | None:
    """What engines do instead of reading the cache: dequantise its tokens, then attend."""
    if shape["kv"] != "fp8":
        return None
    gather, kv = _gather(shape, inputs)
    attend = _over_bf16(shape, inputs, kv)

    def call() -> object:
        gather()
        return attend()

    return call


BENCHMARKS = (
    Benchmark(
        op="sparse_mla_prefill",
        shapes=SHAPES,
        quick=[shape for shape in SHAPES if shape["context"] == 32768],
        make_inputs=make_inputs,
        ours=ours,
        work=formulas.sparse_mla_prefill,
        peers={
            "sparse_mla_prefill": _over_gathered,
            "gather_mla_cache+sparse_mla_prefill": _gather_and_attend,
            **peers.importable({"flash_mla": _flash_mla}),
        },
    ),
)
