"""What the indexer, top-k and attention ops must reject, in Python and in C++."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import dsa_ops
from dsa_ops._library import OPS
from dsa_ops.formats import FP8
from tests import select_arguments as good
from tests.bad_inputs import (
    BadInput,
    Change,
    as_dtype,
    assert_native_rejects,
    assert_native_wants_cuda,
    assert_python_rejects,
    needs_native,
    on_meta,
    padded_rows,
    replaced_by,
    resized,
    strided_last_dim,
    table,
    viewed_as,
)
from tests.registration import outputs_of
from tests.select_arguments import GOOD_ARGUMENTS, ints

LAST_DIM = "contiguous in its last dimension, got stride 2"


def plain(argument: str, dtype: str, *wrong_shape: int) -> list[Change]:
    """What every tensor with free strides must refuse: a dtype, a shape, a strided last dim."""
    return [
        Change(f"{argument} is int16", argument, as_dtype(torch.int16), f"{dtype}, got int16"),
        Change(f"{argument} has another shape", argument, resized(*wrong_shape), r"of shape \["),
        Change(f"{argument} has no dimension", argument, resized(), r"of shape \[.*, got \[\]"),
        Change(f"{argument} strided", argument, strided_last_dim, LAST_DIM),
    ]  # fmt: skip


def on_another_device(*arguments: str, first: str = "q") -> list[Change]:
    expected = f"on the device of {first}, got another device"
    return [Change(f"{name} on meta", name, on_meta, expected) for name in arguments]


def index_queries(*wrong_shape: int) -> list[Change]:
    return [
        *plain("q", "float8_e4m3fn", *wrong_shape),
        Change("q as uint8", "q", viewed_as(torch.uint8), "float8_e4m3fn, got uint8"),
        Change("q misaligned", "q", padded_rows(8), "aligned to 16 bytes in every stride, got"),
    ]


RAGGED = [
    *index_queries(4, 8, 64),
    Change("12 heads", "q", resized(4, 12, 128), r"of shape \[T, Hi\], got", "weights"),
    *plain("k", "float8_e4m3fn", 10, 64),
    Change("k as uint8", "k", viewed_as(torch.uint8), "float8_e4m3fn, got uint8"),
    Change("k misaligned", "k", padded_rows(8), "aligned to 16 bytes in every stride, got a"),
    *plain("k_scale", "float32", 9),
    *plain("weights", "float32", 4, 16),
    *plain("row_starts", "int32", 5),
    *plain("row_ends", "int32", 3),
    Change("row_ends as int64", "row_ends", as_dtype(torch.int64), "int32, got int64"),
]

CACHE = [
    Change("cache is fp8", "index_cache", viewed_as(FP8), "uint8, got float8_e4m3fn"),
    Change("cache of 32 tokens", "index_cache", resized(3, 32, 132), r"of shape .*\[3, 32, 132\]"),
    Change("cache of 656 bytes", "index_cache", resized(3, 64, 656), r"of shape .*\[3, 64, 656\]"),
    Change("cache strided", "index_cache", strided_last_dim, LAST_DIM),
    Change("cache padded per token", "index_cache", padded_rows(12), "packed, 132 bytes per token"),
    Change(
        "cache with an odd page stride", "index_cache",
        lambda cache: good.filled_index_cache(len(cache), 8456), "aligned to 16 bytes in every",
    ),
]  # fmt: skip

CACHED = [
    *index_queries(4, 8, 64),
    *CACHE,
    *plain("page_ids", "int32", 3, 1),
    *plain("weights", "float32", 4, 16),
    *plain("row_starts", "int32", 5),
    *plain("row_ends", "int32", 3),
]

PAGED = [
    *index_queries(2, 2, 8, 64),
    Change("q of rank 3", "q", resized(4, 8, 128), r"of shape \[B, next_n, Hi, 128\], got \["),
    *CACHE,
    *plain("weights", "float32", 2, 8),
    *plain("context_lens", "int32", 2, 3),
    *plain("block_table", "int32", 3, 2),
]

TRANSLATION = [
    *plain("block_table", "int32", 2),
    *plain("row_to_request", "int32", 3),
    Change(
        "row_to_request alone", "block_table", replaced_by(None),
        "None without block_table, got a tensor", "row_to_request",
    ),
]  # fmt: skip

INDICES = [
    *plain("indices", "int32", 3, 7),
    Change("k = 0", "indices", resized(4, 0), "from 1 to 4096, got 0", "top_k"),
    Change("k = 4097", "indices", resized(4, 4097), "from 1 to 4096, got 4097", "top_k"),
]

ATTENTION = [
    *plain("q", "bfloat16", 3, 4, 500),
    Change("q is float16", "q", as_dtype(torch.float16), "bfloat16, got float16"),
    Change("q misaligned", "q", padded_rows(4), "aligned to 16 bytes in every stride, got a"),
    *plain("indices", "int32", 2, 4),
    Change("indices as int64", "indices", as_dtype(torch.int64), "int32, got int64"),
    Change("k = 0", "indices", resized(3, 0), "of 1 or more columns, got 0"),
    *plain("topk_lens", "int32", 2),
    *plain("attn_sink", "float32", 5),
    *plain("out", "bfloat16", 3, 4, 576),
    Change("out misaligned", "out", padded_rows(4), "aligned to 16 bytes in every stride, got a"),
    *plain("lse", "float32", 4, 3),
    Change("lse padded", "lse", padded_rows(4), r"contiguous, got strides \[8, 1\]"),
]


def with_heads(op: str, num_heads: int) -> Callable[[], good.Arguments]:
    """Good arguments of an op but for the number of heads."""

    def make() -> good.Arguments:
        arguments = GOOD_ARGUMENTS[op]()
        for name in ("q", "weights", "attn_sink", "out", "lse", "max_logits"):
            if name in arguments:
                old = arguments[name]
                shape = list(old.shape)
                shape[-2 if name in ("q", "out") else -1] = num_heads
                arguments[name] = torch.zeros(shape, dtype=old.dtype)
        return arguments

    return make


def without_requests() -> good.Arguments:
    return good.topk() | {"row_to_request": None}


def with_bf16_cache() -> good.Arguments:
    return good.sparse_mla_decode() | {"kv_cache": good.filled_bf16_cache(3, 4)}


LAUNCH = [Change("negative num_sms", "num_sms", replaced_by(-1), "0 or more, got -1")]
HEADS = Change("heads", "q", lambda q: q, r"of .* heads, got \d+")
THREE_REQUESTS = replaced_by(ints([0], [1], [2]))
DIVIDES = "of a row count B that divides T, got B = 3 for T = 4"

TABLES: list[list[BadInput]] = [
    table("indexer_logits", good.indexer_logits, [
        *RAGGED,
        *plain("logits", "float32", 4, 9),
        *LAUNCH,
        *on_another_device("k", "k_scale", "weights", "row_starts", "row_ends", "logits"),
    ]),
    table("indexer_logits", with_heads("indexer_logits", 12), [HEADS]),
    table("cached_indexer_logits", good.cached_indexer_logits, [
        *CACHED,
        *plain("logits", "float32", 4, 191),
        *LAUNCH,
        *on_another_device(
            "index_cache", "page_ids", "weights", "row_starts", "row_ends", "logits"
        ),
    ]),
    table("cached_indexer_logits", with_heads("cached_indexer_logits", 24), [HEADS]),
    table("paged_indexer_logits", good.paged_indexer_logits, [
        *PAGED,
        *plain("logits", "float32", 3, 100),
        *LAUNCH,
        *on_another_device("index_cache", "weights", "context_lens", "block_table", "logits"),
    ]),
    table("paged_indexer_logits", with_heads("paged_indexer_logits", 128), [HEADS]),
    table("topk", good.topk, [
        *plain("logits", "float32 or bfloat16", 4),
        *plain("row_ends", "int32", 5),
        *plain("row_starts", "int32", 5),
        *TRANSLATION,
        *plain("row_offsets", "int32", 5),
        *INDICES,
        *on_another_device(
            "row_ends", "row_starts", "block_table", "row_to_request", "row_offsets", "indices",
            first="logits",
        ),
    ]),
    table("topk", without_requests, [
        Change("3 requests for 4 rows", "block_table", THREE_REQUESTS, DIVIDES),
    ]),
    table("indexer_topk", good.indexer_topk, [
        *RAGGED,
        *TRANSLATION,
        *INDICES,
        *LAUNCH,
        *on_another_device("k", "weights", "block_table", "row_to_request", "indices"),
    ]),
    table("indexer_topk", with_heads("indexer_topk", 4), [HEADS]),
    table("paged_indexer_topk", good.paged_indexer_topk, [
        *PAGED,
        *INDICES,
        Change("negative columns", "max_context_len", replaced_by(-1), "0 or more, got -1"),
        *LAUNCH,
        *on_another_device("index_cache", "weights", "context_lens", "block_table", "indices"),
    ]),
    table("paged_indexer_topk", with_heads("paged_indexer_topk", 1), [HEADS]),
    table("sparse_mla_prefill", good.sparse_mla_prefill, [
        *ATTENTION,
        *plain("kv", "bfloat16", 9, 512),
        Change("kv misaligned", "kv", padded_rows(4), "aligned to 16 bytes in every stride, got a"),
        *plain("max_logits", "float32", 3, 5),
        *on_another_device(
            "kv", "indices", "topk_lens", "attn_sink", "out", "lse", "max_logits"
        ),
    ]),
    table("sparse_mla_prefill", with_heads("sparse_mla_prefill", 129), [HEADS]),
    table("sparse_mla_prefill", with_heads("sparse_mla_prefill", 0), [HEADS]),
    table("sparse_mla_decode", good.sparse_mla_decode, [
        *ATTENTION,
        Change(
            "cache is int8", "kv_cache", viewed_as(torch.int8),
            "uint8 or float8_e4m3fn or bfloat16, got int8",
        ),
        Change("cache of 132 bytes", "kv_cache", resized(3, 4, 132), r"of shape .*\[3, 4, 132\]"),
        Change("cache of empty pages", "kv_cache", resized(3, 0, 656), "of page size at least 1"),
        Change("cache padded per token", "kv_cache", padded_rows(16), "packed, 656 bytes per"),
        Change(
            "cache with an odd page stride", "kv_cache",
            lambda cache: good.filled_mla_cache(3, 4, page_padding=8), "aligned to 16 bytes in",
        ),
        *on_another_device("kv_cache", "indices", "topk_lens", "attn_sink", "out", "lse"),
    ]),
    table("sparse_mla_decode", with_bf16_cache, [
        Change("bf16 cache of 656", "kv_cache", resized(3, 4, 656), r"of shape .*\[3, 4, 656\]"),
        Change("bf16 cache of empty pages", "kv_cache", resized(3, 0, 576), "of page size"),
        Change("bf16 cache padded per token", "kv_cache", padded_rows(8), "packed, 1152 bytes per"),
        Change(
            "bf16 cache with an odd page stride", "kv_cache",
            lambda cache: good.filled_bf16_cache(3, 4, page_padding=4), "aligned to 16 bytes in",
        ),
    ]),
    table("sparse_mla_decode", with_heads("sparse_mla_decode", 129), [HEADS]),
]  # fmt: skip
BAD_INPUTS = [bad for rows in TABLES for bad in rows]


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=str)
def test_python_rejects(bad: BadInput) -> None:
    assert_python_rejects(bad)


@needs_native
@pytest.mark.parametrize("bad", BAD_INPUTS, ids=str)
def test_native_rejects(bad: BadInput) -> None:
    assert_native_rejects(bad)


@needs_native
@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_native_wants_cuda(op: str) -> None:
    assert_native_wants_cuda(op, GOOD_ARGUMENTS[op])


@pytest.mark.parametrize("top_k", [-1, 0, 4097])
def test_public_functions_name_top_k(top_k: int) -> None:
    pattern = f"top_k must be from 1 to 4096, got {top_k}"
    logits, ends = torch.randn(2, 5), ints(5, 5)
    with pytest.raises(ValueError, match=f"^topk: {pattern}"):
        dsa_ops.topk(logits, top_k, ends)
    ragged = good.indexer_topk()
    with pytest.raises(ValueError, match=f"^indexer_topk: {pattern}"):
        dsa_ops.indexer_topk(*list(ragged.values())[:6], top_k)
    paged = good.paged_indexer_topk()
    with pytest.raises(ValueError, match=f"^paged_indexer_topk: {pattern}"):
        dsa_ops.paged_indexer_topk(*list(paged.values())[:5], 100, top_k)


def test_public_functions_name_negative_and_mismatched_sizes() -> None:
    paged = list(good.paged_indexer_logits().values())[:5]
    with pytest.raises(ValueError, match="max_context_len must be 0 or more, got -1"):
        dsa_ops.paged_indexer_logits(*paged, -1)
    with pytest.raises(ValueError, match=r"out must be of shape .*, got \[4, 9\]"):
        dsa_ops.paged_indexer_logits(*paged, 8, out=torch.zeros(4, 9))
    with pytest.raises(ValueError, match=r"^topk: out must be of shape \[2, 3\], got \[2, 4\]"):
        dsa_ops.topk(torch.randn(2, 5), 3, ints(5, 5), out=torch.zeros(2, 4).int())
    with pytest.raises(ValueError, match=r"^topk: out must be int32, got int64"):
        dsa_ops.topk(torch.randn(2, 5), 3, ints(5, 5), out=torch.zeros(2, 3).long())
    with pytest.raises(ValueError, match=r"^indexer_logits: q must be of shape \[T, Hi, 128\]"):
        dsa_ops.indexer_logits(torch.zeros(()), *[torch.zeros(3)] * 5)
    with pytest.raises(ValueError, match=r"^sparse_mla_decode: q must be of shape"):
        dsa_ops.sparse_mla_decode(torch.zeros(3), *[torch.zeros(3)] * 2, 1.0)


@pytest.mark.parametrize(
    ("op", "names"),
    [("sparse_mla_prefill", "out, lse, max_logits"), ("sparse_mla_decode", "out, lse")],
)
def test_out_of_several_outputs_is_a_tuple_of_them(op: str, names: str) -> None:
    arguments = good.public_arguments(op)
    for out, got in ((torch.zeros(3, 4, 512), "Tensor"), ((torch.zeros(3),), "tuple of 1")):
        with pytest.raises(ValueError, match=rf"^{op}: out must be a tuple \({names}\), got {got}"):
            getattr(dsa_ops, op)(**arguments, out=out)


@pytest.mark.parametrize("op", ["topk", "indexer_topk", "paged_indexer_topk"])
def test_out_is_a_tensor(op: str) -> None:
    with pytest.raises(ValueError, match=f"^{op}: out must be a tensor, got list"):
        getattr(dsa_ops, op)(**good.public_arguments(op), out=[1])


@pytest.mark.parametrize(
    ("op", "size"),
    [(op, size) for op, sizes in good.SHAPE_ARGUMENTS.items() for size in sizes],
)
def test_sizes_are_integers(op: str, size: str) -> None:
    for value, got in ((None, "NoneType"), ("8", "str"), (8.0, "float")):
        arguments = good.public_arguments(op) | {size: value}
        with pytest.raises(ValueError, match=f"^{op}: {size} must be an integer, got {got}"):
            getattr(dsa_ops, op)(**arguments)


@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_optional_tensors_are_tensors_or_none(op: str) -> None:
    schema = OPS[op].overload._schema.arguments
    for name in (a.name for a in schema if isinstance(a.type, torch.OptionalType)):
        arguments = good.public_arguments(op) | {name: [1, 2]}
        with pytest.raises(ValueError, match=f"^{op}: {name} must be a tensor or None, got list"):
            getattr(dsa_ops, op)(**arguments)


@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_none_is_no_tensor(op: str) -> None:
    """torch passes it on where a schema wants a tensor."""
    schema = OPS[op].overload._schema.arguments
    needed = [a.name for a in schema if isinstance(a.type, torch.TensorType)]
    for name in set(needed) - set(outputs_of(op)):
        arguments = good.public_arguments(op) | {name: None}
        with pytest.raises(ValueError, match=f"^{op}: {name} must be a tensor, got NoneType"):
            getattr(dsa_ops, op)(**arguments)
