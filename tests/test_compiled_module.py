"""``dsa_ops._C`` without a GPU: the kernel table, launch plans and workspace sizes."""

from __future__ import annotations

import pytest

import dsa_ops
from dsa_ops._library import OPS
from tests.gates.native_build import compiled_module
from tests.gpu.attention_data import SPLIT_ALIKE

#: Multiprocessors and shared memory of a block on an H100.
SMS, SHARED_BYTES = 132, 227 * 1024


def ceil_div(size: int, parts: int) -> int:
    return -(-size // parts)


def test_build_info() -> None:
    info = compiled_module().build_info()
    assert info["version"] == dsa_ops.__version__
    assert info["architecture"] == "sm_90a"


def test_kernel_table() -> None:
    table = compiled_module().kernel_table()
    # The ops that chain others have no kernel of their own.
    assert {row["op"] for row in table} <= set(OPS)
    for row in table:
        assert row["tile"]
        assert row["threads"] % 32 == 0 and row["threads"] <= 1024
        assert row["shared_memory_bytes"] <= SHARED_BYTES
        assert row["threads"] * row["max_registers"] <= 65536


@pytest.mark.parametrize("num_rows", [1, 7, 128, 4096, 100_000])
@pytest.mark.parametrize("num_keys", [1, 127, 8192, 131_072])
@pytest.mark.parametrize("num_heads", [8, 64])
def test_indexer_plan_covers_the_logits(num_rows: int, num_keys: int, num_heads: int) -> None:
    plan = compiled_module().plan_indexer_logits(num_rows, num_keys, num_heads, SMS)
    assert plan["row_tiles"] == ceil_div(num_rows, 256 // num_heads)
    assert plan["key_tiles"] == ceil_div(num_keys, 128)
    tiles = plan["row_tiles"] * plan["key_tiles"]
    assert plan["grid"] == min(tiles, SMS)
    assert plan["pieces"] % plan["grid"] == 0 and plan["grid"] <= plan["pieces"] <= tiles


@pytest.mark.parametrize("batch", [1, 33, 512])
@pytest.mark.parametrize("next_n", range(1, 9))
@pytest.mark.parametrize("num_heads", [8, 64])
def test_paged_plan_covers_all_rows(batch: int, next_n: int, num_heads: int) -> None:
    plan = compiled_module().plan_paged_indexer_logits(batch, next_n, num_heads, 8192, SMS)
    assert plan["tiles_per_request"] == ceil_div(next_n, plan["tile_rows"])
    assert plan["row_tiles"] == batch * plan["tiles_per_request"]
    # Up to four blocks on a multiprocessor, and none without a page.
    assert 1 <= plan["grid"] <= min(4 * SMS, plan["row_tiles"] * 128)


@pytest.mark.parametrize("num_rows", [0, 1, 64, 4096, 100_000])
@pytest.mark.parametrize("num_columns", [1, 2048, 32_768, 1 << 20])
@pytest.mark.parametrize("top_k", [1, 512, 2048, 4096])
def test_topk_plan_fits_the_device(num_rows: int, num_columns: int, top_k: int) -> None:
    plan = compiled_module().plan_topk(num_rows, num_columns, top_k, SMS)
    assert plan["cluster_size"] in (1, 2, 4, 8, 16)
    assert plan["num_blocks"] == num_rows * plan["cluster_size"]
    assert plan["shared_bytes"] <= SHARED_BYTES


@pytest.mark.parametrize("num_rows", [1, 8, 66, 67, 4096])
@pytest.mark.parametrize("num_heads", [1, 64, 65, 128])
@pytest.mark.parametrize("top_k", [1, 64, 2048, 2051])
def test_decode_plan_fills_the_device_once(num_rows: int, num_heads: int, top_k: int) -> None:
    plan = compiled_module().plan_sparse_mla_decode(num_rows, num_heads, top_k, SMS)
    blocks = ceil_div(top_k, 64)
    assert plan["tile_heads"] in (8, 16, 32, 64)
    assert plan["head_tiles"] == ceil_div(num_heads, plan["tile_heads"])
    # Every block of 64 tokens in a split.
    assert 1 <= plan["num_splits"] <= 16
    if plan["num_splits"] == 1:
        assert not plan["through_scratch"]
    elif not plan["through_scratch"]:  # a cluster of thread blocks
        assert plan["num_splits"] in {16: (2, 3, 4, 8, 16), 64: (2,)}.get(
            plan["tile_heads"], (2, 4, 8, 16)
        )
    assert plan["blocks_per_split"] == ceil_div(blocks, plan["num_splits"])
    if plan["num_splits"] > 1:
        assert num_rows * plan["head_tiles"] * plan["num_splits"] <= SMS


def test_batches_that_the_gpu_tests_compare_are_split_alike() -> None:
    ways = set()
    for num_heads, *batches in SPLIT_ALIKE:
        few, many = (
            compiled_module().plan_sparse_mla_decode(num_rows, num_heads, 2048, SMS)
            for num_rows in batches
        )
        assert few == many, (num_heads, batches)
        ways.add((few["tile_heads"], few["num_splits"] > 1, few["through_scratch"]))
    cluster, scratch, whole = (True, False), (True, True), (False, False)
    assert ways == {(tile, *way) for tile in (8, 16, 32, 64) for way in (cluster, scratch, whole)}


@pytest.mark.parametrize(
    ("planner", "sizes"),
    [
        ("plan_indexer_logits", (0, 1, 64, SMS)),
        ("plan_paged_indexer_logits", (1, 0, 64, 64, SMS)),
        ("plan_topk", (1, 1, 0, SMS)),
        ("plan_sparse_mla_decode", (1, 1, 64, 0)),
    ],
)
def test_planners_name_a_size_of_zero(planner: str, sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{planner}: [a-z_]+ must be at least 1, got 0"):
        getattr(compiled_module(), planner)(*sizes)


def test_workspaces() -> None:
    module = compiled_module()
    for name in ("indexer_topk_workspace_bytes", "paged_indexer_topk_workspace_bytes"):
        size = getattr(module, name)
        assert size(0, 4096) == 0
        # Logits exist in chunks: beyond one chunk, rows cost next to nothing more.
        assert 4 * 128 * 4096 <= size(128, 4096) < size(1 << 20, 4096) < 4 * 4096 << 20
    split = module.sparse_mla_decode_workspace_bytes
    assert split(0, 128, 2048, SMS) == 0
    assert split(1, 128, 2048, SMS) > 2 * 128 * (512 + 1) * 4
    assert split(4096, 128, 2048, SMS) == 0
    assert split(32_768, 64, 2048, SMS) < 256 << 20


def test_workspace_of_packed_rows() -> None:
    size = compiled_module().sparse_mla_prefill_workspace_bytes
    for num_heads in (1, 5, 8, 16, 32):
        # Too little work for packs to pay, enough of it, and more than one launch takes.
        assert size(0, num_heads, 2048, SMS) == size(8 * SMS - 1, num_heads, 2048, SMS) == 0
        entries = 2605 * 830
        assert 4 * entries < size(2605, num_heads, 830, SMS) < 5 * entries + (1 << 17)
        assert 40 << 20 < size(1 << 20, num_heads, 2048, SMS) < 82 << 20
    assert size(4096, 33, 2048, SMS) == size(4096, 128, 2048, SMS) == 0
    assert size(4096, 8, 0, SMS) == size(4096, 8, 2**31 - 65, SMS) == 0
    assert size(4096, 8, 2048, 0) == size(4096, 0, 2048, SMS) == 0
