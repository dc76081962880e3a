"""Which implementation a call reaches, and that the one in PyTorch compiles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dsa_ops import _native
from dsa_ops._library import OPS
from tests import cache_arguments, select_arguments
from tests.bad_inputs import Arguments, in_schema_order
from tests.registration import in_bytes

GOOD_ARGUMENTS = select_arguments.GOOD_ARGUMENTS | cache_arguments.GOOD_ARGUMENTS


class Recorder(TorchDispatchMode):
    """Notes the ops of this package and runs none."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:  # type: ignore[no-untyped-def]
        if func.namespace == "dsa_ops":
            self.names.append(func._opname)
            return None
        return func(*args, **(kwargs or {}))


def calls(op: str, arguments: Arguments) -> list[str]:
    with Recorder() as recorder:
        OPS[op](*in_schema_order(op, arguments))
    return recorder.names


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_device_without_kernels(op: str, served: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "serves", lambda index: served)
    arguments = GOOD_ARGUMENTS[op]()
    assert calls(op, arguments) == [op]  # on the CPU there is no choice
    with FakeTensorMode():
        on_cuda = {
            name: torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
            if isinstance(value, torch.Tensor)
            else value
            for name, value in arguments.items()
        }
        assert calls(op, on_cuda) == [op if served else f"_{op}_in_torch"]


@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_implementation_in_pytorch_compiles(op: str) -> None:
    torch.manual_seed(0)
    expected = GOOD_ARGUMENTS[op]()
    torch.manual_seed(0)
    given = GOOD_ARGUMENTS[op]()

    torch._dynamo.reset()
    in_torch, order = OPS[op]._in_torch, in_schema_order(op, given)
    torch.compile(lambda *args: in_torch(*args), fullgraph=True, backend="aot_eager")(*order)
    OPS[op].overload(*in_schema_order(op, expected))
    eager, traced = in_bytes(expected), in_bytes(given)
    assert all(torch.equal(traced[name], eager[name]) for name in eager)
