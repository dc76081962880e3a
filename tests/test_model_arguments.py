"""What the DSA layer refuses, and that it then leaves the cache alone."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle

import pytest
import torch

from dsa_ops.model import DsaAttention, LayerCache, small

SMALL = dataclasses.replace(small(), index_topk=48, max_positions=1024)


def test_nothing_to_do():
    layer = DsaAttention(SMALL)
    cache = layer.new_cache(2, 64)
    assert layer.prefill(torch.zeros(0, 512), cache).shape == (0, 512)
    assert layer.decode(torch.zeros(0, 1, 512), cache, []).shape == (0, 1, 512)
    assert cache.lengths == [0, 0]


def test_no_requests_without_quantisation():
    layer = DsaAttention(SMALL, backend="reference", quantize=False)
    assert layer.decode(torch.zeros(0, 1, 512), layer.new_cache(2, 64), []).shape == (0, 1, 512)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_copies_compute_the_same(backend):
    layer = DsaAttention(SMALL, backend=backend)
    hidden = torch.randn(70, 512)
    expected = layer.prefill(hidden, layer.new_cache(1, 128))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other.prefill(hidden, other.new_cache(1, 128)), expected)


class TestErrors:
    def test_cache_overflow(self):
        layer = DsaAttention(SMALL)
        cache = layer.new_cache(2, 64)
        with pytest.raises(ValueError, match="length must be at most 64 tokens, got 65"):
            layer.prefill(torch.zeros(65, 512), cache)
        assert cache.lengths == [0, 0]

    def test_no_room_for_the_second_chunk(self):
        layer = DsaAttention(SMALL)
        cache = layer.new_cache(1, 64)
        with pytest.raises(ValueError, match="length must be at most 64 tokens, got 65"):
            layer.prefill(torch.zeros(65, 512), cache, chunk_tokens=40)
        assert cache.lengths == [0]

    @pytest.mark.parametrize(
        "change, text",
        [
            ({"hidden": torch.zeros(3, 511)}, r"prefill: hidden must be of shape \[any, 512\]"),
            ({"hidden": torch.zeros(3, 1, 512)}, r"shape \[any, 512\], got \[3, 1, 512\]"),
            ({"hidden": torch.zeros(3, 512).half()}, "hidden must be torch.float32, got"),
            ({"request": 2}, r"requests must be from 0 to 1, got \[2\]"),
            ({"chunk_tokens": 0}, "chunk_tokens must be at least 1, got 0"),
        ],
    )
    def test_prefill(self, change, text):
        layer = DsaAttention(SMALL)
        cache = layer.new_cache(2, 64)
        with pytest.raises(ValueError, match=text):
            layer.prefill(**{"hidden": torch.zeros(3, 512), "cache": cache, **change})
        assert cache.lengths == [0, 0]

    @pytest.mark.parametrize(
        "hidden, requests, text",
        [
            (torch.zeros(1, 1, 512), None, r"decode: hidden must be of shape \[2, any, 512\]"),
            (torch.zeros(2, 512), None, r"got \[2, 512\]"),
            (torch.zeros(2, 0, 512), None, "of 1 or more tokens per request, got 0"),
            (torch.zeros(1, 1, 512), [-1], r"requests must be from 0 to 1, got \[-1\]"),
        ],
    )
    def test_decode(self, hidden, requests, text):
        layer = DsaAttention(SMALL)
        cache = layer.new_cache(2, 64)
        with pytest.raises(ValueError, match=text):
            layer.decode(hidden, cache, requests)
        assert cache.lengths == [0, 0]

    def test_repeated_request(self):
        layer = DsaAttention(SMALL)
        hidden = torch.zeros(2, 1, 512)
        with pytest.raises(ValueError, match=r"requests must be distinct, got \[1, 1\]"):
            layer.decode(hidden, layer.new_cache(2, 64), [1, 1])

    def test_block_table_shape(self):
        with pytest.raises(ValueError, match=r"block_table must be int32 of shape \[2, 3\]"):
            LayerCache(2, 140, block_table=torch.zeros(2, 2, dtype=torch.int32))

    @pytest.mark.parametrize(
        "pages, got", [([[7, 1]], 1), ([[0, 2]], 2), ([[1, 1]], 1), ([[-1, 0]], -1)]
    )
    def test_pages_of_the_block_table(self, pages, got):
        with pytest.raises(ValueError, match=rf"every page from 0 to 1 once, got {got}$"):
            LayerCache(1, 128, block_table=torch.tensor(pages, dtype=torch.int32))

    def test_step_that_fails_leaves_the_cache(self):
        layer = DsaAttention(SMALL)
        hidden = torch.randn(100, 512)
        expected = layer.prefill(hidden, layer.new_cache(1, 128))
        cache = layer.new_cache(1, 128)
        first = layer.prefill(hidden[:30], cache)
        project = layer.o_proj.forward
        calls = itertools.count()

        def fails_in_the_second_chunk(x):
            if next(calls):
                raise RuntimeError("out of memory")
            return project(x)

        layer.o_proj.forward = fails_in_the_second_chunk
        with pytest.raises(RuntimeError, match="out of memory"):
            layer.prefill(hidden[30:90], cache, chunk_tokens=40)
        assert cache.lengths == [30]
        with pytest.raises(RuntimeError, match="out of memory"):
            layer.decode(hidden[None, 30:31], cache)
        assert cache.lengths == [30]
        layer.o_proj.forward = project
        rest = layer.prefill(hidden[30:], cache)
        torch.testing.assert_close(torch.cat([first, rest]), expected)

    def test_too_many_positions(self):
        with pytest.raises(ValueError, match="max_context_len must be at most 1024"):
            DsaAttention(SMALL).new_cache(1, 1025)

    def test_unquantised_native(self):
        with pytest.raises(ValueError, match="quantize must be True unless"):
            DsaAttention(SMALL, quantize=False)

    def test_backend(self):
        with pytest.raises(ValueError, match="backend must be one of"):
            DsaAttention(SMALL, backend="fast")

    @pytest.mark.parametrize(
        "change, text",
        [
            ({"index_heads": 12}, "index_heads must be one of"),
            ({"num_heads": 129}, "num_heads must be 1 to 128"),
            ({"index_topk": 0}, "index_topk must be 1 to 4096"),
        ],
    )
    def test_config(self, change, text):
        with pytest.raises(ValueError, match=text):
            dataclasses.replace(SMALL, **change)
