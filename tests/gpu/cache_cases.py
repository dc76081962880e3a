"""What the GPU tests of the cache, prepare and merge ops share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


def random_rows(*shape: int, row_elements: int | None = None) -> Tensor:
    """bf16 vectors of many magnitudes, zeros among them; ``row_elements`` is the row pitch."""
    pitch = row_elements or shape[-1]
    x = torch.randn(*shape[:-1], pitch, device="cuda")
    x *= torch.exp2(torch.randint(-24, 12, (*shape[:-1], 1), device="cuda").float())
    x[::7] = 0.0
    return x.to(BF16)[..., : shape[-1]]


def random_cache(num_pages: int, page_size: int, token_bytes: int, padding: int = 0) -> Tensor:
    """Random bytes, pages ``padding`` bytes apart."""
    stride = page_size * token_bytes + padding
    storage = torch.randint(0, 256, (num_pages * stride,), device="cuda", dtype=torch.uint8)
    return storage.as_strided((num_pages, page_size, token_bytes), (stride, token_bytes, 1))


def copy_with_storage(cache: Tensor) -> Tensor:
    """A copy that has the same strides and the same bytes between its pages."""
    return storage_bytes(cache).clone().as_strided(cache.shape, cache.stride())


def storage_bytes(tensor: Tensor) -> Tensor:
    """Every byte of the allocation beneath a tensor."""
    nothing = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return nothing.set_(tensor.untyped_storage())


def ints(*numbers: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device="cuda")


def cos_sin_cache(num_positions: int) -> Tensor:
    positions = torch.arange(num_positions, device="cuda")[:, None]
    angles = positions * 1e4 ** -(torch.arange(32, device="cuda") / 32)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def captured(call: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """A graph of the call; capturing runs nothing."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call()
    return graph
