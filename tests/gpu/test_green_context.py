"""In a green context, a part of the device that has no clusters of 16 blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import dsa_ops
from tests.gpu.attention_data import SCALE, queries, selection
from tests.gpu.tools import on_device, relative_error
from tests.select_arguments import filled_mla_cache, ints

__all__ = ["on_device"]
green_contexts = pytest.importorskip("torch.cuda.green_contexts")


@contextmanager
def part_of_the_device() -> Iterator[None]:
    context = green_contexts.GreenContext.create(64, 0)
    torch.cuda.synchronize()
    context.set_context()
    try:
        yield
        torch.cuda.synchronize()
    finally:
        context.pop_context()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 100_000), (7, 20_000), (3, 1 << 20)])
def test_topk(shape: tuple[int, int], dtype: torch.dtype) -> None:
    logits, ends = torch.randn(shape).to(dtype), ints(*[shape[1]] * shape[0])
    expected = dsa_ops.topk(logits, 2048, ends)
    with part_of_the_device():
        selected = dsa_ops.topk(logits, 2048, ends)
    assert torch.equal(selected, expected)


@pytest.mark.parametrize("num_heads", [8, 16, 32])
@pytest.mark.parametrize("top_k", [1000, 2048, 4096])
def test_decode(num_heads: int, top_k: int) -> None:
    q, cache = queries(1, num_heads), filled_mla_cache(100, 64)
    arguments = (q, cache, selection(1, top_k, 6400), SCALE)
    out, lse = dsa_ops.sparse_mla_decode(*arguments)
    with part_of_the_device():
        own_out, own_lse = dsa_ops.sparse_mla_decode(*arguments)
    assert relative_error(own_out, out) <= 4e-3
    assert (own_lse - lse).abs().max() <= 1e-3
