"""Which top-k kernel a launch takes, from its sizes alone."""

from __future__ import annotations

import pytest

from tests.gates.native_build import compiled_module

NUM_SMS = 132
MAX_SHARED_BYTES = 232_448
ROWS = [1, 2, 8, 15, 16, 17, 63, 64, 66, 67, 131, 132, 133, 4096, 70_000]
COLUMNS = [1, 100, 4096, 8192, 16_384, 16_385, 32_768, 65_536, 131_072, 262_144, 1 << 20, 1 << 31]


def choice(num_rows: int, num_columns: int, top_k: int = 2048) -> tuple[str, int]:
    plan = compiled_module().plan_topk(num_rows, num_columns, top_k, NUM_SMS)
    return plan["selector"], plan["cluster_size"]


@pytest.mark.parametrize(
    ("num_rows", "num_columns", "expected"),
    [
        (1, 8192, ("resident", 4)),
        (1, 131_072, ("resident", 8)),
        (16, 131_072, ("resident", 8)),
        (64, 32_768, ("resident", 2)),
        (128, 8192, ("resident", 1)),
        (4096, 8192, ("resident", 1)),
        (1, 1 << 20, ("gated", 16)),
        (16, 1 << 20, ("gated", 4)),
        (64, 131_072, ("gated", 2)),
        (128, 65_536, ("gated", 2)),
        (128, 32_768, ("gated", 1)),
        (256, 131_072, ("gated", 1)),
        (4096, 32_768, ("gated", 1)),
        (4096, 131_072, ("gated", 1)),
    ],
)
def test_measured_sizes_take_the_faster_kernel(
    num_rows: int, num_columns: int, expected: tuple[str, int]
) -> None:
    assert choice(num_rows, num_columns) == expected


@pytest.mark.parametrize(
    ("num_rows", "num_columns", "other_rows", "other_columns"),
    [
        (4096, 16_384, 4096, 16_385),
        (16, 262_144, 16, 262_145),
        (16, 262_144, 17, 262_144),
        (66, 65_536, 66, 65_537),
        (66, 65_536, 67, 65_536),
    ],
)
def test_where_the_resident_kernel_ends(
    num_rows: int, num_columns: int, other_rows: int, other_columns: int
) -> None:
    assert choice(num_rows, num_columns)[0] == "resident"
    assert choice(other_rows, other_columns)[0] == "gated"


@pytest.mark.parametrize("num_sms", [78, 114, 132])
@pytest.mark.parametrize("top_k", [1, 2048, 4096])
def test_every_plan_can_be_launched(top_k: int, num_sms: int) -> None:
    for num_rows in ROWS:
        for num_columns in COLUMNS:
            plan = compiled_module().plan_topk(num_rows, num_columns, top_k, num_sms)
            sizes = (1, 2, 4, 8) if plan["selector"] == "resident" else (1, 2, 4, 16)
            assert plan["cluster_size"] in sizes
            assert plan["num_blocks"] == num_rows * plan["cluster_size"]
            assert plan["shared_bytes"] <= MAX_SHARED_BYTES
            if plan["selector"] == "gated":
                assert top_k <= plan["capacity"] < num_columns
            elif num_columns > top_k:
                assert plan["capacity"] * plan["cluster_size"] >= num_columns
