"""``demo``: a text through one attention layer, prefill in chunks and then decode."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from .. import __version__
from ..formats import INDEX_PAGE_TOKENS
from ..model import DsaAttention, DsaConfig, LayerCache, deepseek_v32, small
from .demo_model import HiddenStates, initialise
from .format import number, rate, table
from .quality import measure
from .stages import Stages
from .work import PROJECTIONS, stage_work

_LAYER = "layer"


class Setup(NamedTuple):
    config_name: str
    config: DsaConfig
    dtype: torch.dtype
    context: int
    chunk_tokens: int


_ON_CUDA = Setup("deepseek_v32", deepseek_v32(), torch.bfloat16, 32_768, 4096)
_ON_CPU = Setup("small", small(), torch.float32, 4096, 512)


class Plan(NamedTuple):
    """What to run, with its arguments checked."""

    device: torch.device
    setup: Setup
    text: bytes  #: one token a byte
    context: int
    decode: int


def plan(device: torch.device, text: Path | None, context: int | None, decode: int) -> Plan:
    """``text`` is a file (default: the one that ships), read again from its start where it is
    shorter than ``context + decode``. Raises ValueError for what cannot be run."""
    setup = _ON_CUDA if device.type == "cuda" else _ON_CPU
    context = setup.context if context is None else context
    for name, tokens in (("context", context), ("decode", decode)):
        if tokens < 1:
            raise ValueError(f"demo: {name} must be at least 1 token, got {tokens}")
    total, limit = context + decode, setup.config.max_positions
    if total > limit:
        raise ValueError(f"demo: context and decode must be at most {limit} together, got {total}")
    content = _read(text)
    repeated = (content * (total // len(content) + 1))[:total]
    return Plan(device, setup, repeated, context, decode)


def _read(text: Path | None) -> bytes:
    """The bytes of the file, or of the text that ships."""
    if text is None:
        shipped = importlib.resources.files(__package__) / "data/sparse_attention.txt"
        return shipped.read_bytes()
    try:
        content = text.read_bytes()
    except OSError as error:
        raise ValueError(
            f"demo: text must be a readable file, got {text} ({error.strerror})"
        ) from error
    if not content:
        raise ValueError(f"demo: text must be a file of at least one byte, got {text} (empty)")
    return content


def _shuffled_cache(layer: DsaAttention, tokens: int) -> LayerCache:
    """Room for one request in pages of random order, as in a server that has run for a while."""
    pages = torch.randperm(
        -(-tokens // INDEX_PAGE_TOKENS), generator=torch.Generator().manual_seed(13)
    )
    return layer.new_cache(1, tokens, block_table=pages.int()[None])


def _warm_up(layer: DsaAttention, hidden: Tensor) -> None:
    """Loads kernels and libraries before the clock runs."""
    cache = layer.new_cache(1, len(hidden) + 1)
    layer.prefill(hidden, cache)
    layer.decode(hidden[None, :1], cache)


def _stage_rows(
    layer: DsaAttention, stages: Stages, phase: str, steps: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    """One record per stage of the phase that just ended, in order of first use."""
    taken = stages.take()
    calls, total = taken.pop(_LAYER)
    rest = total - sum(seconds for _, seconds in taken.values())
    work = stage_work(layer, steps)
    rows = []
    for stage, (count, seconds) in [*taken.items(), (PROJECTIONS, (calls, rest))]:
        tera = work[stage].amount / seconds / 1e12
        rows.append(
            {
                "phase": phase,
                "stage": stage,
                "calls": count,
                "seconds": seconds,
                "tflops": tera if work[stage].unit == "flop" else None,
                "tbs": tera if work[stage].unit == "byte" else None,
            }
        )
    tokens = sum(end - start for start, end in steps)
    rows.append(
        {
            "phase": phase,
            "stage": _LAYER,
            "calls": calls,
            "seconds": total,
            "tokens_per_second": tokens / total,
        }
    )
    return rows


def run(plan: Plan) -> dict[str, Any]:
    device, setup, text, context, decode = plan
    total = context + decode
    layer = DsaAttention(setup.config, dtype=setup.dtype, device=device)
    hidden = HiddenStates(text, setup.config, device, setup.dtype)
    initialise(layer, hidden.common)
    _warm_up(layer, hidden(0, min(context, setup.chunk_tokens)))

    stages = Stages(layer.steps.ops, device)
    layer.steps.ops = stages
    cache = _shuffled_cache(layer, total)
    starts = range(0, context, setup.chunk_tokens)
    prefill_steps = [(start, min(start + setup.chunk_tokens, context)) for start in starts]
    decode_steps = [(position, position + 1) for position in range(context, total)]
    with tqdm(total=total, unit="token", desc="prefill") as bar:
        for start, end in prefill_steps:
            chunk = hidden(start, end)
            with stages.span(_LAYER):
                layer.prefill(chunk, cache)
            stages.wait()
            bar.update(end - start)
        rows = _stage_rows(layer, stages, "prefill", prefill_steps)
        quality = {"prefill": measure(stages, cache)}
        stages.last.clear()
        bar.set_description("decode")
        for start, end in decode_steps:
            chunk = hidden(start, end)
            with stages.span(_LAYER):
                layer.decode(chunk[None], cache)
            stages.wait()
            bar.update(1)
        rows += _stage_rows(layer, stages, "decode", decode_steps)
        quality["decode"] = measure(stages, cache)
    return {
        "dsa_ops": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "config": setup.config_name,
        "context": context,
        "decode": decode,
        "chunk_tokens": setup.chunk_tokens,
        "cache_bytes_per_token": cache.bytes_per_token,
        "stages": rows,
        "quality": quality,
    }


def _rate(row: dict[str, Any]) -> str:
    if row.get("tflops") is not None:
        return rate(1e12 * row["tflops"], "FLOP/s")
    if row.get("tbs") is not None:
        return rate(1e12 * row["tbs"], "B/s")
    return f"{row['tokens_per_second']:,.0f} tokens/s"


_QUALITY = {
    "selection_shortfall": "selection: worst key below the float64 boundary (of the logits' rms)",
    "same_keys_as_float64": "selection: keys in common with float64",
    "attention_output_error": "attention: relative error of the output",
    "lse_error": "attention: largest error of lse",
    "attention_mass": "share of the full attention that the selected keys hold",
    "chance": "share of the keys that were selected",
}


def render(report: dict[str, Any]) -> str:
    stages = table(
        ["stage", "calls", "total ms", "ms per call", "rate"],
        [
            [
                f"{row['phase']} {row['stage']}",
                str(row["calls"]),
                f"{1e3 * row['seconds']:.2f}",
                f"{1e3 * row['seconds'] / row['calls']:.3f}",
                _rate(row),
            ]
            for row in report["stages"]
        ],
    )
    prefill, decode = report["quality"]["prefill"], report["quality"]["decode"]
    quality = table(
        ["against float64, on sampled rows", "prefill", "decode"],
        [[text, number(prefill[key]), number(decode[key])] for key, text in _QUALITY.items()],
    )
    head = (
        f"One {report['config']} attention layer on {report['device']}: {report['context']} tokens "
        f"in chunks of {report['chunk_tokens']}, then {report['decode']} one by one.\n"
        f"Caches: {report['cache_bytes_per_token']} bytes per token."
    )
    return f"{head}\n\n{stages}\n\n{quality}"
