"""Small valid arguments of the indexer, top-k and attention ops, in schema order and with every
optional argument given, and random data for their tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dsa_ops._library import OPS
from dsa_ops.formats import FP8
from tests.bad_inputs import Arguments
from tests.registration import outputs_of


def ints(*values: Any) -> Tensor:
    """An int32 tensor."""
    return torch.tensor(values, dtype=torch.int32)


def index_queries(*shape: int) -> Tensor:
    """Random e4m3 queries ``[*shape, 128]``."""
    return torch.randn(*shape, 128).to(FP8)


def index_keys(num_keys: int) -> tuple[Tensor, Tensor]:
    """Random e4m3 keys ``[N, 128]`` and their scales ``[N]``."""
    return torch.randn(num_keys, 128).to(FP8), torch.rand(num_keys) + 0.5


def filled_index_cache(num_pages: int, page_stride: int = 64 * 132) -> Tensor:
    """A random index cache whose pages lie ``page_stride`` bytes apart."""
    storage = torch.zeros(num_pages, page_stride, dtype=torch.uint8)
    storage[:, : 64 * 128] = torch.randn(num_pages, 64 * 128).to(FP8).view(torch.uint8)
    scales = (torch.rand(num_pages, 64) + 0.5).view(torch.uint8)
    storage[:, 64 * 128 : 64 * 132] = scales
    return storage.as_strided((num_pages, 64, 132), (page_stride, 132, 1))


def filled_mla_cache(
    num_pages: int, page_size: int, page_padding: int = 0, powers_of_two: bool = False
) -> Tensor:
    """A random MLA cache with ``page_padding`` bytes between pages, ``uint8[pages, page, 656]``."""
    tokens = torch.zeros(num_pages, page_size, 656, dtype=torch.uint8)
    tokens[..., :512] = torch.randn(num_pages, page_size, 512).mul(50).to(FP8).view(torch.uint8)
    scales = torch.rand(num_pages, page_size, 4) * 0.02 + 0.01
    if powers_of_two:
        scales = torch.full_like(scales, 1 / 64)
    tokens[..., 512:528] = scales.view(torch.uint8)
    rope = torch.randn(num_pages, page_size, 64).bfloat16()
    tokens[..., 528:] = rope.view(torch.uint8)
    stride = page_size * 656 + page_padding
    storage = torch.zeros(num_pages, stride, dtype=torch.uint8)
    cache = storage.as_strided(tokens.shape, (stride, 656, 1))
    return cache.copy_(tokens)


def filled_bf16_cache(num_pages: int, page_size: int, page_padding: int = 0) -> Tensor:
    """Random tokens with ``page_padding`` values between pages, ``bfloat16[pages, page, 576]``."""
    stride = page_size * 576 + page_padding
    storage = torch.randn(num_pages, stride).bfloat16()
    return storage.as_strided((num_pages, page_size, 576), (stride, 576, 1))


def indexer_logits() -> Arguments:
    k, k_scale = index_keys(10)
    return {
        "q": index_queries(4, 8),
        "k": k,
        "k_scale": k_scale,
        "weights": torch.randn(4, 8),
        "row_starts": ints(0, 1, 2, 9),
        "row_ends": ints(10, 5, 2, 20),
        "clean": True,
        "num_sms": 0,
        "pdl": False,
        "logits": torch.zeros(4, 10),
    }


def cached_indexer_logits() -> Arguments:
    return {
        "q": index_queries(4, 8),
        "index_cache": filled_index_cache(3),
        "page_ids": ints(2, -1, 0),
        "weights": torch.randn(4, 8),
        "row_starts": ints(0, 1, 2, 9),
        "row_ends": ints(10, 192, 2, 200),
        "clean": True,
        "num_sms": 0,
        "pdl": False,
        "logits": torch.zeros(4, 192),
    }


def paged_indexer_logits() -> Arguments:
    return {
        "q": index_queries(2, 2, 8),
        "index_cache": filled_index_cache(3),
        "weights": torch.randn(4, 8),
        "context_lens": ints(70, 3),
        "block_table": ints([2, 0], [1, -1]),
        "num_sms": 0,
        "pdl": False,
        "logits": torch.zeros(4, 100),
    }


def topk() -> Arguments:
    return {
        "logits": torch.randn(4, 100),
        "row_ends": ints(100, 50, 3, 0),
        "row_starts": ints(0, 20, 0, 0),
        "block_table": ints([2, 0], [1, -1]),
        "row_to_request": ints(0, 1, 1, 5),
        "row_offsets": ints(0, 1000, 5, 7),
        "indices": torch.zeros(4, 7, dtype=torch.int32),
    }


def indexer_topk() -> Arguments:
    arguments = indexer_logits()
    del arguments["clean"], arguments["num_sms"], arguments["pdl"], arguments["logits"]
    return arguments | {
        "block_table": ints([2, 0], [1, 3]),
        "row_to_request": ints(0, 0, 1, 1),
        "num_sms": 0,
        "pdl": False,
        "indices": torch.zeros(4, 3, dtype=torch.int32),
    }


def paged_indexer_topk() -> Arguments:
    arguments = paged_indexer_logits()
    del arguments["num_sms"], arguments["pdl"], arguments["logits"]
    return arguments | {
        "max_context_len": 100,
        "return_slots": True,
        "num_sms": 0,
        "pdl": False,
        "indices": torch.zeros(4, 5, dtype=torch.int32),
    }


def sparse_mla_prefill() -> Arguments:
    return {
        "q": torch.randn(3, 4, 576).bfloat16(),
        "kv": torch.randn(9, 576).bfloat16(),
        "indices": ints([0, 8, -1, 3], [1, 1, 9, 2], [4, 5, 6, 7]),
        "sm_scale": 0.05,
        "topk_lens": ints(4, 3, 0),
        "attn_sink": torch.randn(4),
        "out": torch.zeros(3, 4, 512, dtype=torch.bfloat16),
        "lse": torch.zeros(3, 4),
        "max_logits": torch.zeros(3, 4),
    }


def sparse_mla_decode() -> Arguments:
    arguments = sparse_mla_prefill()
    kv_cache = filled_mla_cache(3, 4)
    del arguments["kv"], arguments["max_logits"]
    q = arguments.pop("q")
    return {"q": q, "kv_cache": kv_cache} | arguments


GOOD_ARGUMENTS = {
    good.__name__: good
    for good in (
        indexer_logits,
        cached_indexer_logits,
        paged_indexer_logits,
        topk,
        indexer_topk,
        paged_indexer_topk,
        sparse_mla_prefill,
        sparse_mla_decode,
    )
}


def without_options(op: str, arguments: Arguments) -> Arguments:
    """The same arguments with every optional tensor left out."""
    schema = OPS[op].overload._schema.arguments
    optional = [a.name for a in schema if isinstance(a.type, torch.OptionalType)]
    return {name: None if name in optional else value for name, value in arguments.items()}


#: What a public function takes in place of the outputs of its schema.
SHAPE_ARGUMENTS = {
    "paged_indexer_logits": {"max_context_len": 100},
    "topk": {"top_k": 7},
    "indexer_topk": {"top_k": 3},
    "paged_indexer_topk": {"top_k": 5},
}


def public_arguments(op: str) -> Arguments:
    """Keyword arguments of the public function, without ``out``."""
    outputs = outputs_of(op)
    inputs = {name: value for name, value in GOOD_ARGUMENTS[op]().items() if name not in outputs}
    return inputs | SHAPE_ARGUMENTS.get(op, {})
