"""Anything that a user calls an image -> one upright PIL image, RGB or RGBA, 8 bits a channel."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from importlib import import_module

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from logo_edge.errors import ImageError
from logo_edge.svg import is_svg, render_svg

try:
    import pyspng
except ImportError:
    pyspng = None
try:
    import simplejpeg
except ImportError:
    simplejpeg = None

ImageSource = str | os.PathLike | bytes | bytearray | memoryview | np.ndarray | Image.Image

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
OPENERS = {b"\x89PNG\r\n\x1a\n": ("PIL.PngImagePlugin", "PngImageFile"),
           b"\xff\xd8\xff": ("PIL.JpegImagePlugin", "jpeg_factory")}  # fmt: skip
DOCUMENTS = {b"%PDF-": "PDF", b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript"}  # the latter are programs
FORMATS = frozenset("AVIF BMP DIB GIF ICO JPEG JPEG2000 MPO PNG PPM QOI TGA TIFF WEBP".split())
MAX_PIXELS = 36_000_000  # so that no image takes two seconds
MAX_SCANNED = 20 * MAX_PIXELS  # pixels times scans of a progressive JPEG, which may go over all of them again and again
SCAN_BYTES = 10  # of the header of one, at least
MAX_FILE_BYTES = 256 * 1024 * 1024
EXIF_ORIENTATION = 0x0112
CHUNK_HEAD = struct.Struct(">I4s")  # of PNG
PNG_TEXTS, PNG_ROTATIONS = (
    (b"tEXt", b"zTXt", b"iTXt"),
    (b"XML:com.adobe.xmp", b"Raw profile type"),
)  # may tell one, as may eXIf


def load_image(source: ImageSource, *, fast: bool = True) -> Image.Image:
    """The upright image behind a path, encoded bytes, an array or a PIL image, mode RGB or RGBA.

    Arrays are (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA with straight alpha; bool, uint8, uint16 or
    floats in 0 to 1. Of several frames or pages the first is taken; SVG is rendered (extra `svg`, see `svg`). With
    `fast`, the decoders of the extra `fast` are used where they give the very same pixels. Nothing is fetched.

    Raises ImageError when the source is no image, is damaged, or has more than MAX_PIXELS pixels.
    """
    decoded = load_reduced(source, None, fast=fast)[0]
    return Image.fromarray(decoded) if isinstance(decoded, np.ndarray) else decoded


def load_reduced(
    source: ImageSource, least_px: int | None, *, fast: bool = True, least_pixels: int = 0
) -> tuple[Image.Image | np.ndarray, tuple[float, float] | None]:
    """`load_image`, but a JPEG of `least_pixels` at 1/2, 1/4 or 1/8, and then its (width, height) in such pixels, else None.

    What a fast decoder gave is still its (H, W, 3 or 4) uint8 array, which belongs to the caller. The JPEG is decoded, straight from its cosine coefficients, at the smallest scale whose longer side has at least `least_px`
    pixels. The last column or row then stands for less than a whole pixel, which the size tells.
    """
    if isinstance(source, Image.Image):
        name, image = "the PIL image", source
        _check_pixel_count(image.size, name)
    elif isinstance(source, np.ndarray):
        return _from_array(source), None
    elif isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) > MAX_FILE_BYTES:
            raise ImageError(f"the bytes: more than {MAX_FILE_BYTES:,}, which is what an image file may have")
        return _decode(bytes(source), "the bytes", fast, least_px, least_pixels)
    elif isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return _decode(_read_file(path), path, fast, least_px, least_pixels)
    else:
        raise ImageError(f"found {type(source).__name__}; expected a path, bytes, a NumPy array or a PIL image")
    try:
        return _to_rgb_or_rgba(ImageOps.exif_transpose(image)), None
    except Exception as error:  # a lazily opened image is decoded here; see the end of _decode
        raise ImageError(f"{name} cannot be decoded: {error}") from error


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{path}: no regular file; expected an image file. Give what a pipe says as `-`")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"{path}: {status.st_size:,} bytes; an image file may have up to {MAX_FILE_BYTES:,}")
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if URL.match(path):
            raise ImageError(f"{path}: an address; nothing is fetched. Download it first") from error
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: {reason}; expected an image file") from error


def _open_at_once(path: str, flags: int) -> int:
    """The file's descriptor, without waiting for anybody who might write to a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decode(
    data: bytes, name: str, fast: bool, least_px: int | None, least_pixels: int
) -> tuple[Image.Image | np.ndarray, tuple[float, float] | None]:
    if not data:
        raise ImageError(f"{name}: empty (0 bytes); expected an encoded image")
    for magic, kind in DOCUMENTS.items():
        if data.startswith(magic):
            raise ImageError(f"{name}: a {kind} document, which is not read; export its page as PNG or SVG")
    try:
        if is_svg(data):
            data = render_svg(data, name)
        image = _open(data)
        _check_pixel_count(image.size, name)
        if image.format not in FORMATS:
            raise UnidentifiedImageError
        width, height = image.size
        may_hold = len(data) // SCAN_BYTES if image.format in ("JPEG", "MPO") else 0
        if (
            may_hold * width * height > MAX_SCANNED
            and (scans := data.count(b"\xff\xda")) * width * height > MAX_SCANNED
        ):
            raise ImageError(f"{name}: {scans} scans of {width} x {height} pixels; save it anew, with a few")
        denominator = _denominator(image, least_px) if width * height >= least_pixels else 1
        if fast and (pixels := _decode_fast(image, data, denominator)) is not None:
            return pixels, None if denominator == 1 else (width / denominator, height / denominator)
        if denominator > 1:
            image.draft(None, (width // denominator, height // denominator))
        image.load()
        upright = _to_rgb_or_rgba(ImageOps.exif_transpose(image))
        if denominator == 1:
            return upright, None
        if _orientation(image) >= 5:  # lying on its side
            width, height = height, width
        return upright, (width / denominator, height / denominator)
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: not an image that can be read (starts with {data[:8]!r}); expected PNG, JPEG, WebP, GIF, BMP, "
            "TIFF or another raster format that Pillow reads, or SVG"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more than {MAX_PIXELS:,} pixels; scale it down first") from None
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{name}: not enough memory to decode it; scale it down first") from None
    # Pillow's decoders raise what the damaged file makes them raise: struct.error, KeyError, IndexError, ...
    except Exception as error:
        raise ImageError(f"{name}: damaged or truncated image ({type(error).__name__}: {error})") from error


def _open(data: bytes) -> Image.Image:
    """The image, not decoded yet; of PNG and JPEG, no other format's plugin is imported, which takes time at start."""
    for magic, (module, opener) in OPENERS.items():
        if data.startswith(magic):
            try:
                return getattr(import_module(module), opener)(io.BytesIO(data))
            except (SyntaxError, IndexError, TypeError, struct.error):  # as Image.open does
                raise UnidentifiedImageError from None
    return Image.open(io.BytesIO(data))


def _denominator(image: Image.Image, least_px: int | None) -> int:
    """1, or of a JPEG the largest of 2, 4 and 8 that leaves its longer side at least `least_px` pixels."""
    if least_px is None or image.format != "JPEG":
        return 1
    shorter, longer = sorted(image.size)
    return next((scale for scale in (8, 4, 2) if longer >= least_px * scale and shorter >= scale), 1)


def _decode_fast(image: Image.Image, data: bytes, denominator: int) -> np.ndarray | None:
    """The pixels decoded by pyspng or simplejpeg, or None where those could give other pixels than Pillow."""
    try:
        if image.format == "PNG" and pyspng is not None and _is_plain_png(image, data):
            return pyspng.load(data)
        if image.format == "JPEG" and simplejpeg is not None and image.mode == "RGB" and _orientation(image) == 1:
            least = {} if denominator == 1 else {"min_width": image.size[0] // denominator, "min_factor": denominator}
            return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, **least)
    except (RuntimeError, ValueError):  # a flaw in the file: whether it can be read all the same is Pillow's to say
        return None
    return None


def _is_plain_png(image: Image.Image, data: bytes) -> bool:
    """Whether pyspng gives Pillow's pixels: 8 bits, no colour key, upright, and every chunk the one that was written.

    pyspng looks at no checksum, and gives wrong pixels.
    """
    if data[24] != 8 or image.mode not in ("RGB", "RGBA") or "transparency" in image.info or image.is_animated:
        return False
    view, start = memoryview(data), 8
    while start + 12 <= len(data):
        length, kind = CHUNK_HEAD.unpack_from(data, start)
        end = start + 8 + length
        if kind == b"eXIf" or (kind in PNG_TEXTS and data.startswith(PNG_ROTATIONS, start + 8)):
            return False
        if zlib.crc32(view[start + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            return False
        if kind == b"IEND":
            return True
        start = end + 4
    return False


def _orientation(image: Image.Image) -> int:
    """1 upright to 8, as EXIF numbers them."""
    return image.getexif().get(EXIF_ORIENTATION, 1)


def _check_pixel_count(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width} x {height} pixels; at most {MAX_PIXELS:,} are read. Scale it down first")
    if width == 0 or height == 0:
        raise ImageError(f"{name}: {width} x {height} pixels; expected at least 1 x 1")


def _to_rgb_or_rgba(image: Image.Image) -> Image.Image:
    mode, clear = image.mode, image.has_transparency_data
    if mode == "RGBA" or (mode == "RGB" and not clear):
        return image
    if mode.startswith("I;16"):
        values = np.asarray(image)
        grey = Image.fromarray((values >> 8).astype(np.uint8))
        if clear:
            grey.putalpha(Image.fromarray(values != image.info["transparency"]).convert("L"))
        return grey.convert("RGBA" if clear else "RGB")
    if mode in ("I", "F"):
        return _from_wide_range(np.asarray(image))
    if mode == "La":
        image = image.convert("LA")  # the only way out that Pillow has
    return image.convert("RGBA" if clear else "RGB")


def _from_wide_range(values: np.ndarray) -> Image.Image:
    """32-bit integers hold 16-bit samples in Pillow (PNG, TIFF); floats are 0 to 1 or 0 to 255."""
    top = float(np.nanmax(values, initial=0.0))
    full_scale = 1.0 if top <= 1.0 and values.dtype.kind == "f" else 255.0 if top <= 255.0 else 65535.0
    scaled = np.clip(np.nan_to_num(values.astype(np.float64)) * (255.0 / full_scale), 0, 255)
    return Image.fromarray((scaled + 0.5).astype(np.uint8)).convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(
            f"found an array of shape {array.shape}; expected (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA"
        )
    _check_pixel_count((array.shape[1], array.shape[0]), "the array")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype.newbyteorder("=") == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype.kind == "f":
        low, high = float(np.min(array)), float(np.max(array))
        if not (low >= 0.0 and high <= 1.0):
            raise ImageError(f"found floats from {low:.3g} to {high:.3g}; expected 0 to 1 (or uint8 from 0 to 255)")
        array = (array * 255.0 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"found an array of {array.dtype}; expected bool, uint8, uint16 or floats in 0 to 1")
    image = Image.fromarray(np.ascontiguousarray(array))
    return image.convert("RGB") if image.mode == "L" else image
