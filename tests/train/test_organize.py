"""What `logo-edge data organize` makes of a user's own folder: labels, near-duplicate groups, balance and splits."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hostile_tree import HOSTILE_CLASSES, draw_mark
from PIL import Image, ImageDraw, ImageFont

from logo_edge.errors import DatasetError
from logo_edge.images.load import load_image
from logo_edge.tables.find import find_images
from logo_edge_train.command_line import find_manifest
from logo_edge_train.data import processes
from logo_edge_train.data.lookalikes import nearest_limit
from logo_edge_train.data.manifest import LogoRow, Manifest, read_manifest
from logo_edge_train.organize import duplicates, organize
from logo_edge_train.organize.duplicates import MAX_DISTANCE, Look, group_copies, look_at, perceptual_hash
from logo_edge_train.organize.features import LogoMeasurements, measure_logo
from logo_edge_train.organize.label_proposer import load_proposer, measure_proposal_accuracy, propose_label
from logo_edge_train.organize.manifest_file import compare_with_source, manifest_of
from logo_edge_train.organize.organize import describe_report, organize_images, print_report
from logo_edge_train.organize.splits import split_by_group

SAMPLES = Path(__file__).parents[2] / "runtime" / "logo_edge" / "samples"
GUIDE_CLASSES = ("complex", "gradient", "simple", "text")
WORDS = ("lumora", "ondrel", "pavitek", "seldwyn", "brantor", "quimet")


def draw_disc(at: int) -> Image.Image:
    image = Image.new("RGBA", (160, 160))
    pen = ImageDraw.Draw(image)
    pen.ellipse((4, 4, 156, 156), fill="#1F6FE5")
    pen.polygon([(30 + 12 * at, 40), (120, 40 + 15 * at), (60, 126 - 8 * at)], fill="white")
    return image


def draw_word(word: str) -> Image.Image:
    font = ImageFont.load_default(size=64)
    image = Image.new("RGBA", (int(font.getlength(word)) + 20, 90))
    ImageDraw.Draw(image).text((10, 4), word, font=font, fill="#1D2A5B")
    return image


def draw_fade(at: int) -> Image.Image:
    """A shape with a colour transition over all of it; the shape and the fade's direction depend on `at`."""
    steep = np.linspace(0, 1, 160)
    ramp = [steep[:, None] + 0 * steep, steep + 0 * steep[:, None], (steep[:, None] + steep) / 2][at % 3]
    pixels = np.stack([250 - 120 * ramp, 60 + 80 * ramp, 90 + 150 * ramp], 2).astype(np.uint8)
    mask = Image.new("L", (160, 160))
    pen = ImageDraw.Draw(mask)
    if at % 2:
        pen.polygon([(80, 2), (158, 40 + 10 * at), (100, 158), (10, 110)], fill=255)
    else:
        pen.pieslice((2, 2, 158, 158), 40 * at, 40 * at + 290, fill=255)
    image = Image.fromarray(pixels).convert("RGBA")
    image.putalpha(mask)
    return image


def draw_figure(seed: int) -> Image.Image:
    """An intricate drawing: forty outlined blobs in many flat colours."""
    rng = np.random.default_rng(1000 + seed)
    image = Image.new("RGBA", (200, 200))
    pen = ImageDraw.Draw(image)
    pen.ellipse((5, 5, 195, 195), fill="#3B2A4A")
    for _ in range(40):
        x, y = rng.uniform(25, 150, 2)
        width, height = rng.uniform(10, 30, 2)
        colour = tuple(int(c) * 50 for c in rng.integers(0, 6, 3))
        pen.ellipse((x, y, x + width, y + height), fill=colour, outline="#1B1524", width=2)
    return image


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def fill_classes(folder: Path, sizes: dict[str, int]) -> None:
    for k, (name, count) in enumerate(sizes.items()):
        for at in range(count):
            save(draw_mark(1000 * k + at), folder / name / f"{at:02}.png")


def fill_unlabelled(folder: Path, per_class: int = 6) -> dict[str, str]:
    """Images of each class of the guide, directly in the folder; their names and what they are."""
    drawings = {
        "simple": [draw_disc(at) for at in range(per_class)],
        "text": [draw_word(word) for word in WORDS[:per_class]],
        "gradient": [draw_fade(at) for at in range(per_class)],
        "complex": [draw_figure(at) for at in range(per_class)],
    }
    truth = {}
    for label, images in drawings.items():
        for at, image in enumerate(images):
            truth[save(image, folder / f"{label[0]}{at}.png").name] = label
    return truth


def groups_by_split(rows) -> dict[str, set[str]]:
    splits = defaultdict(set)
    for row in rows:
        splits[row.group].add(row.split)
    return splits


