"""Where a measurement comes from: the device, torch, and the digest of the native sources."""

from __future__ import annotations

import functools

import torch

from dsa_ops import _native


def device_slug(device_name: str) -> str:
    """``NVIDIA H100 80GB HBM3`` -> ``h100-80gb-hbm3``."""
    return "-".join(word for word in device_name.lower().split() if word != "nvidia")


def refusal() -> str | None:
    """Why nothing can be measured here, in one sentence, or None."""
    if not torch.cuda.is_available():
        return "bench: a CUDA device must be present, got none."
    reason = _native.unserved_reason(torch.cuda.current_device())
    return reason and f"bench: the compiled kernels must serve the device, got: {reason}."


def has_native_kernel(op: str) -> bool:
    """True when the op's CUDA key is served by a kernel, not by the PyTorch implementation."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"dsa_ops::{op}", "CUDA")


@functools.cache
def provenance() -> dict[str, str]:
    """The last fields of every record of this process."""
    from tests.digest import source_digest

    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "source_digest": source_digest(),
    }
