"""From a folder of drawings to a packed bundle, as a user runs it: organize, train, compress, classify."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import faulty_converters
import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file as load_arrays
from shapes import CHOICE, CPU, MODEL, compress_run

from logo_edge import Classifier
from logo_edge.errors import BundleError, SelectionError
from logo_edge_compress.candidates import pack as candidate_packing
from logo_edge_compress.candidates import plan
from logo_edge_compress.compress import compress
from logo_edge_compress.report import print_candidates, print_stages
from logo_edge_compress.select import Limits
from logo_edge_compress.verify import run_onnx
from logo_edge_train.data.manifest import read_manifest


def test_the_bundle_is_as_accurate_from_files_as_its_report_says(folder):
    classifier = Classifier.load(folder / "bundle", self_test=True)
    rows = read_manifest(folder / "manifest.csv").split("test")
    right = sum(classifier.classify(folder / row.icon).best_guess == row.label for row in rows)
    assert classifier.labels == ("bars", "disc")
    assert len(rows) == 16
    assert right == round(16 * classifier.bundle.metrics["test"]["accuracy"]["value"])
    assert right >= 12, "it has learned discs from bars"


def test_every_golden_vector_runs(folder):
    assert Classifier.load(folder / "bundle").run_vectors() >= 8


def test_the_report_has_every_stage_with_its_figures(folder, capsys):
    record = json.loads((folder / "run" / "compress" / "report.json").read_text())
    form = record["precision"].upper()
    plain = ["FP32 ONNX"] if form != "FP32" else []
    assert [stage["stage"] for stage in record["stages"]] == [
        "2 teachers, PyTorch",
        "student, PyTorch",
        *plain,
        f"{form} ONNX",
        f"{form}, calibrated",
    ]
    for stage in record["stages"]:
        for split in ("val", "test"):
            assert stage[split]["count"] == 16
            assert 0 <= stage[split]["accuracy"]["low"] <= stage[split]["accuracy"]["high"] <= 1
            assert set(stage[split]["recall"]) == {"bars", "disc"}
        assert stage["size_bytes"] > 0
        timed = stage["latency"] is not None
        assert timed != stage["stage"].endswith("PyTorch"), "what is not timed by turns stands in no column of times"
    print_stages(record)
    assert f"{form}, calibrated" in capsys.readouterr().out


def test_every_candidate_is_verified_measured_and_compared_on_val(folder, capsys):
    record = json.loads((folder / "run" / "compress" / "compress_report.json").read_text())
    assert [candidate["name"] for candidate in record["candidates"]] == [
        "fp32",
        "fp16",
        "int8-minmax",
        "int8-percentile",
        "int8-tuned",
    ]
    assert (record["val"], record["complete"]) == (16, True)
    for candidate in record["candidates"]:
        assert candidate["status"] == "made"
        assert candidate["parity"]["images"] == 16
        assert candidate["parity"]["top1_agreement"] >= 0.95
        assert 0 <= candidate["ece"] <= 1
        assert 0 <= candidate["ood"]["ripples"] <= 1
        assert 0 < candidate["cost"]["p50_ms"] <= candidate["cost"]["p95_ms"]
        assert len(candidate["cost"]["rounds_ms"]) == 11
        assert 20 < candidate["cost"]["peak_memory_mb"] < 400, "of a process without PyTorch"
    sizes = {candidate["name"]: candidate["size_bytes"] for candidate in record["candidates"]}
    assert sizes["int8-tuned"] < sizes["fp16"] < 0.6 * sizes["fp32"]
    target = record["targets"]["cpu"]
    assert target["sentence"].startswith(f"{target['chosen']}, {target['method']}: ")
    assert target["limits"]["size_mb"] == 4.0, "the recipe's, as no other was given"
    print_candidates(record)
    assert "int8-percentile" in capsys.readouterr().out


def test_the_temperature_comes_from_the_artifact_that_is_packed(folder):
    bundle = Classifier.load(folder / "bundle").bundle
    record = json.loads((folder / "run" / "compress" / "report.json").read_text())
    assert bundle.calibration.temperature == record["stages"][-1]["temperature"] > 0
    assert bundle.metrics["test"] == record["stages"][-1]["test"]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    packed_logits, artifact_logits = (
        run_onnx(path, pixels) for path in (bundle.model_path, folder / "run" / "compress" / record["artifact"])
    )
    assert np.array_equal(packed_logits, artifact_logits), "only an embedding was added"
    assert (bundle.folder / "card.md").read_text().startswith("# shapes")


def test_a_finished_compression_is_not_done_again(folder):
    messages: list[str] = []
    before = (folder / "bundle" / "bundle.json").stat().st_mtime_ns
    compress_run(folder, folder / "bundle", messages.append)
    assert messages == [f"{folder / 'bundle'} is up to date"]
    assert (folder / "bundle" / "bundle.json").stat().st_mtime_ns == before


def test_a_student_is_distilled_in_another_process_than_the_one_that_waits_for_its_candidates(
    folder, monkeypatch, equal_costs
):
    monkeypatch.setattr("logo_edge_compress.compress.distill", lambda *_, **__: pytest.fail("its memory would be kept"))
    compress_run(folder, folder / "apart", limits=Limits(size_mb=4.5))
    assert (folder / "apart" / "bundle.json").exists()


def test_a_damaged_bundle_is_packed_again_from_the_same_student(folder):
    damaged = folder / "bundle" / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(BundleError):
        Classifier.load(folder / "bundle")
    compress_run(folder, folder / "bundle")
    assert Classifier.load(folder / "bundle").run_vectors() >= 8


def test_a_folder_that_is_no_bundle_is_not_replaced(folder):
    (folder / "mine").mkdir(exist_ok=True)
    (folder / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="is no bundle"):
        compress_run(folder, folder / "mine")
    assert (folder / "mine" / "thesis.txt").read_text() == "years of work"


def test_where_no_candidate_meets_the_limits_nothing_is_packed_and_the_report_says_why(folder):
    with pytest.raises(
        SelectionError, match=r"cpu: no candidate meets the limits \(at most 0.01 MB\). Nearest: "
    ) as error:
        compress_run(folder, folder / "none", limits=Limits(size_mb=0.01))
    reasons = str(error.value).splitlines()[1:]
    assert len([line for line in reasons if "(limit 0.01 MB)" in line or "slower than FP32" in line]) == 5, reasons
    assert not (folder / "none").exists()
    record = json.loads((folder / "run" / "compress" / "compress_report.json").read_text())
    assert len(record["targets"]["cpu"]["misses"]) == 5


def test_one_target_that_cannot_be_packed_is_a_line_of_the_report_and_the_others_are_packed(folder, monkeypatch):
    pack = candidate_packing.pack_bundle

    def refuse_web(bundle, model, out, extra):
        if bundle.provenance["target"] == "web":
            raise BundleError("it does not open")
        return pack(bundle, model, out, extra)

    monkeypatch.setattr(candidate_packing, "pack_bundle", refuse_web)
    bundles, record = compress(
        folder / "run",
        folder / "both",
        name="both",
        device=CPU,
        report=lambda _: None,
        say=lambda _: None,
        targets=("web", "cpu"),
        outliers=CHOICE,
    )
    assert set(bundles) == {"cpu"}
    assert Classifier.load(folder / "both").run_vectors() >= 8
    assert record["targets"]["web"]["sentence"].endswith("It could not be packed: it does not open")
    assert not (folder / "both-web").exists()
    stored = json.loads((folder / "run" / "compress" / "compress_report.json").read_text())
    assert stored["targets"]["web"]["sentence"] == record["targets"]["web"]["sentence"]


def test_a_limit_of_size_leaves_the_candidates_that_fit(folder):
    sizes = {
        candidate["name"]: candidate["size_bytes"]
        for candidate in compress_run(folder, folder / "bundle")["candidates"]
    }
    limit = (sizes["fp16"] + sizes["fp32"]) / 2 / 1e6
    record = compress_run(folder, folder / "small", limits=Limits(size_mb=limit))
    assert list(record["targets"]["cpu"]["misses"]) == [f"{MODEL}@32, fp32"]
    assert record["targets"]["cpu"]["method"] != "fp32"


def test_a_crashed_and_a_killed_converter_spoil_their_own_candidates_only(folder, monkeypatch, equal_costs):
    messages: list[str] = []
    with monkeypatch.context() as faulty:
        faulty.setattr(plan, "make_int8", faulty_converters.abort)
        faulty.setattr(plan, "make_fp16", faulty_converters.get_killed)
        record = compress_run(folder, folder / "survived", messages.append, limits=Limits(size_mb=5.0))
    outcome = {candidate["name"]: (candidate["status"], candidate["reason"]) for candidate in record["candidates"]}
    assert outcome["fp32"] == ("made", "")
    assert outcome["fp16"][0] == outcome["int8-minmax"][0] == outcome["int8-percentile"][0] == "failed"
    assert "ended by SIGKILL" in outcome["fp16"][1]
    assert "ended by SIGABRT; the end of its log" in outcome["int8-minmax"][1]
    assert "free(): invalid pointer" in outcome["int8-minmax"][1]
    assert "int8-tuned" not in outcome, "there is nothing to tune"
    assert record["targets"]["cpu"]["method"] == "fp32"
    assert Classifier.load(folder / "survived").run_vectors() >= 8
    assert any("fp16: failed" in line for line in messages)
    again = compress_run(folder, folder / "survived", limits=Limits(size_mb=5.0, ece=99.0))
    assert {candidate["status"] for candidate in again["candidates"]} == {"made"}, (
        "a crash is not kept: it may go better"
    )


def test_a_budget_that_is_over_leaves_the_rest_for_the_next_call(folder, tmp_path, equal_costs):
    run = tmp_path / "run"
    shutil.copytree(folder / "run", run, ignore=shutil.ignore_patterns("compress*"))

    def call(minutes):
        return compress(
            run,
            tmp_path / "bundle",
            name="shapes",
            device=CPU,
            report=lambda _: None,
            say=lambda _: None,
            budget_minutes=minutes,
            outliers=CHOICE,
        )

    with pytest.raises(SelectionError, match=r"no candidate may ship\n.*not tried, the budget of 0 minutes is over"):
        call(0)
    assert not (tmp_path / "bundle").exists()
    report = json.loads((run / "compress" / "compress_report.json").read_text())
    assert not report["complete"]
    shutil.copytree(folder / "run" / "compress", run / "compress", dirs_exist_ok=True)
    (run / "compress" / f"{MODEL}-32" / "int8-tuned.candidate.json").unlink()
    _, record = call(0)  # what is there already is chosen from, however little time there is
    assert {candidate["name"]: candidate["status"] for candidate in record["candidates"]}["int8-tuned"] == "not tried"
    assert not record["complete"]
    _, record = call(None)
    assert record["complete"]
    assert {candidate["status"] for candidate in record["candidates"]} == {"made"}


COMPRESS = """
import os
import sys
from pathlib import Path
import logo_edge_train  # before torch
from logo_edge_compress import timing
from logo_edge_compress.compress import _choose, compress
from logo_edge_compress.select import Limits, Row
from logo_edge_train.data.outliers import families_of
import torch

