"""Augmented views: the same seed gives the same view, and what makes a class stays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from timm.data import Mixup

from logo_edge.errors import RecipeError
from logo_edge.preprocess import InputContract
from logo_edge_train.data.augment import Intensity, LogoAugmentation, Mixing, mix_pair, weaken
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest
from logo_edge_train.organize.features import LogoMeasurements, measure_logo
from logo_edge_train.recipe import OPERATIONS, AugmentConfig, TeacherAugment
from logo_edge_train.recipe_io import recipe_from_dict

CONTRACT = InputContract(96)


def badge() -> Image.Image:
    image = Image.new("RGBA", (120, 80), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((10, 10, 110, 70), fill=(40, 90, 200, 255))
    return image.convert("RGBa")


def test_the_same_seed_gives_the_same_view_whatever_ran_before():
    augmentation = LogoAugmentation(AugmentConfig(), CONTRACT)
    first = [augmentation(badge(), seed) for seed in range(30)]
    again = [LogoAugmentation(AugmentConfig(), CONTRACT)(badge(), seed) for seed in reversed(range(30))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({view.tobytes() for view in first}) > 25  # some are the logo as it is


def test_views_have_the_shape_and_type_of_the_input_contract():
    view = LogoAugmentation(AugmentConfig(), CONTRACT)(badge(), 0)
    assert view.shape == (96, 96, 3)
    assert view.dtype == np.uint8


def test_no_view_gives_a_flat_mark_a_gradient():
    """Without JPEG and blur, a flat badge on a flat ground has two colours and, at its edges, mixtures of the two."""
    config = AugmentConfig(p_jpeg=0.0, p_blur=0.0, p_low_resolution=0.0)
    augmentation, checked = LogoAugmentation(config, CONTRACT), 0
    for seed in range(60):
        view = augmentation(badge(), seed).astype(int)
        colours, counts = np.unique(view.reshape(-1, 3), axis=0, return_counts=True)
        two = colours[np.argsort(counts)[-2:]]  # the badge and the ground
        near = np.abs(view[:, :, None] - two).sum(3).min(2) <= 6
        assert near.mean() > 0.85, seed
        checked += 1
    assert checked == 60


def test_the_ink_stays_visible_on_random_backgrounds():
    config = AugmentConfig(p_background=1.0, p_jpeg=0.0, p_blur=0.0)
    augmentation = LogoAugmentation(config, CONTRACT)
    spreads = [np.ptp(augmentation(badge(), seed).reshape(-1, 3).astype(int), axis=0).sum() for seed in range(60)]
    assert min(spreads) > 60


def gradient_badge() -> Image.Image:
    """A square that fades from blue to orange."""
    ramp = np.linspace(0, 1, 96)[:, None, None]
    colours = (1 - ramp) * [30, 60, 200] + ramp * [250, 160, 40]
    pixels = np.zeros((96, 96, 4), np.uint8)
    pixels[8:88, 8:88, :3], pixels[8:88, 8:88, 3] = np.broadcast_to(colours, (96, 96, 3))[8:88, 8:88], 255
    return Image.fromarray(pixels).convert("RGBa")


def wordmark() -> Image.Image:
    """Five upright black letters."""
    image = Image.new("RGBA", (240, 60), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)
    for index in range(5):
        left = 5 + 47 * index
        pen.rectangle((left, 8, left + 8, 52), fill=(0, 0, 0, 255))
        pen.rectangle((left, 8, left + 30, 15), fill=(0, 0, 0, 255))
    return image.convert("RGBa")


def corners() -> Image.Image:
    """A red, a green, a blue and a purple square in the corners of the canvas."""
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    positions = ((0, 0), (78, 0), (0, 78), (78, 78))
    for (left, top), colour in zip(positions, ((200, 0, 0), (0, 160, 0), (0, 0, 200), (160, 0, 160)), strict=True):
        ImageDraw.Draw(image).rectangle((left, top, left + 17, top + 17), fill=(*colour, 255))
    return image.convert("RGBa")


STILL = weaken(AugmentConfig(), 0.0)


def views_under(name: str, image: Image.Image, count: int = 12) -> list[np.ndarray]:
    augmentation = LogoAugmentation(replace(STILL, policy=(f"{name} 1 1",)), CONTRACT)
    return [augmentation(image, seed) for seed in range(count)]


def measured(views: list[np.ndarray]) -> list[LogoMeasurements]:
    return [measure_logo(Image.fromarray(view)) for view in views]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_changes_the_view_and_adds_and_removes_no_gradient(name):
    plain = LogoAugmentation(STILL, CONTRACT)
    assert all(not np.array_equal(view, plain(gradient_badge(), 0)) for view in views_under(name, gradient_badge()))
    flat, faded = (measured(views_under(name, image)) for image in (badge(), gradient_badge()))
    assert len(flat) == len(faded) == 12
    assert max(measurement.gradient_share for measurement in flat) < 0.03
    assert (
        min(measurement.gradient_share for measurement in faded)
        > 0.6 * measured([plain(gradient_badge(), 0)])[0].gradient_share
        > 0.3
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_lettering_whole(name):
    (before,) = measured([LogoAugmentation(STILL, CONTRACT)(wordmark(), 0)])
    assert before.letters == 5
    for after in measured(views_under(name, wordmark())):
        assert after.letters == 5
        assert after.row_width > 0.8 * before.row_width


@pytest.mark.parametrize("name", ["shear", "perspective"])
def test_nothing_is_pushed_off_the_canvas(name):
    for view in views_under(name, corners()):
        for channel in [*np.eye(3, dtype=int).tolist(), [1, 0, 1]]:
            strong = np.where(np.array(channel) == 1, view > 120, view < 60).all(2)
            assert strong.sum() > 40, channel


def test_a_policy_changes_nothing_where_it_is_empty_or_never_drawn():
    plain, never = (
        LogoAugmentation(AugmentConfig(policy=policy), CONTRACT) for policy in ((), ("invert 0 1", "shear 0 1"))
    )
    assert all(np.array_equal(plain(badge(), seed), never(badge(), seed)) for seed in range(10))


def test_operations_come_as_often_as_the_policy_says():
    augmentation = LogoAugmentation(replace(STILL, policy=("invert 0.3 1",)), CONTRACT)
    assert np.mean([augmentation(badge(), seed)[0, 0, 0] == 0 for seed in range(300)]) == pytest.approx(0.3, abs=0.08)


def test_weakened_to_nothing_a_view_is_the_logo_itself_and_half_as_strong_half_as_far_from_it():
    config = AugmentConfig(policy=("tint 1 1",))
    still = LogoAugmentation(weaken(config, 0.0), CONTRACT)
    assert len({still(badge(), seed)[48, 48].tobytes() for seed in range(20)}) == 1
    half = weaken(config, 0.5)
    assert (half.scale_min, half.p_rotate, half.policy) == (0.875, 0.125, ("tint 0.5 0.5",))
    assert weaken(config, 1.0) == replace(config, policy=("tint 1.0 1.0",))


@pytest.mark.parametrize(
    "text",
    ["", "0.5 0.5", "mirror 0.5 0.5", "shear 0.5", "shear 0.5 1.5", "shear -0.1 0.5", "shear a b", "shear 0.1 0.1 0.1"],
)
def test_a_policy_of_another_form_is_refused_by_name(text):
    with pytest.raises(
        RecipeError, match=f"train.augment.policy has '{text}'; expected name, probability and magnitude"
    ):
        recipe_from_dict({"train": {"augment": {"policy": [text]}}})


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"train": {"augment": {"p_mixup": 1.5}}}, "train.augment.p_mixup is 1.5; expected 0 to 1"),
        ({"train": {"augment": {"p_mixup": 0.6, "p_cutmix": 0.6}}}, "expected at most 1 together"),
        ({"train": {"augment": {"mix_alpha": 0.0}}}, "train.augment.mix_alpha is 0.0; expected more than 0"),
        (
            {"train": {"augment": {"mixup_pairs": ["text"]}}},
            "train.augment.mixup_pairs has 'text'; expected two classes",
        ),
        ({"distill": {"augment": {"p_cutmix": 0.1}}}, "unknown field distill.augment.p_cutmix"),
        ({"few_shot": {"augment": {"adapt_intensity": 0.1}}}, "unknown field few_shot.augment.adapt_intensity"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_name_of_the_key(table, named):
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict(table)
    assert named in str(caught.value)


def test_mixup_mixes_as_timm_does():
    views = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.random.seed(5)
    planes = torch.from_numpy(views).permute(0, 3, 1, 2).float()
    expected, targets = Mixup(1.0, 0.0, label_smoothing=0.0, num_classes=2, mode="batch")(planes, torch.tensor([0, 1]))
    mixed, share = mix_pair("mixup", *views, float(targets[0, 0]), np.random.default_rng(0))
    assert 0.05 < share < 0.95
    assert np.abs(mixed - expected[0].permute(1, 2, 0).numpy()).max() <= 0.51


def test_cutmix_pastes_a_box_and_the_share_is_what_is_left():
    shares = []
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    before = np.random.get_state()[1].copy()
    for seed in range(40):
        mixed, share = mix_pair("cutmix", black, white, 0.7, np.random.default_rng(seed))
        rows, columns = np.nonzero(mixed[:, :, 0])
        assert share == pytest.approx((mixed == 0).mean())
        assert (mixed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 255).all()
        shares.append(share)
    assert 0.7 <= np.mean(shares) < 0.85, "a box over the edge is smaller"
    assert len(set(shares)) > 5
    assert np.array_equal(np.random.get_state()[1], before), "the global stream is as it was"


PAIRS = {"p_mixup": 0.4, "p_cutmix": 0.4, "mixup_pairs": ("a+b",), "cutmix_pairs": ("b+b",)}


def test_only_pairs_of_the_table_are_mixed():
    labels = ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    mixing = Mixing(TeacherAugment(**PAIRS), labels)
    random, counts = np.random.default_rng(0), Counter()
    for index in list(range(15)) * 60:
        if drawn := mixing.draw(index, random):
            kind, partner, share = drawn
            assert 0 <= share <= 1
            counts[kind, labels[index], labels[partner]] += 1
    assert counts.keys() == {("mixup", "a", "b"), ("mixup", "b", "a"), ("cutmix", "b", "b")}
    assert counts["mixup", "a", "b"] / 300 == pytest.approx(0.4, abs=0.09)
    assert counts["cutmix", "b", "b"] / 300 == pytest.approx(0.4, abs=0.09)


def test_pairs_of_classes_that_are_not_there_are_refused():
    with pytest.raises(RecipeError, match=r"p_mixup is 0.4, mixup_pairs a\+b; expected pairs of x, y"):
        Mixing(TeacherAugment(**PAIRS), ["x", "y"])


def dataset(folder, config: AugmentConfig, intensity: Intensity | None = None) -> LogoDataset:
    rows = [LogoRow(FILES, "", f"{at}.png", f"{at}", "ab"[at % 2], (), True, "train") for at in range(8)]
    for at, row in enumerate(rows):
        Image.new("RGB", (40, 40), (30 * at, 255 - 30 * at, 90)).save(folder / row.icon)
    return LogoDataset(
        Manifest(tuple(rows), folder),
        rows,
        ("a", "b"),
        contract=InputContract(32),
        augment=config,
        class_weight_power=0.5,
        intensity=intensity,
    )


def test_a_mixed_view_has_the_mixed_label_and_is_the_same_in_any_batch(tmp_path):
    plain, mixed = (
        dataset(tmp_path, AugmentConfig()),
        dataset(tmp_path, TeacherAugment(p_mixup=0.5, mixup_pairs=("a+b",))),
    )
    soft = []
    for position in range(64):
        pixels, target, _, _ = mixed[position]
        again, same, _, _ = mixed[position]
        assert torch.equal(pixels, again)
        assert torch.equal(target, same)
        assert target.sum() == pytest.approx(1.0)
        if target.max() < 1:
            soft.append(position)
        else:
            assert torch.equal(pixels, plain[position][0]), "what is not mixed is as without mixing"
    assert len(soft) == pytest.approx(32, abs=12)


def test_the_harder_a_logo_the_milder_its_views_two_epochs_later(tmp_path):
    intensity = Intensity(8, 1.0)
    logos = dataset(
        tmp_path,
        AugmentConfig(policy=("invert 1 1",), scale_min=1.0, p_rotate=0.0, p_colour=0.0, p_background=0.0, p_jpeg=0.0),
        intensity,
    )
    intensity.record(torch.arange(8), torch.arange(8.0))
    assert intensity.end_epoch(0) == {"intensity": pytest.approx(0.5)}
    strengths = [intensity.strength(2, index) for index in range(8)]
    assert strengths == pytest.approx([1 - index / 7 for index in range(8)])
    assert [intensity.strength(1, index) for index in range(8)] == [1.0] * 8, "the next epoch may have begun"
    inverted = [int(logos[2 * 8 + 0][0][0, 0, 2]), int(logos[2 * 8 + 7][0][0, 0, 2])]
    assert inverted == [165, 90], "the easiest is inverted, the hardest left alone"
    assert intensity.strengths.is_shared()


def test_running_losses_follow_the_mean_of_a_step_and_start_at_the_first():
    intensity = Intensity(4, 0.5)
    intensity.record(torch.tensor([0, 5, 4]), torch.tensor([1.0, 2.0, 3.0]))  # logos 0, 1 and 0
    assert intensity.losses[:2].tolist() == [2.0, 2.0]
    assert intensity.losses[2:].isnan().all()
    intensity.record(torch.tensor([1]), torch.tensor([4.0]))
    assert intensity.losses[:2].tolist() == [2.0, 3.0]
    intensity.end_epoch(3)
    assert intensity.strengths[1].tolist() == [1.0, 0.5, 1.0, 1.0]
