"""The command line: which ops and shapes to measure, the table, the result files."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import (
    caches,
    indexer_logits,
    indexer_topk,
    paged_indexer_logits,
    paged_indexer_topk,
    sparse_mla_decode,
    sparse_mla_prefill,
    topk,
)
from .benchmark import Benchmark, Measured, measure_shape, ratio
from .ceilings import CEILINGS, floor
from .formulas import Work
from .harness import Harness
from .provenance import device_slug, provenance, refusal
from .records import SHAPE_KEYS, Record, Shape, Table, number, result_path, save, shape_text

_RESULTS = Path(__file__).parent / "results"

_MODULES = (
    indexer_logits,
    paged_indexer_logits,
    topk,
    indexer_topk,
    paged_indexer_topk,
    sparse_mla_prefill,
    sparse_mla_decode,
    caches,
)

#: Every benchmark by the op it measures.
BENCHMARKS = {one.op: one for module in _MODULES for one in module.BENCHMARKS}

#: Names that stand for several ops.
GROUPS = {"caches": [one.op for one in caches.BENCHMARKS], "all": list(BENCHMARKS)}


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return int(text)


def _filter(text: str) -> str:
    key, equals, _ = text.partition("=")
    if not equals or key not in SHAPE_KEYS:
        keys = ", ".join(SHAPE_KEYS)
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE with a key of {keys}, got {text}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measures ops on a Hopper GPU, beside any peer found."
    )
    names = [*BENCHMARKS, *GROUPS]
    parser.add_argument("ops", nargs="+", choices=names, metavar="op", help=", ".join(names))
    parser.add_argument("--shapes", choices=("quick", "all"), default="all")
    parser.add_argument(
        "--filter",
        type=_filter,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only shapes with this value under this key, such as context=131072; repeatable",
    )
    parser.add_argument(
        "--reps", type=_positive, default=50, help="repetitions per shape (default 50)"
    )
    parser.add_argument(
        "--graph",
        action="store_true",
        help="also print the time of a call inside a CUDA graph of ten, warm (not recorded)",
    )
    parser.add_argument("--json", action="store_true", help="print the records, not the table")
    parser.add_argument(
        "--results", type=Path, default=_RESULTS, help="where <device>/<op>.json are written"
    )
    return parser


def select(shapes: Iterable[Shape], filters: Sequence[str]) -> list[Shape]:
    """The shapes that have every ``key=value`` of ``filters``."""
    pairs = [text.partition("=")[::2] for text in filters]
    return [shape for shape in shapes if all(str(shape.get(key)) == value for key, value in pairs)]


def make_table(benchmark: Benchmark, shapes: Sequence[Shape], graph: bool) -> Table:
    """The columns; the ratio appears only when there is a peer to compare with."""
    columns = [
        ("shape", max(len(shape_text(shape)) for shape in shapes)),
        ("impl", max(len(name) for name in ("dsa_ops", *benchmark.peers))),
        ("us", 8),
        ("min", 8),
        ("max", 8),
        ("TFLOP/s", 7),
        ("TB/s", 6),
        ("% of ceiling", 12),
        ("bound", 6),
        ("MHz", 5),
    ]
    if graph:
        columns.append(("graph us", 8))
    if benchmark.peers:
        columns.append(("time / ours", 11))
    return Table(columns)


def cells(one: Measured, times_ours: float | None, work: Work, slug: str, graph: bool) -> list[str]:
    """One row of the table; ``times_ours`` is None where the table has no ratio column."""
    record: Record = one.record
    bound = floor(work, CEILINGS[slug]) if slug in CEILINGS else None
    row = [
        shape_text(record["shape"]),
        record["impl"],
        number(record["us"]),
        number(record["us_min"]),
        number(record["us_max"]),
        number(record["tflops"]),
        number(record["tbs"], 2),
        number(100 * bound.us / record["us"] if bound else None),
        bound.bound if bound else "-",
        str(record["clock_mhz"]),
    ]
    if graph:
        row.append(number(one.graph_us))
    if times_ours is not None:
        row.append(number(None if math.isnan(times_ours) else times_ours, 2))
    return row


def run(benchmark: Benchmark, shapes: Sequence[Shape], args: argparse.Namespace) -> list[Record]:
    """Measures, prints and saves shape by shape; a shape on which ours failed leaves no record of
    ours."""
    harness = Harness(args.reps)
    device = provenance()["device"]
    slug = device_slug(device)
    table = make_table(benchmark, shapes, args.graph)
    if not args.json:
        print(f"{benchmark.op} on {device}\n{table.header()}", flush=True)
    records = []
    for shape in shapes:
        measured = measure_shape(benchmark, shape, harness, args.graph, _report)
        for one in measured:
            times_ours = ratio(measured, one) if benchmark.peers else None
            row = cells(one, times_ours, benchmark.work(shape), slug, args.graph)
            if not args.json:
                print(table.line(row), flush=True)
        new = [one.record for one in measured]
        save(result_path(args.results, slug, benchmark.op), new)
        records.extend(new)
    return records


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 when our implementation ran on every shape."""
    args = _parser().parse_args(arguments)
    reason = refusal()
    if reason is not None:
        _report(reason)
        return 1
    records: list[Record] = []
    wanted = 0
    for op in dict.fromkeys(op for name in args.ops for op in GROUPS.get(name, [name])):
        benchmark = BENCHMARKS[op]
        shapes = benchmark.quick if args.shapes == "quick" else benchmark.shapes
        shapes = select(shapes, args.filter)
        wanted += len(shapes)
        if shapes:
            records.extend(run(benchmark, shapes, args))
    if args.json:
        print(json.dumps(records, indent=1))
    if not wanted:
        _report("bench: no shape matches the filter.")
    ours = sum(record["impl"] == "dsa_ops" for record in records)
    return 0 if wanted and ours == wanted else 1
