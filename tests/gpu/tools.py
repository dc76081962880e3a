"""What the tests of the kernels share: layouts, poisoned outputs, graphs, streams, error norms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import dsa_ops
from tests.registration import opcheck
from tests.select_arguments import GOOD_ARGUMENTS, public_arguments

DEVICE = "cuda"
#: No result of any test, so that an element a kernel leaves out shows.
POISON = {torch.float32: 12345.0, torch.bfloat16: 12352.0, torch.int32: -12345}


@pytest.fixture(autouse=True)
def on_device() -> Iterator[None]:
    """New tensors lie on the GPU. Imported by the test files that want it."""
    torch.set_default_device(DEVICE)
    yield
    torch.set_default_device(None)


def spaced(tensor: Tensor, padding: int) -> Tensor:
    """The same values with gaps: ``padding`` elements after the last dimension, one more entry in
    every dimension between the first and the last."""
    first, *middle, last = tensor.shape
    storage = torch.zeros(
        first, *[size + 1 for size in middle], (last + padding) * tensor.element_size(),
        dtype=torch.uint8,
    ).view(tensor.dtype)  # fmt: skip
    view = storage[tuple(slice(size) for size in tensor.shape)]
    return view.copy_(tensor)


class Output:
    """A poisoned output inside a larger poisoned tensor, to see what a kernel writes."""

    def __init__(self, *shape: int, dtype: torch.dtype, offset: int = 0, padding: int = 8):
        self._poison = POISON[dtype]
        *leading, last = shape
        self._whole = torch.full((*leading, offset + last + padding), self._poison, dtype=dtype)
        self.tensor = self._whole[..., offset : offset + last]

    def assert_untouched_around(self) -> None:
        """Nothing outside the output was written. Overwrites the output."""
        self.tensor.fill_(self._poison)
        assert (self._whole == self._poison).all()


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, POISON[dtype], dtype=dtype)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """L2 error over L2 norm."""
    norm = expected.double().norm()
    return float((actual.double() - expected.double()).norm() / norm) if norm > 0 else 0.0


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equality that also holds for equal NaNs and tells -0 from 0."""
    return torch.equal(left.contiguous().view(torch.uint8), right.contiguous().view(torch.uint8))


def capture(call: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """A graph of one call, warmed up on a side stream as torch asks."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def assert_streams_do_not_mix(calls: list[Callable[[], tuple[Tensor, ...]]]) -> None:
    """Each call gives on its own busy stream, beside the others, what it gives alone."""
    expected = [call() for call in calls]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in calls]
    results: list[list[tuple[Tensor, ...]]] = [[] for _ in calls]
    for _ in range(20):
        for call, stream, own in zip(calls, streams, results, strict=True):
            with torch.cuda.stream(stream):
                own.append(call())
    torch.cuda.synchronize()
    for own, target in zip(results, expected, strict=True):
        for result in own:
            assert all(same_bits(a, b) for a, b in zip(result, target, strict=True))


def assert_repeats(call: Callable[[], tuple[Tensor, ...]]) -> None:
    """Twenty runs give the same bits."""
    expected = call()
    for _ in range(20):
        assert all(same_bits(a, b) for a, b in zip(call(), expected, strict=True))


def assert_registered(op: str) -> None:
    """opcheck passes, and a compiled call gives the bits of an eager one."""
    opcheck(op, GOOD_ARGUMENTS[op]())
    function, arguments = getattr(dsa_ops, op), public_arguments(op)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(**arguments), function(**arguments), rtol=0, atol=0, equal_nan=True
    )
