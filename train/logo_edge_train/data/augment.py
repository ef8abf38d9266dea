"""Augmentation that keeps the class, by the kind of picture.

Of a logo, no operation adds or removes a gradient, or breaks or mirrors lettering. Of a photograph or a document, which
fills its frame, no operation changes the background.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from timm.data.mixup import cutmix_bbox_and_lam
from torch import nn

from logo_edge.errors import RecipeError
from logo_edge.likeness.parts import ink_box
from logo_edge.preprocess import (
    CROP,
    InputContract,
    central_square,
    composite,
    letterboxed_size,
    pick_background,
    preprocess,
)
from logo_edge_train.data.images import longer_side
from logo_edge_train.data.sampling import rank_shares
from logo_edge_train.recipe import AugmentConfig, Operation, SceneConfig, TeacherAugment

MAX_HIDDEN_INK = 0.02  # share of the ink that may come close to a random background colour
CLOSE_COLOUR = 110  # sum of absolute differences over R, G and B
INTENSITIES = 10  # steps of strength between nothing and the whole
LOW_RESOLUTION_PX = 160  # most, of the longer side of a picture of low resolution
LEAST_SLOPE, MOST_SLOPE = 0.01, 0.2  # of the light across a picture; the bounds of albumentations
LOSS_MOMENTUM = 0.5  # of a logo's running loss, which is updated about once an epoch


class LogoAugmentation:
    """Random view of one logo: scale, offset, rotation, colour, background; the policy; resolution, blur, JPEG, WebP.

    The picture is drawn and degraded at the resolution at which the contract reads details, then preprocessed as in the
    runtime. A view depends on its seed alone, in any process.
    """

    def __init__(self, config: AugmentConfig, contract: InputContract):
        self.config, self.contract, self.p_background = config, contract, config.p_background
        self.policy = [Operation.parse(text) for text in config.policy]
        rotate = A.Rotate(
            limit=(-config.rotate_degrees, config.rotate_degrees), border_mode=0, fill=0, p=config.p_rotate
        )
        hue = int(config.hue_degrees / 2)  # OpenCV's hue has 180 steps
        self.on_ink = A.Compose([rotate])
        self.on_colours = A.Compose(
            [
                A.HueSaturationValue((-hue, hue), (-15, 25), (-12, 12), p=config.p_colour),
                A.RandomBrightnessContrast((-0.08, 0.08), (-0.12, 0.12), p=config.p_colour / 2),
                A.ChannelShuffle(p=config.p_colour / 4),
            ]
        )
        self.on_picture = A.Compose(
            [
                A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 0.9), p=config.p_blur),
                A.ImageCompression(quality_range=(30, 95), p=config.p_jpeg),
                A.ImageCompression(compression_type="webp", quality_range=(40, 95), p=config.p_webp),
            ]
        )

    def __call__(self, image: Image.Image, seed: int) -> np.ndarray:
        """A view of the logo, (S, S, channels) uint8, preprocessed by the contract. `image` is RGBa (premultiplied)."""
        return preprocess(self.draw_picture(image, seed), self.contract)

    def draw_picture(self, image: Image.Image, seed: int) -> np.ndarray:
        """The picture from which a view is preprocessed, (H, W, 3) uint8, not larger than the contract's input needs.

        A logo's is square.
        """
        random, policy_random = np.random.default_rng(seed), np.random.default_rng((seed, 1))
        for stage in (self.on_ink, self.on_colours, self.on_picture):
            stage.set_random_seed(int(random.integers(2**31)))
        drawn = [operation for operation in self.policy if policy_random.random() < operation.probability]
        ink = self._place(image, random)  # (H, W, 4) uint8, premultiplied
        ink = self.on_ink(image=ink)["image"]
        ink = operate(ON_INK, drawn, ink, policy_random)
        ink = recolour(
            ink, lambda straight: operate(ON_COLOURS, drawn, self.on_colours(image=straight)["image"], policy_random)
        )
        picture = lay_on_background(ink, self.contract, random, self.p_background)
        picture = operate(ON_PICTURE, drawn, picture, policy_random)
        side = self._draw_resolution(random)
        if side < self.contract.least_px:
            picture = resize_picture(picture, side)
        picture = self.on_picture(image=picture)["image"]
        if side < self.contract.least_px and random.random() < self.config.p_rescale:
            picture = resize_picture(picture, int(random.integers(side, self.contract.least_px + 1)))
        return picture

    def _draw_resolution(self, random: np.random.Generator) -> int:
        """The side of the picture in pixels: the canvas's, or less for the share `p_low_resolution` of the views."""
        least, most = self.config.least_px, min(LOW_RESOLUTION_PX, self.contract.least_px)
        if random.random() >= self.config.p_low_resolution or most <= least:
            return self.contract.least_px
        return round(least * (most / least) ** random.random())

    def _place(self, image: Image.Image, random: np.random.Generator) -> np.ndarray:
        if self.contract.fit == CROP:
            image, _ = central_square(image)
        size = self.contract.least_px
        side = round(size * random.uniform(self.config.scale_min, 1.0)) if random.random() < 0.75 else size
        width, height = letterboxed_size(image.size, max(1, side))
        small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        left, top = (int(random.integers(0, free + 1)) for free in (size - width, size - height))
        if random.random() < 0.5:
            left, top = (size - width) // 2, (size - height) // 2
        square = np.zeros((size, size, 4), np.uint8)
        square[top : top + height, left : left + width] = small
        return square


