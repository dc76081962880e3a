"""Tests of the compiled kernels: skipped where there is no Hopper GPU, stamped where all ran.

``DSA_OPS_REQUIRE_GPU=1`` turns the skips into errors. A run of the whole folder, with nothing
deselected, writes ``tests/gpu_stamp.json``: the digest of the native sources it ran on, device,
torch and counts. ``DSA_OPS_GPU_STAMP`` names another path for it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from dsa_ops import _native
from tests.digest import source_digest

_FOLDER = Path(__file__).parent
_DEFAULT_STAMP = _FOLDER.parent / "gpu_stamp.json"


def skip_reason() -> str | None:
    """Why these tests cannot run here, or None."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return _native.unserved_reason(torch.cuda.current_device())


@pytest.fixture(scope="session", autouse=True)
def hopper() -> None:
    """Skips, or fails where a GPU is required, before any other fixture of these tests."""
    reason = skip_reason()
    if reason is None:
        return
    if os.environ.get("DSA_OPS_REQUIRE_GPU") == "1":
        pytest.fail(f"DSA_OPS_REQUIRE_GPU=1, but {reason}", pytrace=False)
    pytest.skip(reason)


class _Stamp:
    """Counts the outcomes of this folder's tests and writes them at the end of a whole run."""

    def __init__(self) -> None:
        self._expected: set[str] = set()
        self._finished: set[str] = set()
        self._failed: set[str] = set()
        self._passed: set[str] = set()
        self._partial = False

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._partial |= any(_FOLDER in item.path.parents for item in items)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        ours = [item for item in session.items if _FOLDER in item.path.parents]
        self._expected = {item.nodeid for item in ours}
        collected = {item.path for item in ours}
        self._partial |= any("::" in argument for argument in session.config.args)
        self._partial |= collected != set(_FOLDER.rglob("test_*.py"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid not in self._expected:
            return
        if report.failed:
            self._failed.add(report.nodeid)
        elif report.when == "call" and report.passed:
            self._passed.add(report.nodeid)
        if report.when == "teardown":
            self._finished.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        whole = bool(self._expected) and not self._partial and self._finished == self._expected
        if not whole or skip_reason() is not None:
            return
        stamp = {
            "digest": source_digest(),
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "passed": len(self._passed - self._failed),
            "failed": len(self._failed),
        }
        path = Path(os.environ.get("DSA_OPS_GPU_STAMP", _DEFAULT_STAMP))
        path.write_text(json.dumps(stamp, indent=1) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Stamp())
