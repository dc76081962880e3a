"""No rows and caches of no pages, with strides of 0 as NumPy gives them to empty arrays."""

from __future__ import annotations

import pytest
from torch import Tensor

from dsa_ops._library import OPS
from tests import cache_arguments, select_arguments
from tests.bad_inputs import Arguments, assert_native_wants_cuda, in_schema_order, needs_native
from tests.registration import in_bytes

GOOD_ARGUMENTS = select_arguments.GOOD_ARGUMENTS | cache_arguments.GOOD_ARGUMENTS

#: By op the arguments that have an entry for each row, and the cache.
PER_ROW = {
    "indexer_logits": ("q weights row_starts row_ends logits", ""),
    "cached_indexer_logits": ("q weights row_starts row_ends logits", "index_cache"),
    "paged_indexer_logits": ("q weights context_lens block_table logits", "index_cache"),
    "topk": ("logits row_ends row_starts row_to_request row_offsets indices", ""),
    "indexer_topk": ("q weights row_starts row_ends row_to_request indices", ""),
    "paged_indexer_topk": ("q weights context_lens block_table indices", "index_cache"),
    "sparse_mla_prefill": ("q indices topk_lens out lse max_logits", ""),
    "sparse_mla_decode": ("q indices topk_lens out lse", "kv_cache"),
    "write_index_cache": ("k slot_mapping", "index_cache"),
    "gather_index_cache": ("k k_scale", "index_cache"),
    "write_mla_cache": ("kv_latent k_rope slot_mapping", "mla_cache"),
    "gather_mla_cache": ("kv", "mla_cache"),
    "prepare_index_q": ("q positions weights q_out weights_out", ""),
    "prepare_index_k": ("k positions slot_mapping", "index_cache"),
    "merge_states": ("out_a lse_a out_b lse_b out lse", ""),
}


def emptied(tensor: Tensor) -> Tensor:
    return tensor[:0].as_strided((0, *tensor.shape[1:]), (0,) * tensor.dim())


def without_rows(op: str, *, pages: bool) -> Arguments:
    arguments = GOOD_ARGUMENTS[op]()
    rows, cache = PER_ROW[op]
    for name in [*rows.split(), *([] if pages or not cache else [cache])]:
        arguments[name] = emptied(arguments[name])
    return arguments


@pytest.mark.parametrize("pages", [True, False])
@pytest.mark.parametrize("op", PER_ROW)
def test_no_rows_do_nothing(op: str, pages: bool) -> None:
    arguments = without_rows(op, pages=pages)
    whole = {n: t for n, t in arguments.items() if isinstance(t, Tensor) and t.numel()}
    before = in_bytes(whole)
    OPS[op].overload(*in_schema_order(op, arguments))
    after = in_bytes(whole)
    assert all(before[name].equal(after[name]) for name in before)


@needs_native
@pytest.mark.parametrize("pages", [True, False])
@pytest.mark.parametrize("op", PER_ROW)
def test_bindings_take_no_rows(op: str, pages: bool) -> None:
    assert_native_wants_cuda(op, lambda: without_rows(op, pages=pages))
