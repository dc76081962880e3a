"""The FP8 cache with 65 to 128 heads and no splits: pairs of thread blocks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import dsa_ops
from tests.gpu.attention_data import SCALE, queries, selection
from tests.gpu.test_sparse_mla import ANY_SCALE_LSE_TOLERANCE, check_decode
from tests.gpu.tools import Output, assert_repeats, on_device, poisoned, same_bits, spaced
from tests.select_arguments import filled_mla_cache

__all__ = ["on_device"]
# On 132 multiprocessors: fewer pairs than run at a time, as many, and more, of odd and even number.
ROWS = [40, 66, 67, 133, 264]


def lens_of(num_rows: int, top_k: int) -> Tensor:
    """Lengths of every kind, and rows without keys in a row."""
    lens = torch.randint(-2, top_k + 3, (num_rows,)).int()
    lens[::7] = top_k
    lens[num_rows // 2 : num_rows // 2 + 9] = 0
    return lens


@pytest.mark.parametrize("num_heads", [65, 96, 127, 128])
@pytest.mark.parametrize("num_rows", ROWS)
def test_rows_and_heads(num_rows: int, num_heads: int) -> None:
    check_decode(queries(num_rows, num_heads), filled_mla_cache(40, 64),
                 selection(num_rows, 300, 2560))  # fmt: skip


@pytest.mark.parametrize("num_rows", ROWS)
@pytest.mark.parametrize("top_k", [1, 64, 65, 450])
def test_lengths_and_sinks(num_rows: int, top_k: int) -> None:
    q, cache = queries(num_rows, 128), filled_mla_cache(40, 64)
    indices = selection(num_rows, top_k, 2560)
    sink = torch.randn(128) + 6
    sink[[0, 1, 64, 127]] = torch.tensor([math.inf, -math.inf, 500.0, -500.0])
    lens = lens_of(num_rows, top_k)
    check_decode(q, cache, indices, topk_lens=lens, attn_sink=sink)
    check_decode(q, cache, torch.full_like(indices, -1), attn_sink=sink)


def test_references_that_rise() -> None:
    """Scores grow from one block of 64 keys to the next, in some of the heads."""
    cache = filled_mla_cache(20, 64)
    scales = cache.view(-1, 656)[:, 512:528].view(torch.float32)
    scales *= 1.6 ** torch.arange(20).repeat_interleave(64)[:, None] / 100
    indices = torch.arange(1280).int().expand(70, 1280).contiguous()
    indices[1::2] = indices[1::2].flip(1)
    indices[::5, :130] = -1
    q = queries(70, 128)
    q[:, ::3] *= 0.1
    check_decode(q, cache, indices, SCALE / 4, 10 * ANY_SCALE_LSE_TOLERANCE)


def test_extreme_cache_scales() -> None:
    cache = filled_mla_cache(10, 64)
    scales = 10.0 ** torch.empty(10, 64, 4).uniform_(-7, -1)
    cache[..., 512:528] = scales.view(torch.uint8)
    q = queries(70, 128)
    q[1], q[2], q[3] = 0, q[2] * 1e-8, q[3] * 8
    check_decode(q, cache, selection(70, 600, 640), SCALE / 4)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_selected_never_leaks(poison: float) -> None:
    num_rows, num_keys = 133, 1024
    q, cache = queries(num_rows, 128), filled_mla_cache(16, 64)
    # Entry 0 of a list is what an empty entry would read if it were dereferenced.
    indices = torch.randint(1, num_keys // 2, (num_rows, 333)).int() * 2
    indices[:, ::3], indices[:, 5], indices[0] = -1, num_keys + 1, -5
    lens = lens_of(num_rows, 333)
    indices.masked_fill_(torch.arange(333) >= lens[:, None], 3)
    expected = dsa_ops.sparse_mla_decode(q, cache, indices, SCALE, topk_lens=lens)
    tokens = cache.view(num_keys, 656)
    unselected = [0, *range(1, num_keys, 2)]
    tokens[unselected, :512] = 0x7F
    tokens[unselected, 512:528] = torch.full((4,), poison).view(torch.uint8)
    tokens[unselected, 528:] = torch.full((64,), poison).bfloat16().view(torch.uint8)
    actual = dsa_ops.sparse_mla_decode(q, cache, indices, SCALE, topk_lens=lens)
    assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))


def test_a_row_does_not_depend_on_its_batch() -> None:
    q, cache, indices = queries(300, 128), filled_mla_cache(100, 64), selection(300, 2048, 6400)
    whole = dsa_ops.sparse_mla_decode(q, cache, indices, SCALE)
    for few in (34, 66, 67, 150):
        part = dsa_ops.sparse_mla_decode(q[:few], cache, indices[:few], SCALE)
        assert all(same_bits(a, b[:few]) for a, b in zip(part, whole, strict=True))


@pytest.mark.parametrize("num_rows", [64, 201])
def test_repeats(num_rows: int) -> None:
    q, cache = queries(num_rows, 128), filled_mla_cache(100, 64)
    indices, lens = selection(num_rows, 2048, 6400), lens_of(num_rows, 2048)
    assert_repeats(lambda: dsa_ops.sparse_mla_decode(q, cache, indices, SCALE))
    assert_repeats(lambda: dsa_ops.sparse_mla_decode(q, cache, indices, SCALE, topk_lens=lens))


@pytest.mark.parametrize("num_heads", [100, 128])
def test_strides(num_heads: int) -> None:
    q, cache = queries(70, num_heads), filled_mla_cache(5, 64, 16)
    indices = selection(70, 130, 300)
    out, lse = Output(70, num_heads, 512, dtype=torch.bfloat16, offset=8), poisoned(70, num_heads)
    actual = dsa_ops.sparse_mla_decode(
        spaced(q, 24), cache, spaced(indices, 3), SCALE, out=(out.tensor, lse)
    )
    expected = dsa_ops.sparse_mla_decode(q, cache, indices, SCALE)
    assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))
    out.assert_untouched_around()
