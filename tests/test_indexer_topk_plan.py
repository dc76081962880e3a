"""Which calls of indexer_topk are fused, from sizes alone, and how their scratch is cut."""

from __future__ import annotations

import pytest

from tests.gates.native_build import compiled_module

NUM_SMS = 132
WORKSPACE_BYTES = 64 << 20


def plan(
    num_rows: int, num_keys: int, num_heads: int = 64, top_k: int = 2048, num_sms: int = NUM_SMS
) -> dict[str, int]:
    return dict(compiled_module().plan_indexer_topk(num_rows, num_keys, num_heads, top_k, num_sms))


@pytest.mark.parametrize(
    ("num_rows", "num_keys"),
    [(4096, 12_288), (4096, 32_768), (2048, 32_768), (512, 131_072), (131_072, 131_072)],
)
def test_many_rows_of_long_contexts_are_fused(num_rows: int, num_keys: int) -> None:
    assert plan(num_rows, num_keys)["scan_rows"] > 0


@pytest.mark.parametrize(
    ("num_rows", "num_keys", "num_heads", "top_k", "num_sms"),
    [
        (4096, 8192, 64, 2048, NUM_SMS),
        (1024, 32_768, 64, 2048, NUM_SMS),
        (256, 1 << 20, 64, 2048, NUM_SMS),
        (4096, 131_072, 32, 2048, NUM_SMS),
        (4096, 131_072, 64, 2049, NUM_SMS),
        (4096, (1 << 20) + 1, 64, 2048, NUM_SMS),
        (4096, 131_072, 64, 2048, 7),
    ],
)
def test_what_chunks_of_logits_keep(
    num_rows: int, num_keys: int, num_heads: int, top_k: int, num_sms: int
) -> None:
    assert plan(num_rows, num_keys, num_heads, top_k, num_sms)["scan_rows"] == 0


@pytest.mark.parametrize("num_sms", [8, 78, 114, NUM_SMS])
@pytest.mark.parametrize("top_k", [1, 100, 512, 2048])
@pytest.mark.parametrize("num_rows", [512, 530, 4096, 4097, 131_072])
def test_scratch_fits_the_workspace(num_rows: int, top_k: int, num_sms: int) -> None:
    native = compiled_module()
    for num_keys in (5000, 32_768, 131_072, 1 << 20):
        chosen = plan(num_rows, num_keys, 64, top_k, num_sms)
        if chosen["scan_rows"] == 0:
            continue
        given = native.indexer_topk_workspace_bytes(num_rows, num_keys)
        assert chosen["workspace_bytes"] <= given == WORKSPACE_BYTES
        assert chosen["group_rows"] % 4 == chosen["scan_rows"] % 4 == 0
        assert chosen["group_rows"] <= num_rows + 3
        assert chosen["scan_rows"] * (chosen["num_scans"] - 1) < chosen["group_rows"]
        assert chosen["scan_rows"] * chosen["num_scans"] >= chosen["group_rows"]
        # A row's candidates are about twice top_k; its 128 lists share them.
        assert chosen["list_capacity"] * 128 >= 3 * top_k
        assert 1 <= chosen["rescore_clusters"] <= num_sms // 8


@pytest.mark.parametrize("num_keys", [8192, 131_072])
@pytest.mark.parametrize("num_rows", [1, 64, 4096, 131_072])
def test_workspace_is_bounded(num_rows: int, num_keys: int) -> None:
    given = compiled_module().indexer_topk_workspace_bytes(num_rows, num_keys)
    assert given <= WORKSPACE_BYTES


@pytest.mark.parametrize("columns", [1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1])
def test_workspaces_of_absurd_sizes_have_a_size(columns: int) -> None:
    native = compiled_module()
    for op in ("indexer_topk", "paged_indexer_topk"):
        bytes_of = getattr(native, f"{op}_workspace_bytes")
        assert bytes_of(3, columns) == bytes_of(3, (1 << 31) - 1) >= 1 << 33
