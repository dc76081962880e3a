"""Small valid arguments of the cache, prepare and merge ops, with optional arguments given."""

from __future__ import annotations

from collections.abc import Callable

import torch

import dsa_ops
from tests.bad_inputs import Arguments

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    """bf16 vectors whose magnitudes span many powers of two, the first one all zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    x *= torch.exp2(torch.randint(-24, 12, (*shape[:-1], 1), generator=generator).float())
    x[:1] = 0.0
    return x.to(BF16)


def paged(num_pages: int, page_size: int, token_bytes: int, padding: int) -> torch.Tensor:
    """A cache of random bytes whose pages lie ``padding`` bytes apart in a larger allocation."""
    stride = page_size * token_bytes + padding
    generator = torch.Generator().manual_seed(1)
    storage = torch.randint(0, 256, (num_pages * stride,), generator=generator, dtype=torch.uint8)
    return storage.as_strided((num_pages, page_size, token_bytes), (stride, token_bytes, 1))


def ints(*numbers: int) -> torch.Tensor:
    """An int32 vector."""
    return torch.tensor(numbers, dtype=torch.int32)


def cos_sin_cache(num_positions: int) -> torch.Tensor:
    """float32 ``[num_positions, 64]``: 32 cosines, then 32 sines."""
    angles = torch.arange(num_positions)[:, None] * 1e4 ** -(torch.arange(32) / 32)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def good_write_index() -> Arguments:
    return {
        "k": values(5, 128),
        "index_cache": dsa_ops.new_index_cache(3),
        "slot_mapping": torch.tensor([0, 70, -1, 191, 5]),
        "ue8m0": True,
    }


def good_gather_index() -> Arguments:
    return {
        "index_cache": paged(3, 64, 132, 16),
        "block_table": torch.tensor([[0, 2], [1, -1]], dtype=torch.int32),
        "cu_seq_lens": ints(0, 3, 6),
        "k": torch.zeros(7, 128).to(FP8),
        "k_scale": torch.zeros(7),
    }


def good_write_mla() -> Arguments:
    return {
        "kv_latent": values(5, 512),
        "k_rope": values(5, 64),
        "mla_cache": dsa_ops.new_mla_cache(3),
        "slot_mapping": torch.tensor([0, 70, -1, 191, 5]),
    }


def good_gather_mla() -> Arguments:
    return {
        "mla_cache": torch.full((3, 64, 656), 60, dtype=torch.uint8),
        "block_table": torch.tensor([[0, 2], [1, -1]], dtype=torch.int32),
        "cu_seq_lens": ints(0, 3, 6),
        "kv": torch.zeros(7, 576, dtype=BF16),
    }


def good_prepare_q() -> Arguments:
    return {
        "q": values(5, 8, 128),
        "positions": torch.tensor([3, 0, 9, 4, 5]),
        "cos_sin_cache": cos_sin_cache(10),
        "weights": torch.randn(5, 8),
        "softmax_scale": 128**-0.5,
        "interleaved": False,
        "hadamard": True,
        "ue8m0": True,
        "q_out": torch.zeros(5, 8, 128).to(FP8),
        "weights_out": torch.zeros(5, 8),
    }


def good_prepare_k() -> Arguments:
    return {
        "k": values(5, 128),
        "norm_weight": torch.rand(128) + 0.5,
        "norm_bias": torch.randn(128),
        "eps": 1e-6,
        "positions": torch.tensor([3, 0, 9, 4, 5]),
        "cos_sin_cache": cos_sin_cache(10),
        "interleaved": False,
        "hadamard": False,
        "ue8m0": True,
        "index_cache": paged(3, 64, 132, 16),
        "slot_mapping": torch.tensor([0, 70, -1, 191, 5]),
    }


def good_merge() -> Arguments:
    return {
        "out_a": torch.randn(5, 3, 512).to(BF16),
        "lse_a": torch.randn(5, 3),
        "out_b": torch.randn(5, 3, 512).to(BF16),
        "lse_b": torch.randn(5, 3),
        "out": torch.zeros(5, 3, 512, dtype=BF16),
        "lse": torch.zeros(5, 3),
    }


#: Arguments in schema order, by op.
GOOD_ARGUMENTS: dict[str, Callable[[], Arguments]] = {
    "write_index_cache": good_write_index,
    "gather_index_cache": good_gather_index,
    "write_mla_cache": good_write_mla,
    "gather_mla_cache": good_gather_mla,
    "prepare_index_q": good_prepare_q,
    "prepare_index_k": good_prepare_k,
    "merge_states": good_merge,
}
