"""The one preprocessing: image -> the square uint8 tensor that a bundle's model reads.

Every room and backend uses it. Pillow is the definition; preprocess.c gives the same bytes several times faster, where
the package was built with a C compiler. Normalisation is not part of it: the models read uint8 and normalise inside
their graph, so that all languages agree to the bit.
"""

from __future__ import annotations

import ctypes
import math
import sys
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from PIL import Image

OLD_PILLOW = int(PIL.__version__.partition(".")[0]) < 13  # Python 3.10 has none that scales as Pillow 13 does
OPAQUE = np.uint32(0xFF000000)  # the smallest opaque RGBA pixel, as a little-endian number
MOST_PARTIAL = 4  # where more than one pixel in so many is partly transparent, converting all is as fast
DETAIL_PX = 256  # longer side at which the detail planes are computed
REACH_PX = 6  # the farthest neighbour that a detail plane reads
WORKSPACE_BYTES = 700 << 10  # of preprocess.h
DETAIL_PLANES = ("near fade", "far fade", "ramp", "edge")
FITS = LETTERBOX, CROP = ("letterbox", "crop")  # what becomes of an image that is not square


@dataclass(frozen=True)
class InputContract:
    """The input of a model: uint8, NHWC, (B, size_px, size_px, channels); RGB first.

    An image is letterboxed: the whole of it is shown. With the `fit` crop, only its central square is read. An image
    with transparency is composited on `light_background`, or on `dark_background` where the mean luminance of
    its ink, weighted by alpha, is above `dark_above_luminance` of 255. An opaque image is letterboxed in its own
    background: the median colour of its border. With `details`, four planes follow RGB; `detail_planes` computes them
    before the image is scaled to the network's size.
    """

    size_px: int = 128
    light_background: tuple[int, int, int] = (255, 255, 255)
    dark_background: tuple[int, int, int] = (60, 60, 60)
    dark_above_luminance: float = 225.0
    details: bool = False
    fit: str = LETTERBOX

    @property
    def channels(self) -> int:
        """3, or 7 with the detail planes."""
        return 3 + self.details * len(DETAIL_PLANES)

    @property
    def shown(self) -> str:
        """What the model reads of an image, for a card."""
        square = f"{self.size_px} x {self.size_px} px"
        return f"letterboxed to {square}" if self.fit == LETTERBOX else f"cropped to its central square, {square}"

    @property
    def least_px(self) -> int:
        """The longer side, of a central square, below which an image lacks detail that the model reads."""
        return max(self.size_px, self.details * DETAIL_PX)


def load_library(path: Path) -> ctypes.CDLL | None:
    """The compiled preprocess.c; None where there is none, or it is of another platform or version."""
    if sys.byteorder != "little" or not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        unfilter = library.logo_edge_unfilter
    except (OSError, AttributeError):  # in a copied folder, or compiled before
        return None
    number, real, address, text = ctypes.c_int, ctypes.c_double, ctypes.c_void_p, ctypes.c_char_p
    image, box, contract = [address, number, number, number], [real, real], [number, number, number, text, text, real]
    library.logo_edge_preprocess.argtypes = [*image, *box, *contract, address, address]  # see preprocess.h
    unfilter.argtypes = [text, number, number, number, address, address]
    return library


# None: Pillow preprocesses
LIBRARY = load_library(Path(__file__).with_name("_preprocess.dll" if sys.platform == "win32" else "_preprocess.so"))


class Workspace(threading.local):
    """Memory that each thread keeps for the library: the system's own takes longer to get than an image to scale."""

    def __init__(self):
        self.memory = np.empty(WORKSPACE_BYTES, np.uint8)
        self.address = self.memory.ctypes.data


WORKSPACE = Workspace()


