"""Compressions of one run by other recipes, for other targets, and with what a bundle carries."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from shapes import CHOICE, CPU, MODEL, RECIPE, compress_run
from typer.testing import CliRunner

from logo_edge import Classifier, timing
from logo_edge.bundle.record import EMBEDDING, EPISTEMIC, read_bundle
from logo_edge.errors import SelectionError
from logo_edge_compress.candidates import measure
from logo_edge_compress.candidates.measure import Measured
from logo_edge_compress.candidates.plan import make_candidates, possible_names
from logo_edge_compress.candidates.store import Candidate, Task, outcome
from logo_edge_compress.commands import compress as compress_command
from logo_edge_compress.compress import _choose
from logo_edge_compress.convert.source import read_source
from logo_edge_compress.convert.tensorrt import unsupported_operators
from logo_edge_compress.distill.distill import distill
from logo_edge_compress.select import Limits, Row
from logo_edge_compress.timing import Cost
from logo_edge_compress.verify import run_onnx
from logo_edge_report.compression import make_page
from logo_edge_train.architecture import Architecture
from logo_edge_train.data import outliers
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import read_run
from logo_edge_train.uncertainty import decompose


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
    arguments = [str(folder / "run"), "--device", "cpu", "--name", "shapes", "--carry", "fp32", "--carry"]
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
    files_of = {"int8-minmax": list(sizes)[:1], "int8-ncnn": list(sizes)[1:]}
    measured = []
    for name, files in files_of.items():
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