def test_class_folders_of_any_name_become_a_split_manifest_with_every_image_once(tmp_path):
    fill_classes(tmp_path / "logos", {"cat": 20, "dog": 12, "owl": 7})
    report = organize_images(tmp_path / "logos", tmp_path / "out" / "mine.csv", target_per_class=None, seed=3)
    manifest = read_manifest(tmp_path / "out" / "mine.csv")
    assert manifest.classes == ("cat", "dog", "owl")
    assert sorted(row.icon for row in manifest.rows) == sorted(
        f"../logos/{name}/{at:02}.png" for name, count in (("cat", 20), ("dog", 12), ("owl", 7)) for at in range(count)
    )
    for row in manifest.rows:
        assert manifest.image_path(row).is_file()
        assert row.label in row.icon
        assert (row.votes, row.sure, row.package, row.version) == ((row.label,), True, "files", "")
    assert report.counts["train"] == {"cat": 14, "dog": 9, "owl": 4}
    assert all(count > 0 for cells in report.counts.values() for count in cells.values())
    assert (report.labelled, report.proposed, report.unlabelled, report.left_out) == (39, 0, (), 0)


def test_resized_recompressed_and_padded_copies_share_a_group_that_no_split_cuts(tmp_path):
    marks = 12
    for at in range(marks):
        mark = draw_mark(at, size_px=160)
        folder = tmp_path / "logos" / ("a" if at % 2 else "b")
        save(mark, folder / f"{at}-original.png")
        save(mark.resize((90, 90)), folder / f"{at}-small.png")
        paper = Image.new("RGB", mark.size, "white")
        paper.paste(mark, mask=mark)
        save(paper, folder / f"{at}-paper.jpg", quality=80)
        padded = Image.new("RGBA", (240, 220))
        padded.paste(mark, (50, 20))
        save(padded, folder / "deeper" / f"{at}-padded.webp", lossless=True)
    report = organize_images(tmp_path / "logos", tmp_path / "logos" / "manifest.csv", target_per_class=None, seed=0)
    rows = read_manifest(tmp_path / "logos" / "manifest.csv").rows
    drawings_of_group = defaultdict(set)
    for row in rows:
        drawings_of_group[row.group].add(Path(row.icon).name.split("-")[0])
    assert len(rows) == 4 * marks
    assert sorted(map(sorted, drawings_of_group.values())) == sorted([str(at)] for at in range(marks))
    assert all(len(splits) == 1 for splits in groups_by_split(rows).values())
    assert (report.groups, report.near_duplicates, report.mixed_groups) == (marks, 3 * marks, ())


def test_a_drawing_under_two_labels_is_reported_as_a_mixed_group(tmp_path):
    fill_classes(tmp_path, {"a": 5, "b": 5})
    save(draw_mark(0), tmp_path / "b" / "again.png")
    report = organize_images(tmp_path, tmp_path / "m.csv", target_per_class=None, seed=0)
    assert report.mixed_groups == ("a/00.png",)


def test_damaged_and_foreign_files_are_reported_and_skipped_and_hidden_ones_ignored(tmp_path):
    fill_classes(tmp_path, {"a": 5, "b": 5})
    whole = (tmp_path / "a" / "00.png").read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "b" / "empty.jpg").write_bytes(b"")
    (tmp_path / "b" / ".hidden.png").write_bytes(whole)
    save(draw_mark(99), tmp_path / ".cache" / "thumbnail.png")
    for _ in range(2):  # the second time beside the manifest of the first
        report = organize_images(tmp_path, tmp_path / "m.csv", target_per_class=None, seed=0, overwrite=True)
        reasons = {skipped.path.name: skipped.reason for skipped in report.skipped}
        assert reasons.keys() == {"cut.png", "empty.jpg", "notes.txt", ".hidden.png", ".cache"}
        assert reasons["notes.txt"] == "the suffix .txt is not that of an image"
        assert "damaged or truncated" in reasons["cut.png"]
        assert "empty (0 bytes)" in reasons["empty.jpg"]
        assert len(read_manifest(tmp_path / "m.csv").rows) == 10


def test_a_loop_of_links_ends(tmp_path):
    fill_classes(tmp_path, {"a": 4, "b": 4})
    try:
        os.symlink(tmp_path, tmp_path / "a" / "loop", target_is_directory=True)
        os.symlink(tmp_path / "gone", tmp_path / "a" / "dangling.png")
    except OSError:
        pytest.skip("this system lets the user make no links")
    report = organize_images(tmp_path, tmp_path / "m.csv", target_per_class=None, seed=0)
    assert report.labelled == 8
    assert [skipped.path.name for skipped in report.skipped] == ["loop", "dangling.png"]


