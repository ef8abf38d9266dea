"""Records the animated picture of the demo page that README shows: python tests/system/web/record_demo.py

It builds the demo with the default bundle, uses it in Chromium as a person would, and writes docs/demo.webp. Every
decision and time in the picture is of this run. Its EXIF description says of which model, and where it was recorded.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import sklearn.datasets
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[2]))  # as tests have it
from playwright.sync_api import Locator, Page
from system.browser.chromium import open_browser
from system.web.serving import WEB, Server, build_demo, copy_package

from logo_edge import Classifier
from logo_edge.files import write_file
from logo_edge.machine import describe_machine

ROOT = WEB.parents[1]
PICTURE = ROOT / "docs" / "demo.webp"
DESCRIPTION = 0x010E  # EXIF's ImageDescription
SIZE_PX = {"width": 960, "height": 740}
SAMPLES = WEB.parent / "logo_edge" / "samples"
PHOTOGRAPH = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"  # by danielbuechele, CC BY 2.0
SHOWN = (SAMPLES / "02-text.png", PHOTOGRAPH, SAMPLES / "07-badge.png")  # a label, not a logo, unsure
LONGEST_MS = 1500  # of a wait, which is long on a busy machine
ARROW = [(0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12)]


class Recorder:
    """Frames of a page, each with the milliseconds for which it is shown."""

    def __init__(self, page: Page):
        self.page, self.frames, self.times_ms = page, [], []

    def frame(self, shown_ms: float, at: Locator | None = None) -> None:
        """Adds the page as it is; with the mouse over `at`."""
        box = at and at.bounding_box()
        image = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        if box:
            left, top = box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6
            arrow = [(left + x, top + y) for x, y in ARROW]
            ImageDraw.Draw(image).polygon(arrow, fill="black", outline="white")
        self.frames.append(image)
        self.times_ms.append(round(shown_ms))

    def follow(self, done: str, at: Locator) -> None:
        """Adds frames in real time, each of LONGEST_MS at most, until there is an element `done`."""
        before = time.perf_counter()
        while not self.page.locator(done).count():
            self.frame(0, at)
            now = time.perf_counter()
            self.times_ms[-1], before = min(round(1000 * (now - before)), LONGEST_MS), now

    def encoded(self, description: dict) -> bytes:
        exif = Image.Exif()
        exif[DESCRIPTION] = json.dumps(description)
        file, (first, *others) = io.BytesIO(), self.frames
        quality = {"quality": 82, "method": 6, "loop": 0}
        first.save(file, "WEBP", save_all=True, append_images=others, duration=self.times_ms, exif=exif, **quality)
        return file.getvalue()


def use(recorder: Recorder) -> list[str]:
    """Adds images, asks why, and lets the page always label; gives the times that the cards show."""
    page = recorder.page
    files = page.locator("#files")
    page.get_by_text("Ready.", exact=True).wait_for()
    recorder.frame(1500)
    recorder.frame(700, page.locator(".drop-title"))
    files.set_input_files(SHOWN)
    page.get_by_text(f"{len(SHOWN)} images:").wait_for()
    page.locator("#options").evaluate("(options) => scrollTo(0, options.offsetTop - 12)")
    recorder.frame(3500)
    why = page.locator(".card button").nth(len(SHOWN) - 1)
    recorder.frame(600, why)
    why.click()
    recorder.follow("canvas:not([hidden])", why)
    recorder.frame(3500, why)
    always = page.get_by_label("always")
    recorder.frame(600, always)
    always.click()
    recorder.frame(3000, always)
    return page.locator(".times").all_inner_texts()


def main() -> None:
    with tempfile.TemporaryDirectory() as name, open_browser() as browser:
        build_demo(copy_package(Path(name)), Path(name) / "demo")
        server = Server(Path(name) / "demo")
        recorder = Recorder(browser.new_page(viewport=SIZE_PX, color_scheme="light"))
        recorder.page.goto(server.url)
        shown = use(recorder)
        server.stop()
        machine = describe_machine()
        description = {
            "model_sha256": Classifier.load().model_sha256,
            "times": dict(zip([path.name for path in SHOWN], shown, strict=True)),
            "browser": f"Chromium {browser.version}",
            "cpu": machine["cpu"],
            "load": os.getloadavg()[0],
            "date": time.strftime("%Y-%m-%d"),
        }
        write_file(PICTURE, recorder.encoded(description))
    print(f"{PICTURE}: {PICTURE.stat().st_size / 1000:.0f} kB, {len(recorder.frames)} frames, {description}")


if __name__ == "__main__":
    main()
