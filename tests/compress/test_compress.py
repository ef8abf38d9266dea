"""From a folder of drawings to a packed bundle, as a user runs it: organize, train, compress, classify."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import faulty_converters
import numpy as np
import onnx
import psutil
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.numpy import load_file as load_arrays
from typer.testing import CliRunner

from logo_edge import Classifier, timing
from logo_edge.bundle.record import EMBEDDING, EPISTEMIC, read_bundle
from logo_edge.errors import BundleError, SelectionError
from logo_edge.preprocess import InputContract
from logo_edge_compress.candidates import measure, plan
from logo_edge_compress.candidates import pack as candidate_packing
from logo_edge_compress.candidates.measure import Measured
from logo_edge_compress.candidates.plan import make_candidates, possible_names
from logo_edge_compress.candidates.store import Candidate, Task, outcome
from logo_edge_compress.commands import compress as compress_command
from logo_edge_compress.compress import _choose, compress
from logo_edge_compress.convert.source import read_source
from logo_edge_compress.convert.tensorrt import unsupported_operators
from logo_edge_compress.distill.distill import distill
from logo_edge_compress.distill.losses import attack_views, distillation_objective
from logo_edge_compress.distill.soft_targets import SoftTargets
from logo_edge_compress.report import print_candidates, print_stages
from logo_edge_compress.select import Limits, Row
from logo_edge_compress.timing import Cost
from logo_edge_compress.verify import run_onnx
from logo_edge_report.compression import make_page
from logo_edge_train.architecture import Architecture
from logo_edge_train.data import outliers
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.data.outliers import families_of
from logo_edge_train.models import LogoNetwork
from logo_edge_train.recipe import DistillConfig
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import read_run
from logo_edge_train.train import train_ensemble
from logo_edge_train.uncertainty import decompose

CPU = torch.device("cpu")
CHOICE = {"ripples": families_of("choice")["ripples"]}
MODEL = "test_resnet"  # timm's tiny one: learns from 40 drawings in seconds
RECIPE = {
    "name": "tiny",
    "train": {
        "teachers": [f"{MODEL}@32", f"{MODEL}@32"],
        "pretrained": False,
        "fit": {"epochs": 24, "batch_size": 8, "learning_rate": 2e-3, "ema_decay": 0.9},
    },
    "distill": {
        "students": [f"{MODEL}@32"],
        "pretrained": False,
        "fit": {"epochs": 24, "batch_size": 8, "learning_rate": 2e-3, "ema_decay": 0.9},
    },
    "quantize": {
        "methods": ["minmax", "percentile"],
        "calibration_images": 24,
        "finetune": {"epochs": 2, "batch_size": 8, "learning_rate": 1e-4, "weight_decay": 0.0},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Discs and bars, 20 of each for learning, and a trained and compressed run of them."""
    folder, random, rows = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0), []
    for label in ("disc", "bars"):
        for index, split in enumerate(["train"] * 20 + ["val"] * 8 + ["calib"] * 8 + ["test"] * 8):
            image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
            draw, colour = ImageDraw.Draw(image), (*random.integers(0, 200, 3).tolist(), 255)
            if label == "disc":
                left, top, size = random.integers((4, 4, 24), (20, 20, 40))
                draw.ellipse((left, top, left + size, top + size), fill=colour)
            else:
                for left in range(int(random.integers(2, 8)), 60, 12):
                    draw.rectangle((left, 6, left + 4, 58), fill=colour)
            name = f"{label}-{index}.png"
            image.save(folder / name)
            rows.append(LogoRow(FILES, "", name, name, label, (label,), True, split))
    rows += [LogoRow(FILES, "", f"disc-{index}.png") for index in range(4)]
    write_manifest(folder / "manifest.csv", rows)
    train_ensemble(folder / "manifest.csv", recipe_from_dict(RECIPE), folder / "run", device=CPU, report=lambda _: None)
    compress_run(folder, folder / "bundle")
    return folder


def compress_run(folder, out, say=lambda _: None, **options):
    """The record of the compression; what is drawn as no logo are ripples."""
    bundles, record = compress(
        folder / "run", out, name="shapes", device=CPU, report=lambda _: None, say=say, outliers=CHOICE, **options
    )
    assert set(bundles) == set(record["targets"])
    return record


