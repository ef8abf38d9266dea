"""The sizes in hostile files are checked before any decoder runs; damaged metadata does not refuse an image."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from fuzz.bombs import (
    animation,
    bombs,
    chunk,
    encode,
    icon,
    lie_in_avif,
    noisy_progressive,
    png,
    progressive,
    tiff,
    wrap_jpeg2000,
)
from PIL import Image

from logo_edge import ImageError, load_image
from logo_edge.images.headers import read_image_file
from logo_edge.images.load import JPEG_SHARE, SCANNED_BYTES, decoding_cost, load_reduced

ROOT = Path(__file__).parents[2]
READABLE = {
    "mpo",
    "exif in jpeg",
    "exif in png",
    "exif in webp",
    "gif comments",
    "texts",
    "many texts",
    "profile",
    "tiff within tiff",
}  # their pixels are few
MEASURE = """
import resource, sys, time
from pathlib import Path
from logo_edge import ImageError, load_image
for path in map(Path, sys.argv[1:]):
    data, start = path.read_bytes(), time.process_time()
    try:
        load_image(data)
    except ImageError as error:
        outcome = "refused"
    else:
        outcome = "read"
    status = Path("/proc/self/status").read_text().splitlines()
    memory = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    print(path.name, outcome, time.process_time() - start, int(memory) / 1e3, sep="|")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_no_small_file_takes_much_memory_or_time(tmp_path):
    for name, data in bombs().items():
        (tmp_path / name).write_bytes(data)
    paths = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len(rows) == len(paths) >= 24
    for name, outcome, cpu_s, memory_mb in rows:
        assert outcome == ("read" if name in READABLE else "refused"), name
        assert float(cpu_s) < 2, name
        assert float(memory_mb) < 150, name


def test_honest_containers_are_read():
    image = Image.new("RGB", (64, 64), (0, 0, 128))
    streams = encode(image, "JPEG2000", no_jp2=True)
    files = {
        "ico": icon(encode(image.resize((16, 16)), "PNG"), encode(image, "PNG")),
        "bitmap": encode(image, "ICO", bitmap_format="bmp"),
        "avif": encode(image, "AVIF"),
        "jp2": encode(image, "JPEG2000"),
        "j2k": streams,
        "wrapped": wrap_jpeg2000(streams),
        "tiff": encode(image, "TIFF", compression="tiff_lzw"),
        "webp": encode(image, "WEBP"),
        "gif": encode(image, "GIF"),
    }
    for name, data in files.items():
        off = np.abs(np.asarray(load_image(data).convert("RGB")).astype(int) - (0, 0, 128))
        assert off.max() <= 3, name


def test_the_coded_size_of_avif_is_found_whatever_its_container_says():
    honest = encode(Image.new("RGB", (640, 640)), "AVIF")
    for data in (honest, lie_in_avif(honest, 640), lie_in_avif(animation("AVIF", 640), 640)):
        assert (640, 640) in read_image_file(data).sizes


def encode_heic(image: Image.Image) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(image).save(file := io.BytesIO(), quality=50)
    return file.getvalue()


@pytest.mark.slow
def test_heic_is_read_and_its_coded_size_is_found_whatever_its_container_says():
    honest = encode_heic(Image.new("RGBA", (640, 400), (0, 0, 128, 90)))
    image = load_image(honest)
    assert (image.mode, image.size) == ("RGBA", (640, 400))
    assert np.abs(np.asarray(image)[200, 300].astype(int) - (0, 0, 128, 90)).max() <= 3
    large = encode_heic(Image.new("RGB", (6400, 6400)))
    lie = large.replace(struct.pack(">II", 6400, 6400), struct.pack(">II", 64, 64))
    assert lie != large
    for data in (large, lie):
        with pytest.raises(ImageError, match=r"6400 x 6400 pixels; at most 25,714,285 are read"):
            load_image(data)


