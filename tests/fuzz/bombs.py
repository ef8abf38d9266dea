"""Small files that cost a decoder much: many pixels, tiles, metadata, scans or parts, in every container format."""

from __future__ import annotations

import io
import itertools
import re
import struct
import zlib
from contextlib import suppress
from functools import cache

import numpy as np
from PIL import Image

SIDE = 13_000  # 169 million pixels, below the number at which Pillow itself refuses


def encode(image: Image.Image, kind: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *more, chunk(b"IDAT", data), chunk(b"IEND", b"")])


def tiff(tags: list[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """A little-endian directory of (tag, type, count, value) before `data`, to which a value of -1 points."""
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", *tag[:3], start if tag[3] < 0 else tag[3]) for tag in tags]
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + data


def exif(entries: int = 5000) -> bytes:
    """A block of 60 KB whose entries all point to the same bytes: Pillow reads those for each."""
    return b"Exif\0\0" + tiff([(300 + index, 7, 60_000, 10) for index in range(entries)])


def icon(*pictures: bytes) -> bytes:
    head, start = struct.pack("<HHH", 0, 1, len(pictures)), 6 + 16 * len(pictures)
    for picture in pictures:
        head += struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(picture), start)
        start += len(picture)
    return head + b"".join(pictures)


def icon_with_gap(picture: bytes) -> bytes:
    """An icon whose first entry points beyond its end."""
    data = bytearray(icon(b"", picture))
    struct.pack_into("<I", data, 18, 0x7FFFFFFF)
    return bytes(data)


def icns(picture: bytes) -> bytes:
    part = b"ic07" + struct.pack(">I", len(picture) + 8) + picture
    return b"icns" + struct.pack(">I", len(part) + 8) + part


def lie_in_avif(data: bytes, side: int) -> bytes:
    """The file with every size in its container set to 64 x 64; the coded picture keeps its size."""
    data = bytearray(data)
    sizes = struct.pack(">II", side, side), struct.pack(">HH", side, side), struct.pack(">II", side << 16, side << 16)
    for true, lie in zip(
        sizes,
        (struct.pack(">II", 64, 64), struct.pack(">HH", 64, 64), struct.pack(">II", 64 << 16, 64 << 16)),
        strict=True,
    ):
        data = data.replace(true, lie)
    return bytes(data)


def jpeg2000(**sizes: int) -> bytes:
    """A codestream of 64 x 64 with other sizes in its header."""
    data = bytearray(encode(Image.new("RGB", (64, 64), "navy"), "JPEG2000", no_jp2=True))
    names = ("right", "bottom", "left", "top", "tile_width", "tile_height", "tiles_left", "tiles_top")
    values = {"right": 64, "bottom": 64, "tile_width": 64, "tile_height": 64} | sizes
    struct.pack_into(">8I", data, data.index(b"\xff\x51") + 6, *(values.get(name, 0) for name in names))
    return bytes(data)


def wrap_jpeg2000(stream: bytes) -> bytes:
    """A JP2 whose header box says 64 x 64, around any codestream, with a decoy before it."""
    data = encode(Image.new("RGB", (64, 64)), "JPEG2000")
    decoy = encode(Image.new("RGB", (64, 64)), "JPEG2000", no_jp2=True)
    at = data.index(b"jp2c") - 4
    return (
        data[:at]
        + struct.pack(">I4s", len(decoy) + 8, b"free")
        + decoy
        + struct.pack(">I4s", len(stream) + 8, b"jp2c")
        + stream
    )


def webp(side: int, flags: int, chunks: bytes) -> bytes:
    """A file in the extended format, whose canvas has this side."""
    canvas = 2 * struct.pack("<I", side - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, flags) + canvas + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animation(kind: str, side: int) -> bytes:
    frames = [Image.new("RGB", (side, side), colour) for colour in ("white", "teal")]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


def vast_second_frame() -> bytes:
    """A GIF of 8 x 8 whose second frame reaches to 60,000 x 60,000."""
    data = animation("GIF", 8)
    at = data.rindex(b"\x2c\0\0\0\0\x08\0\x08\0") if b"\x2c\0\0\0\0\x08\0\x08\0" in data else data.rindex(b"\x2c")
    return data[: at + 5] + struct.pack("<HH", 60_000, 60_000) + data[at + 9 :]


def progressive(width: int, height: int, scans: int) -> bytes:
    """A valid JPEG of one colour that goes over its pixels `scans` times."""
    return repeat_scan(encode(Image.new("RGB", (width, height), "teal"), "JPEG", progressive=True), scans)


def noisy_progressive(width: int, height: int, scans: int) -> bytes:
    """The same with noise, so that every scan costs as much as possible."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return repeat_scan(encode(Image.fromarray(noise), "JPEG", progressive=True, quality=75), scans)


def repeat_scan(data: bytes, scans: int) -> bytes:
    """The progressive JPEG with its largest scan of AC coefficients repeated until it has `scans` scans.

    The repeated scan declares full precision (Ah = Al = 0), so the decoder accepts it without a warning.
    """
    starts, parts = [match.start() for match in re.finditer(b"\xff\xda", data)], []
    for before, start in itertools.pairwise(starts):
        if data[start + 4] == 1 and data[start + 7] and not data[start + 9] >> 4:
            tables = data.find(b"\xff\xc4", before, start)
            end = re.compile(b"\xff[\xc4\xda\xd9]").search(data, start + 2).start()
            parts.append(data[tables if tables >= 0 else start : start + 9] + b"\0" + data[start + 10 : end])
    return data[:-2] + max(parts, key=len) * (scans - len(starts)) + data[-2:]


def with_parts(kind: str, part: bytes, count: int, at: int) -> bytes:
    data = encode(Image.new("L", (8, 8)), kind)
    return data[:at] + part * count + data[at:]


@cache
def bombs() -> dict[str, bytes]:
    """The files by name; each must be refused, or read at little cost."""
    vast = png(SIDE, SIDE, 8, 6, zlib.compress(bytes(1_000_000), 9))
    bitmap = struct.pack("<IiiHHIIiiII", 40, SIDE, 2 * SIDE, 1, 32, 0, 0, 0, 0, 0, 0)
    tiles = [
        (256, 4, 1, 64),
        (257, 4, 1, 64),
        (258, 3, 1, 8),
        (259, 3, 1, 8),
        (262, 3, 1, 1),
        (277, 3, 1, 1),
        (322, 4, 1, 20_000),
        (323, 4, 1, 20_000),
        (324, 4, 1, -1),
    ]
    tile = zlib.compress(bytes(20_000_000), 9)
    jpeg, picture = encode(Image.new("RGB", (64, 64)), "JPEG"), encode(Image.new("RGB", (64, 64)), "WEBP")[12:]
    files = {
        "png": vast,
        "png, 1 bit": png(65_000, 65_000, 1, 0, b""),
        "ico of a png": icon(vast),
        "ico whose second picture is vast": icon(encode(Image.new("RGB", (16, 16)), "PNG"), vast),
        "ico of a bitmap": icon(bitmap + bytes(5000)),
        "icns of a png": icns(vast),
        "tiff of one vast tile": tiff([*tiles, (325, 4, 1, len(tile))], tile),
        "tiff directory": tiff([(300 + index, 7, 1 << 20, -1) for index in range(3000)], bytes(1 << 20)),
        "tiff directory, cut off": tiff([(300 + index, 7, 1 << 20, 10) for index in range(3000)])[:30_000]
        + bytes(1 << 20),
        "tiff within tiff": tiff(
            [
                (256, 4, 1, 8),
                (257, 4, 1, 8),
                (258, 3, 1, 8),
                (259, 3, 1, 1),
                (262, 3, 1, 1),
                (273, 4, 1, 8),
                (279, 4, 1, 64),
                (34665, 4, 1, -1),
            ],
            tiff([(300 + index, 7, 60_000, 10) for index in range(5000)])[8:],
        ),
        "ico of a png behind one that is missing": icon_with_gap(vast),
        "exif in a jpeg without a scan": jpeg[:2]
        + b"\xff\xe1"
        + struct.pack(">H", len(exif()) + 2)
        + exif()
        + jpeg[2 : jpeg.index(b"\xff\xda")],
        "mpo": jpeg[:2]
        + b"\xff\xe2\xff\xf8MPF\0"
        + tiff([(0xB001 + index, 7, 60_000, 10) for index in range(5000)])[:65_522].ljust(65_522, b"\0")
        + jpeg[2:],
        "exif in jpeg": jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif()) + 2) + exif() + jpeg[2:],
        "exif in png": png(8, 8, 8, 0, zlib.compress(bytes(72)), chunk(b"eXIf", exif()[6:])),
        "exif in webp": webp(64, 8, picture + b"EXIF" + struct.pack("<I", len(exif())) + exif()),
        "webp canvas": webp(16_000, 0, picture),
        "gif whose second frame is vast": vast_second_frame(),
        "gif comments": with_parts("GIF", b"!\xfe" + (b"\xff" + b"a" * 255) * 15_000 + b"\0", 1, 13 + 768),
        "jpeg 2000 of many tiles": jpeg2000(right=1500, bottom=1500, tile_width=6, tile_height=6),
        "jpeg 2000, vast": wrap_jpeg2000(jpeg2000(right=SIDE, bottom=SIDE, tile_width=SIDE, tile_height=SIDE)),
        "texts": png(
            8, 8, 8, 0, zlib.compress(bytes(72)), *[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(10_000_000), 9))] * 3
        ),
        "profile": png(
            8, 8, 8, 0, zlib.compress(bytes(72)), chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(10_000_000), 9))
        ),
        "many texts": with_parts(
            "PNG", chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(1_000_000), 9)), 5000, 33
        ),
        "many chunks": with_parts("PNG", chunk(b"teSt", b""), 200_000, 33),
        "many segments": with_parts("JPEG", b"\xff\xfe\0\2", 300_000, 2),
        "junk": with_parts("JPEG", bytes(3_000_000), 1, 2),
        "many scans of one pixel": progressive(1, 1, 100_000),
        "scans": progressive(1500, 1500, 1000),
    }
    with suppress(OSError, KeyError):  # a Pillow without that codec
        files |= {
            "avif": lie_in_avif(encode(Image.new("RGB", (7000, 7000)), "AVIF", speed=10), 7000),
            "avif animation": lie_in_avif(animation("AVIF", 5000), 5000),
        }
    return files