@pytest.fixture
def equal_costs(monkeypatch):
    """Every artifact costs the same, and none is opened and timed, which takes seconds each."""
    cost = Cost(1.0, 1.0, 1.0, 1.0, 11, (1.0,) * 11, 100.0)
    monkeypatch.setattr(measure, "measure_side_by_side", lambda artifacts, logs: dict.fromkeys(artifacts, cost))


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
    monkeypatch.setattr(plan, "make_int8", faulty_converters.abort)
    monkeypatch.setattr(plan, "make_fp16", faulty_converters.get_killed)
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
    monkeypatch.undo()
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
import sys
from pathlib import Path
import logo_edge_train  # before torch
from logo_edge_compress.compress import _choose, compress
from logo_edge_compress.select import Limits, Row
from logo_edge_train.data.outliers import families_of
import torch

def report(item):
    print(item["kind"], item.get("epoch"), flush=True)

run, out, limit = sys.argv[1:]
compress(Path(run), Path(out), name="shapes", device=torch.device("cpu"), report=report,
         limits=Limits(size_mb=float(limit)), say=lambda text: print(text, flush=True),
         outliers={"specks": families_of("choice")["specks"]})
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_result(folder, tmp_path):
    run, killed_after = tmp_path / "run", ["epoch 5", "fp32:", "int8-minmax:", "int8-percentile:", "measuring"]
    shutil.copytree(folder / "run", run, ignore=shutil.ignore_patterns("compress*"))
    limit = 0.9 * (folder / "run" / "compress" / f"{MODEL}-32" / "student-fp32.onnx").stat().st_size / 1e6
    command = [sys.executable, "-c", COMPRESS, str(run), str(tmp_path / "bundle"), str(limit)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = 0
    for moment in [*killed_after, None]:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines = []
        for line in process.stdout:
            lines.append(line)
            if moment and moment in line:
                children = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                killed += 1
                break
        process.stdout.close()
        assert (process.wait() == 0) == (moment is None), "".join(lines)
        if moment:
            assert psutil.wait_procs(children, timeout=60)[1] == [], "nothing goes on alone"
    assert killed == len(killed_after)
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


def test_the_teachers_see_the_very_views_of_the_student_and_the_same_batch_twice_is_the_same():
    torch.manual_seed(0)
    teachers = [LogoNetwork(MODEL, 3).eval() for _ in range(2)]
    contracts = [InputContract(48), InputContract(40)]
    soft_targets = SoftTargets(teachers, contracts, InputContract(32), DistillConfig(p_mixup=1.0, temperature=2.0))
    pictures = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    items = list(zip(pictures, torch.eye(3)[[0, 1, 2, 0]], [7, 8, 9, 10], strict=True))
    views, votes, logits = soft_targets.collate(items)
    again = soft_targets.collate(items)
    assert views.shape == (4, 32, 32, 3)
    assert logits.shape == (4, 2, 3)
    assert not votes.any(), "of mixed views no vote holds"
    assert all(torch.equal(a, b) for a, b in zip((views, votes, logits), again, strict=True))


@torch.no_grad()
def test_the_votes_weigh_the_same_whether_a_batch_is_learned_from_whole_or_in_parts():
    torch.manual_seed(0)
    network, teacher = (LogoNetwork(MODEL, 3).eval() for _ in range(2))
    config = DistillConfig(p_mixup=0.0, hard_weight=0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    targets = torch.zeros(6, 3)
    targets[[0, 1, 4], [2, 0, 1]] = 1  # half of the logos are labelled, in unequal parts of the batch
    contract = InputContract(32)
    batch = SoftTargets([teacher], [contract], contract, config).collate(
        list(zip(pixels, targets, range(6), strict=True))
    )
    objective = distillation_objective(config, None)
    whole = objective(network, *batch)
    parts = [objective(network, *part) for part in zip(*(tensor.chunk(3) for tensor in batch), strict=True)]
    for name, loss in whole.items():
        assert sum(float(part[name]) for part in parts) / 3 == pytest.approx(float(loss), rel=1e-3), name
    plain = -(targets * network(torch.from_numpy(pixels)).log_softmax(1)).sum() / 3
    assert float(whole["votes"]) == pytest.approx(0.5 * float(plain), rel=1e-4)


def test_teachers_that_are_asked_in_turn_say_in_the_mean_what_all_of_them_say():
    torch.manual_seed(0)
    teachers = [LogoNetwork(MODEL, 3).eval() for _ in range(3)]
    pixels, contract = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8), InputContract(32)

    def ask(teachers_per_batch, position):
        config = DistillConfig(teachers_per_batch=teachers_per_batch, p_mixup=0.0)
        soft_targets = SoftTargets(teachers, [contract] * 3, contract, config)
        logits = soft_targets.collate(list(zip(pixels, torch.eye(3)[:2], [position, 0], strict=True)))[2]
        return (logits / config.temperature).softmax(2).mean(1)

    alone = [ask(1, position) for position in range(60)]
    assert len({tuple(soft.flatten().tolist()) for soft in alone}) == 3, "each teacher is asked at some time"
    assert (torch.stack(alone).mean(0) - ask(0, 0)).abs().max() < 0.1 * torch.stack(alone).std(0).max() + 0.02


def test_attacked_views_stay_within_noise_and_step_and_harm_the_student():
    torch.manual_seed(0)
    network = LogoNetwork(MODEL, 3).train()
    views = torch.randint(0, 256, (16, 32, 32, 3), generator=torch.Generator().manual_seed(1)).float()
    targets = torch.arange(16) % 3

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits, targets)

    attacked = attack_views(network, views, loss, 8.0)
    assert 16 < (attacked - views).abs().max() <= 24 + 1e-4
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    assert not attacked.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters()), "the attack leaves no gradient behind"
    noise = (views + 16 * (2 * torch.rand(views.shape) - 1)).clamp(0, 255)
    assert loss(network(attacked)) > loss(network(noise)) + 0.01


