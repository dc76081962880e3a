"""The libraries export the public API alone, and need nothing that a user may lack."""

from __future__ import annotations

import re

import pytest

from tests.gates.native_build import CORE_LIBRARY, ROOT, TORCH_LIBRARY, require_native
from tests.gates.symbols import (
    DynamicSymbols,
    declared_functions,
    dynamic_symbols,
    foreign_exports,
    needed_libraries,
    parse_symbols,
    run_path,
)

# The driver API: cuMemAlloc_v2, cuTensorMapEncodeTiled. cudaX are the runtime's.
_DRIVER = re.compile(r"^cu(?!da)[A-Z]\w+$")
_PYTHON = re.compile(r"^_?Py[A-Z_]")
# Of torch, only the C shim that its stable ABI promises.
_UNSTABLE_TORCH = re.compile(r"\b(at|c10|torch)::")

NM = """\
0000000000000000 A DSA_OPS_0
                 w __gmon_start__
                 U free@GLIBC_2.2.5
0000000000001150 T dsa_ops::v0::version()@@DSA_OPS_0
"""


def broken_rules(symbols: DynamicSymbols) -> list[str]:
    """Undefined symbols that tie a library to the driver, to Python or to one torch release."""
    rules = (_DRIVER, _PYTHON, _UNSTABLE_TORCH)
    return sorted(n for n in symbols.undefined if any(rule.search(n) for rule in rules))


def test_core_library_exports_the_public_namespace_alone() -> None:
    require_native()
    symbols = dynamic_symbols(CORE_LIBRARY)
    assert foreign_exports(symbols) == []
    assert broken_rules(symbols) == []


def test_core_library_exports_every_declared_function() -> None:
    require_native()
    exported = {
        name.removeprefix("dsa_ops::v0::").split("(")[0]
        for name in dynamic_symbols(CORE_LIBRARY).defined
    }
    for header in sorted((ROOT / "include" / "dsa_ops").glob("*.h")):
        assert declared_functions(header.read_text()) <= exported, header.name


def test_core_library_needs_only_the_system() -> None:
    require_native()
    foreign = [
        library
        for library in needed_libraries(CORE_LIBRARY)
        if not re.match(
            r"(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|ld-linux.*)\.so", library
        )
    ]
    assert foreign == []
    assert run_path(CORE_LIBRARY) == []


def test_torch_library_is_bound_to_no_python_and_no_torch_release() -> None:
    require_native()
    symbols = dynamic_symbols(TORCH_LIBRARY)
    assert symbols.defined == set()
    assert broken_rules(symbols) == []
    needed = needed_libraries(TORCH_LIBRARY)
    assert {"libdsa_ops.so.0", "libtorch.so", "libtorch_cpu.so"} <= set(needed)
    assert not any(
        re.match("lib(python|cuda|torch_cuda|torch_python|c10)", name) for name in needed
    )
    assert run_path(TORCH_LIBRARY) == ["$ORIGIN"]


def test_parser_reads_symbols() -> None:
    symbols = parse_symbols(NM)
    assert symbols.defined == {"dsa_ops::v0::version()"}
    assert symbols.undefined == {"__gmon_start__", "free"}
    assert foreign_exports(symbols) == [] == broken_rules(symbols)


@pytest.mark.parametrize("name", ["dsa_ops::topk_kernels()", "cudaMalloc", "std::foo()"])
def test_gate_sees_a_foreign_export(name: str) -> None:
    assert foreign_exports(parse_symbols(f"{NM}0000000000002000 T {name}\n")) == [name]


@pytest.mark.parametrize(
    "name", ["cuTensorMapEncodeTiled", "PyObject_Call", "_Py_Dealloc", "c10::Error::what() const"]
)
def test_gate_sees_a_foreign_dependency(name: str) -> None:
    assert broken_rules(parse_symbols(f"{NM}                 U {name}\n")) == [name]


def test_declared_functions_are_found() -> None:
    header = """
    #define DSA_OPS_API __attribute__((visibility("default")))
    DSA_OPS_API char const* version() noexcept;
    DSA_OPS_API Status topk(TopkParams const& params,
                            cudaStream_t stream) noexcept;
    DSA_OPS_API size_t topk_bytes(int64_t a) noexcept;
    """
    assert declared_functions(header) == {"version", "topk", "topk_bytes"}
