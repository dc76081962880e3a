"""Timing on a CUDA device that can be believed, and the SM clock while it was taken.

Every repetition starts with a cold L2 (a buffer of at least twice its size is written first) and
takes the next of several input sets, so that neither the cache nor one lucky draw carries over. The
flush, behind a spinning kernel, hides the host's launch; where the device came to the call before
the host had launched all of it, the repetition is taken again behind a longer spin, so that the
host is measured only with an implementation that waits for the device. Nothing is queued behind a
repetition: an empty kernel reads 3.1 us so, and 3.5 to 4.0 with more queued (H100). Implementations
take turns, call by call, and change places after every round: a chip that heats up slows all of
them alike. Times are CUDA events around one call, the median of the repetitions. ``graph`` gives
the time of a call in the middle of a CUDA graph instead, warm in L2.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]

_FLUSH_BYTES = 256 << 20
_SPIN_CYCLES = 100_000
_MAX_SPIN_CYCLES = 64 * _SPIN_CYCLES
_WARM_UP_MS = 50.0
_GRAPH_CALLS = 10
_PROBE_CYCLES = (100_000, 500_000)


@dataclass(frozen=True)
class Timing:
    us: float
    us_min: float
    us_max: float
    clock_mhz: int


def l2_bytes(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).L2_cache_size


def input_sets(set_bytes: int, cache_bytes: int) -> int:
    """How many input sets to rotate through: one if a set alone exceeds the cache twice."""
    return 1 if set_bytes >= 2 * cache_bytes else min(4, -(-2 * cache_bytes // max(1, set_bytes)))


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def _nvml_clock(device: torch.device) -> Callable[[], int] | None:
    """Reads the SM clock in MHz through NVML, if its Python module and driver are there."""
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)
    except Exception:  # no module, no driver library, no permission: the probe serves
        return None
    return lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)


class Harness:
    """Measures calls on the current CUDA device."""

    def __init__(self, reps: int):
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._reps = reps
        flush_bytes = max(_FLUSH_BYTES, 2 * l2_bytes(self.device))
        self._flush = torch.empty(flush_bytes // 4, dtype=torch.int32, device=self.device)
        self._read_clock = _nvml_clock(self.device)

    def run_once(self, calls: Sequence[Call]) -> None:
        """Runs every call (a peer may compile, or fail) to its end."""
        for call in calls:
            call()
        torch.cuda.synchronize(self.device)

    def measure(self, calls: Mapping[str, Sequence[Call]]) -> dict[str, Timing]:
        """Times every implementation's calls, which do the same work on different inputs, in
        rotation. The clock is that of the whole measurement."""
        for name in calls:
            self._warm_up(calls[name])
        spin_cycles = dict.fromkeys(calls, _SPIN_CYCLES)
        times: dict[str, list[float]] = {name: [] for name in calls}
        clocks: list[int] = []
        for rep in range(self._reps):
            for name in list(calls)[:: 1 if rep % 2 == 0 else -1]:
                call = calls[name][rep % len(calls[name])]
                us, ahead = self._time(call, spin_cycles[name], clocks)
                while not ahead and spin_cycles[name] < _MAX_SPIN_CYCLES:
                    spin_cycles[name] *= 2
                    us, ahead = self._time(call, spin_cycles[name], clocks)
                times[name].append(us)
        clock_mhz = round(statistics.median(clocks)) if clocks else self._probe_clock()
        return {
            name: Timing(statistics.median(us), min(us), max(us), clock_mhz)
            for name, us in times.items()
        }

    def _time(self, call: Call, spin_cycles: int, clocks: list[int]) -> tuple[float, bool]:
        """Microseconds of a call, and whether the host was ahead; notes the SM clock meanwhile."""
        start, end = _event(), _event()
        torch.cuda._sleep(spin_cycles)
        self._flush.zero_()
        start.record()
        call()
        end.record()
        ahead = not start.query()
        if self._read_clock is not None:
            clocks.append(self._read_clock())
        end.synchronize()
        return start.elapsed_time(end) * 1e3, ahead

    def graph(self, call: Call) -> float:
        """Microseconds of one of ten calls in a CUDA graph, warm, median over replays."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(_GRAPH_CALLS):
                call()
        graph.replay()
        torch.cuda._sleep(_MAX_SPIN_CYCLES)
        events = []
        for _ in range(self._reps):
            start, end = _event(), _event()
            start.record()
            graph.replay()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        return statistics.median(a.elapsed_time(b) for a, b in events) * 1e3 / _GRAPH_CALLS

    def _warm_up(self, calls: Sequence[Call]) -> None:
        """Runs the calls for a while: clocks rise slowly."""
        start, end = _event(), _event()
        start.record()
        calls[0]()
        end.record()
        torch.cuda.synchronize()
        once_ms = max(start.elapsed_time(end), 1e-3)
        for i in range(min(1000, int(_WARM_UP_MS / once_ms) + 1)):
            calls[i % len(calls)]()

    def _probe_clock(self) -> int:
        """Spins for two numbers of cycles; the difference has no launch time in it."""
        marks = [_event() for _ in range(len(_PROBE_CYCLES) + 1)]
        marks[0].record()
        for mark, cycles in zip(marks[1:], _PROBE_CYCLES, strict=True):
            torch.cuda._sleep(cycles)
            mark.record()
        torch.cuda.synchronize()
        short_ms, long_ms = (a.elapsed_time(b) for a, b in zip(marks, marks[1:], strict=False))
        return round((_PROBE_CYCLES[1] - _PROBE_CYCLES[0]) / (long_ms - short_ms) / 1e3)
