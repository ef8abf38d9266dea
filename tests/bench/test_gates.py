"""`logo-edge check`: compares the measured artifact with every gate, and fails where one does not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from logo_edge.bundle.signing import make_keys, sign_record
from logo_edge.errors import BundleError, RecipeError
from logo_edge_bench.commands import check
from logo_edge_bench.gates import AT_LEAST, LATENCIES, Gates, check_gates, read_gates

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {
    "accuracy": {
        "accuracy": {"value": 0.9},
        "accuracy_sure": {"value": 0.95},
        "ece": 0.02,
        "nll": 0.3,
        "recall": {"red": {"value": 0.8}, "blue": {"value": 0.7}},
        "calibration_error_debiased": {"value": 0.01},
    },
    "size_bytes": 3_500_000,
    "latency": {"inference": {"p50_ms": 2.0, "p99_ms": 5.0}},
}
FOUND = {
    "accuracy": 0.9,
    "accuracy_sure": 0.95,
    "worst_recall": 0.7,
    "calibration_error": 0.01,
    "ece": 0.02,
    "nll": 0.3,
    "size_mb": 3.5,
    "p50_ms": 2.0,
    "p99_ms": 5.0,
}


@pytest.fixture
def gates_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "gates.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", FOUND)
def test_every_gate_holds_at_its_limit_and_fails_beyond_it(name):
    step = 0.001 if name in AT_LEAST else -0.001
    (held,) = check_gates(Gates(**{name: FOUND[name]}), FIGURES)
    (failed,) = check_gates(Gates(**{name: FOUND[name] + step}), FIGURES)
    assert held.holds
    assert not failed.holds
    assert held.found == FOUND[name]


def test_a_figure_that_is_not_a_number_holds_no_gate():
    figures = {**FIGURES, "accuracy": {**FIGURES["accuracy"], "nll": float("nan"), "accuracy": {"value": float("nan")}}}
    assert not any(gate.holds for gate in check_gates(Gates(accuracy=0.0, nll=9.0), figures))


def test_single_classes_have_gates_of_their_own(gates_file):
    gates = read_gates(gates_file("[recall]\nred = 0.75\nblue = 0.75"))
    assert {gate.name: gate.holds for gate in check_gates(gates, FIGURES)} == {"recall.red": True, "recall.blue": False}
    with pytest.raises(RecipeError, match="recall.green: no such class; expected one of red, blue"):
        check_gates(Gates(recall={"green": 0.5}), FIGURES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acuracy = 0.9", "unknown gate 'acuracy'; expected one of accuracy"),
        ("accuracy = '0.9'", "accuracy is '0.9'; expected a number"),
        ("accuracy = true", "accuracy is True; expected a number"),
        ("recall = 0.9", "recall is 0.9; expected a number"),
        ("", "no gates; expected at least one"),
        ("accuracy = ", "expected a TOML file of gates"),
    ],
)
def test_a_wrong_file_of_gates_is_named_with_its_key(gates_file, text, message):
    with pytest.raises(RecipeError, match=message):
        read_gates(gates_file(text))


def run_check(bundle, manifest, gates, *options):
    arguments = [bundle, "--manifest", manifest, "--gates", gates, "--split", "test", "--runs", "10", *options]
    return CliRunner().invoke(check, [str(argument) for argument in arguments])


def test_the_command_fails_with_the_failing_rows_and_passes_without(labelled, gates_file):
    bundle, manifest = labelled
    held = run_check(bundle, manifest, gates_file("accuracy = 0.8\nsize_mb = 1"))
    assert held.exit_code == 0, held.output
    assert "2 of 2 gates hold on test" in held.output
    failed = run_check(bundle, manifest, gates_file("accuracy = 0.9\nsize_mb = 1"), "--json")
    assert failed.exit_code == 1
    record = json.loads(failed.stdout)
    assert not record["holds"]
    assert [row["name"] for row in record["gates"] if not row["holds"]] == ["accuracy"]


def test_a_bundle_that_is_not_signed_by_the_given_key_is_not_checked(labelled, gates_file, tmp_path):
    bundle, manifest = labelled
    private, public = make_keys(tmp_path / "ours")
    gates = gates_file("accuracy = 0.8")
    assert isinstance(run_check(bundle, manifest, gates, "--public-key", str(public)).exception, BundleError)
    sign_record(bundle / "bundle.json", private)
    assert run_check(bundle, manifest, gates, "--public-key", str(public)).exit_code == 0


def test_the_repositorys_own_gates_ask_for_accuracy_calibration_latency_and_size_together():
    files = sorted((ROOT / "benchmarks" / "gates").glob("*.toml"))
    assert len(files) >= 3
    for path in files:
        gates = read_gates(path)
        assert gates.size_mb <= 4, path
        assert gates.accuracy is not None, path
        assert gates.worst_recall is not None, path
        assert gates.calibration_error is not None, path
        assert any(getattr(gates, name) is not None for name in LATENCIES), path


ROBUST = ROOT / "runtime" / "bundles" / "robust"


@pytest.mark.network
@pytest.mark.parametrize(("bundle", "gates"), [([], "default_bundle"), ([ROBUST], "robust")])
def test_a_committed_bundle_still_holds_on_the_test_split(bundle, gates):
    from logo_edge_train.data.icons import LABELS, fetch_logos

    images = fetch_logos().folder
    arguments = [
        *bundle,
        "--manifest",
        LABELS,
        "--images",
        images,
        "--split",
        "test",
        "--runs",
        "50",
        "--gates",
        ROOT / "benchmarks" / "gates" / f"{gates}.toml",
    ]
    result = CliRunner().invoke(check, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "6 of 6 gates hold on test" in result.output
