"""A folder becomes a table: complete, resumable, in bounded memory, in three formats with the same content.

The fourth format, a picture sheet, is for people: see test_sheet.py.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import SHELL, classify
from pictures import marked
from PIL import Image

from logo_edge import Classifier, LogoEdgeError, files
from logo_edge.bundle.calibration import Conformal
from logo_edge.exits import SYSTEM
from logo_edge.tables import folder as folder_module
from logo_edge.tables.find import find_images, source_folders
from logo_edge.tables.folder import classify_folder, describe_settings
from logo_edge.tables.journal import FOLDERS, Journal
from logo_edge.tables.writers import WRITERS, record_of

DATA = [suffix for suffix in WRITERS if suffix != ".html"]


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
        marked(colour, (8, 8)).save(path)
        if index in (7, 33):
            path.write_bytes(b"no image")
    return tmp_path / "logos"


def test_find_images_finds_each_image_of_a_hostile_tree_once_and_nothing_else(hostile_tree):
    images = list(find_images([str(hostile_tree.root)]))
    assert {os.path.relpath(path, hostile_tree.root) for path in images} == hostile_tree.images
    assert len(images) == len(hostile_tree.images) > 30


def test_a_folder_behind_links_is_visited_once_under_its_own_name(tmp_path):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "0.png").touch()
    (tmp_path / "a").symlink_to(tmp_path / "z", target_is_directory=True)
    assert list(find_images([str(tmp_path)])) == [str(tmp_path / "z" / "0.png")]


def test_a_folder_that_cannot_be_read_is_yielded_as_a_path(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "0.png").touch()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert list(find_images([str(tmp_path)])) == [str(tmp_path / "0.png"), str(tmp_path / "closed")]


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


def kept_in(journal: Path) -> int:
    """The number of rows in a journal that no process has open."""
    database = sqlite3.connect(journal)
    try:
        return database.execute("SELECT count(*) FROM rows").fetchone()[0]
    finally:
        database.close()


def test_the_three_formats_have_the_same_content(bundle, logos, tmp_path):
    tables = {}
    for suffix in DATA:
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
        for name in ("confidence", "aleatoric", "logo_score", "probability_red"):
            assert line[name] == pytest.approx(float(comma[name])) == pytest.approx(column[name], abs=1e-6)
        assert (line["is_logo"], comma["is_logo"]) == (column["is_logo"], str(int(column["is_logo"])))
    assert sum(bool(row.get("error")) for row in lines) == 2


def test_names_with_characters_that_end_a_row_or_cell_survive_in_every_format(bundle, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    names = [f"{name}.png" for name in ("a\rb", "c\nd", 'e"f', "g,h", "i\u2028j", "=1+2", "-", "k|l", "m\x85n")]
    for name in names:
        Image.new("RGB", (8, 8), "red").save(folder / name)
    for suffix in DATA:
        out = tmp_path / f"results{suffix}"
        assert classify(bundle, folder, "--out", out).exit_code == 0
        if suffix == ".jsonl":
            paths = [json.loads(line)["path"] for line in out.read_bytes().removesuffix(b"\n").split(b"\n")]
        else:
            paths = [row["path"] for row in rows_of(out)]
        assert sorted(paths) == sorted(str(folder / name) for name in names), suffix


def test_an_interrupted_run_resumes_without_lost_or_repeated_rows(bundle, logos, tmp_path, monkeypatch):
    out = tmp_path / "results.jsonl"
    classify_many = Classifier.classify_many
    seen: list[str] = []
    interruptions = [30]

    def counted(self, sources, **options):
        def noted():
            for source in sources:
                seen.append(source)
                yield source

        for index, result in enumerate(classify_many(self, noted(), **options)):
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
    assert kept_in(out.with_name("results.jsonl.part")) == 24
    assert not out.exists()
    first, seen[:] = len(seen), []
    run()
    assert len(seen) == 60 - 24
    rows = rows_of(out)
    assert [row["path"] for row in rows] == sorted(find_images([str(logos)]))
    assert first >= 24
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "results"))] == ["results.jsonl"]


def test_a_killed_run_resumes(bundle, logos, tmp_path):
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
    log = out.with_name("results.csv.part-wal")
    while (not log.exists() or log.stat().st_size < 300_000) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert part.exists(), "the run ended before it could be killed"
    assert 0 < kept_in(part) < 6000
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "goes on after" in again.stderr
    paths = [row["path"] for row in rows_of(out)]
    assert len(paths) == len(set(paths)) == 6000


def test_an_existing_table_or_one_begun_with_other_settings_is_not_changed(bundle, logos, tmp_path):
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
    settings = [describe_settings(classifier) for classifier in (own, Classifier.load(bundle, artifact=artifact))]
    assert {name for name in settings[0] if settings[0][name] != settings[1][name]} == {"model_sha256"}
    assert settings[0]["backend"] == "onnxruntime"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("results.xlsx", "expected one of .csv, .jsonl, .parquet, .html"),
        ("folder.csv", "a folder; name a file"),
        ("absent.png/results.csv", "expected a folder that can be written"),
    ],
)
def test_a_path_that_cannot_be_a_table_is_refused_with_the_reason(bundle, logos, tmp_path, name, message):
    (tmp_path / "absent.png").write_text("a file")
    (tmp_path / "folder.csv").mkdir()
    assert message in str(classify(bundle, logos, "--out", tmp_path / name, "--overwrite").exception)


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


def test_globs_are_expanded_unless_a_file_has_that_name(logos):
    assert len(list(find_images([str(logos / "**" / "*.png")]))) == 60
    assert len(list(find_images([str(logos / "1" / "?[05].png")]))) == 4
    assert list(find_images([str(logos / "none*.png")])) == []
    named = logos / "logo[1].png"
    named.write_bytes((logos / "0" / "00.png").read_bytes())
    assert list(find_images([str(named)])) == [str(named)]


def test_a_name_that_is_not_unicode_is_shown_with_replacement_characters(bundle, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    marked((255, 0, 0), (8, 8)).save(folder / "plain.png")
    os.rename(folder / "plain.png", os.fsencode(folder) + b"/r\xff.png")
    for suffix in DATA:
        result = classify(bundle, folder, "--out", tmp_path / f"odd{suffix}")
        assert result.exit_code == 0, result.exception
        (row,) = rows_of(tmp_path / f"odd{suffix}")
        assert row["path"].endswith("r\ufffd.png")
    assert classify(bundle, "--json", folder).exit_code == 0


def test_names_that_differ_only_in_undecodable_bytes_are_two_images(bundle, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    for name, colour in ((b"r\xfe.png", (255, 0, 0)), (b"r\xff.png", (0, 0, 255))):
        marked(colour, (8, 8)).save(tmp_path / "plain.png")
        os.rename(tmp_path / "plain.png", folder + b"/" + name)
    classifier, out = Classifier.load(bundle), tmp_path / "odd.jsonl"
    first, second = find_images([str(tmp_path / "odd")])
    with Journal(out, classifier.labels, describe_settings(classifier)) as journal:
        journal.append([(first, record_of(first, classifier.classify(first)))])
    with Journal(out, classifier.labels, describe_settings(classifier)) as journal:
        assert (journal.holds(first), journal.holds(second)) == (True, False)
        classify_folder(classifier, [first, second], journal, workers=1)
    assert sorted(row["label"] for row in rows_of(out)) == ["blue", "red"]


@pytest.mark.parametrize(
    "content", [b"SQLite format 3\0" + bytes(4096), b'{"settings": {}}\n["1f", {"path": "a.png"}]\n', None]
)
def test_a_file_that_is_no_journal_is_named_and_not_changed(bundle, logos, tmp_path, content):
    part = tmp_path / "results.csv.part"
    if content is None:
        database = sqlite3.connect(part)
        database.execute("CREATE TABLE somebody_elses (value)")
        database.close()
    else:
        part.write_bytes(content)
    before = part.read_bytes()
    result = classify(bundle, logos, "--out", tmp_path / "results.csv")
    assert isinstance(result.exception, LogoEdgeError)
    assert "results.csv.part: damaged, or not a journal" in str(result.exception)
    assert "Delete it" in str(result.exception)
    if content is None:
        database = sqlite3.connect(part)
        assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("somebody_elses",)]
        database.close()
    else:
        assert part.read_bytes() == before


def begin(bundle: Path, paths: list[Path], out: Path, count: int) -> None:
    """Leaves the journal of a run over the paths that was interrupted after `count` images."""
    classifier = Classifier.load(bundle)
    names = list(map(str, paths))
    settings = describe_settings(classifier) | {FOLDERS: source_folders(names)}
    with Journal(out, classifier.labels, settings) as journal:
        for name in list(find_images(names))[:count]:
            assert not journal.holds(name)
            result = next(classifier.classify_many([name]))
            journal.append([(name, record_of(name, result))])


def paint(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    marked(colour, (8, 8)).save(path)


@pytest.mark.parametrize("how", ["rewritten", "same size and time", "renamed over", "unreadable before"])
def test_a_file_that_was_replaced_is_classified_again(bundle, tmp_path, how):
    logo, other = tmp_path / "in" / "logo.bmp", tmp_path / "other.bmp"
    paint(logo, (255, 0, 0))
    paint(other, (0, 0, 255))
    if how == "unreadable before":
        logo.unlink()
        logo.symlink_to(tmp_path / "absent.bmp")
    begin(bundle, [tmp_path / "in"], tmp_path / "results.jsonl", 1)
    status = logo.lstat()
    if how == "rewritten":
        paint(logo, (0, 0, 255))
        os.utime(logo, ns=(0, 0))
    else:
        os.replace(other, logo)
        os.utime(logo, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert classify(bundle, tmp_path / "in", "--out", tmp_path / "results.jsonl").exit_code == 0
    assert [row["label"] for row in rows_of(tmp_path / "results.jsonl")] == ["blue"]


def test_the_journal_of_another_folder_is_refused_even_with_equal_file_names(bundle, tmp_path, monkeypatch):
    for folder, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        for index in range(3):
            paint(tmp_path / folder / f"{index}.png", colour)
    out = tmp_path / "results.jsonl"
    begin(bundle, [tmp_path / "a"], out, 2)
    refused = classify(bundle, tmp_path / "b", "--out", out)
    assert isinstance(refused.exception, LogoEdgeError)
    assert "begun with another folder" in str(refused.exception)
    assert str(tmp_path / "a") in str(refused.exception)
    monkeypatch.chdir(tmp_path / "b")
    assert isinstance(classify(bundle, "0.png", "--out", out).exception, LogoEdgeError)
    monkeypatch.chdir(tmp_path / "a")
    assert classify(bundle, ".", "--out", out).exit_code == 0  # the same folder, spelled otherwise
    assert [(row["path"], row["label"]) for row in rows_of(out)] == [(f"./{index}.png", "red") for index in range(3)]


def test_a_table_has_the_files_of_its_last_run_sorted_by_path(bundle, tmp_path):
    for index in (3, 1, 2, 0):
        paint(tmp_path / "in" / f"{index}.png", (255, 0, 0))
    out = tmp_path / "results.csv"
    begin(bundle, [tmp_path / "in"], out, 3)
    (tmp_path / "in" / "1.png").unlink()
    paint(tmp_path / "in" / "15.png", (0, 0, 255))
    result = classify(bundle, tmp_path / "in", "--out", out)
    assert "4 images, 0 of them failed" in result.stdout
    uninterrupted = tmp_path / "whole.csv"
    assert classify(bundle, tmp_path / "in", "--out", uninterrupted).exit_code == 0
    assert out.read_bytes() == uninterrupted.read_bytes()
    assert [Path(row["path"]).name for row in rows_of(out)] == ["0.png", "15.png", "2.png", "3.png"]


def test_a_file_that_is_named_twice_has_one_row(bundle, tmp_path):
    paint(tmp_path / "in" / "a.png", (255, 0, 0))
    names = [tmp_path / "in" / "a.png", tmp_path / "in", tmp_path / "in" / "." / "a.png", f"{tmp_path}/in/../in/a.png"]
    result = classify(bundle, *names, "--out", tmp_path / "results.jsonl")
    assert "1 images, 0 of them failed" in result.stdout
    assert len(rows_of(tmp_path / "results.jsonl")) == 1


def test_a_full_disk_has_its_own_status_and_the_run_resumes_once_there_is_room(bundle, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out" / "results.csv"
    for index in range(200):
        paint(folder / f"{index:03}.png", (255, 0, 0))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY)); " + SHELL
    command = ["classify", str(folder), "--bundle", str(bundle), "--out", str(out)]
    full = subprocess.run([sys.executable, "-c", limited, *command], capture_output=True, text=True, check=False)
    assert full.returncode == SYSTEM, full.stderr
    assert full.stderr.count("\n") == 1, full.stderr
    assert "results.csv.part: " in full.stderr
    assert "run the same command again to go on" in full.stderr
    assert not out.exists()
    again = subprocess.run([sys.executable, "-c", SHELL, *command], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert len(rows_of(out)) == 200
    assert os.listdir(out.parent) == ["results.csv"]


@pytest.mark.parametrize("suffix", DATA)
def test_a_table_that_does_not_fit_leaves_only_its_journal(bundle, logos, tmp_path, monkeypatch, suffix):
    out = tmp_path / "out" / f"results{suffix}"
    flushed = files._flush

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "_flush", full)
    failed = classify(bundle, logos, "--out", out)
    assert isinstance(failed.exception, OSError)
    assert os.listdir(out.parent) == [f"results{suffix}.part"]
    monkeypatch.setattr(files, "_flush", flushed)
    assert classify(bundle, logos, "--out", out).exit_code == 1  # two images are damaged
    assert len(rows_of(out)) == 60
    assert os.listdir(out.parent) == [f"results{suffix}"]


def test_the_journal_is_deleted_only_after_table_and_folder_are_on_the_disk(bundle, logos, tmp_path, monkeypatch):
    out, order = tmp_path / "out" / "results.csv", []

    def note(name: str, call):
        def noted(path, *arguments, **options):
            if str(path).startswith(str(out.parent)):
                order.append((name, Path(path).name))
            return call(path, *arguments, **options)

        return noted

    monkeypatch.setattr(files, "_flush", note("flush", files._flush))
    monkeypatch.setattr(os, "replace", note("replace", os.replace))
    monkeypatch.setattr(Path, "unlink", note("unlink", Path.unlink))
    assert classify(bundle, logos, "--out", out).exit_code == 1
    part = order[0][1]
    assert order == [
        ("flush", part),
        ("replace", part),
        ("flush", "out"),
        ("unlink", part),
        ("unlink", "results.csv.part-wal"),
        ("unlink", "results.csv.part"),
    ]


def test_a_run_killed_after_its_table_was_written_leaves_no_journal_for_the_next(bundle, logos, tmp_path, monkeypatch):
    out = tmp_path / "out" / "results.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_drop", lambda journal: journal._database.close())
        assert classify(bundle, logos, "--out", out).exit_code == 1
    assert sorted(os.listdir(out.parent)) == ["results.csv", "results.csv.part"]
    assert "there already" in str(classify(bundle, logos, "--out", out).exception)
    assert os.listdir(out.parent) == ["results.csv"]
    begin(bundle, [logos], tmp_path / "begun" / "results.csv", 3)
    shutil.copy(out, tmp_path / "begun")
    assert "there already" in str(classify(bundle, logos, "--out", tmp_path / "begun" / "results.csv").exception)
    assert kept_in(tmp_path / "begun" / "results.csv.part") == 3


def test_names_never_act_as_separators_and_tables_have_no_nan(fake_bundle, tmp_path):
    bundle = fake_bundle(labels=("a|b", "c\\", 'd,"e"'), conformal=(Conformal(0.95, 0.0, None),))
    paint(tmp_path / "in" / 'x,"y\n.png', (255, 0, 0))
    for suffix in (".csv", ".jsonl"):
        assert classify(bundle, tmp_path / "in", "--out", tmp_path / f"t{suffix}", "--coverage", "0.95").exit_code == 0
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    (line,) = map(json.loads, (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines())
    assert row["path"] == line["path"] == str(tmp_path / "in" / 'x,"y\n.png')
    names = re.split(r"(?<!\\)\|", row["prediction_set"].replace("\\\\", "\0"))
    assert [re.sub(r"\\(.)", r"\1", name).replace("\0", "\\") for name in names] == line["prediction_set"]
    assert len(line["prediction_set"]) == 3
    result = replace(
        Classifier.load(bundle).classify(np.zeros((8, 8, 3), np.uint8)),
        logo_score=float("nan"),
        confidence=float("inf"),
    )
    record = record_of("x.png", result)
    assert (record["logo_score"], record["confidence"]) == (None, None)
    assert json.loads(json.dumps(record, allow_nan=False)) == record | {"prediction_set": record["prediction_set"]}


def test_a_bracket_in_a_folders_name_is_no_pattern(bundle, tmp_path):
    for name in ("t [new]/a.png", "t [new]/b.png", "t n/c.png"):
        paint(tmp_path / name, (255, 0, 0))
    pattern = f"{tmp_path}/t [new]/*.png"
    assert [Path(path).name for path in find_images([pattern])] == ["a.png", "b.png"]
    assert [row["label"] for row in json.loads(classify(bundle, "--json", pattern).stdout)] == ["red", "red"]
    assert [Path(path).name for path in find_images([f"{tmp_path}/t [xn]/*.png"])] == ["c.png"]


def test_a_recursive_glob_visits_each_folder_once_despite_links(tmp_path, monkeypatch):
    for name in ("a.png", "in/b.png", "in/deep/c.png", "in/deep/c.jpg", ".hidden/d.png"):
        paint(tmp_path / name, (255, 0, 0))
    for name in ("one", "in/two", "in/deep/three"):
        (tmp_path / name).symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    expected = {
        "**/*.png": ["a.png", "in/b.png", "in/deep/c.png"],
        "in/**": ["in/b.png", "in/deep/c.jpg", "in/deep/c.png", "in/two/a.png"],
        "i*/**/deep/*.jpg": ["in/deep/c.jpg"],
        "in/**x/*": [],
    }
    for pattern, names in expected.items():
        assert list(find_images([pattern])) == names
        assert list(find_images([f"{tmp_path}/{pattern}"])) == [f"{tmp_path}/{name}" for name in names]


def test_a_folder_that_cannot_be_read_fails_by_name(bundle, tmp_path, monkeypatch):
    paint(tmp_path / "in" / "a.png", (255, 0, 0))
    (tmp_path / "in" / "closed").mkdir()
    scandir, opened = os.scandir, os.open

    def refuse(call):
        def refusing(path, *arguments):
            if str(path).endswith("closed"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return call(path, *arguments)

        return refusing

    monkeypatch.setattr(os, "scandir", refuse(scandir))
    monkeypatch.setattr(os, "open", refuse(opened))
    for options in ([], ["--jsonl"], ["--out", str(tmp_path / "results.csv")]):
        result = classify(bundle, tmp_path / "in", *options)
        assert result.exit_code == 1, options
    assert "closed: Permission denied" in rows_of(tmp_path / "results.csv")[1]["error"]


def test_circular_links_are_followed_once(logos):
    (logos / "0" / "loop").symlink_to(logos)
    assert len(list(find_images([str(logos)]))) == 60


def test_the_time_left_for_a_folder_is_by_the_recent_pace(monkeypatch, capsys):
    now_s = [0.0]
    monkeypatch.setattr(folder_module, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    progress = folder_module.Progress(4000)
    for rows in range(1, 3501):
        now_s[0] += 0.5 if rows <= 2000 else 2.0
        progress.show(SimpleNamespace(rows=rows, added=rows, failed=0))
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("3,480 of 4,000 images, 1/s, 0:17:")
    progress.show(SimpleNamespace(rows=4000, added=4000, failed=0))
    assert "0:00:00 left" in capsys.readouterr().err