def test_balancing_drops_near_duplicates_first_and_reports_small_classes(tmp_path):
    fill_classes(tmp_path, {"many": 9, "few": 5})
    for at in range(9):
        save(draw_mark(at).resize((100, 100)), tmp_path / "many" / f"copy{at}.png")
    report = organize_images(tmp_path, tmp_path / "m.csv", target_per_class=8, seed=1)
    many = [row for row in read_manifest(tmp_path / "m.csv").rows if row.label == "many"]
    assert len(many) == len({row.group for row in many}) == 8
    assert report.below_target == {"few": 5}
    assert report.left_out == 10


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_splits(tmp_path):
    fill_classes(tmp_path / "logos", {"a": 12, "b": 12})
    written = []
    for seed in (5, 5, 6):
        organize_images(tmp_path / "logos", tmp_path / "m.csv", target_per_class=10, seed=seed, overwrite=True)
        written.append((tmp_path / "m.csv").read_bytes())
    assert written[0] == written[1] != written[2]


def test_several_processes_write_what_one_does(tmp_path, monkeypatch):
    fill_classes(tmp_path / "logos", {"a": 6, "b": 6})
    organize_images(tmp_path / "logos", tmp_path / "one.csv", target_per_class=None, seed=0)
    monkeypatch.setattr(processes, "FEW_IMAGES", 1)
    organize_images(tmp_path / "logos", tmp_path / "many.csv", target_per_class=None, seed=0)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "many.csv").read_bytes()


def test_images_without_a_class_folder_get_proposed_labels(tmp_path):
    truth = fill_unlabelled(tmp_path)
    report = organize_images(tmp_path, tmp_path / "m.csv", target_per_class=None, seed=0)
    rows = read_manifest(tmp_path / "m.csv").rows
    right = [row.label == truth[row.icon] for row in rows]
    assert (len(rows), report.labelled, report.proposed) == (24, 0, 24)
    assert sum(right) >= 21
    assert report.proposed_sure == sum(row.sure for row in rows) > 0
    assert all(row.votes == (row.label,) for row in rows)


def test_given_and_proposed_labels_mix_and_the_given_ones_are_sure(tmp_path):
    truth = fill_unlabelled(tmp_path)
    given = [name for at, name in enumerate(sorted(truth)) if at % 2]
    for name in given:
        label = truth[name]
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / label / name)
    report = organize_images(tmp_path, tmp_path / "m.csv", target_per_class=None, seed=0)
    rows = {row.icon: row for row in read_manifest(tmp_path / "m.csv").rows}
    assert (report.labelled, report.proposed) == (12, 12)
    checked = [rows[f"{truth[name]}/{name}"] for name in given]
    assert len(checked) == 12
    assert all(row.sure and row.label == truth[Path(row.icon).name] for row in checked)


def test_beside_other_classes_unlabelled_images_are_reported_and_left_out(tmp_path):
    fill_classes(tmp_path, {"cat": 5, "dog": 5})
    save(draw_word("ondrel"), tmp_path / "loose.png")
    report = organize_images(tmp_path, tmp_path / "m.csv", target_per_class=None, seed=0)
    assert [path.name for path in report.unlabelled] == ["loose.png"]
    assert {row.label for row in read_manifest(tmp_path / "m.csv").rows} == {"cat", "dog"}


@pytest.mark.parametrize(
    ("sizes", "target", "message"),
    [
        ({}, None, "no image can be used; expected images such as .png"),
        ({"a": 6}, None, "all 6 images are of one class, 'a'"),
        ({"a": 6, "b": 3, "c": 2}, None, r"classes with fewer than 4 images: 'b' \(3\), 'c' \(2\)"),
        ({"a": 6, "b": 6}, 3, "target_per_class is 3; expected at least 4"),
    ],
)
def test_a_folder_that_cannot_be_split_says_why_and_writes_nothing(tmp_path, sizes, target, message):
    folder = tmp_path / "logos"
    folder.mkdir()
    fill_classes(folder, sizes)
    with pytest.raises(DatasetError, match=message):
        organize_images(folder, tmp_path / "m.csv", target_per_class=target, seed=0)
    assert not (tmp_path / "m.csv").exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DatasetError, match="nowhere: no such file or folder"):
        organize_images(tmp_path / "nowhere", tmp_path / "m.csv", target_per_class=None, seed=0)


def test_splits_hold_the_shares_in_every_class_and_keep_groups_whole():
    rng = np.random.default_rng(0)
    groups = [f"g{at}" for at in np.repeat(np.arange(400), rng.integers(1, 5, 400))]
    labels = ["rare" if int(group[1:]) % 8 == 0 else "common" for group in groups]
    splits = split_by_group(labels, groups, seed=4)
    cells = Counter(zip(labels, splits, strict=True))
    for label in ("rare", "common"):
        total = labels.count(label)
        for split, share in (("train", 0.7), ("val", 0.1), ("calib", 0.1), ("test", 0.1)):
            assert cells[label, split] / total == pytest.approx(share, abs=0.02)
    assert len(set(zip(groups, splits, strict=True))) == 400


