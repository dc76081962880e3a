"""One of the processes of test_shared_device.py: ``python shared_worker.py SEED SECONDS``.

Prepares its calls, says so, waits for a line, then repeats the calls in random order and compares
every result. Ends with 1 if one differed.
"""

from __future__ import annotations

import random
import sys
import time

import torch

from tests.gpu.shared_calls import Call, all_calls
from tests.gpu.tools import DEVICE


def repeat(calls: list[Call], seconds: float, rng: random.Random) -> int:
    """Adds to ``wrong`` what differs, without waiting between the calls of a round."""
    wrong = torch.zeros(len(calls), dtype=torch.int32)
    rounds = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for index in rng.sample(range(len(calls)), len(calls)):
            calls[index].play()
            wrong[index] += calls[index].differs()
        torch.cuda.synchronize()
        rounds += 1
    for call, count in zip(calls, wrong.tolist(), strict=True):
        if count > 0:
            print(f"{call.name}: {count} of {rounds} results differ")
    print(f"{rounds} rounds of {len(calls)} calls", flush=True)
    return int(wrong.sum())


def main(seed: int, seconds: float) -> int:
    torch.manual_seed(seed)
    torch.set_default_device(DEVICE)
    calls = all_calls()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    print("ready", flush=True)
    if not sys.stdin.readline():  # whoever started this has ended
        return 1
    return min(repeat(calls, seconds, random.Random(seed)), 1)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