class SceneAugmentation(LogoAugmentation):
    """Random view of one photograph or document: crop, stretch, mirroring, angle, light, colour; the rest as a logo's.

    The crop keeps its aspect ratio: the contract, as in the runtime, decides what becomes of it. A transparent image
    is composited on the contract's background only.
    """

    def __init__(self, config: AugmentConfig, contract: InputContract, scene: SceneConfig):
        super().__init__(config, contract)
        self.scene, self.p_background = scene, 0.0
        turn, border = scene.rotate_degrees, cv2.BORDER_REPLICATE
        self.on_ink = A.Compose(
            [
                A.HorizontalFlip(p=scene.p_mirror),
                A.VerticalFlip(p=scene.p_flip),
                A.Rotate((-turn, turn), border_mode=border, p=float(turn > 0)),
                A.Perspective((0, scene.tilt), fit_output=False, border_mode=border, p=float(scene.tilt > 0)),
            ]
        )
        light, hue, saturation = scene.light, scene.hue_degrees / 2, 255 * scene.saturation
        slope = min(MOST_SLOPE, max(LEAST_SLOPE, light / 2))
        self.on_colours = A.Compose(
            [
                # not brighter than white, where the lines of a small page would vanish
                A.RandomGamma((100 / (1 + 2 * light), 100 * (1 + 2 * light)), p=scene.p_light),
                A.RandomBrightnessContrast(light, light, ensure_safe_range=True, p=scene.p_light),
                A.Illumination("linear", intensity_range=(LEAST_SLOPE, slope), p=scene.p_light),
                A.HueSaturationValue((-hue, hue), (-saturation, saturation), 0, p=scene.p_colour),
            ]
        )

    def _place(self, image: Image.Image, random: np.random.Generator) -> np.ndarray:
        """A random part of the image, (H, W, 4) uint8 premultiplied, as large as the contract's input needs."""
        share, stretch = random.uniform(self.scene.crop_min, 1.0), np.log(self.scene.stretch)
        factor = np.exp(random.uniform(-stretch, stretch) / 2)
        width, height = image.width * min(1.0, share**0.5 * factor), image.height * min(1.0, share**0.5 / factor)
        left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
        longer_px = longer_side((width, height), self.contract.least_px, self.contract)
        size = letterboxed_size((width, height), longer_px)
        return np.asarray(image.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height)))


def make_augmentation(config: AugmentConfig, contract: InputContract) -> LogoAugmentation:
    """The augmentation of the configuration's kind of picture."""
    scene = {"photo": config.photo, "document": config.document}.get(config.kind)
    return SceneAugmentation(config, contract, scene) if scene else LogoAugmentation(config, contract)


