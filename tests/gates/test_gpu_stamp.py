"""The last run of tests/gpu passed, and was of these sources (a warning if not)."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest

from tests.digest import source_digest
from tests.gates.native_build import ROOT

STAMP = ROOT / "tests" / "gpu_stamp.json"


def check_stamp(stamp: dict[str, Any], digest: str) -> None:
    """Fails for recorded failures; warns for other sources."""
    assert stamp["failed"] == 0, f"{stamp['failed']} GPU tests failed on {stamp['device']}"
    assert stamp["passed"] > 0, "the GPU run passed no test"
    if stamp["digest"] != digest:
        warnings.warn(
            f"tests/gpu last ran on other sources ({stamp['digest'][:12]}, now {digest[:12]})",
            stacklevel=2,
        )


def test_last_gpu_run_passed() -> None:
    assert STAMP.exists(), "tests/gpu has never run: no tests/gpu_stamp.json"
    check_stamp(json.loads(STAMP.read_text()), source_digest())


STAMP_EXAMPLE = {"digest": "a", "device": "GPU", "torch": "2.11.0", "passed": 3, "failed": 0}


def test_gate_sees_failures() -> None:
    with pytest.raises(AssertionError, match="1 GPU tests failed on GPU"):
        check_stamp({**STAMP_EXAMPLE, "failed": 1}, "a")
    with pytest.raises(AssertionError, match="passed no test"):
        check_stamp({**STAMP_EXAMPLE, "passed": 0}, "a")


def test_gate_warns_of_other_sources() -> None:
    with pytest.warns(UserWarning, match="last ran on other sources"):
        check_stamp(STAMP_EXAMPLE, "b")


def test_gate_accepts_a_fresh_stamp() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_stamp(STAMP_EXAMPLE, "a")
