"""Every op is whole: schema, check, reference, public function with docstring, test, kernel."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import dsa_ops
from dsa_ops import _native, reference
from dsa_ops._library import OPS
from tests.gates.native_build import ROOT, require_native

NAMES = (
    "cached_indexer_logits gather_index_cache gather_mla_cache indexer_logits indexer_topk "
    "merge_states paged_indexer_logits paged_indexer_topk prepare_index_k prepare_index_q "
    "sparse_mla_decode sparse_mla_prefill topk write_index_cache write_mla_cache"
).split()

#: Parameters of public functions that a reference has no use for: where to write, how to launch.
CALL_PARAMETERS = {"out", "num_sms", "pdl"}


def schema_problems(schema: torch.FunctionSchema) -> list[str]:
    """Ops write into outputs that the caller gives: some argument is mutated, nothing returned."""
    found = []
    if schema.returns:
        found.append("returns something")
    if any(argument.has_default_value() for argument in schema.arguments):
        found.append("has default values")
    if not any(a.alias_info is not None and a.alias_info.is_write for a in schema.arguments):
        found.append("declares no output")
    return found


def twin_problems(
    name: str, public: types.ModuleType, twins: types.ModuleType, tests: Mapping[str, str]
) -> list[str]:
    """What is missing around an op."""
    function, twin = getattr(public, name, None), getattr(twins, name, None)
    found = []
    if function is None or not inspect.getdoc(function):
        found.append("has no public function with a docstring")
    if twin is None:
        found.append("has no reference")
    if function is not None and twin is not None:
        signature = set(inspect.signature(function).parameters) - CALL_PARAMETERS
        if missing := signature - inspect.signature(twin).parameters.keys():
            found.append(f"has a reference without {sorted(missing)}")
    if not any(re.search(rf"\b{name}\b", text) for text in tests.values()):
        found.append("is in no test")
    return found


def texts(pattern: str) -> dict[str, str]:
    here = Path(__file__).resolve().parent
    return {
        str(file): file.read_text()
        for file in sorted((ROOT / "tests").glob(pattern))
        if here not in file.parents
    }


def test_all_ops_are_defined() -> None:
    assert sorted(OPS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_op_is_whole(name: str) -> None:
    assert schema_problems(OPS[name].overload._schema) == []
    assert twin_problems(name, dsa_ops, reference, texts("**/test_*.py")) == []
    fake = torch._library.simple_registry.singleton.find(f"dsa_ops::{name}").fake_impl.kernel
    assert fake is not None


@pytest.mark.parametrize("name", NAMES)
def test_op_has_a_test_on_the_gpu(name: str) -> None:
    assert any(re.search(rf"\b{name}\b", text) for text in texts("gpu/**/*.py").values())


@pytest.mark.parametrize("name", NAMES)
def test_op_has_a_kernel_and_a_header(name: str) -> None:
    headers = [header.read_text() for header in (ROOT / "include" / "dsa_ops").glob("*.h")]
    assert any(re.search(rf"DSA_OPS_API Status {name}\(", header) for header in headers)
    require_native()
    assert _native.unavailable_reason is None
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dsa_ops::{name}", "CUDA")


def documented(doc: str = "Text.") -> types.ModuleType:
    module = types.ModuleType("doctored")

    def merge(a: int, *, out: int = 0) -> None: ...

    merge.__doc__ = doc
    module.merge = merge  # type: ignore[attr-defined]
    return module


def test_gate_sees_what_is_missing() -> None:
    whole, bare, empty = documented(), documented(""), types.ModuleType("empty")
    tests = {"test_merge.py": "merge(1)"}
    assert twin_problems("merge", whole, whole, tests) == []
    assert len(twin_problems("merge", bare, whole, tests)) == 1
    assert len(twin_problems("merge", whole, empty, tests)) == 1
    assert len(twin_problems("merge", whole, whole, {"test_merge.py": "merge_states"})) == 1


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ("bad(Tensor x, Tensor(a!) y) -> Tensor", "returns something"),
        ("bad(Tensor(a!) x, int n=0) -> ()", "has default values"),
        ("bad(Tensor x) -> ()", "declares no output"),
    ],
)
def test_gate_sees_bad_schemas(schema: str, problem: str) -> None:
    assert schema_problems(torch._C.parse_schema(f"gate::{schema}")) == [problem]
