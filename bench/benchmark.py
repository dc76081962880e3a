"""What one op's bench file gives, and how one of its shapes is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .formulas import Work
from .harness import Call, Harness, Timing, input_sets, l2_bytes
from .provenance import has_native_kernel, provenance
from .records import Record, Shape, shape_text

OURS = "dsa_ops"

#: The tensors of one call under the names of the public function's arguments.
Inputs = dict[str, Any]
#: Makes the call to time; whatever may happen outside the timing (outputs, plans) happens here.
Prepare = Callable[[Shape, Inputs], Call]
#: The same of an alternative that may have none for a shape.
PreparePeer = Callable[[Shape, Inputs], Call | None]


@dataclass(frozen=True)
class Benchmark:
    """One op: its shapes, its inputs from (shape, device, seed), our call and the peers' calls:
    other packages, and other ways to the same result."""

    op: str
    shapes: Sequence[Shape]
    quick: Sequence[Shape]
    make_inputs: Callable[[Shape, torch.device, int], Inputs]
    ours: Prepare
    work: Callable[[Shape], Work]
    peers: Mapping[str, PreparePeer] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One implementation on one shape; ``graph_us`` only when asked for, and never recorded."""

    record: Record
    graph_us: float | None


def serving_op(benchmark: Benchmark, shape: Shape) -> str:
    """The op that our call runs: prefill over an FP8 cache is the decode op, a row per token."""
    return "sparse_mla_decode" if shape.get("kv") == "fp8" else benchmark.op


def _ours(shape: Shape, inputs: Inputs, benchmark: Benchmark) -> Call:
    op = serving_op(benchmark, shape)
    if not has_native_kernel(op):
        raise RuntimeError(f"{op} has no native kernel in this build")
    return benchmark.ours(shape, inputs)


def make_record(op: str, impl: str, shape: Shape, timing: Timing, work: Work) -> Record:
    """The record as it is written: times in microseconds, rates per second of the median."""
    tflops = work.flops / timing.us * 1e-6
    return {
        "op": op,
        "impl": impl,
        "shape": dict(shape),
        "us": round(timing.us, 2),
        "us_min": round(timing.us_min, 2),
        "us_max": round(timing.us_max, 2),
        "tflops": round(tflops, 1) if work.flops else None,
        "tbs": round(work.total_bytes / timing.us * 1e-6, 3),
        "clock_mhz": timing.clock_mhz,
        **provenance(),
    }


def first_line(error: Exception) -> str:
    """The error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def measure_shape(
    benchmark: Benchmark,
    shape: Shape,
    harness: Harness,
    graph: bool,
    report: Callable[[str], None],
) -> list[Measured]:
    """Measures ours and every peer by turns on the same tensors; ``report`` gets one line for each
    implementation that failed."""
    inputs = [benchmark.make_inputs(shape, harness.device, 0)]
    set_bytes = sum(tensor.nbytes for tensor in inputs[0].values())
    for seed in range(1, input_sets(set_bytes, l2_bytes(harness.device))):
        inputs.append(benchmark.make_inputs(shape, harness.device, seed))

    def prepare_ours(case: Shape, tensors: Inputs) -> Call:
        return _ours(case, tensors, benchmark)

    calls: dict[str, list[Call]] = {}
    graph_us: dict[str, float] = {}
    prepares: dict[str, PreparePeer] = {OURS: prepare_ours, **benchmark.peers}
    for impl, prepare in prepares.items():
        try:
            prepared = [call for tensors in inputs if (call := prepare(shape, tensors))]
            if not prepared:
                continue
            harness.run_once(prepared)
            if graph:
                graph_us[impl] = harness.graph(prepared[0])
            calls[impl] = prepared
        except Exception as error:  # a peer may fail in any way; the run goes on
            report(f"{benchmark.op} {impl}, {shape_text(shape)}: {first_line(error)}")
    work = benchmark.work(shape)
    measured = [
        Measured(make_record(benchmark.op, impl, shape, timing, work), graph_us.get(impl))
        for impl, timing in harness.measure(calls).items()
    ]
    calls.clear()
    torch.cuda.empty_cache()
    return measured


def ratio(measured: Sequence[Measured], one: Measured) -> float:
    """How many times our time ``one`` takes; not a number when ours did not run."""
    for other in measured:
        if other.record["impl"] == OURS:
            return one.record["us"] / other.record["us"]
    return math.nan
