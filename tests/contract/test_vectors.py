"""Every backend and language agrees on preprocessing, decisions, and the default bundle from end to end."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from contract.cases import contract_of, jpeg_of_vector
from PIL import Image

from logo_edge import Classifier, ImageError, Mode, load_image, preprocess
from logo_edge.bundle.calibration import Familiarity, Scaling
from logo_edge.bundle.members import mutual_information, pool_logits
from logo_edge.decision import given_labels, is_blank, logo_score, spread
from logo_edge.preprocess import preprocess_by_pillow
from logo_edge.probabilities import sigmoid, softmax

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def load_vectors(name: str, *, at_least: int) -> list[dict]:
    """The rows of a committed file of vectors, at least so many."""
    rows = json.loads((HERE / name).read_text(encoding="utf-8"))["vectors"]
    assert len(rows) >= at_least, f"{name} holds {len(rows)} vectors; expected {at_least} or more"
    return rows


PREPROCESS = load_vectors("preprocess_vectors.json", at_least=20)
JPEGS = load_vectors("jpeg_limit_vectors.json", at_least=12)
DECISIONS = load_vectors("decision_vectors.json", at_least=30)
MULTI_LABEL = load_vectors("multi_label_vectors.json", at_least=60)
MEMBERS = load_vectors("member_vectors.json", at_least=6)


@pytest.mark.parametrize("vector", PREPROCESS, ids=lambda vector: Path(vector["expected"]).stem)
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "pillow"])
def test_an_image_is_preprocessed_to_the_byte(vector, fast):
    image, contract = load_image(ROOT / vector["image"], fast=fast), contract_of(vector)
    pixels, slowly = preprocess(image, contract), preprocess_by_pillow(image, contract)
    assert pixels.shape == slowly.shape == (vector["size_px"], vector["size_px"], 7 if vector["details"] else 3)
    assert pixels.tobytes() == slowly.tobytes() == Image.open(ROOT / vector["expected"]).tobytes()
    assert is_blank(pixels[None]).tolist() == [vector["blank"]]


def test_the_preprocessing_vectors_cover_every_drawing_size_and_background():
    assert {(ROOT / vector["image"]).name for vector in PREPROCESS} >= {
        path.name for path in (ROOT / "runtime/logo_edge/samples").glob("*.png")
    }
    inputs = Counter((vector["size_px"], vector["details"], vector["fit"]) for vector in PREPROCESS)
    whole, cropped = [count for (*_, fit), count in inputs.items() if fit == "letterbox"], inputs[96, False, "crop"]
    assert whole == [23, 23, 23]
    assert inputs[96, True, "crop"] == cropped >= 10
    corners = {Image.open(ROOT / vector["expected"]).getpixel((0, 0)) for vector in PREPROCESS}
    assert {(255, 255, 255), (60, 60, 60), (20, 40, 90)} <= corners


def test_each_detail_plane_fires_somewhere_in_the_preprocessing_vectors():
    fired = np.zeros(4, int)
    for vector in PREPROCESS:
        if vector["details"]:
            fired += (
                np.asarray(Image.open(ROOT / vector["expected"])).reshape(96, 96, 7)[:, :, 3:].max(axis=(0, 1)) > 60
            )
    assert fired.min() >= 5, fired


def test_blank_is_what_has_one_colour_as_the_model_sees_it_and_a_faint_mark_is_not():
    whole = [vector for vector in PREPROCESS if vector["fit"] == "letterbox"]
    blank = {Path(vector["image"]).stem for vector in whole if vector["blank"]}
    assert blank == {Path(vector["image"]).stem for vector in PREPROCESS if "blank-" in vector["image"]}
    assert len(blank) == 6
    square = np.full((3, 8, 8, 3), 255, np.uint8)
    square[1, 7, 7, 2] = square[2, 0, 0, 0] = 254
    assert is_blank(square).tolist() == [True, False, False]
    assert spread(square).tolist() == [0, 1, 1]
    detailed = np.concatenate([square, np.random.default_rng(0).integers(0, 256, (3, 8, 8, 4), np.uint8)], axis=3)
    assert is_blank(detailed).tolist() == [True, False, False]
    assert spread(detailed).tolist() == [0, 1, 1]


@pytest.mark.parametrize("vector", DECISIONS, ids=lambda vector: f"{vector['side']}-{vector['logits']}")
def test_logits_give_the_decision(fake_bundle, vector):
    folder = fake_bundle(
        labels=tuple(vector["labels"]),
        temperature=vector["temperature"],
        abstain_below=vector["abstain_below"],
        strict_below=vector["strict_below"],
        scaling=vector["scaling"] and Scaling(**vector["scaling"]),
        familiarity=None if vector["not_a_logo_below"] is None else Familiarity(vector["not_a_logo_below"], 0.05),
    )
    classifier, blank = Classifier.load(folder, mode=vector["mode"]), np.array([vector["blank"]])
    (decision,) = classifier.decide(np.array([vector["logits"]], np.float32), blank=blank)
    assert (decision.label, decision.best_guess, decision.reason, decision.is_logo) == (
        vector["label"],
        vector["best_guess"],
        vector["reason"],
        vector["is_logo"],
    )
    assert decision.confidence == pytest.approx(vector["confidence"], abs=1e-6)
    assert (decision.aleatoric, decision.logo_score) == pytest.approx(
        (vector["entropy"], vector["logo_score"]), abs=1e-6
    )
    assert decision.high_confidence == vector["high_confidence"]
    assert decision.low_confidence == vector["low_confidence"]


def test_the_decision_vectors_lie_on_every_side_of_their_thresholds():
    sides = Counter(vector["side"] for vector in DECISIONS)
    assert Counter(vector["mode"] for vector in DECISIONS).keys() == set(Mode)
    assert Counter(vector["scaling"] and vector["scaling"]["method"] for vector in DECISIONS).keys() == {
        None,
        "vector",
        "dirichlet",
    }
    assert any(
        vector["labels"][int(np.argmax(vector["logits"]))] != vector["best_guess"]
        for vector in DECISIONS
        if vector["scaling"]
    )
    assert min(sides["below"], sides["at"], sides["above"]) >= 6
    blank = [vector for vector in DECISIONS if vector["blank"]]
    assert Counter((vector["mode"], vector["reason"]) for vector in blank) == {
        ("best-guess", None): 8,
        ("balanced", "blank"): 8,
        ("strict", "blank"): 8,
    }
    bounded = [vector for vector in DECISIONS if vector["not_a_logo_below"] is not None and not vector["blank"]]
    assert Counter((vector["mode"], vector["is_logo"], vector["reason"]) for vector in bounded) == {
        ("best-guess", True, None): 7,
        ("balanced", True, None): 16,
        ("strict", True, None): 7,
        ("best-guess", False, None): 7,
        ("balanced", False, "not_a_logo"): 14,
        ("strict", False, "not_a_logo"): 7,
        ("balanced", True, "low_confidence"): 7,
    }
    for vector in DECISIONS:
        unfit = vector["mode"] != Mode.BEST_GUESS and (vector["blank"] or not vector["is_logo"])
        unsure = vector["side"] == "below" and not vector["blank"]
        assert (vector["label"] is None) == (unfit or unsure)
    assert all((vector["label"] is None) == (vector["reason"] is not None) for vector in DECISIONS)
    assert {len(vector["labels"]) for vector in DECISIONS} >= {2, 3, 4, 7}


def test_the_committed_decisions_are_those_of_the_independent_calculation():
    calculated = runpy.run_path(str(HERE / "make_vectors.py"))["decision_vectors"]()
    close = [
        vector | {name: pytest.approx(vector[name], abs=1e-12) for name in ("confidence", "logo_score", "entropy")}
        for vector in calculated
    ]
    assert close == DECISIONS


@pytest.mark.parametrize("vector", MULTI_LABEL, ids=lambda vector: f"{vector['side']}-{vector['logits']}")
def test_logits_of_labels_that_do_not_exclude_each_other_give_all_labels_above_their_thresholds(fake_bundle, vector):
    folder = fake_bundle(
        labels=tuple(vector["labels"]),
        temperature=vector["temperature"],
        abstain_below=vector["abstain_below"],
        strict_below=vector["strict_below"],
        scaling=vector["scaling"] and Scaling(**vector["scaling"]),
        familiarity=None if vector["not_a_logo_below"] is None else Familiarity(vector["not_a_logo_below"], 0.05),
        label_thresholds={Mode(mode): table for mode, table in vector["label_thresholds"].items()},
    )
    classifier = Classifier.load(folder, mode=vector["mode"], threshold=vector["threshold"])
    logits, blank = np.array([vector["logits"]], np.float32), np.array([vector["blank"]])
    (decision,) = classifier.decide(logits, blank=blank)
    assert decision.labels == tuple(vector["given"])
    assert (decision.label, decision.best_guess, decision.reason) == (
        vector["label"],
        vector["best_guess"],
        vector["reason"],
    )
    assert (decision.is_logo, decision.high_confidence, decision.low_confidence) == (
        vector["is_logo"],
        vector["high_confidence"],
        vector["low_confidence"],
    )
    assert list(decision.probabilities.values()) == pytest.approx(vector["probabilities"], abs=1e-6)
    assert (decision.aleatoric, decision.logo_score) == pytest.approx(
        (vector["entropy"], vector["logo_score"]), abs=1e-6
    )
    assert decision.confidence == pytest.approx(vector["confidence"], abs=1e-6)
    if vector["threshold"] is None:
        given = given_labels(
            classifier.bundle.calibration, classifier.mode, classifier.calibrated(logits), logo_score(logits)
        )
        unless_blank = set(vector["given"]) if not vector["blank"] or vector["mode"] == Mode.BEST_GUESS else None
        assert unless_blank in (
            None,
            {label for label, is_given in zip(vector["labels"], given[0], strict=True) if is_given},
        )


def test_the_multi_label_vectors_hold_none_one_several_and_all_labels_in_every_mode():
    counts = {(vector["mode"], min(len(vector["given"]), 2)) for vector in MULTI_LABEL}
    assert counts == {(mode, count) for mode in Mode for count in (0, 1, 2)}
    assert any(len(vector["given"]) == len(vector["labels"]) == 7 for vector in MULTI_LABEL)
    assert {vector["reason"] for vector in MULTI_LABEL} == {None, "blank", "not_a_logo", "no_label"}
    assert any(vector["given"] and vector["label"] != vector["best_guess"] for vector in MULTI_LABEL)
    calculated = runpy.run_path(str(HERE / "make_vectors.py"))["multi_label_vectors"]()
    assert json.loads(json.dumps(calculated)) == MULTI_LABEL


@pytest.mark.parametrize("vector", MEMBERS, ids=lambda vector: str(vector["weights"]))
def test_members_are_pooled_to_one_prediction(vector):
    logits, weights = np.array(vector["members"], np.float32)[:, None], np.array(vector["weights"])
    pooled = pool_logits(logits, weights)
    assert pooled[0] == pytest.approx(vector["logits"], abs=1e-5)
    assert softmax(pooled)[0] == pytest.approx(vector["probabilities"], abs=1e-6)
    assert mutual_information(logits, weights)[0] == pytest.approx(vector["epistemic"], abs=1e-6)


def test_multi_label_members_are_pooled_label_by_label():
    logits, weights = np.array([[[2.0, -1.0]], [[-2.0, -1.0]]], np.float32), np.array([0.5, 0.5])  # (M, B, K)
    assert sigmoid(pool_logits(logits, weights, multi_label=True))[0] == pytest.approx([0.5, sigmoid(logits[0, 0])[1]])
    likely = float(sigmoid(logits)[0, 0, 0])
    disagreement = np.log(2) + likely * np.log(likely) + (1 - likely) * np.log(1 - likely)
    assert mutual_information(logits, weights, multi_label=True)[0] == pytest.approx(disagreement, abs=1e-6)


def test_the_committed_member_vectors_are_those_of_the_independent_calculation():
    calculated = runpy.run_path(str(HERE / "make_vectors.py"))["member_vectors"]()
    assert json.loads(json.dumps(calculated)) == MEMBERS
    epistemic = [vector["epistemic"] for vector in MEMBERS]
    assert epistemic[0] == 0, "members that agree"
    assert epistemic[1] > 0.68, "members that contradict each other: nearly log 2"


@pytest.mark.parametrize("bundle", [None, HERE.parents[1] / "runtime" / "bundles" / "robust"])
def test_a_committed_bundle_gives_its_golden_vectors_from_end_to_end(bundle):
    assert Classifier.load(bundle).run_vectors() >= 8


@pytest.mark.parametrize("vector", JPEGS, ids=str)
def test_a_jpeg_is_read_within_its_limits_and_refused_beyond(vector):
    data = jpeg_of_vector(vector)
    if vector["size"]:
        assert load_image(data, fast=False).size == tuple(vector["size"])
    else:
        with pytest.raises(ImageError, match=r"scans of|Scale it down"):
            load_image(data, fast=False)
