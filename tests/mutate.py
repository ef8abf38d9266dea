"""Damaged, lying and hostile images, made of proper ones by a seeded generator."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

FORMATS = {
    "PNG": {},
    "JPEG": {},
    "WEBP": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "ICO": {},
    "PPM": {},
    "TGA": {},
    "JPEG2000": {},
    "AVIF": {},
}


def encode(image: Image.Image) -> dict[str, bytes]:
    """The image in every format that this Pillow writes."""
    encoded = {}
    for name, options in FORMATS.items():
        buffer = io.BytesIO()
        try:
            image.save(buffer, name, **options)
        except (OSError, KeyError):  # a Pillow without that codec
            continue
        encoded[name] = buffer.getvalue()
    return encoded


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG whose head promises width x height, over these zlib-compressed rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def hostile() -> dict[str, bytes]:
    """Bombs, lies and what is no image."""
    rows = zlib.compress(bytes(5001 * 5000), 9)
    return {
        "empty": b"",
        "one byte": b"\x89",
        "png, vast by its head": png(60_000, 60_000, zlib.compress(b"\0")),
        "png, the most that a head can say": png(2**31 - 1, 2**31 - 1, b""),
        "png, no pixels": png(0, 0, b""),
        "png, a bomb of 25 million pixels": png(5000, 5000, rows),
        "png, a bomb that promises little": png(4, 4, rows),
        "png, promises more than it has": png(4000, 4000, zlib.compress(bytes(10))),
        "gif, vast by its head": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0),
        "bmp, vast by its head": b"BM"
        + bytes(12)
        + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0),
        "pnm, vast by its head": b"P6 99999 99999 255\n",
        "pdf": b"%PDF-1.7\n1 0 obj\n<< >>\nendobj\n",
        "html": b"<!doctype html><title>x</title>",
        "zip": b"PK\x03\x04" + bytes(60),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n{} loop\n",
        "svg that reads a file": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>',
        "svg with entities": b'<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        b'<svg xmlns="http://www.w3.org/2000/svg"><text>&b;</text></svg>',
    }


def mutations(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` damaged files, each with a name that says what was done: truncated, flipped, overwritten, spliced."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).resize((128, 96))
    originals = list(encode(image).items())
    for index in range(count):
        kind, data = originals[index % len(originals)]
        damaged = np.frombuffer(data, np.uint8).copy()
        way = ("truncated", "flipped", "overwritten", "head overwritten", "spliced")[rng.integers(5)]
        if way == "truncated":
            damaged = damaged[: rng.integers(0, len(damaged))]
        elif way == "flipped":
            damaged[rng.integers(0, len(damaged), rng.integers(1, 20))] ^= np.uint8(1 << rng.integers(8))
        elif way == "spliced":
            cut, paste = rng.integers(0, len(damaged), 2)
            damaged = np.concatenate([damaged[:cut], damaged[paste:]])
        else:
            start = rng.integers(0, len(damaged) if way == "overwritten" else min(64, len(damaged)))
            damaged[start : start + rng.integers(1, 9)] = rng.choice([0, 1, 127, 255])
        yield f"{kind} {index}, {way}", damaged.tobytes()