def weaken(config: AugmentConfig, strength: float) -> AugmentConfig:
    """The augmentation with all strengths and probabilities, except the mixing, times 0 to 1; 0 changes nothing."""
    policy = [Operation.parse(text) for text in config.policy]
    numbers = {
        key: getattr(config, key) * strength
        for key in (
            "rotate_degrees",
            "p_rotate",
            "p_background",
            "p_colour",
            "hue_degrees",
            "p_low_resolution",
            "p_rescale",
            "p_blur",
            "p_jpeg",
            "p_webp",
        )
    }
    scenes = {
        key: replace(
            scene,
            **{
                field.name: getattr(scene, field.name) * strength
                for field in fields(scene)
                if field.name not in ("crop_min", "stretch")
            },
            crop_min=1 - strength * (1 - scene.crop_min),
            stretch=1 + strength * (scene.stretch - 1),
        )
        for key, scene in (("photo", config.photo), ("document", config.document))
    }
    return replace(
        config,
        **numbers,
        **scenes,
        scale_min=1 - strength * (1 - config.scale_min),
        policy=tuple(f"{o.name} {o.probability * strength} {o.magnitude * strength}" for o in policy),
    )


def resize_picture(picture: np.ndarray, side: int) -> np.ndarray:
    """The (H, W, 3) uint8 picture with a longer side of `side`."""
    size = letterboxed_size(picture.shape[1::-1], side)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))


Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # of an image, at a magnitude of 0 to 1