def test_four_groups_reach_all_four_splits_and_the_largest_is_for_training():
    groups = ["big"] * 9 + ["x", "y", "z"]
    splits = split_by_group(["a"] * 12, groups, seed=0)
    assert splits[:9] == ["train"] * 9
    assert sorted(splits[9:]) == ["calib", "test", "val"]


def test_copies_chain_but_another_aspect_ratio_stays_apart():
    mark = look_at(draw_mark(1))
    near, further = (replace(mark, square=mark.square + step) for step in (0.3, 0.6))
    looks = [mark, near, further, replace(mark, aspect_ratio=3.0), look_at(draw_mark(2))]
    assert group_copies(looks, ["a"] * 5, list("abcde")).firsts == [0, 0, 0, 3, 4]
    assert group_copies([], [], []).firsts == []


def paint_mark(seed: int, colour: str) -> Image.Image:
    """The drawing of `draw_mark` in one colour, on white."""
    mark = draw_mark(seed)
    image = Image.new("RGB", mark.size, "white")
    image.paste(colour, mask=mark.convert("LA").getchannel("L").point(lambda level: 255 - level))
    return image


def test_a_drawing_in_other_colours_is_a_copy_only_where_the_labels_ignore_them():
    green, red = paint_mark(1, "#008751"), paint_mark(1, "#D91023")
    (jpeg := io.BytesIO(), green.reduce(2).save(jpeg, "JPEG", quality=50))
    looks = [look_at(image) for image in (green, red, Image.open(jpeg).convert("RGB"))]

    def groups(*labels, **options):
        return group_copies(looks, labels, list("abc"), **options).firsts

    assert groups("green", "red", "green") == [0, 1, 0]
    assert groups("green", "red", "red") == [0, 0, 0], "through the JPEG, whose label is wrong"
    assert groups("mark", "mark", "mark") == [0, 0, 0]
    assert groups("", "red", "") == [0, 0, 0], "the label of the first is not known"
    assert groups("", "", "", labels=[("green", "mark"), ("red", "mark"), ("green", "mark")]) == [0, 1, 0]


def test_equal_files_are_copies_whatever_the_limit():
    looks = [look_at(draw_mark(seed)) for seed in range(3)]
    assert group_copies(looks, ["a"] * 3, ["x", "y", "x"], exact=True).firsts == [0, 1, 0]
    assert group_copies(looks, ["a"] * 3, ["x", "y", "x"]).firsts == [0, 1, 0]


def test_different_wordmarks_of_one_shape_have_distant_looks():
    looks = [look_at(draw_word(word).resize((300, 80))) for word in WORDS]
    hashes = [(a.hash ^ b.hash).bit_count() for at, a in enumerate(looks) for b in looks[:at]]
    distances = [np.sqrt(((a.square - b.square) ** 2).mean()) for at, a in enumerate(looks) for b in looks[:at]]
    assert len(hashes) == len(distances) == 15
    assert min(hashes) > 8
    assert min(distances) > MAX_DISTANCE
    assert all(0 <= look.hash < 1 << 64 for look in looks)


