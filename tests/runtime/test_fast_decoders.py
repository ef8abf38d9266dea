"""Our reading of PNG, and simplejpeg of the extra `fast`, give Pillow's pixels and refuse the same files."""

from __future__ import annotations

import io
import struct
import zlib
from itertools import product

import numpy as np
import pytest
import simplejpeg
from PIL import Image, PngImagePlugin

from logo_edge import ImageError, load_image
from logo_edge.images import load as images
from logo_edge.images import png as png_reading

ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]  # x, y, step
PNG_TYPES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> channels
ROTATED = {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}
XMP = 'tiff:Orientation="6"'


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    pixels: np.ndarray,
    colour_type: int,
    *before: bytes,
    interlaced: bool = False,
    after: tuple[bytes, ...] = (),
    filters: bytes = b"\0",
    change=lambda packed: [packed],
) -> bytes:
    """A PNG of (H, W, C) uint8 or uint16 samples, written chunk by chunk, in ways that no library uses.

    The rows have these `filters` by turns, whatever pixels follow from that. `change` splits the compressed rows.
    """
    height, width, channels = pixels.shape
    assert channels == PNG_TYPES[colour_type]
    samples = pixels.astype(pixels.dtype.newbyteorder(">"))
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [samples]
    rows = [line.tobytes() for part in parts if part.size for line in part]
    lines = b"".join(filters[i % len(filters) :][:1] + row for i, row in enumerate(rows))
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, interlaced)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *before,
            *(chunk(b"IDAT", part) for part in change(zlib.compress(lines))),
            *after,
            chunk(b"IEND", b""),
        ]
    )


def sample(channels: int, dtype: str = "uint8", size: tuple[int, int] = (21, 30)) -> np.ndarray:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(channels).integers(0, top, (*size, channels), dtype=dtype, endpoint=True)
    pixels[:6, :9] = top // 3
    return pixels


def png_cases() -> dict[str, bytes]:
    palette = chunk(b"PLTE", np.random.default_rng(9).integers(0, 256, 768, dtype=np.uint8).tobytes())
    clear = {0: struct.pack(">H", 85), 2: struct.pack(">HHH", 85, 85, 85), 3: bytes(range(256))}
    first = {3: (palette,)}
    cases = {}
    for kind, channels in PNG_TYPES.items():
        ahead = first.get(kind, ())
        for interlaced, dtype in product((False, True), ("uint8",) if kind == 3 else ("uint8", "uint16")):
            cases[f"type {kind}, {dtype}, {interlaced=}"] = png(
                sample(channels, dtype), kind, *ahead, interlaced=interlaced
            )
        for gamma in (45455, 100000, 220000):
            cases[f"type {kind}, gAMA {gamma}"] = png(
                sample(channels), kind, chunk(b"gAMA", struct.pack(">I", gamma)), *ahead
            )
        if kind in clear:
            cases[f"type {kind}, tRNS"] = png(sample(channels), kind, *ahead, chunk(b"tRNS", clear[kind]))
    rotation, rgb = chunk(b"eXIf", ROTATED["exif"][6:]), sample(3)
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode())
    packed = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP.encode()))
    for name, extra in {"eXIf": rotation, "XMP": xmp, "compressed XMP": packed}.items():
        cases[f"{name} before the pixels"] = png(rgb, 2, extra)
        cases[f"{name} after the pixels"] = png(rgb, 2, after=(extra,))
    cases["sBIT"] = png(rgb, 2, chunk(b"sBIT", bytes([5, 6, 5])))
    cases["bKGD"] = png(sample(4), 6, chunk(b"bKGD", struct.pack(">HHH", 9, 9, 9)))
    cases["sRGB"] = png(rgb, 2, chunk(b"sRGB", b"\0"))
    cases["a palette beside RGB"] = png(rgb, 2, palette)
    cases["1 x 1"] = png(sample(3, size=(1, 1)), 2)
    for name, size in {"wide": (5, 70_000), "high": (70_000, 5), "large": (900, 700), "one": (1, 2)}.items():
        for kind in (2, 6):
            pixels = sample(PNG_TYPES[kind], size=size)
            cases[f"type {kind}, {name}, all filters"] = png(pixels, kind, filters=b"\4\3\2\1\0\4\4\3")
    cases["several IDAT"] = png(rgb, 2, change=lambda packed: [packed[:5], b"", packed[5:9], packed[9:]])
    frames = [Image.fromarray(sample(3)), Image.fromarray(sample(3)[::-1])]
    cases["animated"] = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    return cases


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg_cases() -> dict[str, bytes]:
    small = Image.fromarray(np.random.default_rng(4).integers(0, 256, (7, 9, 3), dtype=np.uint8))
    cases = {}
    for size, subsampling, progressive in product([(61, 43), (64, 48), (1, 1)], (0, 1, 2), (False, True)):
        options = {"subsampling": subsampling, "progressive": progressive, "quality": 80}
        name = f"{size}, {subsampling=}, {progressive=}"
        cases[name] = encode(small.resize(size), "JPEG", **options)
        cases[f"{name}, CMYK"] = encode(small.resize(size).convert("CMYK"), "JPEG", **options)
    image = small.resize((61, 43))
    for progressive in (False, True):
        cases[f"grey, {progressive=}"] = encode(image.convert("L"), "JPEG", progressive=progressive)
    for quality in (5, 50, 100):
        cases[f"{quality=}"] = encode(image, "JPEG", quality=quality)
    for rows in (1, 2):
        cases[f"restart markers every {rows} rows"] = encode(image, "JPEG", restart_marker_rows=rows)
    cases["restart markers every block"] = encode(image, "JPEG", restart_marker_blocks=1)
    cases["RGB kept"] = encode(image, "JPEG", keep_rgb=True)
    cases["optimized"] = encode(image, "JPEG", optimize=True)
    for orientation in range(1, 9):
        table = Image.Exif()
        table[0x0112] = orientation
        cases[f"{orientation=}"] = encode(image, "JPEG", exif=table)
    cases["XMP"] = encode(image, "JPEG", xmp=f"<x {XMP}/>".encode())
    cases["bytes after the end"] = cases["optimized"] + b"garbage" * 9
    cut = cases["optimized"].index(b"\xff\xda")
    cases["bytes between markers"] = cases["optimized"][:cut] + b"\0\x12" + cases["optimized"][cut:]
    return cases


