"""PNG -> pixels by zlib and the compiled library: in half of Pillow's time, and without Python's lock."""

from __future__ import annotations

import zlib

import numpy as np

from logo_edge.images.headers import CHUNK_HEAD, PNG
from logo_edge.preprocess import LIBRARY

PIECE_BYTES = 1 << 16  # inflated at a time: they stay in the cache, and the system is asked for no memory
CHANNELS = {2: 3, 6: 4}  # by colour type: RGB, RGBA
HEAD = PNG + (13).to_bytes(4, "big") + b"IHDR"
STORED = bytes((0, 0, 0))  # of the header: compression and filters as PNG defines them, and no interlacing
PLAIN_CHUNKS = frozenset((b"PLTE", b"IDAT", b"IEND"))  # after the header


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of a PNG with 8 bits a channel, RGB or RGBA, not interlaced, by its header; None for others."""
    if not data.startswith(HEAD) or data[24:25] != b"\x08" or data[25] not in CHANNELS or data[26:29] != STORED:
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    return (width, height) if width and height else None


def read_plain_png(data: bytes, size: tuple[int, int]) -> np.ndarray | None:
    """(H, W, 3 or 4) uint8 of a PNG of `plain_size`; None where Pillow has to read it.

    It has to where a checksum is wrong, other chunks could change the pixels, or the library was not compiled.
    """
    compressed = _checked_pixels(data) if LIBRARY is not None else None
    if compressed is None:
        return None
    (width, height), channels = size, CHANNELS[data[25]]
    row_bytes = width * channels
    rows = max(1, min(height, max(PIECE_BYTES, len(compressed)) // (row_bytes + 1)))
    pixels, above = np.empty((height, width, channels), np.uint8), np.zeros(row_bytes, np.uint8)
    stream = zlib.decompressobj()
    try:
        for top in range(0, height, rows):
            piece = pixels[top : top + rows]
            inflated = stream.decompress(compressed, len(piece) * (row_bytes + 1))
            compressed = stream.unconsumed_tail
            if len(inflated) != len(piece) * (row_bytes + 1):
                return None
            arguments = inflated, channels, width, len(piece), above.ctypes.data, piece.ctypes.data
            if LIBRARY.logo_edge_unfilter(*arguments):
                return None
            above = piece[-1]
        is_complete = not stream.decompress(compressed, 1) and stream.eof
    except zlib.error:
        return None
    return pixels if is_complete else None


def _checked_pixels(data: bytes) -> bytes | None:
    """The compressed pixels; None where a checksum is wrong, the end is missing, or a chunk is not plain."""
    view, start, parts, last = memoryview(data), 8, [], b""
    while start + 12 <= len(data):
        length, kind = CHUNK_HEAD.unpack_from(data, start)
        end = start + 8 + length
        if zlib.crc32(view[start + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            return None
        if kind not in PLAIN_CHUNKS and start > 8:
            return None
        if kind == b"IDAT":
            if parts and last != kind:
                return None
            parts.append(view[start + 8 : end])
        if kind == b"IEND":
            return b"".join(parts)
        start, last = end + 4, kind
    return None
