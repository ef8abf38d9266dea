"""A packed bundle that is calibrated again keeps its model, and reports the figures of the new splits."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from logo_edge import Classifier, Mode, Rejection, read_bundle
from logo_edge.bundle.record import RECORD, MemberEntry, VariantEntry, list_files, write_bundle_record
from logo_edge.bundle.signing import SIGNATURE, make_keys, sign_record
from logo_edge.errors import BundleError, DatasetError, RecipeError
from logo_edge_compress.card import find_weaknesses
from logo_edge_compress.commands import calibrate
from logo_edge_compress.convert.flatbuffer import write_flatbuffer
from logo_edge_compress.pack import put_folder
from logo_edge_compress.recalibrate import read_config, recalibrate
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, write_manifest
from logo_edge_train.recipe import CalibrateConfig

CONFIG = CalibrateConfig(target_risk=0.1, strict_risk=0.02)


@pytest.fixture
def manifest(tmp_path):
    """40 noisy colours of each class on calib and test; one in eight is said to be another."""
    random, rows = np.random.default_rng(0), []
    for split in ("calib", "test"):
        for index in range(120):
            colour = random.integers(0, 160, 3)
            colour[index % 3] += 90
            Image.new("RGB", (16, 16), tuple(colour.tolist())).save(tmp_path / f"{split}-{index}.png")
            label = ("red", "green", "blue")[(index + (index % 8 == 0)) % 3]
            rows.append(LogoRow(FILES, "", f"{split}-{index}.png", str(index), label, (label,), True, split))
    return Manifest(tuple(rows), tmp_path)


def test_a_bundle_is_calibrated_anew_and_its_model_stays(fake_bundle, manifest, tmp_path):
    folder = fake_bundle(temperature=9.0, abstain_below=0.123)
    sign_record(folder / RECORD, make_keys(tmp_path / "ours")[0])
    before = read_bundle(folder)
    bundle = recalibrate(folder, manifest, CONFIG)
    assert bundle == read_bundle(folder)
    assert bundle.files["model.onnx"] == before.files["model.onnx"]
    assert 0 < bundle.calibration.temperature != 9.0
    assert bundle.calibration.abstain_below[Mode.BALANCED] != 0.123
    assert [conformal.level for conformal in bundle.calibration.conformal] == [0.8, 0.9, 0.95, 0.99]
    assert "99 needed" in bundle.calibration.conformal[-1].refused
    assert (bundle.metrics["test"]["count"], bundle.reference["count"]) == (120, 120)
    assert list(bundle.metrics) == ["test"]
    classifier = Classifier.load(folder)
    pixels = np.stack([classifier.read_pixels(path) for path in tmp_path.glob("calib-*.png")])
    reasons = Counter(decision.reason for decision in classifier.decide(classifier.logits(pixels)))
    assert reasons[Rejection.NOT_A_LOGO] == 5, "below the sixth smallest of 120"
    assert bundle.reference["abstention"]["abstained"] == pytest.approx(1 - reasons[None] / 120)
    card, again = (folder / "card.md").read_text(), bundle.provenance["recalibrated_on"]
    assert "the reason `not_a_logo`" in card
    assert f"- calibrated again, and measured, on other labels and images: sha256 `{again}`" in card
    parts = {part["name"]: part for part in json.loads(bundle.read("bom.json"))["components"]}
    assert parts["card.md"]["hashes"] == [{"alg": "SHA-256", "content": bundle.files["card.md"].sha256}]
    assert not (folder / SIGNATURE).exists()
    assert Classifier.load(folder).run_vectors() >= 8


def test_a_calib_split_without_a_class_is_refused_and_nothing_changes(fake_bundle, manifest, tmp_path):
    folder = fake_bundle()
    text = (folder / RECORD).read_text()
    kept = Manifest(tuple(row for row in manifest.rows if row.label != "blue"), manifest.folder)
    with pytest.raises(DatasetError, match="split 'calib' has no image of class blue"):
        recalibrate(folder, kept, CONFIG)
    assert (folder / RECORD).read_text() == text


@pytest.mark.skipif(sys.platform != "linux", reason="the two names are exchanged in one step on Linux")
def test_a_bundle_is_replaced_in_one_step_with_no_moment_without_one(tmp_path, monkeypatch):
    for name in ("new", "bundle"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "says").write_text(name)
    monkeypatch.setattr(Path, "rename", lambda *names: pytest.fail("two renames leave a moment between them"))
    put_folder(tmp_path / "new", tmp_path / "bundle")
    assert [(tmp_path / name / "says").read_text() for name in ("bundle", "new")] == ["new", "bundle"]


class MeanColour(torch.nn.Module):
    """What the fake bundle's graph computes, half as sure."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean(dim=(1, 2)) * 6.0 / 255 * 0.999