def outcome(data: bytes, fast: bool) -> tuple | str:
    """The image as (mode, size, bytes), or the ImageError's message."""
    try:
        image = load_image(data, fast=fast)
    except ImageError as error:
        return str(error)
    return image.mode, image.size, image.tobytes()


@pytest.fixture
def fast_calls(monkeypatch) -> dict[str, int]:
    """How many images each fast decoder gave."""
    calls = {"png": 0, "simplejpeg": 0}

    def counted(name: str, decode):
        def call(*arguments, **options):
            pixels = decode(*arguments, **options)
            calls[name] += pixels is not None
            return pixels

        return call

    monkeypatch.setattr(images, "read_plain_png", counted("png", images.read_plain_png))
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", counted("simplejpeg", simplejpeg.decode_jpeg))
    return calls


@pytest.mark.parametrize(
    ("cases", "decoder", "at_least", "fast_at_least"),
    [(png_cases(), "png", 57, 22), (jpeg_cases(), "simplejpeg", 57, 28)],
    ids=["png", "jpeg"],
)
def test_the_fast_pixels_are_those_of_pillow_to_the_byte(cases, decoder, at_least, fast_at_least, fast_calls):
    differing = [name for name, data in cases.items() if outcome(data, fast=True) != outcome(data, fast=False)]
    assert differing == []
    unreadable = [name for name, data in cases.items() if isinstance(outcome(data, fast=False), str)]
    assert unreadable == []
    assert len(cases) >= at_least
    assert fast_calls[decoder] >= fast_at_least


def test_rotated_pngs_are_rotated_wherever_the_file_says_so():
    cases = {name: data for name, data in png_cases().items() if "the pixels" in name}
    assert len(cases) == 6
    for data in cases.values():
        assert load_image(data, fast=True).size == (21, 30)  # the stored image is 30 x 21


def unsound_pngs() -> dict[str, bytes]:
    """Files whose chunks are sound and whose compressed rows are not what the header promises."""
    rgb = sample(3)
    split = png(rgb, 2, change=lambda packed: [packed[:9], packed[9:]])
    second = split.rindex(b"IDAT") - 4
    return {
        "filter 5": png(rgb, 2, filters=b"\0\5\0"),
        "a wrong checksum of the rows": png(rgb, 2, change=lambda packed: [packed[:-1] + bytes([packed[-1] ^ 1])]),
        "no checksum of the rows": png(rgb, 2, change=lambda packed: [packed[:-4]]),
        "rows cut off": png(rgb, 2, change=lambda packed: [packed[: len(packed) // 2]]),
        "bytes after the rows": png(rgb, 2, change=lambda packed: [packed + b"garbage"]),
        "a row too many": png(rgb, 2, change=lambda packed: [zlib.compress(zlib.decompress(packed) + bytes(91))]),
        "a row too few": png(rgb, 2, change=lambda packed: [zlib.compress(zlib.decompress(packed)[:-91])]),
        "no rows": png(rgb, 2, change=lambda packed: []),
        "a palette between the rows": split[:second] + chunk(b"PLTE", bytes(768)) + split[second:],
    }


@pytest.mark.parametrize("name", unsound_pngs())
def test_a_png_whose_rows_are_unsound_is_left_to_pillow(name):
    data = unsound_pngs()[name]
    assert outcome(data, fast=True) == outcome(data, fast=False)


DAMAGED = {
    "RGB png": png(sample(3, size=(9, 7)), 2),
    "RGBA png": png(sample(4, size=(9, 7)), 6),
    "jpeg": encode(Image.fromarray(sample(3, size=(9, 14))), "JPEG", quality=60),
    "progressive jpeg": encode(Image.fromarray(sample(3, size=(9, 14))), "JPEG", quality=60, progressive=True),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_gives_the_same_pixels_or_is_refused_by_both(name):
    whole, cases = DAMAGED[name], []
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        cases += [bytes(damaged), whole[:position]]
    outcomes = [(outcome(data, fast=True), outcome(data, fast=False)) for data in cases]
    assert sum(isinstance(slow, str) for _, slow in outcomes) >= 60
    assert sum(isinstance(slow, tuple) for _, slow in outcomes) >= 5
    assert [position for position, (fast, slow) in enumerate(outcomes) if fast != slow] == []


def test_without_extra_and_library_the_images_are_read_all_the_same(monkeypatch):
    expected = [outcome(data, fast=True) for data in DAMAGED.values()]
    monkeypatch.setattr(png_reading, "LIBRARY", None)
    monkeypatch.setattr(images, "simplejpeg", None)
    assert [outcome(data, fast=True) for data in DAMAGED.values()] == expected
    assert [type(result) for result in expected] == [tuple] * 4


def test_pillow_text_chunks_do_not_keep_a_png_from_the_fast_decoder(fast_calls):
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "a drawing program")
    load_image(encode(Image.fromarray(sample(3)), "PNG", pnginfo=text))
    assert fast_calls["png"] == 1
