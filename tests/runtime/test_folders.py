"""A folder becomes a table: complete, resumable, in bounded memory, in three formats with the same content."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from logo_edge import Classifier, LogoEdgeError, commands, folders
from logo_edge.decision import Conformal
from logo_edge.folders import Journal, classify_folder, describe_settings, find_images

SHELL = "import sys; from logo_edge.cli import main; sys.argv[0] = 'logo-edge'; main()"


@pytest.fixture
def bundle(fake_bundle) -> Path:
    return fake_bundle(conformal=(Conformal(0.95, 0.2, None),))


@pytest.fixture
def logos(tmp_path) -> Path:
    """60 images in three folders, two of them damaged."""
    generator = np.random.default_rng(0)
    for index in range(60):
        path = tmp_path / "logos" / f"{index % 3}" / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(generator.integers(0, 256, 3).tolist())
        Image.new("RGB", (8, 8), colour).save(path)
        if index in (7, 33):
            path.write_bytes(b"no image")
    return tmp_path / "logos"


def test_one_walk_finds_every_image_of_a_hostile_tree_once_and_nothing_else(hostile_tree):
    found = list(find_images([str(hostile_tree.root)]))
    assert {os.path.relpath(path, hostile_tree.root) for path in found} == hostile_tree.images
    assert len(found) == len(hostile_tree.images) > 30


def test_a_folder_that_links_lead_to_is_visited_once_under_its_own_name(tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "0.png").touch()
    (tmp_path / "a").symlink_to(tmp_path / "z", target_is_directory=True)
    assert list(find_images([str(tmp_path)])) == [str(tmp_path / "z" / "0.png")]


def test_a_folder_that_cannot_be_read_comes_out_as_a_path_that_fails(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "0.png").touch()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(find_images([str(tmp_path)])) == [str(tmp_path / "0.png"), str(tmp_path / "closed")]


def classify(bundle: Path, *arguments):
    return CliRunner().invoke(commands.classify, ["--bundle", str(bundle), *map(str, arguments)])


def rows_of(path: Path) -> list[dict]:
    """The table's rows as text and numbers, sorted by path."""
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["prediction_set"] = row["prediction_set"].split("|") if row["confidence"] else None
    elif path.suffix == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row |= {f"probability_{label}": value for label, value in row.pop("probabilities", {}).items()}
    return sorted(rows, key=lambda row: row["path"])


def test_the_three_formats_hold_the_same(bundle, logos, tmp_path):
    tables = {}
    for suffix in folders.FORMATS:
        out = tmp_path / f"results{suffix}"
        result = classify(bundle, logos, "--out", out)
        assert result.exit_code == 1  # two failed
        assert "60 images, 2 of them failed" in result.stdout
        tables[out] = rows_of(out)
        assert not out.with_name(f"{out.name}.part").exists()
    lines, commas, columns = (tables[tmp_path / f"results{suffix}"] for suffix in (".jsonl", ".csv", ".parquet"))
    assert len(lines) == len(commas) == len(columns) == 60
    for line, comma, column in zip(lines, commas, columns, strict=True):
        assert line["path"] == comma["path"] == column["path"]
        assert (line.get("error") or "") == comma["error"] == (column["error"] or "")
        if "error" in line:
            continue
        assert line["best_guess"] == comma["best_guess"] == column["best_guess"]
        assert (line["label"] or "") == comma["label"] == (column["label"] or "")
        assert line["prediction_set"] == column["prediction_set"]
        assert [name for name in line["prediction_set"] if name] == [name for name in comma["prediction_set"] if name]
        for name in ("confidence", "aleatoric", "energy", "probability_red"):
            assert line[name] == pytest.approx(float(comma[name])) == pytest.approx(column[name], abs=1e-6)
        assert (line["is_logo"], comma["is_logo"]) == (column["is_logo"], str(int(column["is_logo"])))
    assert sum(bool(row.get("error")) for row in lines) == 2


