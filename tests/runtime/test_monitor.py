"""The prediction log holds decisions and no image; `logo-edge monitor` detects drift beyond chance."""

from __future__ import annotations

import json
import logging
import resource
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from pictures import marked
from PIL import Image
from typer.testing import CliRunner

from logo_edge import Classifier
from logo_edge.bundle.record import read_bundle, write_bundle_record
from logo_edge.cli.bundle import monitor
from logo_edge.cli.classify_typer import classify
from logo_edge.errors import BundleError, LogoEdgeError
from logo_edge.monitor import (
    DRIFTED,
    LEAST,
    PredictionLog,
    index_by_chance,
    measure_drift,
    population_stability,
    read_log,
    reference_of,
)

LABELS = ("red", "green", "blue")


def predictions(count: int, seed: int, *, power: float = 4.0, shares=(0.5, 0.3, 0.2), threshold: float = 0.5):
    """Predictions as `read_log` gives them: a higher power lowers the confidence."""
    random = np.random.default_rng(seed)
    confidence = 1 - random.random(count) ** 4 * power / 8
    guesses = random.choice(len(LABELS), count, p=shares)
    logged = [
        {"best_guess": LABELS[g], "confidence": float(c), "abstained": bool(c < threshold)}
        for g, c in zip(guesses, confidence, strict=True)
    ]
    return logged, confidence, guesses


@pytest.fixture
def reference():
    _, confidence, guesses = predictions(400, seed=0)
    return reference_of(confidence, guesses, LABELS, confidence >= 0.5)


def verdicts(reference, logged):
    return {drift.name: drift.verdict for drift in measure_drift(reference, logged)}


def test_predictions_of_the_same_kind_are_stable_almost_always_whatever_their_number(reference):
    alarms = [
        set(verdicts(reference, predictions(count, seed)[0]).values()) != {"stable"}
        for count in (LEAST, 300, 3000)
        for seed in range(1, 41)
    ]
    assert len(alarms) == 120
    assert sum(alarms) <= 6  # three quantities, one chance in a hundred each


def test_each_quantity_that_has_changed_is_named(reference):
    other_classes = predictions(500, seed=1, shares=(0.1, 0.2, 0.7))[0]
    assert verdicts(reference, other_classes) == {
        "confidence": "stable",
        "best_guess": "drifted",
        "abstention": "stable",
    }
    less_sure = predictions(500, seed=1, power=8.0, threshold=0.5)[0]
    verdict_of = verdicts(reference, less_sure)
    assert verdict_of["best_guess"] == "stable"
    assert verdict_of["confidence"] != "stable"


def test_the_index_is_nought_on_equal_shares_symmetric_and_finite_on_empty_bins():
    one, other = {"a": 0.2, "b": 0.8}, {"a": 0.5, "b": 0.5}
    assert population_stability(one, one) == 0
    assert population_stability(one, other) == pytest.approx(population_stability(other, one))
    assert population_stability(one, other) == pytest.approx(0.3 * np.log(2.5) + 0.3 * np.log(1.6))
    assert DRIFTED < population_stability(one, {"a": 1.0, "b": 0.0}) < np.inf


def test_what_chance_does_to_the_index_is_what_resampling_shows():
    random, shares = np.random.default_rng(0), np.full(8, 1 / 8)
    drawn = [
        population_stability(*(dict(enumerate(random.multinomial(n, shares) / n)) for n in (300, 200)))
        for _ in range(4000)
    ]
    assert index_by_chance(8, 300, 200) == pytest.approx(np.quantile(drawn, 0.99), rel=0.12)


def test_too_few_predictions_say_nothing(reference):
    with pytest.raises(LogoEdgeError, match=f"{LEAST - 1} predictions of this bundle; at least {LEAST}"):
        measure_drift(reference, predictions(LEAST - 1, seed=1)[0])


def test_a_log_of_other_labels_and_a_bundle_without_reference_are_refused(reference):
    logged = predictions(LEAST, seed=1)[0]
    with pytest.raises(BundleError, match="labels zebra"):
        measure_drift(reference, [*logged, {**logged[0], "best_guess": "zebra"}])
    with pytest.raises(BundleError, match="no reference"):
        measure_drift({}, logged)


def broken(reference: dict) -> Iterator[dict]:
    """The reference with each of its parts left out, emptied, or of other values."""
    for name in reference:
        yield {other: value for other, value in reference.items() if other != name}
        for value in (None, [], {}, "x", -1, {"odd": 0.5}, [1.0, "x"]):
            if value != reference[name]:
                yield reference | {name: value}
    yield reference | {"count": 0}
    yield reference | {"best_guess": dict.fromkeys(reference["best_guess"], float("nan"))}
    yield reference | {"abstention": {"answered": 2.0, "abstained": 0.0}}


def test_a_reference_that_is_not_such_as_is_packed_is_refused_with_what_to_do():
    random = np.random.default_rng(0)
    confidence, guesses = random.uniform(0.4, 1, 300), random.integers(0, 2, 300)
    reference = reference_of(confidence, guesses, ("a", "b"), confidence >= 0.5)
    logged = [{"best_guess": "a", "confidence": float(value), "abstained": False} for value in confidence]
    assert len(measure_drift(reference, logged)) == 3
    cases = list(broken(reference))
    assert len(cases) > 30
    for case in cases:
        with pytest.raises(BundleError, match="pack it again|Pack it again|another's log"):
            measure_drift(case, logged)