def test_a_student_that_learns_on_attacked_views_normalises_by_the_statistics_it_had():
    network = LogoNetwork(MODEL, 3)
    network.keep_statistics()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    network(torch.randint(0, 256, (8, 32, 32, 3))).sum().backward()
    assert len(before) > 4
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert all(parameter.grad is not None for parameter in network.parameters()), "scale and shift are learned"


def test_freezing_the_first_blocks_takes_back_no_statistics_that_were_to_be_kept():
    network = LogoNetwork("mobilenetv4_conv_small_050", 3)
    network.keep_statistics()
    network.freeze(1)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()(torch.randint(0, 256, (8, 32, 32, 3)))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("network", [f"{MODEL}+mhsa+attention_pool@32", "test_vit@32"])
def test_a_student_with_attention_is_quantized_and_packed_without_fine_tuning(folder, network, equal_costs):
    name = network.partition("+")[0].partition("@")[0]
    distilled = {**RECIPE["distill"], "students": [network], "max_size_mb": 50.0}
    recipe = recipe_from_dict({**RECIPE, "name": name, "distill": distilled})
    record = compress_run(folder, folder / name, recipe=recipe)
    by_name = {candidate["name"]: candidate for candidate in record["candidates"]}
    assert list(by_name) == ["fp32", "fp16", "int8-minmax", "int8-percentile"]
    assert min(candidate["parity"]["top1_agreement"] for candidate in by_name.values()) >= 0.9
    assert Classifier.load(folder / name).run_vectors() >= 8


def test_a_pruned_student_with_doubts_of_its_own_is_packed_with_them(folder, equal_costs):
    slim = {"epistemic": "dirichlet", "panel_share": 0.5, "prune": {"share": 0.4, "fit": RECIPE["distill"]["fit"]}}
    panel = {"networks": [f"{MODEL}@32"], "measures": [], "classifiers": ["logistic"], "folds": 2, "divisions": 1}
    recipe = recipe_from_dict({**RECIPE, "name": "slim", "distill": {**RECIPE["distill"], **slim}, "review": panel})
    record = compress_run(folder, folder / "slim", recipe=recipe)
    bundle = read_bundle(folder / "slim")
    assert set(bundle.model.optional_outputs) == {EMBEDDING, EPISTEMIC}
    whole = json.loads((folder / "run" / "compress" / "compress_report.json").read_text())
    smallest = [min(candidate["size_bytes"] for candidate in report["candidates"]) for report in (record, whole)]
    assert smallest[0] < 0.8 * smallest[1], "which one is packed depends on latencies here"
    val = read_manifest(folder / "manifest.csv").split("val")
    pixels = np.stack([Classifier.load(folder / "slim").read_pixels(folder / row.icon) for row in val])
    nats = run_onnx(bundle.model_path, pixels, output=EPISTEMIC)
    assert nats.shape == (16,)
    assert 0 <= nats.min() < nats.max() < np.log(2)
    correlations = [candidate["epistemic_rank_correlation"] for candidate in record["candidates"]]
    assert len(correlations) >= 3
    assert min(correlations) >= 0.9
    assert record["targets"]["cpu"]["stages"][-1]["test"]["accuracy"]["value"] >= 0.7
    student = json.loads((folder / "run" / "compress-slim" / f"{MODEL}-32" / "student.json").read_text())
    epochs = RECIPE["distill"]["fit"]["epochs"]
    assert [candidate["epoch"] for candidate in student["history"]] == [*range(1, epochs + 1)] * 2, (
        "pruned, it learned on"
    )
    assert all(np.isfinite(candidate["epistemic"]) for candidate in student["history"])