def report(item):
    print(item["kind"], item.get("epoch"), flush=True)

timing.ROUND_S = 0.02
run, out, limit = sys.argv[1:]
for _ in sys.stdin:  # one process for each line, without another import of PyTorch
    if process := os.fork():
        print("ended", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
        continue
    print("started", os.getpid(), flush=True)
    compress(Path(run), Path(out), name="shapes", device=torch.device("cpu"), report=report,
             limits=Limits(size_mb=float(limit)), say=lambda text: print(text, flush=True),
             outliers={"specks": families_of("choice")["specks"]})
    sys.exit()
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_result(folder, tmp_path):
    run, killed_after = tmp_path / "run", ["epoch 5", "int8-minmax:", "measuring"]
    shutil.copytree(folder / "run", run, ignore=shutil.ignore_patterns("compress*"))
    limit = 0.9 * (folder / "run" / "compress" / f"{MODEL}-32" / "student-fp32.onnx").stat().st_size / 1e6
    command = [sys.executable, "-c", COMPRESS, str(run), str(tmp_path / "bundle"), str(limit)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    statuses = []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as server:
        for moment in [*killed_after, None]:
            print(file=server.stdin, flush=True)
            lines, children = [], []
            for line in server.stdout:
                lines.append(line)
                word, _, number = line.strip().partition(" ")
                if word == "started":
                    process = psutil.Process(int(number))
                elif word == "ended":
                    statuses.append(int(number))
                    break
                elif moment and not children and moment in line:
                    children = process.children(recursive=True)
                    process.kill()
            assert len(statuses) > 0, "".join(lines)
            assert psutil.wait_procs(children, timeout=60)[1] == [], "nothing goes on alone"
        server.stdin.close()
    assert statuses == [*[-signal.SIGKILL] * len(killed_after), 0], "".join(lines)
    whole, resumed = (read_candidates(run_folder / "compress") for run_folder in (folder / "run", run))
    assert len(whole) == 5
    assert resumed == whole, "every artifact and every logit, to the byte"


def read_candidates(work) -> dict[str, tuple]:
    """Name -> the hashes of each candidate's files and of its logits of the three splits."""
    candidates = {}
    for path in sorted((work / f"{MODEL}-32").glob("*.candidate.json")):
        name, stored = path.name.partition(".")[0], json.loads(path.read_text())
        logits = load_arrays(path.with_name(f"{name}.logits"))
        candidates[name] = stored["files"], {split: logits[split].tobytes() for split in ("val", "calib", "test")}
    return candidates
