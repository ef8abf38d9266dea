"""`logo-edge bench`: accuracy and latency of one artifact in one run; documents show the committed results."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from logo_edge.backends import choose
from logo_edge.bundle.record import read_bundle
from logo_edge.classifier import Classifier
from logo_edge.errors import BenchError, DatasetError
from logo_edge_bench import scaling, subject, systems
from logo_edge_bench.bench import (
    PRESETS,
    STAGES,
    Preset,
    read_folder,
    read_images,
    read_result,
    run_bench,
    write_result,
)
from logo_edge_bench.commands import bench
from logo_edge_bench.compare import compare_ratios
from logo_edge_bench.processes import settle
from logo_edge_bench.scaling import measure_folders
from logo_edge_bench.systems import System, bundle_systems, find_artifacts, precision_of, reference_system
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest

ROOT = Path(__file__).resolve().parents[2]
SHORT = Preset("short", rounds=3, window_s=0.01, settle_s=5, starts=1, offline=24, settle_within=1000.0, size_px=48)
SUBJECT = """
import time

def load(labels, ms=0, fail=""):
    if fail == "load":
        raise ValueError("no such weights")
    return Fake(labels, ms, fail)

class Fake:
    def __init__(self, labels, ms, fail):
        self.labels, self.ms, self.fail = labels, ms, fail
    def describe(self):
        print("output of a library")
        return {"size_bytes": 1000, "precision": "fp32", "backend": "sleep"}
    def probabilities(self, paths):
        return [[1.0] + [0.0] * (len(self.labels) - 1) for _ in paths]
    def stages(self, paths, batch):
        return {"end_to_end": self.call}
    def call(self, index):
        if self.fail == "die":
            import os
            os._exit(7)
        time.sleep(self.ms / 1e3)
