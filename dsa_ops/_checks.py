"""Argument checks. Every failure reads ``op: argument must be X, got Y``; metadata only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNMENT_BYTES = 16


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` -> ``float32``."""
    return str(dtype).removeprefix("torch.")


class Checker:
    """The checks of one op call; mirrors ``csrc/torch/common.h``."""

    def __init__(self, op: str):
        self.op = op

    def fail(self, argument: str, expected: str, got: object) -> None:
        raise ValueError(f"{self.op}: {argument} must be {expected}, got {got}")

    def require(self, condition: bool, argument: str, expected: str, got: object) -> None:
        if not condition:
            self.fail(argument, expected, got)

    def tensors(self, **arguments: object) -> None:
        """For what a public function reads of its arguments before the op checks them."""
        for argument, value in arguments.items():
            if not isinstance(value, Tensor):
                self.fail(argument, "a tensor", type(value).__name__)

    def integer(self, value: object, argument: str) -> None:
        if not isinstance(value, (int, torch.SymInt)) and not hasattr(value, "__index__"):
            self.fail(argument, "an integer", type(value).__name__)

    def dtype(self, tensor: Tensor, argument: str, *accepted: torch.dtype) -> None:
        if tensor.dtype not in accepted:
            expected = " or ".join(dtype_name(d) for d in accepted)
            self.fail(argument, expected, dtype_name(tensor.dtype))

    def shape(self, tensor: Tensor, argument: str, sizes: Sequence[int], text: str) -> None:
        """Rank and sizes; -1 accepts any size. ``text`` is the shape as the docs write it."""
        self.tensors(**{argument: tensor})
        matches = tensor.dim() == len(sizes) and all(
            size < 0 or tensor.shape[i] == size for i, size in enumerate(sizes)
        )
        if not matches:
            self.fail(argument, f"of shape {text}", list(tensor.shape))

    def last_dim_contiguous(self, tensor: Tensor, argument: str) -> None:
        # An empty tensor may have any strides, and NumPy's have 0.
        if tensor.dim() and tensor.numel() and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            self.fail(argument, "contiguous in its last dimension", f"stride {tensor.stride(-1)}")

    def aligned_16(self, tensor: Tensor, argument: str) -> None:
        """Base and every stride but the last multiples of 16 bytes. The base counts from the start
        of the storage, which allocators align; the bindings check the address itself."""
        for i in range(tensor.dim() - 1):
            stride_bytes = tensor.stride(i) * tensor.element_size()
            if tensor.shape[i] > 1 and tensor.numel() and stride_bytes % _ALIGNMENT_BYTES:
                self.fail(
                    argument,
                    "aligned to 16 bytes in every stride",
                    f"a stride of {stride_bytes} bytes",
                )
        if tensor.storage_offset() * tensor.element_size() % _ALIGNMENT_BYTES:
            self.fail(argument, "aligned to 16 bytes", "a misaligned base address")

    def outputs(self, out: object, *names: str) -> None:
        """What a public function of several outputs takes in their place."""
        given = len(out) if isinstance(out, (tuple, list)) else None
        if given != len(names):
            got = type(out).__name__ + ("" if given is None else f" of {given}")
            self.fail("out", f"a tuple ({', '.join(names)})", got)

    def same_device(self, **tensors: Tensor | None) -> None:
        """All given tensors on the device of the first. Called after the other checks."""
        first_name, first = next(iter(tensors.items()))
        assert first is not None
        for name, tensor in tensors.items():
            if tensor is not None and tensor.device != first.device:
                self.fail(name, f"on the device of {first_name}", "another device")
