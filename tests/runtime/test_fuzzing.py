"""No input breaks the runtime: damaged images, and damaged records of bundles, manifests and enrolments."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
from fuzz.mutants import CONTENT, SERVER_MB, SPECIAL_FILES, classify_mutants, post_mutants, write_mutants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logo_edge import BundleError, Classifier, ImageError, load_image, read_bundle
from logo_edge.bundle.record import RECORD, Bundle, parse_bundle, write_record
from logo_edge.errors import DatasetError, EnrolmentError
from logo_edge.likeness.enroll import Enrolment, _digest, add_class, new_enrolment, open_enrolment, write_enrolment
from logo_edge_train.data.manifest import LogoRow, Manifest, read_manifest, write_manifest

MUTANTS = int(os.environ.get("LOGO_EDGE_MUTANTS", "300"))
MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
def test_every_damaged_image_fails_alone_and_the_others_are_classified(fake_bundle, tmp_path):
    (tmp_path / "images").mkdir()
    written = write_mutants(tmp_path / "images", MUTANTS)
    findings = classify_mutants(tmp_path / "images", written, fake_bundle())
    assert findings.broken == []
    assert sum(findings.errors.values()) + sum(findings.classified.values()) == len(written)
    assert findings.classified["control"] == -(-MUTANTS // 20)
    assert findings.errors.keys() | findings.classified.keys() >= (set(CONTENT) | set(SPECIAL_FILES)) - {
        "folder",
        "link_to_folder",
    }
    assert findings.slowest_cpu_s < 2
    assert findings.peak_memory_mb < 800


@pytest.mark.slow
def test_every_damaged_image_that_is_posted_is_answered_and_the_service_goes_on(fake_bundle, tmp_path):
    (tmp_path / "images").mkdir()
    findings = post_mutants(write_mutants(tmp_path / "images", MUTANTS), fake_bundle())
    assert findings.broken == []
    assert sum(findings.errors.values()) + sum(findings.classified.values()) == findings.files > 0.8 * MUTANTS
    assert findings.classified["control"] == -(-MUTANTS // 20)
    assert findings.errors.keys() | findings.classified.keys() >= set(CONTENT)
    assert findings.slowest_cpu_s < 2
    assert findings.peak_memory_mb < SERVER_MB
    assert 0 < findings.slowest_healthy_s < 10  # 1 s on an idle machine, which the script checks


@pytest.mark.slow
def test_the_mutants_are_the_same_for_the_same_seed(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "other"]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        folder.mkdir()
        write_mutants(folder, 60, seed)
    one, two, other = (
        {
            path.relative_to(folder): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        for folder in folders
    )
    assert len(one) > 40
    assert one == two
    assert one != other


def test_a_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="no regular file"):
        load_image(tmp_path / "pipe.png")


def test_a_file_that_a_program_would_have_to_draw_is_refused():
    with pytest.raises(ImageError, match="PostScript document"):
        load_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    from conftest import write_bundle

    folder = write_bundle(tmp_path_factory.mktemp("fuzz") / "bundle", embedding=True)
    return json.loads((folder / RECORD).read_text()) | {"_folder": str(folder)}


def outcome(call, error: type[Exception]):
    """The result of the call, or the error of that class that it raises; any other error fails the test."""
    try:
        return call()
    except error as raised:
        return raised


def assert_clear(result, kind: type, named: str) -> None:
    """The result has the type, or is an error that names its subject."""
    assert isinstance(result, kind) or (len(str(result)) > 20 and named in str(result))


def paths_in(value, path=()):
    """The path of every value inside a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths_in(inner, (*path, key))


def changed(data, value):
    """The value with one to three parts replaced, removed or renamed."""
    value = copy.deepcopy(value)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([path for path in paths_in(value) if path] or [()]))
        if not path:
            return data.draw(JSON)
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        how = data.draw(st.sampled_from(("replace", "remove", "rename")))
        if how == "replace":
            holder[path[-1]] = data.draw(JSON)
        elif how == "remove" or isinstance(holder, list):
            del holder[path[-1]]
        else:
            holder[data.draw(st.text(max_size=10))] = holder.pop(path[-1])
    return value


