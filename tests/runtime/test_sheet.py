"""`classify --out FILE.html`: a page of pictures with decisions, harmless whatever the files are called."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path

import pytest
from command_line import SHELL, classify, run_command
from pictures import marked
from PIL import Image
from system.browser.page import CHROMIUM_RUNS, SCREENS, Page, find_barriers

from logo_edge.bundle.calibration import Conformal
from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.tables import sheet

SAMPLES = Path(sheet.__file__).parents[1] / "samples"
HOSTILE = (
    '"><script>alert(1)</script>',
    "'onmouseover='alert(1)",
    "</title></style>",
    "<!--",
    "{path} $title %s &amp; &lt;",
    "line\nbreak\u202egnp",
)


@pytest.fixture
def bundle(fake_bundle) -> Path:
    return fake_bundle(conformal=(Conformal(0.95, 0.2, None),))


def write_sheet(bundle: Path, *arguments: str | Path, out: Path, status: int = 0) -> str:
    result = classify(bundle, *arguments, "--out", out)
    assert result.exit_code == status, result.output
    return out.read_text(encoding="utf-8")


def texts_of(page: str, kind: str) -> list[str]:
    return re.findall(rf'<[a-z0-9]+ class="{kind}"[^>]*>(.*?)</', page)


def test_the_samples_have_their_pictures_and_plain_decisions(tmp_path):
    page = write_sheet(DEFAULT_BUNDLE, *sorted(SAMPLES.glob("*.png")), out=tmp_path / "sheet.html")
    assert texts_of(page, "label") == [
        "simple",
        "text",
        "gradient",
        "complex",
        "text",
        "Not a logo",
        "Unsure",
        "simple",
    ]
    assert texts_of(page, "file") == [path.name for path in sorted(SAMPLES.glob("*.png"))]
    reasons = texts_of(page, "reason")
    assert reasons[0] == "99.1% sure"
    assert re.fullmatch(r"Unlike the images that the network knows\. Best guess gradient, \d\d\.\d% sure", reasons[5])
    assert re.fullmatch(r"Best guess simple, \d\d\.\d% sure; a label needs \d\d\.\d%", reasons[6])
    assert page.count("95% set") == 8
    assert page.count('<span class="value">') == 8 * 4
    assert "6 labelled, 1 unsure, 1 not a logo or blank." in page
    pictures = [Image.open(io.BytesIO(base64.b64decode(uri))) for uri in re.findall(r"webp;base64,([^\"]+)", page)]
    assert [picture.size for picture in pictures] == [(sheet.PICTURE_PX, sheet.PICTURE_PX)] * 8
    red, green, _ = pictures[1].convert("RGB").getpixel((60, 120))  # the word is dark blue
    assert max(red, green) < 120
    assert len(page) < 100_000
    assert page.count('style="background: rgb(60, 60, 60)"') == 1, "white on dark, as the network sees it"


def test_hostile_names_and_labels_are_text(fake_bundle, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = [f"{index}{name.replace('/', chr(0x2215))}.png" for index, name in enumerate(HOSTILE)]
    for name in names:
        marked((255, 0, 0), (8, 8)).save(folder / name)
    (folder / "<b>bad.png").write_bytes(b"<script>no image")
    bundle = fake_bundle(labels=("<i>red", "&green", '"blue'))
    text = write_sheet(bundle, folder, out=tmp_path / "sheet.html", status=1)
    page = Page(text)
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "i", "a", "iframe", "object"})
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert len(page.all("h2")) == len(names) + 1
    assert {attributes["title"] for attributes in page.all("h2")} >= {str(folder / name) for name in names[:5]}
    assert "\u202e" not in text
    assert "line\\nbreak\\u202egnp" in text
    sources = [attributes["src"] for attributes in page.all("img")]
    assert len(sources) == len(names)
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none';")
    assert len(re.findall("https?:", text)) == 0


def test_names_outside_unicode_are_read_for_their_pictures_all_the_same(bundle, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    marked((255, 0, 0), (8, 8)).save(tmp_path / "plain.png")
    os.rename(tmp_path / "plain.png", folder + b"/r\xff.png")
    page = write_sheet(bundle, tmp_path / "odd", out=tmp_path / "sheet.html")
    assert page.count("<img ") == 1
    assert texts_of(page, "file") == ["r\ufffd.png"]


def test_an_image_that_is_gone_when_the_sheet_is_written_has_no_picture(bundle, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        marked((255, 0, 0), (8, 8)).save(folder / name)
    read = sheet.load_reduced

    def vanishing(name, *arguments, **options):
        (folder / "b.png").unlink(missing_ok=True)
        return read(name, *arguments, **options)

    monkeypatch.setattr(sheet, "load_reduced", vanishing)
    page = write_sheet(bundle, folder, out=tmp_path / "sheet.html")
    assert page.count("<img ") == 1
    assert len(texts_of(page, "label")) == 2


def test_a_large_table_shows_the_first_images_and_counts_all(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(sheet, "MOST", 3)
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(5):
        marked((255, 0, 0), (8, 8)).save(folder / f"{index}.png")
    page = write_sheet(bundle, folder, out=tmp_path / "sheet.html")
    assert page.count("<img ") == 3
    assert "<h1>5 images in " in page
    assert "5 labelled. The first 3 are shown; write a .csv or .jsonl to have all." in page


def test_several_labels_and_enrolled_classes_are_shown(tmp_path):
    record = {"path": "a.png", "label": "red", "labels": ["red", "round"], "best_guess": "red", "confidence": 0.9}
    record |= {"probabilities": {"round": 0.7, "red": 0.9}, "prediction_set": [], "is_logo": True, "reason": None}
    record |= {"enrolled": {"label": "acme", "confidence": 0.8}}
    settings = {"bundle": "b", "backend": "onnxruntime", "mode": "balanced", "model_sha256": "0" * 64}
    page = sheet.sheet_of([("none", record)], {**settings, "threshold": None, "coverage": 0.9})
    assert texts_of(page, "label") == ["red, round"]
    assert "Enrolled: acme, 80.0%" in page
    assert "90% set</span> no class is likely enough" in page
    assert page.index(">red</span>") < page.index(">round</span>")
    assert 'class="least"' not in page


def test_a_start_without_a_sheet_loads_nothing_for_it(tmp_path):
    names = ("html", "logo_edge.pages", "logo_edge.tables.sheet")
    code = "import os, sys; os._exit = sys.exit\ntry:\n    " + SHELL
    code += f"\nfinally:\n    print([name for name in {names} if name in sys.modules])"
    done = run_command("classify", SAMPLES / "01-simple.png", code=code)
    assert done.stdout.endswith(b"\n[]\n"), done
    done = run_command("classify", SAMPLES / "01-simple.png", "--out", tmp_path / "sheet.html", code=code)
    assert str(names).strip("()").encode() in done.stdout


@pytest.mark.skipif(not CHROMIUM_RUNS, reason="the Chromium that tests use is built for Linux on x86-64")
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_person_can_read_and_filter_it(browser, tmp_path, width, scheme):
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = [*SAMPLES.glob("*.png"), tmp_path / "bad.png"]
    write_sheet(DEFAULT_BUNDLE, *images, out=tmp_path / "sheet.html", status=1)
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto((tmp_path / "sheet.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert find_barriers(page) == []
    assert page.locator(".card:visible").count() == 9
    for choice, count in (("Unsure 1", 1), ("Not a logo or blank 1", 1), ("Not read 1", 1), ("Labelled 6", 6)):
        page.get_by_label(choice).check()
        assert page.locator(".card:visible").count() == count, choice
    page.keyboard.press("ArrowLeft")
    assert page.locator(".card:visible").count() == 9, "keys choose too"
    for image in page.locator(".card img").all():
        image.scroll_into_view_if_needed()  # pictures far below are loaded when they come near
    page.wait_for_function("[...document.images].every((image) => image.naturalWidth === 240)")
    assert said == []
    page.close()
