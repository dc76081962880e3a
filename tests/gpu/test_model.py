"""The DSA layer on the compiled kernels: against the reference ops, and against itself."""

from __future__ import annotations

import dataclasses
import importlib.resources

import pytest
import torch
from torch import Tensor

from dsa_ops.cli import check, demo
from dsa_ops.cli.demo_model import HiddenStates, initialise
from dsa_ops.cli.errors import relative_l2
from dsa_ops.cli.stages import Stages
from dsa_ops.model import DsaAttention, DsaConfig, deepseek_v32, glm_5, small

CUDA = torch.device("cuda")
TOKENS = 2500


def new_layer(config: DsaConfig, dtype: torch.dtype) -> tuple[DsaAttention, Tensor]:
    """A layer on the native ops and the hidden states of ``TOKENS`` bytes of the shipped text."""
    text = (importlib.resources.files("dsa_ops.cli") / "data/sparse_attention.txt").read_bytes()
    layer = DsaAttention(config, dtype=dtype, device=CUDA)
    hidden = HiddenStates(text, config, CUDA, dtype)
    initialise(layer, hidden.common)
    return layer, hidden(0, TOKENS)


@pytest.mark.parametrize("config", [deepseek_v32(), glm_5()], ids=["deepseek-v3.2", "glm-5"])
def test_native_equals_reference(config, record_property):
    """bfloat16 outputs of two ops within 4e-3 of float64, then rounded once more; float32 logits
    within 5e-4, which moves about 3 of 10,000 selected keys across the boundary."""
    config = dataclasses.replace(config, index_topk=512)
    native, hidden = new_layer(config, torch.bfloat16)
    reference = DsaAttention(config, backend="reference", dtype=torch.bfloat16, device=CUDA)
    reference.load_state_dict(native.state_dict())
    outputs, slots = [], []
    for layer in (native, reference):
        layer.steps.ops = stages = Stages(layer.steps.ops, CUDA)
        outputs.append(layer.prefill(hidden, layer.new_cache(1, TOKENS)))
        slots.append(stages.last["indexer_topk"].result)
    choosing = slice(config.index_topk, None)
    pairs = zip(*(s[choosing].tolist() for s in slots), strict=True)
    common = sum(len(set(a) & set(b)) for a, b in pairs) / slots[0][choosing].numel()
    error = relative_l2(*outputs)
    record_property("output_error", error)
    record_property("topk_overlap", common)
    assert error < 1e-2
    assert common > 0.995


@pytest.fixture(scope="module")
def setup():
    layer, hidden = new_layer(small(), torch.float64)
    return layer, hidden, layer.prefill(hidden, layer.new_cache(1, TOKENS))


class TestOneSequenceManyWays:
    """float64 projections make all ways store and ask for the same bytes, so that only the order
    of the kernels' sums differs."""

    @pytest.mark.parametrize("chunk_tokens", [64, 1000])
    def test_chunked_prefill(self, setup, chunk_tokens):
        layer, hidden, expected = setup
        got = layer.prefill(hidden, layer.new_cache(1, TOKENS), chunk_tokens=chunk_tokens)
        assert relative_l2(got, expected) < 5e-3

    @pytest.mark.parametrize("next_n", [1, 2, 3, 8])
    def test_decode_of_a_batch(self, setup, next_n):
        layer, hidden, expected = setup
        lengths = [700, 0, 63, 2400, 256]
        pages = -(-TOKENS // 64)
        generator = torch.Generator().manual_seed(1)
        order = torch.randperm(len(lengths) * pages, generator=generator).int().view(-1, pages)
        cache = layer.new_cache(len(lengths), TOKENS, block_table=order)
        for request, length in enumerate(lengths):
            if length:
                layer.prefill(hidden[:length], cache, request)
        for _ in range(3):
            spans = [(n, n + next_n) for n in cache.lengths]
            got = layer.decode(torch.stack([hidden[a:b] for a, b in spans]), cache)
            assert relative_l2(got, torch.stack([expected[a:b] for a, b in spans])) < 5e-3


def test_check_passes():
    report = check.run(CUDA)
    assert report["passed"], check.render(report)


def test_demo_at_the_real_configuration():
    report = demo.run(demo.plan(CUDA, None, context=6000, decode=4))
    assert report["config"] == "deepseek_v32"
    for phase in ("prefill", "decode"):
        quality = report["quality"][phase]
        assert quality["selection_shortfall"] < check.SHORTFALL_BOUND
        assert quality["attention_output_error"] < check.OUTPUT_BOUND
        assert quality["lse_error"] < check.LSE_BOUND_FP8
        assert quality["attention_mass"] > 1.5 * quality["chance"]
