"""Times the ops that a layer calls, from outside the layer."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class Call(NamedTuple):
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any


class Stages:
    """Stands in for a module of ops: calls them, times each and keeps its last call.

    Times are CUDA events on a GPU (read only at the end, so that nothing waits in between) and the
    clock elsewhere.
    """

    def __init__(self, ops: Any, device: torch.device):
        self._ops = ops
        self._cuda = device.type == "cuda"
        self._spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self.last: dict[str, Call] = {}

    def __getattr__(self, name: str) -> Any:
        op = getattr(self._ops, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.span(name):
                result = op(*args, **kwargs)
            self.last[name] = Call(args, kwargs, result)
            return result

        return call

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self._spans[name].append((start, self._now()))

    def wait(self) -> None:
        """Until the device has done all that was asked of it."""
        if self._cuda:
            torch.cuda.synchronize()

    def take(self) -> dict[str, tuple[int, float]]:
        """Calls and total seconds of every stage since the last ``take``."""
        self.wait()
        seconds = {
            name: (len(spans), sum(self._length(*span) for span in spans))
            for name, spans in self._spans.items()
        }
        self._spans.clear()
        return seconds

    def _length(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1e3 if self._cuda else end - start
