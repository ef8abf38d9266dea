"""An image from any source comes out upright, RGB or RGBA; anything else is an ImageError."""

from __future__ import annotations

import io
import math
import re
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from logo_edge import ImageError, load_image
from logo_edge.images.load import JPEG_SHARE, MAX_FILE_BYTES, MAX_PIXELS, load_reduced

ROOT = Path(__file__).parents[2]
RED, BLUE = (255, 0, 0), (0, 0, 255)
ORIENTATION = 0x0112
# What EXIF 2.32 stores for an upright image of that orientation: the transposition that the viewer has to undo.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quadrants(mode: str = "RGB") -> Image.Image:
    """24 x 16 with quadrants of four colours, so that all 8 orientations look different."""
    image = Image.new("RGB", (24, 16), (250, 250, 250))
    image.paste(RED, (0, 0, 12, 8))
    image.paste(BLUE, (12, 0, 24, 8))
    image.paste((0, 130, 0), (0, 8, 12, 16))
    return image.quantize(4) if mode == "P" else image.convert(mode)


def exif(orientation: int) -> Image.Exif:
    table = Image.Exif()
    table[ORIENTATION] = orientation
    return table


def pixel(source, position=(1, 1)) -> tuple[int, ...]:
    return load_image(source).getpixel(position)


MODES = [
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I;16",
    "I",
    "F",
]
WITH_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow_becomes_rgb_or_rgba(mode):
    image = Image.new(mode, (6, 4))
    loaded = load_image(image)
    assert loaded.size == (6, 4)
    assert loaded.mode == ("RGBA" if mode in WITH_ALPHA else "RGB")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK", "YCbCr", "HSV", "P", "RGBX"])
def test_colours_survive_the_conversion(mode):
    pixels = np.asarray(load_image(quadrants(mode)).convert("RGB")).astype(int)
    assert np.abs(pixels - np.asarray(quadrants()).astype(int)).max() <= 3


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "I", "F"])
def test_greys_survive_the_conversion(mode):
    values = np.arange(0, 256, 5, dtype=np.uint8).reshape(4, 13)
    sixteen, image = values.astype(np.uint16) * 257, Image.fromarray(values)
    image = {
        "I;16": Image.fromarray(sixteen),
        "I": Image.fromarray(sixteen.astype(np.int32)),
        "F": Image.fromarray(values.astype(np.float32) / 255),
    }.get(mode) or image.convert(mode)
    assert image.mode == mode
    assert np.array_equal(np.asarray(load_image(image).convert("RGB"))[:, :, 1], values)


def test_a_sixteen_bit_png_keeps_its_upper_eight_bits():
    data = encode(Image.fromarray(np.full((3, 3), 0x80FF, np.uint16)), "PNG")
    assert data[24] == 16
    assert pixel(data) == (0x80, 0x80, 0x80)


@pytest.mark.parametrize(("kind", "in_bytes"), [("PNG", False), ("PNG", True), ("GIF", False)])
def test_a_palette_is_transparent_where_its_index_or_its_bytes_say_so(kind, in_bytes):
    image = quadrants("P")
    clear = image.getpixel((1, 1))
    alphas = bytes([255] * clear + [40])
    data = encode(image, kind, transparency=alphas if in_bytes else clear)
    loaded = load_image(data)
    assert (loaded.mode, loaded.getpixel((1, 1))[3], loaded.getpixel((20, 1))) == (
        "RGBA",
        40 if in_bytes else 0,
        (*BLUE, 255),
    )


def test_a_palette_of_colours_with_alpha_keeps_its_alpha():
    image = Image.new("RGBA", (4, 4), (200, 10, 10, 90)).quantize(4)
    assert (image.mode, image.palette.mode) == ("P", "RGBA")
    assert load_image(image).mode == "RGBA"
    assert pixel(image)[3] == 90


