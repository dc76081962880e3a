"""Calls of every public op, in the forms whose kernels differ, on random inputs: what processes
that share the device repeat, and what each call has to give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from tests.gpu.attention_data import SCALE, queries, results_of, rows_of_kv, selection
from tests.gpu.cache_cases import (
    copy_with_storage,
    cos_sin_cache,
    random_cache,
    random_rows,
    storage_bytes,
)
from tests.gpu.indexer_cases import ragged
from tests.gpu.paged_cases import PagedArguments, paged, row_ends, scales
from tests.gpu.test_fused_topk import candidate_lists, scored
from tests.gpu.test_random_topk import SIZES
from tests.gpu.test_sparse_mla import OUT_TOLERANCE
from tests.gpu.test_sparse_mla_packs import drifting
from tests.gpu.tools import poisoned, relative_error
from tests.select_arguments import (
    filled_bf16_cache,
    filled_index_cache,
    filled_mla_cache,
    index_keys,
)

Change = Callable[[PagedArguments], None]
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32}
#: As an integer of any width: no index, and no value that a test expects.
LEFT_OUT = -77


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(INTEGERS[tensor.element_size()])


@dataclass
class Call:
    """A call that writes ``outputs``, and their values."""

    name: str
    run: Callable[[], object]
    outputs: tuple[Tensor, ...]
    expected: tuple[Tensor, ...] = ()

    def play(self) -> None:
        for output in self.outputs:
            bits(output).fill_(LEFT_OUT)
        self.run()

    def differs(self) -> Tensor:
        """Whether any output has other bits than expected, on the device."""
        pairs = zip(self.outputs, self.expected, strict=True)
        return torch.stack([(bits(a) != bits(b)).any() for a, b in pairs]).any()


def first_play(name: str, run: Callable[[], object], *outputs: Tensor) -> Call:
    call = Call(name, run, outputs)
    call.play()
    call.expected = tuple(output.clone() for output in outputs)
    return call


def equal_logits(arguments: PagedArguments) -> None:
    """Positive ones: no list settles such a row, so it is scored again."""
    cache = arguments[1]
    pages = cache.as_strided((cache.shape[0], 64 * 132), (cache.stride(0), 1))
    pages[:, : 64 * 128].view(-1, 64, 128)[:] = pages[0, :128].clone()
    scales(arguments).fill_(1)
    arguments[2].abs_()


def short_rows(arguments: PagedArguments) -> None:
    """Of many blocks each has a few pages, which tell little."""
    lens = arguments[3]
    lens[:] = torch.randint(300, 3000, lens.shape)


def as_they_are(arguments: PagedArguments) -> None:
    pass


def paged_selection(arguments: PagedArguments, top_k: int, change: Change, slots: bool) -> Call:
    """Against the two ops alone."""
    change(arguments)
    ends = row_ends(arguments)
    out = poisoned(ends.shape[0], top_k, dtype=torch.int32)
    table = arguments[4] if slots else None
    expected = dsa_ops.topk(
        dsa_ops.paged_indexer_logits(*arguments), top_k, ends, block_table=table
    )
    name = f"paged_indexer_topk {tuple(arguments[0].shape)} x {arguments[5]} {change.__name__}"

    def run() -> object:
        return dsa_ops.paged_indexer_topk(*arguments, top_k, return_slots=slots, out=out, pdl=True)

    return Call(name, run, (out,), (expected,))


def paged_selections() -> Iterator[Call]:
    for heads in (8, 16, 32, 64):
        for top_k, change in ((2000, equal_logits), (300, short_rows), (2000, short_rows)):
            arguments = paged(128, 8256, heads, pages=1000)
            yield paged_selection(arguments, top_k, change, heads > 16)
    for change in (as_they_are, equal_logits):
        yield paged_selection(paged(16, 65_536, pages=2000), 2048, change, False)
        yield paged_selection(paged(66, 64_000, pages=2000, next_n=2), 2048, change, True)
        yield paged_selection(paged(128, 8192, pages=2000), 2048, change, False)  # owned rows
        yield paged_selection(paged(4, 20_000, 32, next_n=2), 2048, change, False)  # stored logits


def ragged_selections() -> Iterator[Call]:
    for name, lists, arguments in (
        ("fused", 0, scored(528, 96_000)),
        ("fused, scored again", 4, scored(528, 96_000)),
        ("in chunks", 0, scored(200, 9000, 16)),
    ):
        starts, ends = arguments[4:]
        out = poisoned(starts.shape[0], 2048, dtype=torch.int32)
        logits = dsa_ops.indexer_logits(*arguments)

        def run(arguments=arguments, out=out, lists=lists) -> None:
            with candidate_lists(lists):
                dsa_ops.indexer_topk(*arguments, 2048, out=out, pdl=True)

        expected = dsa_ops.topk(logits, 2048, ends, starts)
        yield Call(f"indexer_topk {name}", run, (out,), (expected,))


def selections() -> Iterator[Call]:
    for name, ((_, rows), (_, columns)) in SIZES.items():
        logits = torch.randn(rows, columns)
        logits[::2].relu_().mul_(torch.rand_like(logits[::2]) < 0.03)
        ends = torch.randint(columns // 2, columns + 1, (rows,)).int()
        out = poisoned(rows, 2048, dtype=torch.int32)

        def run(logits=logits, ends=ends, out=out) -> object:
            return dsa_ops.topk(logits, 2048, ends, out=out)

        yield Call(f"topk {name}", run, (out,), (reference.topk(logits, 2048, ends),))


def scores() -> Iterator[Call]:
    arguments = ragged(150, 4000, 64)
    out = poisoned(150, 4000)
    yield first_play(
        "indexer_logits", lambda: dsa_ops.indexer_logits(*arguments, clean=True, out=out), out
    )
    q, _, _, weights, starts, ends = ragged(150, 4000, 32)
    cache, ids = filled_index_cache(80), torch.randint(-1, 81, (63,)).int()
    cached = poisoned(150, 63 * 64)
    yield first_play(
        "cached_indexer_logits",
        lambda: dsa_ops.cached_indexer_logits(q, cache, ids, weights, starts, ends, out=cached),
        cached,
    )
    for rows in (1, 4):
        of_pages = paged(9, 3000, 16 * rows, next_n=rows)
        of_pages[3][:] = torch.randint(0, 3001, of_pages[3].shape)
        logits = poisoned(9 * rows, 3000)
        yield first_play(
            f"paged_indexer_logits of {rows} rows",
            lambda a=of_pages, out=logits: dsa_ops.paged_indexer_logits(*a, out=out),
            logits,
        )


def attention(
    op: Callable[..., object], oracle: Callable[..., tuple[Tensor, ...]], q: Tensor, keys: Tensor,
    indices: Tensor, num_outputs: int,
) -> Call:  # fmt: skip
    """The first rows against float64."""
    out = results_of(q, num_outputs)
    name = f"{op.__name__} {tuple(q.shape)} of {keys.dtype}"
    call = first_play(name, lambda: op(q, keys, indices, SCALE, out=out), *out)
    few = slice(0, 7)
    exact = oracle(q[few], keys, indices[few], SCALE, compute_dtype=torch.float64)[0]
    assert relative_error(call.expected[0][few], exact) <= OUT_TOLERANCE, name
    return call


def attentions() -> Iterator[Call]:
    decode = dsa_ops.sparse_mla_decode, reference.sparse_mla_decode
    for rows, heads, top_k in (
        (140, 128, 1024),  # pairs of blocks
        (200, 64, 512),
        (140, 16, 512),
        (66, 16, 2048),  # two splits that join in registers
        (66, 64, 2048),
        (38, 16, 2048),  # three
        (7, 8, 2048),  # clusters
        (4, 32, 2048),
        (1, 8, 600),
        (44, 16, 2048),  # splits that join through scratch
        (11, 128, 2048),
    ):
        indices = selection(rows, top_k, 2560)
        yield attention(*decode, queries(rows, heads), filled_mla_cache(40, 64), indices, 2)
    indices = selection(30, 1024, 2560)
    yield attention(*decode, queries(30, 64), filled_bf16_cache(40, 64), indices, 2)
    prefill = dsa_ops.sparse_mla_prefill, reference.sparse_mla_prefill
    yield attention(*prefill, queries(150, 128), rows_of_kv(3000), selection(150, 512, 3000), 3)
    packed = drifting(2605, 830, 3000)
    yield attention(*prefill, queries(2605, 8), rows_of_kv(3000), packed, 3)


def caches() -> Iterator[Call]:
    slots, positions = torch.randperm(1280)[:1000], torch.randint(0, 50, (1000,))
    table = torch.randperm(20).int().view(4, 5)
    lens = torch.arange(5).int() * 250
    keys, latents = random_rows(1000, 128), random_rows(1000, 512)
    rope, turns = random_rows(1000, 64), cos_sin_cache(50)
    norm = torch.randn(128), torch.randn(128), 1e-6
    index, mla = random_cache(20, 64, 132), random_cache(20, 64, 656)
    own = [copy_with_storage(index), copy_with_storage(index), copy_with_storage(mla)]
    for name, cache, write in (
        ("write_index_cache", own[0], lambda: dsa_ops.write_index_cache(keys, own[0], slots)),
        (
            "prepare_index_k",
            own[1],
            lambda: dsa_ops.prepare_index_k(
                keys, *norm, positions, turns, own[1], slots, interleaved=False, hadamard=True
            ),
        ),
        ("write_mla_cache", own[2], lambda: dsa_ops.write_mla_cache(latents, rope, own[2], slots)),
    ):
        yield first_play(name, write, storage_bytes(cache))
    gathered, kv = index_keys(1000), random_rows(1000, 576)
    yield first_play(
        "gather_index_cache",
        lambda: dsa_ops.gather_index_cache(index, table, lens, 1000, out=gathered),
        *gathered,
    )
    yield first_play(
        "gather_mla_cache", lambda: dsa_ops.gather_mla_cache(mla, table, lens, 1000, out=kv), kv
    )


def around() -> Iterator[Call]:
    """What comes before and behind the ops above."""
    q, weights = random_rows(300, 64, 128), torch.randn(300, 64)
    positions, turns = torch.randint(0, 50, (300,)), cos_sin_cache(50)
    prepared = index_keys(300 * 64)[0].view(300, 64, 128), torch.empty(300, 64)
    yield first_play(
        "prepare_index_q",
        lambda: dsa_ops.prepare_index_q(
            q, positions, turns, weights, 128**-0.5, interleaved=True, out=prepared
        ),
        *prepared,
    )
    parts = [torch.randn(90, 64, 512).bfloat16(), torch.randn(90, 64)] * 2
    merged = results_of(queries(90, 64), 2)
    yield first_play("merge_states", lambda: dsa_ops.merge_states(*parts, out=merged), *merged)


def all_calls() -> list[Call]:
    groups = (
        *(paged_selections, ragged_selections, selections),
        *(scores, attentions, caches, around),
    )
    return [call for group in groups for call in group()]
