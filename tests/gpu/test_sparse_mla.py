"""Sparse attention's kernels against float64 on the same rows and the same cache."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import formats, reference
from dsa_ops.formats import FP8
from tests.gpu.attention_data import SCALE, queries, results_of, rows_of_kv, selection
from tests.gpu.tools import (
    Output,
    on_device,
    poisoned,
    relative_error,
    same_bits,
    spaced,
)
from tests.select_arguments import filled_bf16_cache, filled_mla_cache, ints

__all__ = ["on_device"]
INT32 = torch.iinfo(torch.int32)
OUT_TOLERANCE = 4e-3
LSE_TOLERANCE = 2e-4
ANY_SCALE_LSE_TOLERANCE = 1e-3
HEADS = [1, 5, 8, 16, 24, 32, 64, 96, 128]
TOP_KS = [1, 17, 64, 100, 512, 1024, 2048, 2051, 4096]


def assert_attention(
    actual: tuple[Tensor, ...], oracle: tuple[Tensor, ...], lse_tolerance: float
) -> None:
    empty = oracle[1].isneginf()
    assert (actual[0][empty] == 0).all()
    assert relative_error(actual[0], oracle[0]) <= OUT_TOLERANCE
    for result, target in zip(actual[1:], oracle[1:], strict=True):
        assert torch.equal(result.isneginf(), empty)
        if not empty.all():
            assert (result.double() - target)[~empty].abs().max() <= lse_tolerance


def check_prefill(
    q: Tensor, kv: Tensor, indices: Tensor, sm_scale: float = SCALE, **options: Any
) -> None:
    oracle = reference.sparse_mla_prefill(
        q, kv, indices, sm_scale, **options, compute_dtype=torch.float64
    )
    actual = results_of(q, 3)
    dsa_ops.sparse_mla_prefill(q, kv, indices, sm_scale, **options, out=actual)
    assert_attention(actual, oracle, LSE_TOLERANCE)


def check_decode(
    q: Tensor, cache: Tensor, indices: Tensor, sm_scale: float = SCALE,
    lse_tolerance: float = ANY_SCALE_LSE_TOLERANCE, **options: Any,
) -> None:  # fmt: skip
    oracle = reference.sparse_mla_decode(
        q, cache, indices, sm_scale, **options, compute_dtype=torch.float64
    )
    actual = results_of(q, 2)
    dsa_ops.sparse_mla_decode(q, cache, indices, sm_scale, **options, out=actual)
    assert_attention(actual, oracle, lse_tolerance)


@pytest.mark.parametrize("head_dim", [576, 512])
@pytest.mark.parametrize("num_heads", HEADS)
def test_prefill_heads(num_heads: int, head_dim: int) -> None:
    kv = rows_of_kv(3000, head_dim)
    check_prefill(queries(9, num_heads, head_dim), kv, selection(9, 300, 3000))


@pytest.mark.parametrize("top_k", TOP_KS)
def test_prefill_any_k(top_k: int) -> None:
    check_prefill(queries(6, 24), rows_of_kv(5000), selection(6, top_k, 5000))
    check_prefill(queries(6, 128), rows_of_kv(50), selection(6, top_k, 50))


@pytest.mark.parametrize("powers_of_two", [True, False])
@pytest.mark.parametrize("num_heads", HEADS)
def test_decode_heads(num_heads: int, powers_of_two: bool) -> None:
    cache = filled_mla_cache(40, 64, powers_of_two=powers_of_two)
    tolerance = LSE_TOLERANCE if powers_of_two else ANY_SCALE_LSE_TOLERANCE
    check_decode(queries(9, num_heads), cache, selection(9, 300, 2560), SCALE, tolerance)


@pytest.mark.parametrize("top_k", TOP_KS)
def test_decode_any_k(top_k: int) -> None:
    cache = filled_mla_cache(80, 64)
    check_decode(queries(6, 24), cache, selection(6, top_k, 5120))
    check_decode(queries(1, 128), cache, selection(1, top_k, 5120))
    check_decode(queries(6, 24), cache[:1], selection(6, top_k, 64))


@pytest.mark.parametrize("page_size", [1, 16, 64, 100])
@pytest.mark.parametrize("padding", [0, 16, 656])
def test_decode_pages(page_size: int, padding: int) -> None:
    num_pages = 2000 // page_size
    cache = filled_mla_cache(num_pages, page_size, padding)
    q, indices = queries(5, 16), selection(5, 200, num_pages * page_size)
    check_decode(q, cache, indices)
    expected = dsa_ops.sparse_mla_decode(q, cache, indices, SCALE)
    for same in (cache.unsqueeze(2), cache.view(FP8), cache.view(FP8).unsqueeze(2)):
        actual = dsa_ops.sparse_mla_decode(q, same, indices, SCALE)
        assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("step", [0.3, 4.0, 11.9, 12.1, 14.9, 15.1, 23.9, 24.1, 45.0])
@pytest.mark.parametrize("num_heads", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("num_rows", [4, 140])
def test_scores_that_grow_and_fall(num_rows: int, num_heads: int, step: float) -> None:
    """From one block of 64 keys to the next by ``step`` octaves, for every second head down: the
    kernels move what probabilities are relative to only where a maximum has grown by much."""
    keys = 640 if step < 10 else 256  # the lse's error is absolute
    octaves = torch.arange(keys) // 64 * step
    q, kv = 0.3 * queries(num_rows, num_heads), rows_of_kv(keys)
    q[..., 512:], kv[:, 512:] = 0, 0
    q[:, ::2, 512], q[:, 1::2, 512] = 1, -1
    kv[:, 512] = (octaves * math.log(2) / SCALE).bfloat16()
    indices = torch.arange(keys, dtype=torch.int32).repeat(num_rows, 1)
    check_prefill(q, kv, indices)
    cache = filled_mla_cache(keys // 64, 64)
    formats.mla_cache_views(cache)[2][...] = kv[:, 512:].view(-1, 64, 64)
    check_decode(q, cache, indices)


@pytest.mark.parametrize("octaves", [22.125, 25.125, 28.125])  # exact in bf16
@pytest.mark.parametrize("num_heads", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("num_rows,top_k", [(140, 4096), (140, 24575), (1, 262145)])
def test_many_small_weights_add_up(
    num_rows: int, top_k: int, num_heads: int, octaves: float
) -> None:
    """Each key but the first weighs 2^-octaves of it, less than f16 can hold beside it."""
    latent = torch.randn(1, 512).bfloat16()
    cache = torch.zeros(1, 64, 656, dtype=torch.uint8)
    rope = torch.zeros(2, 64).bfloat16()
    rope[1, 0] = -octaves
    slots = torch.arange(2)
    dsa_ops.write_mla_cache(latent.expand(2, 512), rope, cache, slots)
    q = torch.zeros(1, num_heads, 576).bfloat16()
    q[..., 512] = 1
    indices = torch.ones(1, top_k, dtype=torch.int32)
    indices[0, 0] = 0
    sm_scale = math.log(2)
    oracle = reference.sparse_mla_decode(q, cache, indices, sm_scale, compute_dtype=torch.float64)
    q = q.expand(num_rows, num_heads, 576).contiguous()
    actual = results_of(q, 2)
    dsa_ops.sparse_mla_decode(q, cache, indices.expand(num_rows, top_k), sm_scale, out=actual)
    expected = tuple(result.expand(num_rows, *result.shape[1:]) for result in oracle)
    assert_attention(actual, expected, LSE_TOLERANCE)


@pytest.mark.parametrize("num_heads", HEADS)
@pytest.mark.parametrize("page_size", [1, 64, 100])
def test_decode_from_bf16(num_heads: int, page_size: int) -> None:
    num_pages = 2000 // page_size
    cache = filled_bf16_cache(num_pages, page_size, page_padding=8)
    q, indices = queries(6, num_heads), selection(6, 700, num_pages * page_size)
    options = {"topk_lens": ints(700, 699, 65, 64, 0, 700), "attn_sink": torch.randn(num_heads)}
    check_decode(q, cache, indices, SCALE, LSE_TOLERANCE, **options)
    expected = dsa_ops.sparse_mla_decode(q, cache, indices, SCALE, **options)
    actual = dsa_ops.sparse_mla_decode(q, cache.unsqueeze(2), indices, SCALE, **options)
    assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("num_heads", [16, 128])
@pytest.mark.parametrize(("num_rows", "top_k"), [(40, 700), (16, 1000), (8, 2048), (1, 5000)])
def test_decode_from_bf16_in_splits(num_rows: int, top_k: int, num_heads: int) -> None:
    """Two to forty splits; rows end in any of them."""
    cache, q = filled_bf16_cache(100, 64), queries(num_rows, num_heads)
    lens = torch.randint(0, top_k + 1, (num_rows,)).int()
    lens[0] = 130
    torch.full((1 << 24,), math.nan)  # the scratch's memory, most likely
    check_decode(q, cache, selection(num_rows, top_k, 6400), SCALE, LSE_TOLERANCE, topk_lens=lens)
    check_decode(q, cache, selection(num_rows, top_k, 6400), SCALE, LSE_TOLERANCE)


# A split of few rows has two blocks of 64 tokens, scored side by side: either of them empty in each
# split, or with maxima far above the other's.
@pytest.mark.parametrize("num_heads", [8, 13, 16, 32, 64, 100, 128])
@pytest.mark.parametrize("sm_scale", [SCALE, 16 * SCALE])
def test_decode_short_splits(num_heads: int, sm_scale: float) -> None:
    cache, q = filled_mla_cache(100, 64), queries(4, num_heads)
    indices = selection(4, 2048, 6400)
    indices[:2] = torch.randint(6400, (2, 2048)).int()
    blocks = indices.view(4, -1, 2, 64)
    blocks[0, 1:, 0], blocks[1, :-1, 1] = -1, 6400
    for rows in (slice(0, 1), slice(1, 2), slice(0, 2), slice(0, 4)):
        check_decode(q[rows], cache, indices[rows], sm_scale)
    options = {"topk_lens": ints(2048, 1100, 64, 0), "attn_sink": torch.randn(num_heads)}
    check_decode(q, cache, indices, sm_scale, **options)


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64, 200])
def test_decode_batches(num_rows: int) -> None:
    cache = filled_mla_cache(100, 64)
    check_decode(queries(num_rows, 128), cache, selection(num_rows, 2048, 6400))
    check_prefill(queries(num_rows, 128), rows_of_kv(6400), selection(num_rows, 2048, 6400))


@pytest.mark.parametrize("num_heads", [5, 128])
def test_options(num_heads: int) -> None:
    q, indices = queries(8, num_heads), torch.randint(0, 640, (8, 700)).int()
    lens = ints(700, 699, 64, 65, 1, 0, -5, INT32.max)
    indices[1:7, 660:] = INT32.max
    sink = torch.randn(num_heads) + 6
    sink[:4] = torch.tensor([math.inf, -math.inf, 500.0, -500.0])[: len(sink[:4])]
    for options in (
        {"topk_lens": lens},
        {"attn_sink": sink},
        {"topk_lens": lens, "attn_sink": sink},
    ):
        check_prefill(q, rows_of_kv(640), indices, **options)
        check_decode(q, filled_mla_cache(10, 64), indices, **options)


@pytest.mark.parametrize("sm_scale", [0.0, -SCALE, 4 * SCALE])
def test_scales_of_the_scores(sm_scale: float) -> None:
    check_prefill(queries(6, 64), rows_of_kv(900), selection(6, 500, 900), sm_scale)
    cache = filled_mla_cache(15, 64, powers_of_two=True)
    check_decode(queries(6, 64), cache, selection(6, 500, 960), sm_scale, LSE_TOLERANCE)


@pytest.mark.parametrize("num_heads", [8, 16, 64, 128])
def test_decode_tiles_in_turn(num_heads: int) -> None:
    """Several tiles of every thread block, of none to five blocks of 64 tokens."""
    lens = torch.randint(-9, 320, (401,)).int()
    cache, indices = filled_mla_cache(20, 64), selection(401, 300, 1280)
    check_decode(queries(401, num_heads), cache, indices, topk_lens=lens)


@pytest.mark.parametrize("sm_scale", [0.1, 0.6])
@pytest.mark.parametrize("num_heads", [8, 16, 64])
def test_a_maximum_that_jumps_between_blocks(num_heads: int, sm_scale: float) -> None:
    """Scores change by up to 2,760 from one block of 64 keys to the next."""
    q = torch.ones(3, num_heads, 576).bfloat16()
    level = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 4.0, -4.0, 0.0]).repeat_interleave(64)
    kv = (level[:, None] + 0.01 * torch.randn(512, 576)).bfloat16()
    indices = torch.stack([torch.arange(512), torch.arange(512).flip(0), torch.randperm(512)]).int()
    cache = torch.zeros(8, 64, 656, dtype=torch.uint8)
    dsa_ops.write_mla_cache(kv[:, :512], kv[:, 512:], cache, torch.arange(512))
    # The bound on lse is absolute up to scores of 30; these reach 230 and 1,380.
    tolerance = LSE_TOLERANCE * 100 * sm_scale
    exact = {"compute_dtype": torch.float64}
    oracle = reference.sparse_mla_prefill(q, kv, indices, sm_scale, **exact)
    assert_attention(dsa_ops.sparse_mla_prefill(q, kv, indices, sm_scale), oracle, tolerance)
    check_decode(q, cache, indices, sm_scale, tolerance)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("num_heads", [8, 128])
def test_what_is_not_selected_never_leaks(num_heads: int, poison: float) -> None:
    num_keys = 1024
    q, kv, cache = queries(5, num_heads), rows_of_kv(num_keys), filled_mla_cache(16, 64)
    # Entry 0 of a list is what an empty entry would read if it were dereferenced.
    indices = torch.randint(1, num_keys // 2, (5, 333)).int() * 2
    indices[:, ::3], indices[:, 5], indices[0] = -1, num_keys + 1, INT32.min
    options = {"topk_lens": ints(333, 333, 200, 70, 0)}
    indices[2, 200:], indices[3, 70:] = 1, 3
    expected = (
        *dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE, **options),
        *dsa_ops.sparse_mla_decode(q, cache, indices, SCALE, **options),
    )
    unselected = [0, *range(1, num_keys, 2)]
    kv[unselected] = poison
    tokens = cache.view(num_keys, 656)
    tokens[unselected, :512] = 0x7F
    tokens[unselected, 512:528] = torch.full((4,), poison).view(torch.uint8)
    tokens[unselected, 528:] = torch.full((64,), poison).bfloat16().view(torch.uint8)
    actual = (
        *dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE, **options),
        *dsa_ops.sparse_mla_decode(q, cache, indices, SCALE, **options),
    )
    assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))


def test_extreme_cache_scales() -> None:
    cache = filled_mla_cache(10, 64)
    scales = 10.0 ** torch.empty(10, 64, 4).uniform_(-7, -1)
    cache[..., 512:528] = scales.view(torch.uint8)
    q = queries(6, 64)
    q[1], q[2], q[3] = 0, q[2] * 1e-8, q[3] * 8
    check_decode(q, cache, selection(6, 600, 640), SCALE / 4)


@pytest.mark.parametrize("num_heads", [8, 16, 64, 128])
@pytest.mark.parametrize("magnitude", [1e-8, 1e-3, 1.0, 1e5])
@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e2])
def test_no_magnitude_costs_more_than_bf16_keys(
    num_heads: int, magnitude: float, scale: float
) -> None:
    """Scores are brought to the same size by sm_scale; the RoPE part keeps to the latent's."""
    cache = filled_mla_cache(20, 64)
    tokens = cache.view(-1, 656)
    scales = scale * (torch.rand(1280, 4) + 0.5)
    tokens[:, 512:528] = scales.view(torch.uint8)
    tokens[:, 528:] = (50 * scale * torch.randn(1280, 64)).bfloat16().view(torch.uint8)
    q, indices = (queries(8, num_heads).float() * magnitude).bfloat16(), selection(8, 600, 1280)
    sm_scale = 3 * SCALE / (50 * magnitude * scale)
    check_decode(q, cache, indices, sm_scale)
    keys = reference.gather_mla_cache(cache, torch.arange(20).int()[None], ints(0, 1280), 1280)
    rounded = reference.sparse_mla_prefill(q, keys, indices, sm_scale, compute_dtype=torch.float64)
    exact = reference.sparse_mla_decode(q, cache, indices, sm_scale, compute_dtype=torch.float64)
    actual = dsa_ops.sparse_mla_decode(q, cache, indices, sm_scale)
    some = ~exact[1].isneginf()
    error = (actual[1].double() - exact[1])[some].abs().max()
    assert error <= (rounded[1] - exact[1])[some].abs().max()
    over_bf16 = dsa_ops.sparse_mla_prefill(q, keys, indices, sm_scale)
    assert relative_error(actual[0], exact[0]) <= relative_error(over_bf16[0], exact[0])


