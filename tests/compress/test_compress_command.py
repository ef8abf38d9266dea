"""What `logo-edge compress` refuses before the work begins, and its help."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from logo_edge.errors import MissingExtraError, RunError, SelectionError
from logo_edge_compress import commands
from logo_edge_compress import compress as stage
from logo_edge_compress import targets as target_checks
from logo_edge_compress.candidates import measure as measuring
from logo_edge_compress.candidates.store import Candidate
from logo_edge_compress.commands import calibrate, compress, export, search
from logo_edge_compress.convert.tensorrt import why_no_engine
from logo_edge_compress.select import Limits
from logo_edge_compress.targets import TARGETS, check_carried, check_targets
from logo_edge_compress.timing import Cost
from logo_edge_train.commands import few_shot, train
from logo_edge_train.runs import Run, write_run_record


@pytest.fixture
def run(tmp_path):
    """The record of a run of two teachers, without their files."""
    write_run_record(tmp_path, {"status": "finished", "members": [{}, {}]})
    return str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--target", "toaster"],
            "--target toaster: expected one of cpu, openvino, litert, jetson, web, torchscript, ncnn, mnn, executorch, "
            "coreml, server, all",
        ),
        (["--members", "2"], "--members applies to the server's bundle; add --target server"),
        (["--target", "server", "--members", "1"], "--members 1: expected from 2 to the 2 teachers"),
        (["--target", "server", "--members", "3"], "--members 3: expected from 2 to the 2 teachers"),
        (["--set", "distill.seed=1"], "--set changes fields of --recipe; name the recipe too"),
    ],
)
def test_invalid_options_are_refused_with_the_valid_ones(run, arguments, message):
    result = CliRunner().invoke(compress, [run, *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def run_of(teachers: int, **distill) -> Run:
    """A run with this number of teachers."""
    return Run(Path("runs/it"), {"members": [{}] * teachers, "recipe": {"distill": distill}})


def test_a_latency_that_cannot_be_measured_here_is_no_limit_to_hold():
    run = run_of(2)
    with pytest.raises(SelectionError, match=r"--max-latency-ms 2 cannot be checked here \(web: a browser runs it\)"):
        check_targets(run, ("web",), Limits(latency_ms=2))
    check_targets(run, ("web",), Limits(size_mb=1))
    check_targets(run, ("cpu", "web"), Limits(latency_ms=2))  # it holds of one of them
    assert why_no_engine(), "this machine has no TensorRT"
    with pytest.raises(SelectionError, match=r"jetson: .*tensorrt"):
        check_targets(run, ("jetson",), Limits(latency_ms=2))


@pytest.mark.parametrize(
    ("targets", "left"), [(("server",), "--target cpu"), (("cpu", "server", "web"), "--target cpu --target web")]
)
def test_a_servers_bundle_of_one_teacher_is_refused_at_the_start(targets, left):
    with pytest.raises(SelectionError, match=rf"it has 1; expected two or more. .*: {left}$"):
        check_targets(run_of(1), targets, Limits())
    check_targets(run_of(2), targets, Limits())


def test_what_one_teacher_cannot_say_and_a_library_that_is_missing_are_refused_at_the_start(monkeypatch):
    with pytest.raises(RunError, match="has one teacher, which disagrees with nobody"):
        check_targets(run_of(1, epistemic="dirichlet"), ("cpu",), Limits())
    monkeypatch.setattr(target_checks, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"logo-edge\[openvino\]"):
        check_targets(run_of(2), ("cpu", "openvino"), Limits())
    with pytest.raises(MissingExtraError, match=r"logo-edge\[litert\]"):
        check_targets(run_of(2), ("cpu", "litert"), Limits())
    check_targets(run_of(2), ("cpu", "web"), Limits())


def test_the_exit_status_says_that_one_target_of_several_was_not_packed(tmp_path, monkeypatch):
    write_run_record(tmp_path, {"status": "finished", "members": [{}, {}], "recipe": {}})
    failed = {"sentence": "no candidate may ship", "dominated": {}}
    why = "not promised: 6 pictures; 59 answers, none of them wrong, show a risk of 5% or less"
    packed = SimpleNamespace(
        size_bytes=10**6,
        folder=Path("b"),
        labels=("ok", "scratch"),
        provenance={"unpromised": {"balanced": why}},
        calibration=SimpleNamespace(multi_label=False),
        metrics={"val": {"confusion": [[6, 0], [3, 0]]}},
    )
    record = {
        "val": 0,
        "candidates": [],
        "complete": True,
        "targets": {"cpu": {**failed, "sentence": "it is the fastest", "bundle": "b", "stages": [{}]}, "web": failed},
    }
    monkeypatch.setattr(stage, "compress", lambda *_, **__: ({"cpu": packed}, record))
    monkeypatch.setattr(commands, "write_page", lambda folder: None)
    result = CliRunner().invoke(compress, [str(tmp_path), "--target", "cpu", "--target", "web", "--device", "cpu"])
    assert result.exit_code == 1
    assert "cpu: it is the fastest" in result.output
    assert "web: not packed. no candidate may ship" in result.output
    assert f"b: mode balanced: {why}" in result.output
    assert "b: gives 'ok' for each of the 9 images of val" in result.output


def test_a_timing_that_failed_is_taken_again_and_one_that_succeeded_is_kept(tmp_path, monkeypatch):
    candidates = [
        Candidate(
            "s@32",
            name,
            "fp32",
            "onnxruntime",
            tmp_path,
            "made",
            files={f"{name}.onnx": "1"},
            record={"network": "s@32"},
        )
        for name in ("fp32", "fp16")
    ]
    cost = Cost(1.0, 1.0, 1.0, 1.0, 11, (1.0,) * 11, 50.0)
    answers = [
        {"s@32, fp32": cost, "s@32, fp16": "the process was ended by SIGKILL"},
        dict.fromkeys(["s@32, fp32", "s@32, fp16"], cost),
    ]
    calls = []

    def measure(artifacts, folder):
        calls.append(list(artifacts))
        return answers[len(calls) - 1]

    monkeypatch.setattr(measuring, "measure_side_by_side", measure)
    results = [measuring.measure_costs(candidates, tmp_path, lambda _: None) for _ in range(3)]
    assert [complete for _, complete in results] == [False, True, True]
    assert calls == [["s@32, fp32", "s@32, fp16"]] * 2, "both again, by turns; the third call reads what is kept"
    assert results[0][0]["s@32, fp16"] == "the process was ended by SIGKILL"
    assert results[2][0] == results[1][0] == answers[1]


def test_the_help_names_every_target():
    text = CliRunner().invoke(compress, ["--help"]).output
    assert all(f" {target} " in text for target in (*TARGETS, "all"))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (compress, ["run"]),
        (calibrate, ["bundle"]),
        (export, ["run", "--format", "onnx"]),
        (few_shot, ["train"]),
        (search, []),
        (train, ["--estimate"]),
    ],
)
def test_what_one_process_does_is_refused_under_torchrun_before_anything_is_written(
    command, arguments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, RunError)
    assert "runs in one process, torchrun started 2; call it without torchrun" in str(result.exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [train, search])
def test_json_without_an_estimate_is_refused(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, ["--json"])
    assert result.exit_code == 2
    assert "--json prints an estimate; add --estimate" in " ".join(result.output.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_what_no_bundle_could_carry_is_refused_before_the_work(monkeypatch):
    run = Run(Path("runs/it"), {"members": [{}], "recipe": {"quantize": {"methods": ["minmax", "weights-int8"]}}})
    check_carried(run, ("fp32", "int8-minmax", "int8-weights", "int8-mixed", "int8-openvino"))
    for name in ("int8-percentile", "int8-coreml", "fp16-executorch", "fp32-server", "../fp32"):
        with pytest.raises(SelectionError, match=f"--carry {name}: no candidate has this name; expected one of fp16, "):
            check_carried(run, ("fp32", name))
    monkeypatch.setattr(target_checks, "find_spec", lambda library: None)
    with pytest.raises(MissingExtraError, match="ncnn"):
        check_carried(run, ("fp32", "int8-ncnn"))
