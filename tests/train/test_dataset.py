"""Images in memory, missing images, look-alikes of held-out images, the unlabelled pool, targets of a panel."""

from __future__ import annotations

import io
import os
import tempfile
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hostile_tree import draw_mark
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader

from logo_edge.errors import DatasetError
from logo_edge.images.load import load_image, load_reduced
from logo_edge.preprocess import InputContract
from logo_edge_train.data import dataset as dataset_module
from logo_edge_train.data import images as images_module
from logo_edge_train.data import lookalikes
from logo_edge_train.data import pool as pool_module
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.icons import LABELS, UNLABELLED
from logo_edge_train.data.images import ImageFiles, StoredImages, telling_reads
from logo_edge_train.data.lookalikes import find_lookalikes, leave_out, thumbnails
from logo_edge_train.data.manifest import FILES, NOT_A_LOGO, LogoRow, Manifest, read_manifest
from logo_edge_train.data.pool import pool_rows
from logo_edge_train.few_shot.episodes import Drawings
from logo_edge_train.pretrain.views import InkDataset
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import AugmentConfig


def test_no_more_images_than_readers_are_in_memory_at_full_size(tmp_path, monkeypatch):
    """What a run holds of 40 photographs depends on its input size and not on theirs."""
    rows = [LogoRow(FILES, "", f"{index}.png", f"{index}", "ab"[index % 2]) for index in range(40)]
    for row in rows:
        Image.new("RGB", (320, 240), (index := int(row.group), 99, 255 - index)).save(tmp_path / row.icon)
    manifest, live, peak = Manifest(tuple(rows), tmp_path), [0], [0]

    def counted(image):
        assert np.shape(image) == (240, 320, 3)
        live[0] += 1
        peak[0] = max(peak[0], live[0])
        weakref.finalize(image, lambda: live.__setitem__(0, live[0] - 1))
        return image

    monkeypatch.setattr(images_module, "load_image", lambda path: counted(load_image(path)))
    for module in (images_module, dataset_module):
        monkeypatch.setattr(
            module, "load_reduced", lambda *sides, **more: (counted(load_reduced(*sides, **more)[0]), None)
        )
    classes = ("a", "b")
    kept = [
        LogoDataset(manifest, rows, classes, contract=InputContract(32), augment=AugmentConfig()).images,
        LogoDataset(manifest, rows, classes, contract=InputContract(32)).images,
        InkDataset(manifest, rows, size_px=32, seed=0, neighbours=np.empty((4, 40, 0), int)).inks,
        [part for parts in Drawings.load(manifest, rows, InputContract(32)).images for part in parts],
        images_module.pixels_of(rows, manifest, InputContract(32)),
    ]
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    assert lookalikes.nearest_correlations(manifest, rows, rows).min() > 0.999
    assert live[0] == 0
    assert 1 <= peak[0] <= images_module.READERS
    assert len(kept) == 5
    for images in kept:
        assert len(images) >= 40
        assert max(np.asarray(image).size for image in images) <= (32 * images_module.KEPT_SCALE) ** 2 * 4


def test_images_are_read_no_further_ahead_than_readers(tmp_path, monkeypatch):
    rows = [LogoRow(FILES, "", f"{index}.png", f"{index}", "a") for index in range(40)]
    for row in rows:
        Image.new("RGB", (9, 9)).save(tmp_path / row.icon)
    read = []
    reading = images_module.each_image(Manifest(tuple(rows), tmp_path), rows, read.append)
    next(reading)
    reading.close()
    assert 1 <= len(read) <= images_module.READERS + 1


@pytest.mark.parametrize(
    ("fit", "size_px", "decoded_shape", "kept_size"),
    [
        ("letterbox", 64, (150, 200, 3), (96, 72)),
        ("letterbox", 72, (300, 400, 3), (108, 81)),  # of (150, 200) the views would hold too little detail
        ("crop", 52, (300, 400, 3), (104, 78)),  # the shorter side of (150, 200) is too short
    ],
)
def test_a_photograph_is_decoded_for_views_at_a_reduced_scale_that_changes_them_by_less_than_a_level(
    tmp_path, monkeypatch, fit, size_px, decoded_shape, kept_size
):
    small = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    photograph = Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC)
    rows = [LogoRow(FILES, "", f"{label}.jpg", label, label) for label in "ab"]
    for row in rows:
        photograph.save(tmp_path / row.icon, quality=95)
    manifest, decoded = Manifest(tuple(rows), tmp_path), []

    def recorded(*sides, **more):
        pixels, covered = load_reduced(*sides, **more)
        decoded.append(np.shape(pixels))
        return pixels, covered

    monkeypatch.setattr(dataset_module, "load_reduced", recorded)
    contract = InputContract(size_px, fit=fit)
    images = LogoDataset(manifest, rows, ("a", "b"), contract=contract, augment=AugmentConfig()).images
    assert decoded == [decoded_shape] * 2
    kept = images_module.shrink(photograph, max(kept_size))
    assert [image.size for image in images] == [kept.size] * 2 == [kept_size] * 2
    assert np.abs(np.asarray(images[0]).astype(int) - np.asarray(kept)).mean() < 1


