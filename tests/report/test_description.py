"""The page of `logo-edge data describe --page`: what a person sees of a folder before a training."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from system.browser.page import CHROMIUM_RUNS, HEADING, SCREENS, SMALL, WIDE, Page, find_barriers
from typer.testing import CliRunner

from logo_edge.errors import DatasetError
from logo_edge_report.description import make_page, read_suspects
from logo_edge_train.commands import data
from logo_edge_train.data.manifest import read_manifest, write_manifest
from logo_edge_train.recipe import ReviewConfig
from logo_edge_train.review.frozen_features import Features
from logo_edge_train.review.survey import survey_images

SMALL_NETWORK = ReviewConfig(networks=("test_resnet@32",))


@pytest.fixture
def flawed(colours):
    """The manifest of the coloured squares, with a copy in another split under another label, noise, and bad files."""
    folder, rows = colours.parent, list(read_manifest(colours).rows)
    first = next(row for row in rows if row.label == "red" and row.split == "train")
    Image.open(folder / first.icon).resize((60, 60)).save(folder / "copy.webp", lossless=True)
    noise = np.random.default_rng(1).integers(0, 255, (30, 300, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.jpg")
    (folder / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (50, 50)).save(folder / "unlisted.png")
    rows += [
        replace(first, icon="copy.webp", group="copy.webp", label="<b>green", split="val"),
        replace(first, icon="noise.jpg", group="noise.jpg"),
        replace(first, icon="broken.png", group="broken.png"),
    ]
    write_manifest(colours, rows)
    return colours


def features_of(manifest, folder) -> Features:
    return Features(read_manifest(manifest), SMALL_NETWORK, folder, torch.device("cpu"), lambda *_: None)


def test_copies_and_images_unlike_their_class_are_found(flawed, tmp_path):
    survey = survey_images(read_manifest(flawed), features_of(flawed, tmp_path / "kept"))
    names = [row.icon for row in survey.rows]
    assert "broken.png" not in names
    assert [name for name, _ in survey.unreadable] == ["broken.png"]
    copies = [(names[group], name) for group, name in zip(survey.groups, names, strict=True) if names[group] != name]
    assert copies == [("0-train-0.png", "copy.webp")]
    assert names[int(np.nanargmax(survey.outlier_factors))] == "noise.jpg"
    assert np.isnan(survey.outlier_factors[names.index("copy.webp")]), "a copy has no factor of its own"
    assert np.isfinite(survey.outlier_factors).sum() == len(names) - 1
    kinds = {row.icon: (image.format, image.size_px) for row, image in zip(survey.rows, survey.images, strict=True)}
    assert kinds["copy.webp"] == ("WEBP", (60, 60))
    assert kinds["noise.jpg"] == ("JPEG", (300, 30))


def test_the_page_shows_the_counts_and_every_flaw(flawed, tmp_path):
    out = make_page(
        flawed, tmp_path / "new" / "page.html", features=features_of(flawed, tmp_path / "kept"), folder=flawed.parent
    )
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    anchors = [attributes["id"] for attributes in page.all("h2")]
    assert anchors == ["classes", "splits", "files", "copies", "outliers", "left-out", "montage", "making"]
    captions = " ".join(page.captions)
    assert "The largest class, blue, has 32.0 times as many images as the smallest, <b>green." in captions
    assert "No image is in test." in captions
    assert "No image of train: <b>green; figures by class are missing there." in captions
    assert "1 images are more than 4 times as long in one direction" in captions
    assert captions.count("1 pairs") == 2, "one pair, in two splits and with two labels"
    assert "&lt;b&gt;green in val" in text
    assert "broken.png</th><td>not an image that can be read" in text
    assert "unlisted.png</th><td>readable, but not in the manifest" in text
    assert "<b>green" not in text, "names are escaped"
    assert "<script" not in text
    assert page.all("img") == []
    images = sum("tile" in attributes.get("class", "").split() for attributes in page.all("span"))
    assert images >= 3 * 8 + 1 + 4 + 1, "a montage of each class, two pairs, and the noise"


def test_suspects_are_shown_unless_they_were_corrected_since(flawed, tmp_path):
    rows = read_manifest(flawed).rows
    lines = [
        {**dict.fromkeys(("package", "version", "icon", "label"), ""), **columns, "suggested": "green"}
        for columns in (
            {"package": "files", "icon": rows[0].icon, "label": rows[0].label},
            {"package": "files", "icon": rows[1].icon, "label": "corrected since"},
        )
    ]
    path = tmp_path / "suspects.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    assert read_suspects(path, read_manifest(flawed)) == [(rows[0], "green")]
    out = make_page(flawed, tmp_path / "page.html", features=features_of(flawed, tmp_path / "kept"), suspects=path)
    text = out.read_text(encoding="utf-8")
    assert "1 labels are probably wrong" in text
    assert f"{rows[0].label}, or green?" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("package,icon\nfiles,a.png\n", "no column version, label, suggested"),
        (
            "package,version,icon,label,suggested\nfiles,,other.png,red,blue\n",
            "none of its 1 images is in the manifest",
        ),
        (None, "No such file"),
    ],
)
def test_another_file_than_suspects_is_refused(colours, tmp_path, content, message):
    path = tmp_path / "suspects.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        read_suspects(path, read_manifest(colours))


def test_a_manifest_without_labels_has_no_page(colours, tmp_path):
    write_manifest(colours, [replace(row, label="") for row in read_manifest(colours).rows])
    with pytest.raises(DatasetError, match="has no labels"):
        make_page(colours, tmp_path / "page.html", features=features_of(colours, tmp_path / "kept"))
    assert not (tmp_path / "page.html").exists()


def test_the_verb_describes_a_folder_and_writes_nothing_into_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for index in range(5):
            Image.fromarray(random.integers(0, 255, (40, 40, 3), np.uint8)).save(
                tmp_path / "pets" / name / f"{index}.png"
            )
    (tmp_path / "pets" / "cats" / "broken.png").write_bytes(b"no image")
    before = sorted((tmp_path / "pets").rglob("*"))
    result = CliRunner().invoke(data, ["describe", str(tmp_path / "pets"), "--page", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.output
    assert "10 images" in result.output
    assert f"wrote {tmp_path / 'page.html'}" in result.output
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("cats/broken.png</th><td>not an image that can be read") == 1
    assert "calib has 2 images: mode balanced promises a risk of 5% from" in text
    assert sorted((tmp_path / "pets").rglob("*")) == before


def test_suspects_without_a_page_are_refused(tmp_path):
    result = CliRunner().invoke(data, ["describe", "--suspects", str(tmp_path / "suspects.csv")])
    assert result.exit_code == 2
    assert "add --page" in result.output


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM_RUNS, reason="the Chromium that tests use is built for Linux on x86-64")
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_page_fits_the_screen(flawed, tmp_path, browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    out = make_page(
        flawed, tmp_path / "page.html", features=features_of(flawed, tmp_path / "kept"), folder=flawed.parent
    )
    page.goto(out.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(WIDE) == []
    assert page.evaluate(SMALL) == []
    assert page.evaluate(HEADING) > 50, "there is a font"
    assert find_barriers(page) == []
    assert errors == []
