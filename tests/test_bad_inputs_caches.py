"""What the cache, prepare and merge ops reject, in Python and in the compiled bindings alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import dsa_ops
from tests.bad_inputs import (
    Arguments,
    BadInput,
    Change,
    assert_native_rejects,
    assert_native_wants_cuda,
    assert_python_rejects,
    changes_of_every_tensor,
    needs_native,
    padded_rows,
    replaced_by,
    resized,
    shifted_base,
    table,
    viewed_as,
)
from tests.cache_arguments import BF16, FP8, GOOD_ARGUMENTS, paged


def overlapping_pages(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:1].expand(tensor.shape)


def spread_tokens(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*tensor.shape[:2], tensor.shape[2] + 16, dtype=tensor.dtype)[
        ..., : tensor.shape[2]
    ]


def misaligned_pages(tensor: torch.Tensor) -> torch.Tensor:
    return paged(tensor.shape[0], tensor.shape[1], tensor.shape[2], 8)


def cache_changes(argument: str, tokens: str, wrong_shape: tuple[int, ...]) -> list[Change]:
    misaligned = "aligned to 16 bytes in every stride, got a stride of"
    return [
        Change("tokens too short", argument, resized(*wrong_shape), r"of shape \[num_pages"),
        Change("one dim", argument, resized(7), r"of shape \[num_pages"),
        Change("pages overlap", argument, overlapping_pages, "made of pages at least"),
        Change("tokens apart", argument, spread_tokens, f"packed, {tokens} bytes per token"),
        Change("pages misaligned", argument, misaligned_pages, misaligned),
        Change("base misaligned", argument, shifted_base(8), "aligned to 16 bytes, got"),
    ]


ALIGNED = "aligned to 16 bytes in every stride, got a stride of"
EXTRA_CHANGES: dict[str, list[Change]] = {
    "write_index_cache": [
        Change("k has 64 columns", "k", resized(5, 64), r"of shape \[num_tokens, 128\], got \[5"),
        Change("k rows misaligned", "k", padded_rows(4), f"{ALIGNED} 264 bytes"),
        Change("k is uint8", "k", viewed_as(torch.uint8), "bfloat16, got uint8"),
        Change("one slot too few", "slot_mapping", lambda s: s[1:], r"of shape \[num_tokens\]"),
        *cache_changes("index_cache", "132", (3, 64, 128)),
    ],
    "gather_index_cache": [
        Change("k is uint8", "k", viewed_as(torch.uint8), "float8_e4m3fn, got uint8"),
        Change("k rows misaligned", "k", padded_rows(8), f"{ALIGNED} 136 bytes"),
        Change("too few scales", "k_scale", resized(6), r"of shape \[num_tokens\], got \[6\]"),
        Change("cu_seq_lens too short", "cu_seq_lens", resized(2), r"of shape \[num_requests \+ 1"),
        *cache_changes("index_cache", "132", (3, 32, 132)),
    ],
    "write_mla_cache": [
        Change("latent too short", "kv_latent", resized(5, 448), r"of shape \[num_tokens, 512\]"),
        Change("latent misaligned", "kv_latent", padded_rows(4), f"{ALIGNED} 1032 bytes"),
        Change("rope has other rows", "k_rope", resized(4, 64), r"of shape \[num_tokens, 64\]"),
        Change("rope misaligned", "k_rope", padded_rows(2), f"{ALIGNED} 132 bytes"),
        Change("one slot too few", "slot_mapping", lambda s: s[1:], r"of shape \[num_tokens\]"),
        Change("empty pages", "mla_cache", resized(3, 0, 656), "of page size at least 1, got 0"),
        *cache_changes("mla_cache", "656", (3, 64, 640)),
    ],
    "gather_mla_cache": [
        Change("kv too narrow", "kv", resized(7, 512), r"of shape \[num_tokens, 576\]"),
        Change("kv misaligned", "kv", padded_rows(4), f"{ALIGNED} 1160 bytes"),
        Change("cu_seq_lens too long", "cu_seq_lens", resized(4), r"of shape \[num_requests \+ 1"),
        *cache_changes("mla_cache", "656", (3, 64, 2, 656)),
    ],
    "prepare_index_q": [
        Change("q has 64 columns", "q", resized(5, 8, 64), r"of shape \[num_rows, num_heads, 128"),
        Change("q heads misaligned", "q", padded_rows(4), f"{ALIGNED} 264 bytes"),
        Change("base misaligned", "q_out", shifted_base(8), "aligned to 16 bytes, got a mis"),
        Change("q_out is uint8", "q_out", viewed_as(torch.uint8), "float8_e4m3fn, got uint8"),
        Change("q_out of 4 heads", "q_out", resized(5, 4, 128), r"of shape .*, got \[5, 4, 128"),
        Change("too few positions", "positions", lambda p: p[1:], r"of shape \[num_rows\], got"),
        Change("no angles", "cos_sin_cache", resized(0, 64), "of at least one row, got 0"),
        Change("angles too narrow", "cos_sin_cache", resized(9, 32), r"of shape \[num_positions"),
        Change("weights of 9 heads", "weights", resized(5, 9), r"of shape .*, got \[5, 9\]"),
        Change("weights_out too short", "weights_out", resized(4, 8), "of shape .*, got"),
    ],
    "prepare_index_k": [
        Change("k rows misaligned", "k", padded_rows(4), f"{ALIGNED} 264 bytes"),
        Change("norm_weight too short", "norm_weight", resized(64), r"of shape \[128\], got"),
        Change("no norm_bias", "norm_bias", replaced_by(None), "given together with norm_weight"),
        Change(
            "no norm_weight",
            "norm_weight",
            replaced_by(None),
            "given together with norm_weight, got only one of them",
            blamed="norm_bias",
        ),
        Change("no angles", "cos_sin_cache", resized(0, 64), "of at least one row, got 0"),
        Change("too many positions", "positions", resized(6), r"of shape \[num_tokens\], got \[6"),
        Change("one slot too few", "slot_mapping", lambda s: s[1:], r"of shape \[num_tokens\]"),
        *cache_changes("index_cache", "132", (3, 64, 128)),
    ],
    "merge_states": [
        Change("out_a misaligned", "out_a", padded_rows(4), f"{ALIGNED} 3096 bytes"),
        Change("out_b has other rows", "out_b", resized(4, 3, 512), r"of shape .*, got \[4, 3"),
        Change("out has other heads", "out", resized(5, 2, 512), r"of shape .*, got \[5, 2"),
        Change("lse_a too short", "lse_a", resized(4, 3), r"of shape \[num_rows, num_heads\]"),
        Change("lse_b too wide", "lse_b", resized(5, 4), r"of shape \[num_rows, num_heads\]"),
        Change("base misaligned", "out", shifted_base(4), "aligned to 16 bytes, got a mis"),
    ],
}


def of_heads(count: int) -> Callable[[], Arguments]:
    """Arguments of prepare_index_q that agree on a number of heads."""

    def arguments() -> Arguments:
        tensors = {
            "q": torch.zeros(5, count, 128, dtype=BF16),
            "weights": torch.zeros(5, count),
            "q_out": torch.zeros(5, count, 128).to(FP8),
            "weights_out": torch.zeros(5, count),
        }
        return GOOD_ARGUMENTS["prepare_index_q"]() | tensors

    return arguments


def of_head_dim(head_dim: int) -> Callable[[], Arguments]:
    """Arguments of merge_states that agree on a head_dim, in aligned rows."""

    def arguments() -> Arguments:
        good = GOOD_ARGUMENTS["merge_states"]()
        return {name: t[..., :head_dim] if t.dim() == 3 else t for name, t in good.items()}

    return arguments


def unchanged(argument: Any) -> Any:
    return argument


BAD = [
    bad
    for op, good in GOOD_ARGUMENTS.items()
    for bad in table(op, good, changes_of_every_tensor(op, good) + EXTRA_CHANGES[op])
]
for heads in (0, 1, 12, 128):
    change = Change(f"{heads} heads", "q", unchanged, f"of 8 or 16 or 32 or 64 heads, got {heads}$")
    BAD += table("prepare_index_q", of_heads(heads), [change])
odd = Change("head_dim 100", "out_a", unchanged, "of a head_dim divisible by 8, got 100")
BAD += table("merge_states", of_head_dim(100), [odd])


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_python_rejects(bad: BadInput) -> None:
    assert_python_rejects(bad)


@needs_native
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_native_rejects(bad: BadInput) -> None:
    assert_native_rejects(bad)


@needs_native
@pytest.mark.parametrize("op", GOOD_ARGUMENTS)
def test_native_wants_cuda(op: str) -> None:
    assert_native_wants_cuda(op, GOOD_ARGUMENTS[op])


@pytest.mark.parametrize("name", ["gather_index_cache", "gather_mla_cache"])
def test_num_tokens_is_checked(name: str) -> None:
    arguments: Any = list(GOOD_ARGUMENTS[name]().values())
    cache, block_table, cu_seq_lens, *out = arguments
    gather = getattr(dsa_ops, name)
    with pytest.raises(ValueError, match=f"{name}: num_tokens must be non-negative, got -1"):
        gather(cache, block_table, cu_seq_lens, -1)
    out = tuple(out) if len(out) > 1 else out[0]
    with pytest.raises(ValueError, match=rf"{name}: num_tokens must be the rows of out \(7\)"):
        gather(cache, block_table, cu_seq_lens, 6, out=out)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda out: dsa_ops.merge_states(*[torch.zeros(1, 1, 8)] * 4, out=out), "out, lse"),
        (
            lambda out: dsa_ops.gather_index_cache(*[torch.zeros(1)] * 3, 1, out=out),
            "k, k_scale",
        ),
        (
            lambda out: dsa_ops.prepare_index_q(
                *[torch.zeros(1)] * 4, 1.0, interleaved=False, out=out
            ),
            "q_out, weights_out",
        ),
    ],
    ids=["merge_states", "gather_index_cache", "prepare_index_q"],
)
def test_out_of_several_outputs_is_a_tuple_of_them(call: Callable[..., Any], names: str) -> None:
    for out, got in ((torch.zeros(2, 8), "Tensor"), ((torch.zeros(3),), "tuple of 1")):
        with pytest.raises(ValueError, match=rf"out must be a tuple \({names}\), got {got}"):
            call(out)


@pytest.mark.parametrize(
    ("op", "argument", "count"),
    [
        ("write_index_cache", "k", 3),
        ("gather_index_cache", "index_cache", 4),
        ("gather_mla_cache", "mla_cache", 4),
        ("prepare_index_q", "q", 5),
        ("merge_states", "out_a", 4),
    ],
)
def test_none_is_no_tensor(op: str, argument: str, count: int) -> None:
    options = {"interleaved": False} if op == "prepare_index_q" else {}
    with pytest.raises(ValueError, match=f"^{op}: {argument} must be a tensor, got NoneType"):
        getattr(dsa_ops, op)(None, *[torch.zeros(1)] * (count - 2), 1, **options)
