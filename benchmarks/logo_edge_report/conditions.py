"""Changes of an image before classification: sizes, backgrounds, JPEG, and corruptions at five severities.

Every condition is a function of one image, RGB or RGBA, and of a seed where it draws at random; the same seed gives
the same picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from logo_edge.preprocess import InputContract, composite

Condition = Callable[[Image.Image, int], Image.Image]

SIZES_PX = (16, 24, 32, 48, 64, 96, 128, 256)
BACKGROUNDS = {
    "white": (255, 255, 255),
    "light grey": (225, 228, 232),
    "grey": (128, 128, 128),
    "dark": (30, 32, 36),
    "blue": (26, 82, 190),
    "orange": (240, 140, 30),
}
JPEG_QUALITIES = (95, 75, 50, 30, 15)
THUMBNAILS_PX, THUMBNAIL_QUALITY = (32, 48, 64, 96), 60
SEVERITIES = (1, 2, 3, 4, 5)
PAPER = InputContract()


def size_conditions() -> dict[str, Condition]:
    """The image delivered with its longer side at each of SIZES_PX."""
    return {f"{size} px": lambda image, _seed, size=size: scale_to(image, size) for size in SIZES_PX}


def background_conditions() -> dict[str, Condition]:
    """The image delivered without transparency, on each colour of BACKGROUNDS, with a margin of a tenth."""
    return {name: lambda image, _seed, colour=colour: lay_on(image, colour) for name, colour in BACKGROUNDS.items()}


def jpeg_conditions() -> dict[str, Condition]:
    """The image delivered as a JPEG at each of JPEG_QUALITIES."""
    return {
        f"quality {quality}": lambda image, _seed, quality=quality: as_jpeg(flatten(image), quality)
        for quality in JPEG_QUALITIES
    }


def thumbnail_conditions() -> dict[str, Condition]:
    """The image delivered as a small JPEG, its longer side at each of THUMBNAILS_PX."""
    return {
        f"{size} px, JPEG {THUMBNAIL_QUALITY}": lambda image, _seed, size=size: as_jpeg(
            flatten(scale_to(image, size)), THUMBNAIL_QUALITY
        )
        for size in THUMBNAILS_PX
    }


def corruptions() -> dict[str, Callable[[int], Condition]]:
    """Name -> severity (1 to 5) -> condition. After Hendrycks and Dietterich 2019, arXiv:1903.12261."""
    return {
        "noise": lambda severity: lambda image, seed: add_noise(flatten(image), (4, 8, 14, 24, 38)[severity - 1], seed),
        "blur": lambda severity: (
            lambda image, _: flatten(image).filter(ImageFilter.GaussianBlur((0.7, 1.2, 2.0, 3.0, 4.5)[severity - 1]))
        ),
        "jpeg": lambda severity: lambda image, _: as_jpeg(flatten(image), (60, 40, 25, 15, 8)[severity - 1]),
        "contrast": lambda severity: (
            lambda image, _: lower_contrast(flatten(image), (0.75, 0.55, 0.4, 0.3, 0.2)[severity - 1])
        ),
        "pixelate": lambda severity: lambda image, _: pixelate(flatten(image), (128, 96, 64, 48, 32)[severity - 1]),
        "perspective": lambda severity: (
            lambda image, seed: tilt(flatten(image), (0.04, 0.07, 0.11, 0.15, 0.2)[severity - 1], seed)
        ),
        "clutter": lambda severity: lambda image, seed: clutter(image, (2, 4, 7, 11, 16)[severity - 1], seed),
    }


def flatten(image: Image.Image) -> Image.Image:
    """The image on the runtime's background, RGB."""
    if image.mode == "RGB":
        return image
    pixels, _ = composite(np.asarray(image.convert("RGBa")), PAPER)
    return Image.fromarray(pixels)


def scale_to(image: Image.Image, long_side_px: int) -> Image.Image:
    scale = long_side_px / max(image.size)
    if scale >= 1:
        return image
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image.resize(size, Image.Resampling.LANCZOS)


def lay_on(image: Image.Image, colour: tuple[int, int, int], margin: float = 0.1) -> Image.Image:
    edge = round(max(image.size) * margin)
    paper = Image.new("RGB", (image.width + 2 * edge, image.height + 2 * edge), colour)
    paper.paste(image, (edge, edge), image if image.mode == "RGBA" else None)
    return paper


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer, formats=("JPEG",)).convert("RGB")


def add_noise(image: Image.Image, deviation: float, seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, deviation, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).round().astype(np.uint8))


def lower_contrast(image: Image.Image, share: float) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    mean = pixels.mean(axis=(0, 1))
    return Image.fromarray(((pixels - mean) * share + mean).round().astype(np.uint8))


def pixelate(image: Image.Image, long_side_px: int) -> Image.Image:
    return scale_to(image, long_side_px).resize(image.size, Image.Resampling.NEAREST)


def tilt(image: Image.Image, share: float, seed: int) -> Image.Image:
    """The image in perspective: each corner moves inwards by up to `share` of its side."""
    width, height = image.size
    moved = np.random.default_rng(seed).uniform(0, share, (4, 2)) * (width, height)
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    inwards = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
    matrix = cv2.getPerspectiveTransform(corners, (corners + moved * inwards).astype(np.float32))
    colour = np.median(np.asarray(image)[[0, -1]].reshape(-1, 3), axis=0).tolist()
    warped = cv2.warpPerspective(
        np.asarray(image),
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=colour,
    )
    return Image.fromarray(warped)


def clutter(image: Image.Image, shapes: int, seed: int) -> Image.Image:
    """The image in the middle of a page, with grey shapes around and, at higher counts, under its margin."""
    random = np.random.default_rng(seed)
    side = round(max(image.size) * 1.4)
    page = Image.new("RGB", (side, side), (255, 255, 255))
    pen = ImageDraw.Draw(page)
    for _ in range(shapes):
        left, top = random.uniform(-0.1, 0.95, 2) * side
        width, height = random.uniform(0.04, 0.2, 2) * side
        grey = int(random.integers(150, 235))
        draw = pen.rectangle if random.random() < 0.5 else pen.ellipse
        draw((left, top, left + width, top + height), fill=(grey, grey, grey))
    left, top = (side - image.width) // 2, (side - image.height) // 2
    page.paste(flatten(image), (left, top), image.getchannel("A") if image.mode == "RGBA" else None)
    return page
