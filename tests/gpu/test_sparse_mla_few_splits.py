"""The FP8 cache where a list has two splits, or three: they join in registers of a cluster."""

from __future__ import annotations

import math

import pytest
import torch

import dsa_ops
from tests.gpu.attention_data import SCALE, queries, selection
from tests.gpu.test_sparse_mla import ANY_SCALE_LSE_TOLERANCE, check_decode
from tests.gpu.tools import Output, assert_repeats, on_device, poisoned, same_bits, spaced
from tests.select_arguments import filled_mla_cache

__all__ = ["on_device"]
# Heads and rows that have two splits on 132 multiprocessors; the second and third pair have three.
SHAPES = [(8, 66), (12, 30), (16, 38), (16, 66), (27, 50), (32, 45), (40, 45), (64, 66)]
SHAPES += [(100, 23), (128, 33)]


@pytest.mark.parametrize(("num_heads", "num_rows"), SHAPES)
@pytest.mark.parametrize("top_k", [450, 1300, 2048])
def test_lengths_and_sinks(num_heads: int, num_rows: int, top_k: int) -> None:
    q, cache = queries(num_rows, num_heads), filled_mla_cache(40, 64)
    indices = selection(num_rows, top_k, 2560)
    check_decode(q, cache, indices)
    sink = torch.randn(num_heads) + 6
    sink[:4] = torch.tensor([math.inf, -math.inf, 500.0, -500.0])
    # Some lists end in the first split, so that others have no token.
    lens = torch.randint(-9, top_k + 3, (num_rows,)).int()
    lens[::6], lens[1::6] = top_k, torch.randint(1, top_k // 3, lens[1::6].shape).int()
    check_decode(q, cache, indices, topk_lens=lens, attn_sink=sink)
    check_decode(q, cache, torch.full_like(indices, -1), attn_sink=sink)


@pytest.mark.parametrize(("num_heads", "num_rows"), SHAPES)
def test_splits_of_different_references(num_heads: int, num_rows: int) -> None:
    """Scores of one split are far above those of another, and the other way round."""
    cache = filled_mla_cache(20, 64)
    scales = cache.view(-1, 656)[:, 512:528].view(torch.float32)
    scales *= 1.6 ** torch.arange(20).repeat_interleave(64)[:, None] / 100
    indices = torch.arange(1280).int().expand(num_rows, 1280).contiguous()
    indices[1::2] = indices[1::2].flip(1)
    indices[::5, :600] = -1
    check_decode(queries(num_rows, num_heads), cache, indices, SCALE / 4,
                 10 * ANY_SCALE_LSE_TOLERANCE)  # fmt: skip


@pytest.mark.parametrize(("num_heads", "num_rows"), SHAPES)
def test_repeats_and_strides(num_heads: int, num_rows: int) -> None:
    q, cache = queries(num_rows, num_heads), filled_mla_cache(100, 64, 16)
    indices = selection(num_rows, 2048, 6400)
    assert_repeats(lambda: dsa_ops.sparse_mla_decode(q, cache, indices, SCALE))
    out = Output(num_rows, num_heads, 512, dtype=torch.bfloat16, offset=8)
    lse = poisoned(num_rows, num_heads)
    actual = dsa_ops.sparse_mla_decode(
        spaced(q, 24), cache, spaced(indices, 3), SCALE, out=(out.tensor, lse)
    )
    expected = dsa_ops.sparse_mla_decode(q, cache, indices, SCALE)
    assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))
    out.assert_untouched_around()
