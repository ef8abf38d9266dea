"""The one preprocessing: aspect kept, background by rule, within 1.5 levels of a slow reference in floats."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from logo_edge import InputContract, preprocess
from logo_edge.preprocess import (
    CROP,
    DETAIL_PX,
    LIBRARY,
    central_square,
    composite,
    detail_planes,
    detail_size,
    letterboxed_size,
    pick_background,
    premultiply,
    preprocess_by_pillow,
)

preprocessing = import_module("logo_edge.preprocess")  # the package's name for it is the function
CONTRACT = InputContract(size_px=64)
WHITE, DARK = CONTRACT.light_background, CONTRACT.dark_background


def drawing(width: int, height: int, seed: int, *, alpha: bool) -> Image.Image:
    """A smooth random image, with soft-edged holes where `alpha`."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    if not alpha:
        return image.convert("RGB")
    levels = np.asarray(image.getchannel("A")).astype(int)
    image.putalpha(Image.fromarray(np.clip(levels * 3 - 250, 0, 255).astype(np.uint8)))
    return image


def ink(colour: tuple[int, int, int], alpha: int = 255, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """A transparent image with a filled square in its middle."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    width, height = size
    image.paste((*colour, alpha), (width // 4, height // 4, width - width // 4, height - height // 4))
    return image


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.9])
def test_premultiplied_colours_are_pillow_s_to_the_bit(share):
    random = np.random.default_rng(7)
    pixels = random.integers(0, 256, (300, 220, 4), dtype=np.uint8)  # hidden colours where it is clear, too
    solid = random.random((300, 220)) >= share
    pixels[:, :, 3][solid] = random.choice(np.array([0, 255], np.uint8), int(solid.sum()))
    expected = np.asarray(Image.fromarray(pixels).convert("RGBa"))
    assert np.array_equal(np.asarray(premultiply(pixels.copy())), expected)
    levels = np.stack(np.meshgrid(*2 * [np.arange(256, dtype=np.uint8)]), 2)  # every colour at every alpha
    every = np.dstack([levels[:, :, :1], levels[:, ::-1, :1], 255 - levels[:, :, :1], levels[:, :, 1:]])
    spread = np.concatenate([every, *5 * [np.zeros_like(every)]])  # few enough of them to be done one by one
    assert np.array_equal(np.asarray(premultiply(spread.copy())), np.asarray(Image.fromarray(spread).convert("RGBa")))


def test_an_opaque_image_is_rgb_and_what_a_caller_gave_stays_as_it_was():
    pixels = np.full((8, 8, 4), 255, np.uint8)
    assert premultiply(pixels.copy()).mode == "RGB"
    image = drawing(90, 60, 3, alpha=True)
    before = image.tobytes()
    preprocess(image, CONTRACT)
    assert image.tobytes() == before


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")


@needs_compiler
def test_where_there_is_a_compiler_the_package_has_its_preprocessing_in_c():
    assert LIBRARY is not None, "run `make setup` again: pip compiles runtime/c/preprocess.c"


def random_pixels(random: np.random.Generator) -> np.ndarray:
    """(H, W, 3 or 4) of any shape; noise, one colour or both; opaque, with holes, or of any alpha."""
    width, height = np.exp(random.uniform(0, np.log(700), 2)).astype(int).tolist()
    pixels = random.integers(0, 256, (height, width, int(random.choice([3, 4]))), np.uint8)
    if random.random() < 0.25:
        pixels[...] = random.integers(0, 256, (1, 1, pixels.shape[2]), np.uint8)
    for _ in range(int(random.integers(0, 6))):
        top, left = random.integers(0, height), random.integers(0, width)
        pixels[top : top + height // 2, left : left + width // 2] = random.integers(0, 256, pixels.shape[2], np.uint8)
    if pixels.shape[2] == 4 and random.random() < 0.5:
        pixels[:, :, 3] = random.choice(np.array([0, 255], np.uint8), (height, width)) if random.random() < 0.5 else 255
    return pixels


@needs_compiler
@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("size_px", [8, 32, 96, 128, 160])
def test_the_library_gives_pillow_s_pixels_to_the_bit(size_px, details):
    random, contract = np.random.default_rng(size_px), InputContract(size_px, details=details)
    for _ in range(60 - 30 * details):
        pixels = random_pixels(random)
        height, width = pixels.shape[:2]
        box = (
            None
            if random.random() < 0.7
            else (width - random.choice([0, 0.125, 0.5]), height - random.choice([0, 0.25, 0.5]))
        )
        before = pixels.copy()
        prepared = preprocess(pixels, contract, box)
        assert np.array_equal(pixels, before)
        assert np.array_equal(prepared, preprocess_by_pillow(before, contract, box)), (pixels.shape, box)


FAULTS = """
import resource
import numpy as np
from logo_edge import InputContract, preprocess
contract = InputContract(96, details=True)
def call():
    preprocess(np.zeros((512, 512, 3), np.uint8), contract)
for _ in range(5):
    call()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    call()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="counts the page faults of Linux")
