"""What `logo-edge data describe` says about a manifest, in numbers, as a table and as pictures."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from logo_edge.errors import DatasetError
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.organize.describe import (
    UNLABELLED,
    cohen_kappa,
    describe_manifest,
    plot_augmented,
    plot_description,
    plot_samples,
    print_description,
)
from logo_edge_train.recipe import OPERATIONS, TeacherAugment


def make_row(at: int, label: str, split: str, **changes) -> LogoRow:
    fields = {"group": f"g{at}", "votes": (label, label), "sure": True, **changes}
    return LogoRow("files", "", f"{at}.png", label=label, split=split, **fields)


def make_manifest(folder, *extra: LogoRow) -> Manifest:
    rows = [make_row(at, "cat" if at % 3 else "dog", "train" if at < 6 else "test", sure=at > 2) for at in range(9)]
    return Manifest((*rows, *extra), folder)


def test_counts_groups_and_sureness_are_those_of_the_rows(tmp_path):
    description = describe_manifest(make_manifest(tmp_path, make_row(9, "cat", "test", group="g8")))
    assert (description.rows, description.classes) == (10, ("cat", "dog"))
    assert description.counts == {"train": {"cat": 4, "dog": 2}, "test": {"cat": 3, "dog": 1}}
    assert description.sure == {"cat": pytest.approx(5 / 7), "dog": pytest.approx(2 / 3)}
    assert (description.groups, description.largest_group, description.split_groups) == (9, 2, ())
    assert description.sources == {"files": 10}


def test_a_group_in_two_splits_is_found_and_printed_as_a_warning(tmp_path):
    description = describe_manifest(make_manifest(tmp_path, make_row(9, "cat", "test", group="g0")))
    assert description.split_groups == ("g0",)
    assert "1 groups stand in more than one split: g0" in printed(description)


def test_agreement_counts_the_first_two_votes_and_the_third_only_decides(tmp_path):
    disputed = make_row(9, "cat", "train", votes=("dog", "cat", "cat"))
    single = make_row(10, "cat", "train", votes=("cat",))
    description = describe_manifest(make_manifest(tmp_path, disputed, single))
    assert description.voted_twice == 10
    assert description.agreement == pytest.approx(0.9)
    assert "agree in 90.0% (Cohen's kappa 0.783)" in printed(description)


def test_kappa_matches_a_worked_example_and_is_none_where_it_means_nothing():
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert cohen_kappa([("y", "y")] * 5) is None
    assert cohen_kappa([]) is None


def test_rows_without_labels_and_votes_are_described_too(tmp_path):
    rows = tuple(LogoRow("pack", "1.0", f"i{at}", group=f"i{at}") for at in range(3))
    description = describe_manifest(Manifest(rows, tmp_path))
    assert description.counts == {"train": {UNLABELLED: 3}}
    assert (description.agreement, description.kappa) == (None, None)
    assert description.sources == {"pack 1.0": 3}
    assert "3 images" in printed(description)


def test_an_empty_manifest_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="no rows"):
        describe_manifest(Manifest((), tmp_path))


def test_the_table_names_every_split_and_class(tmp_path):
    text = printed(describe_manifest(make_manifest(tmp_path)))
    for word in ("train", "test", "cat", "dog", "sure", "9 images", "9 groups"):
        assert word in text


@pytest.mark.parametrize("classes", [1, 11])
def test_the_plot_is_a_picture_for_any_number_of_classes(tmp_path, classes):
    rows = tuple(make_row(at, f"class {at % classes}", ("train", "val")[at % 2]) for at in range(3 * classes))
    plot_description(describe_manifest(Manifest(rows, tmp_path)), tmp_path / "new" / "plot.png")
    pixels = np.asarray(Image.open(tmp_path / "new" / "plot.png").convert("RGB"))
    assert pixels.shape[0] > 400
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["plot.png"]


def test_the_contact_sheet_shows_each_class_in_its_own_row(tmp_path):
    manifest = make_manifest(tmp_path)
    for row in manifest.rows:
        Image.new("RGB", (40, 40), "red" if row.label == "cat" else "blue").save(tmp_path / row.icon)
    plot_samples(manifest, tmp_path / "sheet.png", per_class=2)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    red = (pixels == (255, 0, 0)).all(2)
    blue = (pixels == (0, 0, 255)).all(2)
    assert red.sum() == pytest.approx(2 * 96 * 96, rel=0.05)
    assert blue.sum() == pytest.approx(2 * 96 * 96, rel=0.05)
    assert np.flatnonzero(red.any(1)).max() < np.flatnonzero(blue.any(1)).min()


def test_a_contact_sheet_of_missing_images_says_what_to_do(tmp_path):
    with pytest.raises(DatasetError, match="images of the manifest are missing.*Put them back"):
        plot_samples(make_manifest(tmp_path), tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_the_augmented_sheet_shows_every_operation_and_mix_line_by_line(tmp_path):
    manifest = make_manifest(tmp_path)
    for row in manifest.rows:
        Image.new("RGB", (40, 40), "red" if row.label == "cat" else "blue").save(tmp_path / row.icon)
    config = TeacherAugment(mixup_pairs=("cat+dog",), cutmix_pairs=("cat+cat",))
    plot_augmented(manifest, config, tmp_path / "sheet.png", per_class=2)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    lines = np.array_split(pixels, 2 + 2 * len(OPERATIONS) + 2)
    assert all(len(line) == pytest.approx(104, abs=1) for line in lines)
    assert ((lines[0] == (255, 0, 0)).all(2).sum(), (lines[0] == (0, 0, 255)).all(2).sum()) == pytest.approx(
        (2 * 96 * 96, 2 * 96 * 96), rel=0.05
    )
    inverted = lines[2 + 2 * OPERATIONS.index("invert")]
    assert (inverted == (0, 255, 255)).all(2).sum() == pytest.approx(2 * 96 * 96, rel=0.05)
    assert (lines[-2] == (153, 0, 102)).all(2).sum() == pytest.approx(2 * 96 * 96, rel=0.05), "three fifths of the cat"
    assert (lines[-1] == (0, 0, 255)).all(2).sum() == 0, "no dog is in a pair of cats"


def printed(description) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_description(description, console)
    return console.file.getvalue()


def test_twenty_classes_fit_a_narrow_terminal_one_a_row(tmp_path):
    names = [f"class number {at}" for at in range(20)]
    rows = tuple(make_row(at, names[at % 20], ("train", "val", "calib", "test")[at // 20]) for at in range(80))
    console = Console(file=io.StringIO(), width=80)
    print_description(describe_manifest(Manifest(rows, tmp_path)), console)
    text = console.file.getvalue()
    assert "…" not in text
    lines = {name: [line for line in text.splitlines() if re.search(rf"\b{name}\b", line)] for name in names}
    assert all(re.findall(r"\d+", lines[name][0])[1:] == ["1", "1", "1", "1", "4", "100"] for name in names), text
