"""The bench's calls: our ops take the inputs made for them, and so do the peers' signatures."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from bench import cli, peers, records

CPU = torch.device("cpu")
TINY = {"rows": 8, "context": 256, "batch": 2, "heads": 8, "index_heads": 8, "k": 32}


def _tiny_shapes():
    """Every kind of shape of every op, shrunk until a CPU runs it."""
    cases = []
    for one in cli.BENCHMARKS.values():
        kinds = {}
        for shape in one.shapes:
            tiny = {key: TINY.get(key, value) for key, value in shape.items()}
            kinds[records.shape_text(tiny)] = tiny
        cases += [pytest.param(one, tiny, id=f"{one.op} {text}") for text, tiny in kinds.items()]
    return cases


@pytest.mark.parametrize(("one", "shape"), _tiny_shapes())
def test_every_op_takes_the_inputs_made_for_it(one, shape):
    inputs = one.make_inputs(shape, CPU, 0)
    results = one.ours(shape, inputs)()
    for result in results if isinstance(results, tuple) else (results,):
        if result is not None:
            assert not result.float().isnan().any()


@pytest.mark.parametrize("newer", [False, True])
def test_deep_gemm_gets_our_tensors_under_either_name(monkeypatch, newer):
    calls = []

    def logits(q, kv, *rest, clean_logits):
        q = q[0] if newer else q
        calls.append((q.shape, [tuple(t.shape) for t in rest if torch.is_tensor(t)]))

    name = "fp8_fp4_{}mqa_logits" if newer else "fp8_{}mqa_logits"
    module = types.ModuleType("deep_gemm")
    for kind in ("", "paged_"):
        setattr(module, name.format(kind), logits)
    module.get_num_sms = lambda: 132
    module.get_paged_mqa_logits_metadata = lambda lengths, page, sms: torch.zeros(sms + 1, 2)
    monkeypatch.setitem(sys.modules, "deep_gemm", module)
    for op, prepare in (
        ("indexer_logits", peers.deep_gemm_logits),
        ("paged_indexer_logits", peers.deep_gemm_paged_logits),
    ):
        one = cli.BENCHMARKS[op]
        shape = {**one.shapes[1], **{key: TINY[key] for key in one.shapes[1] if key in TINY}}
        prepare(shape, one.make_inputs(shape, CPU, 0))()
    assert calls[0] == ((8, 8, 128), [(8, 8), (8,), (8,)])
    assert calls[1] == ((2, 2, 8, 128), [(4, 8), (2, 2), (2, 4), (133, 2)])


def test_flash_mla_gets_heads_padded_to_64(monkeypatch):
    seen = {}

    def prefill(q, kv, indices, scale):
        seen["prefill"] = (q.shape, kv.shape, indices.shape)

    def decode(q, cache, table, lengths, dim, schedule, *, softmax_scale, is_fp8_kvcache, indices):
        seen["decode"] = (q.shape, cache.shape, indices.shape)

    module = types.ModuleType("flash_mla")
    module.flash_mla_sparse_fwd = prefill
    module.flash_mla_with_kvcache = decode
    module.get_mla_metadata = lambda: (object(), None)
    monkeypatch.setitem(sys.modules, "flash_mla", module)
    base = {"context": 256, "heads": 8, "k": 32, "indices": "random"}
    for op, prepare, extra in (
        ("sparse_mla_prefill", peers.flash_mla_prefill, {"rows": 6, "kv": "bf16"}),
        ("sparse_mla_decode", peers.flash_mla_decode, {"batch": 3, "s_q": 2, "kv": "fp8"}),
    ):
        shape = {**base, **extra}
        prepare(shape, cli.BENCHMARKS[op].make_inputs(shape, CPU, 0))()
    assert seen["prefill"] == ((6, 64, 576), (256, 1, 576), (6, 1, 32))
    assert seen["decode"] == ((3, 2, 64, 576), (12, 64, 1, 656), (3, 2, 32))


def test_the_other_ways_to_attend_over_a_cache_compute_the_same():
    one = cli.BENCHMARKS["sparse_mla_prefill"]
    shape = {"rows": 6, "context": 256, "heads": 8, "k": 32, "kv": "fp8", "indices": "random"}
    inputs = one.make_inputs(shape, CPU, 0)
    out, _ = one.ours(shape, inputs)()
    ways = [one.peers[name] for name in one.peers if not name.startswith("flash_mla")]
    assert len(ways) == 2
    for way in ways:
        other = way(shape, inputs)()[0]
        assert (other.float() - out.float()).norm() <= 1e-2 * out.float().norm()
        assert way({**shape, "kv": "bf16"}, inputs) is None


@pytest.fixture
def fake_topk_packages(monkeypatch):
    """Modules and ops under the peers' names, in which top-k is a plain Python function."""
    called = []

    def per_row(logits, starts, ends, indices, rows, stride_row, stride_column, k):
        assert (rows, stride_row, stride_column) == (*logits.shape, 1)
        assert starts.shape == ends.shape == (rows,)
        called.append(indices.shape)

    def batched(logits, lengths, indices, workspace, k, width):
        assert workspace.dtype == torch.uint8
        assert width == logits.shape[1]
        called.append(indices.shape)

    def on_lengths(logits, *lengths_and_k):
        *lengths, k = lengths_and_k
        assert all(one.shape == logits.shape[:1] for one in lengths)
        called.append((logits.shape[0], k))

    kernels = {"persistent_topk": batched, "cooperative_topk": batched}
    ops = types.SimpleNamespace(top_k_per_row_prefill=per_row, **kernels)
    modules = {
        "vllm": {},
        "vllm._custom_ops": {},
        "sgl_kernel": {"fast_topk_v2": on_lengths},
        "flashinfer": {"top_k_ragged_transform": on_lengths},
    }
    for name, members in modules.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(peers, "_vllm_ops", lambda: ops)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: name)
    return called


def test_topk_peers_get_logits_lengths_and_k(fake_topk_packages):
    shape = {"rows": 4, "context": 64, "k": 8, "data": "random"}
    inputs = cli.BENCHMARKS["topk"].make_inputs(shape, CPU, 0)
    found = peers.topk_peers()
    for prepare in found.values():
        prepare(shape, inputs)()
    assert len(found) == 6
    assert fake_topk_packages == [(4, 8)] * 5  # torch.topk is torch's own


def test_chained_peers_select_from_the_scores_of_the_same_call(fake_topk_packages):
    scored = []

    def score(shape, inputs):
        def call():
            scored.append(1)
            return torch.zeros(4, 64)

        return call

    inputs = {"context_lens": torch.full((2, 2), 64, dtype=torch.int32)}
    found = peers.chained_peers(score, ends="context_lens")
    assert list(found)[0] == "deep_gemm+vllm.top_k_per_row_prefill"
    for prepare in found.values():
        call = prepare({"k": 8}, inputs)
        before = len(scored)
        call()
        assert len(scored) == before + 1
    assert fake_topk_packages == [(4, 8)] * len(found)
