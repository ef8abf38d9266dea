"""An image from any source -> one upright PIL image, RGB or RGBA, 8 bits a channel."""

from __future__ import annotations

import io
import math
import os
import re
import stat
import struct
import zlib
from dataclasses import replace
from importlib import import_module
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image, UnidentifiedImageError

from logo_edge.errors import ImageError
from logo_edge.images.depth import BITS_PER_SAMPLE, check_depth, from_array, has_16_bits, to_rgb_or_rgba
from logo_edge.images.headers import (
    ORIENTATION,
    ImageFile,
    has_all_scans,
    orientation_in,
    orientation_in_xmp,
    read_image_file,
)
from logo_edge.images.png import plain_size, read_plain_png
from logo_edge.images.svg import is_svg, render_svg

try:
    import simplejpeg
except ImportError:
    simplejpeg = None


@runtime_checkable
class BinaryFile(Protocol):
    """An open file, `io.BytesIO` or any other object whose `read` gives bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


NO_FILES = (str, bytes, bytearray, memoryview, np.ndarray, Image.Image)  # the question for a protocol takes 10 us
ImageSource = str | os.PathLike | bytes | bytearray | memoryview | np.ndarray | Image.Image | BinaryFile

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
OPENERS = {
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "HEIF": ("pillow_heif", "HeifImageFile"),
}
DOCUMENTS = {b"%PDF-": "PDF", b"%!PS": "PostScript", b"\xc5\xd0\xd3\xc6": "PostScript"}  # PostScript is a program
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
ANIMATED = frozenset(("AVIF", "GIF", "PNG", "WEBP"))
COSTS = {"AVIF": 1.5, "WEBP": 1.5, "HEIF": 1.4, "JPEG2000": 16, "QOI": 36}  # of a pixel at worst; 1 for other formats
MAX_PIXELS = 36_000_000  # at cost 1, so that no image takes two seconds
JPEG_SHARE = 4  # times MAX_PIXELS for a JPEG: decoded at 1/2 or less it costs no more than other formats in full
COEFFICIENTS = 3  # times MAX_PIXELS for the coefficients of a JPEG of several scans, all in memory at once
SCANS = 20  # times MAX_PIXELS for pixels times scans of a progressive JPEG; every scan may go over all pixels
MOST_SCANS = 14_400  # for any number of pixels
SCANNED_BYTES = 20_000_000  # of a JPEG of several scans, ten times as expensive as bytes of one scan
COMPRESSION, LZMA = 259, 34925  # of TIFF: the tag, and its value for a slow compression
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
ARITHMETIC = 6  # times the cost of Huffman coding
MOST_FRAMES = 100  # of an animation, in which the first frame that is not blank is searched
MAX_FILE_BYTES = 256 * 1024 * 1024
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: ImageSource, *, fast: bool = True, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upright image behind a path, encoded bytes, an open binary file, an array or a PIL image, mode RGB or RGBA.

    Arrays are (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA with straight alpha; bool, uint8, uint16 or floats
    from 0 to 1. Values of 8, 10, 12 or 14 bits in samples of 16 are scaled up; the largest value shows how many bits
    they use. An animation gives its first frame that is not blank, a file of several pages the first page. SVG is
    rendered (extra `svg`, see `images.svg`). With `fast`, faster decoders than Pillow's are used where they give
    the same pixels. Nothing is fetched.

    A JPEG of more than `max_pixels` is decoded at 1/2, up to JPEG_SHARE times as many; formats that are slow to decode
    may have fewer (COSTS). Raises ImageError when the source is no image, is damaged, or has more pixels; TypeError
    when it is none of these kinds.
    """
    decoded = load_reduced(source, None, fast=fast, max_pixels=max_pixels)[0]
    return Image.fromarray(decoded) if isinstance(decoded, np.ndarray) else decoded