def test_an_interrupted_run_goes_on_where_it_was_and_loses_and_repeats_nothing(bundle, logos, tmp_path, monkeypatch):
    out = tmp_path / "results.jsonl"
    whole = Classifier.classify_many
    seen: list[str] = []
    interruptions = [30]

    def counted(self, sources, **options):
        def noted():
            for source in sources:
                seen.append(source)
                yield source

        for index, result in enumerate(whole(self, noted(), **options)):
            if interruptions and index == interruptions[0]:
                interruptions.clear()
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(Classifier, "classify_many", counted)
    classifier = Classifier.load(bundle)

    def run():
        with Journal(out, classifier.labels, describe_settings(classifier)) as journal:
            classify_folder(classifier, find_images([str(logos)]), journal, workers=1)

    with pytest.raises(KeyboardInterrupt):
        run()
    part = out.with_name("results.jsonl.part")
    kept = part.read_bytes().splitlines()
    assert len(kept) == 1 + 24
    assert not out.exists()
    part.write_bytes(part.read_bytes() + b'["00", {"path": "cut o')  # as a power failure leaves it
    first, seen[:] = len(seen), []
    run()
    assert len(seen) == 60 - 24
    rows = rows_of(out)
    assert [row["path"] for row in rows] == sorted(find_images([str(logos)]))
    assert first >= 24


