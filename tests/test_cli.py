"""The command line: info, check and demo, as text and as JSON."""

from __future__ import annotations

import importlib.resources
import json
import subprocess
import sys

import pytest
import torch

import dsa_ops
from dsa_ops._library import OPS
from dsa_ops.cli import check, demo, main
from dsa_ops.cli.check_inputs import Inputs
from dsa_ops.cli.demo_model import HiddenStates, initialise
from dsa_ops.cli.errors import attention_errors, logits_error, selection_shortfall
from dsa_ops.cli.format import number, rate, table
from dsa_ops.cli.stages import Stages
from dsa_ops.cli.work import PROJECTIONS, stage_work
from dsa_ops.model import DsaAttention, deepseek_v32, small

CPU = torch.device("cpu")


def run_json(capsys, *argv: str):
    """Exit status and the parsed document, which must be all of stdout."""
    status = main([*argv, "--json"])

    def no_constant(name):
        raise AssertionError(f"JSON has no {name}")

    return status, json.loads(capsys.readouterr().out, parse_constant=no_constant)


class TestInfo:
    def test_json(self, capsys):
        status, report = run_json(capsys, "info")
        assert status == 0
        assert report["dsa_ops"] == dsa_ops.__version__
        assert report["torch"] == torch.__version__
        assert len(report["devices"]) == torch.cuda.device_count()

    def test_text_says_why_there_are_no_kernels(self, capsys, monkeypatch):
        monkeypatch.setattr(dsa_ops._native, "unavailable_reason", "no compiler was found")
        assert main(["info"]) == 0
        assert "kernels not loaded: no compiler was found" in capsys.readouterr().out

    def test_a_reader_that_leaves_early(self, tmp_path):
        command = [sys.executable, "-m", "dsa_ops", "info"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, cwd=tmp_path, **pipes) as process:
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait() == 1


class TestCheck:
    def test_every_op_has_a_check(self):
        assert set(check.CHECKS) == set(OPS)

    def test_passes(self, capsys):
        status, report = run_json(capsys, "check", "--device", "cpu")
        assert status == 0
        assert report["passed"]
        assert {line["op"] for line in report["checks"]} == set(OPS)

    @pytest.mark.parametrize("op", ["gather_index_cache", "sparse_mla_decode"])
    def test_a_wrong_op_fails(self, capsys, monkeypatch, op):
        right = getattr(dsa_ops, op)

        def wrong(*args, **kwargs):
            first, second = right(*args, **kwargs)
            return (first.float() * 1.25).to(first.dtype), second

        monkeypatch.setattr(dsa_ops, op, wrong)
        assert main(["check", "--device", "cpu"]) == 1
        lines = capsys.readouterr().out.splitlines()
        failed = [line.split()[0] for line in lines if line.endswith("FAILED")]
        assert failed and set(failed) == {op}

    def test_incomparable_results_are_null(self, monkeypatch):
        monkeypatch.setitem(check.CHECKS, "topk", lambda _: [check.Line("", float("inf"), 1.0)])
        report = check.run(CPU)
        failed = [line for line in report["checks"] if not line["passed"]]
        assert [(line["op"], line["error"]) for line in failed] == [("topk", None)]
        assert not report["passed"]
        assert "FAILED" in check.render(report)


@pytest.mark.parametrize("device", ["fast", "meta", f"cuda:{torch.cuda.device_count()}"])
@pytest.mark.parametrize("command", ["check", "demo"])
def test_no_such_device(capsys, command, device):
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--device", device])
    assert exit_info.value.code == 2
    assert f"got {device}" in capsys.readouterr().err.splitlines()[-1]


class TestErrors:
    def test_shortfall_of_a_worse_key(self):
        logits = torch.tensor([[3.0, 1.0, 2.0, -torch.inf]])
        assert selection_shortfall(torch.tensor([[0, 2]]), logits) <= 0
        rms = (14 / 3) ** 0.5
        got = selection_shortfall(torch.tensor([[0, 1]]), logits)
        assert got == pytest.approx(1 / rms)

    @pytest.mark.parametrize("indices", [[0, -1], [0, 3]])
    def test_shortfall_of_missing_and_forbidden_keys(self, indices):
        logits = torch.tensor([[3.0, 1.0, 2.0, -torch.inf]])
        assert selection_shortfall(torch.tensor([indices]), logits) == float("inf")

    def test_other_empty_rows(self):
        out, lse = torch.ones(2, 1, 4), torch.tensor([[1.0], [-torch.inf]])
        assert attention_errors((out, lse), (out, lse)) == (0.0, 0.0)
        assert attention_errors((out, lse.flip(0)), (out, lse)) == (float("inf"),) * 2
        assert logits_error(lse.flip(0), lse) == float("inf")


@pytest.fixture(scope="module")
def report():
    return demo.run(demo.plan(CPU, None, context=700, decode=3))


