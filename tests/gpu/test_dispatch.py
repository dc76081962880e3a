"""The implementations in PyTorch, which other devices get, compile on a GPU as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsa_ops._library import OPS
from tests.bad_inputs import Arguments, in_schema_order
from tests.registration import in_bytes
from tests.test_dispatch import GOOD_ARGUMENTS


def arguments_on_gpu(op: str) -> Arguments:
    torch.manual_seed(0)
    arguments = GOOD_ARGUMENTS[op]()
    return {n: v.cuda() if isinstance(v, Tensor) else v for n, v in arguments.items()}


@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_implementation_in_pytorch_compiles(op: str) -> None:
    torch._dynamo.reset()
    in_torch = OPS[op]._in_torch
    expected, given = arguments_on_gpu(op), arguments_on_gpu(op)
    in_torch(*in_schema_order(op, expected))
    compiled = torch.compile(lambda *args: in_torch(*args), fullgraph=True, backend="aot_eager")
    compiled(*in_schema_order(op, given))
    eager, traced = in_bytes(expected), in_bytes(given)
    assert all(torch.equal(traced[name], eager[name]) for name in eager)
