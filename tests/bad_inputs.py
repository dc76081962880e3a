"""Tables of arguments that ops must reject, run against the Python and the C++ checks alike.

A test file builds one table per op from a set of good arguments and one change per row::

    TABLE = table("merge_states", good_arguments, [
        Change("out_a is float32", "out_a", as_dtype(torch.float32), "bfloat16, got float32"),
        ...
    ])

and passes every row to :func:`assert_python_rejects` and :func:`assert_native_rejects`, and the
good arguments to :func:`assert_native_wants_cuda`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dsa_ops import _native
from dsa_ops._library import OPS

#: Marks tests of the compiled checks; they need the native library but no GPU.
needs_native = pytest.mark.skipif(
    _native.unavailable_reason is not None, reason=f"no kernels: {_native.unavailable_reason}"
)

Arguments = dict[str, Any]


@dataclass(frozen=True)
class BadInput:
    """One call that must fail with a message that matches ``pattern`` (a regex)."""

    op: str
    name: str
    args_factory: Callable[[], tuple[Any, ...]]
    pattern: str

    def __str__(self) -> str:
        return f"{self.op}-{self.name}".replace(" ", "_")


@dataclass(frozen=True)
class Change:
    """One change to good arguments: ``argument`` becomes ``change(old value)``, and the error reads
    ``op: blamed must be expected`` (``expected`` is a regex; ``blamed`` defaults to ``argument``).
    """

    name: str
    argument: str
    change: Callable[[Any], Any]
    expected: str
    blamed: str | None = None


def argument_names(op: str) -> list[str]:
    """The argument names of an op, in schema order."""
    return [argument.name for argument in OPS[op].overload._schema.arguments]


def in_schema_order(op: str, arguments: Arguments) -> tuple[Any, ...]:
    names = argument_names(op)
    assert sorted(names) == sorted(arguments), f"{op} takes {names}, not {list(arguments)}"
    return tuple(arguments[name] for name in names)


def table(op: str, good: Callable[[], Arguments], changes: Iterable[Change]) -> list[BadInput]:
    """One :class:`BadInput` per change."""

    def row(change: Change) -> BadInput:
        def args_factory() -> tuple[Any, ...]:
            arguments = good()
            arguments[change.argument] = change.change(arguments[change.argument])
            return in_schema_order(op, arguments)

        pattern = rf"^{op}: {change.blamed or change.argument} must be {change.expected}"
        return BadInput(op, change.name, args_factory, pattern)

    return [row(change) for change in changes]


def assert_python_rejects(bad: BadInput) -> None:
    with pytest.raises(ValueError, match=bad.pattern):
        OPS[bad.op].overload(*bad.args_factory())


def redispatch_to_native(op: str, args: tuple[Any, ...]) -> None:
    """Calls the compiled binding of an op whatever the device of its arguments."""
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    OPS[op].overload.redispatch(cuda, *args)


def assert_native_rejects(bad: BadInput) -> None:
    with pytest.raises(RuntimeError, match=bad.pattern):
        redispatch_to_native(bad.op, bad.args_factory())


def assert_native_wants_cuda(op: str, good: Callable[[], Arguments]) -> None:
    """Good CPU arguments pass every check of the binding but the last."""
    with pytest.raises(RuntimeError, match=rf"^{op}: \w+ must be on a CUDA device"):
        redispatch_to_native(op, in_schema_order(op, good()))


# Changes of one tensor argument.


def as_dtype(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.to(dtype)


def viewed_as(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The same bytes under another dtype, such as fp8 passed as uint8."""
    return lambda tensor: tensor.view(dtype)


def resized(*shape: int) -> Callable[[Tensor], Tensor]:
    """Zeros of another shape, for wrong ranks and wrong sizes."""
    return lambda tensor: torch.zeros(shape, dtype=tensor.dtype)


def strided_last_dim(tensor: Tensor) -> Tensor:
    """The same shape with a stride of 2 in the last dimension."""
    return torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype)[..., ::2]


def padded_rows(elements: int) -> Callable[[Tensor], Tensor]:
    """The same shape with ``elements`` of padding after each row of the last dimension."""

    def change(tensor: Tensor) -> Tensor:
        row = tensor.shape[-1]
        return torch.zeros(*tensor.shape[:-1], row + elements, dtype=tensor.dtype)[..., :row]

    return change


def shifted_base(elements: int) -> Callable[[Tensor], Tensor]:
    """The same shape and strides, ``elements`` further into a larger storage."""

    def change(tensor: Tensor) -> Tensor:
        storage = torch.zeros(tensor.untyped_storage().nbytes() + 256, dtype=torch.uint8)
        flat = storage[: storage.numel() // tensor.element_size() * tensor.element_size()]
        return flat.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), elements)

    return change


def on_meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


def replaced_by(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


# Changes of every tensor argument of an op.


def _with_leading_dim(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(0)


def changes_of_every_tensor(op: str, good: Callable[[], Arguments]) -> list[Change]:
    """For each tensor argument a wrong dtype, a wrong rank, a strided last dimension and, for all
    but the first, another device."""
    arguments = good()
    tensors = [name for name in argument_names(op) if isinstance(arguments[name], Tensor)]
    changes = []
    for name in tensors:
        changes += [
            Change(f"{name} is float64", name, as_dtype(torch.float64), r"[\w ]+, got float64$"),
            Change(f"{name} has one more dim", name, _with_leading_dim, r"of shape \[.*, got \["),
            Change(f"{name} is strided", name, strided_last_dim, "contiguous in its last dim.* 2$"),
        ]
        if name != tensors[0]:
            device = f"on the device of {tensors[0]}, got another device"
            changes.append(Change(f"{name} is on another device", name, on_meta, device))
    return changes
