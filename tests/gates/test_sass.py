"""The built library holds sm_90a code only, made of the instructions that its kernels declare."""

from __future__ import annotations

import pytest

from tests.gates.native_build import (
    CORE_LIBRARY,
    compiled_module,
    cuobjdump,
    require_native,
    run_tool,
)
from tests.gates.sass import Expectation, Kernel, architectures, kernels, problems, unqualified_name

# Instructions that each kernel must hold: HGMMA and QGMMA are 16-bit and 8-bit wgmma, UTMALDG a
# tensor-map load, UBLKCP a bulk copy, USETMAXREG moves registers between warpgroups. Every kernel
# of the library has a row; its register cap comes from the library's own kernel table.
REQUIRED: dict[str, set[str]] = {
    "binned_topk_kernel": set(),
    "combine_kernel": set(),
    "fp8_join_kernel": set(),
    "gated_topk_kernel": set(),
    "gather_index_cache_kernel": set(),
    "gather_mla_cache_kernel": set(),
    "list_topk_kernel": set(),
    "merge_states_kernel": set(),
    "paged_row_lengths_kernel": set(),
    "owned_topk_kernel": {"QGMMA", "UTMALDG", "UBLKCP"},
    "parts_topk_kernel": {"QGMMA", "UTMALDG", "UBLKCP", "USETMAXREG"},
    "prepare_index_k_kernel": set(),
    "prepare_index_q_kernel": set(),
    "rescore_topk_kernel": {"QGMMA", "UTMALDG"},
    "resident_topk_kernel": set(),
    "row_gates_kernel": set(),
    "sm90_fp8_sparse_mla_kernel": {"HGMMA", "UBLKCP", "USETMAXREG"},
    "sm90_fp8_sparse_mla_pair_kernel": {"HGMMA", "UBLKCP", "USETMAXREG"},
    "sm90_fp8_sparse_mla_short_kernel": {"HGMMA", "UBLKCP"},
    "sm90_indexer_logits_kernel": {"QGMMA", "UTMALDG", "USETMAXREG"},
    "sm90_indexer_scan_kernel": {"QGMMA", "UTMALDG", "USETMAXREG"},
    "sm90_paged_indexer_lists_kernel": {"QGMMA", "UTMALDG", "UBLKCP", "USETMAXREG"},
    "sm90_paged_indexer_logits_kernel": {"QGMMA", "UTMALDG", "UBLKCP"},
    "sm90_bf16_sparse_mla_kernel": {"HGMMA", "USETMAXREG"},
    "staged_topk_kernel": {"UBLKCP"},
    "union_kernel": set(),
    "write_index_cache_kernel": set(),
    "write_mla_cache_kernel": set(),
}

SASS = """\
Fatbin elf code:
================
arch = sm_90a
	code for sm_90a
		Function : _ZN7dsa_ops10sparse_mla17sparse_mla_kernelINS0_8Fp8CacheEEEvNS0_10KernelArgsE
        /*0000*/                   LDC R1, c[0x0][0x28] ;     /* 0x00000a00ff017b82 */
                                                              /* 0x000fe20000000800 */
        /*0010*/              @!P0 HGMMA.64x64x16.F32.BF16 R152, gdesc[UR28] ; /* 0x00 */
        /*0020*/             @UP0  BRA 0x180 ;                /* 0x0000000000440947 */
"""
USAGE = """\
 Function _ZN7dsa_ops10sparse_mla17sparse_mla_kernelINS0_8Fp8CacheEEEvNS0_10KernelArgsE:
  REG:168 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:696 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
EXPECTED = Expectation(frozenset({"HGMMA"}), 168)


@pytest.fixture(scope="module")
def built_kernels() -> list[Kernel]:
    require_native()
    sass = run_tool(cuobjdump(), "-sass", CORE_LIBRARY)
    assert architectures(sass) == {"sm_90a"}
    return kernels(sass, run_tool(cuobjdump(), "--dump-resource-usage", CORE_LIBRARY))


def test_no_ptx_is_shipped() -> None:
    require_native()
    assert "ptx" not in run_tool(cuobjdump(), "-lptx", CORE_LIBRARY)


def test_kernel_table_lists_every_kernel(built_kernels: list[Kernel]) -> None:
    native = compiled_module()
    built = {kernel.name for kernel in built_kernels}
    assert {row["name"] for row in native.kernel_table()} == built
    assert built == REQUIRED.keys()


def test_every_kernel_is_made_as_meant(built_kernels: list[Kernel]) -> None:
    native = compiled_module()
    caps: dict[str, int] = {}
    for row in native.kernel_table():
        caps[row["name"]] = max(row["max_registers"], caps.get(row["name"], 0))
    found = [
        problem
        for kernel in built_kernels
        for problem in problems(
            kernel, Expectation(frozenset(REQUIRED[kernel.name]), caps[kernel.name])
        )
    ]
    assert found == []


def doctored(sass: str = SASS, usage: str = USAGE) -> Kernel:
    (kernel,) = kernels(sass, usage)
    return kernel


def test_parser_reads_a_kernel() -> None:
    kernel = doctored()
    assert kernel.name == "sparse_mla_kernel"
    assert kernel.opcodes == {"LDC": 1, "HGMMA": 1, "BRA": 1}
    assert architectures(SASS) == {"sm_90a"}
    assert problems(kernel, EXPECTED) == []


@pytest.mark.parametrize("opcode", ["LDL.64", "STL.128", "HMMA.16816.F32.BF16"])
def test_gate_sees_forbidden_instructions(opcode: str) -> None:
    kernel = doctored(SASS.replace("LDC R1", f"{opcode} R1"))
    assert problems(kernel, EXPECTED) == [f"sparse_mla_kernel: has {opcode.split('.')[0]}"]


def test_gate_sees_a_missing_instruction() -> None:
    kernel = doctored(SASS.replace("HGMMA", "FFMA"))
    assert problems(kernel, EXPECTED) == ["sparse_mla_kernel: no HGMMA"]


@pytest.mark.parametrize(
    ("old", "new"), [("REG:168", "REG:176"), ("STACK:0", "STACK:8"), ("LOCAL:0", "LOCAL:8")]
)
def test_gate_sees_resource_use(old: str, new: str) -> None:
    assert len(problems(doctored(usage=USAGE.replace(old, new)), EXPECTED)) == 1


def test_gate_sees_another_architecture() -> None:
    assert architectures(SASS + "\tcode for sm_75\n") == {"sm_90a", "sm_75"}


def test_unqualified_name() -> None:
    assert unqualified_name("_Z3fooPf") == "foo"
    assert unqualified_name("_ZN7dsa_ops4topk11topk_kernelILi8EEEvi") == "topk_kernel"
    anonymous = "_ZN7dsa_ops45_GLOBAL__N__5b2b3bc2_12_sm90_topk_cu_a8fbd5e911topk_kernelEv"
    assert unqualified_name(anonymous) == "topk_kernel"