@MANY
@given(data=st.data())
def test_a_changed_record_is_a_bundle_or_a_clear_error(record, data):
    unchanged = {key: value for key, value in record.items() if key != "_folder"}
    value, folder = changed(data, unchanged), Path(record["_folder"])
    assert_clear(outcome(lambda: parse_bundle(value, folder), BundleError), Bundle, "bundle")


@MANY
@given(value=JSON)
def test_any_json_is_a_bundle_or_a_clear_error(value):
    with pytest.raises(BundleError):
        parse_bundle(value, Path("folder"))


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"a":' * 100_000, b"1" * 5000, b"\xff\xfe\x00", b'"\\ud800"'])
def test_a_record_that_breaks_parsers_is_refused(fake_bundle, data):
    folder = fake_bundle()
    write_record(folder, data)
    with pytest.raises(BundleError, match=RECORD):
        read_bundle(folder)


def test_golden_vectors_outside_the_bundle_are_refused(fake_bundle, tmp_path):
    from dataclasses import replace

    from logo_edge.bundle.record import VECTORS, list_files, write_bundle_record

    folder = fake_bundle()
    (tmp_path / "outside.png").write_bytes((folder / "vectors/0.png").read_bytes())
    for name in ("../outside.png", str(tmp_path / "outside.png")):
        vectors = json.loads((folder / VECTORS).read_text())
        vectors["vectors"][0]["image"] = name
        (folder / VECTORS).write_text(json.dumps(vectors))
        write_bundle_record(
            replace(parse_bundle(json.loads((folder / RECORD).read_text()), folder), files=list_files(folder))
        )
        with pytest.raises(BundleError, match="bundle.json does not list it"):
            Classifier.load(folder, self_test=True)


TEXT = st.text(alphabet=st.sampled_from('package,icon\n\r"|10atrin=;\t\0\ufeff\u00e9'), max_size=120)


@MANY
@given(data=st.binary(max_size=200) | TEXT.map(str.encode) | TEXT.map(lambda text: f"package,icon,{text}".encode()))
def test_any_bytes_are_a_manifest_or_a_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(data)
    assert_clear(outcome(lambda: read_manifest(path), DatasetError), Manifest, "fuzz.csv")


@MANY
@given(data=st.data())
def test_a_manifest_with_changed_bytes_is_one_or_a_clear_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    write_manifest(path, [LogoRow("files", "", f"{name}.png", name, "simple", ("simple", "text")) for name in "abc"])
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    assert_clear(outcome(lambda: read_manifest(path), DatasetError), Manifest, "fuzz.csv")


@pytest.fixture(scope="module")
def enrolment(record) -> tuple[Bundle, dict]:
    classifier = Classifier.load(record["_folder"])
    images = [np.full((9, 9, 3), shade, np.uint8) for shade in (9, 90)]
    enrolled, _ = add_class(new_enrolment(classifier.bundle), classifier, "acme", images)
    path = Path(record["_folder"]).parent / "enrolled.json"
    write_enrolment(enrolled, path)
    return classifier.bundle, json.loads(path.read_text())


@MANY
@given(data=st.data())
def test_a_changed_enrolment_is_one_or_a_clear_error(enrolment, tmp_path_factory, data):
    bundle, unchanged = enrolment
    path, value = tmp_path_factory.getbasetemp() / "fuzz.json", changed(data, unchanged)
    if isinstance(value, dict) and data.draw(st.booleans()):  # as someone who knows the format would write it
        value.pop("sha256", None)
        value["sha256"] = _digest(value)
    path.write_text(json.dumps(value))
    assert_clear(outcome(lambda: open_enrolment(path, bundle), EnrolmentError), Enrolment, "")