@pytest.mark.parametrize("num_heads", [3, 64])
def test_strides(num_heads: int) -> None:
    q, kv, indices = queries(7, num_heads), rows_of_kv(300), selection(7, 130, 300)
    cache = filled_mla_cache(5, 64)
    out = Output(7, num_heads, 512, dtype=torch.bfloat16, offset=8)
    rest = tuple(poisoned(7, num_heads) for _ in range(2))
    strided = (spaced(q, 24), spaced(kv, 8), spaced(indices, 3))
    expected = dsa_ops.sparse_mla_prefill(q, kv, indices, SCALE)
    actual = dsa_ops.sparse_mla_prefill(*strided, SCALE, out=(out.tensor, *rest))
    assert all(same_bits(a, b) for a, b in zip(actual, expected, strict=True))
    out.assert_untouched_around()
    decoded = dsa_ops.sparse_mla_decode(
        strided[0], cache, strided[2], SCALE, out=(out.tensor, rest[0])
    )
    expected = dsa_ops.sparse_mla_decode(q, cache, indices, SCALE)
    assert all(same_bits(a, b) for a, b in zip(decoded, expected, strict=True))
    out.assert_untouched_around()


def test_empty_calls() -> None:
    q, kv, cache = queries(3, 8), rows_of_kv(64), filled_mla_cache(1, 64)
    indices = ints([1, 2], [3, 4], [5, -1])
    assert dsa_ops.sparse_mla_prefill(q[:0], kv, indices[:0], SCALE)[0].shape == (0, 8, 512)
    assert dsa_ops.sparse_mla_decode(q[:0], cache, indices[:0], SCALE)[0].shape == (0, 8, 512)
    check_prefill(q, kv[:0], indices)
    check_decode(q, cache[:0], indices)


def test_seventy_thousand_rows() -> None:
    q, indices = queries(70_000, 2), torch.randint(-2, 1280, (70_000, 9)).int()
    check_prefill(q, rows_of_kv(1280), indices)
    check_decode(q, filled_mla_cache(20, 64), indices)
