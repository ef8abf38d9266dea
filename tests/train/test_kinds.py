"""The kind of picture: proposed from the images, and augmented as such by every stage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

import logo_edge
from logo_edge.errors import RecipeError
from logo_edge.images.load import load_image
from logo_edge.preprocess import CROP, InputContract, preprocess
from logo_edge_compress.distill import distill as distillation
from logo_edge_train import train
from logo_edge_train.architecture import Architecture
from logo_edge_train.data.augment import SceneAugmentation, make_augmentation, weaken
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, write_manifest
from logo_edge_train.data.outliers import FAMILIES
from logo_edge_train.data.outliers.drawing import draw_picture
from logo_edge_train.organize.kinds import DOCUMENT, LOGO, PHOTO, count_kinds, describe_kinds, kind_of, settle_kind
from logo_edge_train.recipe import OPERATIONS, AugmentConfig
from logo_edge_train.recipe_io import recipe_from_dict

CONTRACT = InputContract(96)
SAMPLES = Path(logo_edge.__file__).parent / "samples"
CPU = torch.device("cpu")
PLAIN = {"p_blur": 0.0, "p_jpeg": 0.0, "p_low_resolution": 0.0}


def photographs(count: int) -> list[Image.Image]:
    """Parts of the two photographs that scikit-learn ships."""
    whole = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    corners = ((0, 0), (200, 100), (320, 200))
    parts = [image.crop((left, top, left + 320, top + 220)) for left, top in corners for image in whole]
    return (whole + parts)[:count]


def halves(left: str, right: str, size: tuple[int, int] = (120, 80)) -> Image.Image:
    image = Image.new("RGB", size, right)
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2 - 1, size[1]), fill=left)
    return image.convert("RGBA").convert("RGBa")


@pytest.fixture
def manifest(tmp_path) -> Manifest:
    """Eight photographs of two classes in train, two in each other split."""
    rows = []
    for index, image in enumerate(photographs(8)):
        image.save(tmp_path / f"{index}.png")
        for split in ("train", "val", "calib") if index < 2 else ("train",):
            rows.append(LogoRow(FILES, "", f"{index}.png", str(index), "ab"[index % 2], split=split))
    write_manifest(tmp_path / "manifest.csv", rows)
    return Manifest(tuple(rows), tmp_path)


@pytest.mark.parametrize("transparent", [False, True])
def test_logos_are_proposed_as_logos(transparent):
    images = [load_image(path) for path in sorted(SAMPLES.glob("*.png"))]
    if not transparent:
        images = [
            Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
            for image in images
        ]
    kinds = [kind_of(image) for image in images]
    assert len(kinds) >= 8
    assert kinds.count(LOGO) == len(kinds)


def test_photographs_are_proposed_as_photographs():
    kinds = [kind_of(image) for image in photographs(8)]
    assert (len(kinds), kinds.count(PHOTO)) == (8, 8)


@pytest.mark.parametrize("family", ["pages", "scans"])
def test_pages_are_proposed_as_documents(family):
    kinds = [kind_of(draw_picture(family, FAMILIES["fitted"][family], index)) for index in range(8)]
    assert kinds.count(DOCUMENT) >= 6


def test_the_most_frequent_kind_is_taken_and_said(manifest):
    counts = count_kinds(manifest)
    assert counts == {PHOTO: 8}
    assert describe_kinds(counts).startswith(
        "kinds of picture, of 8 images of train: 8 photo. A training draws views of photos"
    )
    assert settle_kind(AugmentConfig(), manifest).kind == PHOTO
    assert settle_kind(AugmentConfig(kind="document"), manifest).kind == DOCUMENT


def test_nothing_is_mirrored_where_a_class_is_a_direction(manifest):
    signs = replace(
        manifest,
        rows=tuple(replace(row, label=f"turn-{'left' if row.label == 'a' else 'right'}") for row in manifest.rows),
    )
    assert settle_kind(AugmentConfig(), signs).photo.p_mirror == 0.0
    assert settle_kind(AugmentConfig(), manifest).photo.p_mirror == AugmentConfig().photo.p_mirror > 0


def test_no_colour_is_changed_where_a_class_is_a_colour(manifest):
    named = {"a": "red", "b": "Dark blue"}
    colours = replace(manifest, rows=tuple(replace(row, label=named[row.label]) for row in manifest.rows))
    settled, plain = settle_kind(AugmentConfig(), colours), settle_kind(AugmentConfig(), manifest)
    changes = lambda config: (config.p_colour, config.p_background, config.photo.p_colour)  # noqa: E731
    assert changes(settled) == (0.0, 0.0, 0.0)
    assert min(changes(plain)) > 0.0
    assert settle_kind(AugmentConfig(kind="photo"), colours).p_colour == AugmentConfig().p_colour, "its own"


def test_a_photograph_is_cropped_and_mirrored_and_keeps_its_shape_and_its_frame():
    config = AugmentConfig(kind="photo", p_background=1.0, **PLAIN)
    augmentation = make_augmentation(config, CONTRACT)
    pictures = [augmentation.draw_picture(halves("red", "blue"), seed).astype(int) for seed in range(60)]
    assert {max(picture.shape[:2]) for picture in pictures} == {96}
    ratios = [picture.shape[1] / picture.shape[0] for picture in pictures]
    assert 1.5 / 1.4 < min(ratios) < 1.3 < 1.7 < max(ratios) < 1.5 * 1.4
    red = [(picture[:, :, 0] > picture[:, :, 2]) for picture in pictures]
    assert len({round(float(share.mean()), 2) for share in red}) > 10, "crops show unequal shares of the halves"
    assert all((picture[:, :, 1] < 0.6 * picture.max(2)).all() for picture in pictures), "no background, no other hue"
    mirrored = np.mean([share[:, -1].mean() > share[:, 0].mean() for share in red])
    assert 0.25 < mirrored < 0.75


def test_a_document_is_never_mirrored_and_hardly_cropped():
    augmentation = make_augmentation(AugmentConfig(kind="document", **PLAIN), CONTRACT)
    for seed in range(40):
        picture = augmentation.draw_picture(halves("black", "white", (80, 120)), seed).astype(int).mean(2)
        dark = picture < picture.mean()
        assert dark[:, 0].mean() > 0.9 > 0.1 > dark[:, -1].mean(), seed
        assert 0.3 < dark.mean() < 0.7, seed


@pytest.mark.parametrize("kind", ["photo", "document"])
def test_a_view_of_a_scene_depends_on_its_seed_and_weakened_to_nothing_is_the_image(kind):
    config, image = AugmentConfig(kind=kind), photographs(1)[0].convert("RGBA").convert("RGBa")
    views = [make_augmentation(config, CONTRACT)(image, seed) for seed in (0, 1, 0)]
    assert views[0].shape == (96, 96, 3)
    assert np.array_equal(views[0], views[2])
    assert not np.array_equal(views[0], views[1])
    still = make_augmentation(weaken(config, 0.0), CONTRACT)
    assert isinstance(still, SceneAugmentation)
    plain = np.asarray(photographs(1)[0].resize((96, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(still(image, 3)[16:80].astype(int) - plain).max() <= 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_operations_of_a_policy_change_photographs_too(name):
    image = photographs(1)[0].convert("RGBA").convert("RGBa")
    still = weaken(AugmentConfig(kind="photo"), 0.0)
    before, after = (
        make_augmentation(replace(still, policy=policy), CONTRACT)(image, 1) for policy in ((), (f"{name} 1 1",))
    )
    assert not np.array_equal(before, after)


def test_a_transparent_picture_lies_on_the_background_of_the_runtime():
    image = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((20, 20, 40, 40), fill=(200, 0, 0, 255))
    config = weaken(AugmentConfig(kind="photo", p_background=1.0), 0.0)
    augmentation = make_augmentation(replace(config, p_background=1.0), CONTRACT)
    assert all((augmentation(image.convert("RGBa"), seed)[0, 0] == 255).all() for seed in range(5))


@pytest.mark.parametrize("kind", ["logo", "photo"])
def test_views_of_a_cropping_contract_show_what_the_runtime_shows(kind):
    image, contract = photographs(1)[0], InputContract(96, fit=CROP)
    still = make_augmentation(weaken(AugmentConfig(kind=kind), 0.0), contract)(image.convert("RGBA").convert("RGBa"), 0)
    assert np.abs(still.astype(int) - preprocess(image, contract)).mean() < 2
    assert np.abs(still.astype(int) - preprocess(image, CONTRACT)).mean() > 10


def test_images_kept_for_a_cropping_contract_are_large_enough(tmp_path):
    Image.new("RGB", (2000, 500)).save(tmp_path / "wide.png")
    row = LogoRow(FILES, "", "wide.png", "wide", "a")
    shapes = [
        LogoDataset(
            Manifest((row,), tmp_path), [row], ("a", "b"), contract=contract, augment=AugmentConfig(kind="photo")
        )
        .images[0]
        .size
        for contract in (CONTRACT, InputContract(96, fit=CROP))
    ]
    assert shapes == [(144, 36), (576, 144)]


def test_every_network_of_a_recipe_has_the_same_fit():
    assert Architecture.parse("test_resnet@32:crop").contract == InputContract(32, fit=CROP)
    assert str(Architecture.parse("test_resnet@32:crop")) == "test_resnet@32:crop"
    assert str(Architecture.parse("test_resnet:2@32")) == "test_resnet:2@32"
    with pytest.raises(RecipeError, match="expected name@size_px"):
        Architecture.parse("test_resnet@32:stretch")
    mixed = {"train": {"teachers": ["test_resnet@32:crop"]}, "distill": {"students": ["test_resnet@32"]}}
    with pytest.raises(RecipeError, match="have the fit :crop, others not"):
        recipe_from_dict(mixed)
    mixed["distill"]["students"] = ["test_resnet@32:crop"]
    assert recipe_from_dict(mixed).train.teachers == ("test_resnet@32:crop",)


class Stopped(Exception):
    """Ends a stage once it has its data."""


def stop(*args, **options):
    raise Stopped(args, options)


def test_a_training_settles_the_kind_and_its_run_records_it(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "run_side_by_side", stop)
    recipe = recipe_from_dict(
        {"train": {"teachers": ["test_resnet@32"], "pretrained": False}, "pretrain": {"fit": {"epochs": 1}}}
    )
    with pytest.raises(Stopped) as stopped:
        train.train_ensemble(tmp_path / "manifest.csv", recipe, tmp_path / "run", device=CPU, report=print)
    _, jobs, *_ = stopped.value.args[0]
    assert [job[1].augment.kind for job in jobs] == [PHOTO], "the teacher, and no pretraining on views of logos"
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["recipe"]["train"]["augment"]["kind"] == PHOTO
    with pytest.raises(Stopped):  # the same recipe again is the same run
        train.train_ensemble(tmp_path / "manifest.csv", recipe, tmp_path / "run", device=CPU, report=print)


@pytest.mark.parametrize(("own", "expected"), [("auto", "photo"), ("document", "document")])
@pytest.mark.parametrize("classes", [("a", "b"), ("red", "blue")])
def test_a_student_learns_from_views_of_its_teachers_kind(manifest, tmp_path, monkeypatch, own, expected, classes):
    monkeypatch.setattr(distillation, "PictureDataset", stop)
    recipe = recipe_from_dict(
        {
            "train": {"augment": {"kind": "photo", "photo": {"p_mirror": 0.0}}},
            "distill": {"augment": {"kind": own}, "use_unlabelled": False},
        }
    )
    run = SimpleNamespace(recipe=recipe, classes=classes, folder=tmp_path, multi_label=False)
    network = SimpleNamespace(to=lambda device: None)
    monkeypatch.setattr(distillation, "open_teacher", lambda *args: None)
    with pytest.raises(Stopped) as stopped:
        distillation.fit_to_teachers(
            network,
            "student",
            "student",
            [(network, CONTRACT)],
            run,
            manifest,
            recipe.distill,
            CONTRACT,
            state=tmp_path / "student.state",
            device=CPU,
            key="",
            report=print,
        )
    augment = stopped.value.args[1]["augment"]
    assert augment.kind == expected
    assert (augment.p_colour == 0) == (own == "auto" and classes == ("red", "blue"))
    assert (augment.photo.p_mirror == 0.0) == (own == "auto"), "with the teachers' kind come their strengths"