def add_openvino(folder: Path) -> None:
    openvino.save_model(openvino.convert_model(folder / "model.onnx"), folder / "model.xml")


def add_torchscript(folder: Path) -> None:
    torch.jit.script(MeanColour()).save(str(folder / "model.pt"))


def add_litert(folder: Path) -> None:
    """What the fake bundle's graph computes, half as sure, in the form that the conversion reads."""
    constants = {"step": np.float32(6 / 255 * 0.999), "zero": np.uint8(0), "axes": np.array([2, 3])}
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["turned", "step", "zero"], ["planes"]),
        helper.make_node("ReduceMean", ["planes", "axes"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "mean-colour",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 16, 16, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (folder / "model.tflite").write_bytes(write_flatbuffer(model))


def add_notes(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "notes.txt").write_text("trained by us")


@pytest.mark.parametrize(
    ("add", "names"),
    [
        (add_openvino, {"model.xml", "model.bin"}),
        (add_litert, {"model.tflite"}),
        (add_torchscript, {"model.pt"}),
        (add_notes, {"more/notes.txt"}),
    ],
)
def test_every_file_of_a_bundle_stays_and_its_own_artifact_is_calibrated(fake_bundle, manifest, tmp_path, add, names):
    folder = fake_bundle(temperature=9.0)
    before = read_bundle(folder)
    add(folder)
    write_bundle_record(replace(before, files=list_files(folder)))
    listed = read_bundle(folder).files
    assert names < set(listed)
    bundle = recalibrate(folder, manifest, CONFIG)
    assert {name: bundle.files[name] for name in names} == {name: listed[name] for name in names}
    assert bundle.files["model.onnx"] == before.files["model.onnx"]
    assert bundle.calibration.temperature < 9.0
    plain = fake_bundle()
    expected = recalibrate(plain, manifest, CONFIG).calibration.temperature
    share = 0.999 if names & {"model.pt", "model.tflite"} else 1.0
    assert bundle.calibration.temperature == pytest.approx(share * expected, rel=3e-4)
    assert (bundle.calibration.temperature == expected) == (add is add_notes)


def test_an_artifact_is_packed_with_a_copy_of_its_bundle_and_calibrated(fake_bundle, manifest, tmp_path):
    folder, artifact, out = fake_bundle(temperature=9.0), tmp_path / "exported.xml", tmp_path / "packed"
    openvino.save_model(openvino.convert_model(folder / "model.onnx"), artifact)
    before = read_bundle(folder).files
    bundle = recalibrate(folder, manifest, CONFIG, artifact=artifact, out=out)
    assert bundle.folder == out
    assert {"model.onnx", "model.xml", "model.bin"} < set(bundle.files)
    assert (out / "model.xml").read_bytes() == artifact.read_bytes()
    assert bundle.calibration.temperature < 9.0
    assert read_bundle(folder).files == before, "the bundle itself stays"
    with pytest.raises(BundleError, match="holds model.xml, the artifact is .*exported.xml"):
        recalibrate(out, manifest, CONFIG, artifact=artifact, out=tmp_path / "twice")
    with pytest.raises(BundleError, match="a file that ends in .xml, .tflite, .pt, .param, .mnn"):
        recalibrate(folder, manifest, CONFIG, artifact=folder / "model.onnx", out=tmp_path / "graph")


def test_a_bundle_of_several_members_is_calibrated_on_what_they_say_together(fake_bundle, manifest, tmp_path):
    folder = fake_bundle(temperature=9.0)
    (folder / "second.onnx").write_bytes((folder / "model.onnx").read_bytes())
    members = (MemberEntry("model.onnx", 16, 0.5), MemberEntry("second.onnx", 16, 0.5))
    write_bundle_record(replace(read_bundle(folder), members=members, files=list_files(folder)))
    bundle = recalibrate(folder, manifest, CONFIG)
    assert bundle.members == members
    assert {"model.onnx", "second.onnx"} < set(bundle.files)
    expected = recalibrate(fake_bundle(), manifest, CONFIG)
    assert bundle.calibration.temperature == pytest.approx(expected.calibration.temperature, rel=1e-3)
    assert Classifier.load(folder).run_vectors() >= 8


def test_a_variant_is_calibrated_on_its_own_logits_and_gets_vectors_of_its_own(fake_bundle, manifest):
    folder, name = fake_bundle(temperature=9.0), "variants/fp32.onnx"
    model = onnx.load(folder / "model.onnx")
    weights = model.graph.initializer[0]
    weights.CopyFrom(onnx.numpy_helper.from_array(3 * onnx.numpy_helper.to_array(weights), weights.name))
    (folder / name).parent.mkdir()
    onnx.save(model, folder / name)
    before = read_bundle(folder)
    variant = VariantEntry(name, "fp32", "vectors/fp32.json", before.calibration)
    vectors = json.loads((folder / before.vectors).read_text())
    for vector in vectors["vectors"]:
        vector["logits"] = [3 * logit for logit in vector["logits"]]
    (folder / variant.vectors).write_text(json.dumps(vectors))
    write_bundle_record(replace(before, variants=(variant,), files=list_files(folder)))
    bundle = recalibrate(folder, manifest, CONFIG)
    (packed,) = bundle.variants
    assert packed.calibration.temperature > 1.5 * bundle.calibration.temperature
    assert bundle.files[name].sha256 == read_bundle(folder).files[name].sha256
    own, other = (json.loads((folder / path).read_text())["vectors"] for path in (bundle.vectors, packed.vectors))
    assert [vector["logits"] for vector in other] == [
        pytest.approx([3 * logit for logit in vector["logits"]], rel=1e-3, abs=1e-3) for vector in own
    ]


def test_the_command_keeps_the_risks_that_the_bundle_was_made_by(fake_bundle, manifest, tmp_path):
    folder = fake_bundle()
    write_manifest(tmp_path / "manifest.csv", manifest.rows)
    recalibrate(folder, manifest, CONFIG)
    first = read_bundle(folder)
    assert first.provenance["calibrate"] == asdict(CONFIG)
    command = [str(folder), "--data", str(tmp_path / "manifest.csv")]
    assert CliRunner().invoke(calibrate, command).exit_code == 0
    assert read_bundle(folder).calibration == first.calibration
    assert CliRunner().invoke(calibrate, [*command, "--set", "calibrate.target_risk=0.2"]).exit_code == 0
    assert read_bundle(folder).provenance["calibrate"] == asdict(replace(CONFIG, target_risk=0.2))


def test_a_bundle_of_an_earlier_release_is_calibrated_by_its_recipe_or_one_that_is_named(fake_bundle, tmp_path):
    old = read_bundle(fake_bundle())
    built_in = replace(old, provenance={"recipe": "robust"})
    assert read_config(built_in, None, ("calibrate.strict_risk=0.01",)) == CalibrateConfig(strict_risk=0.01)
    with pytest.raises(RecipeError, match="stores no risks, and its recipe 'mine' is not built in; give --recipe"):
        read_config(replace(old, provenance={"recipe": "mine"}), None, ())
    (tmp_path / "mine.toml").write_text("[calibrate]\ntarget_risk = 0.1\n")
    assert read_config(old, str(tmp_path / "mine.toml"), ()).target_risk == 0.1


def test_what_a_bundle_does_not_promise_and_misses_is_said_in_it_and_at_the_end(fake_bundle, manifest, tmp_path):
    folder = fake_bundle()
    rows = tuple(row for row in manifest.rows if row.split == "test" or int(row.group) < 12)
    write_manifest(tmp_path / "few.csv", rows)
    command = [str(folder), "--data", str(tmp_path / "few.csv"), "--recipe", "cpu"]
    result = CliRunner().invoke(calibrate, command)
    assert result.exit_code == 0, result.output
    message = "mode balanced: not promised: 12 pictures; 59 answers, none of them wrong, show a risk of 5% or less"
    bundle = read_bundle(folder)
    assert message in result.stderr
    assert f"- {message}" in (folder / "card.md").read_text()
    assert find_weaknesses(bundle)[0] == message
    assert bundle.calibration.abstain_below[Mode.BALANCED] >= 0.95
    assert json.loads((folder / RECORD).read_text())["provenance"]["unpromised"]["balanced"] in message


@pytest.mark.parametrize(
    ("confusion", "message"),
    [
        ([[5, 0, 0], [0, 5, 0], [0, 0, 5]], []),
        (
            [[5, 0, 0], [0, 5, 0], [2, 3, 0]],
            ["recognises none of the 10 images of 'blue' among the 30 images of val and test"],
        ),
        ([[5, 0, 0], [5, 0, 0], [5, 0, 0]], ["gives 'red' for each of the 30 images of val and test"]),
        ([[5, 0, 0], [0, 5, 0], [0, 0, 0]], []),
    ],
)
def test_a_class_that_is_never_recognised_and_one_answer_to_everything_are_named(fake_bundle, confusion, message):
    metrics = {split: {"confusion": confusion} for split in ("val", "test")}
    assert find_weaknesses(replace(read_bundle(fake_bundle()), metrics=metrics)) == message


def test_every_interval_of_a_card_holds_its_value(fake_bundle, manifest, tmp_path):
    folder = fake_bundle()
    recalibrate(folder, manifest, CONFIG)
    intervals = re.findall(r"([\d.]+)% \(([\d.]+)% to ([\d.]+)%\)", (folder / "card.md").read_text())
    assert len(intervals) == 2 + 3 + 2
    assert all(float(low) <= float(value) <= float(high) for value, low, high in intervals)