def preprocess(
    image: Image.Image | np.ndarray, contract: InputContract, size_px: tuple[float, float] | None = None
) -> np.ndarray:
    """The image as the model reads it, (size_px, size_px, contract.channels) uint8: RGB, then the detail planes.

    `image` is RGB or RGBA (see `images.load_image`), or (H, W, 3 or 4) uint8, which may be changed. The aspect ratio
    is kept; with the fit crop, the central square is cut out first. The resampling is Pillow's antialiased bilinear (a
    triangle filter whose support grows with the reduction), on premultiplied colours. With detail planes, a larger
    image is first scaled to DETAIL_PX and composited; RGB and planes are then scaled from there. `size_px` is the size
    of the drawing where it covers only part of the last column or row (`images.load_reduced`). Raises ValueError for
    any other input, and MemoryError.
    """
    if LIBRARY is None:
        return preprocess_by_pillow(image, contract, size_px)
    pixels, size = np.ascontiguousarray(image), contract.size_px
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
        raise ValueError(
            f"found {pixels.dtype} of shape {pixels.shape}; expected uint8 (H, W, 3) RGB or (H, W, 4) RGBA"
        )
    height, width, channels = pixels.shape
    box_width, box_height = size_px or (width, height)
    if not (0 < box_width <= width and 0 < box_height <= height):
        raise ValueError(f"found a picture of {box_width} x {box_height} within {width} x {height} pixels")
    square = np.empty((size, size, contract.channels), np.uint8)
    status = LIBRARY.logo_edge_preprocess(
        pixels.ctypes.data,
        channels,
        width,
        height,
        box_width,
        box_height,
        size,
        contract.details,
        contract.fit == CROP,
        bytes(contract.light_background),
        bytes(contract.dark_background),
        contract.dark_above_luminance,
        square.ctypes.data,
        WORKSPACE.address if contract.details else None,
    )
    if status > 0:  # a side of more than 65,536 pixels
        return preprocess_by_pillow(pixels, contract, size_px)
    if status < 0:
        raise MemoryError(f"not enough memory to scale {width} x {height} pixels")
    return square


def preprocess_by_pillow(
    image: Image.Image | np.ndarray, contract: InputContract, size_px: tuple[float, float] | None = None
) -> np.ndarray:
    """`preprocess` without the C library."""
    size = contract.size_px
    if contract.fit == CROP:
        image, size_px = central_square(image, size_px)
    if isinstance(image, np.ndarray):
        image = premultiply(image) if image.shape[2] == 4 else Image.fromarray(image)
    elif image.mode == "RGBA":
        image = premultiply(np.array(image))
    width, height = letterboxed_size(size_px or image.size, size)
    box, background, planes = None if size_px is None else (0, 0, *size_px), None, None
    if contract.details:
        large = np.asarray(resize(image, detail_size(size_px or image.size), box))
        if large.shape[2] == 4:
            large, background = composite(large, contract)
        image, box = Image.fromarray(large), None
        pooled = resize(Image.fromarray(detail_planes(large), "RGBX"), (width, height))
        planes = np.asarray(pooled)
    ink = np.asarray(resize(image, (width, height), box))
    if ink.shape[2] == 4:
        ink, background = composite(ink, contract)
    if background is None:
        background = border_colour(ink)
    square = np.zeros((size, size, contract.channels), np.uint8)
    square[:, :, :3] = background
    left, top = (size - width) // 2, (size - height) // 2
    inside = square[top : top + height, left : left + width]
    inside[:, :, :3] = ink
    if planes is not None:
        inside[:, :, 3:] = planes
    return square


Picture = TypeVar("Picture", Image.Image, np.ndarray)


def central_square(
    image: Picture, size_px: tuple[float, float] | None = None
) -> tuple[Picture, tuple[float, float] | None]:
    """The square in the middle of the image, cut at whole pixels; and its size if `size_px`, the drawing's, is given.

    `image` is a PIL image or (H, W, C). Of an odd rest, the larger half is cut off to the right or below.
    """
    width, height = size_px or (image.size if isinstance(image, Image.Image) else image.shape[1::-1])
    side = min(width, height)
    left, top, side_px = int((width - side) / 2), int((height - side) / 2), math.ceil(side)
    size_px = size_px and (side, side)
    if isinstance(image, Image.Image):
        return image.crop((left, top, left + side_px, top + side_px)), size_px
    return image[top : top + side_px, left : left + side_px], size_px


