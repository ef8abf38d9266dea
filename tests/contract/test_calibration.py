"""The committed bundles keep their promises on the test split; all was fitted on calib, and no choice used test.

The artifact's own logits are committed beside the figures, so that this needs neither the pictures nor the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from logo_edge import Mode, read_bundle
from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.decision import calibrated_logits, given_labels, logo_score
from logo_edge.probabilities import softmax
from logo_edge_compress.calibrate import fit_calibration, fit_familiarity
from logo_edge_report.statistics import coverage_interval
from logo_edge_train.data.manifest import read_manifest, targets_of
from logo_edge_train.promises import LEVELS
from logo_edge_train.recipe import CalibrateConfig

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """A committed bundle, the size of its splits, and what its calib split is too small to show."""

    name: str
    folder: Path
    last_round: int  # of labelling
    counts: dict[str, int]
    unpromised: frozenset[Mode]  # two careful annotators disagree on 3 %
    refused: str  # sets by class at the level 0.99


CASES = (
    Case(
        "default",
        DEFAULT_BUNDLE,
        2,
        {"calib": 696, "test": 1246},
        frozenset(),
        "complex: 71 images of calib, 99 needed",
    ),
    Case(
        "robust",
        ROOT / "runtime" / "bundles" / "robust",
        1,
        {"calib": 345, "test": 531},
        frozenset({Mode.STRICT}),
        "complex: 48 logos of calib, 99 needed, gradient: 39 logos of calib, 99 needed",
    ),
)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def measured(case):
    """A bundle with its (N, K) logits and (N,) targets by split; those of another artifact prove nothing."""
    bundle = read_bundle(case.folder)
    record = json.loads((ROOT / "benchmarks" / "results" / f"{case.name}_calibration.json").read_text())
    (hashes,) = record["provenance"]["bundles"].values()
    assert hashes["model_sha256"] == bundle.model_sha256, "run python -m logo_edge_bench.experiments calibration"
    manifest = read_manifest(ROOT / "train" / "logo_edge_train" / "data" / "labels.csv")
    targets = {
        split: targets_of([row for row in manifest.split(split) if row.round <= case.last_round], bundle.labels)
        for split in ("calib", "test")
    }
    logits = {
        split: np.array([list(map(float, row.split())) for row in rows], np.float32)
        for split, rows in record["logits"].items()
    }
    assert {split: len(part) for split, part in logits.items()} == case.counts
    assert {split: len(part) for split, part in targets.items()} == case.counts
    return bundle, logits, targets


def test_the_packed_familiarity_is_the_one_that_the_calib_logits_give(measured):
    bundle, logits, targets = measured
    assert len(logits["calib"]) == len(targets["calib"])
    familiarity = fit_familiarity(logits["calib"], bundle.calibration.familiarity.false_positive_rate)
    assert familiarity.threshold == pytest.approx(bundle.calibration.familiarity.threshold, abs=1e-4)


@pytest.fixture(scope="module")
def fresh(case, measured):
    """The bundle with the calibration that this release fits to its calib logits."""
    bundle, logits, targets = measured
    config = CalibrateConfig(**bundle.provenance.get("calibrate", {}))
    fitted = fit_calibration(logits["calib"], targets["calib"], bundle.labels, config)
    assert set(fitted.unpromised) == case.unpromised
    return replace(bundle, calibration=fitted.calibration), logits, targets


# An earlier release calibrated `robust` by other rules.
@pytest.mark.parametrize("case", CASES[:1], indirect=True, ids=lambda case: case.name)
def test_the_packed_calibration_is_the_one_that_the_calib_logits_give(case, fresh):
    packed, fitted = read_bundle(case.folder).calibration, fresh[0].calibration
    assert fitted.temperature == pytest.approx(packed.temperature, abs=1e-4)
    assert fitted.abstain_below == pytest.approx(packed.abstain_below, abs=1e-4)
    assert (fitted.scaling is None) == (packed.scaling is None)
    if packed.scaling:
        assert fitted.scaling.method == packed.scaling.method
        assert np.allclose(fitted.scaling.weight, packed.scaling.weight, atol=1e-4)
    assert [sets.level for sets in packed.conformal] == list(LEVELS)
    for fitted_sets, packed_sets in zip(fitted.conformal, packed.conformal, strict=True):
        assert (fitted_sets.level, fitted_sets.refused) == (
            packed_sets.level,
            packed_sets.refused.replace(" logos of ", " images of "),  # the word of bundles packed before
        )
        assert fitted_sets.threshold == pytest.approx(packed_sets.threshold, abs=1e-4)
        assert (fitted_sets.by_class or {}) == pytest.approx(packed_sets.by_class or {}, abs=1e-4)


def test_the_risk_that_calib_promises_is_kept_on_test(fresh):
    bundle, logits, targets = fresh
    calibration = bundle.calibration
    probabilities = softmax(calibrated_logits(logits["test"], calibration.temperature, calibration.scaling))
    for mode, risk in ((Mode.BALANCED, 0.05), (Mode.STRICT, 0.03)):
        answered = given_labels(calibration, mode, probabilities, logo_score(logits["test"])).any(1)
        assert answered.sum() > 100
        assert (probabilities.argmax(1) != targets["test"])[answered].mean() <= risk


@pytest.mark.parametrize("level", LEVELS)
def test_cross_fitted_prediction_sets_cover_test_within_what_both_sizes_imply(fresh, level):
    check_coverage(*fresh, level)


@pytest.mark.parametrize("level", LEVELS[:3])
def test_cross_fitted_prediction_sets_by_class_cover_each_class_of_test(fresh, level):
    check_coverage_by_class(*fresh, level)


@pytest.mark.parametrize("level", LEVELS)
def test_prediction_sets_cover_test_within_what_both_sizes_imply(measured, level):
    check_coverage(*measured, level)


def check_coverage(bundle, logits, targets, level: float) -> None:
    (conformal,) = (conformal for conformal in bundle.calibration.conformal if conformal.level == level)
    hits = own_probabilities(bundle, logits["test"], targets["test"]) >= conformal.threshold
    low, high = coverage_interval(len(targets["calib"]), len(targets["test"]), level)
    assert low < level < high
    assert low <= hits.mean() <= high


@pytest.mark.parametrize("level", LEVELS[:3])
def test_prediction_sets_by_class_cover_each_class_of_test(measured, level):
    check_coverage_by_class(*measured, level)


def check_coverage_by_class(bundle, logits, targets, level: float) -> None:
    (conformal,) = (conformal for conformal in bundle.calibration.conformal if conformal.level == level)
    own = own_probabilities(bundle, logits["test"], targets["test"])
    assert len(conformal.by_class) == len(bundle.labels) == 4
    for k, label in enumerate(bundle.labels):
        calib, test = (targets[split] == k for split in ("calib", "test"))
        share = 0.05 / len(bundle.labels)  # of misses by chance, over all classes (Bonferroni)
        low, _ = coverage_interval(int(calib.sum()), int(test.sum()), level, 1 - share)
        assert low <= (own[test] >= conformal.by_class[label]).mean(), label  # `simple` of test is easier than of calib


def test_the_level_that_a_class_is_too_small_for_is_refused(case, measured):
    refused = {conformal.level: conformal.refused for conformal in measured[0].calibration.conformal}
    assert refused == {0.8: "", 0.9: "", 0.95: "", 0.99: case.refused}


def test_no_more_logos_of_test_are_unfamiliar_than_the_rate_and_both_sizes_allow(measured):
    bundle, logits, targets = measured
    familiarity = bundle.calibration.familiarity
    low, high = coverage_interval(len(targets["calib"]), len(targets["test"]), 1 - familiarity.false_positive_rate)
    assert low <= (logo_score(logits["test"]) >= familiarity.threshold).mean() <= high


def own_probabilities(bundle, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N,) calibrated probability of each logo's own label."""
    calibration = bundle.calibration
    probabilities = softmax(calibrated_logits(logits, calibration.temperature, calibration.scaling))
    return probabilities[np.arange(len(targets)), targets]
