"""Pixels of any mode and depth -> RGB or RGBA, 8 bits a channel."""

from __future__ import annotations

import numpy as np
from PIL import Image

from logo_edge.errors import ImageError
from logo_edge.images.headers import ImageFile

DEPTHS = (8, 10, 12, 14, 16)  # bits that samples of 16 bits may use
FULL_SCALES = (1.0, *(2.0**depth - 1 for depth in DEPTHS))  # possible largest values of floats
OVERSHOOT = 1.25  # of floats beyond their full scale, as resampling leaves it
BITS_PER_SAMPLE = 258  # tag of TIFF


def from_array(array: np.ndarray) -> Image.Image:
    """The RGB or RGBA image of an array, as `load_image` takes it. Raises ImageError."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"found an array of shape {array.shape}; expected (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA"
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype.newbyteorder("=") == np.uint16:
        array = _upper_bits(array)
    elif array.dtype.kind == "f":
        low, high = float(np.min(array)), float(np.max(array))
        if not (low >= 0.0 and high <= 1.0):
            raise ImageError(f"found floats from {low:.3g} to {high:.3g}; expected 0 to 1 (or uint8 from 0 to 255)")
        array = (array * 255.0 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"found an array of {array.dtype}; expected bool, uint8, uint16 or floats in 0 to 1")
    image = Image.fromarray(np.ascontiguousarray(array))
    return image.convert("RGB") if image.mode == "L" else image


def to_rgb_or_rgba(image: Image.Image) -> Image.Image:
    """The image in mode RGB, or RGBA where it has transparency. Raises ImageError for samples of more than 16 bits."""
    mode, clear = image.mode, image.has_transparency_data
    if mode == "RGBA" or (mode == "RGB" and not clear):
        return image
    if mode.startswith("I;16"):
        values = np.asarray(image)
        grey = Image.fromarray(_upper_bits(values))
        if clear:
            grey.putalpha(Image.fromarray(values != image.info["transparency"]).convert("L"))
        return grey.convert("RGBA" if clear else "RGB")
    if mode == "I":
        return Image.fromarray(_upper_bits(np.asarray(image))).convert("RGB")
    if mode == "F":
        return Image.fromarray(_scale_floats(np.asarray(image))).convert("RGB")
    if mode == "La":
        image = image.convert("LA")  # the only way out that Pillow has
    return image.convert("RGBA" if clear else "RGB")


def has_16_bits(image: Image.Image, file: ImageFile) -> bool:
    """Whether the file has 16 bits a channel, of which Pillow took the upper 8."""
    if image.mode not in ("RGB", "RGBA", "LA"):
        return False
    if image.format == "PNG":
        return file.data[24] == 16
    return image.format == "TIFF" and image.tag_v2.get(BITS_PER_SAMPLE, (8,))[0] == 16


def check_depth(image: Image.Image, name: str) -> None:
    """Raises ImageError for an image that is nearly black because its samples use only the lower of 16 bits."""
    top = max(high for _, high in image.getextrema())
    if 0 < top < 16:
        raise ImageError(
            f"{name}: samples of 16 bits that use 12 of them or fewer; scale them to all 16, or save 8 bits"
        )


def _upper_bits(values: np.ndarray) -> np.ndarray:
    """uint8: the upper 8 of the bits that these integers use. Cameras and scanners write 10, 12 or 14 bits in 16."""
    top = int(values.max())
    depth = next((depth for depth in DEPTHS if top < 1 << depth), None)
    if depth is None:
        raise ImageError(f"found integers up to {top:,}; expected samples of up to 16 bits. Scale them first")
    return (np.maximum(values, 0) >> depth - 8).astype(np.uint8)


def _scale_floats(values: np.ndarray) -> np.ndarray:
    """uint8 of floats; their largest value decides whether full scale is 1 or the largest number of 8 to 16 bits.

    NaN becomes 0.
    """
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, top = float(values.min()), float(values.max())
    full_scale = next((scale for scale in FULL_SCALES if top <= OVERSHOOT * scale), 0.0)
    if not full_scale or (full_scale == 255.0 and top < 16) or low < (1 - OVERSHOOT) * full_scale:
        raise ImageError(
            f"found floats from {low:.3g} to {top:.3g}; expected 0 to 1, or values of 8 to 16 bits. Scale them first"
        )
    return (np.clip(values * (255.0 / full_scale), 0, 255) + 0.5).astype(np.uint8)
