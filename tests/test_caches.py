"""Cache writes and gathers against byte layouts spelled out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dsa_ops
from tests.cache_arguments import BF16, FP8, paged, values
from tests.naive_quant import E4M3_VALUES, quantize_index_vector, quantize_mla_group


def storage_bytes(cache: torch.Tensor) -> np.ndarray:
    storage = torch.empty(0, dtype=torch.uint8).set_(cache.untyped_storage())
    return storage.numpy().copy()


# Slots in order, out of order, negative and past the end of a cache of 3 pages of 64 tokens.
SLOTS = [0, 63, 64, 130, 7, -1, 3 * 64, 10**12, -(2**62), 3 * 64 - 1]


@pytest.mark.parametrize("ue8m0", [True, False])
@pytest.mark.parametrize("padding", [0, 48])
def test_write_index_cache_to_the_byte(ue8m0: bool, padding: int) -> None:
    k, cache = values(len(SLOTS), 128), paged(3, 64, 132, padding)
    expected = storage_bytes(cache)
    for vector, slot in zip(k.float().numpy(), SLOTS, strict=True):
        if 0 <= slot < 3 * 64:
            page, offset = slot // 64 * cache.stride(0), slot % 64
            y, scale = quantize_index_vector(vector, ue8m0)
            expected[page + 128 * offset : page + 128 * offset + 128] = y
            at = page + 8192 + 4 * offset
            expected[at : at + 4] = np.frombuffer(scale.tobytes(), np.uint8)
    dsa_ops.write_index_cache(k, cache, torch.tensor(SLOTS), ue8m0=ue8m0)
    np.testing.assert_array_equal(storage_bytes(cache), expected)


@pytest.mark.parametrize("page_size,padding", [(64, 0), (1, 16), (3, 32)])
def test_write_mla_cache_to_the_byte(page_size: int, padding: int) -> None:
    cache = paged(5, page_size, 656, padding)
    slots = [0, 5 * page_size - 1, -1, 5 * page_size, 2 * page_size, 10**12]
    latent, rope = values(len(slots), 512), values(len(slots), 64, seed=2)
    latent[4] *= 2.0**-120  # scales at and below the smallest normal float
    expected = storage_bytes(cache)
    for token, slot in enumerate(slots):
        if 0 <= slot < 5 * page_size:
            groups = [quantize_mla_group(g) for g in latent[token].float().view(4, 128).numpy()]
            written = b"".join(y.tobytes() for y, _ in groups)
            written += b"".join(scale.tobytes() for _, scale in groups)
            written += rope[token].view(torch.uint8).numpy().tobytes()
            at = slot // page_size * cache.stride(0) + slot % page_size * 656
            expected[at : at + 656] = np.frombuffer(written, np.uint8)
    dsa_ops.write_mla_cache(latent, rope, cache, torch.tensor(slots))
    np.testing.assert_array_equal(storage_bytes(cache), expected)


@pytest.mark.parametrize("exponent", [-20, -3, 0, 1, 9])
def test_ue8m0_scales_of_exact_powers(exponent: int) -> None:
    """448 * 2^e has scale 2^e; the next bf16 value above has the next power."""
    k = torch.zeros(2, 128)
    k[0, 5], k[1, 5] = 448 * 2.0**exponent, -450 * 2.0**exponent
    cache = dsa_ops.new_index_cache(1)
    dsa_ops.write_index_cache(k.to(BF16), cache, torch.arange(2))
    keys, scales = dsa_ops.formats.index_cache_views(cache)
    assert scales[0, :2].tolist() == [2.0**exponent, 2.0 ** (exponent + 1)]
    assert keys[0, :2, 5].float().tolist() == [448.0, -224.0]


def test_zero_vectors_stay_zero() -> None:
    index_cache, mla_cache = dsa_ops.new_index_cache(1), dsa_ops.new_mla_cache(1)
    zeros = torch.zeros(1, 512, dtype=BF16)
    slot = torch.zeros(1, dtype=torch.int64)
    dsa_ops.write_index_cache(zeros[:, :128], index_cache, slot, ue8m0=False)
    dsa_ops.write_mla_cache(zeros, zeros[:, :64], mla_cache, slot)
    keys, key_scales = dsa_ops.formats.index_cache_views(index_cache)
    latent, latent_scales, _ = dsa_ops.formats.mla_cache_views(mla_cache)
    assert not keys[0, 0].float().any() and not latent[0, 0].float().any()
    assert float(key_scales[0, 0]) == float(np.float32(1e-4) / np.float32(448))
    assert latent_scales[0, 0].tolist() == [float(np.finfo(np.float32).tiny)] * 4


def test_nan_shows_in_the_scale() -> None:
    k = torch.ones(2, 128, dtype=BF16)
    k[0, 3] = torch.nan
    cache = dsa_ops.new_index_cache(1)
    dsa_ops.write_index_cache(k, cache, torch.arange(2))
    _, scales = dsa_ops.formats.index_cache_views(cache)
    assert scales[0, 0].isnan() and scales[0, 1] == 2.0**-8


def test_write_accepts_four_dimensions_and_fp8_views() -> None:
    latent, rope, slots = values(3, 512), values(3, 64), torch.tensor([4, 0, 2])
    plain = dsa_ops.new_mla_cache(2, page_size=3)
    viewed = dsa_ops.new_mla_cache(2, page_size=3)
    dsa_ops.write_mla_cache(latent, rope, plain, slots)
    dsa_ops.write_mla_cache(latent, rope, viewed.unsqueeze(2).view(FP8), slots)
    assert torch.equal(plain, viewed)
    plain, viewed = dsa_ops.new_index_cache(1), dsa_ops.new_index_cache(1)
    dsa_ops.write_index_cache(values(3, 128), plain, slots)
    dsa_ops.write_index_cache(values(3, 128), viewed.unsqueeze(2), slots)
    assert torch.equal(plain, viewed)


def test_stride_of_a_dimension_of_one_counts_for_nothing() -> None:
    slots, storage = torch.tensor([0]), torch.zeros(64 * 656, dtype=torch.uint8)
    latent, rope, k = values(2, 512)[1:], values(2, 64)[1:], values(2, 128)[1:]
    for shape, strides in (((1, 64, 656), (41_999, 656, 1)), ((1, 1, 656), (41_999, 659, 1))):
        plain = dsa_ops.new_mla_cache(1, page_size=shape[1])
        odd = torch.zeros_like(storage).as_strided(shape, strides)
        dsa_ops.write_mla_cache(latent, rope, plain, slots)
        dsa_ops.write_mla_cache(latent, rope, odd, slots)
        assert torch.equal(plain, odd)
    plain = dsa_ops.new_index_cache(1)
    odd = torch.zeros_like(storage).as_strided((1, 64, 132), (8449, 132, 1))
    dsa_ops.write_index_cache(k, plain, slots)
    dsa_ops.write_index_cache(k, odd, slots)
    assert torch.equal(plain, odd) and plain.any()


# A batch with an empty request, unused rows before and after, pages that do not exist, and a block
# table shorter than its last request.
CU_SEQ_LENS = [2, 72, 72, 77, 210]
BLOCK_TABLE = [[3, 0], [1, 1], [-1, 2], [4, 5]]


def naive_slots(num_tokens: int, num_pages: int, page_size: int) -> list[int | None]:
    """Per row: its slot, -1 for zeros, None for untouched."""
    slots: list[int | None] = [None] * num_tokens
    for b, start in enumerate(CU_SEQ_LENS[:-1]):
        for row in range(start, min(CU_SEQ_LENS[b + 1], num_tokens)):
            column, offset = divmod(row - start, page_size)
            page = BLOCK_TABLE[b][column] if column < len(BLOCK_TABLE[b]) else -1
            slots[row] = page * page_size + offset if 0 <= page < num_pages else -1
    return slots


@pytest.mark.parametrize("num_tokens", [216, 205, 0])
@pytest.mark.parametrize("padding", [0, 48])
def test_gather_index_cache(num_tokens: int, padding: int) -> None:
    cache = paged(5, 64, 132, padding)
    pages = cache.numpy()
    k = torch.full((num_tokens, 128), 77, dtype=torch.uint8)
    k_scale = torch.full((num_tokens,), 77.0)
    dsa_ops.gather_index_cache(
        cache,
        torch.tensor(BLOCK_TABLE, dtype=torch.int32),
        torch.tensor(CU_SEQ_LENS, dtype=torch.int32),
        num_tokens,
        out=(k.view(FP8), k_scale),
    )
    for row, slot in enumerate(naive_slots(num_tokens, 5, 64)):
        key, scale = np.full(128, 77, np.uint8), np.float32(77).tobytes()
        if slot is not None:
            page = pages[max(slot, 0) // 64].reshape(-1)
            offset = slot % 64
            key = page[128 * offset : 128 * offset + 128] * (slot >= 0)
            scale = page[8192 + 4 * offset : 8196 + 4 * offset].tobytes() if slot >= 0 else bytes(4)
        np.testing.assert_array_equal(k[row].numpy(), key, err_msg=f"row {row}")
        assert k_scale[row].numpy().tobytes() == scale, f"row {row}"


@pytest.mark.parametrize("num_tokens", [216, 205, 0])
@pytest.mark.parametrize("page_size,padding", [(64, 0), (40, 16), (1, 0)])
def test_gather_mla_cache(num_tokens: int, page_size: int, padding: int) -> None:
    cache = paged(5, page_size, 656, padding)
    _, scales, rope = dsa_ops.formats.mla_cache_views(cache)
    scales.copy_(torch.rand(scales.shape) + 0.5)
    rope.copy_(torch.randn(rope.shape))
    kv = torch.full((num_tokens, 576), 77.0, dtype=BF16)
    dsa_ops.gather_mla_cache(
        cache.view(FP8),
        torch.tensor(BLOCK_TABLE, dtype=torch.int32),
        torch.tensor(CU_SEQ_LENS, dtype=torch.int32),
        num_tokens,
        out=kv,
    )
    for row, slot in enumerate(naive_slots(num_tokens, 5, page_size)):
        expected = torch.full((576,), 77.0 if slot is None else 0.0, dtype=BF16)
        if slot is not None and slot >= 0:
            page, offset = divmod(slot, page_size)
            latent = E4M3_VALUES[cache[page, offset, :512].numpy()].astype(np.float32)
            latent *= np.repeat(scales[page, offset].numpy(), 128)
            expected[:512] = torch.from_numpy(latent).to(BF16)
            expected[512:] = rope[page, offset]
        torch.testing.assert_close(kv[row], expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("cu_seq_lens", [[0, 90, 20, 64], [-50, 10, 10, 2000], [70, 3, 2, 1]])
def test_gather_survives_bad_ranges(cu_seq_lens: list[int]) -> None:
    """Rows come from the cache, are zeros or stay as they were; nothing else happens."""
    cache = torch.full((4, 64, 656), 1, dtype=torch.uint8)
    kv = torch.full((64, 576), 77.0, dtype=BF16)
    block_table = torch.arange(3, dtype=torch.int32)[:, None]
    dsa_ops.gather_mla_cache(
        cache, block_table, torch.tensor(cu_seq_lens, dtype=torch.int32), 64, out=kv
    )
    token = dsa_ops.reference.gather_mla_cache(
        cache, block_table[:1], torch.tensor([0, 1], dtype=torch.int32), 1
    )
    known = (kv == 77).all(-1) | (kv == 0).all(-1) | (kv == token).all(-1)
    assert known.all()


def test_no_requests_and_no_pages() -> None:
    empty_table = torch.zeros(0, 4, dtype=torch.int32)
    start = torch.zeros(1, dtype=torch.int32)
    out = torch.full((3, 576), 77.0, dtype=BF16)
    dsa_ops.gather_mla_cache(dsa_ops.new_mla_cache(1), empty_table, start, 3, out=out)
    assert (out == 77).all()
    ranges, table = torch.tensor([0, 2], dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    dsa_ops.gather_mla_cache(dsa_ops.new_mla_cache(0), table, ranges, 3, out=out)
    assert (out[:2] == 0).all() and (out[2] == 77).all()
    k, k_scale = dsa_ops.gather_index_cache(dsa_ops.new_index_cache(0), table, ranges, 2)
    assert not k.float().any() and not k_scale.any()
    k, _ = dsa_ops.gather_index_cache(dsa_ops.new_index_cache(1), table[:, :0], ranges, 2)
    assert not k.float().any()
    dsa_ops.write_index_cache(values(1, 128), dsa_ops.new_index_cache(0), torch.zeros(1).long())
    dsa_ops.write_mla_cache(
        values(0, 512), values(0, 64), dsa_ops.new_mla_cache(1), torch.zeros(0).long()
    )