def operate(
    changes: dict[str, Change], drawn: Sequence[Operation], image: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The image after the drawn operations that are in `changes`, in order."""
    for operation in drawn:
        if operation.name in changes:
            image = changes[operation.name](image, operation.magnitude, random)
    return image


def shear(ink: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """Slanted to the side by at most 15 degrees."""
    slant = np.tan(np.radians(15 * magnitude * random.uniform(-1, 1)))
    return _move_corners(ink, lambda width, height: slant * height / 2 * np.float32([[1, 0], [1, 0], [-1, 0], [-1, 0]]))


def perspective(ink: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """Seen at an angle: each corner of the mark's box moves inwards by at most 12 % of the box."""
    inwards = 0.12 * magnitude * random.uniform(0, 1, (4, 2)) * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    return _move_corners(ink, lambda width, height: inwards * [width, height])


def _move_corners(ink: np.ndarray, shift: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """The ink with the corners of its box shifted by (4, 2) px of (width, height); shrunk if it would leave the canvas.

    The corners are the upper left, upper right, lower right and lower left.
    """
    canvas = np.array(ink.shape[1::-1])
    rows, columns = ink_box(ink[:, :, 3] > 0)
    before = np.array([(x, y) for y in (rows.start, rows.stop) for x in (columns.start, columns.stop)])[[0, 1, 3, 2]]
    corners = before + shift(columns.stop - columns.start, rows.stop - rows.start)
    corners = corners.mean(0) + (corners - corners.mean(0)) * min(1.0, (canvas / np.ptp(corners, axis=0)).min())
    corners += np.maximum(0, -corners.min(0)) - np.maximum(0, corners.max(0) - canvas)
    # OpenCV's coordinates are those of the pixels' centres
    matrix = cv2.getPerspectiveTransform(np.float32(before - 0.5), np.float32(corners - 0.5))
    opaque = ink[:, :, 3].min() == 255  # a picture with a background of its own, which continues beyond its edges
    border = cv2.BORDER_REPLICATE if opaque else cv2.BORDER_CONSTANT
    return cv2.warpPerspective(ink, matrix, tuple(canvas.tolist()), flags=cv2.INTER_LINEAR, borderMode=border)


def tint(colours: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """All colours mixed with a random one, by at most 30 %: a linear mixture keeps every difference."""
    return _mix(colours, random.uniform(0, 255, 3), 0.3 * magnitude * random.uniform())


def fade(colours: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """All colours mixed with black, white or a grey, by at most 35 %."""
    return _mix(colours, np.full(3, random.uniform(0, 255)), 0.35 * magnitude * random.uniform())


def change_gamma(colours: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """Levels to the power of at most 1.4, or its inverse."""
    power = 1.4 ** (magnitude * random.uniform(-1, 1))
    return cv2.LUT(colours, np.rint(255 * (np.arange(256) / 255) ** power).astype(np.uint8))


def desaturate(colours: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """Colours mixed with their own grey, by at most 50 %: colours that differ in hue only must stay distinct."""
    grey = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[:, :, None]
    return _mix(colours, grey, 0.5 * magnitude * random.uniform())


def _mix(colours: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    return np.rint(colours * (1 - share) + other * share).astype(np.uint8)


def invert(picture: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """The negative of mark and background at any magnitude: inverted alone, black letters would vanish on white."""
    return 255 - picture


def add_noise(picture: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """Grain with a standard deviation of at most 4 levels: at 8, `measure_logo` finds fades in a flat mark."""
    grain = random.normal(0, 4 * magnitude * random.uniform(), picture.shape)
    return np.rint(picture + grain).clip(0, 255).astype(np.uint8)


def sharpen(picture: np.ndarray, magnitude: float, random: np.random.Generator) -> np.ndarray:
    """Unsharp masking: adds at most the whole difference to a blur of 1 px."""
    amount = magnitude * random.uniform()
    return cv2.addWeighted(picture, 1 + amount, cv2.GaussianBlur(picture, (0, 0), 1), -amount, 0)


ON_INK: dict[str, Change] = {"shear": shear, "perspective": perspective}
ON_COLOURS: dict[str, Change] = {"tint": tint, "fade": fade, "gamma": change_gamma, "desaturate": desaturate}
ON_PICTURE: dict[str, Change] = {"invert": invert, "noise": add_noise, "sharpen": sharpen}


class Mixing:
    """Draws the partner and share with which MixUp or CutMix mixes a logo, by their classes.

    MixUp: Zhang et al. 2018, arXiv:1710.09412; CutMix: Yun et al. 2019, arXiv:1905.04899, with timm's box. The partner
    depends on the seed alone, not on the batch. Raises RecipeError if no pair consists of the labels' classes.
    """

    def __init__(self, config: TeacherAugment, labels: Sequence[str]):
        self.config, self.labels = config, labels
        self.partners = {
            "mixup": find_partners(config.mixup_pairs, labels),
            "cutmix": find_partners(config.cutmix_pairs, labels),
        }
        for kind, partners in self.partners.items():
            if getattr(config, f"p_{kind}") and not partners:
                raise RecipeError(
                    f"p_{kind} is {getattr(config, f'p_{kind}')}, {kind}_pairs "
                    f"{', '.join(getattr(config, f'{kind}_pairs'))}; "
                    f"expected pairs of {', '.join(sorted(set(labels)))}"
                )

    def draw(self, index: int, random: np.random.Generator) -> tuple[str, int, float] | None:
        """(kind, partner's index, own share) of the mixture for logo `index`; None if it is not mixed."""
        chance = random.random()
        kind = "mixup" if chance < self.config.p_mixup else "cutmix"
        partners = self.partners[kind].get(self.labels[index])
        if chance >= self.config.p_mixup + self.config.p_cutmix or partners is None:
            return None
        return kind, int(random.choice(partners)), float(random.beta(self.config.mix_alpha, self.config.mix_alpha))


def find_partners(pairs: Sequence[str], labels: Sequence[str]) -> dict[str, np.ndarray]:
    """For each class, the indices of the logos that a logo of it may be mixed with."""
    allowed: dict[str, set[str]] = {}
    for one, other in (pair.split("+") for pair in pairs):
        allowed.setdefault(one, set()).add(other)
        allowed.setdefault(other, set()).add(one)
    indices = {name: np.flatnonzero(np.isin(labels, list(others))) for name, others in allowed.items()}
    return {name: partners for name, partners in indices.items() if len(partners)}


def mix_pair(
    kind: str, one: np.ndarray, other: np.ndarray, share: float, random: np.random.Generator
) -> tuple[np.ndarray, float]:
    """The mixture of two (S, S, 3) uint8 views, and the first view's share of it."""
    if kind == "mixup":
        return _mix(one, other, 1 - share), share
    with _seeded_globally(int(random.integers(2**32))):
        (top, bottom, left, right), share = cutmix_bbox_and_lam((3, *one.shape[:2]), share)
    mixed = one.copy()
    mixed[top:bottom, left:right] = other[top:bottom, left:right]
    return mixed, float(share)


@contextmanager
def _seeded_globally(seed: int) -> Iterator[None]:
    """Seeds numpy's global generator, from which timm draws, within the block; restores it afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


class Intensity(nn.Module):
    """The strength of each logo's views: 1 for the lowest running loss, 1 - depth for the highest.

    Epoch e uses the losses up to the end of epoch e - 2. So loader processes, which may be an epoch ahead, read the
    same strengths as a fit without them and as a resumed fit. The tensors are shared with these processes.
    """

    def __init__(self, count: int, depth: float):
        super().__init__()
        self.depth = depth
        self.register_buffer("losses", torch.full((count,), torch.nan, dtype=torch.float64))  # NaN: not seen yet
        strengths = torch.ones(2, count, dtype=torch.float64)  # by epoch, modulo 2
        self.register_buffer("strengths", strengths.share_memory_())

    def strength(self, epoch: int, index: int) -> float:
        """The strength of the views of logo `index` in an epoch, 0 to 1."""
        return float(self.strengths[epoch % 2, index])

    def record(self, positions: torch.Tensor, losses: torch.Tensor) -> None:
        """Adds the (n,) losses at the positions of a step to the running losses; several of one logo by their mean."""
        count = len(self.losses)
        indices = positions % count
        times = torch.bincount(indices, minlength=count)
        means = torch.bincount(indices, losses.double(), minlength=count) / times.clamp(min=1)
        means = torch.where(self.losses.isnan(), means, self.losses.lerp(means, 1 - LOSS_MOMENTUM))
        self.losses.copy_(torch.where(times > 0, means, self.losses))

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Sets the strengths of the epoch after the next; returns their mean."""
        seen = ~self.losses.isnan()
        ranks = torch.from_numpy(rank_shares(self.losses[seen].numpy()))
        self.strengths[epoch % 2, seen] = 1 - self.depth * ranks
        return {"intensity": float(self.strengths[epoch % 2].mean())}


def recolour(ink: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The ink, (S, S, 4) uint8 premultiplied, after `change` of its straight colours (S, S, 3); alpha stays."""
    alpha, straight = ink[:, :, 3], np.ascontiguousarray(ink[:, :, :3])
    partial = (alpha > 0) & (alpha < 255)
    cover = alpha[partial][:, None].astype(np.uint16)  # (N, 1)
    straight[partial] = np.minimum(straight[partial].astype(np.uint16) * 255 // cover, 255)
    colours = change(straight).copy()
    colours[partial] = (colours[partial].astype(np.uint16) * cover + 127) // 255
    colours[alpha == 0] = 0
    return np.dstack([colours, alpha])


def lay_on_background(
    ink: np.ndarray, contract: InputContract, random: np.random.Generator, p_random: float
) -> np.ndarray:
    """(S, S, 3) uint8: the premultiplied ink on the contract's background.

    With the probability `p_random`, on a random colour unlike its own.
    """
    background = pick_background(ink, contract)
    if random.random() < p_random:
        solid = ink[ink[:, :, 3] > 250][:, :3].astype(np.int16)  # (N, 3)
        for _ in range(4):
            colour = tuple(int(value) for value in random.integers(0, 256, 3))
            close = (np.abs(solid - np.array(colour, np.int16)).sum(axis=1) < CLOSE_COLOUR).mean() if len(solid) else 0
            if close < MAX_HIDDEN_INK:
                background = colour
                break
    return composite(ink, InputContract(contract.size_px, background, background))[0]