def resize(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """`box` of the image, from its upper left corner, scaled to `size` by Pillow 13's antialiased bilinear filter.

    Pillow 12 scales rows before columns always, Pillow 13 columns first where that saves more than twice as many rows
    as columns; values are rounded in between.
    """
    width, height = size
    if OLD_PILLOW and image.height - height > max(0, 2 * (image.width - width)):
        right, bottom = image.size if box is None else box[2:]
        image = image.resize((image.width, height), Image.Resampling.BILINEAR, (0, 0, image.width, bottom))
        box = (0, 0, right, height)
    return image.resize(size, Image.Resampling.BILINEAR, box)


def detail_size(size: tuple[float, float]) -> tuple[int, int]:
    """(width, height) in pixels at which detail planes are computed; the longer side is at most DETAIL_PX."""
    if max(size) > DETAIL_PX:
        return letterboxed_size(size, DETAIL_PX)
    return max(1, round(size[0])), max(1, round(size[1]))


def detail_planes(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8: the near fade, the far fade, the ramp and the edge at each pixel of (H, W, 3) uint8 RGB.

    The first three are 255 where the colour changes smoothly, across or down: by a small difference and a smaller
    second difference over 2 x 2 px (near) and 2 x 6 px (far), and in eight small steps of one sign over 2 x 4 px of
    the 3 x 3 means (ramp). The edge is the magnitude of the Laplacian. Each reads all channels; border pixels repeat
    beyond the border.
    """
    height, width = pixels.shape[:2]
    padded = np.pad(pixels.astype(np.int16), ((REACH_PX, REACH_PX), (REACH_PX, REACH_PX), (0, 0)), mode="edge")
    summed = sum(  # of the 3 x 3 px around each pixel; one pixel smaller on each side
        padded[down : down + height + 2 * REACH_PX - 2, right : right + width + 2 * REACH_PX - 2]
        for down in range(3)
        for right in range(3)
    )

    def shifted(values: np.ndarray, margin: int, across: int, down: int) -> np.ndarray:
        """(H, W, 3): the neighbour that many pixels to the right and down."""
        top, left = margin + down, margin + across
        return values[top : top + height, left : left + width]

    def at(across: int, down: int) -> np.ndarray:
        return shifted(padded, REACH_PX, across, down)

    planes = np.zeros((height, width, len(DETAIL_PLANES)), np.uint8)
    for across, down in ((1, 0), (0, 1)):
        for plane, (reach, least, most) in enumerate(((2, 3, 24), (6, 4, 48))):
            before, after = at(-reach * across, -reach * down), at(reach * across, reach * down)
            change = np.abs(after - before).max(axis=2)
            bend = np.abs(after - 2 * at(0, 0) + before).max(axis=2)
            is_fade = (change >= least) & (change <= most) & (3 * bend <= np.maximum(change, 4))
            planes[is_fade, plane] = 255
        means = np.stack([shifted(summed, REACH_PX - 1, step * across, step * down) for step in range(-4, 5)])
        steps = np.diff(means, axis=0)  # (8, H, W, 3), in ninths of a level
        total, lowest, highest = means[-1] - means[0], steps.min(axis=0), steps.max(axis=0)
        falls = total < 0
        total, lowest = np.abs(total), np.where(falls, -highest, lowest)
        highest = np.where(falls, -steps.min(axis=0), highest)
        is_ramp = (total >= 27) & (lowest >= -3) & (highest < 90) & (16 * highest <= np.maximum(5 * total, 200))
        planes[is_ramp.any(axis=2), 2] = 255
    laplacian = 4 * at(0, 0) - at(-1, 0) - at(1, 0) - at(0, -1) - at(0, 1)
    planes[:, :, 3] = np.minimum(np.abs(laplacian).max(axis=2), 255)
    return planes


def premultiply(pixels: np.ndarray) -> Image.Image:
    """The image of (H, W, 4) uint8 RGBA with premultiplied colours in four channels; RGB where all pixels are opaque.

    Changes `pixels`. Equal to the bit to Pillow's `convert("RGBa")`, in a quarter of its time for most logos, in which
    nearly all pixels are opaque or clear.
    """
    height, width = pixels.shape[:2]
    packed = np.ascontiguousarray(pixels).view("<u4").ravel()  # (H W,), alpha in the highest byte
    if packed.min() >= OPAQUE:
        return Image.fromarray(pixels).convert("RGB")
    partial = np.flatnonzero(packed - np.uint32(1) < OPAQUE - np.uint32(1))  # not opaque and not 0
    if len(partial) > packed.size // MOST_PARTIAL:
        return Image.fromarray(pixels).convert("RGBa")
    some = packed[partial]
    alpha = some >> 24
    red_blue = (some & 0xFF00FF) * alpha + 0x800080  # two products at a time, each divided by 255 as Pillow does
    red_blue = (red_blue + ((red_blue >> 8) & 0xFF00FF)) >> 8 & 0xFF00FF
    green = (some >> 8 & 0xFF) * alpha + 0x80
    green = (green + (green >> 8)) & 0xFF00
    packed[partial] = red_blue | green | alpha << 24
    return Image.frombuffer("RGBX", (width, height), packed, "raw", "RGBX", 0, 1)


def letterboxed_size(size: tuple[float, float], square_px: int) -> tuple[int, int]:
    """(width, height) in pixels after scaling the longer side to `square_px`; at least 1 each."""
    width, height = size
    if width >= height:
        return square_px, max(1, round(height * square_px / width))
    return max(1, round(width * square_px / height)), square_px


def composite(premultiplied: np.ndarray, contract: InputContract) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(H, W, 3) uint8 on the background that the contract's rule picks, and that background.

    `premultiplied`: (H, W, 4) uint8 RGBA with premultiplied colours.
    """
    background = pick_background(premultiplied, contract)
    packed = np.ascontiguousarray(premultiplied).view("<u4")[:, :, 0]  # (H, W), alpha in the highest byte
    composited = (
        packed + _background_table(background)[packed >> 24]
    )  # no carry: premultiplied colours are at most alpha
    return np.ascontiguousarray(composited.view(np.uint8).reshape(premultiplied.shape)[:, :, :3]), background


@lru_cache(maxsize=4096)
def _background_table(background: tuple[int, int, int]) -> np.ndarray:
    """(256,) little-endian uint32: the background's part at each alpha, red in the lowest byte, then green and blue."""
    clear = 255 - np.arange(256, dtype=np.uint32)[:, None]
    red, green, blue = ((clear * np.array(background, np.uint32) + 127) // 255).T
    return (red | green << 8 | blue << 16).astype("<u4")


def pick_background(premultiplied: np.ndarray, contract: InputContract) -> tuple[int, int, int]:
    """The dark background where the ink is nearly white, else the light one: what annotators saw."""
    red, green, blue, alpha = premultiplied.sum(axis=0, dtype=np.uint32).sum(axis=0).tolist()
    weighted = 255 * (299 * red + 587 * green + 114 * blue)  # integers, so that all machines agree at the threshold
    is_light = weighted > 1000 * alpha * contract.dark_above_luminance
    return contract.dark_background if is_light else contract.light_background


def border_colour(pixels: np.ndarray) -> np.ndarray:
    """(3,) uint8 median colour of the border of (H, W, 3) pixels."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])  # (2W + 2H, 3)
    return np.median(border, axis=0).astype(np.uint8)