def draw_part(seed: int, *, jitter_px: float) -> Image.Image:
    """A photograph of one machine part at a random position and light; every other part is scratched."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (200, 150), (96, 98, 101))
    pen = ImageDraw.Draw(image)
    x, y = rng.uniform(-jitter_px, jitter_px, 2)
    pen.ellipse((50 + x, 25 + y, 150 + x, 125 + y), fill=(150, 152, 155))
    pen.ellipse((85 + x, 60 + y, 115 + x, 90 + y), fill=(60, 60, 62))
    if seed % 2:
        left, top = 100 + x + rng.uniform(-25, 25), 75 + y + rng.uniform(-25, 25)
        pen.line((left, top, left + 18, top + rng.uniform(-18, 18)), fill=(210, 210, 212), width=2)
    pixels = np.asarray(image, float) * rng.uniform(0.93, 1.07) + rng.normal(0, 5, (150, 200, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("jitter_px", [0, 1, 5])
def test_photographs_of_one_part_are_split_70_10_10_10_and_their_copies_stay_together(tmp_path, jitter_px):
    for seed in range(100):
        photograph, name = draw_part(seed, jitter_px=jitter_px), ("ok", "scratch")[seed % 2]
        save(photograph, tmp_path / name / f"{seed}.png")
        if seed % 10 == 0:
            save(photograph.resize((160, 120)), tmp_path / name / f"{seed}-again.jpg", quality=80)
    report = organize_images(tmp_path, tmp_path / "m.csv")
    rows = read_manifest(tmp_path / "m.csv").rows
    for name, total in (("ok", 60), ("scratch", 50)):
        for split, share in (("train", 0.7), ("val", 0.1), ("calib", 0.1), ("test", 0.1)):
            assert report.counts[split][name] / total == pytest.approx(share, abs=0.05)
    group_of = {Path(row.icon).stem: row.group for row in rows}
    assert [group_of[f"{seed}-again"] for seed in range(0, 100, 10)] == [
        group_of[f"{seed}"] for seed in range(0, 100, 10)
    ]
    assert report.groups > 70
    assert (report.uneven, report.limits.keys()) == ({}, {"ok", "scratch"})
    assert any("closer than" in line for line in describe_report(report))


def test_a_limit_for_held_out_copies_does_not_take_most_of_a_class():
    rng = np.random.default_rng(0)
    unlike, scene = rng.uniform(0.8, 1.3, 100), rng.uniform(0.01, 0.2, 100)
    assert nearest_limit(np.append(unlike, [0.1, 0.2]), 0.245) == 0.245
    assert (scene <= nearest_limit(scene, 0.245)).sum() <= 10
    half_copied = np.append(unlike[:60], np.full(40, 0.02))
    assert (half_copied <= nearest_limit(half_copied, 0.245)).sum() == 40


def test_a_large_group_of_copies_is_said_to_be_why_splits_are_uneven(tmp_path):
    fill_classes(tmp_path, {"a": 10, "b": 25})
    for at in range(30):
        shutil.copy(tmp_path / "a" / "00.png", tmp_path / "a" / f"copy{at}.png")
    report = organize_images(tmp_path, tmp_path / "m.csv")
    assert report.uneven == {"a": ((78, 8, 8, 8), 31)}
    assert any("a: 78/8/8/8, the largest group has 31 images" in line for line in describe_report(report))


def test_a_class_is_uneven_only_by_more_than_one_image(tmp_path):
    fill_classes(tmp_path, {"a": 11, "b": 12})
    shutil.copy(tmp_path / "a" / "00.png", tmp_path / "a" / "copy.png")
    counts, uneven = (report := organize_images(tmp_path, tmp_path / "m.csv")).counts, report.uneven
    assert {split: counts[split]["a"] for split in counts} == {"train": 9, "val": 1, "calib": 1, "test": 1}
    assert uneven == {}


def test_only_equal_files_are_copies_where_the_user_says_so(tmp_path):
    fill_classes(tmp_path, {"a": 8, "b": 8})
    save(draw_mark(0).resize((90, 90)), tmp_path / "a" / "small.png")
    shutil.copy(tmp_path / "a" / "01.png", tmp_path / "a" / "equal.png")
    assert organize_images(tmp_path, tmp_path / "m.csv").near_duplicates == 2
    assert organize_images(tmp_path, tmp_path / "exact.csv", exact_copies=True).near_duplicates == 1


def test_groups_are_the_same_where_only_spanning_forests_of_near_pairs_are_kept(monkeypatch):
    """As of thousands of photographs of one scene, whose pairs do not fit into memory."""
    random, looks, labels = np.random.default_rng(0), [], []
    scenes = [cv2.GaussianBlur(random.normal(size=(32, 32)).astype(np.float32), (0, 0), 3) for _ in range(12)]
    for at in range(240):
        scene = scenes[at % 12]
        square = scene + scene.std() * random.uniform(0, 0.6) * random.normal(size=(32, 32)).astype(np.float32)
        square = (square - square.mean()) / square.std()
        looks.append(Look(square, perceptual_hash(square), 1.0, np.zeros((8, 8, 2), np.float32)))
        labels.append("abc"[at % 3] if at % 12 < 10 else "d")
    looks += looks[:3]
    labels += labels[:3]
    digests, kept = [str(at) for at in range(len(looks))], []
    expected = group_copies(looks, labels, digests)
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 100)
    monkeypatch.setattr(duplicates, "CELLS", 5_000)
    ticks = []
    keep = duplicates._NearPairs._keep_forest
    monkeypatch.setattr(duplicates._NearPairs, "_keep_forest", lambda near: (keep(near), kept.append(len(near.pairs))))
    assert group_copies(looks, labels, digests, tick=lambda *tick: ticks.append(tick)) == expected
    assert 12 < len(set(expected.firsts)) < 240
    assert len(kept) > 5
    assert max(kept) < 4 * 243
    assert ticks[-1] == (243 * 244 / 2, 243 * 244 / 2)
    assert sorted(ticks) == ticks


def test_split_folders_are_kept_and_what_has_no_folder_comes_from_train(tmp_path):
    for split, count in (("Train", 20), ("valid", 5), ("test", 5)):
        for at in range(count):
            for k, label in enumerate(("cat", "dog")):
                save(draw_mark(1000 * k + 10 * ord(split[0]) + at), tmp_path / split / label / f"{at}.png")
    save(load_image(tmp_path / "test" / "cat" / "0.png"), tmp_path / "Train" / "cat" / "twin.png")
    report = organize_images(tmp_path, tmp_path / "m.csv")
    manifest = read_manifest(tmp_path / "m.csv")
    assert manifest.classes == ("cat", "dog")
    for row in manifest.rows:
        folder = row.icon.split("/")[0]
        assert row.split == {"valid": "val", "test": "test"}.get(folder, row.split)
        assert folder != "Train" or row.split in ("train", "calib")
    assert report.given == ("train", "val", "test")
    assert report.filled == {"calib": report.counts["calib"]["cat"] + report.counts["calib"]["dog"]}
    assert report.counts["calib"] == {"cat": 2, "dog": 2}
    assert len(report.split_groups) == 1
    assert any(
        line.startswith("1 Warning: groups that you put into different splits") for line in describe_report(report)
    )


def test_split_folders_may_lie_within_classes(tmp_path):
    for k, label in enumerate(("cat", "dog")):
        for split in ("train", "val", "calib", "test"):
            for at in range(2):
                save(draw_mark(1000 * k + 10 * len(split) + at + ord(split[0])), tmp_path / label / split / f"{at}.png")
    report = organize_images(tmp_path, tmp_path / "m.csv")
    assert all(row.icon.split("/")[:2] == [row.label, row.split] for row in read_manifest(tmp_path / "m.csv").rows)
    assert report.counts == {split: {"cat": 2, "dog": 2} for split in ("train", "val", "calib", "test")}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "test"), r"'test', 'train' are named like splits.*--no-split-folders"),
        (("cat", "dog", "test"), r"'test' are named like splits"),
        (("set/cat", "set/dog"), r"its only folder, 'set', holds the folders 'cat', 'dog'.* give .*/set;"),
        (("train/cat", "train/dog"), r"its only folder, 'train', holds"),
        (("images/cat", "images/dog"), r"'images' would be a class.* give .*/images;"),
        (("cat", "images"), r"'images' would be a class"),
        (("Logo", "logo", "cat"), r"differ only in case, blanks at an end or Unicode form: 'Logo' and 'logo'"),
        (("logo ", "logo", "cat"), r"'logo' and 'logo '"),
        (("caf\u00e9", "cafe\u0301", "cat"), r"'cafe\\u0301' and 'caf\\xe9'"),
        (("train/cat", "test/Cat", "train/dog", "test/dog"), r"'Cat' and 'cat'"),
        ((" ", "cat"), "a class's name is blank"),
    ],
)
def test_a_folder_that_probably_means_something_else_stops_at_the_start_with_the_cure(
    tmp_path, monkeypatch, folders, message
):
    for name in folders:
        for at in range(4):
            path = tmp_path / "logos" / name / f"{at}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    monkeypatch.setattr(organize, "map_in_processes", lambda *_, **__: pytest.fail("images were measured first"))
    with pytest.raises(DatasetError, match=message):
        organize_images(tmp_path / "logos", tmp_path / "m.csv")


def test_classes_may_be_named_like_splits_where_the_user_says_so(tmp_path):
    fill_classes(tmp_path, {"train": 5, "test": 5})
    organize_images(tmp_path, tmp_path / "m.csv", split_folders=False)
    assert read_manifest(tmp_path / "m.csv").classes == ("test", "train")


def test_a_label_is_its_folders_name_without_blanks_in_nfc(tmp_path):
    fill_classes(tmp_path, {"cafe\u0301 ": 5, "b": 5})
    organize_images(tmp_path, tmp_path / "m.csv")
    assert read_manifest(tmp_path / "m.csv").classes == ("b", unicodedata.normalize("NFC", "cafe\u0301"))


def test_small_classes_are_named_together_left_out_or_merged(tmp_path):
    fill_classes(tmp_path, {"a": 6, "b": 6, "c": 2, "d": 3})
    save(draw_mark(0), tmp_path / "e" / "0.png")
    for at in range(5):  # five files, one image
        save(draw_mark(77), tmp_path / "f" / f"{at}.png")
    with pytest.raises(
        DatasetError, match=r"'c' \(2\), 'd' \(3\), 'e' \(1\).*--small-classes leave-out.*--small-classes merge"
    ):
        organize_images(tmp_path, tmp_path / "m.csv")
    report = organize_images(tmp_path, tmp_path / "m.csv", small_classes="leave-out")
    assert report.small_classes == {"c": 2, "d": 3, "e": 1, "f": 1}
    assert read_manifest(tmp_path / "m.csv").classes == ("a", "b")
    organize_images(tmp_path, tmp_path / "m.csv", small_classes="merge", overwrite=True)
    manifest = read_manifest(tmp_path / "m.csv")
    assert manifest.classes == ("a", "b", "other")
    assert sum(row.label == "other" for row in manifest.rows) == 11


def test_small_classes_that_leave_one_class_are_refused_at_the_start(tmp_path, monkeypatch):
    fill_classes(tmp_path, {"a": 6, "c": 2})
    monkeypatch.setattr(organize, "map_in_processes", lambda *_, **__: pytest.fail("images were measured first"))
    with pytest.raises(DatasetError, match="all 6 images are of one class, 'a'"):
        organize_images(tmp_path, tmp_path / "m.csv", small_classes="leave-out")


def test_a_merged_class_that_is_still_too_small_is_not_told_to_merge(tmp_path):
    fill_classes(tmp_path, {"a": 6, "b": 6, "c": 2})
    with pytest.raises(DatasetError, match=r"'other' \(2\).*--small-classes leave-out\)$"):
        organize_images(tmp_path, tmp_path / "m.csv", small_classes="merge")


def test_a_manifest_that_is_there_is_never_replaced_unasked(tmp_path, monkeypatch):
    fill_classes(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "manifest.csv").write_text("sku,price\n1,2\n")
    monkeypatch.setattr(organize, "map_in_processes", lambda *_, **__: pytest.fail("images were measured first"))
    with pytest.raises(DatasetError, match="there already.*--overwrite"):
        organize_images(tmp_path, tmp_path / "manifest.csv")
    assert (tmp_path / "manifest.csv").read_text() == "sku,price\n1,2\n"
    with pytest.raises(DatasetError, match="a folder; name a file"):
        organize_images(tmp_path, tmp_path / "a", overwrite=True)


def test_a_folder_that_cannot_be_written_stops_at_the_start(tmp_path, monkeypatch):
    fill_classes(tmp_path, {"a": 5, "b": 5})
    monkeypatch.setattr(organize, "map_in_processes", lambda *_, **__: pytest.fail("images were measured first"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DatasetError, match="cannot be written; name another --out"):
        organize_images(tmp_path, tmp_path / "manifest.csv")


def test_the_manifest_of_a_folder_lies_in_the_cache_unless_the_folder_has_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    fill_classes(tmp_path / "logos", {"a": 5, "b": 5})
    before = sorted((tmp_path / "logos").rglob("*"))
    manifest = find_manifest(tmp_path / "logos")
    assert manifest == manifest_of(tmp_path / "logos")
    assert manifest.is_relative_to(tmp_path / "cache")
    assert sorted((tmp_path / "logos").rglob("*")) == before
    rows = read_manifest(manifest)
    assert len(rows.image_paths(rows.rows)) == 10
    (tmp_path / "logos" / "manifest.csv").write_bytes(manifest.read_bytes())
    assert find_manifest(tmp_path / "logos") == tmp_path / "logos" / "manifest.csv"


def test_a_manifest_is_compared_with_its_folder_by_the_files_and_not_by_their_dates(tmp_path):
    fill_classes(tmp_path / "logos", {"a": 5, "b": 5})
    manifest = tmp_path / "m.csv"
    organize_images(tmp_path / "logos", manifest)
    os.utime(tmp_path / "logos" / "a" / "00.png")
    assert compare_with_source(manifest, tmp_path / "logos") == ""
    save(draw_mark(500), tmp_path / "logos" / "a" / "new.png")
    (tmp_path / "logos" / "a" / "00.png").unlink()
    (tmp_path / "logos" / "b" / "01.png").unlink()
    text = compare_with_source(manifest, tmp_path / "logos")
    assert "1 images of" in text
    assert "2 of its own are gone" in text
    assert "--overwrite" in text


def test_a_file_of_other_pixels_under_the_same_name_is_noticed_by_the_manifest_in_the_cache(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    logos = tmp_path / "logos"
    fill_classes(logos, {"a": 5, "b": 5})
    manifest = find_manifest(logos)
    for path in logos.rglob("*.png"):
        os.utime(path, (0, 0))
    capsys.readouterr()
    assert find_manifest(logos) == manifest
    assert capsys.readouterr().out == "", "dates do not count"
    replaced, stat = logos / "a" / "00.png", (logos / "a" / "00.png").stat()
    save(draw_mark(500), replaced)
    os.utime(replaced, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert find_manifest(logos) == manifest
    assert "0 of its own are gone, 1 have another content than when it was written" in capsys.readouterr().out
    organize_images(logos, manifest, overwrite=True)
    assert compare_with_source(manifest, logos) == ""


def test_a_hostile_tree_is_organized_from_the_files_that_classify_looks_at(hostile_tree, tmp_path, capsys):
    report, damaged = (
        organize_images(hostile_tree.root, tmp_path / "m.csv"),
        hostile_tree.damaged | hostile_tree.not_utf8,
    )
    rows = read_manifest(tmp_path / "m.csv").rows
    seen = [os.path.normpath(tmp_path / row.icon) for row in rows]
    seen += [str(file.path) for file in report.skipped if os.path.relpath(file.path, hostile_tree.root) in damaged]
    assert sorted(seen) == sorted(find_images([str(hostile_tree.root)]))
    assert {os.path.relpath(path, hostile_tree.root) for path in seen} == hostile_tree.images
    assert report.uneven == {}, "few images, and not copies, are why these classes are split 50/17/17/17"
    assert {row.label for row in rows} == {*HOSTILE_CLASSES, "linked"}
    assert all(row.votes == (row.label,) for row in rows)
    print_report(report)
    shown = capsys.readouterr().out
    assert "t-shirts [new]" in shown
    assert shown.count("cut.png") == 1
    assert "[draft]" in shown
    assert "\x1b" not in shown
    with (tmp_path / "m.skipped.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(report.skipped)
    assert f"{len(report.skipped)} skipped, listed in {tmp_path / 'm.skipped.csv'}" in shown.replace("\n", "")


def test_each_file_of_a_hostile_tree_is_a_row_or_skipped_with_its_reason(hostile_tree, tmp_path):
    report = organize_images(hostile_tree.root, tmp_path / "m.csv")
    reasons = {os.path.relpath(file.path, hostile_tree.root): file.reason for file in report.skipped}
    assert reasons.keys() == hostile_tree.damaged | hostile_tree.not_utf8 | hostile_tree.left_out.keys()
    assert all("not UTF-8" in reasons[name] for name in hostile_tree.not_utf8)
    assert all(part in reasons[name] for name, part in hostile_tree.left_out.items())
    rows = read_manifest(tmp_path / "m.csv").rows
    groups = {Path(row.icon).name: row.group for row in rows if row.label == "3M"}
    assert groups["copy of 0.png"] == groups["0.png"]
    assert len(report.mixed_groups) == 1, "the copy in another class"


def test_measurements_tell_what_they_are_named_after():
    disc, word, fade, figure = (
        measure_logo(i) for i in (draw_disc(1), draw_word("lumora"), draw_fade(0), draw_figure(0))
    )
    assert (disc.n_colours, disc.gradient_share) == (2, 0)
    assert word.letters == 6
    assert word.row_width > 0.9
    assert word.text_likeness > 2 * max(disc.text_likeness, fade.text_likeness)
    assert fade.gradient_share > 0.6
    assert figure.complexity > 30 > 3 * disc.complexity
    assert word.aspect_ratio > 3 > 1.1 > disc.aspect_ratio > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (40, 2)])
@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (0, 0, 0, 0)), ("RGB", "white"), ("RGB", "red")])
def test_blank_and_degenerate_images_are_measured_too(size, mode, colour):
    proposal = propose_label(measure_logo(Image.new(mode, size, colour)))
    assert sum(proposal.probabilities.values()) == pytest.approx(1)


def test_the_samples_of_the_project_are_proposed_as_what_they_are_and_the_border_cases_less_surely():
    proposals = [propose_label(measure_logo(load_image(path))) for path in sorted(SAMPLES.glob("*.png"))]
    assert len(proposals) == 8
    assert [proposal.label for proposal in proposals[:4]] == ["simple", "text", "gradient", "complex"]
    confidences = [proposal.confidence for proposal in proposals]
    assert max(confidences[5:7]) < 0.9 < min(confidences[:4])


def test_the_committed_curves_cover_all_measurements_and_the_classes_of_the_guide():
    proposer = load_proposer()
    assert proposer.classes == GUIDE_CLASSES
    assert sorted(proposer.curves) == sorted(LogoMeasurements.__dataclass_fields__)
    assert all((np.diff(knots) > 0).all() for knots, _ in proposer.curves.values())


def make_set(folder: Path) -> Manifest:
    """A manifest of the drawings above: three of each class to train, one each to validate and to test."""
    truth = fill_unlabelled(folder, per_class=5)
    split_of = {"0": "val", "1": "test"}
    rows = [
        LogoRow("files", "", name, name, label, split=split_of.get(name[1], "train")) for name, label in truth.items()
    ]
    return Manifest(tuple(rows), folder)


def test_proposal_accuracy_is_reported_with_its_uncertainty(tmp_path):
    report = measure_proposal_accuracy(make_set(tmp_path))
    assert list(report) == ["val", "test"]
    for split in report.values():
        assert split["accuracy"]["count"] == 4
        assert split["accuracy"]["low"] <= split["accuracy"]["value"] <= split["accuracy"]["high"]
        assert list(split["recall"]) == list(GUIDE_CLASSES)
        assert sum(cell["count"] for cell in split["recall"].values()) == 4


def test_the_report_of_twenty_classes_fits_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    names = [f"class number {at}" for at in range(20)]
    counts = {split: dict.fromkeys(names, at) for at, split in enumerate(("train", "val", "calib", "test"), 1)}
    monkeypatch.setattr(organize, "describe_report", lambda report: [])
    print_report(SimpleNamespace(manifest="manifest.csv", counts=counts))
    text = capsys.readouterr().out
    assert "…" not in text
    assert (
        sum(re.search(r"class number \d+\D+1\D+2\D+3\D+4\D+$", line) is not None for line in text.splitlines()) == 20
    ), text