def test_every_way_to_quantize_is_a_candidate_of_its_own(folder, equal_costs):
    ways = {
        "methods": ["minmax", "nncf", "dynamic", "weights-int8", "weights-int4"],
        "equalise": "always",
        "depthwise_fp32": "always",
        "mixed": "always",
        "nncf_minutes": 0.0,
    }
    recipe = recipe_from_dict({**RECIPE, "name": "ways", "quantize": {**RECIPE["quantize"], **ways}})
    record = compress_run(folder, folder / "ways", recipe=recipe)
    by_name = {candidate["name"]: candidate for candidate in record["candidates"]}
    assert list(by_name) == [
        "fp32",
        "fp16",
        "int8-minmax",
        "int8-nncf",
        "int8-dynamic",
        "int8-weights",
        "int4-weights",
        "int8-tuned",
        "int8-equalised",
        "int8-depthwise-fp32",
        "int8-mixed",
    ]
    assert "has no depthwise layer to leave in FP32" in by_name["int8-depthwise-fp32"]["reason"]
    assert by_name["int4-weights"]["status"] == "refused"
    assert "no matrix product to store in 4 bits" in by_name["int4-weights"]["reason"]
    assert by_name["int8-dynamic"]["status"] == "refused"
    assert "layers compute in float" in by_name["int8-dynamic"]["reason"], "it quantizes no convolution"
    assert by_name["int8-minmax"]["audit"]["float_layers"] == []
    for name in ("int8-nncf", "int8-weights", "int8-equalised", "int8-mixed"):
        assert by_name[name]["status"] == "made", by_name[name]["reason"]
        assert by_name[name]["parity"]["images"] == 16
    assert by_name["int8-weights"]["size_bytes"] < 0.4 * by_name["fp32"]["size_bytes"]
    sensitivity = by_name["int8-mixed"]["sensitivity"]
    assert len(sensitivity["layers"]) > 8
    assert sensitivity["restored"] == [], "quantized whole, it holds its parent"
    page = make_page(folder / "run" / "compress-ways").read_text()
    assert f"Layer by layer, {MODEL}@32" in page
    assert record["int8_range"] in page


def test_layers_go_back_to_fp32_where_no_int8_holds_its_parent(folder, tmp_path):
    run, manifest = read_run(folder / "run"), read_manifest(folder / "manifest.csv")
    task = Task(run, manifest, Architecture(MODEL, 32), tmp_path, tmp_path, "it")

    def refuse_int8(plan):
        return outcome(task, plan, "refused" if plan.precision == "int8" else "made")

    names = [candidate.name for candidate in make_candidates(task, set(), refuse_int8)]
    careful = ["int8-equalised", "int8-depthwise-fp32", "int8-mixed"]
    assert names == ["fp32", "fp16", "int8-minmax", "int8-percentile", *careful]
    assert set(names) <= possible_names(run.recipe.quantize.methods)