def test_a_killed_run_goes_on(bundle, logos, tmp_path):
    out = tmp_path / "results.csv"
    many = [str(path) for path in sorted(logos.rglob("*.png"))] * 200
    listed = tmp_path / "many"
    listed.mkdir()
    for index, path in enumerate(many[:6000]):
        os.link(path, listed / f"{index:05}.png")
    command = [sys.executable, "-c", SHELL, "classify", str(listed), "--bundle", str(bundle), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = out.with_name("results.csv.part")
    deadline = time.monotonic() + 120
    while (
        (not part.exists() or part.stat().st_size < 20_000) and time.monotonic() < deadline and process.poll() is None
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert part.exists(), "it was done before it could be killed"
    before = part.read_bytes().count(b"\n") - 1
    assert 0 < before < 6000
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "goes on after" in again.stderr
    paths = [row["path"] for row in rows_of(out)]
    assert len(paths) == len(set(paths)) == 6000


def test_a_table_that_is_there_or_was_begun_otherwise_is_not_touched(bundle, logos, tmp_path):
    out = tmp_path / "results.csv"
    out.write_text("precious")
    result = classify(bundle, logos, "--out", out)
    assert isinstance(result.exception, LogoEdgeError)
    assert "--overwrite" in str(result.exception)
    assert out.read_text() == "precious"
    assert classify(bundle, logos, "--out", out, "--overwrite").exit_code == 1
    assert len(rows_of(out)) == 60
    classifier = Classifier.load(bundle)
    with Journal(tmp_path / "other.csv", classifier.labels, describe_settings(classifier)):
        pass
    result = classify(bundle, logos, "--out", tmp_path / "other.csv", "--mode", "strict", "--threshold", "0.9")
    assert "begun with another mode, threshold" in str(result.exception)


def test_an_artifact_and_a_backend_are_settings_of_a_table(bundle, tmp_path):
    own = Classifier.load(bundle)
    artifact = tmp_path / "same.onnx"
    artifact.write_bytes(own.bundle.model_path.read_bytes() + b"\x2a\x00")  # an empty, unknown field
    settings = [describe_settings(found) for found in (own, Classifier.load(bundle, artifact=artifact))]
    assert {name for name in settings[0] if settings[0][name] != settings[1][name]} == {"model_sha256"}
    assert settings[0]["backend"] == "onnxruntime"


@pytest.mark.parametrize(("name", "message"), [("results.xlsx", "expected one of .csv, .jsonl, .parquet"),
                                               ("absent.png/results.csv", "expected a folder that can be written")])  # fmt: skip
def test_where_no_table_can_be_written_it_says_so(bundle, logos, tmp_path, name, message):
    (tmp_path / "absent.png").write_text("a file")
    assert message in str(classify(bundle, logos, "--out", tmp_path / name).exception)


def test_two_processes_do_not_write_one_table(bundle, tmp_path):
    classifier = Classifier.load(bundle)
    settings = describe_settings(classifier)
    with (
        Journal(tmp_path / "results.csv", classifier.labels, settings),
        pytest.raises(LogoEdgeError, match="another process is writing it"),
    ):
        Journal(tmp_path / "results.csv", classifier.labels, settings)


def test_parquet_without_pyarrow_names_its_extra(bundle, logos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = classify(bundle, logos, "--out", tmp_path / "results.parquet")
    assert "logo-edge[parquet]" in str(result.exception)


def test_globs_are_expanded_and_a_file_with_such_a_name_is_itself(logos):
    assert len(list(find_images([str(logos / "**" / "*.png")]))) == 60
    assert len(list(find_images([str(logos / "1" / "?[05].png")]))) == 4
    assert list(find_images([str(logos / "none*.png")])) == []
    named = logos / "logo[1].png"
    named.write_bytes((logos / "0" / "00.png").read_bytes())
    assert list(find_images([str(named)])) == [str(named)]


def test_a_name_that_is_no_unicode_is_kept_as_well_as_it_can_be(bundle, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(folder / "plain.png")
    os.rename(folder / "plain.png", os.fsencode(folder) + b"/r\xff.png")
    for suffix in folders.FORMATS:
        result = classify(bundle, folder, "--out", tmp_path / f"odd{suffix}")
        assert result.exit_code == 0, result.exception
        (row,) = rows_of(tmp_path / f"odd{suffix}")
        assert row["path"].endswith("r\ufffd.png")
    assert classify(bundle, "--json", folder).exit_code == 0


def test_names_that_differ_in_undecodable_bytes_alone_are_two_images(bundle, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    for name, colour in ((b"r\xfe.png", (255, 0, 0)), (b"r\xff.png", (0, 0, 255))):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "plain.png")
        os.rename(tmp_path / "plain.png", folder + b"/" + name)
    classifier, out = Classifier.load(bundle), tmp_path / "odd.jsonl"
    first, second = find_images([str(tmp_path / "odd")])
    with Journal(out, classifier.labels, describe_settings(classifier)) as journal:
        journal.append([(first, folders.record_of(first, classifier.classify(first)))])
    with Journal(out, classifier.labels, describe_settings(classifier)) as journal:
        assert (journal.done(first), journal.done(second)) == (True, False)
        classify_folder(classifier, [first, second], journal, workers=1)
    assert sorted(row["label"] for row in rows_of(out)) == ["blue", "red"]


@pytest.mark.parametrize("line", [b"{", b'["x", {"path": "a.png"}]', b'["1f", {"label": "red"}]', b'["1f", 3]', b"3",
                                  b'{"path": "a.png", "label": null}', b'["1f", {"path": null}]', b'["%s", {"path": "a.png"}]' % (b"f" * 17), b"\xff"])  # fmt: skip
def test_a_damaged_row_of_the_journal_is_named_by_its_line(bundle, logos, tmp_path, line):
    classifier, out = Classifier.load(bundle), tmp_path / "results.csv"
    with Journal(out, classifier.labels, describe_settings(classifier)) as journal:
        for name in list(find_images([str(logos / "0")]))[:3]:
            journal.append([(name, folders.record_of(name, classifier.classify(name)))])
    part = tmp_path / "results.csv.part"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([*lines[:2], line + b"\n", *lines[2:]]))
    damaged = part.read_bytes()
    result = classify(bundle, logos, "--out", out)
    assert isinstance(result.exception, LogoEdgeError)
    assert "results.csv.part: line 3 cannot be read" in str(result.exception)
    assert "Delete that line" in str(result.exception)
    assert part.read_bytes() == damaged
    part.write_bytes(b"".join(lines))
    assert classify(bundle, logos, "--out", out).exit_code == 1
    assert len(rows_of(out)) == 60


def test_links_that_lead_in_a_circle_are_walked_once(logos):
    (logos / "0" / "loop").symlink_to(logos)
    assert len(list(find_images([str(logos)]))) == 60