def load_reduced(
    source: ImageSource,
    least_px: int | None,
    *,
    least_shorter_px: int = 1,
    fast: bool = True,
    least_pixels: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Image.Image | np.ndarray, tuple[float, float] | None]:
    """`load_image`, but a JPEG of `least_pixels` or more is decoded at reduced scale: 1/2, 1/4 or 1/8.

    Also returns the (width, height) of such a JPEG in reduced pixels, None for other images. It is not whole where the
    last column or row stands for less than a whole pixel. A JPEG is decoded from its cosine coefficients at the
    smallest scale whose longer side has at least `least_px` pixels, and whose shorter side `least_shorter_px`. A fast
    decoder's result is a (H, W, 3 or 4) uint8 array, which belongs to the caller.
    """
    source, least_sides = take_bytes(source), least_px and (least_px, least_shorter_px)
    if isinstance(source, Image.Image):
        name, image = "the PIL image", source
        _check_pixel_count(image.size, name, max_pixels)
    elif isinstance(source, np.ndarray):
        if source.ndim in (2, 3):
            _check_pixel_count(source.shape[1::-1], "the array", max_pixels)
        return from_array(source), None
    elif isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) > MAX_FILE_BYTES:
            raise ImageError(f"the bytes: more than {MAX_FILE_BYTES:,}, the most that an image file may have")
        return _decode(bytes(source), "the bytes", fast, least_sides, least_pixels, max_pixels)
    elif isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        return _decode(_read_file(path), path, fast, least_sides, least_pixels, max_pixels)
    else:
        raise TypeError(
            f"found {type(source).__name__}; expected a path, bytes, an open binary file, a NumPy array or a PIL image"
        )
    try:
        image.load()
        return _upright(image, _orientation_of_caller(image)), None
    except ImageError:
        raise
    except Exception as error:  # a lazily opened image is decoded here; see the end of _decode
        raise ImageError(f"{name} cannot be decoded: {error}") from error


def take_bytes(source: ImageSource) -> ImageSource:
    """The source or, for an open file, its bytes from the current position, because they can be read only once.

    Raises ImageError where the file cannot be read or is too large, TypeError where it gives text.
    """
    if isinstance(source, NO_FILES) or not isinstance(source, BinaryFile):
        return source
    try:
        data = source.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ImageError(f"the open file: {error.strerror or error}; expected an image file") from error
    if not isinstance(data, bytes):
        raise TypeError(f"the open file gives {type(data).__name__}; expected bytes. Open it with mode 'rb'")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"the open file: more than {MAX_FILE_BYTES:,} bytes, the most that an image file may have")
    return data


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{path}: no regular file; expected an image file. Give a pipe's content as `-`")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"{path}: {status.st_size:,} bytes; an image file may have up to {MAX_FILE_BYTES:,}")
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if path[:5].lower() == "data:":
            raise ImageError(f"{path[:40]!r}...: a data URI; decode it and give its bytes") from error
        if URL.match(path):
            raise ImageError(f"{path}: an address; nothing is fetched. Download it first") from error
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: {reason}; expected an image file") from error