@pytest.mark.parametrize(
    ("colour", "dtype", "shape"), [(RED, "uint8", (4, 6, 3)), (76, "uint8", (4, 6)), (5000, "uint16", (4, 6))]
)
def test_the_one_transparent_colour_of_a_png_is_transparent(colour, dtype, shape):
    array = np.zeros(shape, dtype)
    array[:, :3] = colour
    loaded = load_image(encode(Image.fromarray(array), "PNG", transparency=colour))
    assert (loaded.mode, loaded.getpixel((1, 1))[3], loaded.getpixel((4, 1))) == ("RGBA", 0, (0, 0, 0, 255))


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_eight_orientations_come_out_upright(kind, orientation):
    upright, turn = quadrants(), STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    for fast in (False, True):
        loaded = load_image(encode(stored, kind, exif=exif(orientation), **options), fast=fast)
        assert loaded.size == upright.size
        off = np.abs(np.asarray(loaded).astype(int) - np.asarray(upright).astype(int))
        assert np.median(off) <= 3
        assert [loaded.getpixel(position)[2] > 128 for position in ((2, 2), (21, 2), (2, 13), (21, 13))] == [
            False,
            True,
            False,
            True,
        ]


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_of_several_frames_or_pages_the_first_is_taken(kind, options):
    frames = [Image.new("RGB", (8, 6), colour) for colour in (RED, BLUE, (0, 255, 0))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    for fast in (False, True):
        assert load_image(data, fast=fast).convert("RGB").getpixel((4, 3)) == RED


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {"quality": 100})]
)
def test_of_an_animation_the_first_frame_with_anything_in_it_is_taken(kind, options):
    white, clear, drawn = Image.new("RGBA", (24, 16), "white"), Image.new("RGBA", (24, 16)), quadrants("RGBA")
    for blank in (white, clear):
        data = encode(
            blank, kind, save_all=True, append_images=[blank, drawn, white], duration=[90, 80, 70, 60], **options
        )
        assert Image.open(io.BytesIO(data)).n_frames >= 3
        for fast in (False, True):
            loaded = load_image(data, fast=fast).convert("RGB")
            off = np.abs(np.asarray(loaded).astype(int) - np.asarray(drawn.convert("RGB")).astype(int))
            assert np.median(off) <= 3


def test_pages_are_no_animation_and_as_many_frames_are_tried_as_one_large_image_costs():
    white, drawn = Image.new("RGB", (24, 16), "white"), quadrants()
    pages = encode(white, "TIFF", save_all=True, append_images=[drawn])
    frames = encode(white, "WEBP", save_all=True, append_images=[drawn], lossless=True, duration=90)
    assert load_image(pages).getextrema() == ((255, 255),) * 3
    assert load_image(frames, max_pixels=2 * 576).convert("RGB").getextrema() == ((0, 255), (0, 250), (0, 255))
    assert load_image(frames, max_pixels=600).convert("RGB").getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "array", "PIL", "int32", "float TIFF"])
