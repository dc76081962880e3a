"""Registers the ops: one schema, one check and one PyTorch implementation each.

Every op in ``torch.ops.dsa_ops`` writes into tensors its caller gives and returns nothing, so its
fake kernel is its argument check. The public functions allocate what the caller does not pass.
The native library registers only the CUDA key, which wins over the PyTorch implementation. Each op
has a twin ``_<name>_in_torch`` without that key, for CUDA devices that the kernels do not serve.
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
        self.name, arguments = schema.split("(", 1)
        self.check = check
        self._compute = compute
        self.overload = self._define(self.name, arguments)
        self._in_torch = self._define(f"_{self.name}_in_torch", arguments)
        # torch passes None on where a schema wants a tensor, and does not say which argument it is
        # where a tensor is optional.
        self._tensors = [
            (position, argument.name, isinstance(argument.type, torch.OptionalType))
            for position, argument in enumerate(self.overload._schema.arguments)
            if str(argument.type) in ("Tensor", "Optional[Tensor]")
        ]

    def _define(self, name: str, arguments: str) -> Any:
        _LIBRARY.define(f"{name}({arguments}")
        _LIBRARY.impl(name, self._fallback, "CompositeExplicitAutograd")
        torch.library.register_fake(f"dsa_ops::{name}", self.check, lib=_LIBRARY)
        return getattr(torch.ops.dsa_ops, name).default

    def _fallback(self, *args: Any) -> None:
        """Checks the arguments and runs the PyTorch implementation."""
        self.check(*args)
        with torch.no_grad():
            self._compute(*args)

    def __call__(self, *args: Any) -> None:
        for position, name, optional in self._tensors:
            given = args[position]
            if not isinstance(given, torch.Tensor) and not (optional and given is None):
                expected = "a tensor or None" if optional else "a tensor"
                Checker(self.name).fail(name, expected, type(given).__name__)
        device = args[0].device
        if device.type == "cuda" and not _native.serves(device.index):
            self._in_torch(*args)
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