"""


@pytest.fixture
def images(labelled, tmp_path):
    return read_images(read_manifest(labelled[1]), "test", ("red", "green", "blue"), tmp_path, 48)


@pytest.fixture
def fake(tmp_path):
    """A system that sleeps and always answers with the first class; or fails."""
    (tmp_path / "fake_subject.py").write_text(SUBJECT)

    def make(name: str, **options) -> System:
        return System(name, str(tmp_path / "fake_subject.py"), options, kind="peer")

    return make


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_peak_memory_is_the_system_s_and_not_its_parent_s(fake, images):
    held = np.ones(50_000_000)  # 400 MB, touched
    row = run_bench([fake("light")], images, SHORT)["rows"][0]
    assert 5_000_000 < row["peak_rss_bytes"] < 200_000_000 < held.nbytes


def test_a_row_holds_accuracy_and_latency_of_the_same_artifact(labelled, images):
    result = run_bench([reference_system(labelled[0]), *bundle_systems([labelled[0]])], images, SHORT)
    reference, row = result["rows"]
    assert (row["kind"], reference["kind"]) == ("bundle", "reference")
    assert row["accuracy"]["count"] == 12
    assert row["accuracy"]["accuracy"]["value"] == pytest.approx(10 / 12)
    assert row["accuracy"]["accuracy_sure"]["value"] == pytest.approx(5 / 6)
    assert row["worst_class"]["value"] == min(recall["value"] for recall in row["accuracy"]["recall"].values())
    assert set(row["latency"]) == set(STAGES)
    assert all(stage["count"] >= 9 for stage in row["latency"].values())
    whole = row["latency"]["end_to_end"]
    assert 0 < whole["p50_ms"]["low"] <= whole["p50_ms"]["value"] <= whole["p50_ms"]["high"]
    assert (row["scenario"], whole["early_stopping"]["percentile"]) == ("SingleStream", 90)
    assert row["images_per_s"]["value"] > 0
    assert row["peak_rss_bytes"] > 10_000_000
    assert row["process_start_s"]["value"] > result["process_starts_s"]["import numpy, onnxruntime"]["value"] / 4
    assert row["size_bytes"] > 0
    assert len(row["cpus"]) == row["threads"] == 1
    assert result["machine"]["versions"]["onnxruntime"]
    assert result["ratios"]["of"][row["name"]]["value"] > 0


def test_a_system_that_is_no_bundle_gets_a_temperature_of_calib(fake, images):
    (row,) = run_bench([fake("overconfident")], images, replace(SHORT, starts=0), calib=images)["rows"]
    assert row["accuracy"]["ece"] == pytest.approx(1 - row["accuracy"]["accuracy"]["value"])
    assert row["calibrated"]["temperature"] > 10
    assert row["calibrated"]["ece"] < row["accuracy"]["ece"] / 2


def test_every_combination_is_a_row_and_a_query_of_several_is_multi_stream(labelled, images):
    systems = bundle_systems([labelled[0]], threads=[1, 2], batches=[1, 8])
    result = run_bench(systems, images, replace(SHORT, starts=0))
    assert [(row["threads"], row["batch"], row["scenario"]) for row in result["rows"]] == [
        (1, 1, "SingleStream"),
        (1, 8, "MultiStream"),
        (2, 1, "SingleStream"),
        (2, 8, "MultiStream"),
    ]
    assert {row["latency"]["end_to_end"]["early_stopping"]["percentile"] for row in result["rows"]} == {90, 99}
    assert len({row["accuracy"]["nll"] for row in result["rows"]}) == 1


def test_an_artifact_is_a_row_with_the_precision_that_its_record_tells(labelled, tmp_path):
    (engines := tmp_path / "out" / "engines").mkdir(parents=True)
    (tmp_path / "out" / "mine-int8-openvino.xml").touch()
    (engines / "orin.engine").touch()
    (tmp_path / "out" / "mine-int8-openvino.json").write_text(
        '{"precision": "int8", "files": {"mine-int8-openvino.xml": {}}}'
    )
    (tmp_path / "out" / "mine-fp16-tensorrt.json").write_text(
        '{"precision": "fp16", "engine": {"file": "engines/orin.engine"}}'
    )
    (tmp_path / "out" / "other.json").write_text("[]")
    artifacts = [tmp_path / "out" / "mine-int8-openvino.xml", engines / "orin.engine"]
    plain, openvino, engine = bundle_systems([labelled[0]], artifacts=artifacts)
    assert "artifact" not in plain.options
    assert (openvino.options["backend"], engine.options["backend"]) == ("openvino", "tensorrt")
    assert ", int8, " in openvino.name
    assert ", fp16, " in engine.name
    assert f"--artifact={engines / 'orin.engine'}" in engine.command
    assert precision_of(str(tmp_path / "unknown.onnx")) == "not told"
    with pytest.raises(BenchError, match=r"found '.txt'; expected an artifact"):
        bundle_systems([labelled[0]], artifacts=[tmp_path / "a.txt"])


def test_a_slower_system_is_as_much_slower_as_it_is(fake, images):
    preset = replace(SHORT, window_s=0.05, settle_within=1000.0)
    result = run_bench([fake("quick", ms=2), fake("slow", ms=8)], images, preset)
    assert 2 < result["ratios"]["of"]["slow"]["value"] < 6
    medians = [row["latency"]["end_to_end"]["p50_ms"]["value"] for row in result["rows"]]
    assert medians[0] >= 2
    assert medians[1] >= 8
    assert result["rows"][1]["images_per_s"]["value"] <= 1000 / 8


@pytest.mark.parametrize(
    ("fail", "message"),
    [("load", "broken: load failed: ValueError: no such weights"), ("die", "broken: its process ended with status 7")],
)
def test_a_system_that_fails_is_named(fake, images, fail, message):
    with pytest.raises(BenchError, match=message):
        run_bench([fake("broken", fail=fail)], images, SHORT)


def test_a_system_that_does_not_load_is_left_out_unless_it_is_the_yardstick_or_the_last(fake, images):
    systems = [fake("first"), fake("broken", fail="load"), fake("second")]
    result = run_bench(systems, images, replace(SHORT, starts=0))
    assert [row["name"] for row in result["rows"]] == ["first", "second"]
    assert result["not_measured"] == {"broken": "broken: load failed: ValueError: no such weights"}
    for fewer in (systems[:2], systems[1:]):
        with pytest.raises(BenchError, match="no such weights"):
            run_bench(fewer, images, replace(SHORT, starts=0))


def test_a_folder_gives_the_artifacts_of_the_bundle_and_says_why_others_are_left_out(labelled, tmp_path):
    bundle = read_bundle(labelled[0])
    own = {"format": "litert", "source": bundle.name, "input": asdict(bundle.input), "files": {"own.tflite": {}}}
    records = {
        "engine": own | {"format": "tensorrt", "engine": {"file": "engines/a.engine"}},
        "micro": own | {"format": "tflm"},
        "other": own | {"source": "another"},
        "outside": own | {"files": {"../own/own.tflite": {}}},
        "own": own,
        "undone": own | {"format": "coreml", "not_done": "not run: no Mac"},
    }
    for name, record in records.items():
        (folder := tmp_path / "exports" / name).mkdir(parents=True)
        (folder / f"{name}.json").write_text(json.dumps(record))
    (tmp_path / "exports" / "list.json").write_text("[]")
    artifacts, left_out = find_artifacts(tmp_path / "exports", bundle)
    assert [path.name for path in artifacts] == ["a.engine", "own.tflite"]
    reasons = {Path(name).stem: reason for name, reason in left_out.items()}
    assert reasons.keys() == {"micro", "other", "outside", "undone"}
    assert "no backend" in reasons["micro"]
    assert "it is of 'another'" in reasons["other"]
    assert reasons["outside"] == "it names files outside its folder: ../own/own.tflite"
    assert reasons["undone"] == "not run: no Mac"
    with pytest.raises(BenchError, match="no record of `logo-edge export`"):
        find_artifacts(labelled[0] / "vectors", bundle)


def test_the_command_measures_all_backends_and_a_folder_and_says_what_it_left_out(labelled, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", replace(SHORT, starts=0))
    monkeypatch.setattr(choose, "candidates", lambda path: ["onnxruntime"])
    bundle, out = read_bundle(labelled[0]), tmp_path / "result.json"
    (exports := tmp_path / "exports").mkdir()
    for name, source in (("mine", bundle.name), ("other", "another")):
        (exports / f"{name}.onnx").write_bytes((labelled[0] / "model.onnx").read_bytes())
        record = {"format": "onnx", "source": source, "input": asdict(bundle.input), "files": {f"{name}.onnx": {}}}
        (exports / f"{name}.json").write_text(json.dumps(record | {"precision": "fp32"}))
    options = ["--manifest", labelled[1], "--backends", "all", "--artifact", exports, "--out", out]
    done = CliRunner().invoke(bench, [str(word) for word in (labelled[0], *options)])
    assert isinstance(done.exception, BenchError)
    assert "it is of 'another'" in str(done.exception)
    assert [row["name"].split(", ")[1] for row in read_result(out)["rows"][1:]] == [
        "onnxruntime",
        "onnxruntime mine.onnx",
    ]


def test_the_size_of_an_artifact_holds_its_weights(labelled, tmp_path):
    classifier = Classifier.load(labelled[0])
    (tmp_path / "a.param").write_bytes(bytes(10))
    (tmp_path / "a.bin").write_bytes(bytes(90))
    plain, ncnn = (
        subject.BundleSubject(classifier, ["red"], options).describe()["size_bytes"]
        for options in ({}, {"artifact": str(tmp_path / "a.param")})
    )
    assert ncnn - plain == 100 - (labelled[0] / "model.onnx").stat().st_size


def test_a_system_has_its_own_environment(fake, images, tmp_path):
    system = replace(fake("own"), environment={"OWN": "kept"})
    subject_code = SUBJECT.replace('"backend": "sleep"', '"backend": __import__("os").environ["OWN"]')
    (tmp_path / "fake_subject.py").write_text(subject_code)
    assert run_bench([system], images, replace(SHORT, starts=0))["rows"][0]["backend"] == "kept"


def test_what_follows_the_rounds_may_fail_without_losing_them(labelled, tmp_path, monkeypatch):
    from logo_edge_bench import install_size

    def fail():
        raise DatasetError("no network")

    monkeypatch.setattr(install_size, "measure_install_size", fail)
    monkeypatch.setitem(PRESETS, "ratios", replace(PRESETS["ratios"], rounds=1, window_s=0.01))
    out = tmp_path / "result.json"
    options = [labelled[0], "--manifest", labelled[1], "--ratios", "--install-size", "--out", out]
    done = CliRunner().invoke(bench, list(map(str, options)))
    assert "no network" in str(done.exception)
    assert len(read_result(out)["rows"]) == 2


def test_a_process_start_that_fails_is_named_and_the_rest_is_kept(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(systems, "CLASSIFY", "raise SystemExit(3)")
    monkeypatch.setitem(PRESETS, "quick", SHORT)
    out = tmp_path / "result.json"
    done = CliRunner().invoke(bench, [*map(str, (labelled[0], "--manifest", labelled[1], "--out", out))])
    assert isinstance(done.exception, BenchError)
    assert "gave status 3" in str(done.exception)
    assert "Not measured: process start of" in done.output
    assert [row["process_start_s"] for row in read_result(out)["rows"]] == [None, None]


def test_an_artifact_of_single_images_is_asked_for_single_images(labelled, images, monkeypatch):
    asked = []

    def classify_many(classifier, sources, *, run=Classifier.classify_many, **options):
        asked.append(options["batch_size"])
        return run(classifier, sources, **options)

    monkeypatch.setattr(Classifier, "classify_many", classify_many)
    labels, files = ["red", "green", "blue"], list(images.paths)
    one = subject.load(labels, str(labelled[0]), batch_size=1).probabilities(files)
    several = subject.load(labels, str(labelled[0])).probabilities(files)
    assert one == [pytest.approx(row, abs=1e-5) for row in several]
    assert asked == [1, 8]


def test_two_systems_of_one_name_are_refused(fake, images):
    with pytest.raises(BenchError, match="two systems have one name"):
        run_bench([fake("same"), fake("same", ms=1)], images, SHORT)


def test_a_warm_up_ends_when_three_windows_agree():
    windows = iter([10.0, 5.0, 4.0, 3.0, 2.9, 2.8, 1.0])
    assert settle(lambda: next(windows), 0.1, 60) == [10.0, 5.0, 4.0, 3.0, 2.9, 2.8]


def test_a_warm_up_that_never_settles_is_an_error():
    windows = iter(range(1, 100))
    with pytest.raises(BenchError, match=r"did not settle in 0 s.*1000.00 ms.*within 10%"):
        settle(lambda: float(next(windows)), 0.1, 0)


def test_published_figures_are_only_of_settled_runs():
    assert {name: preset.settle_within for name, preset in PRESETS.items()} == {
        "quick": 0.1,
        "full": 0.1,
        "ratios": None,
    }
    full = PRESETS["full"]
    assert full.rounds * full.window_s >= 60


def test_the_command_writes_json_a_page_and_tables(labelled, tmp_path):
    bundle, manifest = labelled
    out, report = tmp_path / "result.json", tmp_path / "report"
    options = ["--manifest", manifest, "--ratios", "--out", out, "--report", report]
    done = CliRunner().invoke(bench, [str(word) for word in (bundle, *options)])
    assert done.exit_code == 0, done.output
    result = read_result(out)
    assert result["method"]["name"] == "ratios"
    assert not any("_ms" in key for row in result["rows"] for key in (*row, *row["noise"]))
    assert not any("latency" in row for row in result["rows"])
    assert "milliseconds of such a run mean nothing" in (report / "report.md").read_text()
    for ratio in result["ratios"]["of"].values():
        ratio |= {"low": ratio["value"], "high": ratio["value"]}  # as on a quiet machine
    write_result(result, out)
    again = CliRunner().invoke(bench, ["--from", str(out), "--against", str(out)])
    assert again.exit_code == 0, again.output
    assert "tolerance 10%: holds" in again.output
    for ratio in result["ratios"]["of"].values():
        ratio["value"] /= 2
    write_result(result, tmp_path / "faster.json")
    slower = CliRunner().invoke(bench, ["--from", str(out), "--against", str(tmp_path / "faster.json")])
    assert slower.exit_code == 1, slower.output
    assert "2.000 of the earlier value" in slower.output


def test_a_folder_without_labels_is_timed_and_has_no_accuracy(labelled, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "quick", replace(SHORT, starts=0, offline=0))
    (photos := tmp_path / "photos" / "more").mkdir(parents=True)
    for index in range(3):
        (photos / f"{index}.png").write_bytes((tmp_path / f"{index}.png").read_bytes())
    (photos / "notes.txt").touch()
    out, report = tmp_path / "result.json", tmp_path / "report"
    options = ["--images", photos.parent, "--out", out, "--report", report]
    done = CliRunner().invoke(bench, [str(word) for word in (labelled[0], *options)])
    assert done.exit_code == 0, done.output
    result = read_result(out)
    assert (result["split"], len(result["rows"])) == ("", 2)
    assert not any({"accuracy", "worst_class"} & row.keys() for row in result["rows"])
    assert all(row["latency"]["end_to_end"]["p50_ms"]["value"] > 0 for row in result["rows"])
    text = (report / "report.md").read_text()
    assert "no labels, so no accuracy" in text
    assert not {"all", "sure", "worst class", "ECE"} & {cell.strip() for cell in text.split("|")}
    assert "Accuracy over latency" not in (report / "report.html").read_text()
    then = result | {"rows": [row | {"accuracy": {"count": 12}} for row in result["rows"]]}
    with pytest.raises(BenchError, match="images: 12 / 0"):
        compare_ratios(then, result, 0.1)
    assert {change.figure for change in compare_ratios(result, result, 10.0)} == {
        "latency, ratio to the yardstick",
        "size_bytes",
    }


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(BenchError, match="no image found"):
        read_folder(tmp_path, ("red",), tmp_path, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected --manifest"),
        (["--full", "--ratios"], "exclude each other"),
        (["--threads", "0"], "expected numbers from 1"),
    ],
)
def test_wrong_usage_is_named(labelled, options, message):
    manifest = ["--manifest", str(labelled[1])] if options else []
    done = CliRunner().invoke(bench, [*manifest, *options])
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")


def test_classes_that_are_not_the_bundles_are_named(labelled, tmp_path):
    write_manifest(tmp_path / "other.csv", [LogoRow(FILES, "", "0.png", "0", "zebra", (), True, "test")])
    with pytest.raises(DatasetError, match="classes zebra are not the bundle's"):
        read_images(read_manifest(tmp_path / "other.csv"), "test", ("red",), tmp_path, 48)


def test_an_empty_split_is_named(labelled, tmp_path):
    with pytest.raises(DatasetError, match="split 'val' has no labelled images"):
        read_images(read_manifest(labelled[1]), "val", ("red",), tmp_path, 48)


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "old.json").write_text('{"bundle": "logo-kinds"}')
    with pytest.raises(BenchError, match="Measure again"):
        read_result(tmp_path / "old.json")


def test_backends_are_rows_side_by_side(labelled, images):
    pytest.importorskip("openvino")
    systems = bundle_systems([labelled[0]], backends=["onnxruntime", "openvino"], spinning=True)
    result = run_bench(systems, images, replace(SHORT, starts=0))
    assert [row["backend"] for row in result["rows"]] == ["onnxruntime", "openvino"]
    assert all(row["spinning"] for row in result["rows"])
    accuracies = [row["accuracy"]["accuracy"]["value"] for row in result["rows"]]
    assert accuracies[0] == accuracies[1] == pytest.approx(10 / 12)


@pytest.mark.slow
def test_scaling_is_measured_over_cores_batches_sizes_and_folders(labelled, images, monkeypatch):
    monkeypatch.setattr(scaling, "BATCHES", (1, 4))
    monkeypatch.setattr(scaling, "SIZES_PX", (32, 1024))
    monkeypatch.setattr(scaling, "FOLDERS_QUICK", (10, 20))
    (system,) = bundle_systems([labelled[0]])
    figures = scaling.measure_scaling(system, images, replace(SHORT, rounds=2))
    assert figures["cores"][0]["processes"]["of_one"]["value"] == figures["cores"][0]["threads"]["of_one"]["value"] == 1
    assert [row["batch"] for row in figures["batches"]] == [1, 4]
    cost = {(row["format"], row["size_px"]): row["ms"]["value"] for row in figures["sizes"]}
    assert {kind for kind, _ in cost} == {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"}
    assert all(cost[kind, 1024] > cost[kind, 32] > 0 for kind, _ in cost)
    assert [row["files"] for row in figures["folders"]] == [10, 20]


def test_scaling_covers_what_a_user_may_have():
    assert (scaling.SIZES_PX[0], scaling.SIZES_PX[-1], scaling.FOLDERS) == (32, 4096, (10, 1_000, 100_000))


def test_a_folders_memory_and_pace_are_those_of_the_command(labelled, images):
    (small,) = measure_folders(str(labelled[0]), images.timed, (30,))
    assert small["files"] == 30
    assert small["peak_rss_bytes"] > 10_000_000
    assert small["images_per_s"] > 1


def test_the_documents_tables_are_those_of_the_committed_results():
    command = [sys.executable, "-m", "logo_edge_bench.experiments", "tables", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_bench_room_needs_only_the_runtime():
    names = {path.stem for path in (ROOT / "benchmarks/logo_edge_bench").glob("[a-z]*.py")} - {"page"}
    modules = ", ".join(f"logo_edge_bench.{name}" for name in names)
    heavy = "torch", "onnx", "cv2", "psutil", "matplotlib"
    code = f"import sys, {modules}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_worker_needs_only_the_standard_library():
    worker = str(ROOT / "benchmarks/logo_edge_bench/worker.py")
    code = f"import runpy, sys; runpy.run_path({worker!r}); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
