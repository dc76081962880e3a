"""``info``: what is installed, which implementation runs on which device, and why."""

from __future__ import annotations

import importlib
import platform
from typing import Any

import torch

from .. import __version__, _native
from .format import table


def _compiled() -> dict[str, Any] | None:
    """What the compiled module says about the kernels; it is optional for the ops themselves."""
    try:
        compiled = importlib.import_module("dsa_ops._C")
    except ImportError:
        return None
    return {"build": compiled.build_info(), "kernels": compiled.kernel_table()}


def _device(index: int) -> dict[str, Any]:
    major, minor = torch.cuda.get_device_capability(index)
    return {
        "index": index,
        "name": torch.cuda.get_device_name(index),
        "compute_capability": f"{major}.{minor}",
        "unserved_reason": _native.unserved_reason(index),
    }


def collect() -> dict[str, Any]:
    return {
        "dsa_ops": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "native_unavailable_reason": _native.unavailable_reason,
        "devices": [_device(index) for index in range(torch.cuda.device_count())],
        "compiled": _compiled(),
    }


def render(report: dict[str, Any]) -> str:
    cuda = report["torch_cuda"] or "none"
    reason = report["native_unavailable_reason"]
    lines = [
        f"dsa_ops {report['dsa_ops']}",
        f"python  {report['python']}",
        f"torch   {report['torch']} (CUDA {cuda})",
        "kernels loaded" if reason is None else f"kernels not loaded: {reason}",
    ]
    for device in report["devices"]:
        served = device["unserved_reason"] or "runs the compiled kernels"
        lines.append(f"cuda:{device['index']}  {device['name']}: {served}")
    if not report["devices"]:
        lines.append("no CUDA device: every op runs its PyTorch implementation")
    if report["compiled"] is not None:
        build = report["compiled"]["build"]
        lines.append("built: " + ", ".join(f"{key} {value}" for key, value in build.items()))
        lines += ["", _kernel_table(report["compiled"]["kernels"])]
    return "\n".join(lines)


def _kernel_table(kernels: list[dict[str, Any]]) -> str:
    if not kernels:
        return "no kernels"
    header = list(kernels[0])
    return table(header, [[str(kernel[key]) for key in header] for kernel in kernels])
