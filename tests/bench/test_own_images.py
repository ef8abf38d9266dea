"""The comparison on own images: its data sets, its figures, its tables, and the whole of it in small."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from logo_edge_bench.experiments import own_data, own_images, own_tables, walkthrough
from logo_edge_bench.experiments.own_data import Picture, assign, colours_of, make_data, meaning_of, take
from logo_edge_bench.experiments.own_images import OURS, TIMM, ULTRALYTICS, figures, plan, score, timed
from logo_edge_train.data.manifest import FILES, SPLITS, LogoRow, read_manifest, write_manifest

TINY = Path(__file__).parents[1] / "tiny.toml"


def stripes(*colours: str) -> Image.Image:
    image = Image.new("RGBA", (60, 40))
    for index, colour in enumerate(colours):
        width = 60 // len(colours)
        ImageDraw.Draw(image).rectangle((index * width, 0, (index + 1) * width - 1, 40), fill=colour)
    return image


@pytest.mark.parametrize(
    ("colours", "names"),
    [
        (("#ce1126", "#ffffff", "#002b7f"), {"red", "white", "blue"}),
        (("#fcd116", "#007a3d", "#000000"), {"yellow", "green", "black"}),
        (("#ff883e", "#169b62"), {"orange", "green"}),
        (("#75aadb", "#eeeeee"), {"blue", "white"}),
    ],
)
def test_the_labels_of_a_flag_are_its_colours(colours, names):
    assert colours_of(stripes(*colours)) == names


def test_transparent_pixels_and_small_emblems_have_no_colour():
    flag = stripes("#ce1126")
    ImageDraw.Draw(flag).rectangle((0, 0, 4, 4), fill="#fcd116")
    assert colours_of(flag) == {"red"}
    flag.paste((0, 107, 63, 0), (0, 0, 60, 20))
    assert colours_of(flag) == {"red"}


def test_the_meaning_of_an_icon_is_its_name_without_style_and_size():
    names = ("camera", "camera-fill", "camera-outline", "camera-bold-duotone", "camera-24", "bx-camera")
    assert {meaning_of(name) for name in names} == {"camera"}
    assert meaning_of("camera-off") == "camera-off"


def test_copies_and_groups_are_in_one_split():
    random = np.random.default_rng(0)
    noise = [Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(20)]
    pictures = [Picture(("a",), f"{index}-{copy}", noise[index]) for index in range(20) for copy in range(2)]
    split_of = {picture.name: picture.split for picture in assign(pictures, several=False)}
    assert all(split_of[f"{index}-0"] == split_of[f"{index}-1"] for index in range(20))
    assert set(split_of.values()) == set(SPLITS)
    flags = [
        Picture(("red", "blue")[: 1 + index % 2], f"{index}-{copy}", noise[index], str(index))
        for index in range(20)
        for copy in range(2)
    ]
    split_of = {picture.name: picture.split for picture in assign(flags, several=True)}
    assert all(split_of[f"{index}-0"] == split_of[f"{index}-1"] for index in range(20))
    assert set(split_of.values()) == set(SPLITS)


def test_a_small_data_set_has_four_classes_of_as_many_pictures():
    pictures = (Picture((name,), f"{name}{index}", Image.new("RGB", (2, 2))) for name in "abcdef" for index in range(9))
    assert Counter(picture.labels[0] for picture in take(pictures, 3)) == dict.fromkeys("abcd", 3)


def test_the_score_is_the_accuracy_or_the_f1_over_all_labels():
    one = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]])
    assert score(one, np.array([0, 1, 1])) == pytest.approx(2 / 3)
    several = np.array([[0.9, 0.8], [0.2, 0.4]])
    assert score(several, np.array([[1, 0], [0, 1]])) == pytest.approx(2 * 1 / (2 + 2))
    assert score(several, np.array([[1, 1], [0, 0]])) == 1.0


def test_figures_of_several_labels_have_average_precision():
    random = np.random.default_rng(0)
    targets = random.integers(0, 2, (80, 3))
    sure = figures(np.where(targets == 1, 0.99, 0.01), targets)
    assert (sure["score"]["value"], sure["mean_average_precision"], sure["exact"]) == (1.0, 1.0, 1.0)
    assert sure["ece_debiased"]["value"] == pytest.approx(0.01, abs=1e-6)
    assert "mean_average_precision" not in figures(np.full((80, 3), 1 / 3), targets.argmax(1))


def test_the_time_of_an_interrupted_training_counts(tmp_path):
    path = tmp_path / "seconds.json"
    with timed(path):
        pass
    first = json.loads(path.read_text())

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    with pytest.raises(SystemExit), timed(path):
        end()
    assert json.loads(path.read_text())["wall_s"] > first["wall_s"] > 0


def test_ultralytics_comes_last():
    pairs = plan(("a", "b"), (TIMM, OURS, ULTRALYTICS))
    assert pairs[:4] == [("a", TIMM), ("a", OURS), ("b", TIMM), ("b", OURS)]
    assert pairs[4:] == [("a", ULTRALYTICS), ("b", ULTRALYTICS)]


def made_up_row(system: str, score: float, ece: float, size_bytes: int, gain: float | None = None) -> dict:
    def figure(value):
        return {"value": value, "low": value - 0.01, "high": value + 0.01}

    row = {
        "data": "icons",
        "system": system,
        "images": dict.fromkeys(SPLITS, 100),
        "classes": 60,
        "multi_label": False,
        "minutes": 12.0,
        "size_bytes": size_bytes,
        "input_px": 96,
        "val": {"score": figure(score)},
        "test": {"score": figure(score), "ece_debiased": figure(ece)},
    }
    ours = {"teachers_val": 0.95, "calibration": "temperature"} if system == OURS else {}
    return row | ours | ({"over_timm": figure(gain)} if gain is not None else {})


def test_the_tables_show_the_gain_and_name_what_is_missed():
    rows = {
        "icons, timm": made_up_row(TIMM, 0.9, 0.05, 13_000_000),
        "icons, logo-edge": made_up_row(OURS, 0.91, 0.01, 1_000_000, 0.01),
        "icons, ultralytics": {"data": "icons", "system": ULTRALYTICS, "not_measured": "no reason"},
    }
    result = {"cores": 2, "rows": rows}
    table = own_tables.own_images(result)
    assert "| icons | logo-edge | 91.0% (90.0% to 92.0%) | +1.0 (+0.0 to +2.0) | 1.0% | 1.00 | 96 |  | 12 |" in table
    assert "not measured: no reason" in table
    assert "| all reached |" in own_tables.own_data(result)
    rows["icons, logo-edge"] = made_up_row(OURS, 0.88, 0.03, 4_000_000, -0.02)
    assert "-2.0 points, 0.31 of the size, ECE 3.0%" in own_tables.own_data(result)


def test_a_long_output_is_shortened_in_the_walk():
    output = "\n".join(["$ logo-edge train", *(f"line {index}" for index in range(100))])
    text = own_tables.walkthrough({"steps": [{"text": "The teacher.", "output": output}]})
    assert text.startswith("The teacher.\n\n```text\n$ logo-edge train\nline 0")
    assert "[71 lines]" in text
    assert text.endswith("line 99\n```")


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("name", own_data.DATA_SETS)
def test_a_data_set_is_the_same_every_time(name, tmp_path, monkeypatch):
    monkeypatch.setattr(own_data, "PAGES_OF_A_CLASS", 3)  # all of a kind are drawn before the next kind is
    sources = [make_data(name, tmp_path / copy, 3) for copy in "ab"]
    files = [sorted((tmp_path / copy / name).rglob("*.png")) for copy in "ab"]
    assert len(files[0]) == 12
    assert [path.relative_to(tmp_path / "a") for path in files[0]] == [
        path.relative_to(tmp_path / "b") for path in files[1]
    ]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*files, strict=True))
    written = files[0][0].stat().st_mtime_ns
    assert make_data(name, tmp_path / "a", 3) == sources[0]
    assert files[0][0].stat().st_mtime_ns == written, "not written again"


def test_ultralytics_is_not_measured_where_an_image_has_several_labels(tmp_path, monkeypatch):
    (tmp_path / "flags").mkdir()
    row = LogoRow(FILES, "", "italy.png", "italy").with_labels(("green", "red", "white"))
    write_manifest(tmp_path / "flags" / "manifest.csv", [row])
    monkeypatch.setattr(own_images, "make_data", lambda name, folder, limit: folder / name)
    out = tmp_path / "own_images.json"
    own_images.measure(data=("flags",), systems=(ULTRALYTICS,), work=tmp_path, out=out)
    assert "one label" in json.loads(out.read_text())["rows"]["flags, ultralytics"]["not_measured"]


@pytest.mark.slow
@pytest.mark.network
def test_the_whole_comparison_in_small_resumes_and_is_walked_through(tmp_path, monkeypatch):
    monkeypatch.setattr(own_data, "PAGES_OF_A_CLASS", 20)  # of each kind, all of which are drawn
    out, settings = (
        tmp_path / "own_images.json",
        {"work": tmp_path / "own", "limit": 20, "epochs": 1, "recipe": str(TINY)},
    )
    own_images.measure(data=("pages",), systems=(TIMM, OURS), out=out, **settings)
    rows = json.loads(out.read_text())["rows"]
    assert list(rows) == ["pages, timm", "pages, logo-edge"]
    ours, timm = rows["pages, logo-edge"], rows["pages, timm"]
    assert ours["size_bytes"] < timm["size_bytes"]
    assert ours["input_px"] == timm["input_px"] == 64
    assert (
        ours["test"]["count"]
        == timm["test"]["count"]
        == len(read_manifest(tmp_path / "own" / "pages" / "manifest.csv").split("test"))
    )
    assert min(ours["minutes"], timm["minutes"]) > 0
    model = tmp_path / "own" / "pages" / TIMM / "fp32.onnx"
    written = model.stat().st_mtime_ns
    own_images.measure(data=("pages",), systems=(TIMM,), out=out, **settings)
    assert model.stat().st_mtime_ns == written, "nothing is trained twice"
    outputs = [step["output"] for step in walkthrough.measure(data="pages", work=tmp_path / "own")["steps"]]
    assert [output.split()[2] for output in outputs] == ["data", "train", "compress", "info", "classify", "evaluate"]
    assert all(len(output.splitlines()) > 2 for output in outputs)
