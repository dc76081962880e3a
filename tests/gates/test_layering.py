"""Includes point one way: include <- csrc/device, csrc/kernels <- csrc/torch, csrc/python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.gates.native_build import ROOT

_INCLUDE = re.compile(r'^\s*#\s*include\s*([<"][^>"]+)[>"]', re.MULTILINE)
_STANDARD = r"<[a-z_]+"

# What a file under each folder may include, as patterns of `<path` and `"path`.
ALLOWED = {
    "include": (_STANDARD, r"<cuda_runtime_api\.h", r'"dsa_ops/'),
    "csrc/device": (_STANDARD, r"<cuda\w*\.h", "<cute/", "<cutlass/", '"device/'),
    "csrc/kernels": (
        *(_STANDARD, r"<cuda\w*\.h", "<cute/", "<cutlass/"),
        *('"device/', '"kernels/', '"dsa_ops/'),
    ),
    "csrc/torch": (
        *(_STANDARD, r"<cuda_runtime_api\.h", "<torch/csrc/stable/", "<torch/headeronly/"),
        *("<torch/csrc/inductor/aoti_torch/c/", '"torch/', '"dsa_ops/'),
    ),
    "csrc/python": (_STANDARD, "<pybind11/", '"kernels/', '"dsa_ops/'),
}


def forbidden_includes(source: str, folder: str) -> list[str]:
    """The includes of a file's text that its folder may not have."""
    return [
        name
        for name in _INCLUDE.findall(source)
        if not any(
            re.fullmatch(pattern, name) if pattern == _STANDARD else re.match(pattern, name)
            for pattern in ALLOWED[folder]
        )
    ]


def sources(folder: str) -> list[Path]:
    files = sorted((ROOT / folder).rglob("*"))
    return [file for file in files if file.suffix in (".h", ".cuh", ".cpp", ".cu")]


@pytest.mark.parametrize("folder", ALLOWED)
def test_includes_point_one_way(folder: str) -> None:
    assert sources(folder)
    found = {
        str(f.relative_to(ROOT)): forbidden_includes(f.read_text(), folder) for f in sources(folder)
    }
    assert {file: includes for file, includes in found.items() if includes} == {}


def test_every_native_source_is_under_a_rule() -> None:
    ruled = {file for folder in ALLOWED for file in sources(folder)}
    assert set(sources("csrc")) <= ruled


@pytest.mark.parametrize(
    ("folder", "line"),
    [
        ("include", '#include "kernels/launch.h"'),
        ("include", "#include <cuda.h>"),
        ("csrc/device", '#include "dsa_ops/topk.h"'),
        ("csrc/kernels", "#include <torch/csrc/stable/tensor.h>"),
        ("csrc/kernels", '# include "torch/common.h"'),
        ("csrc/torch", "#include <ATen/ATen.h>"),
        ("csrc/torch", '#include "device/wgmma.cuh"'),
        ("csrc/python", "#include <torch/extension.h>"),
    ],
)
def test_gate_sees_a_wrong_include(folder: str, line: str) -> None:
    assert len(forbidden_includes(f"// text\n{line}\n", folder)) == 1


def test_gate_accepts_the_standard_library() -> None:
    assert forbidden_includes("#include <cstdint>\n#include <type_traits>\n", "include") == []