def test_heic_of_other_brands_and_without_a_decoder_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for brands in (b"heic\0\0\0\0mif1", b"mif1\0\0\0\0heic"):
        data = b"\0\0\0\x14ftyp" + brands
        assert read_image_file(data).kind == "HEIF"
        with pytest.raises(ImageError, match=r"pip install 'logo-edge\[heif\]'"):
            load_image(data)
    assert read_image_file(b"\0\0\0\x14ftypmif1\0\0\0\0avif").kind == "AVIF"


def test_a_canvas_of_a_heic_grid_counts_and_overlays_are_refused():
    def box(kind: bytes, *parts: bytes) -> bytes:
        content = b"".join(parts)
        return struct.pack(">I4s", 8 + len(content), kind) + content

    grid = b"\0\0\0\0" + struct.pack(">HH", 30_000, 20_000)
    where = b"\1\0\0\0\x44\0\0\1" + struct.pack(">HHHHII", 1, 1, 0, 1, 0, 8)  # one item, in idat
    for item, expected in ((b"grid", (30_000, 20_000)), (b"iovl", None)):
        meta = box(b"meta", bytes(4), box(b"iinf", item), box(b"iloc", where), box(b"idat", grid))
        data = box(b"ftyp", b"heic\0\0\0\0") + meta
        if expected:
            assert expected in read_image_file(data).sizes
        else:
            with pytest.raises(ImageError, match="overlaid pictures"):
                read_image_file(data)


@pytest.mark.parametrize("max_pixels", [100, 99])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "array", "PIL"])
def test_the_caller_may_read_fewer_pixels(kind, max_pixels):
    image = Image.new("RGB", (10, 10 * (JPEG_SHARE if kind == "JPEG" else 1)))
    source = image if kind == "PIL" else np.asarray(image) if kind == "array" else encode(image, kind)
    if max_pixels == 100:
        assert load_image(source, max_pixels=max_pixels).width in (10, 5)
    else:
        with pytest.raises(ImageError, match="Scale it down"):
            load_image(source, max_pixels=max_pixels)


def test_a_jpeg_of_48_megapixels_is_decoded_at_a_half():
    data = encode(Image.new("RGB", (8000, 6000), "teal"), "JPEG")
    for fast in (True, False):
        assert load_image(data, fast=fast).size == (4000, 3000)
        reduced, covered = load_reduced(data, 320, fast=fast)
        assert (np.asarray(reduced).shape[:2], covered) == ((750, 1000), (1000, 750))
    assert decoding_cost(data) == 48_000_000


def test_a_jpeg_of_several_scans_is_read_as_far_as_its_coefficients_fit_into_memory():
    image = Image.new("RGB", (200, 200))  # 40,000 pixels
    for subsampling, most in (("4:4:4", 40_000), ("4:2:0", 20_000)):
        data = encode(image, "JPEG", progressive=True, subsampling=subsampling)
        load_image(data, max_pixels=most)
        with pytest.raises(ImageError, match="Scale it down"):
            load_image(data, max_pixels=most - 1)


def test_scans_cost_their_number_and_their_bytes():
    assert load_image(progressive(60, 60, 1000)).size == (60, 60)
    with pytest.raises(ImageError, match="15000 scans of 60 x 60"):
        load_image(progressive(60, 60, 15_000))
    heavy = noisy_progressive(300, 300, 400)
    assert len(heavy) > SCANNED_BYTES // 10
    with pytest.raises(ImageError, match="several scans; save it as a baseline"):
        load_image(heavy + bytes(SCANNED_BYTES))


def test_pixels_of_slow_formats_and_of_many_bytes_cost_more():
    image = Image.new("RGB", (100, 100))
    costs = {kind: decoding_cost(encode(image, kind)) for kind in ("PNG", "WEBP", "JPEG2000", "QOI", "AVIF")}
    assert costs["PNG"] == 10_000 < costs["WEBP"] == costs["AVIF"] < costs["JPEG2000"] < costs["QOI"]
    deep = png(100, 100, 16, 6, zlib.compress(bytes(100 * 801)))
    assert decoding_cost(deep) == 20_000
    assert decoding_cost(encode(Image.new("CMYK", (100, 100)), "TIFF", compression="lzma")) == 20_000
    assert decoding_cost(b"no image") == 0