def _open_at_once(path: str, flags: int) -> int:
    """The file's descriptor, without waiting for a writer of a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def decoding_cost(data: bytes, max_pixels: int = MAX_PIXELS) -> int:
    """The cost of decoding the encoded image, in pixels; 0 for a drawing, and where decoding will fail and say why.

    Raises ImageError where the cost is above `max_pixels`.
    """
    try:
        file = _read_header(data, "the bytes", max_pixels)
        if (size := plain_size(file.data)) and math.prod(size) <= max_pixels:
            return math.prod(size)
        image, _ = _open(file, "the bytes", max_pixels)
    except ImageError:
        raise
    except Exception:  # as in _decode
        return 0
    return round(math.prod(image.size) * _cost_of_pixel(image, file))


def _shows_nothing(image: Image.Image) -> bool:
    """Whether an RGB or RGBA image is blank: transparent throughout, or of one colour."""
    extrema = image.getextrema()
    return (image.mode == "RGBA" and extrema[3][1] == 0) or all(low == high for low, high in extrema)


def _decode(
    data: bytes, name: str, fast: bool, least_sides: tuple[int, int] | None, least_pixels: int, max_pixels: int
) -> tuple[Image.Image | np.ndarray, tuple[float, float] | None]:
    if not data:
        raise ImageError(f"{name}: empty (0 bytes); expected an encoded image")
    for magic, kind in DOCUMENTS.items():
        if data.startswith(magic):
            raise ImageError(f"{name}: a {kind} document, which is not read; export its page as PNG or SVG")
    try:
        if is_svg(data):
            data = render_svg(data, name)
        file = _read_header(data, name, max_pixels)
        if fast and (pixels := _decode_plain(file, max_pixels)) is not None:
            return pixels, None
        image, denominator = _open(file, name, max_pixels)
        if image.format == "JPEG" and b"\xff\xd9" not in file.data:
            file = replace(file, data=_add_end(file, denominator, image.layers))
            image = _open_lazily(file.data, file.kind)
        width, height = image.size
        if width * height >= least_pixels:
            denominator = max(denominator, _denominator(image, least_sides))
        covered = None if denominator == 1 else (width / denominator, height / denominator)
        if fast and (pixels := _decode_fast(image, file, denominator)) is not None:
            return pixels, covered
        if denominator > 1:
            image.draft(None, (width // denominator, height // denominator))
        if image.format in ANIMATED and image.is_animated:
            return _first_drawn_frame(image, _orientation(image, file), name, max_pixels), None
        image.load()
        orientation = _orientation(image, file)
        if covered and orientation >= 5:  # lying on its side
            covered = covered[::-1]
        if has_16_bits(image, file):
            check_depth(image, name)
        return _upright(image, orientation), covered
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: not an image that can be read (starts with {data[:8]!r}); expected PNG, JPEG, WebP, GIF, BMP, "
            "TIFF or another raster format that Pillow reads, or SVG"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more than {max_pixels:,} pixels; scale it down first") from None
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{name}: not enough memory to decode it; scale it down first") from None
    # Pillow's decoders raise many errors for damaged files: struct.error, KeyError, IndexError, ...
    except Exception as error:
        raise ImageError(f"{name}: damaged or truncated image ({type(error).__name__}: {error})") from error


def _read_header(data: bytes, name: str, max_pixels: int) -> ImageFile:
    """The file, not decoded yet. Raises ImageError where it promises more than `max_pixels`."""
    try:
        file = read_image_file(data)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    for size in file.sizes:
        _check_pixel_count(size, name, max_pixels // COSTS.get(file.kind, 1))
    return file


def _open(file: ImageFile, name: str, max_pixels: int) -> tuple[Image.Image, int]:
    """The image, not decoded yet, and the smallest denominator of the scale at which it may be decoded.

    Raises ImageError where it costs more than `max_pixels`.
    """
    image = _open_lazily(file.data, file.kind)
    if image.format == "JPEG":
        return image, _check_jpeg(image, file, name, max_pixels)
    _check_pixel_count(image.size, name, max_pixels // _cost_of_pixel(image, file))
    return image, 1


def _cost_of_pixel(image: Image.Image, file: ImageFile) -> float:
    sample_bits = [8]
    if image.format == "PNG":
        sample_bits = [file.data[24]] * PNG_CHANNELS.get(file.data[25], 1)
    elif image.format == "TIFF":
        sample_bits = [*image.tag_v2.get(BITS_PER_SAMPLE, (1,))] * (2 if image.tag_v2.get(COMPRESSION) == LZMA else 1)
    return max(COSTS.get(image.format, 1), sum(sample_bits) / 32)


def _open_lazily(data: bytes, kind: str | None) -> Image.Image:
    """The image, not decoded yet. PNG and JPEG import their own plugin only, which saves time at start.

    Raises ImageError for HEIC without the extra `heif`.
    """
    if kind in OPENERS:
        module, opener = OPENERS[kind]
        try:
            return getattr(import_module(module), opener)(io.BytesIO(data))
        except ImportError:
            raise ImageError("HEIC needs the Python package pillow-heif: pip install 'logo-edge[heif]'") from None
        except (SyntaxError, IndexError, TypeError, struct.error):  # as Image.open does
            raise UnidentifiedImageError from None
    return Image.open(io.BytesIO(data), formats=(kind,) if kind else FORMATS)


def _check_jpeg(image: Image.Image, file: ImageFile, name: str, max_pixels: int) -> int:
    """The denominator of the scale at which a JPEG has at most `max_pixels`.

    Raises ImageError where it costs too much.
    """
    width, height = image.size
    pixels, most = width * height, JPEG_SHARE * max_pixels
    if file.is_arithmetic:
        most = max_pixels // ARITHMETIC
    elif image.info.get("progressive") or not file.in_one_scan:  # all coefficients are in memory at once
        blocks = [across * down for _, across, down, _ in image.layer]
        most = max(max_pixels, round(COEFFICIENTS * max_pixels * max(blocks) / sum(blocks)))
        if len(file.data) > SCANNED_BYTES:
            raise ImageError(f"{name}: {len(file.data):,} bytes of a JPEG of several scans; save it as a baseline JPEG")
    _check_pixel_count(image.size, name, most)
    if file.scans > MOST_SCANS or file.scans * pixels > SCANS * max_pixels:
        raise ImageError(f"{name}: {file.scans} scans of {width} x {height} pixels; save it again, with a few")
    return next(scale for scale in (1, 2, 4, 8) if pixels <= max_pixels * scale * scale)


def _add_end(file: ImageFile, denominator: int, components: int) -> bytes:
    """The data of a JPEG with its missing end marker added; unchanged where pixels are missing too.

    Missing pixels depend on the bits that follow, which the two previews show. Files that are too large to decode three
    times stay unchanged.
    """
    data, previews = file.data.rstrip(b"\xff"), []
    if len(data) > (SCANNED_BYTES if file.scans == 1 else SCANNED_BYTES // 4) or not has_all_scans(data, components):
        return data
    for further in (b"", b"\xb5\x5a\xd3\x6c" * 16):
        image = _open_lazily(data + further + b"\xff\xd9", "JPEG")
        if denominator > 1:
            image.draft(None, tuple(side // denominator for side in image.size))
        previews.append(zlib.crc32(image.tobytes()))
    return data + b"\xff\xd9" if previews[0] == previews[1] else data


def _denominator(image: Image.Image, least_sides: tuple[int, int] | None) -> int:
    """1, or for a JPEG the largest of 2, 4 and 8 that leaves (longer, shorter) sides of at least so many pixels."""
    if least_sides is None or image.format != "JPEG":
        return 1
    shorter, longer = sorted(image.size)
    least, least_shorter = least_sides
    return next((scale for scale in (8, 4, 2) if longer >= least * scale and shorter >= least_shorter * scale), 1)


def _decode_plain(file: ImageFile, max_pixels: int) -> np.ndarray | None:
    """The pixels of a PNG that needs no Pillow, whose reader takes 10 ms to import; None for other files."""
    size = plain_size(file.data) if file.orientation == 1 else None
    return read_plain_png(file.data, size) if size and math.prod(size) <= max_pixels else None


def _decode_fast(image: Image.Image, file: ImageFile, denominator: int) -> np.ndarray | None:
    """The pixels by simplejpeg, or None where they could differ from Pillow's."""
    if file.orientation != 1:
        return None
    try:
        if image.format == "JPEG" and simplejpeg is not None and image.mode == "RGB":
            least = {} if denominator == 1 else {"min_width": image.size[0] // denominator, "min_factor": denominator}
            return simplejpeg.decode_jpeg(file.data, "RGB", fastdct=False, fastupsample=False, **least)
    except (RuntimeError, ValueError):  # a flaw in the file, which Pillow may be able to read
        return None
    return None


def _first_drawn_frame(image: Image.Image, orientation: int, name: str, max_pixels: int) -> Image.Image:
    """The first frame that is not blank; frame 0 where all frames that may be decoded are blank."""
    affordable = round(max_pixels / COSTS.get(image.format, 1)) // math.prod(image.size)
    for index in range(max(1, min(affordable, MOST_FRAMES))):
        try:
            image.seek(index)
        except EOFError:
            break
        _check_pixel_count(image.size, name, max_pixels)
        frame = _upright(image, orientation)
        if not _shows_nothing(frame):
            return frame
    image.seek(0)
    return _upright(image, orientation)


def _orientation(image: Image.Image, file: ImageFile) -> int:
    """1 (upright) to 8, as in EXIF."""
    if file.kind in ("PNG", "JPEG", "TIFF"):
        return file.orientation
    exif, xmp = image.info.get("exif"), image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    by_exif = orientation_in(exif) if isinstance(exif, bytes) else None
    return by_exif or (orientation_in_xmp(xmp) if isinstance(xmp, bytes) else None) or 1


def _orientation_of_caller(image: Image.Image) -> int:
    """`_orientation` of an image that the caller opened, and whose EXIF it may have changed."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # Pillow raises many errors for damaged EXIF; the pixels are not affected
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return to_rgb_or_rgba(image.transpose(TURNS[orientation]) if orientation in TURNS else image)


def _check_pixel_count(size: tuple[int, int], name: str, most: float) -> None:
    width, height = size
    if width * height > most:
        raise ImageError(f"{name}: {width} x {height} pixels; at most {most:,.0f} are read. Scale it down first")
    if width == 0 or height == 0:
        raise ImageError(f"{name}: {width} x {height} pixels; expected at least 1 x 1")
