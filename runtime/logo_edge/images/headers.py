"""Reads image files before a decoder does: every size that they claim, and only the parts that hold pixels.

Decoders allocate memory by numbers in the file, some while they open it, and containers such as ICO or AVIF name their
size more than once. Metadata can cost more than pixels: a TIFF directory or EXIF block of 64 KB whose entries all
point to the same bytes takes Pillow gigabytes, a GIF's comments quadratic time. So sizes are read here first, and
decoders of PNG, JPEG, GIF and TIFF get no metadata. An image with damaged metadata is still read.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from logo_edge.errors import ImageError
from logo_edge.images.iso_boxes import CODESTREAM, MOST_PARTS, jpeg2000_sizes, read_avif, too_many

PNG = b"\x89PNG\r\n\x1a\n"
TIFF = {
    b"II*\0": "<",
    b"MM\0*": ">",
    b"II+\0": "<",  # BigTIFF
    b"MM\0+": ">",
    b"II\0*": "<",  # wrong, but Pillow reads them
    b"MM*\0": ">",
}
KINDS = {
    PNG: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"\0\0\1\0": "ICO",
    CODESTREAM: "JPEG2000",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
    **dict.fromkeys(TIFF, "TIFF"),
}
CHUNK_HEAD = struct.Struct(">I4s")  # of PNG
DRAWN_CHUNKS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT"))
MOVING_CHUNKS = {b"acTL": 8, b"fcTL": 26, b"fdAT": 4}  # of animations, with the fewest bytes of content
METADATA_CHUNKS, MOST_METADATA = frozenset((b"eXIf", b"tEXt", b"zTXt", b"iTXt")), 100  # may hold the orientation
MARKER = re.compile(rb"\xff+([^\x00\xff])")  # of JPEG
SCAN = re.compile(rb"\xff\xda(?=.{9})", re.DOTALL)
GIF_BLOCK = re.compile(rb"[!,;]")
STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a segment
DRAWN_SEGMENTS = frozenset((0xC4, 0xCC, 0xDB, 0xDC, 0xDD))  # tables and restarts
COLOUR_SEGMENTS = {0xE0: 16, 0xEE: 14}  # JFIF and Adobe, with the shortest length that libjpeg recognises
FRAMES = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)))  # SOFn
EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
ORIENTATION = 0x0112
BASELINE_TAGS = (*range(254, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326))
EXTENSION_TAGS = (332, 334, 338, 339, 347, *range(512, 522), *range(529, 533), 50674)
DRAWN_TAGS = frozenset((*BASELINE_TAGS, *EXTENSION_TAGS))  # of TIFF, which decoders need
MOST_GIF_BLOCKS = 1_000_000  # of up to 255 bytes
MOST_TEXT_BYTES = 1 << 20  # of metadata, uncompressed
TIFF_UNITS = dict(
    enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), start=1)
)  # bytes of a value by its type


@dataclass(frozen=True)
class ImageFile:
    """An image file that is not decoded yet.

    `kind` is Pillow's name of the format, None where Pillow is to find out. `data` is the part that a decoder needs.
    `sizes` are the (width, height) that a decoder may allocate for, besides the size in the header. `orientation` is 1
    (upright) to 8 as in EXIF, where it was taken out of `data`. For a JPEG, `scans` counts the passes over its pixels,
    `in_one_scan` says whether the first scan holds all components, and `is_arithmetic` whether the coding is
    arithmetic.
    """

    kind: str | None
    data: bytes
    sizes: tuple[tuple[int, int], ...] = ()
    orientation: int = 1
    scans: int = 1
    in_one_scan: bool = True
    is_arithmetic: bool = False


def read_image_file(data: bytes) -> ImageFile:
    """The file with the facts in its header; for formats that hide no size, only its bytes.

    Raises ImageError where it is damaged, built to waste memory or time, or of a variant that no decoder here reads.
    """
    kind = next(
        (kind for magic, kind in KINDS.items() if data.startswith(magic)), "AVIF" if data[4:8] == b"ftyp" else None
    )
    try:
        if kind in READERS:
            return READERS[kind](data)
        return ImageFile(kind, data, tuple(SIZES[kind](data)) if kind in SIZES else ())
    except (struct.error, IndexError):  # no unchecked file reaches a decoder
        raise ImageError(f"damaged or truncated image (the header of its {kind} ends too early)") from None


def orientation_in(exif: bytes) -> int | None:
    """1 (upright) to 8, or None where the TIFF block of EXIF has no orientation. CIPA DC-008."""
    exif = exif.removeprefix(EXIF)
    order = TIFF.get(exif[:4])
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, directory)
        for at in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHI", exif, at)
            if tag == ORIENTATION:
                (value,) = struct.unpack_from(f"{order}{'I' if kind == 4 else 'H'}", exif, at + 8)
                return value if values == 1 and kind in (3, 4) and 1 <= value <= 8 else 1
    except struct.error:  # damaged EXIF is no reason to refuse the pixels
        pass
    return None


def orientation_in_xmp(xmp: bytes) -> int | None:
    """1 (upright) to 8, or None where the XMP packet has no orientation."""
    match = XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match and 1 <= int(match[1]) <= 8 else None


def _read_png(data: bytes) -> ImageFile:
    kept, position, orientations, colours = [(b"", data[:8])], 8, [], 0
    ignored: set[bytes] = set()
    for _ in range(MOST_PARTS):
        if position + 12 > len(data):  # cut off
            kept.append((b"", data[position:]))
            break
        length, kind = CHUNK_HEAD.unpack_from(data, position)
        end = position + 12 + length
        if kind == b"CgBI":
            raise ImageError(
                "a PNG in Apple's variant for iPhones (CgBI), which is not read; restore it with `xcrun pngcrush "
                "-revert-iphone-optimizations IN OUT`"
            )
        if kind in DRAWN_CHUNKS or not kind[0] & 0x20:
            kept.append((kind, data[position:end]))
        elif kind in METADATA_CHUNKS and len(orientations) < MOST_METADATA:
            orientations.append(_orientation_in_chunk(kind, data[position + 8 : end - 4]))
        if kind == b"PLTE":
            colours = length // 3
        elif kind == b"tRNS" and (_is_damaged(data, position) or length not in _transparent_lengths(data[25], colours)):
            ignored.add(kind)
        elif kind in MOVING_CHUNKS and (_is_damaged(data, position) or length < MOVING_CHUNKS[kind]):
            ignored.update(MOVING_CHUNKS)  # the still image remains
        if kind == b"IEND":
            break
        position = end
    else:
        raise too_many("chunks")
    kept_bytes = b"".join(chunk for kind, chunk in kept if kind not in ignored)
    return ImageFile("PNG", kept_bytes, orientation=next(filter(None, orientations), 1))


def _is_damaged(data: bytes, position: int) -> bool:
    """Whether the chunk there is complete and its checksum is wrong. A truncated chunk is left to the decoder."""
    end = position + 8 + CHUNK_HEAD.unpack_from(data, position)[0]
    checksum = data[end : end + 4]
    return len(checksum) == 4 and zlib.crc32(memoryview(data)[position + 4 : end]).to_bytes(4, "big") != checksum


def _transparent_lengths(colour_type: int, colours: int) -> range:
    """The valid lengths of a tRNS chunk; decoders treat others as damage. PNG, 11.3.2."""
    return {0: range(2, 3), 2: range(6, 7), 3: range(colours + 1)}.get(colour_type, range(0))


def _orientation_in_chunk(kind: bytes, content: bytes) -> int | None:
    if kind == b"eXIf":
        return orientation_in(content)
    keyword, _, text = content.partition(b"\0")
    if keyword not in (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1"):
        return None
    if kind == b"iTXt":
        is_packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    else:
        is_packed, text = kind == b"zTXt", text[1:] if kind == b"zTXt" else text
    if is_packed:
        try:
            text = zlib.decompressobj().decompress(text, MOST_TEXT_BYTES)
        except zlib.error:
            return None
    if keyword == b"XML:com.adobe.xmp":
        return orientation_in_xmp(text)
    try:
        return orientation_in(bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode()))
    except ValueError:
        return None


def _read_jpeg(data: bytes) -> ImageFile:
    kept, position, by_exif, by_xmp = [data[:2]], 2, None, None
    components, is_arithmetic = 0, False
    for _ in range(MOST_PARTS):
        marker = MARKER.search(data, position)
        if marker is None:
            raise IndexError
        kind, start = marker[1][0], marker.end()
        if kind in STANDALONE:
            position = start
            continue
        end = start + struct.unpack_from(">H", data, start)[0]
        if kind == 0xDA:
            kept.append(data[start - 2 :])
            return ImageFile(
                "JPEG",
                b"".join(kept),
                orientation=by_exif or by_xmp or 1,
                scans=data.count(b"\xff\xda", start - 2),
                in_one_scan=data[start + 2] >= components,
                is_arithmetic=is_arithmetic,
            )
        if kind in DRAWN_SEGMENTS or kind in FRAMES or end - start >= COLOUR_SEGMENTS.get(kind, math.inf):
            kept.append(data[start - 2 : end])
        if kind in FRAMES:
            components, is_arithmetic = data[start + 7], kind >= 0xC9
        elif kind == 0xE1 and data.startswith(EXIF, start + 2):
            by_exif = by_exif or orientation_in(data[start + 2 : end])
        elif kind == 0xE1 and data.startswith(XMP, start + 2):
            by_xmp = by_xmp or orientation_in_xmp(data[start + 2 : end])
        position = max(end, start)
    raise too_many("segments before its pixels")


def has_all_scans(data: bytes, components: int) -> bool:
    """Whether a JPEG holds the last coefficient of every component in full precision. ITU-T T.81, G.1."""
    complete = set()
    for match in SCAN.finditer(data):
        start = match.end() + 3  # after the length and the number of components
        end = start + 2 * data[start - 1]
        if data[end + 1 : end + 2] == b"\x3f" and data[end + 2] & 15 == 0:
            complete |= set(data[start:end:2])
    return len(complete) >= components


def _read_gif(data: bytes) -> ImageFile:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept, blocks = [data[:position]], 0
    while (block := GIF_BLOCK.search(data, position)) and block[0] != b";":
        start = position = block.start()
        if start + 10 > len(data):  # truncated between frames
            break
        is_frame = block[0] == b","
        if is_frame:
            left, top, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", data, start + 1)
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # the palette, and the size of LZW's codes
        else:
            position += 2
        while position < len(data) and data[position] and blocks <= MOST_GIF_BLOCKS:
            position += data[position] + 1
            blocks += 1
        position += 1
        blocks += 1
        if blocks > MOST_GIF_BLOCKS:
            raise too_many("blocks", MOST_GIF_BLOCKS)
        if is_frame or (data[start + 1] == 0xF9 and data[start + 2] == 4):  # frames and their controls; no comments
            kept.append(data[start:position])
    if block:
        kept.append(b";")
    return ImageFile("GIF", b"".join(kept), ((width, height),))


def _ico_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """(width, height) of every image in an icon, by its own header: a PNG, or a bitmap above a mask of equal height."""
    (count,) = struct.unpack_from("<H", data, 4)
    for index in range(count):
        (start,) = struct.unpack_from("<I", data, 6 + 16 * index + 12)
        if start + 24 > len(data):
            continue  # no image
        if data.startswith(PNG, start):
            yield struct.unpack_from(">II", data, start + 16)
        elif struct.unpack_from("<I", data, start)[0] == 12:  # of OS/2
            width, height = struct.unpack_from("<HH", data, start + 4)
            yield width, height // 2
        else:
            width, height = struct.unpack_from("<ii", data, start + 4)
            yield abs(width), abs(height) // 2


def _read_tiff(data: bytes) -> ImageFile:
    """The first page without its metadata, with the size of its tiles. TIFF 6.0; BigTIFF."""
    order, is_big = TIFF[data[:4]], data[2:4] in (b"+\0", b"\0+")
    (first,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", data, 8 if is_big else 4)
    if first + 8 > len(data):
        return ImageFile("TIFF", data)  # Pillow finds no directory either
    number, field = (
        struct.Struct(f"{order}{'Q' if is_big else 'H'}"),
        struct.Struct(f"{order}HH{'QQ' if is_big else 'II'}"),
    )
    start = first + number.size
    stop = min(start + field.size * number.unpack_from(data, first)[0], len(data) - field.size + 1)
    kept, held_bytes, sides, orientation = [], 0, {322: 0, 323: 0}, 1
    for at in range(start, stop, field.size):
        tag, kind, count, value = field.unpack_from(data, at)
        if kind == 3:
            (value,) = struct.unpack_from(f"{order}H", data, at + field.size - (8 if is_big else 4))
        if tag in sides:
            sides[tag] = max(sides[tag], value)
        if tag == ORIENTATION and kind in (3, 4) and count == 1 and 1 <= value <= 8:
            orientation = value
        if tag in DRAWN_TAGS:
            kept.append(data[at : at + field.size])
            held_bytes += count * TIFF_UNITS.get(kind, 0)
    if held_bytes > 2 * len(data) + MOST_TEXT_BYTES:
        raise ImageError(
            f"a TIFF directory that promises {held_bytes:,} bytes in a file of {len(data):,}; save it again with an "
            "image editor"
        )
    directory = number.pack(len(kept)) + b"".join(kept) + bytes(8 if is_big else 4)  # and no further page
    data = data[:first] + directory + data[first + len(directory) :]
    return ImageFile("TIFF", data, (tuple(sides.values()),) if all(sides.values()) else (), orientation)


def _read_avif(data: bytes) -> ImageFile:
    return ImageFile("AVIF", *read_avif(data))


READERS = {"PNG": _read_png, "JPEG": _read_jpeg, "GIF": _read_gif, "TIFF": _read_tiff, "AVIF": _read_avif}
SIZES = {"ICO": _ico_sizes, "JPEG2000": jpeg2000_sizes}
