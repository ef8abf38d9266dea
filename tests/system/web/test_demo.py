"""The demo page in Chromium, as a person uses it: by mouse, by keyboard, by screen reader, and without a network."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from system.browser.page import find_barriers
from system.web.record_demo import DESCRIPTION, PICTURE, SHOWN
from system.web.serving import Server

from logo_edge import Classifier
from logo_edge.explain import STEPS, occlusion
from logo_edge.results import WITHHELD

ROOT = Path(__file__).parents[3]
SAMPLES = sorted((ROOT / "runtime" / "logo_edge" / "samples").glob("*.png"))
SECOND = 1000  # Playwright counts in milliseconds
LOADING = 60 * SECOND
DROP = """(text) => {
  const carried = new DataTransfer();
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  carried.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
  const options = { bubbles: true, cancelable: true, dataTransfer: carried };
  document.querySelector("header").dispatchEvent(new DragEvent("drop", options));
}"""
PASTE = DROP.replace("dropped", "pasted").replace(
    'new DragEvent("drop", options)', 'new ClipboardEvent("paste", { ...options, clipboardData: carried })'
)


@pytest.fixture
def visit(browser, server):
    """A factory of the loaded page, in its own context; at the end there may be no errors."""
    contexts, complaints = [], []

    def open_page(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(f"{server.url}/demo/")
        expect(page.locator("#status")).to_have_text("Ready.", timeout=LOADING)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def summary(mode="balanced"):
    """The page's sentence on the samples, from Python's decisions."""
    labelled = sum(result.label is not None for result in Classifier.load(mode=mode).classify_many(SAMPLES))
    return f"8 images: {labelled} labelled" + (f", {8 - labelled} without a label." if labelled < 8 else ".")


def prediction_set(result, coverage):
    labels = Classifier.load().prediction_set(result, coverage)
    return f"{coverage:.0%} set {' '.join(labels)}"


def decision_of(result):
    return result.label or WITHHELD[result.reason].capitalize()


def show_samples(page):
    page.get_by_role("button", name="Try the samples").click()
    expect(page.locator("#status")).to_have_text(summary(), timeout=LOADING)


def test_the_samples_are_labelled_as_in_python(visit):
    page = visit()
    show_samples(page)
    cards = page.locator(".card")
    assert cards.count() == len(SAMPLES) == 8
    results = list(Classifier.load().classify_many(SAMPLES))
    for index, result in enumerate(results):
        card = cards.nth(index)
        expect(card.get_by_role("heading")).to_have_text(SAMPLES[index].name)
        expect(card.locator(".label")).to_have_text(decision_of(result))
        expect(card.locator(".reason")).to_contain_text(f"{result.confidence:.1%}")
        expect(card.locator(".gauge .share")).to_have_attribute("width", f"{result.confidence:.1%}")
        expect(card.locator(".bars li")).to_have_count(4)
        expect(card.locator(".bars .best")).to_contain_text(result.best_guess)
        if result.label is None:
            expect(card.locator(".reason")).to_contain_text(f"Best guess {result.best_guess}")
        expect(card.locator(".times")).to_have_text(re.compile(r"read [1-9][\d.]*, network [1-9][\d.]* ms"))
    assert {decision_of(result) for result in results} >= {"Unsure", "Not a logo"}
    expect(cards.nth(6).locator(".set")).to_have_text(prediction_set(results[6], 0.95))
    assert cards.nth(7).locator(".picture").evaluate("(node) => node.style.background") == "rgb(60, 60, 60)"


def test_modes_and_coverage_change_what_is_shown_at_once(visit):
    page = visit()
    show_samples(page)
    page.get_by_label("always").check()
    expect(page.locator("#status")).to_have_text("8 images: 8 labelled.")
    badge = Classifier.load().classify(SAMPLES[6])
    expect(page.locator(".card").nth(6).locator(".label")).to_have_text(badge.best_guess)
    page.get_by_label("when very sure").check()
    assert "without a label" in summary("strict")
    expect(page.locator("#status")).to_have_text(summary("strict"))
    page.get_by_label("Prediction set at").select_option("99%")
    expect(page.locator(".card").nth(6).locator(".set")).to_have_text(prediction_set(badge, 0.99))


def test_it_can_be_used_by_keyboard_alone(visit):
    page = visit()
    stops = []
    for _ in range(4):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.value"))
    assert stops == ["files", "balanced", "coverage", "samples"]
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text(summary(), timeout=LOADING)
    for _ in range(2):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#status")).to_have_text("8 images: 8 labelled.")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Space")
    chooser.value.set_files(SAMPLES[1])
    expect(page.locator("#status")).to_have_text(
        f"02-text.png: text. {Classifier.load().classify(SAMPLES[1]).confidence:.1%} sure.", timeout=LOADING
    )
    expect(page.locator(".card").first.get_by_role("heading")).to_have_text("02-text.png")
    page.locator("#clear").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "files"


@pytest.mark.parametrize("focus", ["#files", "input[value=balanced]", "#coverage", "#samples"])
def test_the_focus_can_be_seen(visit, focus):
    page = visit()
    page.keyboard.press("Tab")  # so that the browser knows of a keyboard
    page.locator(focus).focus()
    outline = page.locator(focus).evaluate(
        "(node) => [node, node.closest('label')].filter(Boolean).map((each) => getComputedStyle(each).outlineWidth)"
    )
    assert "3px" in outline


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_axe_finds_nothing_amiss_and_nothing_overflows(visit, scheme, width):
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    assert find_barriers(page) == []
    show_samples(page)
    page.set_input_files("#files", {"name": "bad.png", "mimeType": "image/png", "buffer": b"no image"})
    expect(page.locator(".failed")).to_have_count(1)
    page.get_by_role("button", name="Why simple? 07-badge.png").click()
    expect(page.locator("canvas:visible")).to_have_count(1, timeout=LOADING)
    assert find_barriers(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_file_that_is_no_image_is_told_and_the_others_are_classified(visit):
    page = visit()
    files = [
        {"name": "<img src=x>.png", "mimeType": "image/png", "buffer": b"no image"},
        {"name": "mark.png", "mimeType": "image/png", "buffer": SAMPLES[0].read_bytes()},
    ]
    page.set_input_files("#files", files)
    expect(page.locator("#status")).to_have_text("2 images: 1 labelled, 1 not read.", timeout=LOADING)
    expect(page.locator(".failed .file")).to_have_text("<img src=x>.png")
    expect(page.locator(".failed .reason")).to_contain_text("not an image that this browser can read")
    expect(page.locator(".card").nth(1).locator(".label")).to_have_text("simple")


def test_an_image_can_be_dropped_or_pasted_anywhere_and_svg_is_drawn(visit):
    page = visit()
    page.evaluate(DROP, base64.b64encode(SAMPLES[2].read_bytes()).decode())
    expect(page.locator("#status")).to_contain_text("dropped.png: gradient", timeout=LOADING)
    page.evaluate(PASTE, base64.b64encode(SAMPLES[1].read_bytes()).decode())
    expect(page.locator("#status")).to_contain_text("pasted.png: text", timeout=LOADING)
    page.set_input_files("#files", SAMPLES[0].with_suffix(".svg"))
    expect(page.locator("#status")).to_contain_text("01-simple.svg: simple", timeout=LOADING)


def test_why_shows_where_the_evidence_is_in_colours_and_in_words(visit):
    """Of the icon beside a word, as Python's heat map has it."""
    page = visit()
    page.set_input_files("#files", SAMPLES[4])
    card = page.locator(".card")
    button = card.get_by_role("button", name="Why text? 05-icon-and-text.png")
    button.click()
    expect(card.locator("canvas")).to_be_visible(timeout=LOADING)
    expect(card.locator("img")).to_be_hidden()
    expect(button).to_have_attribute("aria-pressed", "true")
    classifier = Classifier.load()
    heat = occlusion(classifier, classifier.read_pixels(SAMPLES[4]), "text")
    row, column = (3 * at // STEPS for at in np.unravel_index(heat.argmax(), heat.shape))
    place = [["upper left", "top", "upper right"], ["left", "middle", "right"], ["lower left", "bottom", "lower right"]]
    expect(card.locator(".evidence")).to_contain_text(f"most of all at the {place[row][column]};")
    expect(page.locator("#status")).to_contain_text("05-icon-and-text.png: Red speaks for text")
    red = "(canvas) => canvas.getContext('2d').getImageData(%d, %d, 1, 1).data.slice(0, 3).join()"
    size_px = card.locator("canvas").evaluate("(canvas) => canvas.width")
    at_px = [int((at + 0.5) * size_px / STEPS) for at in np.unravel_index(heat.argmax(), heat.shape)[::-1]]
    strongest = [int(value) for value in card.locator("canvas").evaluate(red % tuple(at_px)).split(",")]
    assert strongest[0] > strongest[2] + 60
    button.press("Enter")
    expect(card.locator("canvas")).to_be_hidden()
    expect(card.locator("img")).to_be_visible()


def test_results_are_saved_as_json(visit):
    page = visit()
    show_samples(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    rows = json.loads(Path(download.value.path()).read_text())
    assert [row["name"] for row in rows] == [path.name for path in SAMPLES]
    results = list(Classifier.load().classify_many(SAMPLES))
    assert [(row["label"], row["bestGuess"]) for row in rows] == [(r.label, r.best_guess) for r in results]


def test_it_works_without_a_network_once_it_has_been_loaded_and_asks_no_other_server(browser, site):
    server = Server(site)
    context = browser.new_context()
    page, asked = context.new_page(), []
    context.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/demo/")
    expect(page.locator("#offline")).to_have_text("Works offline from now on", timeout=LOADING)
    server.stop()
    page.reload()
    expect(page.locator("#status")).to_have_text("Ready.", timeout=LOADING)
    show_samples(page)
    assert len(asked) > 40
    assert [url for url in asked if not url.startswith((server.url, "blob:"))] == []
    context.close()


def test_a_damaged_bundle_is_told(browser, site, server):
    page = browser.new_page()
    page.route("**/bundle/model.onnx", lambda route: route.fulfill(body=b"another model"))
    page.goto(f"{server.url}/demo/")
    expect(page.locator("#status")).to_contain_text("It does not work here: model.onnx: not the file that was packed")
    page.close()


def test_readme_shows_a_small_recording_of_the_bundle_that_ships():
    """Else: python tests/system/web/record_demo.py."""
    assert PICTURE.relative_to(ROOT).as_posix() in (ROOT / "README.md").read_text(encoding="utf-8")
    assert PICTURE.stat().st_size < 1_000_000
    with Image.open(PICTURE) as picture:
        description = json.loads(picture.getexif()[DESCRIPTION])
        assert picture.n_frames >= 7
    classifier = Classifier.load()
    assert description["model_sha256"] == classifier.model_sha256
    assert list(description["times"]) == [path.name for path in SHOWN]
    reasons = [classifier.classify(path).reason for path in SHOWN]
    assert reasons == [None, "not_a_logo", "low_confidence"], "a label, and each plain refusal"
