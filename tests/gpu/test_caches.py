"""Cache kernels against the PyTorch implementation on the same tensors, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import dsa_ops
from dsa_ops import reference
from tests.gpu.cache_cases import (
    BF16,
    FP8,
    captured,
    copy_with_storage,
    ints,
    random_cache,
    random_rows,
    storage_bytes,
)


def some_slots(num_tokens: int, limit: int) -> Tensor:
    """Distinct slots in random order, some negative and some past the end of the cache."""
    slots = torch.randperm(max(num_tokens, limit), device="cuda")[:num_tokens]
    slots[1::11] = -1 - slots[1::11]
    slots[5::13] += 2**40
    return slots


def written_both_ways(native: Tensor, write: str, *rows: Tensor, slots: Tensor, **options) -> None:
    """Writes through the kernel and through PyTorch, and compares every byte of the allocation."""
    expected = copy_with_storage(native)
    getattr(dsa_ops, write)(*rows, native, slots, **options)
    getattr(reference, write)(*rows, expected, slots, **options)
    assert torch.equal(storage_bytes(native), storage_bytes(expected))


@pytest.mark.parametrize("ue8m0", [True, False])
@pytest.mark.parametrize("num_tokens", [0, 1, 31, 33, 1000])
@pytest.mark.parametrize("padding", [0, 48])
def test_write_index_cache(ue8m0: bool, num_tokens: int, padding: int) -> None:
    k = random_rows(num_tokens, 128, row_elements=136)
    cache = random_cache(11, 64, 132, padding)
    slots = some_slots(num_tokens, 11 * 64)
    written_both_ways(cache, "write_index_cache", k, slots=slots, ue8m0=ue8m0)


@pytest.mark.parametrize("num_tokens", [0, 1, 9, 1000])
@pytest.mark.parametrize("page_size,padding", [(64, 0), (1, 16), (3, 32), (256, 0)])
def test_write_mla_cache(num_tokens: int, page_size: int, padding: int) -> None:
    fused = random_rows(num_tokens, 576, row_elements=2112)
    fused[::5, :128] *= 2.0**-120  # scales down to the smallest normal float
    pages = 700 // page_size + 1
    cache = random_cache(pages, page_size, 656, padding)
    slots = some_slots(num_tokens, pages * page_size)
    written_both_ways(cache, "write_mla_cache", fused[:, :512], fused[:, 512:], slots=slots)


def test_quantisation_of_every_bf16_magnitude() -> None:
    """Each finite bf16 value once as the largest of a vector of its own neighbours."""
    largest = torch.arange(0x7F80, device="cuda", dtype=torch.int32).to(torch.int16).view(BF16)
    factors = torch.linspace(-1, 1, 128, device="cuda")
    k = (largest.float()[:, None] * factors).to(BF16)
    slots = torch.arange(k.shape[0], device="cuda")
    for ue8m0 in (True, False):
        cache = random_cache(512, 64, 132)
        written_both_ways(cache, "write_index_cache", k, slots=slots, ue8m0=ue8m0)
    cache = random_cache(512, 64, 656)
    latent = k.repeat(1, 4)
    written_both_ways(cache, "write_mla_cache", latent, latent[:, :64], slots=slots)


def test_nan_and_infinity_do_not_spread() -> None:
    k = random_rows(64, 512)
    k[3, 5], k[9, 200] = torch.nan, torch.inf
    slots = torch.arange(64, device="cuda")
    native, expected = random_cache(1, 64, 656), torch.zeros(1, 64, 656, dtype=torch.uint8)
    dsa_ops.write_mla_cache(k, k[:, :64], native, slots)
    reference.write_mla_cache(k.cpu(), k[:, :64].cpu(), expected, slots.cpu())
    views = zip(
        dsa_ops.formats.mla_cache_views(native.cpu()),
        dsa_ops.formats.mla_cache_views(expected),
        strict=True,
    )
    for ours, theirs in views:
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0, atol=0, equal_nan=True)


def test_write_past_2_to_31_bytes() -> None:
    """Three pages a little over 1 GiB apart; the last starts beyond 2^31 bytes."""
    stride = 2**30 + 80
    storage = torch.empty(2 * stride + 64 * 656, dtype=torch.uint8, device="cuda")
    slots = torch.arange(192, device="cuda").flip(0)
    k, latent = random_rows(192, 128), random_rows(192, 512)
    table, ranges = ints(2, 0, 1)[None], ints(0, 192)

    index_cache = storage.as_strided((3, 64, 132), (stride, 132, 1))
    dsa_ops.write_index_cache(k, index_cache, slots)
    small = torch.zeros(3, 64, 132, dtype=torch.uint8, device="cuda")
    reference.write_index_cache(k, small, slots)
    assert torch.equal(index_cache, small)
    keys, scales = dsa_ops.gather_index_cache(index_cache, table, ranges, 192)
    expected, expected_scales = reference.gather_index_cache(small, table, ranges, 192)
    assert torch.equal(keys.view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(scales, expected_scales)

    mla_cache = storage.as_strided((3, 64, 656), (stride, 656, 1))
    dsa_ops.write_mla_cache(latent, latent[:, :64], mla_cache, slots)
    small = torch.zeros(3, 64, 656, dtype=torch.uint8, device="cuda")
    reference.write_mla_cache(latent, latent[:, :64], small, slots)
    assert torch.equal(mla_cache, small)
    kv = dsa_ops.gather_mla_cache(mla_cache, table, ranges, 192)
    assert torch.equal(kv, reference.gather_mla_cache(small, table, ranges, 192))


def test_70_000_tokens() -> None:
    pages = 1100
    k, latent = random_rows(70_000, 128), random_rows(70_000, 512)
    slots = some_slots(70_000, pages * 64)
    index_cache, mla_cache = random_cache(pages, 64, 132), random_cache(pages, 64, 656)
    written_both_ways(index_cache, "write_index_cache", k, slots=slots)
    written_both_ways(mla_cache, "write_mla_cache", latent, latent[:, :64], slots=slots)
    table = torch.randperm(pages, device="cuda").int().view(2, -1)
    ranges = ints(0, 35_150, 70_000)
    keys, scales = dsa_ops.gather_index_cache(index_cache, table, ranges, 70_000)
    expected, expected_scales = reference.gather_index_cache(index_cache, table, ranges, 70_000)
    assert torch.equal(keys.view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(scales.view(torch.int32), expected_scales.view(torch.int32))
    kv = dsa_ops.gather_mla_cache(mla_cache, table, ranges, 70_000)
    expected = reference.gather_mla_cache(mla_cache, table, ranges, 70_000)
    torch.testing.assert_close(kv, expected, rtol=0, atol=0, equal_nan=True)


# Unused rows before and after, empty requests, pages that do not exist, tokens past the table.
CU_SEQ_LENS = (2, 72, 72, 77, 210, 210)
BLOCK_TABLE = [[3, 0, 9], [1, 1, 9], [-1, 2, 9], [4, 5, 9], [0, 0, 9]]


def batch() -> tuple[Tensor, Tensor]:
    """A block table with a row stride and an unread last column, and the row ranges."""
    table = torch.tensor(BLOCK_TABLE, dtype=torch.int32, device="cuda")[:, :2]
    return table, ints(*CU_SEQ_LENS)


@pytest.mark.parametrize("num_tokens", [0, 1, 205, 216])
@pytest.mark.parametrize("padding", [0, 48])
def test_gather_index_cache(num_tokens: int, padding: int) -> None:
    cache = random_cache(5, 64, 132, padding)
    table, ranges = batch()
    guarded = torch.full((num_tokens + 2, 144), 77, dtype=torch.uint8, device="cuda")
    k, k_scale = guarded[1:-1, :128].view(FP8), torch.full((num_tokens,), 77.0, device="cuda")
    dsa_ops.gather_index_cache(cache, table, ranges, num_tokens, out=(k, k_scale))
    expected, expected_scale = reference.gather_index_cache(cache, table, ranges, num_tokens)
    expected = expected.view(torch.uint8)
    covered = torch.arange(num_tokens, device="cuda")
    covered = (covered >= CU_SEQ_LENS[0]) & (covered < CU_SEQ_LENS[-1])
    expected[~covered], expected_scale[~covered] = 77, 77.0
    assert torch.equal(k.view(torch.uint8), expected)
    assert torch.equal(k_scale.view(torch.int32), expected_scale.view(torch.int32))
    assert (guarded[:, 128:] == 77).all() and (guarded[0] == 77).all() and (guarded[-1] == 77).all()


@pytest.mark.parametrize("num_tokens", [0, 1, 205, 216])
@pytest.mark.parametrize("page_size,padding", [(64, 0), (40, 16), (1, 0)])
def test_gather_mla_cache(num_tokens: int, page_size: int, padding: int) -> None:
    cache = random_cache(5, page_size, 656, padding)
    table, ranges = batch()
    guarded = torch.full((num_tokens + 2, 584), 77.0, dtype=BF16, device="cuda")
    kv = guarded[1:-1, :576]
    dsa_ops.gather_mla_cache(cache.view(FP8), table, ranges, num_tokens, out=kv)
    expected = reference.gather_mla_cache(cache, table, ranges, num_tokens)
    rows = torch.arange(num_tokens, device="cuda")
    expected[(rows < CU_SEQ_LENS[0]) | (rows >= CU_SEQ_LENS[-1])] = 77.0
    torch.testing.assert_close(kv, expected, rtol=0, atol=0, equal_nan=True)
    assert (guarded[:, 576:] == 77).all() and (guarded[0] == 77).all() and (guarded[-1] == 77).all()


@pytest.mark.parametrize("cu_seq_lens", [(0, 90, 20, 64), (-50, 10, 10, 2**30), (70, 3, 2, 1)])
def test_gather_survives_bad_ranges(cu_seq_lens: tuple[int, ...]) -> None:
    cache = torch.full((4, 64, 656), 60, dtype=torch.uint8, device="cuda")
    guarded = torch.full((66, 576), 77.0, dtype=BF16, device="cuda")
    table = torch.arange(3, dtype=torch.int32, device="cuda")[:, None]
    dsa_ops.gather_mla_cache(cache, table, ints(*cu_seq_lens), 64, out=guarded[1:-1])
    token = reference.gather_mla_cache(cache, table[:1], ints(0, 1), 1)
    known = (guarded == 77).all(-1) | (guarded == 0).all(-1) | (guarded == token).all(-1)
    assert known.all() and (guarded[0] == 77).all() and (guarded[-1] == 77).all()


def test_no_requests_and_no_pages() -> None:
    kv = torch.full((3, 576), 77.0, dtype=BF16, device="cuda")
    no_pages = dsa_ops.new_mla_cache(0, device="cuda")
    no_requests = torch.zeros(0, 4, dtype=torch.int32, device="cuda")
    dsa_ops.gather_mla_cache(no_pages, no_requests, ints(0), 3, out=kv)
    assert (kv == 77).all()
    dsa_ops.gather_mla_cache(no_pages, ints(0)[:, None], ints(0, 2), 3, out=kv)
    assert (kv[:2] == 0).all() and (kv[2] == 77).all()
    kv.fill_(77)
    some_pages = random_cache(2, 64, 656)
    dsa_ops.gather_mla_cache(some_pages, ints(0)[:, None][:, :0], ints(0, 2), 3, out=kv)
    assert (kv[:2] == 0).all() and (kv[2] == 77).all()
    slot = torch.zeros(1, dtype=torch.int64, device="cuda")
    dsa_ops.write_mla_cache(random_rows(1, 512), random_rows(1, 64), no_pages, slot)


def test_graph_replay_with_changed_contents() -> None:
    cache, k = random_cache(4, 64, 132), random_rows(100, 128)
    slots, (table, ranges) = (
        some_slots(100, 256),
        (ints(0, 1, 2, 3)[None].contiguous(), ints(0, 90)),
    )
    out = (torch.zeros(100, 128, device="cuda").to(FP8), torch.zeros(100, device="cuda"))

    def call() -> None:
        dsa_ops.write_index_cache(k, cache, slots)
        dsa_ops.gather_index_cache(cache, table, ranges, 100, out=out)

    graph = captured(call)
    for length in (90, 37, 100):
        k.copy_(random_rows(100, 128))
        slots.copy_(some_slots(100, 256))
        table.copy_(table.flip(1))
        ranges[1] = length
        out[0].view(torch.uint8).fill_(77)
        out[1].fill_(77.0)
        expected_cache = copy_with_storage(cache)
        reference.write_index_cache(k, expected_cache, slots)
        expected, scales = reference.gather_index_cache(expected_cache, table, ranges, 100)
        graph.replay()
        assert torch.equal(cache, expected_cache)
        keys = out[0].view(torch.uint8)
        assert torch.equal(keys[:length], expected.view(torch.uint8)[:length])
        assert torch.equal(out[1][:length].view(torch.int32), scales[:length].view(torch.int32))
        assert (keys[length:] == 77).all() and (out[1][length:] == 77).all()


def test_graph_replay_of_the_mla_cache() -> None:
    cache, latent = random_cache(4, 64, 656), random_rows(100, 576)
    slots, (table, ranges) = (
        some_slots(100, 256),
        (ints(3, 1, 2, 0)[None].contiguous(), ints(0, 90)),
    )
    kv = torch.zeros(100, 576, dtype=BF16, device="cuda")

    def call() -> None:
        dsa_ops.write_mla_cache(latent[:, :512], latent[:, 512:], cache, slots)
        dsa_ops.gather_mla_cache(cache, table, ranges, 100, out=kv)

    graph = captured(call)
    for length in (90, 37, 100):
        latent.copy_(random_rows(100, 576))
        slots.copy_(some_slots(100, 256))
        ranges[1] = length
        kv.fill_(77.0)
        expected_cache = copy_with_storage(cache)
        reference.write_mla_cache(latent[:, :512], latent[:, 512:], expected_cache, slots)
        expected = reference.gather_mla_cache(expected_cache, table, ranges, 100)
        graph.replay()
        assert torch.equal(cache, expected_cache)
        torch.testing.assert_close(kv[:length], expected[:length], rtol=0, atol=0, equal_nan=True)
        assert (kv[length:] == 77).all()


def test_tensors_on_two_devices_are_rejected() -> None:
    k, slots = random_rows(3, 128), torch.arange(3, device="cuda")
    with pytest.raises(RuntimeError, match="index_cache must be on the device of k, got another"):
        dsa_ops.write_index_cache(k, dsa_ops.new_index_cache(1), slots)