def test_the_library_asks_the_system_for_no_memory_at_each_image():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20


@needs_compiler
@pytest.mark.parametrize("size", [(40_000, 3), (3, 40_000), (65_537, 2), (2, 65_537), (4000, 3000)])
def test_long_and_large_images_are_those_of_pillow_too(size):
    pixels = np.random.default_rng(1).integers(0, 256, (*size[::-1], 4), np.uint8)
    assert np.array_equal(preprocess(pixels, CONTRACT), preprocess_by_pillow(pixels.copy(), CONTRACT))


@needs_compiler
@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 0, 4), np.uint8),
    ],
    ids=lambda pixels: f"{pixels.dtype}-{pixels.shape}",
)
def test_what_is_no_picture_never_reaches_the_library(pixels):
    with pytest.raises(ValueError, match="expected uint8"):
        preprocess(pixels, CONTRACT)


@needs_compiler
@pytest.mark.parametrize("box", [(0, 8), (8.5, 8), (8, -1), (float("nan"), 8)])
def test_a_picture_beyond_its_image_never_reaches_the_library(box):
    with pytest.raises(ValueError, match="within 8 x 8"):
        preprocess(np.zeros((8, 8, 3), np.uint8), CONTRACT, box)


@pytest.mark.skipif(preprocessing.OLD_PILLOW, reason="it compares with Pillow 13")
@pytest.mark.parametrize("box", [None, (0, 0, 89.5, 898.25)])
@pytest.mark.parametrize("size", [(40, 128), (100, 128), (90, 100), (128, 900)])
def test_old_pillow_scales_tall_images_in_the_order_of_pillow_13(monkeypatch, size, box):
    pixels = np.random.default_rng(0).integers(0, 256, (900, 90, 4), np.uint8)
    image = Image.fromarray(pixels, "RGBX")
    expected = np.asarray(preprocessing.resize(image, size, box))
    monkeypatch.setattr(preprocessing, "OLD_PILLOW", True)
    assert np.array_equal(np.asarray(preprocessing.resize(image, size, box)), expected)


def test_an_array_need_not_be_contiguous():
    pixels = np.asarray(drawing(80, 50, 2, alpha=True))
    assert np.array_equal(preprocess(pixels[:, ::-1], CONTRACT), preprocess(pixels[:, ::-1].copy(), CONTRACT))