@pytest.mark.parametrize("orientation", [("2", 2), (4, "high"), (3, 0), (3, 9), (2, 6), (4, 6)])
def test_an_orientation_that_is_none_leaves_the_picture_as_it_is_stored(orientation):
    kind, value = orientation
    number = value if isinstance(value, int) else 0x7FFFFFFF
    block = tiff([(0x0112, int(kind), 1, number)])
    stored = Image.new("RGB", (30, 20), "red")
    expected = (20, 30) if orientation == (4, 6) else (30, 20)
    for name in ("JPEG", "PNG", "WEBP"):
        assert load_image(encode(stored, name, exif=b"Exif\0\0" + block)).size == expected, name
    many = tiff([(0x0112, 3, 70_000, 10)])
    assert load_image(encode(stored, "JPEG", exif=b"Exif\0\0" + many)).size == (30, 20)


def test_damaged_metadata_refuses_no_pixels():
    image = Image.new("RGB", (12, 9), "red")
    plain, jpeg = encode(image, "PNG"), encode(image, "JPEG")
    broken = chunk(b"tEXt", b"k\0value")[:-1] + b"?"
    parts = {
        "checksum": broken,
        "profile": chunk(b"iCCP", b"k\0\0no zlib"),
        "eXIf": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"),
        "large text": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000))),
        "pHYs": chunk(b"pHYs", b"?"),
        "large XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * 2_000_000)),
    }
    for name, part in parts.items():
        assert load_image(plain[:33] + part + plain[33:]).getpixel((1, 1)) == (255, 0, 0), name
    for content in (
        b"MPF\0MM\0*\0\0\0\x08\0\x01",
        b"ICC_PROFILE\0\x09\x01",
        b"Exif\0\0garbage",
        b"Exif\0\0MM\0*\xff\xff\xff\xff",
    ):
        for marker in (b"\xff\xe1", b"\xff\xe2", b"\xff\xed"):
            segment = marker + struct.pack(">H", len(content) + 2) + content
            assert load_image(jpeg[:2] + segment + jpeg[2:]).size == (12, 9), content


def test_damaged_tags_of_a_tiff_refuse_no_pixels():
    checked, image = 0, Image.new("RGB", (12, 9), "red")
    planar = {
        False: struct.pack("<HHII", 284, 3, 1, 1),
        True: struct.pack("<HHQQ", 284, 3, 1, 1),
    }  # what is left out is 1
    for compression, is_big in ((None, False), ("tiff_lzw", False), (None, True)):
        data = encode(image, "TIFF", compression=compression, big_tiff=is_big)
        assert data.count(planar[is_big]) == 1
        for tag, kind, count in product(
            (274, 282, 305, 700, 34665, 34675), (0, 1, 2, 3, 5, 7, 12, 99), (0, 1, 1 << 31)
        ):
            damaged = data.replace(planar[is_big], struct.pack("<HHQQ" if is_big else "<HHII", tag, kind, count, 9))
            assert load_image(damaged).getpixel((1, 1)) == (255, 0, 0), (tag, kind, count)
            checked += 1
    assert checked == 432


def test_damaged_animation_and_transparency_leave_the_first_picture():
    still = encode(Image.new("RGB", (12, 9), "red"), "PNG")
    moving = encode(
        Image.new("RGB", (12, 9), "red"), "PNG", save_all=True, append_images=[Image.new("RGB", (12, 9), "blue")]
    )
    files = [
        still[:33] + chunk(kind, content) + still[33:]
        for kind in (b"acTL", b"fcTL", b"tRNS")
        for content in (b"", b"?")
    ]
    files += [still[:33] + chunk(b"tRNS", bytes(6))[:-1] + b"?" + still[33:]]
    for kind in (b"acTL", b"fcTL", b"fdAT"):
        at = moving.index(kind) + 4
        files.append(moving[:at] + bytes([moving[at] ^ 1]) + moving[at + 1 :])  # against its checksum
    assert all(load_image(data).size == (12, 9) for data in files)