def test_values_of_fewer_bits_in_wider_samples_are_scaled_up(kind, bits):
    values = (np.arange(256, dtype=np.uint16).reshape(16, 16) << bits - 8) + (2 ** (bits - 8) - 1)
    image = {
        "int32": lambda: Image.fromarray(values.astype(np.int32)),
        "float TIFF": lambda: Image.fromarray(values.astype(np.float32)),
    }.get(kind, lambda: Image.fromarray(values))()
    source = (
        values if kind == "array" else image if kind == "PIL" else encode(image, "PNG" if kind == "PNG" else "TIFF")
    )
    grey = np.asarray(load_image(source).convert("L")).astype(int)
    assert np.abs(grey - np.arange(256).reshape(16, 16)).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1.1], [0, 128, 255]),
        ([-0.1, 0.5, 1], [0, 128, 255]),
        ([0, np.nan, 1], [0, 0, 255]),
        ([0, 128, 270], [0, 128, 255]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_floats_that_resampling_left_beyond_their_range_are_cut_off_there(values, expected):
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert np.asarray(load_image(data))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("values", [[0, 3.7], [-1, 1], [0, 1e6]])
def test_floats_of_no_known_range_are_refused_rather_than_made_black(values):
    with pytest.raises(ImageError, match=r"found floats from .*Scale them first"):
        load_image(encode(Image.fromarray(np.array([values], np.float32)), "TIFF"))


def test_integers_of_more_than_16_bits_and_colours_of_12_in_16_are_refused():
    with pytest.raises(ImageError, match="integers up to 70,000"):
        load_image(encode(Image.fromarray(np.array([[0, 70_000]], np.int32)), "TIFF"))
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    for top, message in ((4095, "use 12 of them or fewer"), (65535, None)):
        rows = zlib.compress(b"\0" + struct.pack(">6H", top, top // 2, 0, 0, top, top))
        data = encode(quadrants(), "PNG")[:8]
        for kind, content in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
            data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        if message:
            with pytest.raises(ImageError, match=message):
                load_image(data)
        else:
            assert load_image(data).getpixel((0, 0)) == (255, 127, 0)


@pytest.mark.parametrize("size", [(1, 1), (20000, 10), (10, 20000)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "array"])
def test_tiny_images_and_long_strips_are_read(kind, size):
    image = Image.new("RGB", size, BLUE)
    source = np.asarray(image) if kind == "array" else encode(image, kind)
    assert load_image(source).size == size


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", ">u2", "float16", "float32", ">f4", "float64"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_arrays_of_every_accepted_type_and_shape_give_the_same_image(dtype, shape):
    bits = np.random.default_rng(3).integers(0, 2, shape).astype(bool)
    full = {"b": True, "u": np.iinfo(dtype).max if "u" in dtype else None, "f": 1.0}[np.dtype(dtype).kind]
    loaded = load_image(bits.astype(dtype) * np.dtype(dtype).type(full))
    expected = Image.fromarray((bits * np.uint8(255)).reshape(shape if shape[-1] > 2 and len(shape) == 3 else (5, 7)))
    assert loaded.mode == ("RGBA" if shape[-1:] == (4,) else "RGB")
    assert loaded.tobytes() == expected.convert(loaded.mode).tobytes()


def test_an_array_need_not_be_contiguous():
    array = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(load_image(array[::-1, ::2])), array[::-1, ::2])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), np.int64), "int64"),
        (np.zeros((4, 4), np.int8), "int8"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.zeros((4, 4), object), "object"),
        (np.zeros((4, 4), np.uint32), "uint32"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((4, 4, 5), np.uint8), r"\(4, 4, 5\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
        (np.zeros((0, 4), np.uint8), "4 x 0 pixels"),
        (np.zeros((4, 0, 3), np.uint8), "0 x 4 pixels"),
        (np.full((4, 4), 1.5), "to 1.5"),
        (np.full((4, 4), -0.1), "from -0.1"),
        (np.full((4, 4), np.nan), "nan"),
        (np.broadcast_to(np.uint8(0), (MAX_PIXELS, 2)), "Scale it down"),
    ],
)
def test_other_arrays_are_refused_with_what_was_found_and_expected(array, message):
    with pytest.raises(ImageError, match=message) as caught:
        load_image(array)
    assert "expected" in str(caught.value) or "at most" in str(caught.value)


@pytest.mark.parametrize("source", [None, 5, [1, 2], object()])
def test_other_objects_are_refused_with_their_type(source):
    with pytest.raises(TypeError, match=f"found {type(source).__name__}; expected a path"):
        load_image(source)


def bomb(kind: str) -> bytes:
    """A few bytes whose header claims 65000 x 65000 pixels."""
    if kind == "PNG":
        header = b"IHDR" + struct.pack(">IIBBBBB", 65000, 65000, 8, 2, 0, 0, 0)
        data = encode(quadrants(), "PNG")
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if kind == "JPEG":
        data = bytearray(encode(quadrants(), "JPEG"))
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", 65000, 65000)
        return bytes(data)
    data = bytearray(encode(quadrants(), kind))
    data[18:26] = struct.pack("<ii", 65000, 65000)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_header_that_promises_too_many_pixels_is_refused_undecoded(kind):
    most = MAX_PIXELS * (JPEG_SHARE if kind == "JPEG" else 1)
    with pytest.raises(ImageError, match=rf"{most:,}.*[Ss]cale it down"):
        load_image(bomb(kind))


