"""Reads the dynamic symbols and dependencies of a shared library through binutils."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.gates.native_build import run_tool

# "0000000000001150 T dsa_ops::v0::version()@@DSA_OPS_0", "                 U free@GLIBC_2.2.5"
_SYMBOL = re.compile(r"^(?:[0-9a-f]+| +) (\w) (.+?)(?:@@?\S+)?$", re.MULTILINE)
_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")
_RUNPATH = re.compile(r"\((?:RUNPATH|RPATH)\).*\[(.*)\]")
_API = re.compile(r"^\s*DSA_OPS_API\s[\w\s*]*?(\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class DynamicSymbols:
    defined: frozenset[str]
    undefined: frozenset[str]  # weak ones included


def parse_symbols(nm_output: str) -> DynamicSymbols:
    """Of ``nm -DC``; version nodes (type A) and the toolchain's own hooks are left out."""
    defined, undefined = set(), set()
    for kind, name in _SYMBOL.findall(nm_output):
        if kind in "Uw":
            undefined.add(name)
        elif kind != "A" and name not in ("_init", "_fini"):
            defined.add(name)
    return DynamicSymbols(frozenset(defined), frozenset(undefined))


def dynamic_symbols(library: Path) -> DynamicSymbols:
    return parse_symbols(run_tool("nm", "-DC", library))


def needed_libraries(library: Path) -> list[str]:
    return _NEEDED.findall(run_tool("readelf", "-d", library))


def run_path(library: Path) -> list[str]:
    return _RUNPATH.findall(run_tool("readelf", "-d", library))


def foreign_exports(symbols: DynamicSymbols) -> list[str]:
    """Exported names outside the public namespace."""
    return sorted(name for name in symbols.defined if not name.startswith("dsa_ops::v0::"))


def declared_functions(header: str) -> set[str]:
    """The functions that a public header declares."""
    return set(_API.findall(header))