@pytest.fixture
def monitored(fake_bundle, tmp_path):
    """A bundle whose reference is of 200 noisy images, and a folder of 200 others."""
    folder = fake_bundle()
    random = np.random.default_rng(0)
    for index in range(2 * LEAST):
        marked(tuple(random.integers(0, 256, 3).tolist()), (16, 16)).save(tmp_path / f"{index:03d}.png")
    classifier = Classifier.load(folder)
    results = list(classifier.classify_many(sorted(tmp_path.glob("*.png"))[:LEAST]))
    guesses = np.array([classifier.labels.index(result.best_guess) for result in results])
    confidence = np.array([result.confidence for result in results])
    record = read_bundle(folder)
    answered = np.array([result.label is not None for result in results])
    content = reference_of(confidence, guesses, record.labels, answered)
    write_bundle_record(type(record)(**{**vars(record), "reference": content}))
    return folder, sorted(tmp_path.glob("*.png"))[LEAST:]


def test_the_command_line_logs_decisions_and_nothing_of_the_image_and_judges_them(monitored, tmp_path):
    folder, paths = monitored
    log = tmp_path / "log.jsonl"
    options = ["--bundle", str(folder), "--log", str(log), "--jsonl"]
    assert CliRunner().invoke(classify, [*map(str, paths), *options]).exit_code == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == len(paths)
    assert all(set(line) == {"time", "bundle", "label", "best_guess", "confidence"} for line in lines)
    stable = CliRunner().invoke(monitor, [str(log), "--bundle", str(folder)])
    assert stable.exit_code == 0, stable.output
    assert "drifted" not in stable.output
    marked((20, 20, 200), (16, 16)).save(tmp_path / "blue.png")
    assert CliRunner().invoke(classify, [*[str(tmp_path / "blue.png")] * LEAST, *options]).exit_code == 0
    drifted = CliRunner().invoke(monitor, [str(log), "--bundle", str(folder), "--last", str(LEAST), "--json"])
    assert drifted.exit_code == 1, drifted.output
    verdict_of = {quantity["name"]: quantity["verdict"] for quantity in json.loads(drifted.stdout)["drift"]}
    assert verdict_of["best_guess"] == "drifted"


def test_nothing_is_logged_unless_asked_for_and_a_classifier_appends(fake_bundle, tmp_path):
    folder, log = fake_bundle(), tmp_path / "log.jsonl"
    image = marked((200, 10, 10))
    Classifier.load(folder, self_test=True).classify(image)
    assert not log.exists()
    for _ in range(2):
        classifier = Classifier.load(folder, log=log, self_test=True)  # the golden vectors are no predictions
        classifier.classify(image)
        assert len(list(classifier.classify_many([image, b"no image"]))) == 2
    logged = list(read_log(log, "fake"))
    assert [line["best_guess"] for line in logged] == ["red"] * 4
    assert list(read_log(log, "another")) == []


def test_a_line_that_is_no_prediction_is_named(fake_bundle, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"best_guess": "red", "confidence": 0.9, "label": null, "bundle": "a"}\n{"best_guess": "red"}\n')
    with pytest.raises(LogoEdgeError, match=r"log.jsonl, line 2: KeyError\('confidence'\)"):
        list(read_log(log))
    log.write_text("[" * 100_000)
    with pytest.raises(LogoEdgeError, match="log.jsonl, line 1: RecursionError"):
        list(read_log(log))
    with pytest.raises(LogoEdgeError, match="expected a log"):
        list(read_log(tmp_path / "missing.jsonl"))
    with pytest.raises(LogoEdgeError, match="expected a file that can be written"):
        Classifier.load(fake_bundle(), log=tmp_path / "missing" / "log.jsonl")


def test_a_log_on_a_full_disk_fails_no_answer_is_warned_of_once_and_counted(fake_bundle, caplog):
    classifier = Classifier.load(fake_bundle(), log="/dev/full")
    image = marked((200, 10, 10))
    assert [classifier.classify(image).label for _ in range(3)] == ["red"] * 3
    (message,) = [text for text in map(logging.LogRecord.getMessage, caplog.records) if "/dev/full" in text]
    assert "/dev/full: No space left on device" in message


def test_a_line_that_fits_only_in_part_is_not_written_and_logging_goes_on_when_there_is_room(fake_bundle, tmp_path):
    log = tmp_path / "log.jsonl"
    predictions, result = PredictionLog(log, "fake"), Classifier.load(fake_bundle()).classify(marked("black", (9, 9)))
    predictions.append(result)
    size, limits = log.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        predictions.append(result)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (log.stat().st_size, predictions.failures) == (size, 1)
    predictions.append(result)
    assert len(list(read_log(log, "fake"))) == 2


def test_a_line_is_strict_json_whatever_the_model_computes(fake_bundle, tmp_path):
    log = tmp_path / "log.jsonl"
    result = Classifier.load(fake_bundle()).classify(Image.new("RGB", (9, 9), (255, 0, 0)))
    PredictionLog(log, "fake").append(replace(result, confidence=float("nan")))
    assert json.loads(log.read_text(), parse_constant=lambda name: pytest.fail(name))["confidence"] is None
    assert [line["confidence"] for line in read_log(log)] == [0.0]
