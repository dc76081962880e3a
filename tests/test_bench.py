"""The bench harness without a GPU: formulas, generators, result files, tables, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import benchmark, cli, formulas, harness, peers, provenance, records
from bench.ceilings import CEILINGS, floor, gather_rate
from bench.formulas import Work

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[1]
H100 = CEILINGS["h100-80gb-hbm3"]

#: (op, shape, microseconds and TFLOP/s or TB/s that public measurements pair with it).
PUBLISHED_RATES = [
    ("indexer_logits", {"rows": 1024, "context": 4096, "index_heads": 64}, 62, 964),
    ("indexer_logits", {"rows": 4096, "context": 131072, "index_heads": 64}, 8859, 977),
    ("indexer_logits", {"rows": 4096, "context": 32768, "index_heads": 32}, 1134, 909),
    (
        "sparse_mla_prefill",
        {"rows": 4096, "context": 8192, "heads": 128, "k": 2048, "kv": "bf16", "indices": "random"},
        3953,
        591,
    ),
    (
        "sparse_mla_decode",
        {"batch": 128, "s_q": 2, "context": 32768, "heads": 128, "k": 2048, "kv": "fp8"},
        375.2,
        389,
    ),
]


@pytest.mark.parametrize(("op", "shape", "us", "tflops"), PUBLISHED_RATES)
def test_flops_agree_with_published_rates(op, shape, us, tflops):
    work = cli.BENCHMARKS[op].work(shape)
    assert work.flops / us * 1e-6 == pytest.approx(tflops, rel=0.015)


@pytest.mark.parametrize(
    ("batch", "context", "next_n", "us", "tbs"),
    [(64, 131072, 1, 406.8, 2.80), (64, 131072, 2, 419.9, 2.80), (1, 131072, 1, 14.7, 1.22)],
)
def test_paged_bytes_agree_with_published_rates(batch, context, next_n, us, tbs):
    shape = {"batch": batch, "context": context, "next_n": next_n, "index_heads": 64}
    work = formulas.paged_indexer_logits(shape)
    assert work.total_bytes / us * 1e-6 == pytest.approx(tbs, rel=0.01)


def test_causal_pairs_counts_each_row_to_its_own_token():
    assert formulas.causal_pairs(rows=3, context=5) == 3 + 4 + 5


def test_gather_rate_interpolates_and_clamps():
    assert gather_rate(H100, 656, 1_000_000) == 6.61
    assert gather_rate(H100, 656, 21_000_000) == pytest.approx(6.10)
    assert 4.07 < gather_rate(H100, 656, 40_000_000) < 6.10
    assert gather_rate(H100, 1152, 10**12) == 3.01


def test_floor_is_the_slowest_limit():
    assert floor(Work(3_030_000), H100).us == pytest.approx(1.0)
    assert floor(Work(3_030_000), H100).bound == "stream"
    assert floor(Work(3_030_000, flops=13_160_000_000), H100).bound == "e4m3"
    gather = Work(0, gathered_bytes=26_700_000, gather_row_bytes=656, gather_pool_bytes=10**10)
    assert floor(gather, H100).us == pytest.approx(10.0)
    assert floor(gather, H100).bound == "gather"


def _record(impl: str, us: float, **shape: int) -> records.Record:
    return {"op": "topk", "impl": impl, "shape": shape, "us": us}


def test_a_rerun_replaces_the_same_impl_and_shape(tmp_path):
    path = records.result_path(tmp_path, "h100", "topk")
    first = [_record("dsa_ops", 3.0, rows=1), _record("dsa_ops", 4.0, rows=2)]
    records.save(path, [*first, _record("flashinfer", 9.0, rows=1)])
    records.save(path, [_record("dsa_ops", 2.0, rows=1), _record("dsa_ops", 5.0, rows=3)])
    assert path == tmp_path / "h100" / "topk.json"
    saved = json.loads(path.read_text())
    assert [(one["impl"], one["shape"]["rows"], one["us"]) for one in saved] == [
        ("dsa_ops", 1, 2.0),
        ("dsa_ops", 2, 4.0),
        ("flashinfer", 1, 9.0),
        ("dsa_ops", 3, 5.0),
    ]


@pytest.fixture
def known_provenance(monkeypatch):
    fields = {"device": "NVIDIA H100 80GB HBM3", "torch": "2", "source_digest": "abc"}
    monkeypatch.setattr(benchmark, "provenance", lambda: fields)
    return fields


def test_a_record_has_exactly_the_fields(known_provenance):
    timing = harness.Timing(us=100.0, us_min=99.0, us_max=120.0, clock_mhz=1755)
    shape = {"rows": 1, "context": 8192, "k": 2048, "data": "random"}
    record = benchmark.make_record("topk", "dsa_ops", shape, timing, Work(303_000_000))
    assert tuple(record) == records.FIELDS
    assert record["tbs"] == 3.03
    assert record["tflops"] is None
    assert set(record["shape"]) <= set(records.SHAPE_KEYS)


def test_every_shape_uses_known_keys_and_quick_is_a_part():
    for one in cli.BENCHMARKS.values():
        assert one.quick
        for shape in one.shapes:
            assert set(shape) <= set(records.SHAPE_KEYS)
            assert one.work(shape).total_bytes > 0
        assert all(shape in one.shapes for shape in one.quick)
        texts = [records.shape_text(shape) for shape in one.shapes]
        assert len(set(texts)) == len(texts)


def test_the_table_shows_the_ceiling_and_the_ratio_only_where_there_is_a_peer(known_provenance):
    shapes = [{"rows": 4096, "context": 32768, "k": 2048, "data": "random"}]
    one = cli.BENCHMARKS["topk"]
    timing = harness.Timing(us=250.0, us_min=240.0, us_max=270.0, clock_mhz=1755)
    record = benchmark.make_record("topk", "dsa_ops", shapes[0], timing, one.work(shapes[0]))
    measured = benchmark.Measured(record, graph_us=None)
    table = cli.make_table(one, shapes, graph=False)
    row = cli.cells(measured, 1.0, one.work(shapes[0]), "h100-80gb-hbm3", graph=False)
    assert table.header().endswith("time / ours")
    line = table.line(row)
    assert line.split()[:4] == ["rows=4096", "context=32768", "k=2048", "data=random"]
    assert "stream" in line
    assert line.endswith("1.00")
    assert row[7] == "75.3"
    unknown = cli.cells(measured, 1.0, one.work(shapes[0]), "unknown-gpu", graph=False)
    assert unknown[7:9] == ["-", "-"]
    alone = cli.BENCHMARKS["write_mla_cache"]
    assert "ours" not in cli.make_table(alone, alone.shapes, graph=False).header()


def test_filters_select_shapes():
    shapes = cli.BENCHMARKS["indexer_logits"].shapes
    chosen = cli.select(shapes, ["context=131072", "rows=4096"])
    assert [(s["rows"], s["context"]) for s in chosen] == [(4096, 131072)]
    assert not cli.select(shapes, ["batch=1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--reps", "0"], "argument --reps: must be 1 or more, got 0"),
        (["--filter", "rows"], "argument --filter: must be KEY=VALUE with a key of rows, "),
        (["--filter", "row=1"], "index_heads, k, kv, indices, data, got row=1"),
    ],
)
def test_wrong_options_say_what_is_right(arguments, message, capsys):
    with pytest.raises(SystemExit):
        cli.main(["topk", *arguments])
    assert message in capsys.readouterr().err


def test_absent_peers_are_left_out(monkeypatch):
    def prepare(shape, inputs):
        raise AssertionError("never called")

    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: name == "torch" or None)
    found = peers.importable({"no_such_package.kernel": prepare, "torch.topk": prepare})
    assert list(found) == ["torch.topk"]
    assert list(peers.topk_peers()) == ["torch.topk"]
    assert peers.chained_peers(peers.deep_gemm_logits, ends="row_ends") == {}


class FakeHarness:
    """Runs every call once and pretends a time."""

    device = CPU

    def run_once(self, calls):
        for call in calls:
            call()

    def measure(self, calls):
        timing = harness.Timing(us=10.0, us_min=9.0, us_max=11.0, clock_mhz=1000)
        return dict.fromkeys(calls, timing)


def _measure(monkeypatch, ours, others):
    monkeypatch.setattr(benchmark, "has_native_kernel", lambda op: True)
    monkeypatch.setattr(benchmark, "l2_bytes", lambda device: 1)
    one = benchmark.Benchmark(
        op="topk",
        shapes=(),
        quick=(),
        make_inputs=lambda shape, device, seed: {"x": torch.zeros(4)},
        ours=ours,
        work=formulas.topk,
        peers=others,
    )
    lines: list[str] = []
    shape = {"rows": 1, "context": 8, "k": 2}
    measured = benchmark.measure_shape(one, shape, FakeHarness(), False, lines.append)
    return measured, lines


def test_a_failing_peer_takes_one_line_and_the_run_goes_on(monkeypatch, known_provenance):
    def broken(shape, inputs):
        raise RuntimeError("no kernel image\nlong trace")

    measured, lines = _measure(monkeypatch, lambda shape, inputs: lambda: None, {"broken": broken})
    assert [one.record["impl"] for one in measured] == ["dsa_ops"]
    assert benchmark.ratio(measured, measured[0]) == 1.0
    assert lines == ["topk broken, rows=1 context=8 k=2: RuntimeError: no kernel image"]


def test_a_peer_without_a_call_for_a_shape_takes_no_line(monkeypatch, known_provenance):
    def ours(shape, inputs):
        return lambda: None

    measured, lines = _measure(monkeypatch, ours, {"elsewhere": lambda shape, inputs: None})
    assert [one.record["impl"] for one in measured] == ["dsa_ops"]
    assert lines == []


@pytest.mark.parametrize("behind, taken", [(0, 1), (2, 3), (99, 7)])
def test_a_call_is_timed_again_where_the_host_fell_behind(monkeypatch, behind, taken):
    spins: list[int] = []

    def time(self, call, spin_cycles, clocks):
        spins.append(spin_cycles)
        clocks.append(1000 + len(spins))
        return float(len(spins)), len(spins) > behind

    monkeypatch.setattr(harness.Harness, "_time", time)
    monkeypatch.setattr(harness.Harness, "_warm_up", lambda self, calls: None)
    measuring = object.__new__(harness.Harness)
    measuring._reps = 1
    timing = measuring.measure({"op": [lambda: None]})["op"]
    assert timing.us == taken
    assert spins == [spins[0] << turn for turn in range(taken)]
    assert 1001 <= timing.clock_mhz <= 1000 + taken


def test_input_sets_outgrow_the_cache():
    assert harness.input_sets(200, cache_bytes=100) == 1
    assert harness.input_sets(90, cache_bytes=100) == 3
    assert harness.input_sets(1, cache_bytes=100) == 4


def test_device_slug():
    assert provenance.device_slug("NVIDIA H100 80GB HBM3") == "h100-80gb-hbm3"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_command_says_so_in_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "topk"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.strip() == "bench: a CUDA device must be present, got none."
