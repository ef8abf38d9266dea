"""`logo-edge data suspects`, `next` and `apply`: suspect labels, chosen images, merged corrections."""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from pictures import write_squares
from PIL import Image
from system.browser.page import CHROMIUM_RUNS, HEADING, SCREENS, find_barriers
from typer.testing import CliRunner

from logo_edge.errors import DatasetError
from logo_edge_train.commands import data
from logo_edge_train.data import pool as pool_module
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, targets_of, write_manifest
from logo_edge_train.recipe import ReviewConfig
from logo_edge_train.review import frozen_features
from logo_edge_train.review import panel as folds
from logo_edge_train.review.confident import choose_diverse, find_label_errors
from logo_edge_train.review.corrections import COLUMNS, apply_corrections
from logo_edge_train.review.panel import divide_groups
from logo_edge_train.review.ranking import labelling_pool, list_next, list_suspects
from logo_edge_train.review.session import Session
from logo_edge_train.review.sheet import assign_keys

CONFIG = ReviewConfig(
    networks=("test_efficientnet@32",), measures=("curves",), classifiers=("logistic",), folds=3, divisions=2
)
FLIPPED, HELD_OUT = "red-train-3.png", "blue-calib-2.png"


@pytest.fixture
def squares(tmp_path) -> Path:
    """A manifest of red and blue squares, of which one of train and one of calib have the wrong label."""
    path = write_squares(tmp_path)
    wrong = {FLIPPED: "blue", HELD_OUT: "red"}
    rows = [
        replace(row, label=wrong.get(row.icon, row.label), votes=(wrong.get(row.icon, row.label),))
        for row in read_manifest(path).rows
    ]
    write_manifest(path, rows)
    return path


def suspects_of(manifest: Path, folder: Path, *, config=CONFIG, tick=lambda *report: None) -> dict:
    return list_suspects(manifest, config, folder, count=500, device=torch.device("cpu"), tick=tick)


def read_csv(path) -> list[dict]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_corrections(path: Path, *lines: dict) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({"package": FILES, "version": "", **line} for line in lines)
    return path


# Confident learning


def test_a_label_is_suspect_where_another_class_reaches_what_its_rows_usually_reach():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.45, 0.55]])
    errors = find_label_errors(probabilities, np.array([0, 0, 0, 1, 1, 0]))
    # thresholds: 0.5625 of class 0, 0.75 of class 1: row 5 reaches neither, row 2 that of class 1
    assert errors.suspects.tolist() == [2]
    assert errors.margins == pytest.approx([-0.8, -0.6, 0.8, -0.6, -0.4, 0.1])
    assert errors.joint == pytest.approx(np.array([[4 * 2 / 3, 4 / 3], [0, 2]]))