def test_another_recipe_makes_another_bundle_of_the_same_teachers(folder, equal_costs):
    recipe = recipe_from_dict({**RECIPE, "name": "tough", "distill": {**RECIPE["distill"], "adversarial_radius": 2.0}})
    before = (folder / "run" / "compress" / "report.json").read_bytes()
    record = compress_run(folder, folder / "tough", recipe=recipe, carry=("fp32", "fp16"))
    bundle = Classifier.load(folder / "tough").bundle
    carried = {variant.file: variant for variant in bundle.variants}
    names = {"fp32", "fp16"} - {record["targets"]["cpu"]["method"]}
    assert set(carried) == {f"variants/{name}.onnx" for name in names}
    assert {variant.vectors for variant in carried.values()} == {f"vectors/{name}.json" for name in names}
    assert all(Classifier(bundle.of_variant(variant)).run_vectors() >= 8 for variant in carried.values())
    assert bundle.provenance["fitting"]["images"] == 24
    assert record["recipe"] == bundle.provenance["recipe"] == "tough"
    assert json.loads((folder / "run" / "compress-tough" / "report.json").read_text())["bundle_bytes"] > 0
    assert (folder / "run" / "compress" / "report.json").read_bytes() == before
    assert bundle.metrics["test"]["count"] == 16


def test_a_servers_bundle_holds_the_teachers_and_says_what_they_disagree_on(folder):
    record = compress_run(folder, folder / "server", targets=("server",))
    classifier = Classifier.load(folder / "server", self_test=True)
    assert [member.size_px for member in classifier.bundle.members] == [32, 32]
    assert (classifier.bundle.name, record["targets"]["server"]["method"]) == ("shapes-server", "fp32")
    rows = read_manifest(folder / "manifest.csv").split("test")
    results = [classifier.classify(folder / row.icon) for row in rows]
    right = sum(result.best_guess == row.label for result, row in zip(results, rows, strict=True))
    assert right == round(16 * classifier.bundle.metrics["test"]["accuracy"]["value"])
    expected = decompose(read_run(folder / "run").member_logits("test")).epistemic
    assert [result.epistemic for result in results] == pytest.approx(expected.tolist(), abs=1e-3)
    assert (folder / "server" / "member-1.onnx").exists()


def test_what_is_not_measured_here_is_not_held_to_a_latency_and_can_be_exported(folder):
    record = compress_run(folder, folder / "page", targets=("web", "torchscript"), limits=Limits(latency_ms=1000.0))
    assert (
        "The limit of 1000 ms is not checked for web: nothing here measures it." in record["targets"]["web"]["sentence"]
    )
    assert record["targets"]["web"]["limits"]["latency_ms"] is None
    assert record["targets"]["torchscript"]["limits"]["latency_ms"] == 1000.0
    assert set(read_source(folder / "run").graphs) >= {"fp32"}


@pytest.mark.network
def test_every_backend_that_is_here_gives_a_bundle_of_its_own(folder):
    record = compress_run(
        folder, folder / "bundle", targets=("cpu", "openvino", "litert", "jetson", "web", "torchscript", "ncnn", "mnn")
    )
    suffixes = {"openvino": ".xml", "litert": ".tflite", "torchscript": ".pt", "ncnn": ".param", "mnn": ".mnn"}
    for target, suffix in suffixes.items():
        bundle = Classifier.load(folder / f"bundle-{target}").bundle
        assert f"model{suffix}" in bundle.files, "beside the graph that it was made of"
        assert bundle.provenance["target"] == target
    by_title = {candidate["title"]: candidate for candidate in record["candidates"]}
    jetson = by_title[f"{MODEL}@32, {record['targets']['jetson']['method']}"]
    assert (jetson["backend"], jetson["cost"]) == ("tensorrt", None)
    assert "no engine was built or run" in jetson["not_measured"]
    backends = {candidate["backend"] for candidate in by_title.values() if candidate["status"] == "made"}
    assert backends == {"onnxruntime", "openvino", "litert", "tensorrt", "torchscript", "ncnn", "mnn"}
    assert (by_title[f"{MODEL}@32, int8-mnn"]["status"], by_title[f"{MODEL}@32, int8-ncnn"]["status"]) == (
        "refused",
        "made",
    )
    model = folder / "bundle-litert" / "model.tflite"
    assert Classifier.load(folder / "bundle-litert", backend="litert", artifact=model).run_vectors() >= 8
    web = record["targets"]["web"]
    assert web["method"].startswith("int8"), "the smallest"
    assert unsupported_operators(onnx.load(folder / "bundle-jetson" / "model.onnx")) == []


