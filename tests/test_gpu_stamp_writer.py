"""When the run of tests/gpu is stamped, and with what."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.gpu import conftest as gpu

FILES = ("test_caches.py", "test_topk.py")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A stand-in for tests/gpu with two files, on a machine that can run them."""
    for name in FILES:
        (tmp_path / name).touch()
    monkeypatch.setattr(gpu, "_FOLDER", tmp_path)
    monkeypatch.setattr(gpu, "skip_reason", lambda: None)
    monkeypatch.setattr(gpu, "source_digest", lambda: "abc")
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setenv("DSA_OPS_GPU_STAMP", str(tmp_path / "stamp.json"))
    return tmp_path


def _items(folder: Path, names=FILES):
    return [SimpleNamespace(path=folder / name, nodeid=f"{name}::test") for name in names]


def _run(folder, names=FILES, args=("tests",), failed=(), stopped_after=None, deselected=()):
    """Plays a session through the hooks; returns the stamp, or None when none was written."""
    stamp = gpu._Stamp()
    items = _items(folder, names)
    if deselected:
        stamp.pytest_deselected(_items(folder, deselected))
    session = SimpleNamespace(items=items, config=SimpleNamespace(args=list(args)))
    stamp.pytest_collection_finish(session)
    for item in items[:stopped_after]:
        for when in ("setup", "call", "teardown"):
            fails = when == "call" and item.path.name in failed
            stamp.pytest_runtest_logreport(
                SimpleNamespace(nodeid=item.nodeid, when=when, failed=fails, passed=not fails)
            )
    stamp.pytest_sessionfinish()
    path = folder / "stamp.json"
    return json.loads(path.read_text()) if path.exists() else None


def test_a_whole_run_is_stamped_with_its_counts(folder):
    stamp = _run(folder, failed=["test_topk.py"])
    assert stamp == {
        "digest": "abc",
        "device": "a GPU",
        "torch": gpu.torch.__version__,
        "passed": 1,
        "failed": 1,
    }


@pytest.mark.parametrize(
    "part",
    [
        {"names": FILES[:1]},
        {"deselected": FILES[:1]},
        {"args": ["tests/gpu/test_topk.py::test"]},
        {"stopped_after": 1},
        {"names": ()},
    ],
    ids=["one file", "-k", "node id", "-x", "nothing"],
)
def test_a_partial_run_leaves_no_stamp(folder, part):
    assert _run(folder, **part) is None


def test_a_run_without_the_gpu_leaves_no_stamp(folder, monkeypatch):
    monkeypatch.setattr(gpu, "skip_reason", lambda: "there is no CUDA device")
    assert _run(folder) is None