def test_flipped_labels_are_found_among_noisy_probabilities_of_unequal_classes():
    random = np.random.default_rng(0)
    truth = random.choice(4, 2000, p=(0.6, 0.2, 0.15, 0.05))
    logits = 2 * np.eye(4)[truth] + random.normal(0, 0.6, (2000, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    flipped = random.choice(2000, 60, replace=False)
    labels = truth.copy()
    labels[flipped] = (truth[flipped] + random.integers(1, 4, 60)) % 4
    errors = find_label_errors(probabilities, labels)
    assert errors.joint.sum() == pytest.approx(2000)
    assert len(set(errors.suspects) & set(flipped)) >= 55
    assert set(errors.suspects[:40]) <= set(flipped.tolist()), "the worst are those"


def test_the_chosen_are_worth_most_and_unlike_each_other():
    features = np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    assert choose_diverse(np.array([1.0, 0.99, 0.5, 0.4]), features, 3).tolist() == [0, 2, 3]
    assert sorted(choose_diverse(np.array([1.0, 0.99, 0.5, 0.4]), features, 9).tolist()) == [0, 1, 2, 3]


# Folds


@pytest.mark.parametrize("division", range(4))
def test_no_group_is_divided_and_every_class_is_learned_in_every_fold(division):
    random = np.random.default_rng(division)
    labels = ["a"] * 60 + ["b"] * 30 + ["c", "c"]
    rows = [
        LogoRow(FILES, "", f"{at}", f"{name}{random.integers(9) if name != 'c' else at}", name)
        for at, name in enumerate(labels)
    ]
    classes = ("a", "b", "c")
    targets = targets_of(rows, classes)
    fold_of = divide_groups(rows, targets, classes, replace(CONFIG, folds=5), division)
    folds_of_group = defaultdict(set)
    for row, fold in zip(rows, fold_of, strict=True):
        folds_of_group[row.group].add(int(fold))
    assert [group for group, numbers in folds_of_group.items() if len(numbers) > 1] == []
    assert set(fold_of) == {0, 1, 2, 3, 4}
    assert all(set(targets[fold_of != fold]) == {0, 1, 2} for fold in range(5))


@pytest.mark.parametrize(
    ("labels", "refusal"),
    [
        (("a", "a", "a", "b", "b"), "class b has images of one group only"),
        (("a", "a", "a", "a", "a"), "have one class, a; expected at least two"),
        (("", "", "", "", ""), "have no class; expected at least two"),
    ],
)
def test_classes_that_cannot_be_judged_are_refused_by_name(tmp_path, labels, refusal):
    groups = ("1", "2", "3", "4", "4")
    rows = [LogoRow(FILES, "", f"{at}.png", groups[at], label) for at, label in enumerate(labels)]
    write_manifest(tmp_path / "manifest.csv", rows)
    for row in rows:
        Image.new("RGB", (8, 8), "red").save(tmp_path / row.icon)
    with pytest.raises(DatasetError, match=refusal):
        suspects_of(tmp_path / "manifest.csv", tmp_path / "out")


@pytest.mark.parametrize("classifier", get_args(get_type_hints(ReviewConfig)["classifiers"].__args__[0]))
def test_each_classifier_learns_from_soft_labels(classifier):
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 300)
    features = (3 * np.eye(8)[truth] + random.normal(0, 1, (300, 8))).astype(np.float32)
    soft = 0.8 * np.eye(3)[truth] + 0.2 / 3
    model = folds.fit_classifier(classifier, features[:200], soft[:200], 1.0, 0)
    probabilities = model.predict_proba(features[200:])
    assert (probabilities.argmax(1) == truth[200:]).mean() > 0.9
    assert 0.6 < probabilities.max(1).mean() < 0.95, "as unsure as the votes"


def test_the_panel_speaks_of_all_rows_and_has_learned_from_no_group_that_it_judges(pool, tmp_path, monkeypatch):
    manifest, learned = read_manifest(pool), []
    monkeypatch.setattr(
        folds, "fit_classifier", lambda kind, features, soft, *rest: learned.append(soft) or Oracle(features, soft)
    )
    features = frozen_features.Features(manifest, CONFIG, tmp_path / "out", torch.device("cpu"), lambda *report: None)
    relative = replace(manifest.rows[0], icon="copy.png", label="", split="train")  # of a labelled group
    rows = [*manifest.split("test"), relative, *manifest.split("train", "val")[::-1]]
    monkeypatch.setattr(
        frozen_features.Features, "read", lambda self, names, rows: np.array([[ident(row.group)] for row in rows])
    )
    probabilities = folds.panel_probabilities(features, rows)
    assert probabilities.shape == (len(rows), 2)
    assert len(learned) == 6
    assert (probabilities == 0.5).all(), "an oracle that knows every group that it has learned knew none"


def ident(group: str) -> int:
    return int.from_bytes(group.encode()[-6:], "big") + len(group)


class Oracle:
    """Is sure of rows that it has learned from, and of no other."""

    classes_ = np.array([0, 1])

    def __init__(self, features, soft):
        self.known = set(features[:, 0])

    def predict_proba(self, features):
        return np.array([[1.0, 0.0] if value in self.known else [0.5, 0.5] for value in features[:, 0]])


# Suspects


def test_a_flipped_label_is_ranked_first_and_none_of_calib_is_listed(squares, tmp_path):
    record = suspects_of(squares, tmp_path / "out")
    assert record["rows"][0]["icon"] == FLIPPED
    assert record["rows"][0] | {"label": "blue", "suggested": "red", "split": "train", "rank": 1} == record["rows"][0]
    assert (record["reviewed"], record["held_out"]) == (32, 16)
    assert {row["split"] for row in record["rows"]} <= {"train", "val"}
    assert record["estimated_errors"]["blue"]["red"] >= 1
    listed = read_csv(record["csv"])
    assert [row["icon"] for row in listed] == [row["icon"] for row in record["rows"]]
    assert float(listed[0]["p_red"]) + float(listed[0]["p_blue"]) == pytest.approx(1, abs=1e-3)
    assert listed[0]["corrected"] == ""
    judged = read_csv(tmp_path / "out" / "judged.csv")
    assert (len(judged), judged[0]["icon"]) == (32, FLIPPED)
    assert [float(row["margin"]) for row in judged] == sorted((float(row["margin"]) for row in judged), reverse=True)
    session = Session(squares, tmp_path / "corrections.csv", tmp_path / "out" / "judged.csv")
    assert [row.icon for row in session.rows] == [row["icon"] for row in judged]


def test_an_interrupted_review_goes_on_where_it_was(squares, tmp_path, monkeypatch):
    fitted, seen = [], []
    fit_classifier, features_of = folds.fit_classifier, frozen_features.features_of
    monkeypatch.setattr(frozen_features, "BLOCK", 10)
    monkeypatch.setattr(folds, "fit_classifier", lambda *given: fitted.append(1) or fit_classifier(*given))
    monkeypatch.setattr(
        frozen_features, "features_of", lambda *given: seen.append(len(given[1])) or features_of(*given)
    )
    whole = suspects_of(squares, tmp_path / "whole")
    assert (len(fitted), seen) == (6, [10, 10, 10, 2])
    for stop in (("features: test_efficientnet@32", 20, 32), ("out-of-fold fits", 4, 6)):

        def interrupt(*report, stop=stop):
            if report == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            suspects_of(squares, tmp_path / "out", tick=interrupt)
    again = suspects_of(squares, tmp_path / "out")
    assert (len(fitted), seen) == (12, [10, 10, 10, 2] * 2), "nothing was computed twice"
    assert again["rows"] == whole["rows"]


def test_a_corrected_label_costs_new_fits_and_no_features(squares, tmp_path, monkeypatch):
    before = suspects_of(squares, tmp_path / "out")
    write_corrections(tmp_path / "c.csv", {"icon": FLIPPED, "label": "blue", "corrected": "red"})
    apply_corrections(tmp_path / "c.csv", squares)
    monkeypatch.setattr(frozen_features, "features_of", None)
    after = suspects_of(squares, tmp_path / "out")
    assert FLIPPED in [row["icon"] for row in before["rows"]]
    assert FLIPPED not in [row["icon"] for row in after["rows"]]


def test_a_changed_image_gets_new_features(squares, tmp_path):
    assert suspects_of(squares, tmp_path / "out")["rows"][0]["icon"] == FLIPPED
    shutil.copy(tmp_path / "blue-train-3.png", tmp_path / FLIPPED)
    assert FLIPPED not in [row["icon"] for row in suspects_of(squares, tmp_path / "out")["rows"]]


# Next


@pytest.fixture
def pool(squares, tmp_path) -> Path:
    """The squares with images that have no label: a red, a blue and two purple ones, and copies of held-out ones."""
    rows = list(read_manifest(squares).rows)
    shades = np.random.default_rng(5)
    for name, colour in {"r": (220, 30, 30), "b": (30, 30, 220), "p1": (125, 30, 125), "p2": (125, 30, 125)}.items():
        shade = np.kron(shades.choice([0.1, 1.0], (5, 5, 1)), np.ones((8, 8, 1)))
        Image.fromarray((np.array(colour) * shade).astype(np.uint8)).save(tmp_path / f"{name}.png")
        rows.append(LogoRow(FILES, "", f"{name}.png", name))
    shutil.copy(tmp_path / HELD_OUT, tmp_path / "copy.png")
    rows.append(LogoRow(FILES, "", "copy.png", "copy"))
    rows.append(LogoRow(FILES, "", "kin.png", HELD_OUT))
    rows.append(LogoRow(FILES, "", "test.png", "alone", split="test"))
    write_manifest(squares, rows)
    return squares


def test_what_is_between_the_classes_is_worth_a_label_first(pool, tmp_path):
    record = list_next(pool, CONFIG, tmp_path / "out", count=3, device=torch.device("cpu"), tick=lambda *report: None)
    assert len(record["rows"]) == 3
    assert record["rows"][0]["icon"] in ("p1.png", "p2.png")
    assert (record["pool"], record["left_out"]) == (4, 3)
    assert {row["label"] for row in read_csv(record["csv"])} == {""}


def test_nothing_that_may_not_become_a_row_of_train_is_chosen(pool):
    chosen, left_out = labelling_pool(read_manifest(pool))
    assert [row.icon for row in chosen] == ["r.png", "b.png", "p1.png", "p2.png"]
    assert left_out == 3, "a look-alike of calib, one of a group of calib, one of test"


def test_a_manifest_where_all_is_labelled_has_no_next(squares, tmp_path):
    with pytest.raises(DatasetError, match="no image without a label that could be one of train"):
        list_next(squares, CONFIG, tmp_path / "out", count=3, device=torch.device("cpu"), tick=lambda *report: None)


# Apply


def test_corrections_are_merged_and_everything_else_stays(pool, tmp_path):
    lines = pool.read_text(encoding="utf-8").splitlines()
    head, *rest = (f"{line},{'note' if at == 0 else 'mine, too' if at == 3 else ''}" for at, line in enumerate(lines))
    rest[2] = rest[2].replace(",mine, too", ',"mine, too"')
    pool.write_text("\n".join([head, *rest]) + "\n", encoding="utf-8")
    corrections = write_corrections(
        tmp_path / "c.csv",
        {"icon": FLIPPED, "label": "blue", "corrected": "red", "sure": "0"},
        {"icon": "p1.png", "label": "", "corrected": "blue"},
        {"icon": "red-val-1.png", "label": "red", "corrected": "red", "sure": "1"},
        {"icon": "red-val-2.png", "label": "red", "corrected": ""},
    )
    summary = apply_corrections(corrections, pool)
    assert summary == {
        "manifest": str(pool),
        "changed": 1,
        "labelled": 1,
        "confirmed": 1,
        "changes": {"blue -> red": 1, "no label -> blue": 1},
    }
    rows = {row.icon: row for row in read_manifest(pool).rows}
    assert (rows[FLIPPED].label, rows[FLIPPED].votes, rows[FLIPPED].sure) == ("red", ("red",), False)
    assert (rows["p1.png"].label, rows["p1.png"].split, rows["p1.png"].sure) == ("blue", "train", True)
    after = pool.read_text(encoding="utf-8").splitlines()
    kept = [line for line in [head, *rest] if FLIPPED not in line and "p1.png" not in line]
    assert [line for line in after if FLIPPED not in line and "p1.png" not in line] == kept
    assert any("mine, too" in line for line in after)
    assert list(tmp_path.glob(".*")) == [], "no lock and no part is left"


def test_an_image_of_the_unlabelled_list_becomes_a_row_of_train(tmp_path, monkeypatch):
    rows = [LogoRow("set", "1", name, name, label, (label,)) for name, label in (("a", "red"), ("b", "blue"))]
    write_manifest(tmp_path / "m.csv", rows)
    write_manifest(tmp_path / "u.csv", [LogoRow("set", "1", "c"), LogoRow("set", "1", "d")])
    monkeypatch.setattr(pool_module, "UNLABELLED", tmp_path / "u.csv")
    line = {"package": "set", "version": "1", "icon": "c", "label": "", "corrected": "red"}
    apply_corrections(write_corrections(tmp_path / "c.csv", line), tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv").rows == (*rows, LogoRow("set", "1", "c", "c", "red", ("red",)))


def test_a_manifest_of_few_columns_gets_those_that_a_correction_needs(tmp_path):
    (tmp_path / "m.csv").write_text("package,icon,label\nfiles,a.png,red\nfiles,b.png,blue\nfiles,c.png,\n")
    write_corrections(tmp_path / "c.csv", {"icon": "c.png", "label": "", "corrected": "red", "sure": "0"})
    apply_corrections(tmp_path / "c.csv", tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text().splitlines() == [
        "package,icon,label,votes,sure,split",
        "files,a.png,red,,1,train",
        "files,b.png,blue,,1,train",
        "files,c.png,red,red,0,train",
    ]


GOOD = {"icon": FLIPPED, "label": "blue", "corrected": "red"}


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ({**GOOD, "icon": "no.png"}, r"line 3, files/no\.png: no such image in the manifest"),
        (
            {**GOOD, "icon": HELD_OUT, "label": "red", "corrected": "blue"},
            "it is of calib, whose labels stay as they are",
        ),
        ({**GOOD, "icon": "test.png", "label": ""}, "it is of test, whose labels stay"),
        (
            {**GOOD, "icon": "red-val-1.png", "corrected": "blue"},
            "it was labelled 'blue' when this was made, and its label is 'red' now",
        ),
        ({**GOOD, "icon": "p1.png"}, "it was labelled 'blue' when this was made, and its label is empty now"),
        (
            {**GOOD, "icon": "red-val-1.png", "label": "red", "corrected": "green"},
            "'green' is no class; expected one of blue, red",
        ),
        ({**GOOD, "icon": "kin.png", "label": ""}, "its group 'blue-calib-2.png' is in calib, and train may not hold"),
        ({**GOOD, "corrected": "blue"}, f"{FLIPPED} is corrected twice"),
        ({**GOOD, "icon": "red-val-1.png", "sure": "yes"}, "line 3: sure is 'yes'; expected 0, 1 or nothing"),
    ],
)
def test_one_correction_that_does_not_fit_stops_them_all(pool, tmp_path, line, refusal):
    before = pool.read_bytes()
    corrections = write_corrections(tmp_path / "c.csv", GOOD, line)
    with pytest.raises(DatasetError, match=refusal):
        apply_corrections(corrections, pool)
    assert pool.read_bytes() == before


def test_what_was_applied_is_only_confirmed_when_it_is_applied_again(squares, tmp_path):
    corrections = write_corrections(tmp_path / "c.csv", GOOD)
    apply_corrections(corrections, squares)
    once = squares.read_bytes()
    summary = apply_corrections(corrections, squares)
    assert summary == {"manifest": str(squares), "changed": 0, "labelled": 0, "confirmed": 1, "changes": {}}
    assert squares.read_bytes() == once


@pytest.mark.parametrize(
    ("content", "refusal"),
    [
        (
            b"package,icon\nfiles,a\n",
            "no column version, label, corrected; expected the CSV that a contact sheet gives",
        ),
        (b"package,version,icon,label,corrected\nfiles,,a,red,\n", "no line has a label in the column `corrected`"),
        (b"\xff\xfe", "not a UTF-8 CSV file"),
        (None, "No such file or directory; expected the CSV"),
    ],
)
def test_a_file_that_holds_no_corrections_is_refused(squares, tmp_path, content, refusal):
    if content is not None:
        (tmp_path / "c.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=refusal):
        apply_corrections(tmp_path / "c.csv", squares)


def test_a_manifest_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="expected a manifest"):
        apply_corrections(write_corrections(tmp_path / "c.csv", GOOD), tmp_path / "none" / "m.csv")


def test_a_failed_write_leaves_the_manifest_as_it_was(squares, tmp_path, monkeypatch):
    before = squares.read_bytes()

    def fail(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("logo_edge.files.os.replace", fail)
    with pytest.raises(DatasetError, match="No space left on device; expected a manifest that can be written"):
        apply_corrections(write_corrections(tmp_path / "c.csv", GOOD), squares)
    assert squares.read_bytes() == before
    assert list(tmp_path.glob(".*")) == []


# The command line


SETTINGS = [
    "--set",
    "review.networks=['test_efficientnet@32']",
    "--set",
    "review.folds=2",
    "--set",
    "review.divisions=1",
    "--set",
    "review.measures=['curves']",
    "--set",
    "review.classifiers=['logistic']",
]


def test_the_verbs_give_json_and_the_listed_csv_filled_in_is_a_file_of_corrections(pool, tmp_path):
    given = ["--data", str(pool), "--out", str(tmp_path / "out"), *SETTINGS]
    suspects = CliRunner().invoke(data, ["suspects", *given, "--json"])
    assert suspects.exit_code == 0, suspects.output
    record = json.loads(suspects.stdout)
    assert record["rows"][0]["icon"] == FLIPPED
    following = CliRunner().invoke(data, ["next", *given, "--count", "2", "--json"])
    assert len(json.loads(following.stdout)["rows"]) == 2
    listed = read_csv(record["csv"])
    with Path(record["csv"]).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, listed[0])
        writer.writeheader()
        writer.writerows([{**listed[0], "corrected": "red"}, *listed[1:]])
    done = CliRunner().invoke(data, ["apply", record["csv"], "--data", str(pool)])
    assert done.exit_code == 0, done.output
    assert "1 labels corrected, 0 images labelled, 0 labels confirmed\n  blue -> red: 1" in done.output


def test_a_folder_without_a_manifest_is_organized_and_json_stays_json(squares, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    for name in ("red", "blue"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for at in range(8):
            shutil.copy(tmp_path / f"{name}-train-{at}.png", tmp_path / "mine" / name)
    done = CliRunner().invoke(
        data, ["suspects", "--data", str(tmp_path / "mine"), "--out", str(tmp_path / "out"), *SETTINGS, "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["reviewed"] == 12
    assert "16 groups" in done.stderr


def test_the_verbs_say_what_they_found_and_what_to_do(squares, tmp_path):
    done = CliRunner().invoke(data, ["suspects", "--data", str(squares), "--out", str(tmp_path / "out"), *SETTINGS])
    assert done.exit_code == 0, done.output
    assert "labels of train and val are suspect" in done.output
    assert "16 labels of calib and test took no part" in done.output
    assert FLIPPED in done.output
    command = f"logo-edge data apply corrections.csv --data {squares}"
    assert done.output.rstrip().endswith(f"\nOpen {tmp_path / 'out' / 'suspects.html'}, then: {command}")
    assert f"<code>{command}</code>" in (tmp_path / "out" / "suspects.html").read_text(encoding="utf-8")


# The contact sheet


def test_each_class_has_a_key_of_its_own():
    assert assign_keys(("complex", "gradient", "simple", "text")) == ["c", "g", "s", "t"]
    assert assign_keys(("cat", "cow", "2D", "Über", "logo")) == ["c", "1", "2", "3", "l"]
    many = assign_keys(tuple(f"x{at:02}" for at in range(40)))
    assert len(set(many[:36])) == 36
    assert many[36:] == [""] * 4


HOSTILE = "<b>&\"'$x</script><script>alert(1)</script>.png"


@pytest.fixture
def sheet(squares, tmp_path) -> Path:
    """The page of suspects: the flipped label, of an image of a hostile name, and another."""
    (tmp_path / HOSTILE).parent.mkdir(parents=True)
    (tmp_path / FLIPPED).rename(tmp_path / HOSTILE)
    changed = {FLIPPED: {"icon": HOSTILE}, "blue-val-5.png": {"label": "red"}}
    write_manifest(squares, [replace(row, **changed.get(row.icon, {})) for row in read_manifest(squares).rows])
    return Path(suspects_of(squares, tmp_path / "out")["sheet"])


class Scripts(HTMLParser):
    """The tags of a page in order, and the text of its script elements by type."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.scripts = [], {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "script":
            self.type = dict(attributes).get("type")

    def handle_data(self, text):
        if self.tags and self.tags[-1] == "script":
            self.scripts.setdefault(self.type, "")
            self.scripts[self.type] += text


def test_a_hostile_name_cannot_end_the_script_that_holds_it(sheet):
    page = Scripts(sheet.read_text(encoding="utf-8"))
    assert page.tags.count("script") == 2
    assert HOSTILE in [row["icon"] for row in json.loads(page.scripts["application/json"])["rows"]]


@pytest.mark.skipif(not CHROMIUM_RUNS, reason="the Chromium that tests use is built for Linux on x86-64")
def test_a_person_corrects_labels_by_keys_and_applies_what_the_browser_gives(browser, sheet, squares, tmp_path):
    said, asked = [], []
    listed = read_csv(sheet.with_suffix(".csv"))
    assert len(listed) >= 2
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(sheet.as_uri())
    state, button = page.locator("#state"), page.locator("#download")
    assert page.locator("li").count() == len(listed)
    assert f"{[row['icon'] for row in listed].index(HOSTILE) + 1}. {HOSTILE}" in page.locator("h2").all_inner_texts()
    assert page.evaluate("[...document.querySelectorAll('li img')].every(image => image.naturalWidth === 160)")
    assert button.is_disabled()
    page.keyboard.press("Shift+" + listed[0]["suggested"][0].upper())  # not sure; then on to the second
    page.keyboard.press("b")
    assert state.inner_text() == f"2 of {len(listed)} decided"
    if len(listed) > 2:
        page.keyboard.press("ArrowLeft")  # back to the second, which of two cards is the last
    page.keyboard.press("Backspace")
    assert state.inner_text() == f"1 of {len(listed)} decided"
    page.reload()
    assert state.inner_text() == f"1 of {len(listed)} decided", "the browser keeps decisions"
    last = page.locator("li").nth(1).locator("button", has_text=listed[1]["suggested"])
    last.click()
    assert last.get_attribute("aria-pressed") == "true"
    assert page.locator("li").nth(1).locator("[aria-pressed=true]").count() == 1
    with page.expect_download() as download:
        button.click()
    download.value.save_as(tmp_path / "corrections.csv")
    assert read_csv(tmp_path / "corrections.csv") == [
        {"package": FILES, "version": "", "icon": row["icon"], "label": row["label"], "corrected": label, "sure": sure}
        for row, label, sure in ((listed[0], listed[0]["suggested"], "0"), (listed[1], listed[1]["suggested"], "1"))
    ]
    assert apply_corrections(tmp_path / "corrections.csv", squares)["changed"] == 2
    rows = {row.icon: row for row in read_manifest(squares).rows}
    assert (rows[HOSTILE].label, rows["blue-val-5.png"].label) == ("red", "blue")
    assert [row.icon for row in rows.values() if not row.sure] == [listed[0]["icon"]]
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


@pytest.mark.skipif(not CHROMIUM_RUNS, reason="the Chromium that tests use is built for Linux on x86-64")
def test_the_sheet_fits_the_screen_by_day_and_night(browser, sheet):
    for width, scheme in SCREENS:
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.goto(sheet.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(HEADING) > 10, "letters have a width: the browser has a font"
        assert find_barriers(page) == []
        assert page.evaluate(
            "[...document.querySelectorAll('li *')].every(e => e.getBoundingClientRect().right <= innerWidth)"
        )
        page.close()
