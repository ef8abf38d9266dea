"""`logo-edge report`: the page of a tiny run, its text and its HTML."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from system.browser.page import CHROMIUM_RUNS, HEADING, SCREENS, SMALL, WIDE, Page, find_barriers
from typer.testing import CliRunner

from logo_edge.bundle.calibration import Familiarity
from logo_edge.errors import MissingExtraError, RunError
from logo_edge_report.commands import report
from logo_edge_report.report import load_chosen, make_report, read_compressed, read_extra
from logo_edge_report.sections import robustness_section
from logo_edge_train.runs import read_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def whole_report(compressed_run, tmp_path_factory):
    """The folder of a report that leaves nothing out."""
    out = tmp_path_factory.mktemp("whole")
    result = CliRunner().invoke(report, [str(compressed_run), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "wrote" in result.output
    return out


def read(folder) -> tuple[str, Page, dict]:
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text), json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_the_page_holds_every_section_and_figure(whole_report):
    _, page, record = read(whole_report)
    anchors = [attributes["id"] for attributes in page.all("h2")]
    assert anchors == [
        "summary",
        "training",
        "errors",
        "confidence",
        "robustness",
        "maps",
        "features",
        "landscape",
        "making",
    ]
    assert [attributes["href"] for attributes in page.all("a")] == [f"#{anchor}" for anchor in anchors]
    assert list(record["findings"]) == anchors[:-1]
    assert len(page.all("figure")) == sum(map(len, record["findings"].values())) >= 22
    assert all(len(caption) > 20 for caption in page.captions)
    titles = [title for section in record["findings"].values() for title in section]
    assert {"Reliability", "Confusion matrix", "Uncertainty map", "Feature evolution", "Loss landscape"} <= set(titles)
    assert page.open == []


def test_the_student_of_a_report_answers_by_all_thresholds_that_were_packed(compressed_run):
    subject = load_chosen(read_compressed(read_run(compressed_run)))
    assert (subject.abstain_below, subject.familiarity) == (0.6, Familiarity(-9.0, 0.05))
    first = np.eye(len(subject.labels))[0]
    assert subject.answered(subject.temperature * np.stack([8 * first, 8 * first - 20, 0 * first])).tolist() == [
        True,
        False,
        False,
    ]


def test_every_picture_can_be_read_aloud(whole_report):
    _, page, _ = read(whole_report)
    spoken = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(spoken) > 40
    assert all(attributes["aria-label"] for attributes in spoken)
    assert len(page.all("svg")) >= 20


def test_nothing_is_fetched_and_nothing_of_the_run_is_markup(whole_report):
    text, page, _ = read(whole_report)
    assert (whole_report / "report.html").stat().st_size < 5e6
    assert not page.all("script")
    links = [value for _, a in page.tags for key in ("src", "href", "xlink:href") if (value := a.get(key)) is not None]
    assert len(links) > 10
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.findall(r"url\(\s*[\"']?(?!#|data:)", text)
    assert "blue &amp; &lt;b&gt;" in text
    assert "<b>" not in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_figures_are_those_of_the_evaluation(whole_report):
    text, _, record = read(whole_report)
    teachers, int8 = record["subjects"]
    assert (teachers["kind"], int8["name"], int8["temperature"]) == ("run", "INT8 student", 1.5)
    confusion = int8["confusion"]
    right = sum(confusion[k][k] for k in range(3))
    assert int8["accuracy"]["value"] == pytest.approx(right / 36)
    assert f"{int8['accuracy']['value']:.1%}" in text
    assert record["before_temperature"]["nll"] != int8["nll"]
    markdown = (whole_report / "report.md").read_text(encoding="utf-8")
    assert f"{int8['accuracy']['value']:.1%}" in markdown
    assert "| 2 teachers, PyTorch |" in markdown
    assert "## Robustness of INT8 student on val" in markdown
    assert record["slices"]["size"]["256 px"]["value"] == int8["accuracy"]["value"]  # no square is as large


def test_the_figures_of_an_evaluation_are_shown_under_its_own_name(compressed_run, tmp_path):
    figure, evaluation = {"value": 0.5, "low": 0.4, "high": 0.6}, tmp_path / "evaluation.json"
    evaluation.write_text(
        json.dumps(
            {
                "split": "test",
                "subjects": [
                    {
                        "name": "a bundle",
                        "corruptions": {
                            "by_corruption": {
                                "noise": {"1": figure, "5": figure},
                                "blur": {"1": figure, "5": {**figure, "value": 0.4}},
                            },
                            "mean": {"1": 0.5, "5": 0.45},
                        },
                        "attacks": {"from": "a student", "count": 5, "FGSM": {"1/255": figure}},
                        "outliers": {"auroc": {"photographs": 0.9, "noise": 0.7}},
                    }
                ],
            }
        )
    )
    options = [str(compressed_run), "--out", str(tmp_path), "--quick", "--evaluation", str(evaluation)]
    assert CliRunner().invoke(report, options).exit_code == 0
    text, _, record = read(tmp_path)
    assert "Robustness of a bundle on test" in text
    assert list(record["findings"]["robustness"]) == ["Corruptions", "Attacks", "Images that are no logos"]
    assert "most harmful is blur, 40.0%" in text
    assert "hardest are noise, 0.70" in text
    evaluation.write_text("{}")
    with pytest.raises(RunError, match="logo-edge evaluate --out"):
        read_extra(evaluation)


def test_the_committed_evaluation_of_the_default_bundle_is_shown_whole():
    figures, split, whose = read_extra(ROOT / "benchmarks" / "results" / "default_robustness.json")
    section = robustness_section(figures, split, whose)
    titles = [exhibit.title for exhibit in section.exhibits]
    assert titles == [
        "Accuracy by delivered size",
        "Accuracy by background",
        "Accuracy by JPEG quality",
        "Accuracy by thumbnail",
        "Corruptions",
        "Attacks",
        "Images that are no logos",
    ]
    attacks = section.exhibits[titles.index("Attacks")]
    assert [row[0] for row in attacks.table.rows] == [
        f"{name}, {size}/255" for name in ("FGSM", "PGD-10") for size in (1, 2, 4)
    ]
    assert "931 sure images" in attacks.caption


def test_the_same_run_gives_the_same_page(plain_run, tmp_path):
    options = {"split": "val", "quick": False, "evaluation": None, "say": lambda _: None}
    pages = [make_report(plain_run, tmp_path / name, **options)[0].read_bytes() for name in ("first", "second")]
    assert pages[0] == pages[1]


def test_a_quick_report_of_a_run_without_a_student_is_whole(plain_run, tmp_path):
    result = CliRunner().invoke(report, [str(plain_run), "--out", str(tmp_path), "--quick"])
    assert result.exit_code == 0, result.output
    _, page, record = read(tmp_path)
    assert [attributes["id"] for attributes in page.all("h2")] == [
        "summary",
        "training",
        "errors",
        "confidence",
        "maps",
        "making",
    ]
    assert [subject["kind"] for subject in record["subjects"]] == ["run"]
    assert record["stages"] == []


def test_a_run_of_other_data_or_without_its_student_is_refused(compressed_run, tmp_path):
    options = {"split": "val", "quick": True, "evaluation": None, "say": lambda _: None}
    broken = shutil.copytree(compressed_run, tmp_path / "broken")
    (broken / "compress" / "test_resnet-32" / "student-int8-minmax.onnx").unlink()
    with pytest.raises(RunError, match="compress again"):
        make_report(broken, tmp_path / "out", **options)
    (broken / "rows.json").write_text(json.dumps(json.loads((broken / "rows.json").read_text())[2:]))
    with pytest.raises(RunError, match="rows 2 added: .*train again"):
        make_report(broken, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("package", "module"), [("jinja2", "page"), ("sklearn.decomposition", "embedding"), ("matplotlib", "charts")]
)
def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, package, module):
    monkeypatch.setitem(sys.modules, package, None)
    for name in (module, "svg_chart"):
        monkeypatch.delitem(sys.modules, f"logo_edge_report.{name}", raising=False)
    with pytest.raises(MissingExtraError, match=r"logo-edge\[report\]"):
        importlib.import_module(f"logo_edge_report.{module}")


@pytest.mark.skipif(not CHROMIUM_RUNS, reason="the Chromium that tests use is built for Linux on x86-64")
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_browser_shows_it_without_complaint_and_without_overflow(browser, whole_report, width, scheme):
    said, asked = [], []
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((whole_report / "report.html").as_uri())
    text = (whole_report / "report.html").read_text(encoding="utf-8")
    assert page.locator("figure").count() == text.count("<figure") > 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(HEADING) > 10, "letters have a width: the browser has a font"
    assert page.evaluate(WIDE) == []
    assert page.evaluate(SMALL) == []
    assert find_barriers(page) == []
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (min(map(int, re.findall(r"\d+", background)[:3])) > 127) == (scheme == "light")
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()
