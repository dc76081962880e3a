"""The indexer, top-k and attention ops under torch.library.opcheck and torch.compile."""

from __future__ import annotations

import pytest
import torch

import dsa_ops
from dsa_ops._library import OPS
from tests.registration import in_bytes, opcheck, outputs_of
from tests.select_arguments import GOOD_ARGUMENTS, public_arguments, without_options


@pytest.mark.parametrize("with_options", [True, False])
@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_opcheck(op: str, with_options: bool) -> None:
    arguments = GOOD_ARGUMENTS[op]()
    if not with_options:
        arguments = without_options(op, arguments)
    opcheck(op, arguments)


@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_only_outputs_change(op: str) -> None:
    arguments = GOOD_ARGUMENTS[op]()
    outputs = outputs_of(op)
    for name in outputs:
        arguments[name].fill_(77)
    before = in_bytes(arguments)
    OPS[op].overload(*arguments.values())
    after = in_bytes(arguments)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == outputs
    assert not any((arguments[name] == 77).any() for name in outputs)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_compiled_equals_eager(op: str, dynamic: bool) -> None:
    function, arguments = getattr(dsa_ops, op), public_arguments(op)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    expected = function(**arguments)
    torch.testing.assert_close(compiled(**arguments), expected, rtol=0, atol=0)
