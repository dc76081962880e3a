"""No rows and caches of no pages, with strides of 0, on the GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dsa_ops._library import OPS
from tests.bad_inputs import in_schema_order
from tests.registration import in_bytes
from tests.test_empty_tensors import PER_ROW, without_rows


def on_gpu(tensor: Tensor) -> Tensor:
    copy = tensor.cuda()
    # The copy of an empty tensor has packed strides.
    return copy if tensor.numel() else copy.as_strided(tensor.shape, tensor.stride())


@pytest.mark.parametrize("pages", [True, False])
@pytest.mark.parametrize("op", PER_ROW)
def test_no_rows_do_nothing(op: str, pages: bool) -> None:
    arguments = {
        name: on_gpu(value) if isinstance(value, Tensor) else value
        for name, value in without_rows(op, pages=pages).items()
    }
    whole = {n: t for n, t in arguments.items() if isinstance(t, Tensor) and t.numel()}
    before = in_bytes(whole)
    OPS[op].overload(*in_schema_order(op, arguments))
    torch.cuda.synchronize()
    after = in_bytes(whole)
    assert all(before[name].equal(after[name]) for name in before)