@pytest.mark.parametrize("copied", ["nothing", "what is of another platform"])
def test_without_the_library_pillow_gives_the_same(copied, tmp_path):
    import logo_edge

    package = Path(logo_edge.__file__).parent
    shutil.copytree(package, tmp_path / "logo_edge", ignore=shutil.ignore_patterns("_preprocess.so", "__pycache__"))
    if copied != "nothing":
        (tmp_path / "logo_edge" / "_preprocess.so").write_bytes(b"MZ")
    code = (
        "import sys; from logo_edge import Classifier; assert sys.modules['logo_edge.preprocess'].LIBRARY is None; "
        "sys.stdout.buffer.write(Classifier.load().read_pixels(sys.argv[1]).tobytes())"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for image in sorted((package / "samples").glob("*.png"))[:3]:
        pixels = subprocess.run(
            [sys.executable, "-c", code, image], env=environment, capture_output=True, check=True
        ).stdout
        assert pixels == logo_edge.Classifier.load().read_pixels(image).tobytes()


DETAILED = InputContract(64, details=True)
NEAR, FAR, RAMP, EDGE = range(4)


def edge_between(*, blur_px: float = 0) -> np.ndarray:
    """(120, 200, 3) uint8: a hard-edged square, drawn four times smaller, enlarged and blurred by so much."""
    image = Image.new("RGB", (50, 30), (250, 250, 250))
    image.paste((20, 60, 200), (15, 8, 35, 22))
    return np.asarray(image.resize((200, 120), Image.Resampling.NEAREST).filter(ImageFilter.GaussianBlur(blur_px)))


@pytest.mark.parametrize("across", [True, False])
def test_a_fade_fires_the_first_three_planes_all_over_and_no_edge(across):
    fade = np.broadcast_to(np.linspace(30, 230, 200).round().astype(np.uint8)[None, :, None], (120, 200, 3))
    planes = detail_planes(fade if across else fade.transpose(1, 0, 2))
    assert (planes[:, :, :EDGE] == 255).mean(axis=(0, 1)).min() > 0.95
    assert planes[:, :, EDGE].max() <= 2


def test_a_hard_edge_fires_the_edge_plane_along_it_and_nothing_else():
    planes = detail_planes(edge_between())
    assert not planes[:, :, :EDGE].any()
    assert planes[:, :, EDGE].max() == 255
    assert 0.02 < (planes[:, :, EDGE] > 0).mean() < 0.04


@pytest.mark.parametrize(("blur_px", "shares"), [(1, (0.01, 0.01, 0.02)), (3, (0.02, 0.01, 0.2))])
def test_an_edge_that_was_enlarged_and_blurred_hardly_fades(blur_px, shares):
    planes = detail_planes(edge_between(blur_px=blur_px))
    assert ((planes[:, :, :EDGE] > 0).mean(axis=(0, 1)) < shares).all()
    assert planes[:, :, EDGE].max() < 200


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_planes_are_0_in_one_colour_and_outside_of_the_picture(mode):
    assert not preprocess(Image.new(mode, (300, 200), (200, 30, 60, 255)[: len(mode)]), DETAILED)[:, :, 3:].any()
    pixels = preprocess(Image.effect_noise((320, 80), 90).convert(mode), DETAILED)  # 64 x 16 of 64 x 64
    assert not pixels[:24, :, 3:].any()
    assert not pixels[40:, :, 3:].any()
    assert (pixels[24:40, :, 3 + EDGE] > 0).all()


def test_without_details_there_are_three_channels_and_a_small_picture_gives_the_same_colours_with_them():
    image = drawing(200, 90, 4, alpha=False)
    assert (CONTRACT.channels, DETAILED.channels) == (3, 7)
    assert (CONTRACT.least_px, DETAILED.least_px, InputContract(320, details=True).least_px) == (64, DETAIL_PX, 320)
    assert np.array_equal(preprocess(image, DETAILED)[:, :, :3], preprocess(image, CONTRACT))


def test_planes_are_computed_at_the_picture_s_own_size_but_at_most_256_px():
    cases = {
        (256, 100): (256, 100),
        (257, 100): (256, 100),
        (1024, 512): (256, 128),
        (3, 9000): (1, 256),
        (1, 1): (1, 1),
        (20.5, 7.125): (20, 7),
        (256.5, 0.25): (256, 1),
    }
    assert {size: detail_size(size) for size in cases} == cases


def detailed_pixels(random: np.random.Generator, width: int, height: int, kind: str) -> np.ndarray:
    """(height, width, 3 or 4): fades with flat parts in them; of bands, or with a little noise."""
    channels = int(random.choice([3, 4]))
    small = random.integers(0, 256, (height // 70 + 1, width // 50 + 1, channels), np.uint8)
    pixels = np.dstack(
        [
            np.asarray(Image.fromarray(small[:, :, i]).resize((width, height), Image.Resampling.BICUBIC))
            for i in range(channels)
        ]
    )
    if kind == "bands":
        pixels = pixels // 64 * 64
    if kind == "noise":
        pixels = np.clip(pixels.astype(int) + random.integers(-1, 2, pixels.shape), 0, 255).astype(np.uint8)
    pixels[height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = 130
    if channels == 4 and random.random() < 0.5:
        pixels[:, :, 3] = 255
    return pixels


DETAIL_SIZES = [
    (1, 1),
    (1, 300),
    (300, 1),
    (2, 700),
    (700, 2),
    (15, 15),
    (16, 17),
    (33, 48),
    (100, 60),
    (255, 256),
    (256, 256),
    (256, 9),
    (257, 257),
    (300, 200),
    (120, 300),
    (512, 512),
    (640, 333),
    (50, 900),
]


@needs_compiler
@pytest.mark.parametrize("size", DETAIL_SIZES)
def test_the_library_gives_the_planes_of_python_to_the_bit(size):
    random, fired = np.random.default_rng(size), np.zeros(4)
    for size_px in (8, 32, 96, 128, 300):
        for kind in ("fade", "bands", "noise"):
            pixels, contract = detailed_pixels(random, *size, kind), InputContract(size_px, details=True)
            less = random.choice([0, 0.125, 0.5], 2)
            for box in (None, (size[0] - less[0], size[1] - less[1])):  # of a JPEG decoded at a lower scale
                before = pixels.copy()
                planes = preprocess(pixels, contract, box)
                assert np.array_equal(pixels, before)
                assert np.array_equal(planes, preprocess_by_pillow(before, contract, box)), (pixels.shape, size_px, box)
                fired += planes[:, :, 3:].max(axis=(0, 1)) > 0
    assert min(size) < 50 or fired.min() > 5


@needs_compiler
@pytest.mark.parametrize("change", [0, 1])
def test_what_changes_in_one_pixel_reaches_all_planes_that_look_at_it(change):
    """Blocks without changes are skipped: the pixel moves over the borders of blocks."""
    for column in range(40):
        pixels = np.full((30, 40, 3), 100, np.uint8)
        pixels[min(column, 29), column] += 8 * change
        prepared = preprocess(pixels, InputContract(40, details=True))
        assert np.array_equal(prepared, preprocess_by_pillow(pixels.copy(), InputContract(40, details=True)))
        assert prepared[:, :, 3:].any() == change


def triangle_weights(length: int, scaled: int) -> np.ndarray:
    """(scaled, length) float64: the antialiased triangle filter, its support grown by the reduction."""
    scale = length / scaled
    support = max(scale, 1.0)
    centres = (np.arange(scaled)[:, None] + 0.5) * scale
    weights = np.maximum(0.0, 1 - np.abs(np.arange(length)[None] + 0.5 - centres) / support)
    return weights / weights.sum(axis=1, keepdims=True)


def reference(image: Image.Image, contract: InputContract, background: tuple[int, int, int] | None) -> np.ndarray:
    """(S, S, 3) float64 of the same contract, in floats throughout; the background is given, or the border's."""
    size, (width, height) = contract.size_px, image.size
    scaled = (
        (size, max(1, round(height * size / width)))
        if width >= height
        else (max(1, round(width * size / height)), size)
    )
    pixels = np.asarray(image.convert("RGBA")).astype(np.float64) / 255  # (H, W, 4)
    pixels[:, :, :3] *= pixels[:, :, 3:]
    columns, rows = triangle_weights(width, scaled[0]), triangle_weights(height, scaled[1])
    small = np.einsum("yh,hxc->yxc", rows, np.einsum("xw,hwc->hxc", columns, pixels))
    if background is None:
        edge = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])[:, :3]
        background = tuple(np.median(edge, axis=0) * 255)
    square = np.tile(np.array(background, np.float64), (size, size, 1))
    left, top = (size - scaled[0]) // 2, (size - scaled[1]) // 2
    inside = small[:, :, :3] * 255 + (1 - small[:, :, 3:]) * np.array(background)
    square[top : top + scaled[1], left : left + scaled[0]] = inside
    return square


SIZES = [(64, 64), (200, 200), (31, 31), (150, 60), (60, 150), (300, 17), (7, 5), (64, 63), (1, 9)]


@pytest.mark.parametrize("size", SIZES)
def test_an_opaque_image_agrees_with_a_slow_reference_in_floats(size):
    for seed in range(3):
        image = drawing(*size, seed, alpha=False)
        assert np.abs(preprocess(image, CONTRACT) - reference(image, CONTRACT, None)).max() <= 1.5


@pytest.mark.parametrize("size", SIZES)
def test_a_transparent_image_agrees_with_a_slow_reference_in_floats(size):
    for seed in range(3):
        image = drawing(*size, seed, alpha=True)
        for light, dark in ((WHITE, DARK), ((250, 200, 10), (10, 60, 90))):
            contract = InputContract(64, light, dark)
            prepared = preprocess(image, contract)
            off = min((np.abs(prepared - reference(image, contract, ground)) for ground in (light, dark)), key=np.max)
            assert off.max() <= 2.5  # the bytes of colour and of alpha are both rounded on each of the two passes
            assert (off > 1.5).mean() <= 0.005


def test_the_composition_agrees_with_straight_alpha_in_floats():
    for seed in range(5):
        image = drawing(90, 70, seed, alpha=True)
        composited, background = composite(np.asarray(image.convert("RGBa")), CONTRACT)
        straight = np.asarray(image).astype(np.float64)
        alpha = straight[:, :, 3:] / 255
        assert alpha.min() < 0.1 < 0.9 < alpha.max()
        assert np.abs(composited - (straight[:, :, :3] * alpha + (1 - alpha) * np.array(background))).max() <= 1.5


@pytest.mark.parametrize("size_px", [8, 96, 128])
@pytest.mark.parametrize("size", [(128, 128), (1, 1), (20000, 10), (10, 20000), (3, 2)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_every_image_becomes_a_square_of_bytes(size_px, size, mode):
    pixels = preprocess(Image.new(mode, size, (200, 30, 60, 128)[: len(mode)]), InputContract(size_px))
    assert (pixels.shape, pixels.dtype) == ((size_px, size_px, 3), np.uint8)
    assert tuple(pixels[(size_px - 1) // 2, (size_px - 1) // 2]) == (
        (200, 30, 60) if mode == "RGB" else (227, 142, 157)
    )


@pytest.mark.parametrize("size", [(200, 100), (100, 200), (90, 30), (30, 90), (641, 480), (20000, 10), (1, 3)])
def test_letterboxing_keeps_the_aspect_and_centres_the_ink(size):
    pixels = preprocess(Image.new("RGBA", size, (0, 0, 0, 254)), CONTRACT)
    rows, columns = np.nonzero((pixels < 128).all(axis=2))
    box = (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    assert max(box) == 64
    assert min(box) == pytest.approx(max(1, 64 * min(size) / max(size)), abs=0.5)
    assert abs((rows.min() + rows.max()) - 63) <= 1
    assert abs((columns.min() + columns.max()) - 63) <= 1


CROPPED = InputContract(size_px=64, fit=CROP)


@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("size", [(200, 100), (101, 200), (90, 90), (30, 91), (641, 480), (20000, 10), (1, 3)])
def test_the_fit_crop_reads_the_central_square_and_nothing_else(size, details):
    for alpha in (False, True):
        image, side = drawing(*size, 3, alpha=alpha), min(size)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        expected = preprocess(image.crop((left, top, left + side, top + side)), InputContract(64, details=details))
        contract = InputContract(64, details=details, fit=CROP)
        assert np.array_equal(preprocess(image, contract), expected)
        assert np.array_equal(preprocess(np.array(image), contract), expected)
        assert np.array_equal(preprocess_by_pillow(image, contract), expected)
        assert np.array_equal(preprocess_by_pillow(np.array(image), contract), expected)


def test_the_default_shows_the_whole_image():
    edges = Image.new("RGB", (300, 100), "white")
    edges.paste("red", (0, 0, 20, 100))
    assert InputContract().fit == "letterbox"
    assert (preprocess(edges, CONTRACT)[:, :, 1] < 50).any()
    assert (preprocess(edges, CROPPED) == 255).all()


@pytest.mark.parametrize("size", [(334, 250), (251, 251), (250, 301), (9, 300), (120, 119)])
@pytest.mark.parametrize("less", [(0.5, 0), (0, 0.875), (0.125, 0.5), (0.875, 0.125)])
def test_the_fit_crop_of_a_reduced_jpeg_leaves_out_what_is_not_drawn(size, less):
    pixels = np.array(drawing(*size, 5, alpha=False))
    box = (size[0] - less[0], size[1] - less[1])
    square, covered = central_square(pixels, box)
    assert covered == (min(box), min(box))
    assert square.shape[0] == square.shape[1] == np.ceil(min(box))
    for details in (False, True):
        contract = InputContract(48, details=details, fit=CROP)
        assert np.array_equal(preprocess(pixels, contract, box), preprocess_by_pillow(pixels, contract, box))


def test_the_longer_side_fills_the_square_and_no_side_vanishes():
    cases = {
        (10, 10): (64, 64),
        (20, 10): (64, 32),
        (10, 20): (32, 64),
        (9999, 1): (64, 1),
        (1, 9999): (1, 64),
        (1, 1): (64, 64),
        (3, 2): (64, 43),
    }
    assert {size: letterboxed_size(size, 64) for size in cases} == cases


@pytest.mark.parametrize(("grey", "background"), [(0, WHITE), (224, WHITE), (226, DARK), (255, DARK)])
@pytest.mark.parametrize("alpha", [255, 120])
def test_nearly_white_ink_is_laid_on_the_dark_background(grey, background, alpha):
    pixels = preprocess(ink((grey, grey, grey), alpha), CONTRACT)
    assert tuple(pixels[0, 0]) == background


@pytest.mark.parametrize("threshold", [200.0, 225.0, 255.0])
def test_the_threshold_itself_belongs_to_the_light_background(threshold):
    contract = InputContract(64, dark_above_luminance=threshold)
    grey = np.full((64, 64, 4), (threshold, threshold, threshold, 255), np.uint8)
    assert pick_background(grey, contract) == WHITE
    assert pick_background(grey, InputContract(64, dark_above_luminance=threshold - 0.01)) == DARK


def test_the_luminance_weighs_green_most_and_blue_least():
    premultiplied = {
        name: np.full((2, 2, 4), (*colour, 255), np.uint8)
        for name, colour in {"yellow": (255, 255, 0), "cyan": (0, 255, 255), "magenta": (255, 0, 255)}.items()
    }
    picked = {name: pick_background(pixels, CONTRACT) for name, pixels in premultiplied.items()}
    assert picked == {"yellow": DARK, "cyan": WHITE, "magenta": WHITE}  # luminance 226, 179 and 105


def test_the_ink_is_weighed_by_its_alpha_and_the_clear_part_not_at_all():
    image = ink((255, 255, 255), 20)  # faint white ...
    image.paste((0, 0, 0, 255), (18, 18, 22, 22))  # ... around a little solid black
    assert tuple(preprocess(image, CONTRACT)[0, 0]) == WHITE
    assert tuple(preprocess(ink((255, 255, 255), 20), CONTRACT)[0, 0]) == DARK


def test_a_fully_transparent_image_is_the_light_background_whatever_its_hidden_colours():
    for hidden in ((0, 0, 0, 0), (255, 255, 255, 0), (255, 0, 0, 0)):
        assert (preprocess(Image.new("RGBA", (30, 12), hidden), CONTRACT) == WHITE).all()


def test_the_colours_under_clear_pixels_do_not_bleed_into_the_ink():
    images = [Image.new("RGBA", (90, 90), (*hidden, 0)) for hidden in ((0, 255, 0), (255, 0, 255))]
    for image in images:
        image.paste((30, 40, 50, 255), (20, 20, 71, 71))
    first, second = (preprocess(image, CONTRACT) for image in images)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("colour", [(255, 255, 255), (12, 80, 200), (0, 0, 0)])
def test_an_opaque_image_is_letterboxed_in_the_colour_of_its_border(mode, colour):
    image = Image.new(mode, (120, 40), colour)
    image.paste((250, 120, 0), (40, 10, 80, 30))
    pixels = preprocess(image, CONTRACT)
    assert (pixels[:20] == colour).all()
    assert (pixels[-20:] == colour).all()
    assert tuple(pixels[32, 32]) == (250, 120, 0)


def test_a_mark_that_touches_the_border_does_not_set_its_colour():
    image = Image.new("RGB", (120, 40), (240, 240, 230))
    image.paste((200, 0, 0), (30, 0, 60, 40))
    assert (preprocess(image, CONTRACT)[:20] == (240, 240, 230)).all()


def test_an_opaque_rgba_image_gives_what_its_rgb_gives():
    for seed, size in enumerate(SIZES):
        image = drawing(*size, seed, alpha=False)
        assert np.array_equal(preprocess(image.convert("RGBA"), CONTRACT), preprocess(image, CONTRACT))


def test_the_input_image_is_not_changed():
    for alpha in (True, False):
        image = drawing(64, 64, 1, alpha=alpha)
        before = image.tobytes()
        preprocess(image, CONTRACT)
        assert image.tobytes() == before
