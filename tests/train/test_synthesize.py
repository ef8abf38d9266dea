"""Drawn logos: equal bytes for a seed, labels by construction, pairs that differ in one feature, nothing held out."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from logo_edge.errors import DatasetError, RecipeError, RunError
from logo_edge_train import estimate, evaluate
from logo_edge_train import train as train_module
from logo_edge_train.commands import data
from logo_edge_train.data import icons as fetch
from logo_edge_train.data import pictograms, synthesize
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.icons import DRAWING, locked_versions, render_svg
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, read_manifest, write_manifest
from logo_edge_train.data.pairs.colours import INK_BLACK
from logo_edge_train.data.pairs.fades import draw_fade
from logo_edge_train.data.pairs.fonts import glyphs
from logo_edge_train.data.pairs.kinds import KINDS, draw_pair
from logo_edge_train.data.pairs.marks import (
    FULL,
    Mark,
    coloured,
    document,
    ellipse,
    ink_of,
    path,
    pixels_of,
    rectangle,
    silhouette,
)
from logo_edge_train.data.pairs.parts import Sources, badge
from logo_edge_train.data.synthesize import choose_sources, draw_files, drawn_rows, find_fonts
from logo_edge_train.organize.features import measure_logo
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import load_recipe, recipe_from_dict
from logo_edge_train.train import learned_rows, run_identity

FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
KIND_LABELS = {"simple", "text", "gradient", "complex"}


def icon(body: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24" viewBox="0 0 24 24">{body}</svg>'


STAR = "M12 1l3 7h7l-6 5 3 9-7-5-7 5 3-9-6-5h7z"
SHAPES = [
    f'<path fill="#111111" d="{STAR}"/>',
    '<path fill="#111111" d="M2 2h20v20H2zM7 7v10h10V7z"/>',
    '<circle fill="#111111" cx="12" cy="12" r="10"/>',
]
LINES = [
    f'<path fill="none" stroke="#111111" stroke-width="2" stroke-linejoin="round" d="{STAR}"/>',
    '<path fill="none" stroke="#111111" stroke-width="2" d="M3 12h18M12 3v18"/>',
]
DOTS = '<path fill="#111111" d="M0 0h24v24H0zM2 2v20h20V2z"/>' + "".join(
    f'<circle fill="#111111" cx="{4 + 4 * (at % 5)}" cy="{4 + 4 * (at // 5)}" r="1.3"/>' for at in range(25)
)
SHADED = (
    '<g fill="none"><path fill="url(#a)" d="M2 2h20v20H2z"/><circle cx="12" cy="12" r="4" fill="#FFF"/><defs>'
    '<linearGradient id="a" x1="2" x2="22" y1="2" y2="22" gradientUnits="userSpaceOnUse"><stop stop-color="#0FF"/>'
    '<stop offset="1" stop-color="#102080"/></linearGradient></defs></g>'
)


@pytest.fixture(scope="module")
def sources() -> Sources:
    pools = {
        "solid": {f"s{at}": icon(body) for at, body in enumerate(SHAPES)},
        "line": {f"l{at}": icon(body) for at, body in enumerate(LINES)},
        "brand": {"star": icon(SHAPES[0])},
        "figure": {"dots": icon(DOTS)},
        "shaded": {"square": icon(SHADED)},
    }
    return Sources(pools, (str(FONTS / "DejaVuSans.ttf"), str(FONTS / "DejaVuSerif-Bold.ttf")))


@pytest.fixture
def sources_file(sources, tmp_path, monkeypatch) -> Path:
    """What the stage draws with, in the place of the pinned packages."""
    path = tmp_path / "sources.json"
    path.write_text(json.dumps(asdict(sources)))
    monkeypatch.setattr(synthesize, "sources_file", lambda: path)
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    return path


def render(svg: str) -> np.ndarray:
    """(H, W, 4) levels, the colour of what is not covered left out."""
    with Image.open(io.BytesIO(render_svg(svg))) as image:
        pixels = np.asarray(image.convert("RGBA")).astype(int)
    return np.where(pixels[:, :, 3:] > 0, pixels, 0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_seed_draws_the_same_bytes_and_fewer_pairs_are_the_first_of_more(sources_file, tmp_path):
    for folder, pairs, seed in (("one", 12, 3), ("again", 12, 3), ("few", 5, 3), ("other", 12, 4)):
        synthesize.synthesize(tmp_path / folder, pairs=pairs, seed=seed)
    one, again, few, other = (files_of(tmp_path / name) for name in ("one", "again", "few", "other"))
    assert len(one) == 2 * 12 + 2
    assert one == again
    drawn = {name for name in few if name.endswith(".png")}
    assert len(drawn) == 10
    assert all(few[name] == one[name] for name in drawn)
    assert not {content for name, content in one.items() if name.endswith(".png")} & set(other.values())


def test_drawn_rows_are_for_training_only_and_each_pair_is_one_group(sources_file, tmp_path):
    manifest = synthesize.synthesize(tmp_path / "drawn", pairs=20, seed=0)
    assert len(manifest.rows) == 40
    assert {row.split for row in manifest.rows} == {"train"}
    assert len({row.group for row in manifest.rows}) == 20
    for one, other in zip(manifest.rows[::2], manifest.rows[1::2], strict=True):
        kind = one.icon.removesuffix(f"-{one.label}.png").split("-", 1)[1]
        assert (one.label, other.label) == KINDS[kind].labels
        assert one.group == other.group


@pytest.mark.parametrize("kind", KINDS)
def test_the_members_of_a_pair_differ_in_label_and_only_where_they_should(sources, kind):
    labels = KINDS[kind].labels
    assert len(set(labels)) == 2
    assert set(labels) <= KIND_LABELS
    for index in range(6):
        pair = draw_pair(np.random.default_rng((1, index)), sources, kind)
        one, other = map(render, pair.documents)
        assert one.shape == other.shape or KINDS[kind].differs == "drawing"
        if KINDS[kind].differs == "colour":
            assert np.abs(one[:, :, 3] - other[:, :, 3]).max() <= 2, "both cover the same pixels"
            assert (np.abs(one - other).max(2) > 8).mean() > 0.005, "and have other colours"
        else:
            assert one.shape != other.shape or (np.abs(one - other).max(2) > 8).mean() > 0.005


@pytest.mark.parametrize("seed", range(12))
def test_a_badge_is_the_same_around_whatever_glyph_it_has(seed):
    holder = badge(np.random.default_rng(seed))
    left, top, width, height = holder.room
    seen = []
    for glyph in (ellipse(500, 500, 400), path(np.array([[0, 0], [10, 4], [3, 9]]))):
        markup = "".join(coloured(mark, paint) for mark, paint in holder.draw(glyph.into(holder.room)))
        seen.append(pixels_of(markup, 250).astype(int))
    rows, columns = ((np.arange(250) + 0.5) * 4 for _ in range(2))
    outside = ~(
        ((rows > top - 8) & (rows < top + height + 8))[:, None] & ((columns > left - 8) & (columns < left + width + 8))
    )
    changed = np.abs(seen[0] - seen[1]).max(2) > 2
    assert outside.any()
    assert not (changed & outside).any()
    assert changed.any()


@pytest.mark.parametrize("share", [0.08, 0.12, 0.18, 0.25, 0.6])
@pytest.mark.parametrize("form", ["linear", "radial"])
def test_a_fade_covers_the_share_of_the_ink_that_it_is_drawn_over(share, form):
    mark, checked = rectangle((100, 200, 800, 600)), 0
    for seed in range(6):
        fade = draw_fade(np.random.default_rng(seed), ink_of(mark), ("#e02020", "#2040e0"), share, (form,))
        pixels = pixels_of(coloured(mark, fade.smooth), 250)
        inside = pixels[pixels[:, :, 3] == 255][:, :3].astype(int)
        ends = np.array([[0xE0, 0x20, 0x20], [0x20, 0x40, 0xE0]])
        fading = np.abs(inside[:, None] - ends).max(2).min(1) > 2
        assert fading.mean() == pytest.approx(share, abs=0.03)
        flat = np.unique(pixels_of(coloured(mark, fade.banded), 250)[60:-60:7, 40:-40:7, :3].reshape(-1, 3), axis=0)
        assert len(flat) <= 12, "bands have few colours"
        checked += 1
    assert checked == 6


def test_the_extractor_measures_pairs_just_over_and_just_under_15_percent_on_either_side(sources):
    measured = []
    for index in range(14):
        pair = draw_pair(np.random.default_rng((2, index)), sources, "fade-edge")
        assert pair.sure == (False, False)
        measured.append(
            [measure_logo(Image.fromarray(render(svg).astype(np.uint8))).gradient_share for svg in pair.documents]
        )
    over, under = np.array(measured).T
    assert (over > under).mean() > 0.9
    assert over.mean() > 0.15 > under.mean()


@pytest.mark.parametrize(
    ("kind", "measure", "limit"),
    [
        ("fade-simple", "gradient_share", 0.15),
        ("glow", "gradient_share", 0.15),
        ("mosaic", "complexity", 13),
        ("mascot", "complexity", 13),
        ("crest", "complexity", 13),
        ("figure", "complexity", 13),
        ("collage", "complexity", 13),
    ],
)
def test_what_makes_the_label_is_measured_on_the_first_member_alone(sources, kind, measure, limit):
    sides = []
    for index in range(8):
        pair = draw_pair(np.random.default_rng((3, index)), sources, kind)
        if all(pair.sure):
            sides.append(
                [
                    getattr(measure_logo(Image.fromarray(render(svg).astype(np.uint8))), measure)
                    for svg in pair.documents
                ]
            )
    one, other = np.array(sides).T
    assert len(one) >= 5
    assert one.mean() > limit > other.mean()


def test_letters_stand_side_by_side_and_fill_their_box():
    letters = glyphs(str(FONTS / "DejaVuSans.ttf"), "A b")
    assert len(letters) == 2, "a blank has no mark"
    assert letters[0].box[0] + letters[0].box[2] < letters[1].box[0]
    placed = letters[0].into(FULL)
    rows, columns = np.nonzero(ink_of(placed))
    assert max(np.ptp(rows), np.ptp(columns)) > 0.97 * len(ink_of(placed))


def test_a_silhouette_fills_what_lies_within():
    ring = Mark(
        '<circle cx="500" cy="500" r="350" fill="none" stroke="currentColor" stroke-width="60"/>', (120, 120, 760, 760)
    )
    assert ink_of(silhouette(ring)).sum() > 2.5 * ink_of(ring).sum()


def test_a_document_is_cut_to_its_ink_with_its_margin():
    layers = [(rectangle((200, 400, 400, 100)), INK_BLACK)]
    assert render(document(layers)).shape[:2] == (64, 256)
    assert (render(document(layers, 0.25))[:40, :40, 3] == 0).all()


def test_what_cannot_be_drawn_is_refused_by_name(sources, tmp_path):
    random = np.random.default_rng(0)
    with pytest.raises(DatasetError, match="no kind 'sketch' of drawn logos; expected one of fade-simple"):
        draw_pair(random, sources, "sketch")
    with pytest.raises(DatasetError, match=r"no icon in pool 'solid'; expected one of line \(1\)"):
        Sources({"line": {"a": icon(SHAPES[0])}}, sources.fonts).icon(random, "solid")
    with pytest.raises(DatasetError, match="no font to letter with among 1"):
        replace(sources, fonts=("x/lobster-latin-400-normal.woff",)).font(random, scripts=False)
    with pytest.raises(DatasetError, match="has no glyph for '中'"):
        glyphs(str(FONTS / "DejaVuSans.ttf"), "中")
    broken = tmp_path / "broken-latin-400-normal.woff"
    broken.write_bytes(b"no font")
    with pytest.raises(DatasetError, match="broken-latin-400-normal.woff: .*expected a TrueType"):
        glyphs(str(broken), "A")
    with pytest.raises(DatasetError, match="has no file abril-fatface-latin-WEIGHT-normal.woff"):
        find_fonts(tmp_path)
    with pytest.raises(DatasetError, match="of 50 icons of pool 'shaded' none has gradients"):
        draw_pair(random, replace(sources, pools={"shaded": {"flat": icon(SHAPES[0])}}), "fade-icon")


def test_a_folder_of_other_files_or_other_drawn_logos_is_left_alone(sources_file, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.txt").write_text("kept")
    with pytest.raises(DatasetError, match="holds other files; expected a new or empty folder"):
        synthesize.synthesize(tmp_path / "mine", pairs=2, seed=0)
    assert files_of(tmp_path / "mine") == {"photo.txt": b"kept"}
    first = synthesize.synthesize(tmp_path / "drawn", pairs=2, seed=0)
    assert synthesize.synthesize(tmp_path / "drawn", pairs=2, seed=0) == first
    with pytest.raises(RunError, match=r"holds drawn logos of other settings or data \(pairs 2 -> 3\)"):
        synthesize.synthesize(tmp_path / "drawn", pairs=3, seed=0)


def test_a_drawing_that_stops_leaves_no_folder_and_can_be_done_again(sources_file, tmp_path, monkeypatch):
    def fail(job):
        if job[-1] == 3:
            raise OSError(28, "No space left on device")
        return draw_files(job)

    with monkeypatch.context() as patched:
        patched.setattr(synthesize, "draw_files", fail)
        with pytest.raises(OSError, match="No space left"):
            synthesize.synthesize(tmp_path / "drawn", pairs=5, seed=0)
    assert {path.name for path in tmp_path.iterdir()} == {"sources.json"}
    assert len(synthesize.synthesize(tmp_path / "drawn", pairs=5, seed=0).rows) == 10
    assert {path.name for path in tmp_path.iterdir()} == {"sources.json", "drawn"}


def icon_file(path: Path, icons: dict[str, str]) -> Path:
    path.write_text(
        json.dumps(
            {
                "prefix": path.stem,
                "width": 24,
                "height": 24,
                "icons": {name: {"body": body} for name, body in icons.items()},
            }
        )
    )
    return path


def test_sources_hold_no_icon_of_a_held_out_group_and_no_look_alike(tmp_path, monkeypatch):
    star, frame, disc = (body.replace("#111111", "currentColor") for body in SHAPES)
    path = "M12 1l3 7" * 14
    locked = locked_versions(DRAWING)
    cross = '<path fill="currentColor" d="M9 2h6v20H9z"/>'
    sets = {
        "@iconify-json/ph": {
            "moon-fill": disc,
            "moon": LINES[0],
            "box-fill": frame,
            "box": LINES[1],
            "text-aa-fill": cross,
            "tall-fill": cross,
        },
        "@iconify-json/game-icons": {
            "dots": DOTS.replace("<circle", f'<path d="{path}" opacity="0"/><circle', 1),
            "plain": star,
        },
        "@iconify-json/fluent-color": {"gem-32": SHADED, "gem-16": SHADED},
        "@iconify-json/simple-icons": {"held": star, "other": frame},
    }
    files = {package: icon_file(tmp_path / f"{package.split('/')[1]}.json", icons) for package, icons in sets.items()}
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    for module in (synthesize, pictograms, fetch):
        monkeypatch.setattr(
            module, "install_icon_sets", lambda wanted, locks=None: {name: files[name] for name, _ in wanted}
        )
    monkeypatch.setattr(synthesize, "install_packages", lambda *_: tmp_path)
    monkeypatch.setattr(synthesize, "find_fonts", lambda _: ("font",))
    for module in (synthesize, pictograms):
        monkeypatch.setattr(module, "find_lookalikes", lambda _, rows: {row for row in rows if row.icon == "tall-fill"})
    brand = LogoRow("@iconify-json/simple-icons", "1.2.102", "other", "other")
    monkeypatch.setattr(synthesize, "unlabelled_rows", lambda _: [brand])
    held_out = LogoRow("@iconify-json/simple-icons", "1.2.102", "held", "moon", "simple", ("simple",), True, "test")
    chosen = choose_sources(Manifest((held_out,), tmp_path))
    names = {pool: set(icons) for pool, icons in chosen.pools.items()}
    assert names["solid"] == {"box-fill"}, (
        "moon is of a held-out group, text has letters, tall looks like a held-out logo"
    )
    assert names["line"] == {"box"}
    assert names["figure"] == {"dots"}
    assert names["shaded"] == {"gem-32"}
    assert names["brand"] == {"other"}
    assert locked["@iconify-json/ph"] == "1.2.2"
    rows = pictograms.pictogram_rows(Manifest((held_out,), tmp_path), 40)
    assert [row.icon for row in rows] == ["box-fill", "box", "dots", "gem-32"]
    assert {(row.label, row.votes, row.split) for row in rows} == {("", (), "train")}


def test_the_lock_file_pins_open_fonts_and_icons_by_hash_and_names_no_host():
    lock = json.loads((DRAWING / "package-lock.json").read_text())
    packages = {name.removeprefix("node_modules/"): held for name, held in lock["packages"].items() if name}
    assert locked_versions(DRAWING).items() <= {name: held["version"] for name, held in packages.items()}.items()
    assert all(held["integrity"].startswith("sha512-") for held in packages.values())
    assert "http" not in json.dumps(packages)
    licences = {held["license"] for name, held in packages.items() if name.startswith("@fontsource/")}
    assert licences == {"OFL-1.1", "Apache-2.0"}


def labelled(tmp_path: Path, labels=("simple", "text", "gradient", "complex")) -> Manifest:
    return Manifest(
        tuple(
            LogoRow(FILES, "", f"{label}-{split}.png", f"{label}-{split}", label, (), True, split)
            for label in labels
            for split in ("train", "val", "calib", "test")
        ),
        tmp_path,
    )


def test_a_recipe_draws_nothing_unless_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(synthesize, "synthesize", lambda *_, **__: pytest.fail("nothing is to be drawn"))
    manifest = labelled(tmp_path)
    assert Recipe().train.synthetic == 0
    assert learned_rows(manifest, Recipe().train) == manifest.split("train")
    assert "drawn" not in run_identity(Recipe(), manifest).inputs


def test_drawn_logos_join_the_train_split_alone_and_are_part_of_the_key(sources_file, tmp_path):
    manifest = labelled(tmp_path)
    recipe = load_recipe("smoke", ("train.synthetic=4",))
    rows = learned_rows(manifest, recipe.train)
    drawn = [row for row in rows if row.package == synthesize.DRAWN]
    assert rows[: len(rows) - 8] == manifest.split("train")
    assert len(drawn) == 8
    assert {row.split for row in drawn} == {"train"}
    assert all(path.exists() for path in manifest.image_paths(drawn))
    keys = {
        run_identity(load_recipe("smoke", (f"train.synthetic={pairs}", f"train.seed={seed}")), manifest).inputs["drawn"]
        for pairs, seed in ((4, 0), (5, 0), (4, 1))
    }
    assert len(keys) == 3
    with pytest.raises(RecipeError, match="train.synthetic is -1; expected 0 to 100000"):
        load_recipe("smoke", ("train.synthetic=-1",))


def test_the_key_covers_the_drawers_code(tmp_path, monkeypatch):
    before = synthesize.drawing_identity(4, 0).key
    (tmp_path / "marks.py").write_text("another drawer")
    with monkeypatch.context() as patched:
        patched.setattr(synthesize, "DRAWER", tmp_path)
        assert synthesize.drawing_identity(4, 0).key != before
    monkeypatch.setattr(pictograms, "__file__", str(tmp_path / "marks.py"))
    assert synthesize.drawing_identity(4, 0).key != before


def test_look_alikes_among_drawn_logos_are_left_out_of_training(sources_file, tmp_path, monkeypatch):
    rows = drawn_rows(2, 0)
    monkeypatch.setattr("logo_edge_train.data.lookalikes.find_lookalikes", lambda *_: {rows[0]})
    assert train_module.leave_out(labelled(tmp_path), rows) == ({rows[0]}, set())


def test_a_teacher_learns_from_drawn_logos_but_from_no_look_alike(sources_file, tmp_path, monkeypatch):
    manifest = labelled(tmp_path)
    for row in manifest.rows:
        Image.new("RGB", (32, 32), ("red", "green", "blue", "white")[len(row.label) % 4]).save(tmp_path / row.icon)
    write_manifest(tmp_path / "manifest.csv", manifest.rows)
    fit = {"epochs": 1, "batch_size": 4}
    recipe = recipe_from_dict(
        {"train": {"teachers": ["test_resnet@32"], "pretrained": False, "synthetic": 3, "fit": fit}}
    )
    drawn, learned = drawn_rows(recipe.train.synthetic, recipe.train.seed), []

    def load(manifest, rows, *arguments, **options):
        learned.append(rows)
        return LogoDataset(manifest, rows, *arguments, **options)

    for module in (train_module, evaluate):
        monkeypatch.setattr(module, "LogoDataset", load)
    monkeypatch.setattr(train_module, "leave_out", lambda *_: ({drawn[0]}, set()))
    run = train_module.train_ensemble(
        tmp_path / "manifest.csv", recipe, tmp_path / "run", device=torch.device("cpu"), report=lambda _: None
    )
    assert learned[0] == [*read_manifest(tmp_path / "manifest.csv").split("train"), *drawn[1:]]
    assert [{row.split for row in rows} for rows in learned[1:]] == [{"val"}, {"calib"}, {"test"}]
    assert run.record["left_out"] == [f"drawn/{drawn[0].icon}"]


def test_an_estimate_counts_drawn_logos_without_drawing_them(tmp_path, monkeypatch):
    manifest, tried = labelled(tmp_path), []
    monkeypatch.setattr(
        estimate,
        "run_side_by_side",
        lambda _, jobs, report, workers: tried.extend(jobs) or report({"kind": "step", "name": "teacher"}),
    )
    monkeypatch.setattr(estimate, "extrapolate", lambda name, reports, config, count, **_: count)
    for images, count in ((0, 4 + 2 * 50), (30, 30)):
        config = load_recipe("cpu", ("train.synthetic=50", f"train.fit.max_images={images}")).train
        assert estimate._try_teachers(config, 1, tmp_path, manifest, tmp_path, torch.device("cpu")) == [count]
        assert tried.pop()[1].synthetic == 0


def test_drawn_logos_do_not_join_other_classes(sources_file, tmp_path):
    recipe = load_recipe("smoke", ("train.synthetic=12",))
    with pytest.raises(
        DatasetError, match=r"train.synthetic is 12, and drawn logos are of class .*simple.*Set train.synthetic to 0"
    ):
        learned_rows(labelled(tmp_path, ("red", "blue")), recipe.train)


def test_the_command_draws_says_how_many_and_writes_a_sheet(sources_file, tmp_path):
    arguments = [
        "synthesize",
        str(tmp_path / "drawn"),
        "--pairs",
        "9",
        "--seed",
        "5",
        "--sheet",
        str(tmp_path / "sheet.png"),
    ]
    done = CliRunner().invoke(data, arguments)
    assert done.exit_code == 0, done.output
    assert "18 drawn logos in" in done.output
    assert len(read_manifest(tmp_path / "drawn" / "manifest.csv").rows) == 18
    kinds = {path.name.split("-", 1)[1] for path in (tmp_path / "drawn").glob("*.png")}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 100 * len(kinds), "a line for each kind and label"