@pytest.mark.parametrize("held_bytes", [0, 9_000, 10**9])
@pytest.mark.parametrize("augment", [AugmentConfig(), None])
def test_views_are_the_same_where_images_lie_in_a_file(tmp_path, monkeypatch, augment, held_bytes):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    rows = [LogoRow(FILES, "", f"{index}.png", f"{index}", "ab"[index % 2]) for index in range(8)]
    for index, row in enumerate(rows):
        mark = draw_mark(index).convert(("RGBA", "RGB")[index % 2])
        mark.resize((60 + 9 * index, 70)).save(tmp_path / row.icon)

    def draw() -> list[bytes]:
        dataset = LogoDataset(Manifest(tuple(rows), tmp_path), rows, ("a", "b"), contract=contract, augment=augment)
        assert bool(dataset.images.places) == (held_bytes < 10**9)
        assert len(dataset.images) == 8
        return [bytes(dataset[index][0].numpy()) for index in range(8)]

    contract, views = InputContract(32), []
    for size in (held_bytes, 10**9):
        monkeypatch.setattr(images_module, "HELD_BYTES", size)
        held_bytes = size
        views.append(draw())
    assert views[0] == views[1]
    assert len(set(views[0])) == 8
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


def test_the_processes_of_a_data_loader_get_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(images_module, "HELD_BYTES", 300)
    stored = StoredImages(np.full((9, 9, 3), value, np.uint8) for value in range(4))
    assert (len(stored.held), len(stored.places)) == (1, 3)
    loader = DataLoader(stored, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert [int(pixels[8, 8, 2]) for pixels in loader] == [0, 1, 2, 3]
    assert (stored[1:4] == np.arange(1, 4).reshape(3, 1, 1, 1)).all()


def test_a_system_that_cannot_read_at_an_offset_such_as_windows_holds_all(monkeypatch):
    monkeypatch.setattr(images_module, "HELD_BYTES", 300)
    monkeypatch.delattr(os, "preadv")
    stored = StoredImages(np.full((9, 9, 3), value, np.uint8) for value in range(4))
    assert (len(stored.held), len(stored.places)) == (4, 0)
    assert (stored[1:4] == np.arange(1, 4).reshape(3, 1, 1, 1)).all()


def test_a_full_disk_says_where_the_reduced_images_go_and_how_to_change_that(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr(images_module, "HELD_BYTES", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    with pytest.raises(DatasetError, match="No space left.*LOGO_EDGE_CACHE"):
        StoredImages([Image.new("RGB", (9, 9))])


def test_the_reading_of_images_is_reported_from_first_to_last_and_ends_where_a_cache_knows_some(tmp_path, monkeypatch):
    rows = [LogoRow(FILES, "", f"{index}.png") for index in range(6)]
    for row in rows:
        Image.new("RGB", (9, 9)).save(tmp_path / row.icon)
    manifest, reports = Manifest(tuple(rows), tmp_path), []
    monkeypatch.setattr(images_module, "TOLD_S", 0)
    with telling_reads(reports.append, "fit", 8):
        images_module.pixels_of(rows[:4], manifest, InputContract(32))
        images_module.pixels_of(rows[4:], manifest, InputContract(32))
    assert [(report["done"], report["total"]) for report in reports] == [(at, 8) for at in range(1, 7)] + [(6, 6)]
    assert {(report["kind"], report["name"]) for report in reports} == {("stage", "fit: images")}
    images_module.pixels_of(rows, manifest, InputContract(32))
    assert len(reports) == 7
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with FitProgress(console) as progress:
        progress(reports[2])
        assert "fit: images" in "".join(str(task.description) for task in progress.bar.tasks)
        assert progress.bar.tasks[0].percentage == 100 * 3 / 8
        progress(reports[-1])
        assert not progress.bar.tasks[0].visible


def test_images_of_files_are_decoded_when_they_are_asked_for(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(path)
    images = ImageFiles(paths)
    assert [image.getpixel((0, 0))[0] for image in images] == [0, 1, 2]
    assert [image.getpixel((0, 0))[0] for image in images[1:]] == [1, 2]
    paths[1].unlink()
    assert images[2].getpixel((0, 0))[0] == 2


def test_missing_images_are_counted_and_get_the_advice_of_their_kind(tmp_path):
    ours, own = [
        [LogoRow(package, "1", f"{index}.png") for index in range(3)] for package in ("@iconify-json/logos", FILES)
    ]
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(DatasetError, match=r"2 of 3 images .* first .*1\.png\. Put them back"):
        Manifest(tuple(own), tmp_path).image_paths(own)
    with pytest.raises(DatasetError, match="3 of 3 images .* `logo-edge data fetch` renders them"):
        Manifest(tuple(ours), tmp_path, tmp_path).image_paths(ours)


def test_a_labelled_copy_of_a_held_out_image_stays_where_the_user_put_it_and_an_unlabelled_one_does_not(tmp_path):
    rows = []
    for index in range(24):
        draw_mark(index).save(tmp_path / f"{index}.png")
        rows.append(LogoRow(FILES, "", f"{index}.png", f"{index}", "ab"[index % 2], split=("train", "val")[index < 4]))
    for name, label in (("labelled.png", "a"), ("unlabelled.png", "")):
        draw_mark(0).save(tmp_path / name)
        rows.append(LogoRow(FILES, "", name, name, label))
    manifest = Manifest(tuple(rows), tmp_path)
    learned = [row for row in rows if row.split == "train"]
    labelled, unlabelled = rows[-2:]
    assert find_lookalikes(manifest, learned) == {labelled, unlabelled}
    assert leave_out(manifest, learned) == ({unlabelled}, {labelled})


def test_look_alikes_are_searched_once_and_again_for_a_changed_image(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    rows = [LogoRow(FILES, "", f"{at}.png", f"{at}", "a", split=("val", "train")[at > 3]) for at in range(24)]
    for at, row in enumerate(rows):
        draw_mark(at if at < 23 else 0).save(tmp_path / row.icon)
    manifest, measured = Manifest(tuple(rows), tmp_path), []

    def count(images):
        images = list(images)
        measured.append(len(images))
        return thumbnails(images)

    monkeypatch.setattr(lookalikes, "thumbnails", count)
    learned = manifest.split("train")
    assert find_lookalikes(manifest, learned) == find_lookalikes(manifest, learned[::-1]) == {rows[-1]}
    assert measured == [4, 20]
    draw_mark(99).save(tmp_path / rows[-1].icon)
    assert find_lookalikes(manifest, learned) == set()
    assert measured == [4, 20, 4, 1]


def test_photographs_of_one_scene_are_not_taken_for_copies_of_held_out_ones(tmp_path):
    rng, rows = np.random.default_rng(0), []
    scene = rng.integers(60, 200, (24, 32, 3))
    for index in range(60):
        noise = rng.normal(0, 6, scene.shape)
        Image.fromarray((scene + noise).clip(0, 255).astype(np.uint8)).resize((96, 72)).save(tmp_path / f"{index}.png")
        split = "val" if index < 20 else "train"
        rows.append(LogoRow("icons", "1", f"{index}", f"{index}", "ab"[index % 2], split=split))
        (tmp_path / "icons" / "1").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{index}.png").rename(tmp_path / "icons" / "1" / f"{index}.png")
    manifest = Manifest(tuple(rows), tmp_path, tmp_path)
    assert len(find_lookalikes(manifest, manifest.split("train"))) <= 8


def test_a_changed_cell_in_a_copy_of_the_projects_labels_keeps_the_unlabelled_pool(monkeypatch):
    monkeypatch.setattr(pool_module, "leave_out", lambda *_: (set(), set()))
    labels, unlabelled = read_manifest(LABELS), read_manifest(UNLABELLED)
    changed = list(labels.rows)
    changed[0] = replace(changed[0], sure=not changed[0].sure)
    pool = pool_rows(Manifest(tuple(changed), labels.folder), use_unlabelled=True, max_images=0)
    assert [row for row in pool if not row.label] == list(unlabelled.rows)
    moved = Manifest((*changed, replace(unlabelled.rows[0], label="text", split="val")), labels.folder)
    pool = pool_rows(moved, use_unlabelled=True, max_images=0)
    held_out = [row for row in unlabelled.rows if row.group == unlabelled.rows[0].group]
    assert 1 <= len(held_out) == len(unlabelled.rows) - len([row for row in pool if not row.label])
    own = Manifest(tuple(replace(row, package=FILES) for row in changed[:9]), labels.folder)
    assert all(row.label for row in pool_rows(own, use_unlabelled=True, max_images=0))


def test_a_panel_has_its_share_of_the_labels_and_speaks_alone_of_logos_without_one(tmp_path):
    rows = [
        LogoRow(FILES, "", f"{index}.png", label=label, votes=votes)
        for index, (label, votes) in enumerate((("a", ("a", "a", "b")), ("", ()), (NOT_A_LOGO, ())))
    ]
    for row in rows:
        Image.new("RGB", (20, 20), (200, 0, 0)).save(tmp_path / row.icon)
    panel = np.array([[0.2, 0.8], [0.4, 0.6], [0.0, 0.0]])
    logos = LogoDataset(
        Manifest(tuple(rows), tmp_path),
        rows,
        ("a", "b"),
        contract=InputContract(32),
        use_votes=True,
        panel=panel,
        panel_share=0.5,
    )
    assert logos.targets == pytest.approx(np.array([[1 / 3 + 0.1, 1 / 6 + 0.4, 0], [0.4, 0.6, 0], [0, 0, 1]]))
