"""The ops around the caches: writes, gathers, preparation of index queries and keys, merges."""

from __future__ import annotations

import torch

import dsa_ops
from dsa_ops import formats

from . import data, formulas
from .benchmark import Benchmark, Inputs
from .harness import Call
from .records import Shape, size

_EPS = 1e-6
_MAX_POSITION = 163840

_TOKEN_SHAPES: tuple[Shape, ...] = tuple({"rows": rows} for rows in (128, 4096))
_CONTEXT_SHAPES: tuple[Shape, ...] = tuple(
    {"batch": batch, "context": context} for batch, context in ((1, 8192), (1, 131072), (16, 8192))
)
_HEAD_SHAPES: tuple[Shape, ...] = tuple(
    {"rows": rows, "index_heads": heads} for rows in (128, 4096) for heads in (64, 32)
)
_MERGE_SHAPES: tuple[Shape, ...] = tuple(
    {"rows": rows, "heads": heads} for rows in (128, 4096) for heads in (128, 16)
)


def _slots(gen: torch.Generator, rows: int) -> torch.Tensor:
    """Shuffled slots, so that neighbouring tokens go to different pages."""
    return torch.randperm(rows, generator=gen, device=gen.device)


def _pages(tokens: int) -> int:
    return -(-tokens // formats.INDEX_PAGE_TOKENS)


def _rotation(gen: torch.Generator, rows: int) -> Inputs:
    """Positions and a table of cosines and sines."""
    frequencies = 10000.0 ** -torch.linspace(0, 1, 32, device=gen.device)
    angles = torch.arange(_MAX_POSITION, device=gen.device).unsqueeze(1) * frequencies
    positions = torch.randint(_MAX_POSITION, (rows,), generator=gen, device=gen.device)
    return {
        "positions": positions,
        "cos_sin_cache": torch.cat((angles.cos(), angles.sin()), dim=1),
    }


def _write_index_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    gen, rows = data.generator(device, seed), size(shape, "rows")
    return {
        "k": data.normal(gen, rows, formats.INDEX_HEAD_DIM, dtype=torch.bfloat16),
        "index_cache": formats.new_index_cache(_pages(rows), device),
        "slot_mapping": _slots(gen, rows),
    }


def _write_mla_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    gen, rows = data.generator(device, seed), size(shape, "rows")
    kv_latent, k_rope = data.latents(gen, rows)
    cache = formats.new_mla_cache(_pages(rows), device=device)
    slot_mapping = _slots(gen, rows)
    return {
        "kv_latent": kv_latent,
        "k_rope": k_rope,
        "mla_cache": cache,
        "slot_mapping": slot_mapping,
    }


def _boundaries(batch: int, context: int, device: torch.device) -> torch.Tensor:
    return torch.arange(batch + 1, dtype=torch.int32, device=device) * context


def _gather_index_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    gen = data.generator(device, seed)
    batch, context = size(shape, "batch"), size(shape, "context")
    index_cache, block_table = data.index_cache(gen, batch, context, "random")
    return {
        "index_cache": index_cache,
        "block_table": block_table,
        "cu_seq_lens": _boundaries(batch, context, device),
    }


def _gather_index(shape: Shape, inputs: Inputs) -> Call:
    tokens, device = size(shape, "batch") * size(shape, "context"), inputs["index_cache"].device
    k = torch.empty(tokens, formats.INDEX_HEAD_DIM, dtype=formats.FP8, device=device)
    out = (k, torch.empty(tokens, device=device))
    return lambda: dsa_ops.gather_index_cache(**inputs, num_tokens=tokens, out=out)


def _gather_mla_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    gen = data.generator(device, seed)
    batch, context = size(shape, "batch"), size(shape, "context")
    pages = _pages(context)
    order = torch.randperm(batch * pages, generator=gen, device=device)
    return {
        "mla_cache": data.mla_cache(gen, batch * pages * formats.MLA_PAGE_TOKENS),
        "block_table": order.view(batch, pages).int(),
        "cu_seq_lens": _boundaries(batch, context, device),
    }


def _gather_mla(shape: Shape, inputs: Inputs) -> Call:
    tokens, device = size(shape, "batch") * size(shape, "context"), inputs["mla_cache"].device
    out = torch.empty(tokens, formats.MLA_HEAD_DIM, dtype=torch.bfloat16, device=device)
    return lambda: dsa_ops.gather_mla_cache(**inputs, num_tokens=tokens, out=out)


def _prepare_q_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    gen = data.generator(device, seed)
    rows, heads = size(shape, "rows"), size(shape, "index_heads")
    return {
        "q": data.normal(gen, rows, heads, formats.INDEX_HEAD_DIM, dtype=torch.bfloat16),
        "weights": data.normal(gen, rows, heads),
        **_rotation(gen, rows),
    }


def _prepare_q(shape: Shape, inputs: Inputs) -> Call:
    q, weights = inputs["q"], inputs["weights"]
    out = (torch.empty_like(q, dtype=formats.FP8), torch.empty_like(weights))
    scale = formats.INDEX_HEAD_DIM**-0.5
    return lambda: dsa_ops.prepare_index_q(
        **inputs, softmax_scale=scale, interleaved=False, out=out
    )


def _prepare_k_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    gen, rows = data.generator(device, seed), size(shape, "rows")
    return {
        **_write_index_inputs(shape, device, seed),
        **_rotation(gen, rows),
        "norm_weight": 1 + 0.1 * data.normal(gen, formats.INDEX_HEAD_DIM),
        "norm_bias": 0.1 * data.normal(gen, formats.INDEX_HEAD_DIM),
    }


def _merge_inputs(shape: Shape, device: torch.device, seed: int) -> Inputs:
    gen, rows, heads = data.generator(device, seed), size(shape, "rows"), size(shape, "heads")
    return {
        name: tensor
        for half in ("a", "b")
        for name, tensor in (
            (f"out_{half}", data.normal(gen, rows, heads, 512, dtype=torch.bfloat16)),
            (f"lse_{half}", data.normal(gen, rows, heads)),
        )
    }


def _merge(shape: Shape, inputs: Inputs) -> Call:
    out = (torch.empty_like(inputs["out_a"]), torch.empty_like(inputs["lse_a"]))
    return lambda: dsa_ops.merge_states(**inputs, out=out)


BENCHMARKS = (
    Benchmark(
        op="write_index_cache",
        shapes=_TOKEN_SHAPES,
        quick=_TOKEN_SHAPES,
        make_inputs=_write_index_inputs,
        ours=lambda shape, inputs: lambda: dsa_ops.write_index_cache(**inputs),
        work=formulas.write_index_cache,
    ),
    Benchmark(
        op="gather_index_cache",
        shapes=_CONTEXT_SHAPES,
        quick=_CONTEXT_SHAPES[:1],
        make_inputs=_gather_index_inputs,
        ours=_gather_index,
        work=formulas.gather_index_cache,
    ),
    Benchmark(
        op="write_mla_cache",
        shapes=_TOKEN_SHAPES,
        quick=_TOKEN_SHAPES,
        make_inputs=_write_mla_inputs,
        ours=lambda shape, inputs: lambda: dsa_ops.write_mla_cache(**inputs),
        work=formulas.write_mla_cache,
    ),
    Benchmark(
        op="gather_mla_cache",
        shapes=_CONTEXT_SHAPES,
        quick=_CONTEXT_SHAPES[:1],
        make_inputs=_gather_mla_inputs,
        ours=_gather_mla,
        work=formulas.gather_mla_cache,
    ),
    Benchmark(
        op="prepare_index_q",
        shapes=_HEAD_SHAPES,
        quick=_HEAD_SHAPES[:1],
        make_inputs=_prepare_q_inputs,
        ours=_prepare_q,
        work=formulas.prepare_index_q,
    ),
    Benchmark(
        op="prepare_index_k",
        shapes=_TOKEN_SHAPES,
        quick=_TOKEN_SHAPES,
        make_inputs=_prepare_k_inputs,
        ours=lambda shape, inputs: lambda: dsa_ops.prepare_index_k(
            **inputs, eps=_EPS, interleaved=False
        ),
        work=formulas.write_index_cache,
    ),
    Benchmark(
        op="merge_states",
        shapes=_MERGE_SHAPES,
        quick=_MERGE_SHAPES[:1],
        make_inputs=_merge_inputs,
        ours=_merge,
        work=formulas.merge_states,
    ),
)
