"""No kernel spills, uses local memory, or has its wgmma or setmaxnreg silently undone."""

from __future__ import annotations

import pytest

from tests.gates.native_build import ROOT, build_folder
from tests.gates.ptxas_log import FATAL_ADVISORIES, kernel_reports, problems

GOOD = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z3fooPf' for 'sm_90a'
ptxas info    : Function properties for _Z3fooPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 168 registers, used 7 barriers
"""


def test_every_cuda_source_has_a_clean_log() -> None:
    logs = build_folder() / "CMakeFiles" / "dsa_ops.dir"
    sources = sorted((ROOT / "csrc" / "kernels").rglob("*.cu"))
    assert sources
    for source in sources:
        log = (logs / f"{source.relative_to(ROOT)}.o.log").read_text()
        assert kernel_reports(log), f"{source.name}: ptxas reported no kernel"
        assert problems(log) == [], source.name


def test_parser_reads_resources() -> None:
    (report,) = kernel_reports(GOOD)
    assert (report.name, report.registers, report.spill_bytes) == ("_Z3fooPf", 168, 0)
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0 bytes spill stores", "8 bytes spill stores"),
        ("0 bytes spill loads", "16 bytes spill loads"),
        ("0 bytes stack frame", "32 bytes stack frame"),
        ("sm_90a", "sm_90"),
        ("ptxas info    : 0 bytes gmem", "ptxas warning : something"),
    ],
)
def test_gate_sees_bad_resources(old: str, new: str) -> None:
    assert len(problems(GOOD.replace(old, new))) == 1


@pytest.mark.parametrize("advisory", FATAL_ADVISORIES)
def test_gate_sees_advisories(advisory: str) -> None:
    line = f"ptxas info    : ({advisory}) Potential Performance Loss in function 'foo'\n"
    assert problems(GOOD + line) == [line.strip()]


def test_parser_rejects_a_truncated_log() -> None:
    with pytest.raises(ValueError, match="no resource usage for _Z3fooPf"):
        kernel_reports(GOOD.partition("ptxas info    : Used")[0])
