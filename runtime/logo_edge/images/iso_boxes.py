"""The sizes in containers of ISO boxes (ISO 14496-12): AVIF, HEIC and JPEG 2000."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from logo_edge.errors import ImageError

CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000 without boxes
BOX_HEAD = struct.Struct(">I4s")
MOST_PARTS = 100_000  # chunks, segments or boxes
TILE_PX = 64  # a tile of JPEG 2000 takes its decoder at least the memory of so many pixels squared


def too_many(parts: str, most: int = MOST_PARTS) -> ImageError:
    """The error of a file that is built to waste time."""
    return ImageError(f"more than {most:,} {parts}; save it again with an image editor")


def read_avif(data: bytes) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """The file with its EXIF hidden, and the sizes of its coded pictures, whatever size the container says. AVIF 1.1.

    The orientation is in `irot`, not in the EXIF.
    """
    sizes, hidden = [], bytearray(data)
    for kind, start, stop in _boxes(data, 0, len(data)):
        if kind == b"meta":
            inner = {name: (at, end) for name, at, end in _boxes(data, start + 4, stop)}
            items_start = inner.get(b"idat", (0, 0))[0]
            if b"iloc" in inner:
                for pieces in _item_pieces(data, inner[b"iloc"][0], items_start):
                    sizes += _av1_sizes(b"".join(pieces))
            if b"iinf" in inner:
                at, end = inner[b"iinf"]
                hidden[at:end] = data[at:end].replace(b"Exif", b"free")
        elif kind == b"moov":
            for offset in _chunk_offsets(data, start, stop):
                sizes += _av1_sizes(data[offset:])
    return bytes(hidden), tuple(sizes)


def read_heic(data: bytes) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """The file with its EXIF hidden, and the sizes of its coded pictures and of the canvases that they are laid on.

    The orientation is in `irot`, not in the EXIF. ISO 23008-12. Raises ImageError for overlays, whose canvas may have
    any size.
    """
    sizes, hidden, length_bytes = [], bytearray(data), {4}
    for kind, start, stop in _boxes(data, 0, len(data)):
        if kind != b"meta":
            continue
        inner = {name: (at, end) for name, at, end in _boxes(data, start + 4, stop)}
        if b"iinf" in inner:
            at, end = inner[b"iinf"]
            if b"iovl" in data[at:end]:
                raise ImageError("an HEIC of overlaid pictures, which is not read; save it again as PNG or JPEG")
            hidden[at:end] = data[at:end].replace(b"Exif", b"free")
        for _, at, end in _boxes(data, *inner.get(b"iprp", (0, 0))):
            for name, first, last in _boxes(data, at, end):
                if name == b"ispe":
                    sizes.append(struct.unpack_from(">II", data, first + 4))
                elif name == b"hvcC":
                    length_bytes.add((data[first + 21] & 3) + 1)
                    sizes += _hevc_sizes(_parameter_sets(data[first:last]))
        if b"iloc" in inner:
            for pieces in _item_pieces(data, inner[b"iloc"][0], inner.get(b"idat", (0, 0))[0]):
                item = b"".join(pieces)
                if len(item) in (8, 12):  # a grid: its canvas
                    sizes.append(struct.unpack(">HH" if len(item) == 8 else ">II", item[4:]))
                for count in length_bytes:
                    sizes += _hevc_sizes(_units(item, count))
    return bytes(hidden), tuple(sizes)


def jpeg2000_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """(width, height) of the codestream of JPEG 2000 and of its tiles, as memory is allocated. ISO 15444-1, A.5.1."""
    starts = (
        [0]
        if data.startswith(CODESTREAM)
        else [start for kind, start, _ in _boxes(data, 0, len(data)) if kind == b"jp2c"]
    )
    for start in starts:
        right, bottom, left, top, tile_width, tile_height, tiles_left, tiles_top = struct.unpack_from(
            ">8I", data, start + 8
        )
        yield max(0, right - left), max(0, bottom - top)
        if tile_width and tile_height:
            yield (
                -(-max(0, right - tiles_left) // tile_width) * TILE_PX,
                -(-max(0, bottom - tiles_top) // tile_height) * TILE_PX,
            )


def _boxes(data: bytes, position: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, stop) of the content of each box of ISO 14496-12 in this range."""
    for _ in range(MOST_PARTS):
        if position + 8 > stop:
            return
        size, kind = BOX_HEAD.unpack_from(data, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = min(stop, position + size) if size else stop
        yield kind, start, end
        position = max(end, start)
    raise too_many("boxes")


def _item_pieces(data: bytes, at: int, idat: int) -> Iterator[list[bytes]]:
    """The byte ranges of each item of an `iloc` box. ISO 14496-12, 8.11.3."""
    version, widths = data[at], struct.unpack_from(">H", data, at + 4)[0]
    offset_bytes, length_bytes, base_bytes, index_bytes = (widths >> shift & 15 for shift in (12, 8, 4, 0))
    id_bytes = 4 if version == 2 else 2
    at += 6

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > len(data):
            raise IndexError
        return int.from_bytes(data[at - count : at], "big")

    for _ in range(min(take(id_bytes), MOST_PARTS)):
        take(id_bytes)
        origin = idat if version and take(2) & 15 == 1 else 0
        take(2)
        base, pieces = take(base_bytes), []
        for _ in range(min(take(2), MOST_PARTS)):
            if version:
                take(index_bytes)
            start = origin + base + take(offset_bytes)
            length = take(length_bytes) or len(data)
            pieces.append(data[start : start + length])
        yield pieces


def _chunk_offsets(data: bytes, start: int, stop: int) -> Iterator[int]:
    """The offsets of the samples of all tracks."""
    for kind, at, end in _boxes(data, start, stop):
        if kind in (b"trak", b"mdia", b"minf", b"stbl"):
            yield from _chunk_offsets(data, at, end)
        elif kind in (b"stco", b"co64"):
            width = 4 if kind == b"stco" else 8
            (count,) = struct.unpack_from(">I", data, at + 4)
            for index in range(min(count, (end - at - 8) // width, MOST_PARTS)):
                yield int.from_bytes(data[at + 8 + width * index : at + 8 + width * (index + 1)], "big")


def _av1_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """(width, height) of every sequence header in a row of open bitstream units. AV1 specification, 5.3 and 5.5."""
    position = 0
    while position < len(data):
        head = data[position]
        position += 2 if head & 4 else 1
        size, shift = len(data) - position, 0
        if head & 2:
            size = 0
            while position < len(data) and shift < 56:
                size |= (data[position] & 0x7F) << shift
                position, shift = position + 1, shift + 7
                if not data[position - 1] & 0x80:
                    break
        if head >> 3 & 15 == 1:
            with suppress(IndexError):  # no header of an image
                yield _sequence_size(data[position : position + 256])
        if head & 0x80 or (not size and head >> 3 & 15 not in (2, 15)):  # no unit, so that no further one follows
            return
        position += size


def _parameter_sets(configuration: bytes) -> Iterator[bytes]:
    """The network units in an `hvcC` box. ISO 14496-15, 8.3.2.1."""
    at = 23
    for _ in range(configuration[22]):
        (count,) = struct.unpack_from(">H", configuration, at + 1)
        at += 3
        for _ in range(count):
            (length,) = struct.unpack_from(">H", configuration, at)
            yield configuration[at + 2 : at + 2 + length]
            at += 2 + length


def _units(item: bytes, length_bytes: int) -> Iterator[bytes]:
    """The network units of a coded picture, each behind its length."""
    at = 0
    for _ in range(MOST_PARTS):
        if at + length_bytes >= len(item):
            return
        start = at + length_bytes
        at = start + int.from_bytes(item[at:start], "big")
        yield item[start:at]
    raise too_many("units")


def _hevc_sizes(units: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """(width, height) of each sequence parameter set among the units. ITU-T H.265, 7.3.2.2."""
    for unit in units:
        if unit[:1] and unit[0] >> 1 & 63 == 33:
            with suppress(IndexError):  # no picture can follow
                yield _parameter_size(unit[2:258].replace(b"\0\0\3", b"\0\0"))


def _parameter_size(header: bytes) -> tuple[int, int]:
    """(width, height) in a sequence parameter set of HEVC."""
    take = _bits_of(header)
    take(4)
    layers = take(3)
    take(1 + 96)  # profile and level
    present = [(take(1), take(1)) for _ in range(layers)]
    take(2 * (8 - layers) if layers else 0)
    for has_profile, has_level in present:
        take(88 * has_profile + 8 * has_level)
    _take_exponential(take)
    if _take_exponential(take) == 3:  # 4:4:4
        take(1)
    return _take_exponential(take), _take_exponential(take)


def _bits_of(header: bytes) -> Callable[[int], int]:
    """A function that takes the next bits as a number, and raises IndexError at the end."""
    number, left = int.from_bytes(header, "big"), 8 * len(header)

    def take(bits: int) -> int:
        nonlocal left
        left -= bits
        if left < 0:
            raise IndexError
        return number >> left & (1 << bits) - 1

    return take


def _sequence_size(header: bytes) -> tuple[int, int]:
    """The largest (width, height) of a frame that an AV1 sequence header allows."""
    take = _bits_of(header)
    take(4)  # profile, still picture
    is_reduced = take(1)
    if is_reduced:
        take(5)
    else:
        _skip_operating_points(take)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    width, height = take(width_bits) + 1, take(height_bits) + 1
    if not is_reduced:  # a frame may have its own size; honest encoders use at least half the range of these bits
        width, height = max(width, 1 << width_bits - 1), max(height, 1 << height_bits - 1)
    return width, height


def _skip_operating_points(take) -> None:
    decoder_model = 0
    if take(1):  # timing
        take(64)
        if take(1):
            _take_exponential(take)
        decoder_model = take(1)
        delay_bits = take(5) + 1 if decoder_model else 0
        if decoder_model:
            take(42)
    displays_delay = take(1)
    for _ in range(take(5) + 1):
        take(12)
        if take(5) > 7:
            take(1)
        if decoder_model and take(1):
            take(2 * delay_bits + 1)
        if displays_delay and take(1):
            take(4)


def _take_exponential(take: Callable[[int], int]) -> int:
    """An unsigned number in Exp-Golomb code."""
    zeros = 0
    while not take(1):
        zeros += 1
    return (1 << zeros) - 1 + take(zeros) if zeros < 32 else (1 << 32) - 1
