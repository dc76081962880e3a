"""Other packages' kernels, called on our tensors; every one is optional.

A peer's name starts with what must be importable: ``deep_gemm``, ``vllm.persistent_topk``,
``deep_gemm+vllm.persistent_topk`` (one after the other). Plans and metadata that engines make once
per step are made outside the timing, and so is the padding of heads.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dsa_ops import formats

from .benchmark import Inputs, Prepare, PreparePeer
from .harness import Call
from .records import Shape, size

#: A top-k on logits of one layout.
Kernel = Callable[[Tensor], object]
#: Makes it from (logits of that layout, lengths of the rows, k).
TopkPeer = Callable[[Tensor, Tensor, int], Kernel]

_VLLM_WORKSPACE_BYTES = 1 << 20
_FLASH_MLA_HEADS = 64


def importable(candidates: Mapping[str, PreparePeer]) -> dict[str, PreparePeer]:
    """The candidates all of whose packages are installed."""

    def installed(name: str) -> bool:
        modules = [part.partition(".")[0] for part in name.split("+")]
        return all(importlib.util.find_spec(module) is not None for module in modules)

    return {name: prepare for name, prepare in candidates.items() if installed(name)}


def deep_gemm_logits(shape: Shape, inputs: Inputs) -> Call:
    """Ragged logits, not cleaned outside each row's range, as engines call it."""
    deep_gemm = importlib.import_module("deep_gemm")
    q, keys = inputs["q"], (inputs["k"], inputs["k_scale"])
    bounds = (inputs["weights"], inputs["row_starts"], inputs["row_ends"])
    if hasattr(deep_gemm, "fp8_mqa_logits"):
        return lambda: deep_gemm.fp8_mqa_logits(q, keys, *bounds, clean_logits=False)
    return lambda: deep_gemm.fp8_fp4_mqa_logits((q, None), keys, *bounds, clean_logits=False)


def deep_gemm_paged_logits(shape: Shape, inputs: Inputs) -> Call:
    """Paged logits with the schedule made once."""
    deep_gemm = importlib.import_module("deep_gemm")
    q, context_lens = inputs["q"], inputs["context_lens"]
    schedule = deep_gemm.get_paged_mqa_logits_metadata(
        context_lens, formats.INDEX_PAGE_TOKENS, deep_gemm.get_num_sms()
    )
    rest = (
        inputs["index_cache"].unsqueeze(2),
        inputs["weights"],
        context_lens,
        inputs["block_table"],
        schedule,
        size(shape, "context"),
    )
    if hasattr(deep_gemm, "fp8_paged_mqa_logits"):
        return lambda: deep_gemm.fp8_paged_mqa_logits(q, *rest, clean_logits=False)
    return lambda: deep_gemm.fp8_fp4_paged_mqa_logits((q, None), *rest, clean_logits=False)


def _torch_topk(logits: Tensor, lengths: Tensor, k: int) -> Kernel:
    return lambda scores: torch.topk(scores, k, dim=1, sorted=False)


def _vllm_ops() -> Any:
    importlib.import_module("vllm._custom_ops")  # registers them
    return torch.ops._C


def _empty_indices(logits: Tensor, k: int) -> Tensor:
    return torch.empty(logits.shape[0], k, dtype=torch.int32, device=logits.device)


def _vllm_per_row(logits: Tensor, lengths: Tensor, k: int) -> Kernel:
    kernel = _vllm_ops().top_k_per_row_prefill
    starts, indices = torch.zeros_like(lengths), _empty_indices(logits, k)
    layout = (logits.shape[0], logits.stride(0), logits.stride(1))
    return lambda scores: kernel(scores, starts, lengths, indices, *layout, k)


def _vllm_batched(name: str) -> TopkPeer:
    def prepare(logits: Tensor, lengths: Tensor, k: int) -> Kernel:
        kernel = getattr(_vllm_ops(), name)
        indices = _empty_indices(logits, k)
        workspace = torch.empty(_VLLM_WORKSPACE_BYTES, dtype=torch.uint8, device=logits.device)
        width = logits.shape[1]
        return lambda scores: kernel(scores, lengths, indices, workspace, k, width)

    return prepare


