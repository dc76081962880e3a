"""What the tests of the registration of ops share: what an op changes, and opcheck."""

from __future__ import annotations

import torch
from torch import Tensor

from dsa_ops._library import OPS
from dsa_ops.formats import FP8
from tests.bad_inputs import Arguments, in_schema_order


def outputs_of(op: str) -> list[str]:
    """The arguments that the schema says are written."""
    schema = OPS[op].overload._schema.arguments
    return [argument.name for argument in schema if argument.alias_info is not None]


def in_bytes(arguments: Arguments) -> dict[str, Tensor]:
    """Copies of the tensors, comparable whatever their dtype."""
    tensors = {name: t for name, t in arguments.items() if isinstance(t, Tensor)}
    return {name: t.contiguous().view(torch.uint8).clone() for name, t in tensors.items()}


def opcheck(op: str, arguments: Arguments) -> None:
    """torch.library.opcheck of the op on the arguments of its schema."""
    checks = ["test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"]
    if not any(isinstance(value, Tensor) and value.dtype == FP8 for value in arguments.values()):
        # It compares inputs with arithmetic that torch lacks for e4m3, where
        # test_only_outputs_change has to do.
        checks.append("test_schema")
    args = in_schema_order(op, arguments)
    torch.library.opcheck(OPS[op].overload, args, test_utils=checks)