def test_short_segments_of_a_jpeg_and_blocks_of_a_gif_refuse_no_pixels():
    image = Image.new("RGB", (12, 9), "red")
    jpeg, gif = encode(image, "JPEG"), encode(image, "GIF")
    for marker, content in product((0xE0, 0xEE), (b"", b"JFIF", b"JFIF\0", b"JFXX\0", b"Adobe", b"Adobe\0d")):
        segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        assert load_image(jpeg[:2] + segment + jpeg[2:]).size == (12, 9), (marker, content)
    start = gif.index(b",", 13 + (3 << (gif[10] & 7) + 1))
    for control in (b"!\xf9\0", b"!\xf9\1\0\0"):
        assert load_image(gif[:start] + control + gif[start:]).size == (12, 9), control


def test_orientation_is_found_in_every_place_that_pillow_knows():
    image, packet = Image.new("RGB", (30, 20)), b'<x tiff:Orientation="6"/>'
    block = tiff([(0x0112, 3, 1, 6)])
    profile = b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())
    parts = [
        chunk(b"eXIf", block),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet),
        chunk(b"tEXt", b"Raw profile type exif\0" + profile),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
    ]
    plain = encode(image, "PNG")
    for part in parts:
        assert load_image(plain[:33] + part + plain[33:]).size == (20, 30)
        assert load_image(plain[:-12] + part + plain[-12:]).size == (20, 30)
    for data in (
        encode(image, "JPEG", xmp=packet),
        encode(image, "WEBP", xmp=packet),
        encode(image, "TIFF", tiffinfo={0x0112: 6}),
    ):
        assert load_image(data).size == (20, 30)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_every_frame_of_an_animation_is_turned_upright(kind):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("white", "red", "teal")]
    frames[2].paste("red", (0, 0, 9, 9))
    block = b"Exif\0\0" + tiff([(0x0112, 3, 1, 6)])
    for shown in (frames[:2], frames):  # nothing but blank frames, and one that is not
        assert load_image(encode(shown[0], kind, save_all=True, append_images=shown[1:], exif=block)).size == (20, 30)


def test_a_jpeg_without_its_last_bytes_is_read_and_half_a_jpeg_is_not():
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 130, 3), np.uint8))
    logo = (
        Image.open(ROOT / "runtime/logo_edge/samples/04-complex.png", formats=["PNG"])
        .convert("RGB")
        .crop((0, 0, 170, 120))
    )
    for image, options in product((noise, logo), ({}, {"progressive": True}, {"restart_marker_rows": 1})):
        whole = encode(image, "JPEG", quality=90, **options)
        for cut in (1, 2):
            for fast in (True, False):
                assert load_image(whole[:-cut], fast=fast).tobytes() == load_image(whole, fast=fast).tobytes()
        for end in (len(whole) - 300, len(whole) // 2, len(whole) - 60):
            with pytest.raises(ImageError, match="damaged or truncated"):
                load_image(whole[:end])


def test_the_variant_of_png_for_iphones_is_named():
    data = encode(Image.new("RGBA", (9, 9)), "PNG")
    with pytest.raises(ImageError, match=r"\(CgBI\).*pngcrush -revert"):
        load_image(data[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + data[8:])


def test_a_gif_with_padding_between_its_blocks_is_read():
    data = animation("GIF", 20)
    at = 13 + (3 << (data[10] & 7) + 1)
    assert load_image(data[:at] + b"\0" + data[at:]).tobytes() == load_image(data).tobytes()
    assert Image.open(io.BytesIO(data)).n_frames == 2
    second = data.rindex(b"\x2c\0\0\0\0\x14\0\x14\0")
    assert load_image(data[: second + 5]).getpixel((9, 9)) == (255, 255, 255)


def test_every_image_open_of_the_project_names_the_formats():
    calls = [
        (path, line)
        for room in ("runtime", "train", "compress", "benchmarks")
        for path in (ROOT / room).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "Image.open(" in line
    ]
    assert len(calls) >= 8
    assert [(str(path), line) for path, line in calls if "formats=" not in line] == []
