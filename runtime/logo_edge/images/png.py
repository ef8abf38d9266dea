"""PNG -> pixels by zlib and the compiled library: in half of Pillow's time, and without Python's lock."""

from __future__ import annotations

import zlib

import numpy as np

from logo_edge.images.headers import CHUNK_HEAD
from logo_edge.preprocess import LIBRARY

PIECE_BYTES = 1 << 20  # inflated at a time, so that they stay in the processor's cache
CHANNELS = {2: 3, 6: 4}  # by colour type: RGB, RGBA
STORED = bytes((0, 0, 0))  # of the header: compression and filters as PNG defines them, and no interlacing


def read_plain_png(data: bytes) -> np.ndarray | None:
    """(H, W, 3 or 4) uint8, or None where Pillow has to decode: another kind of PNG, a flaw, or no library.

    Plain are RGB and RGBA of 8 bits a channel that are not interlaced; every checksum is right.
    """
    channels = CHANNELS.get(data[25])
    if LIBRARY is None or channels is None or data[24] != 8 or data[26:29] != STORED:
        return None
    compressed = _checked_pixels(data)
    if compressed is None:
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
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
    """The compressed pixels; None where a checksum is wrong, the end is missing or other chunks lie between them."""
    view, start, parts, last = memoryview(data), 8, [], b""
    while start + 12 <= len(data):
        length, kind = CHUNK_HEAD.unpack_from(data, start)
        end = start + 8 + length
        if zlib.crc32(view[start + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            return None
        if kind == b"IDAT":
            if parts and last != kind:
                return None
            parts.append(view[start + 8 : end])
        if kind == b"IEND":
            return b"".join(parts)
        start, last = end + 4, kind
    return None
