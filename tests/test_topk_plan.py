"""Which top-k kernel a launch takes, from its sizes alone."""

from __future__ import annotations

import pytest

from tests.gates.native_build import compiled_module

NUM_SMS = 132
MAX_SHARED_BYTES = 232_448
ROWS = [1, 2, 8, 15, 16, 17, 63, 64, 66, 67, 131, 132, 133, 4096, 70_000]
HELD = [
    ("binned", 1, 512, 16),
    ("resident", 16, 512, 16),
    ("staged", 1, 256, 32),
]
COLUMNS = [1, 100, 4096, 8192, 16_384, 16_385, 32_768, 65_536, 131_072, 262_144, 1 << 20, 1 << 31]


def choice(
    num_rows: int, num_columns: int, aligned_rows: bool = True, from_zero: bool = True
) -> tuple[str, int, int]:
    plan = compiled_module().plan_topk(
        num_rows, num_columns, 2048, NUM_SMS, aligned_rows, from_zero
    )
    return plan["selector"], plan["cluster_size"], plan["block_threads"]


@pytest.mark.parametrize(
    ("num_rows", "num_columns", "expected"),
    [
        (1, 8192, ("binned", 1, 512)),
        (128, 8192, ("binned", 1, 512)),
        (4096, 8192, ("staged", 1, 256)),
        (1, 32_768, ("resident", 16, 512)),
        (1, 131_072, ("resident", 16, 512)),
        (4, 131_072, ("resident", 16, 512)),
        (8, 131_072, ("gated", 8, 512)),
        (32, 32_768, ("gated", 2, 512)),
        (64, 32_768, ("gated", 2, 512)),
        (16, 131_072, ("gated", 8, 512)),
        (1, 1 << 20, ("gated", 16, 512)),
        (16, 1 << 20, ("gated", 8, 512)),
        (64, 1 << 20, ("gated", 8, 512)),
        (64, 131_072, ("gated", 2, 512)),
        (128, 65_536, ("gated", 2, 512)),
        (256, 131_072, ("gated", 1, 512)),
        (4096, 32_768, ("gated", 1, 512)),
        (4096, 131_072, ("gated", 1, 512)),
    ],
)
def test_measured_sizes_take_the_fastest_kernel(
    num_rows: int, num_columns: int, expected: tuple[str, int, int]
) -> None:
    assert choice(num_rows, num_columns) == expected


@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 8192), (4096, 8192), (4, 131_072)])
def test_unaligned_rows_need_room_before_a_slice(num_rows: int, num_columns: int) -> None:
    assert choice(num_rows, num_columns, aligned_rows=False) != choice(num_rows, num_columns)
    fewer = num_columns * 7 // 8
    assert choice(num_rows, fewer, aligned_rows=False) == choice(num_rows, fewer)


@pytest.mark.parametrize(("num_rows", "num_columns"), [(1, 8192), (4096, 8192)])
def test_ranges_in_aligned_rows_need_no_room_in_a_single_block(
    num_rows: int, num_columns: int
) -> None:
    assert choice(num_rows, num_columns, from_zero=False) == choice(num_rows, num_columns)


def test_ranges_in_aligned_rows_need_room_before_a_slice_of_a_cluster() -> None:
    assert choice(4, 131_072, from_zero=False) != choice(4, 131_072)


@pytest.mark.parametrize("num_sms", [78, 114, 132])
@pytest.mark.parametrize("top_k", [1, 2048, 4096])
def test_every_plan_can_be_launched(top_k: int, num_sms: int) -> None:
    for num_rows in ROWS:
        for num_columns in COLUMNS:
            for aligned, from_zero in ((False, False), (True, False), (True, True)):
                plan = compiled_module().plan_topk(
                    num_rows, num_columns, top_k, num_sms, aligned, from_zero
                )
                assert plan["num_blocks"] == num_rows * plan["cluster_size"]
                assert plan["shared_bytes"] <= MAX_SHARED_BYTES
                if plan["selector"] == "gated":
                    assert plan["cluster_size"] in (1, 2, 8, 16)
                    assert plan["capacity"] >= top_k
                    continue
                names = ("selector", "cluster_size", "block_threads", "thread_keys")
                assert tuple(plan[name] for name in names) in HELD
                slice_length = -(-num_columns // plan["cluster_size"] // 8) * 8
                alone = plan["cluster_size"] == 1
                before = 0 if aligned and (from_zero or alone) else 7
                held = plan["block_threads"] * plan["thread_keys"]
                assert held >= slice_length + before
