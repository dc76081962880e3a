"""Floating-point operations and bytes of each op, the only place that counts them.

Sources. Indexer: ``logits[t, n] = k_scale[n] * sum_h w[t, h] * relu(q[t, h] . k[n])``, of which the
dot products over 128 dims count, ``2 * index_heads * 128`` per (row, key) pair scored; prefill
rows are the last ``rows`` tokens of a causal context. Attention: per head and selected key, the
score over 576 dims and the value over 512, ``2 * (576 + 512)``. Bytes: each input that the op must
read and each output it must write, once; gathered rows once per selecting row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dsa_ops import formats

from .records import Shape, size

FLOAT_BYTES = 4
BF16_BYTES = 2
INT_BYTES = 4
BF16_ROW_BYTES = formats.MLA_HEAD_DIM * BF16_BYTES


@dataclass(frozen=True)
class Work:
    """What one call has to do at least."""

    streamed_bytes: int
    flops: int = 0
    math: Literal["e4m3", "bf16"] = "e4m3"
    gathered_bytes: int = 0
    gather_row_bytes: int = 0
    gather_pool_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.streamed_bytes + self.gathered_bytes


def causal_pairs(rows: int, context: int) -> int:
    """(row, key) pairs scored when the rows are the last ``rows`` tokens of ``context``."""
    return rows * context - rows * (rows - 1) // 2


def _indexer_flops(pairs: int, index_heads: int) -> int:
    return 2 * index_heads * formats.INDEX_HEAD_DIM * pairs


def _indexer_query_bytes(rows: int, index_heads: int) -> int:
    return rows * index_heads * (formats.INDEX_HEAD_DIM + FLOAT_BYTES)


def indexer_logits(shape: Shape) -> Work:
    rows, context, heads = size(shape, "rows"), size(shape, "context"), size(shape, "index_heads")
    pairs = causal_pairs(rows, context)
    keys = context * formats.INDEX_TOKEN_BYTES
    streamed = _indexer_query_bytes(rows, heads) + keys + pairs * FLOAT_BYTES
    return Work(streamed, _indexer_flops(pairs, heads))


def cached_indexer_logits(shape: Shape) -> Work:
    """Rows of ``batch`` requests, each the last ``rows / batch`` tokens of its own context."""
    batch, context = size(shape, "batch"), size(shape, "context")
    rows, heads = size(shape, "rows"), size(shape, "index_heads")
    pairs = batch * causal_pairs(rows // batch, context)
    keys = batch * context * formats.INDEX_TOKEN_BYTES
    streamed = _indexer_query_bytes(rows, heads) + keys + pairs * FLOAT_BYTES
    return Work(streamed, _indexer_flops(pairs, heads))


def indexer_topk(shape: Shape) -> Work:
    rows, context, heads = size(shape, "rows"), size(shape, "context"), size(shape, "index_heads")
    keys = context * formats.INDEX_TOKEN_BYTES
    selected = rows * size(shape, "k") * INT_BYTES
    streamed = _indexer_query_bytes(rows, heads) + keys + selected
    return Work(streamed, _indexer_flops(causal_pairs(rows, context), heads))


def _paged_scoring(shape: Shape) -> tuple[int, int, int]:
    """Pairs scored, rows, and bytes of the keys (read once per request)."""
    batch, context, next_n = size(shape, "batch"), size(shape, "context"), size(shape, "next_n")
    pairs = batch * causal_pairs(next_n, context)
    return pairs, batch * next_n, batch * context * formats.INDEX_TOKEN_BYTES


def paged_indexer_logits(shape: Shape) -> Work:
    """Bytes are keys and logits alone, as TB/s of this op is usually given."""
    pairs, rows, keys = _paged_scoring(shape)
    logits = rows * size(shape, "context") * FLOAT_BYTES
    return Work(keys + logits, _indexer_flops(pairs, size(shape, "index_heads")))


def paged_indexer_topk(shape: Shape) -> Work:
    pairs, rows, keys = _paged_scoring(shape)
    selected = rows * size(shape, "k") * INT_BYTES
    return Work(keys + selected, _indexer_flops(pairs, size(shape, "index_heads")))


def topk(shape: Shape) -> Work:
    rows = size(shape, "rows")
    return Work(rows * (size(shape, "context") * FLOAT_BYTES + size(shape, "k") * INT_BYTES))


def _sparse_mla(shape: Shape, rows: int, tokens: int, shared: bool) -> Work:
    """``tokens``: of all contexts. ``shared``: neighbouring rows may share a gather, so no gather
    rate bounds the op."""
    heads, k = size(shape, "heads"), size(shape, "k")
    row_bytes = BF16_ROW_BYTES if shape["kv"] == "bf16" else formats.MLA_TOKEN_BYTES
    query_and_out = formats.MLA_HEAD_DIM + formats.MLA_LATENT_DIM
    streamed = rows * (heads * (query_and_out * BF16_BYTES + FLOAT_BYTES) + k * INT_BYTES)
    return Work(
        streamed,
        flops=2 * heads * k * query_and_out * rows,
        math="bf16",
        gathered_bytes=rows * k * row_bytes,
        gather_row_bytes=0 if shared else row_bytes,
        gather_pool_bytes=tokens * row_bytes,
    )


def sparse_mla_prefill(shape: Shape) -> Work:
    shared = shape["indices"] == "local"
    return _sparse_mla(shape, size(shape, "rows"), size(shape, "context"), shared)


def sparse_mla_decode(shape: Shape) -> Work:
    batch = size(shape, "batch")
    rows, tokens = batch * size(shape, "s_q"), batch * size(shape, "context")
    return _sparse_mla(shape, rows, tokens, shared=False)


def write_index_cache(shape: Shape) -> Work:
    key_bytes = formats.INDEX_HEAD_DIM * BF16_BYTES + formats.INDEX_TOKEN_BYTES
    return Work(size(shape, "rows") * key_bytes)


def gather_index_cache(shape: Shape) -> Work:
    return Work(size(shape, "batch") * size(shape, "context") * 2 * formats.INDEX_TOKEN_BYTES)


def write_mla_cache(shape: Shape) -> Work:
    return Work(size(shape, "rows") * (BF16_ROW_BYTES + formats.MLA_TOKEN_BYTES))


def gather_mla_cache(shape: Shape) -> Work:
    tokens = size(shape, "batch") * size(shape, "context")
    return Work(tokens * (formats.MLA_TOKEN_BYTES + BF16_ROW_BYTES))


def prepare_index_q(shape: Shape) -> Work:
    vector_bytes = formats.INDEX_HEAD_DIM * (BF16_BYTES + 1) + 2 * FLOAT_BYTES
    return Work(size(shape, "rows") * size(shape, "index_heads") * vector_bytes)


def merge_states(shape: Shape) -> Work:
    state_bytes = formats.MLA_LATENT_DIM * BF16_BYTES + FLOAT_BYTES
    return Work(3 * size(shape, "rows") * size(shape, "heads") * state_bytes)
