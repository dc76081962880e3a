"""Checks of the arguments of the prepare ops; mirrors ``csrc/torch/prepare.cpp``."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import Checker
from ..formats import INDEX_HEAD_DIM


def check_rope(
    checker: Checker, positions: Tensor, cos_sin_cache: Tensor, size: int, size_name: str
) -> None:
    checker.dtype(positions, "positions", torch.int64)
    checker.shape(positions, "positions", (size,), f"[{size_name}]")
    checker.last_dim_contiguous(positions, "positions")
    checker.dtype(cos_sin_cache, "cos_sin_cache", torch.float32)
    checker.shape(cos_sin_cache, "cos_sin_cache", (-1, 64), "[num_positions, 64]")
    checker.last_dim_contiguous(cos_sin_cache, "cos_sin_cache")
    num_positions = cos_sin_cache.shape[0]
    checker.require(num_positions >= 1, "cos_sin_cache", "of at least one row", num_positions)


def check_head_vectors(
    checker: Checker, tensor: Tensor, argument: str, sizes: tuple[int, int]
) -> None:
    checker.shape(tensor, argument, (*sizes, INDEX_HEAD_DIM), "[num_rows, num_heads, 128]")
    checker.last_dim_contiguous(tensor, argument)
    checker.aligned_16(tensor, argument)


def check_weights(checker: Checker, tensor: Tensor, argument: str, sizes: tuple[int, int]) -> None:
    checker.dtype(tensor, argument, torch.float32)
    checker.shape(tensor, argument, sizes, "[num_rows, num_heads]")
    checker.last_dim_contiguous(tensor, argument)


def check_norm(checker: Checker, weight: Tensor | None, bias: Tensor | None) -> None:
    for tensor, argument in ((weight, "norm_weight"), (bias, "norm_bias")):
        if tensor is not None:
            checker.dtype(tensor, argument, torch.float32)
            checker.shape(tensor, argument, (INDEX_HEAD_DIM,), "[128]")
            checker.last_dim_contiguous(tensor, argument)
    got = "only one of them"
    checker.require(
        (weight is None) == (bias is None), "norm_bias", "given together with norm_weight", got
    )
