"""Images with several labels or none: their manifest and readers, splits, targets, loss and figures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_tree import draw_mark
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from typer.testing import CliRunner

from logo_edge.errors import DatasetError, RecipeError
from logo_edge.names import csv_line
from logo_edge.preprocess import InputContract
from logo_edge.probabilities import sigmoid
from logo_edge_train.commands import data
from logo_edge_train.data.dataset import LogoDataset, check_classes
from logo_edge_train.data.manifest import (
    FILES,
    NO_LABELS,
    NOT_A_LOGO,
    LogoRow,
    Manifest,
    labelled_rows,
    read_manifest,
    read_one_label,
    targets_of,
    write_manifest,
)
from logo_edge_train.evaluate import confidence_metrics, ensemble_logits, short_metrics
from logo_edge_train.fit_config import TeacherFit
from logo_edge_train.keys import row_hashes
from logo_edge_train.losses import SupervisedObjective
from logo_edge_train.metrics import average_precision, is_correct, summarize
from logo_edge_train.organize.describe import describe_manifest
from logo_edge_train.organize.limits import describe_limits
from logo_edge_train.organize.manifest_file import manifest_of
from logo_edge_train.organize.organize import organize_images
from logo_edge_train.organize.sources import read_source
from logo_edge_train.organize.splits import SPLIT_SHARES, split_labels_by_group
from logo_edge_train.recipe import CalibrateConfig, Recipe
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.train import check_multi_label

LABELLED = {"1.png": ("cat", "dog|wolf"), "2.png": (), "3.png": ("cat",)}
ROWS = tuple(LogoRow(FILES, "", name, name).with_labels(labels) for name, labels in LABELLED.items())


@pytest.fixture
def pictures(tmp_path) -> Path:
    for at, name in enumerate((*LABELLED, "unseen.png")):
        draw_mark(at, size_px=40).save(tmp_path / name)
    return tmp_path


def labels_of(placed) -> dict[str, tuple[str, ...] | None]:
    return {image.path.name: image.labels for image in placed}


def test_rows_with_several_labels_or_none_read_back_and_other_rows_hash_as_before(tmp_path):
    write_manifest(tmp_path / "manifest.csv", ROWS)
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert manifest == Manifest(ROWS, tmp_path)
    assert (tmp_path / "manifest.csv").read_text().splitlines()[1:] == [
        r"files,,1.png,1.png,cat|dog\|wolf,,1,train,1",
        "files,,2.png,2.png,,,1,train,1",
        "files,,3.png,3.png,cat,,1,train,1",
    ]
    assert manifest.classes == ("cat", "dog|wolf")
    assert [row.label for row in manifest.split("train")] == [r"cat|dog\|wolf", NO_LABELS, "cat"]
    assert targets_of(manifest.rows, manifest.classes).tolist() == [[1, 1], [0, 0], [1, 0]]
    plain = LogoRow(FILES, "", "3.png", "3.png", "cat")
    (_, plain_hash), (_, labelled_hash) = row_hashes(manifest, [plain, ROWS[2]])
    columns = {**asdict(plain)}
    del columns["round"], columns["labels"]
    digest = hashlib.sha256(
        json.dumps(columns).encode()
    )  # of the columns that rows had before there were several labels
    assert plain_hash == digest.hexdigest() != labelled_hash


def test_a_manifest_of_one_kind_is_refused_where_the_other_is_needed(tmp_path):
    write_manifest(tmp_path / "manifest.csv", ROWS)
    manifest = read_manifest(tmp_path / "manifest.csv")
    with pytest.raises(DatasetError, match="several labels or none"):
        read_one_label(tmp_path / "manifest.csv")
    with pytest.raises(DatasetError, match="one label an image"):
        labelled_rows(manifest, "train", manifest.classes, "the bundle's")
    assert len(labelled_rows(manifest, "train", manifest.classes, "the bundle's", multi_label=True)) == 3
    (tmp_path / "both.csv").write_text("package,icon,label,labels\nfiles,1.png,cat,cat\n")
    with pytest.raises(DatasetError, match="label and labels"):
        read_manifest(tmp_path / "both.csv")


def test_every_format_gives_all_labels_none_and_unknown(pictures):
    lines = [csv_line((name, "|".join(n.replace("|", "\\|") for n in labels))) for name, labels in LABELLED.items()]
    (pictures / "mine.csv").write_text("path,labels\n" + "".join(lines))
    placed, skipped = read_source(pictures / "mine.csv")
    assert (labels_of(placed), skipped) == (LABELLED, [])
    coco = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog|wolf"}],
        "images": [{"id": at, "file_name": name} for at, name in enumerate(LABELLED)],
        "annotations": [
            {"image_id": at, "category_id": 1 + ["cat", "dog|wolf"].index(label)}
            for at, labels in enumerate(LABELLED.values())
            for label in labels
        ],
    }
    tasks = [
        {
            "data": {"image": name},
            "annotations": [{"result": [{"type": "choices", "value": {"choices": list(labels)}}] if labels else []}],
        }
        for name, labels in LABELLED.items()
    ]
    tasks.append({"data": {"image": "unseen.png"}, "annotations": []})
    tags = {name: "".join(f'<tag label="{label}"/>' for label in labels) for name, labels in LABELLED.items()}
    images = "".join(f'<image name="{name}">{own}</image>' for name, own in tags.items())
    exports = {
        "coco.json": json.dumps(coco),
        "studio.json": json.dumps(tasks),
        "cvat.xml": f"<annotations>{images}</annotations>",
    }
    for name, text in exports.items():
        (pictures / name).write_text(text)
        placed, skipped = read_source(pictures / name, multi_label=True)
        unknown = {"unseen.png": None} if name == "studio.json" else {}
        assert labels_of(placed) == LABELLED | unknown, name
        assert not skipped
        _, refused = read_source(pictures / name)
        assert [file.reason for file in refused] == [
            "2 labels ('cat', 'dog|wolf'); expected one, or `logo-edge data organize --multi-label`"
        ], name
    (pictures / "coco.json").write_text(json.dumps({**coco, "annotations": []}))
    placed, _ = read_source(pictures / "coco.json", multi_label=True)
    assert labels_of(placed) == dict.fromkeys(LABELLED), "a list of images, which says nothing of their labels"
    assert manifest_of(pictures / "mine.csv") != pictures / "mine.csv", "a file of labels is no manifest"


def test_lists_of_labels_in_a_table_are_read_and_numbers_of_datasets_named(pictures, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    names = ["cat", "dog|wolf"]
    feature = {"_type": "List", "feature": {"_type": "ClassLabel", "names": names}}
    metadata = {b"huggingface": json.dumps({"info": {"features": {"labels": feature}}}).encode()}
    for at, (kind, values) in enumerate({"string": str, "int64": names.index}.items()):
        column = [[values(label) for label in labels] for labels in LABELLED.values()]
        arrays = {
            "image": [(pictures / name).read_bytes() for name in LABELLED],
            "labels": pyarrow.array(column, pyarrow.list_(getattr(pyarrow, kind)())),
        }
        table = pyarrow.table(arrays).replace_schema_metadata(metadata if kind == "int64" else {})
        parquet.write_table(table, tmp_path / f"{at}.parquet")
        placed, skipped = read_source(tmp_path / f"{at}.parquet")
        assert [image.labels for image in placed] == list(LABELLED.values()), kind
        assert not skipped


def test_class_folders_and_options_for_one_label_are_refused(pictures):
    with pytest.raises(DatasetError, match="class folders give one label"):
        read_source(pictures, multi_label=True)
    (pictures / "mine.csv").write_text("path,labels\n1.png,cat|dog\n")
    with pytest.raises(DatasetError, match="neither balanced"):
        organize_images(pictures / "mine.csv", pictures / "manifest.csv", target_per_class=8)
    with pytest.raises(DatasetError, match="nor merged"):
        organize_images(pictures / "mine.csv", pictures / "manifest.csv", small_classes="merge")


def test_a_file_of_labels_becomes_a_manifest_with_each_label_in_every_split(tmp_path):
    random, lines = np.random.default_rng(0), []
    for at in range(60):
        draw_mark(at, size_px=40).save(tmp_path / f"{at}.png")
        labels = [name for name, p in (("round", 0.5), ("red", 0.3), ("old", 0.2)) if random.random() < p]
        lines.append(csv_line((f"{at}.png", "|".join(labels))))
    (tmp_path / "mine.csv").write_text("path,labels\n" + "".join(lines) + "0.png,\n".replace("0.png", "59.png"))
    done = CliRunner().invoke(data, ["organize", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "manifest.csv")])
    assert done.exit_code == 0, done.output
    manifest = read_manifest(tmp_path / "manifest.csv")
    assert manifest.multi_label
    assert len(manifest.rows) == 60
    for split in ("train", "val", "calib", "test"):
        check_classes(manifest.split(split), manifest.classes, split)
    description = describe_manifest(manifest)
    assert description.classes == ("old", "red", "round", NO_LABELS)
    totals = {name: sum(cells[name] for cells in description.counts.values()) for name in description.classes}
    assert totals["round"] == sum("round" in row.labels for row in manifest.rows)
    assert describe_limits(manifest, CalibrateConfig())


def test_splits_keep_the_shares_of_every_label_and_divide_no_group():
    random = np.random.default_rng(1)
    chances = {"common": 0.6, "usual": 0.3, "rare": 0.04}
    sets = [tuple(name for name, chance in chances.items() if random.random() < chance) for _ in range(1000)]
    groups = [str(index // 2) for index in range(1000)]
    splits = split_labels_by_group(sets, groups, seed=0)
    assert splits == split_labels_by_group(sets, groups, seed=0)
    assert all(splits[index] == splits[index + 1] for index in range(0, 1000, 2))
    for label in chances:
        own = [split for split, labels in zip(splits, sets, strict=True) if label in labels]
        for split, share in SPLIT_SHARES.items():
            assert own.count(split) >= 1
            assert own.count(split) / len(own) == pytest.approx(share, abs=max(0.03, 2 / len(own))), (label, split)
    four = split_labels_by_group([("a",), ("a",), ("a", "b"), ("a", "b"), ("b",), ("b",)], list("123456"), seed=0)
    for label in "ab":
        held = {split for split, labels in zip(four, ["a", "a", "ab", "ab", "b", "b"], strict=True) if label in labels}
        assert len(held) >= 3


def test_targets_are_ones_and_zeros_unknown_labels_nan_and_a_picture_of_no_logo_has_none(pictures):
    rows = [*ROWS, LogoRow(FILES, "", "unseen.png", "unseen.png", NOT_A_LOGO), LogoRow(FILES, "", "3.png", "3.png")]
    manifest = Manifest(ROWS, pictures)
    dataset = LogoDataset(manifest, rows, manifest.classes, contract=InputContract(16), class_weight_power=0.7)
    assert dataset.classes == manifest.classes
    expected = [[1, 1], [0, 0], [1, 0], [0, 0], [np.nan, np.nan]]
    assert np.array_equal(dataset.targets, expected, equal_nan=True)
    assert dataset.weights.tolist() == [1] * 5
    assert dataset.hard_targets.tolist() == [[1, 1], [0, 0], [1, 0], [0, 0], [0, 0]]


def test_the_loss_is_the_cross_entropy_of_each_label():
    logits = torch.tensor([[2.0, -1.0, 0.0], [0.5, 0.0, -3.0]], requires_grad=True)
    targets, weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([1.0, 3.0])
    objective = SupervisedObjective(TeacherFit(label_smoothing=0.0), ("a", "b", "c"), multi_label=True)
    (loss,) = objective(lambda pixels: logits, None, targets, weights, None).values()
    own = -np.log(np.where(targets == 1, sigmoid(logits.detach().numpy()), 1 - sigmoid(logits.detach().numpy())))
    assert loss.item() == pytest.approx(float((own.sum(1) * [1, 3]).mean()), rel=1e-6)
    loss.backward()
    gradient = (sigmoid(logits.detach().numpy()) - targets.numpy()) * np.array([[1], [3]]) / 2
    assert np.allclose(logits.grad.numpy(), gradient, atol=1e-6)
    smooth = SupervisedObjective(TeacherFit(label_smoothing=0.1), multi_label=True)
    far = torch.tensor([[30.0, -30.0, -30.0]])
    (loss,) = smooth(lambda pixels: far, None, targets[:1], weights[:1], None).values()
    assert loss.item() == pytest.approx(3 * 0.05 * 30, rel=1e-3)


def test_figures_agree_with_scikit_learn():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (200, 4)).round(1)
    targets = (random.random((200, 4)) < sigmoid(logits - 1)).astype(int)
    targets[:5] = 0
    figures = summarize(logits, targets, np.arange(200) < 150, 1.0, ("a", "b", "c", "d"))
    predicted = (logits > 0).astype(int)
    assert figures["accuracy"]["value"] == pytest.approx((predicted == targets).all(1).mean())
    assert figures["f1"] == pytest.approx(f1_score(targets, predicted, average="micro"))
    assert figures["f1_macro"] == pytest.approx(f1_score(targets, predicted, average="macro"))
    for k, label in enumerate("abcd"):
        assert figures["recall"][label]["value"] == pytest.approx(recall_score(targets[:, k], predicted[:, k]))
        assert figures["precision"][label]["value"] == pytest.approx(precision_score(targets[:, k], predicted[:, k]))
        expected = average_precision_score(targets[:, k], sigmoid(logits[:, k]))
        assert figures["average_precision"][label] == pytest.approx(expected)
    assert average_precision(np.array([0.5, 0.2]), np.array([False, False])) == 0
    short = short_metrics(logits, targets, np.ones(200, bool))
    assert short["accuracy"] == is_correct(logits, targets).mean()
    assert short["nll"] == pytest.approx(figures["nll"])
    shares = confidence_metrics(logits, targets, ("a", "b", "c", "d"))
    assert shares["predicted_share"]["b"] == pytest.approx(predicted[:, 1].mean())
    assert 0 < shares["entropy"] < 4 * np.log(2)


def test_an_ensemble_gives_the_mean_of_its_members_probabilities():
    members = np.random.default_rng(0).normal(0, 3, (3, 10, 4)).astype(np.float32)
    pooled = ensemble_logits(members, multi_label=True)
    assert sigmoid(pooled) == pytest.approx(sigmoid(members).mean(0), abs=1e-6)


def test_a_recipe_with_settings_for_one_label_is_refused_with_what_to_set():
    manifest = Manifest(ROWS, Path())
    check_multi_label(manifest, Recipe())
    shipped = recipe_from_dict({"distill": {"epistemic": "dirichlet"}, "calibrate": {"class_balance": 0.5}})
    with pytest.raises(RecipeError, match='--set distill.epistemic="off" --set calibrate.class_balance=0.0'):
        check_multi_label(manifest, shipped)
    single = Manifest(tuple(replace(row, labels=None) for row in ROWS), Path())
    check_multi_label(single, shipped)
