"""Registers the ops: one schema, one check and one PyTorch implementation each.

Every op in ``torch.ops.dsa_ops`` writes into tensors its caller gives and returns nothing, so its
fake kernel is its argument check. The public functions allocate what the caller does not pass.
The native library registers only the CUDA key, which wins over the PyTorch implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import _native
from ._checks import Checker

_LIBRARY = torch.library.Library("dsa_ops", "DEF")

#: Every op by name, in order of definition.
OPS: dict[str, Op] = {}


class Op:
    """One op: calls the native kernel where it serves the device, else the PyTorch one."""

    def __init__(self, schema: str, check: Callable[..., None], compute: Callable[..., None]):
        self.name = schema.split("(", 1)[0]
        self.check = check
        self._compute = compute
        _LIBRARY.define(schema)
        _LIBRARY.impl(self.name, self.fallback, "CompositeExplicitAutograd")
        torch.library.register_fake(f"dsa_ops::{self.name}", check, lib=_LIBRARY)
        self.overload = getattr(torch.ops.dsa_ops, self.name).default
        # torch passes None on where a schema wants a tensor.
        self._tensors = [
            (position, argument.name)
            for position, argument in enumerate(self.overload._schema.arguments)
            if isinstance(argument.type, torch.TensorType)
        ]

    def fallback(self, *args: Any) -> None:
        """Checks the arguments and runs the PyTorch implementation."""
        self.check(*args)
        with torch.no_grad():
            self._compute(*args)

    def __call__(self, *args: Any) -> None:
        for position, name in self._tensors:
            if not isinstance(args[position], torch.Tensor):
                got = type(args[position]).__name__
                Checker(self.name).fail(name, "a tensor", got)
        device = args[0].device
        if device.type == "cuda" and not _native.serves(device.index):
            self.fallback(*args)
        else:
            self.overload(*args)


def define_op(schema: str, check: Callable[..., None], compute: Callable[..., None]) -> Op:
    """Defines ``dsa_ops::<schema>``.

    ``schema`` has no defaults and returns ``()``; ``check(*args)`` raises for bad arguments and
    reads only metadata (it doubles as the fake kernel); ``compute(*args)`` writes the outputs.
    """
    op = Op(schema, check, compute)
    OPS[op.name] = op
    return op