class TestDemo:
    def test_accuracy(self, report):
        for phase in ("prefill", "decode"):
            quality = report["quality"][phase]
            assert quality["selection_shortfall"] < check.SHORTFALL_BOUND
            assert quality["attention_output_error"] < check.OUTPUT_BOUND
            assert quality["lse_error"] < check.LSE_BOUND_FP8
            assert quality["same_keys_as_float64"] > 0.99
            # The demo's indexer knows what the heads look for.
            assert quality["attention_mass"] > 1.5 * quality["chance"]

    def test_stages_add_up(self, report):
        assert report["cache_bytes_per_token"] == 132 + 656
        for phase, calls in (("prefill", 2), ("decode", 3)):
            rows = [row for row in report["stages"] if row["phase"] == phase]
            assert rows[-1]["stage"] == "layer"
            total = sum(row["seconds"] for row in rows[:-1])
            assert total == pytest.approx(rows[-1]["seconds"])
            assert {row["calls"] for row in rows} == {calls}
            assert all(row["seconds"] > 0 for row in rows)

    def test_text_file_and_json(self, capsys, tmp_path):
        path = tmp_path / "text"
        path.write_bytes(b"one two three ")
        argv = ("demo", "--device", "cpu", "--text", str(path), "--context", "70", "--decode", "1")
        status, report = run_json(capsys, *argv)
        assert status == 0
        assert report["context"] == 70
        assert report["quality"]["decode"]["attention_mass"] == pytest.approx(1)

    def test_table(self, report):
        text = demo.render(report)
        for row in report["stages"]:
            assert f"{row['phase']} {row['stage']}" in text
        assert "788 bytes per token" in text

    @pytest.mark.parametrize(
        "argv, text",
        [
            (["--context", "0"], "demo: context must be at least 1 token, got 0"),
            (
                ["--context", "200000"],
                "demo: context and decode must be at most 163840 together, got 200032",
            ),
            (["--decode", "0"], "demo: decode must be at least 1 token, got 0"),
            (
                ["--text", "/nonexistent/file"],
                "demo: text must be a readable file, got /nonexistent/file "
                "(No such file or directory)",
            ),
            (
                ["--text", "/dev/null"],
                "demo: text must be a file of at least one byte, got /dev/null (empty)",
            ),
        ],
    )
    def test_bad_arguments(self, capsys, argv, text):
        assert main(["demo", "--device", "cpu", *argv]) == 2
        assert capsys.readouterr() == ("", text + "\n")

    @pytest.mark.parametrize(
        "error, status, text",
        [
            (KeyboardInterrupt(), 130, "interrupted"),
            (
                torch.OutOfMemoryError(),
                2,
                "demo: context must fit the memory of cpu, got 70 tokens",
            ),
        ],
    )
    def test_a_run_cut_short(self, capsys, monkeypatch, error, status, text):
        def cut_short(plan):
            raise error

        monkeypatch.setattr(demo, "run", cut_short)
        assert main(["demo", "--device", "cpu", "--context", "70"]) == status
        assert capsys.readouterr() == ("", text + "\n")

    def test_the_progress_bar_ends_its_line(self, capsys):
        demo.run(demo.plan(CPU, None, context=8, decode=2))
        bar = capsys.readouterr().err
        assert "10/10" in bar
        assert bar.endswith("\n")

    def test_shipped_text(self):
        text = importlib.resources.files("dsa_ops.cli") / "data/sparse_attention.txt"
        assert len(text.read_bytes()) > 20_000


def test_hidden_states_are_the_same_in_any_chunks():
    hidden = HiddenStates(b"abcabcabcabc", small(), CPU, torch.float32)
    whole = hidden(0, 12)
    assert torch.equal(torch.cat([hidden(0, 5), hidden(5, 12)]), whole)
    assert whole.square().mean().item() == pytest.approx(1, rel=0.1)
    # Eight equal bytes before two tokens make them equal.
    assert torch.allclose(whole[8], whole[11])
    assert not torch.allclose(whole[2], whole[5])


def test_initial_weights_are_repeatable():
    layers = [DsaAttention(small()) for _ in range(2)]
    for layer in layers:
        initialise(layer, torch.ones(small().hidden_size))
    first, second = (layer.state_dict() for layer in layers)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_work_of_deepseek_v32():
    layer = DsaAttention(deepseek_v32(), dtype=torch.bfloat16, device="meta")
    prefill = stage_work(layer, [(0, 2048), (2048, 4096)])
    visible = 4096 * 4097 // 2
    assert prefill["indexer_topk"] == (visible * 2 * 64 * 128, "flop")
    selected = 2048 * 2049 // 2 + 2048 * 2048
    assert prefill["sparse_mla_decode"] == (selected * 2 * 128 * (576 + 512), "flop")
    assert prefill["gather_index_cache"] == (2 * 132 * (2048 + 4096), "byte")
    decode = stage_work(layer, [(4096, 4097)])
    assert decode["paged_indexer_topk"] == (4097 * 132, "byte")
    assert decode["sparse_mla_decode"] == (2048 * 656, "byte")
    head_weights = 7168 * 64
    weights = sum(p.numel() for p in layer.parameters() if p.dim() == 2)
    assert decode[PROJECTIONS] == (2 * weights + 2 * head_weights, "byte")


def test_stages_count_and_keep_calls():
    stages = Stages(torch, CPU)
    assert stages.add(1, 2) == 3
    assert stages.add(1, other=3) == 4
    assert stages.last["add"] == ((1,), {"other": 3}, 4)
    calls, seconds = stages.take()["add"]
    assert calls == 2 and seconds > 0
    assert stages.take() == {}


def test_table():
    assert table(["a", "bb"], [["long", "1"]]).splitlines() == ["a     bb", "----  --", "long   1"]


@pytest.mark.parametrize(
    "per_second, text",
    [
        (1.316e15, "1316 TFLOP/s"),
        (7.87e14, "787 TFLOP/s"),
        (9.996e11, "1 TFLOP/s"),
        (2.19e9, "2.19 GFLOP/s"),
        (5.4e6, "5.4 MFLOP/s"),
        (324.0, "324 FLOP/s"),
    ],
)
def test_rates_have_a_fitting_prefix(per_second, text):
    assert rate(per_second, "FLOP/s") == text


def test_numbers():
    assert [number(0.12345), number(0.12345, ".1e"), number(None)] == ["0.123", "1.2e-01", "none"]


def test_inputs_have_empty_and_unwritten_parts():
    inputs = Inputs(CPU)
    assert 0 in inputs.lengths
    assert (inputs.slots < 0).any()
