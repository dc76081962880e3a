"""Sparse attention against loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from dsa_ops.formats import FP8
from tests import naive
from tests.select_arguments import filled_bf16_cache, filled_mla_cache, ints

INT32 = torch.iinfo(torch.int32)


def naive_attention(
    q: Tensor,
    keys: Tensor,
    indices: Tensor,
    sm_scale: float,
    topk_lens: Tensor | None = None,
    attn_sink: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, heads = q.shape[:2]
    out = torch.zeros(rows, heads, 512, dtype=torch.float64)
    lse, largest = (torch.zeros(rows, heads, dtype=torch.float64) for _ in range(2))
    for t in range(rows):
        count = indices.shape[1] if topk_lens is None else max(int(topk_lens[t]), 0)
        selected = [keys[index] for index in indices[t, :count].tolist() if 0 <= index < len(keys)]
        for h in range(heads):
            sink = None if attn_sink is None else float(attn_sink[h])
            out[t, h], lse[t, h], largest[t, h] = naive.attention(q[t, h], selected, sm_scale, sink)
    return out, lse, largest


def cached_keys(cache: Tensor) -> Tensor:
    tokens = cache.reshape(-1, 656).tolist()
    return torch.tensor([naive.mla_token(bytes(token)) for token in tokens], dtype=torch.float64)


def assert_attention(
    actual: tuple[Tensor, ...], expected: tuple[Tensor, ...], out_tolerance: float, tolerance: float
) -> None:
    error = (actual[0].double() - expected[0]).norm()
    assert error <= out_tolerance * expected[0].norm()
    for result, target in zip(actual[1:], expected[1:], strict=False):
        torch.testing.assert_close(result.double(), target, rtol=0, atol=tolerance)


@pytest.mark.parametrize("head_dim", [576, 512])
@pytest.mark.parametrize("num_heads", [1, 5, 16])
def test_prefill_matches_loops(num_heads: int, head_dim: int) -> None:
    q = torch.randn(4, num_heads, head_dim).bfloat16()
    kv = torch.randn(20, head_dim).bfloat16()
    indices = torch.randint(-3, 24, (4, 17)).int()
    indices[1], indices[2, :2] = -1, ints(INT32.min, INT32.max)
    expected = naive_attention(q, kv, indices, 0.1)
    oracle = reference.sparse_mla_prefill(q, kv, indices, 0.1, compute_dtype=torch.float64)
    assert all(result.dtype == torch.float64 for result in oracle)
    assert_attention(oracle, expected, 1e-13, 1e-12)
    actual = dsa_ops.sparse_mla_prefill(q, kv, indices, 0.1)
    assert [result.dtype for result in actual] == [torch.bfloat16, torch.float32, torch.float32]
    assert_attention(actual, expected, 2e-3, 1e-5)
    assert (actual[0][1] == 0).all() and actual[1][1].isneginf().all()
    assert actual[2][1].isneginf().all()


def test_float_inputs_give_float_output() -> None:
    q, kv = torch.randn(3, 4, 576), torch.randn(9, 576)
    indices = torch.randint(0, 9, (3, 6)).int()
    actual = reference.sparse_mla_prefill(q, kv, indices, 0.05)
    assert actual[0].dtype == torch.float32
    assert_attention(actual, naive_attention(q, kv, indices, 0.05), 1e-6, 1e-5)


@pytest.mark.parametrize("page_size", [1, 3, 64])
@pytest.mark.parametrize("fp8_view", [False, True])
def test_decode_matches_loops(page_size: int, fp8_view: bool) -> None:
    cache = filled_mla_cache(4, page_size, page_padding=32)
    keys = cached_keys(cache)
    if fp8_view:
        cache = cache.view(FP8).unsqueeze(2)
    q = torch.randn(3, 7, 576).bfloat16()
    indices = torch.randint(-2, len(keys) + 2, (3, 11)).int()
    sink, topk_lens = torch.randn(7), ints(11, 6, 0)
    expected = naive_attention(q, keys, indices, 0.05, topk_lens, sink)
    options = {"topk_lens": topk_lens, "attn_sink": sink}
    oracle = reference.sparse_mla_decode(
        q, cache, indices, 0.05, **options, compute_dtype=torch.float64
    )
    assert_attention(oracle, expected, 1e-13, 1e-12)
    actual = dsa_ops.sparse_mla_decode(q, cache, indices, 0.05, **options)
    assert_attention(actual, expected, 2e-3, 1e-5)


@pytest.mark.parametrize("page_size", [1, 3, 64])
def test_decode_from_bf16_is_prefill_over_its_rows(page_size: int) -> None:
    cache = filled_bf16_cache(4, page_size, page_padding=24)
    kv = cache.reshape(-1, 576)
    q = torch.randn(3, 7, 576).bfloat16()
    indices = torch.randint(-2, len(kv) + 2, (3, 11)).int()
    options = {"topk_lens": ints(11, 6, 0), "attn_sink": torch.randn(7)}
    expected = dsa_ops.sparse_mla_prefill(q, kv, indices, 0.05, **options)
    for same in (cache, cache.unsqueeze(2)):
        actual = dsa_ops.sparse_mla_decode(q, same, indices, 0.05, **options)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=False))


def both_ops(
    q: Tensor, cache: Tensor, indices: Tensor, sm_scale: float = 0.05, **options: Tensor
) -> list[tuple[Tensor, ...]]:
    """Decode over a cache, and prefill over its keys."""
    kv = cached_keys(cache).bfloat16()
    return [
        dsa_ops.sparse_mla_prefill(q, kv, indices, sm_scale, **options),
        dsa_ops.sparse_mla_decode(q, cache, indices, sm_scale, **options),
    ]


def test_topk_lens_bound_what_is_read() -> None:
    q, cache = torch.randn(5, 2, 576).bfloat16(), filled_mla_cache(2, 8)
    indices = torch.randint(0, 16, (5, 6)).int()
    lens = [6, 2, 0, -4, INT32.max]
    cut = indices.clone()
    for row, length in enumerate(lens):
        cut[row, max(length, 0) :] = -1
    whole = both_ops(q, cache, cut)
    for actual, expected in zip(
        both_ops(q, cache, indices, topk_lens=ints(*lens)), whole, strict=True
    ):
        for result, target in zip(actual, expected, strict=True):
            assert torch.equal(result, target)
        assert (actual[0][2:4] == 0).all() and actual[1][2:4].isneginf().all()


def test_duplicates_count_twice() -> None:
    q, cache = torch.randn(1, 2, 576).bfloat16(), filled_mla_cache(1, 8)
    for once, twice in zip(
        both_ops(q, cache, ints([3, -1])), both_ops(q, cache, ints([3, 3])), strict=True
    ):
        torch.testing.assert_close(twice[0], once[0])
        torch.testing.assert_close(twice[1], once[1] + math.log(2))


def test_sinks_scale_the_output_alone() -> None:
    q, cache = torch.randn(2, 4, 576).bfloat16(), filled_mla_cache(1, 8)
    indices = ints([3, 1, 5], [-1, -1, -1])
    sink = torch.tensor([-math.inf, math.inf, 0.5, -200.0])
    for plain, sunk in zip(
        both_ops(q, cache, indices), both_ops(q, cache, indices, attn_sink=sink), strict=True
    ):
        for result, target in zip(sunk[1:], plain[1:], strict=True):
            assert torch.equal(result, target)
        assert torch.equal(sunk[0][:, [0, 3]], plain[0][:, [0, 3]])
        assert (sunk[0][:, 1] == 0).all() and (sunk[0][1] == 0).all()
        share = torch.sigmoid(plain[1][0, 2] - 0.5)
        expected = plain[0][0, 2].float() * share
        assert (sunk[0][0, 2].float() - expected).norm() <= 4e-3 * expected.norm()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_is_not_selected_never_leaks(poison: float) -> None:
    q, cache = torch.randn(3, 2, 576).bfloat16(), filled_mla_cache(2, 8)
    indices = ints([3, 5, -1, 7, 0], [16, -1, 99, 5, 0], [0, 0, 0, 0, 0])
    options = {"topk_lens": ints(4, 4, 0)}
    kv = cached_keys(cache).bfloat16()
    expected = dsa_ops.sparse_mla_prefill(q, kv, indices, 0.05, **options)
    expected_decode = dsa_ops.sparse_mla_decode(q, cache, indices, 0.05, **options)
    unselected = [slot for slot in range(16) if slot not in (3, 5, 7)]
    kv[unselected] = poison
    tokens = cache.view(16, 656)
    tokens[unselected, :512] = 0x7F
    scales = torch.full((4,), poison).view(torch.uint8)
    tokens[unselected, 512:528] = scales
    tokens[unselected, 528:] = torch.full((64,), poison).bfloat16().view(torch.uint8)
    actual = dsa_ops.sparse_mla_prefill(q, kv, indices, 0.05, **options)
    actual_decode = dsa_ops.sparse_mla_decode(q, cache, indices, 0.05, **options)
    for result, target in zip(
        (*actual, *actual_decode), (*expected, *expected_decode), strict=True
    ):
        assert torch.equal(result, target)


@pytest.mark.parametrize("sm_scale", [0.0, -0.3, 40.0])
def test_any_scale_of_the_scores(sm_scale: float) -> None:
    q, kv = torch.randn(2, 3, 576).bfloat16(), torch.randn(9, 576).bfloat16()
    indices = torch.randint(0, 9, (2, 5)).int()
    expected = naive_attention(q, kv, indices, sm_scale)
    actual = dsa_ops.sparse_mla_prefill(q, kv, indices, sm_scale)
    assert_attention(actual, expected, 3e-3, 1e-6 * max(1.0, float(expected[2].abs().max())))


def test_rows_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    q, cache = torch.randn(7, 2, 576).bfloat16(), filled_mla_cache(2, 8)
    indices = torch.randint(-1, 16, (7, 5)).int()
    whole = both_ops(q, cache, indices)
    monkeypatch.setattr("dsa_ops.reference.sparse_mla.BLOCK_ELEMENTS", 5 * 3 * 578 * 3)
    for actual, expected in zip(both_ops(q, cache, indices), whole, strict=True):
        assert_attention(actual, tuple(e.double() for e in expected), 1e-3, 1e-5)


def test_no_rows_or_no_keys() -> None:
    q, kv = torch.randn(2, 3, 576).bfloat16(), torch.randn(4, 576).bfloat16()
    cache, indices = filled_mla_cache(2, 4), ints([0, 1], [-1, 3])
    for out, lse, *_ in (
        dsa_ops.sparse_mla_prefill(q, kv[:0], indices, 1.0),
        dsa_ops.sparse_mla_decode(q, cache[:0], indices, 1.0),
    ):
        assert (out == 0).all() and lse.isneginf().all()
    assert dsa_ops.sparse_mla_prefill(q[:0], kv, indices[:0], 1.0)[0].shape == (0, 3, 512)
    assert dsa_ops.sparse_mla_decode(q[:0], cache, indices[:0], 1.0)[0].shape == (0, 3, 512)


def test_strides_and_out() -> None:
    q = torch.randn(4, 6, 640).bfloat16()[::2, ::2, :576]
    kv = torch.randn(9, 584).bfloat16()[:, :576]
    indices = torch.randint(0, 9, (2, 10)).int()[:, :5]
    expected = dsa_ops.sparse_mla_prefill(q.contiguous(), kv.contiguous(), indices.clone(), 0.1)
    out = torch.zeros(2, 6, 520).bfloat16()[:, ::2, :512]
    outputs = (out, torch.zeros(2, 3), torch.zeros(2, 3))
    assert dsa_ops.sparse_mla_prefill(q, kv, indices, 0.1, out=outputs) is outputs
    for result, target in zip(outputs, expected, strict=True):
        assert torch.equal(result, target)
    cache = filled_mla_cache(2, 5)
    decoded = dsa_ops.sparse_mla_decode(q, cache, indices, 0.1, out=outputs[:2])
    assert decoded[0] is out
    for result, target in zip(
        decoded, dsa_ops.sparse_mla_decode(q.contiguous(), cache, indices, 0.1), strict=True
    ):
        assert torch.equal(result, target)


def test_real_size() -> None:
    num_pages = 256
    cache = filled_mla_cache(num_pages, 64)
    q = torch.randn(1, 128, 576).bfloat16()
    indices = torch.randperm(num_pages * 64)[None, :2048].int()
    out, lse = dsa_ops.sparse_mla_decode(q, cache, indices, 576**-0.5)
    keys = cached_keys(cache.view(-1, 656)[indices[0].long()])
    everything = torch.arange(2048).int()[None]
    expected = naive_attention(q[:, 77:78], keys, everything, 576**-0.5)
    assert_attention((out[:, 77:78], lse[:, 77:78]), expected, 2e-3, 1e-5)
    kv = torch.randn(4096, 576).bfloat16()
    prefill = dsa_ops.sparse_mla_prefill(q, kv, indices % 4096, 576**-0.5)
    expected = naive_attention(q[:, :1], kv, indices % 4096, 576**-0.5)
    assert_attention(tuple(result[:, :1] for result in prefill), expected, 2e-3, 1e-5)
