"""A bundle of several members is checked, runs as one model, and is confident only where they agree."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from pictures import marked
from PIL import Image

from logo_edge import BundleError, Classifier, read_bundle
from logo_edge.bundle.members import Ensemble, reduce_pixels
from logo_edge.bundle.record import EPISTEMIC, VECTORS, list_files, write_record
from logo_edge.errors import ExportError
from logo_edge.scale import triton
from logo_edge.tables.folder import describe_settings

SIZES = (16, 8)


def turned(model: bytes, by: int) -> bytes:
    """The fake model with its classes shifted by so many positions: red becomes green."""
    graph = onnx.load_from_string(model)
    (weights,) = [tensor for tensor in graph.graph.initializer if tensor.name == "weights"]
    weights.CopyFrom(onnx.numpy_helper.from_array(np.roll(onnx.numpy_helper.to_array(weights), by, 1), weights.name))
    return graph.SerializeToString()


@pytest.fixture
def ensemble(fake_bundle, fake_model):
    """A factory: the folder of a bundle of two members, the second of which sees 8 px; `change` edits its record."""

    def make(*, by: int = 0, weights=(0.5, 0.5), change=lambda record: None):
        folder = fake_bundle()
        (folder / "second.onnx").write_bytes(turned(fake_model(size_px=SIZES[1]), by))
        if by:
            (folder / VECTORS).unlink()  # which are those of members that agree
        record = json.loads((folder / "bundle.json").read_text())
        record["members"] = [
            {"file": name, "size_px": size_px, "weight": weight}
            for name, size_px, weight in zip(("model.onnx", "second.onnx"), SIZES, weights, strict=True)
        ]
        record["model"]["optional_outputs"] = [EPISTEMIC]
        record["files"] = {name: vars(file) for name, file in list_files(folder).items()}
        change(record)
        write_record(folder, json.dumps(record).encode())
        return folder

    return make


def test_members_that_agree_give_what_one_gives_and_disagree_on_nothing(ensemble, fake_bundle):
    red = marked((255, 0, 0))
    together, alone = Classifier.load(ensemble()).classify(red), Classifier.load(fake_bundle()).classify(red)
    assert together.label == "red"
    assert together.confidence == pytest.approx(alone.confidence, abs=1e-6)
    assert together.epistemic == pytest.approx(0, abs=1e-6)
    assert alone.epistemic is None, "a single network without such an output"


def test_members_that_contradict_each_other_are_unsure_and_say_so(ensemble):
    red = marked((255, 0, 0))
    result = Classifier.load(ensemble(by=1)).classify(red)
    assert result.label is None
    assert result.probabilities["red"] == pytest.approx(result.probabilities["green"], abs=1e-4)
    assert result.epistemic == pytest.approx(np.log(2), abs=0.05)
    weighted = Classifier.load(ensemble(by=1, weights=(0.9, 0.1))).classify(red)
    assert weighted.best_guess == "red"
    assert weighted.probabilities["red"] == pytest.approx(0.9, abs=0.01)


def test_one_image_or_many_at_once_give_the_same(ensemble):
    classifier = Classifier.load(ensemble(by=1))
    images = [marked(colour) for colour in ("red", "lime", "blue", "gray")]
    alone = [classifier.classify(image) for image in images]
    assert [result.probabilities for result in classifier.classify_many(images, batch_size=3)] == [
        pytest.approx(result.probabilities, abs=1e-5) for result in alone
    ]


def test_the_logits_of_an_ensemble_have_the_logo_score_of_its_members(ensemble):
    classifier = Classifier.load(ensemble())
    pixels = np.full((1, 16, 16, 3), 200, np.uint8)
    alone = Classifier.load(ensemble()).bundle
    (single,) = classifier._backend.opened.backends[0].run(pixels, [alone.model.output_name])
    assert np.logaddexp.reduce(classifier.logits(pixels)[0]) == pytest.approx(np.logaddexp.reduce(single[0]), abs=1e-4)


def test_members_of_one_size_are_given_the_very_pixels_and_smaller_ones_a_reduced_copy():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert reduce_pixels(pixels, 16) is pixels
    small = reduce_pixels(pixels, 8)
    assert (small.shape, small.dtype) == ((2, 8, 8, 3), np.uint8)
    expected = Image.fromarray(pixels[1]).resize((8, 8), Image.Resampling.BILINEAR)
    assert np.array_equal(small[1], np.asarray(expected))
    detailed = reduce_pixels(np.concatenate([pixels, pixels, pixels[..., :1]], axis=3), 8)
    assert np.array_equal(detailed, np.concatenate([small, small, small[..., :1]], axis=3))


def test_a_single_model_pays_for_no_ensemble(fake_bundle):
    classifier = Classifier.load(fake_bundle())
    assert not isinstance(classifier._backend.opened, Ensemble)
    assert classifier._outputs == ["logits"], "and is asked for nothing else"
    assert read_bundle(classifier.bundle.folder).members == ()


def test_every_member_tells_one_ensemble_from_another(ensemble, fake_bundle):
    assert read_bundle(fake_bundle()).model_sha256 == read_bundle(fake_bundle()).files["model.onnx"].sha256
    bundles = [read_bundle(folder) for folder in (ensemble(), ensemble(by=1), ensemble(weights=(0.9, 0.1)))]
    assert len({bundle.files["model.onnx"].sha256 for bundle in bundles}) == 1
    assert len({describe_settings(Classifier(bundle))["model_sha256"] for bundle in bundles}) == 3
    assert read_bundle(ensemble()).model_sha256 == bundles[0].model_sha256


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["members"].pop(),
        lambda record: record["members"].reverse(),
        lambda record: record["members"][1].update(file="third.onnx"),
        lambda record: record["members"][1].update(file="model.onnx"),
        lambda record: record["members"][1].update(weight=0.6),
        lambda record: [
            member.update(weight=weight) for member, weight in zip(record["members"], (1.5, -0.5), strict=True)
        ],
        lambda record: record["members"][0].update(size_px=12),
        lambda record: record["members"][1].update(size_px=32),
    ],
    ids=[
        "one alone",
        "not the model first",
        "not listed",
        "twice the same",
        "more than 1",
        "negative",
        "none of full size",
        "larger",
    ],
)
def test_members_that_do_not_fit_are_refused(ensemble, change):
    with pytest.raises(BundleError, match="members: expected none, or two or more listed files"):
        read_bundle(ensemble(change=change))


@pytest.mark.parametrize("value", ["member.onnx", [3], [{"file": "model.onnx"}], {"file": "model.onnx"}])
def test_members_of_another_form_are_refused_by_name(ensemble, value):
    with pytest.raises(BundleError, match="members"):
        read_bundle(ensemble(change=lambda record: record.update(members=value)))


def test_a_member_whose_graph_does_not_fit_is_refused_at_load(ensemble):
    folder = ensemble(change=lambda record: record["members"][1].update(size_px=9))
    with pytest.raises(BundleError, match=r"second\.onnx: reads .* bundle\.json says 'pixels', uint8, \(B, 9, 9, 3\)"):
        Classifier.load(folder)


def test_an_ensemble_is_not_exported_for_triton_with_one_member_alone(ensemble, tmp_path):
    serving = triton.Serving()
    with pytest.raises(ExportError, match=r"an ensemble of 2 models; expected one\. Export a bundle of one model"):
        triton.write_repository(Classifier.load(ensemble()), tmp_path / "models", "logo", serving)
    assert not (tmp_path / "models").exists()
