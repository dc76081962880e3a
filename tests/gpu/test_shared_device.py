"""Several processes at once: the device gives each slices of its time, between which blocks stop
anywhere and their shared memory is put away. No result may tell.

Once the words of barriers that a kernel had left in shared memory, and not ended, turned up in what
that memory held since: never in a process alone, within seconds in half of eight.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

WORKER = Path(__file__).with_name("shared_worker.py")
PROCESSES = 8
SECONDS = 6
TIMEOUT = 120


def start(seed: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(seed), str(SECONDS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until_ready(worker: subprocess.Popen[str]) -> None:
    assert worker.stdout is not None
    lines = []
    for line in worker.stdout:
        if line == "ready\n":
            return
        lines.append(line)
    raise AssertionError("".join(lines))


def test_every_op_beside_other_processes() -> None:
    """Inputs and expected results are ready in all before any starts to repeat its calls."""
    torch.cuda.empty_cache()
    workers = [start(seed) for seed in range(PROCESSES)]
    try:
        for worker in workers:
            until_ready(worker)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        reports = [worker.communicate(timeout=TIMEOUT)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    codes = [worker.returncode for worker in workers]
    assert codes == [0] * PROCESSES, "\n".join(reports)
