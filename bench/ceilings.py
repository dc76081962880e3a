"""What each device was measured to do at most, and the floor that this sets for a call.

H100 80GB HBM3 (SXM, 132 SMs, 700 W), driver 580, CUDA 13.0, 2026-11-22:
- matrix products: 8192 x 8192 x 8192, sustained, cuBLAS (bf16) and cuBLASLt (e4m3, fast
  accumulation);
- stream: device-to-device copy of 4 GiB, bytes read plus bytes written;
- gathers of whole rows out of pools of growing size: the best of a warp-per-row read of uniformly
  random rows and of a loader into shared memory with ascending lists, 132 CTAs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .formulas import Work


@dataclass(frozen=True)
class Ceilings:
    """Measured limits of one device; ``gather_tbs`` is ``{row bytes: ((pool MB, TB/s), ...)}``."""

    matrix_tflops: dict[str, float]
    stream_tbs: float
    gather_tbs: dict[int, tuple[tuple[float, float], ...]]


#: By device slug; a device that is not here gets no "% of ceiling".
CEILINGS = {
    "h100-80gb-hbm3": Ceilings(
        matrix_tflops={"e4m3": 1316.0, "bf16": 787.0},
        stream_tbs=3.03,
        gather_tbs={
            1152: ((9, 8.91), (38, 7.52), (151, 6.45), (604, 3.65), (1728, 3.01)),
            656: ((5, 6.61), (21, 6.10), (86, 4.07), (344, 2.95), (984, 2.67)),
        },
    )
}


@dataclass(frozen=True)
class Floor:
    """The least time that the measured ceilings allow, and the one that sets it."""

    us: float
    bound: str


def gather_rate(ceilings: Ceilings, row_bytes: int, pool_bytes: int) -> float:
    """TB/s of a gather, linear in the logarithm of the pool between the measured pools."""
    points = ceilings.gather_tbs[row_bytes]
    pool_mb = pool_bytes / 1e6
    if pool_mb <= points[0][0]:
        return points[0][1]
    for (small_mb, small_tbs), (large_mb, large_tbs) in zip(points, points[1:], strict=False):
        if pool_mb <= large_mb:
            share = math.log(pool_mb / small_mb) / math.log(large_mb / small_mb)
            return small_tbs + share * (large_tbs - small_tbs)
    return points[-1][1]


def floor(work: Work, ceilings: Ceilings) -> Floor:
    """The slowest of the matrix products, the stream and the gather of ``work``."""
    floors = [
        Floor(work.flops / ceilings.matrix_tflops[work.math] * 1e-6, work.math),
        Floor(work.streamed_bytes / ceilings.stream_tbs * 1e-6, "stream"),
    ]
    if work.gather_row_bytes:
        rate = gather_rate(ceilings, work.gather_row_bytes, work.gather_pool_bytes)
        floors.append(Floor(work.gathered_bytes / rate * 1e-6, "gather"))
    return max(floors, key=lambda one: one.us)