def _sgl_kernel_topk(logits: Tensor, lengths: Tensor, k: int) -> Kernel:
    fast_topk = importlib.import_module("sgl_kernel").fast_topk_v2
    return lambda scores: fast_topk(scores, lengths, k)


def _flashinfer_topk(logits: Tensor, lengths: Tensor, k: int) -> Kernel:
    """Its fastest setting, which is not deterministic."""
    ragged_topk = importlib.import_module("flashinfer").top_k_ragged_transform
    offsets = torch.zeros_like(lengths)
    return lambda scores: ragged_topk(scores, offsets, lengths, k)


_RANGED_TOPK: dict[str, TopkPeer] = {
    "vllm.top_k_per_row_prefill": _vllm_per_row,
    "vllm.persistent_topk": _vllm_batched("persistent_topk"),
    "vllm.cooperative_topk": _vllm_batched("cooperative_topk"),
    "sgl_kernel": _sgl_kernel_topk,
    "flashinfer": _flashinfer_topk,
}


def topk_peers() -> dict[str, PreparePeer]:
    """Every top-k on given logits; torch's knows no ranges and serves full rows only."""

    def on_logits(peer: TopkPeer) -> Prepare:
        def prepare(shape: Shape, inputs: Inputs) -> Call:
            logits = inputs["logits"]
            kernel = peer(logits, inputs["row_ends"], size(shape, "k"))
            return lambda: kernel(logits)

        return prepare

    peers = {"torch.topk": _torch_topk, **_RANGED_TOPK}
    return importable({name: on_logits(peer) for name, peer in peers.items()})


def chained_peers(score_peer: Prepare, ends: str) -> dict[str, PreparePeer]:
    """deep_gemm's logits in full, then each top-k of them; ``ends`` names the rows' lengths."""

    def chain(peer: TopkPeer) -> Prepare:
        def prepare(shape: Shape, inputs: Inputs) -> Call:
            score = score_peer(shape, inputs)
            kernel = peer(score(), inputs[ends].flatten(), size(shape, "k"))
            return lambda: kernel(score())

        return prepare

    return importable({f"deep_gemm+{name}": chain(peer) for name, peer in _RANGED_TOPK.items()})


def flash_mla_prefill(shape: Shape, inputs: Inputs) -> Call:
    flash_mla = importlib.import_module("flash_mla")
    q, kv = _pad_heads(inputs["q"]), inputs["kv"].unsqueeze(1)
    indices, scale = inputs["indices"].unsqueeze(1), formats.MLA_HEAD_DIM**-0.5
    return lambda: flash_mla.flash_mla_sparse_fwd(q, kv, indices, scale)


def flash_mla_decode(shape: Shape, inputs: Inputs) -> Call:
    """The schedule is made by the first (warm-up) call and reused."""
    flash_mla = importlib.import_module("flash_mla")
    batch, s_q = size(shape, "batch"), size(shape, "s_q")
    q = _pad_heads(inputs["q"])
    q = q.view(batch, s_q, *q.shape[1:])
    indices = inputs["indices"].view(batch, s_q, -1)
    cache = inputs["kv_cache"].unsqueeze(2)
    schedule, _ = flash_mla.get_mla_metadata()
    return lambda: flash_mla.flash_mla_with_kvcache(
        q,
        cache,
        None,
        None,
        formats.MLA_LATENT_DIM,
        schedule,
        softmax_scale=formats.MLA_HEAD_DIM**-0.5,
        is_fp8_kvcache=True,
        indices=indices,
    )


def _pad_heads(q: Tensor) -> Tensor:
    """``q`` with its heads padded to the next multiple of 64 by zeros."""
    missing = -q.shape[1] % _FLASH_MLA_HEADS
    return torch.nn.functional.pad(q, (0, 0, 0, missing)) if missing else q
