"""The project's own logos: complete, rendered, and no brand or near-duplicate on two sides."""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from logo_edge.errors import DatasetError
from logo_edge.preprocess import InputContract
from logo_edge_train.data import icons as fetch
from logo_edge_train.data.icons import DATA, LABELS, UNLABELLED, fetch_logos, icon_svg, install_icon_sets, render_svg
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.lookalikes import LOOKALIKE, THUMBNAIL_PX, find_lookalikes, thumbnails
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.keys import file_hash

DIFFERENT = [("h2o-background", "rss3-background")]  # of calib and test: two brands' white letters on the same blue


@pytest.fixture(scope="module")
def renders():
    return fetch_logos().folder


def test_the_manifests_hold_every_logo_and_nothing_twice():
    labelled, unlabelled = read_manifest(LABELS), read_manifest(UNLABELLED)
    assert Counter(row.split for row in labelled.rows) == {"train": 7189, "val": 744, "calib": 696, "test": 1246}
    first = Counter(row.split for row in labelled.rows if row.round == 1)
    assert first == {"train": 2465, "val": 361, "calib": 345, "test": 531}
    assert labelled.classes == ("complex", "gradient", "simple", "text")
    assert len(unlabelled.rows) == 1572
    names = [(row.package, row.icon) for row in labelled.rows + unlabelled.rows]
    assert len(set(names)) == len(names) == 11447


def test_two_processes_that_need_the_same_packages_install_them_once_and_whole(tmp_path, monkeypatch):
    installed = []

    def install(folder):
        installed.append(folder)
        time.sleep(0.5)
        (folder / "node_modules").mkdir()
        (folder / "node_modules" / "icons.json").write_text("{}")

    monkeypatch.setattr(fetch, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(fetch, "_npm_ci", install)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: fetch.install_packages(DATA, "icons"), range(2)))
        assert [path.read_text() for path in (folder / "icons.json" for folder in folders)] == ["{}", "{}"]
    assert len(installed) == 1
    assert os.listdir(tmp_path / "cache") == ["icons"]


def test_no_group_stands_on_two_sides():
    sides = defaultdict(set)
    for row in read_manifest(LABELS).rows:
        sides[row.group].add(row.split)
    assert len(sides) > 5000
    assert [group for group, splits in sides.items() if len(splits) > 1] == []


@pytest.mark.network
@pytest.mark.slow
def test_no_near_duplicate_drawing_stands_on_two_sides_of_what_is_learned_and_measured(renders):
    manifest = read_manifest(LABELS)
    left_out = find_lookalikes(manifest, manifest.split("train"))
    rows = [row for row in manifest.rows if row not in left_out]
    pixels = pixels_of(rows, manifest, InputContract(THUMBNAIL_PX))
    flat, splits = thumbnails(pixels), np.array([row.split for row in rows])
    close = np.argwhere(np.triu(flat @ flat.T > LOOKALIKE, k=1))
    across = [(rows[a].icon, rows[b].icon) for a, b in close if splits[a] != splits[b]]
    assert len(close) > 100, "the search itself must find the near-duplicates inside a split"
    assert across == DIFFERENT
    assert 1 <= len(left_out) <= 8, "labels.csv holds a few; many more would mean that the search is broken"


@pytest.mark.network
@pytest.mark.slow
def test_no_unlabelled_logo_looks_like_a_held_out_one(renders):
    manifest, unlabelled = read_manifest(LABELS), read_manifest(UNLABELLED)
    left_out = find_lookalikes(manifest, list(unlabelled.rows))
    assert left_out == set()


@pytest.mark.network
def test_every_render_is_256_px_on_its_longer_side_with_alpha(renders):
    manifest = read_manifest(LABELS)
    checked = 0
    for row in manifest.rows[::20]:
        with Image.open(manifest.image_path(row)) as image:
            assert max(image.size) == 256
            assert image.mode == "RGBA"
            checked += 1
    assert checked > 480


def test_the_lock_file_pins_every_package_by_hash_and_names_no_host():
    lock = json.loads((DATA / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert len(packages) == 10
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "http" not in json.dumps(packages)


def test_a_manifest_of_another_version_is_refused_by_name():
    with pytest.raises(DatasetError, match=r"wants @iconify-json/logos 9\.9\.9, the lock file has 1\.2\.19"):
        install_icon_sets([("@iconify-json/logos", "9.9.9")])


def test_an_unknown_icon_is_refused_by_name():
    with pytest.raises(DatasetError, match="no icon 'nobody'"):
        icon_svg({"prefix": "logos", "icons": {}}, "nobody")


def test_an_icon_keeps_its_own_box_and_gets_a_current_colour():
    icon_set = {
        "prefix": "x",
        "height": 10,
        "icons": {"a": {"body": '<path fill="currentColor"/>', "width": 40, "left": 3}},
    }
    svg = icon_svg(icon_set, "a")
    assert 'viewBox="3 0 40 10"' in svg
    assert "#111111" in svg
    assert render_svg(svg)[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_packed_manifests_are_the_labelled_ground_truth():
    assert file_hash(LABELS).startswith("0bfa7573d34af8bb")
    assert file_hash(UNLABELLED).startswith("dda369ff0edbf597")
