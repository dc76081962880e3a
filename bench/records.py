"""Records of measurements: their fields, their files, and the table that is printed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Shape = Mapping[str, int | str]
Record = dict[str, Any]

#: Every key a shape may have, in printing order.
SHAPE_KEYS = (
    "rows",
    "batch",
    "next_n",
    "s_q",
    "context",
    "heads",
    "index_heads",
    "k",
    "kv",
    "indices",
    "data",
)

#: The fields of a record, in file order.
FIELDS = (
    "op",
    "impl",
    "shape",
    "us",
    "us_min",
    "us_max",
    "tflops",
    "tbs",
    "clock_mhz",
    "device",
    "torch",
    "source_digest",
)


def size(shape: Shape, key: str) -> int:
    """The integer under ``key``."""
    value = shape[key]
    if not isinstance(value, int):
        raise TypeError(f"shape: {key} must be an integer, got {value!r}")
    return value


def shape_text(shape: Shape) -> str:
    """``rows=1024 context=4096``, keys in the order of SHAPE_KEYS."""
    return " ".join(f"{key}={shape[key]}" for key in SHAPE_KEYS if key in shape)


def merge(old: Sequence[Record], new: Sequence[Record]) -> list[Record]:
    """``old`` with the records of the same (impl, shape) replaced in place, the others added."""

    def identity(record: Record) -> tuple[str, str]:
        return record["impl"], shape_text(record["shape"])

    merged = {identity(record): record for record in old}
    merged.update({identity(record): record for record in new})
    return list(merged.values())


def result_path(directory: Path, device_slug: str, op: str) -> Path:
    return directory / device_slug / f"{op}.json"


def save(path: Path, new: Sequence[Record]) -> None:
    """Merges ``new`` into the file, one record a line."""
    old = json.loads(path.read_text()) if path.exists() else []
    lines = ",\n".join(json.dumps(record) for record in merge(old, new))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{lines}\n]\n")


class Table:
    """Prints aligned rows one at a time, so that a run cut short still shows what it measured."""

    def __init__(self, columns: Sequence[tuple[str, int]]):
        """``columns``: heading and width; the first two are left-aligned."""
        self._columns = columns

    def line(self, cells: Iterable[str]) -> str:
        aligned = (
            cell.ljust(width) if i < 2 else cell.rjust(max(width, len(heading)))
            for i, (cell, (heading, width)) in enumerate(zip(cells, self._columns, strict=True))
        )
        return "  ".join(aligned).rstrip()

    def header(self) -> str:
        return self.line(heading for heading, _ in self._columns)


def number(value: float | None, digits: int = 1) -> str:
    """A cell: the number, or a dash when there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