NO_IMAGES = {
    "empty": (b"", "0 bytes.*expected an encoded image"),
    "text": (b"hello, world", r"starts with b'hello.*expected PNG"),
    "pdf": (b"%PDF-1.7\n1 0 obj", "a PDF document, which is not read; export its page"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript document, which is not read"),
    "html": (b"<html><svg/></html>", "starts with <html>; expected <svg>"),
    "zeros": (bytes(4000), r"not an image.*expected PNG"),
    "half a png": (encode(quadrants(), "PNG")[:70], "damaged or truncated"),
    "half a jpeg": (encode(quadrants(), "JPEG")[:-150], "damaged or truncated"),
    "half a webp": (encode(quadrants(), "WEBP")[:60], "not an image|damaged or truncated"),
    "a png's signature": (b"\x89PNG\r\n\x1a\n", "not an image"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_no_whole_image_is_refused_with_what_was_found(name, tmp_path):
    if name == "html":  # with an <svg> in it
        pytest.importorskip("resvg_py")
    data, message = NO_IMAGES[name]
    path = tmp_path / "input.png"
    path.write_bytes(data)
    for source, title in ((data, "the bytes"), (path, "input.png")):
        with pytest.raises(ImageError, match=message) as caught:
            load_image(source)
        assert title in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path):
    for source, message in (
        (tmp_path / "absent.png", "No such file"),
        (tmp_path, "Is a directory"),
        ("nul\0.png", "null byte"),
    ):
        with pytest.raises(ImageError, match=f"{message}.*expected an image file"):
            load_image(source)


def test_a_pil_image_that_is_closed_or_damaged_is_refused():
    closed = Image.open(io.BytesIO(encode(quadrants(), "PNG")))
    closed.close()
    for image in (closed, Image.open(io.BytesIO(encode(quadrants(), "PNG")[:70])), Image.new("RGB", (0, 4))):
        with pytest.raises(ImageError, match="the PIL image"):
            load_image(image)


def test_threads_leave_the_warning_filters_of_the_process_alone():
    data, before, start = encode(quadrants(), "PNG"), list(warnings.filters), threading.Barrier(8)

    def load_some(_) -> int:
        start.wait()
        return sum(load_image(data).size == (24, 16) for _ in range(150))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(load_some, range(8))) == 1200
    assert list(warnings.filters) == before


def decode_reduced(data: bytes, *, fast: bool = True) -> tuple[Image.Image, tuple[float, float] | None]:
    """`load_reduced` to 320 px, as an image from any decoder."""
    decoded, covered = load_reduced(data, 320, fast=fast)
    return Image.fromarray(decoded) if isinstance(decoded, np.ndarray) else decoded, covered


@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
@pytest.mark.parametrize("size", [(1600, 901), (413, 1999), (640, 640), (2000, 9)])
def test_a_large_jpeg_is_decoded_smaller_and_covers_the_same_picture(size, orientation):
    image = quadrants().resize(size, Image.Resampling.NEAREST)
    data = encode(image, "JPEG", quality=95, exif=exif(orientation))
    upright = load_image(data)
    for fast in (False, True):
        decoded, covered = decode_reduced(data, fast=fast)
        scale = upright.width / covered[0]
        assert scale in (2, 4, 8)
        assert 320 <= max(covered) < 640 or scale == 8
        assert (upright.width / scale, upright.height / scale) == covered
        assert decoded.size == (-(-upright.width // int(scale)), -(-upright.height // int(scale)))
        assert decode_reduced(data)[0].tobytes() == decoded.tobytes()


def test_the_shorter_side_of_a_reduced_jpeg_may_be_bounded_too():
    data = encode(Image.new("RGB", (2600, 700), RED), "JPEG")
    assert load_reduced(data, 320)[1] == (325.0, 87.5)
    assert load_reduced(data, 320, least_shorter_px=320)[1] == (1300.0, 350.0)


def test_small_jpegs_and_other_formats_are_decoded_whole():
    image = Image.new("RGB", (1000, 1000), RED)
    data = encode(image, "JPEG")
    assert [load_reduced(data, 320, least_pixels=count)[1] for count in (1_000_000, 1_000_001)] == [(500, 500), None]
    for data in (encode(image, "PNG"), encode(image.resize((639, 400)), "JPEG"), encode(image, "WEBP")):
        decoded, covered = decode_reduced(data)
        assert covered is None
        assert decoded.size == load_image(data).size


@pytest.mark.parametrize("source", ["https://example.org/logo.png", "s3://bucket/logo.png"])
def test_an_address_is_refused_as_one(source):
    with pytest.raises(ImageError, match="an address; nothing is fetched"):
        load_image(source)


def test_a_data_uri_is_named_and_not_echoed_whole():
    with pytest.raises(ImageError, match="a data URI; decode it") as caught:
        load_image("data:image/png;base64," + "A" * 5000)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("file", "pixels", "size"),
    [
        ("runtime/web/src/image*.js", "MAX_PIXELS", "MAX_FILE_BYTES"),
        ("runtime/native/image_file.cpp", "kMaxPixels", "kMaxFileBytes"),
    ],
)
def test_runtimes_in_other_languages_have_the_same_limits(file, pixels, size):
    text = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob(file))
    digits = re.search(rf"{pixels} = ([\d_']+);", text)[1]
    factors = re.search(rf"{size} = ([\d *]+);", text)[1]
    assert int(re.sub("[_']", "", digits)) == MAX_PIXELS
    assert math.prod(map(int, factors.split("*"))) == MAX_FILE_BYTES
