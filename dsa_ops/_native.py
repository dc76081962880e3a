"""Loads the compiled kernels and says, per device, whether they serve it."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path

import torch

_LIBRARY_FOLDER = Path(__file__).parent / "lib"
_LIBRARY_PATH = _LIBRARY_FOLDER / "libdsa_ops_torch.so"
_NOTE_PATH = _LIBRARY_FOLDER / "BUILD_NOTE.txt"


def build_note() -> str:
    """What the installation built, in one sentence, or why it built no kernels."""
    return _NOTE_PATH.read_text().strip() if _NOTE_PATH.exists() else "it was never installed"


def _load() -> str | None:
    """Loads the native library; returns why there is none, or None."""
    if os.environ.get("DSA_OPS_FORCE_FALLBACK") == "1":
        return "disabled by DSA_OPS_FORCE_FALLBACK=1"
    if not _LIBRARY_PATH.exists():
        return f"this package has no compiled kernels: {build_note()}"
    try:
        torch.ops.load_library(str(_LIBRARY_PATH))
    except OSError as error:
        return str(error.__cause__ or error)
    return None


#: Why the compiled kernels are not loaded, or None when they are.
unavailable_reason: str | None = _load()


@functools.cache
def unserved_reason(device_index: int) -> str | None:
    """Why calls on this CUDA device run in PyTorch, or None when the kernels serve it."""
    if unavailable_reason is not None:
        return unavailable_reason
    major, minor = torch.cuda.get_device_capability(device_index)
    if (major, minor) != (9, 0):
        name = torch.cuda.get_device_name(device_index)
        return f"the kernels need compute capability 9.0 (Hopper); {name} has {major}.{minor}"
    return None


@torch.compiler.assume_constant_result
def serves(device_index: int) -> bool:
    """True when the compiled kernels run on this CUDA device; warns once per device if not."""
    reason = unserved_reason(device_index)
    if reason is not None:
        _warn_once(device_index, reason)
    return reason is None


@functools.cache
def _warn_once(device_index: int, reason: str) -> None:
    warnings.warn(
        f"dsa_ops: cuda:{device_index} runs the PyTorch implementation: {reason}", stacklevel=4
    )