@pytest.mark.slow
def test_a_bundle_that_carries_another_format_opens_it_where_it_is_the_quickest(folder, tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert")
    costs = {8: Cost(1.0, 1.0, 1.0, 1.0, 11, (1.0,) * 11, 100.0), 32: Cost(2.0, 2.0, 2.0, 2.0, 11, (2.0,) * 11, 100.0)}
    monkeypatch.setattr(
        measure,
        "measure_side_by_side",
        lambda artifacts, logs: {name: costs[8 if "int8" in name else 32] for name in artifacts},
    )
    monkeypatch.setattr(outliers, "families_of", lambda part: CHOICE)
    shutil.copytree(folder / "run", tmp_path / "run")
    arguments = [str(tmp_path / "run"), "--device", "cpu", "--name", "shapes", "--carry", "fp32", "--carry"]
    arguments += ["int8-litert", "--out", str(tmp_path / "carrying")]
    result = CliRunner().invoke(compress_command, arguments)
    assert result.exit_code == 0, result.output
    bundle, carried = read_bundle(tmp_path / "carrying"), "variants/int8-litert.tflite"
    assert [variant.file for variant in bundle.variants] == ["variants/fp32.onnx", carried]
    monkeypatch.setattr(
        timing, "measure_by_turns", lambda calls: {name: 1.0 if carried in name else 2.0 for name in calls}
    )
    quickest, own = (Classifier.load(bundle.folder, backend=name) for name in ("auto", "onnxruntime"))
    assert (quickest.backend, quickest.bundle.model.file) == ("litert", carried)
    rows = read_manifest(folder / "manifest.csv").split("test")
    guesses = [[classifier.classify(folder / row.icon).best_guess for row in rows] for classifier in (quickest, own)]
    assert len(rows) == 16
    assert sum(one == other for one, other in zip(*guesses, strict=True)) >= 15
    size_mb = sum(bundle.files[name].size_bytes for name in ("model.onnx", "variants/fp32.onnx", carried)) / 1e6
    result = CliRunner().invoke(compress_command, [*arguments, "--max-size-mb", f"{0.5 * size_mb}"])
    assert isinstance(result.exception, SelectionError)
    assert "no candidate meets the limits" in str(result.exception)


def test_a_setting_that_is_as_by_default_changes_no_key_of_a_finished_student(folder):
    reports: list[dict] = []
    run = read_run(folder / "run")
    spelled = replace(run.recipe.distill, adversarial_radius=0.0)
    distill(
        run,
        read_manifest(folder / "manifest.csv"),
        spelled,
        Architecture(MODEL, 32),
        folder / "run" / "compress" / f"{MODEL}-32",
        device=CPU,
        report=reports.append,
    )
    assert reports == [], "it is read back, not learned again"


def test_the_graph_beside_an_artifact_counts_for_the_size_limit(tmp_path):
    run = SimpleNamespace(recipe=SimpleNamespace(distill=SimpleNamespace(max_size_mb=1.2)))
    sizes = {"student-int8-minmax.onnx": 600_000, "student-int8-ncnn.param": 1_000, "student-int8-ncnn.bin": 500_000}
    for name, size_bytes in sizes.items():
        (tmp_path / name).write_bytes(bytes(size_bytes))
    made = {"int8-minmax": list(sizes)[:1], "int8-ncnn": list(sizes)[1:]}
    measured = []
    for name, files in made.items():
        backend, record = ("ncnn", {"parent": "student-int8-minmax.onnx"}) if "ncnn" in name else ("onnxruntime", {})
        files = dict.fromkeys(files, "")
        one = Candidate("small@96", name, "int8", backend, tmp_path, "made", files=files, record=record)
        figures = dict.fromkeys(Row.__dataclass_fields__, 0.1) | {"cost": None, "correct": np.ones(9, bool)}
        of_candidate = {
            field: getattr(one, field) for field in ("student", "name", "precision", "backend", "size_bytes")
        }
        measured.append(Measured(one, None, "", Row(**figures | of_candidate)))
    for target, expected in (("ncnn", 1_101_000), ("cpu", 600_000)):
        choice, _ = _choose(run, target, measured, Limits(), ())
        assert choice.row.size_bytes == expected
    choice, _ = _choose(run, "ncnn", measured, Limits(size_mb=1.1), ())
    assert choice.row is None
    choice, _ = _choose(run, "ncnn", measured, Limits(), ("int8-minmax",))
    assert choice.row.size_bytes == 1_701_000, "a variant is a file of its own"
