"""How long the page of `logo-edge data review` takes for a label, in Chromium, with 50,000 photographs.

    python tests/system/browser/label_latency.py --labels 500

A script presses the keys, so the figures are those of the page and not of a person: `painted`, from the key to the
frame that shows the next image; `saved`, from the key's request to the answer, which follows once the decision is on
the disk; `picture`, of each picture's request, of which most precede its page. All photographs are one JPEG of 12
megapixels.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))  # as tests have it
from serving import running
from system.browser.chromium import open_browser

from logo_edge.files import json_text
from logo_edge.machine import describe_machine
from logo_edge_train.data.manifest import FILES, LogoRow, write_manifest
from logo_edge_train.review.server import create_app
from logo_edge_train.review.session import Session

IMAGES = 50_000
CLASSES = ("chair", "lamp", "shelf", "table")
WATCH = """() => {
  performance.setResourceTimingBufferSize(100000);
  window.painted = [];
  addEventListener("keydown", () => {
    const start = performance.now();
    requestAnimationFrame(() => setTimeout(() => painted.push(performance.now() - start)));
  }, true);
}"""
TIMES = """() => {
  const requests = performance.getEntriesByType("resource");
  const durations = (part) => requests.filter(e => e.name.includes(part)).map(e => e.duration);
  return { painted, saved: durations("/decisions"), picture: durations("/pictures/") };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=500, help="decisions, one after the other")
    count = parser.parse_args().labels
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        times = press_keys(write_photographs(Path(name)), Path(name) / "out" / "corrections.csv", count)
    figures = {
        f"{step}_ms": {"count": len(values), **dict(zip(("p50", "p90", "p99"), percentiles(values), strict=True))}
        for step, values in times.items()
    }
    print(json_text({"machine": describe_machine(), "load_before": load_before, "images": IMAGES, **figures}), end="")


def percentiles(values: list[float]) -> list[float]:
    return [round(value, 1) for value in np.percentile(values, [50, 90, 99]).tolist()]


def write_photographs(folder: Path) -> Path:
    """The manifest of IMAGES names of one photograph in the folder."""
    grain = np.random.default_rng(0).integers(0, 255, (375, 500, 3), np.uint8)
    Image.fromarray(grain).resize((4000, 3000)).save(folder / "0.jpg", quality=90)
    rows = [LogoRow(FILES, "", f"{index}.jpg", str(index), CLASSES[index % 4]) for index in range(IMAGES)]
    for row in rows[1:]:
        os.link(folder / "0.jpg", folder / row.icon)
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


def press_keys(manifest: Path, corrections: Path, count: int) -> dict[str, list[float]]:
    """{step: milliseconds of each}, of `count` labels. Each key waits for the frame after the one before."""
    session = Session(manifest, corrections)
    with running(create_app(session, "token")) as client, open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{client.base_url}/token/", wait_until="domcontentloaded")
        page.evaluate(WATCH)
        for pressed in range(1, count + 1):
            page.keyboard.press(CLASSES[pressed % 4][0])
            page.wait_for_function("count => painted.length === count", arg=pressed)
        page.wait_for_function("() => !sending && !unsaved.size")
        if len(session.decisions()) != count:
            raise SystemExit(f"{len(session.decisions())} decisions are saved; expected {count}")
        return page.evaluate(TIMES)


if __name__ == "__main__":
    main()
