"""Classes are enrolled from a few images and recognised; unknown images get none; a changed file is detected."""

from __future__ import annotations

import csv
import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pictures import marked
from PIL import Image, ImageDraw
from pyarrow import parquet
from typer.testing import CliRunner

from logo_edge import BundleError, Classifier, ImageError, read_bundle
from logo_edge.bundle.record import DEFAULT_BUNDLE, RECORD, Bundle, list_files, write_record
from logo_edge.cli import likeness as verbs
from logo_edge.cli.classify_typer import classify
from logo_edge.errors import EnrolmentError, LogoEdgeError
from logo_edge.likeness.cluster import MAX_CLUSTERED, SAME_LOGO, centre_of, cluster
from logo_edge.likeness.enroll import (
    SHARPNESS,
    _digest,
    add_class,
    background_threshold,
    change_enrolment,
    confidences,
    new_enrolment,
    read_enrolment,
    write_enrolment,
)
from logo_edge.likeness.space import SPACE, embed_many, embed_parts, fit_space, rank, read_space, write_space
from logo_edge.tables.folder import describe_settings
from logo_edge.tables.journal import Journal
from logo_edge.tables.writers import WRITERS

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "runtime" / "logo_edge" / "samples"
BUNDLES = {"default": DEFAULT_BUNDLE, "robust": ROOT / "runtime" / "bundles" / "robust"}
TINTS = {"orange": (250, 120, 5), "violet": (120, 5, 250)}


def paint(path: Path, colour: tuple[int, int, int]) -> Path:
    Image.new("RGB", (20, 20), colour).save(path)
    return path


@pytest.fixture
def bundle(fake_bundle) -> Path:
    return fake_bundle(embedding=True)


def relisted(folder: Path) -> Bundle:
    """The bundle with the hashes updated after a file was changed."""
    record = json.loads((folder / RECORD).read_text())
    record["files"] = {name: vars(file) for name, file in list_files(folder).items()}
    write_record(folder, json.dumps(record).encode())
    return read_bundle(folder)


@pytest.fixture
def enrolled(bundle, tmp_path) -> Path:
    """A file with the classes orange and violet."""
    classifier = Classifier.load(bundle)
    enrolment = new_enrolment(classifier.bundle)
    for name, colour in TINTS.items():
        images = [
            paint(tmp_path / f"{name}-{shift}.png", tuple(min(255, part + shift) for part in colour))
            for shift in range(3)
        ]
        enrolment, fresh = add_class(enrolment, classifier, name, images)
        assert fresh == 3
    write_enrolment(enrolment, tmp_path / "enrolled.json")
    return tmp_path / "enrolled.json"


def test_classes_are_not_asked_of_an_artifact_without_embeddings(bundle, enrolled, fake_model, tmp_path):
    (tmp_path / "run.onnx").write_bytes(fake_model())
    with pytest.raises(BundleError, match=r"run\.onnx: gives no embedding.*Leave out the artifact"):
        Classifier.load(bundle, artifact=tmp_path / "run.onnx", enrolled=enrolled)


def test_enrolments_into_one_file_at_once_lose_no_class(bundle, tmp_path):
    classifier = Classifier.load(bundle)
    images = {f"shade-{shift}": paint(tmp_path / f"{shift}.png", (shift, 90, 30)) for shift in range(0, 240, 40)}

    def add(name: str) -> None:
        change_enrolment(
            tmp_path / "new" / "enrolled.json",
            classifier.bundle,
            lambda enrolment: add_class(enrolment, classifier, name, [images[name]])[0],
        )

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, images))
    assert set(read_enrolment(tmp_path / "new" / "enrolled.json", classifier.bundle).classes) == set(images)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["enrolled.json"]


def test_an_enrolment_that_is_refused_leaves_its_file_as_it_was(bundle, enrolled, tmp_path):
    before = enrolled.read_bytes()
    with pytest.raises(EnrolmentError, match="no class 'grey' is enrolled"):
        change_enrolment(enrolled, read_bundle(bundle), lambda enrolment: enrolment.without("grey"))
    assert enrolled.read_bytes() == before
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(EnrolmentError, match="expected a file that can be written"):
        change_enrolment(tmp_path / "file" / "x.json", read_bundle(bundle), lambda enrolment: enrolment)


def test_an_enrolled_class_is_found_beside_the_bundles_own(bundle, enrolled, tmp_path):
    classifier, plain = Classifier.load(bundle, enrolled=enrolled), Classifier.load(bundle)
    checked = 0
    for name, colour in TINTS.items():
        image = paint(tmp_path / "new.png", tuple(part - 4 for part in colour))
        (result,) = classifier.classify_many([image])
        assert result.enrolled.label == result.enrolled.best_guess == name
        assert result.enrolled.similarity > 0.95
        assert result.enrolled.confidence > 0.5
        assert (result.label, result.probabilities) == (
            plain.classify(image).label,
            plain.classify(image).probabilities,
        )
        assert classifier.classify(image) == result
        checked += 1
    assert checked == 2
    assert plain.classify(image).enrolled is None


def test_with_an_enrolment_a_large_jpeg_is_decoded_whole(bundle, enrolled, tmp_path):
    path = tmp_path / "large.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8)
    Image.fromarray(noise).save(path)
    classifier = Classifier.load(bundle, enrolled=enrolled)
    (whole,) = classifier.classify_pixels(classifier.read_pixels(path)[None])
    assert Classifier.load(bundle)._read_reduced(path)[1]
    assert not classifier._read_reduced(path)[1]
    assert classifier.classify(path) == whole


def test_an_unknown_image_is_of_no_enrolled_class(bundle, enrolled, tmp_path):
    classifier = Classifier.load(bundle, enrolled=enrolled)
    for colour in ((5, 250, 120), (250, 250, 250), (128, 128, 128)):
        match = classifier.classify(paint(tmp_path / "other.png", colour)).enrolled
        assert match.label is None
        assert match.best_guess in TINTS
        assert match.confidence <= 0.5


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_false_accepts_are_as_rare_as_promised(share):
    """Split conformal holds on average over new backgrounds, classes and unknown logos of one distribution."""
    random, taken = np.random.default_rng(1), []
    for _ in range(300):
        vectors = random.normal(size=(399 + 3 + 50, 24))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        background, prototypes, strangers = np.split(vectors, [399, 402])
        threshold = background_threshold(background, prototypes, share)
        taken.append(((strangers @ prototypes.T).max(1) >= threshold).mean())
    assert np.mean(taken) <= share * 1.15
    assert np.mean(taken) >= share * 0.6


def test_a_promise_that_the_background_is_too_small_for_is_refused():
    background = np.eye(20, dtype=np.float32)
    assert background_threshold(background, background[:1], 0.05) > 1  # none of 20 may pass, not even the same
    with pytest.raises(EnrolmentError, match="can promise 0.048 at least"):
        background_threshold(background, background[:1], 0.04)


def test_confidence_is_half_at_the_threshold_and_shared_among_classes():
    assert confidences(np.array([[0.3]]), 0.3).item() == pytest.approx(0.5)
    shares = confidences(np.array([[0.3, 0.3], [0.9, 0.1]]), 0.3)
    assert shares[0].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert shares[1, 0] > 0.9
    assert (shares.sum(1) < 1).all()


def test_images_left_out_in_turn_are_counted(bundle, enrolled):
    enrolment = read_enrolment(enrolled, read_bundle(bundle))
    assert enrolment.left_out("orange") == (3, 3)
    one = {**enrolment.classes, "orange": enrolment.classes["orange"][:1]}
    assert enrolment.with_classes(one).left_out("orange") == (0, 0)
    strange = {**enrolment.classes, "orange": (enrolment.classes["orange"][0], enrolment.classes["violet"][0])}
    assert enrolment.with_classes(strange).left_out("orange")[0] < 2


def test_the_same_image_is_learned_once_and_belongs_to_one_class(bundle, enrolled, tmp_path):
    classifier = Classifier.load(bundle)
    enrolment = read_enrolment(enrolled, classifier.bundle)
    again, fresh = add_class(enrolment, classifier, "orange", [tmp_path / "orange-0.png"] * 2)
    assert (fresh, len(again.classes["orange"])) == (0, 3)
    with pytest.raises(EnrolmentError, match="enrolled as 'orange' already"):
        add_class(enrolment, classifier, "violet", [tmp_path / "orange-0.png"])


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "tab\tbed", "red"])
def test_a_name_that_is_none_or_the_bundles_own_is_refused(bundle, tmp_path, name):
    classifier = Classifier.load(bundle)
    with pytest.raises(EnrolmentError, match="class"):
        add_class(new_enrolment(classifier.bundle), classifier, name, [paint(tmp_path / "a.png", (9, 9, 9))])


def test_names_that_look_the_same_are_one_class_or_refused(bundle, tmp_path):
    classifier, file = Classifier.load(bundle), tmp_path / "e.json"
    colours = iter(range(40, 250, 20))

    def enroll(name: str):
        picture = marked((next(colours), 90, 30), (20, 20))
        return change_enrolment(file, classifier.bundle, lambda known: add_class(known, classifier, name, [picture])[0])

    for name in ("caf\u00e9", " cafe\u0301\t", "caf\u00e9 "):
        assert list(enroll(name).classes) == ["caf\u00e9"]
    for name in ("CAF\u00c9", "Red", " RED"):
        with pytest.raises(EnrolmentError, match="which looks the same"):
            enroll(name)


def test_the_file_reads_back_as_it_was_written(bundle, enrolled, tmp_path):
    first = read_enrolment(enrolled, read_bundle(bundle))
    write_enrolment(first, tmp_path / "twin.json")
    assert (tmp_path / "twin.json").read_bytes() == enrolled.read_bytes()
    assert first.sha256 == json.loads(enrolled.read_text())["sha256"]
    assert list(first.classes) == list(TINTS)
    assert first.prototypes.shape == (2, 3)


def test_a_changed_character_anywhere_is_refused(bundle, enrolled):
    text, content, refused = enrolled.read_text(), read_bundle(bundle), 0
    for position in range(0, len(text), 7):
        if text[position].isspace():
            continue
        enrolled.write_text(text[:position] + chr(ord(text[position]) ^ 1) + text[position + 1 :])
        with pytest.raises(EnrolmentError):
            read_enrolment(enrolled, content)
        refused += 1
    assert refused > 100


def resign(path: Path, change) -> None:
    """Changes the record and updates its hash, as for a wrong file that was written."""
    record = json.loads(path.read_text())
    record.pop("sha256")
    change(record)
    path.write_text(json.dumps({**record, "sha256": _digest(record)}))


CHANGES = {
    "other format": (lambda record: record.update(format="x"), "no file of `logo-edge enroll`"),
    "newer": (lambda record: record.update(format_version=2), "format_version 2; this runtime reads 1"),
    "other bundle": (lambda record: record["bundle"].update(model="0"), "enrolled with another bundle"),
    "no bundle": (lambda record: record.pop("bundle"), "enrolled with another bundle"),
    "no classes": (lambda record: record.update(classes={}), "no class is enrolled"),
    "list": (lambda record: record.update(classes=[]), "damaged"),
    "share": (lambda record: record.update(false_accepts=1.5), "share between 0 and 1"),
    "true": (lambda record: record.update(false_accepts=True), "share between 0 and 1"),
    "empty class": (lambda record: record["classes"].update(orange=[]), "has no image"),
    "short": (lambda record: record["classes"]["orange"][0].update(whole="AAAA"), "damaged"),
    "no base64": (lambda record: record["classes"]["orange"][0].update(shown="?"), "no base64"),
    "number": (lambda record: record["classes"]["orange"][0].update(shown=3), "damaged"),
    "infinite": (lambda record: record["classes"]["orange"][0].update(shown="AACAfwAAgH8AAIB/"), "all finite"),
    "own label": (
        lambda record: record["classes"].update(red=record["classes"]["orange"]),
        "class of the bundle itself",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(bundle, enrolled, case):
    change, message = CHANGES[case]
    resign(enrolled, change)
    with pytest.raises(EnrolmentError, match=message):
        Classifier.load(bundle, enrolled=enrolled)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\x80\x04K\x01.", b"[" * 100_000, b'"\xff"'])
def test_a_file_that_is_none_is_refused(bundle, tmp_path, data):
    (tmp_path / "enrolled.json").write_bytes(data)
    with pytest.raises(EnrolmentError, match="enrolled.json: "):
        Classifier.load(bundle, enrolled=tmp_path / "enrolled.json")
    with pytest.raises(EnrolmentError, match="No such file"):
        Classifier.load(bundle, enrolled=tmp_path / "absent.json")


def test_a_bundle_without_embeddings_says_what_to_do(fake_bundle, enrolled):
    plain = read_bundle(fake_bundle())
    for ask in (read_space, new_enrolment):
        with pytest.raises(BundleError, match="logo-edge calibrate"):
            ask(plain)
    with pytest.raises(BundleError, match="logo-edge calibrate"):
        Classifier(plain).embeddings(np.zeros((1, 16, 16, 3), np.uint8))


def test_a_model_that_lacks_a_promised_output_stops_at_load(fake_bundle, fake_model):
    with pytest.raises(BundleError, match="promises .*embedding"):
        Classifier.load(fake_bundle(embedding=True, model=fake_model()))


@pytest.mark.parametrize("data", [b"", b"no npz", b"PK\x03\x04" + bytes(30)])
def test_a_space_that_cannot_be_read_is_refused(bundle, data):
    (bundle / SPACE).write_bytes(data)
    with pytest.raises(BundleError, match=f"{SPACE}: not the file that was packed"):
        read_bundle(bundle)
    with pytest.raises(BundleError, match=f"{SPACE}: cannot be read"):
        read_space(relisted(bundle))


def test_a_space_that_would_unpickle_or_does_not_fit_is_refused(bundle):
    space = read_space(read_bundle(bundle))
    whole = dict(np.load(bundle / SPACE))
    cases = {
        "cannot be read": {"mean": np.array([object()], object)},
        "expected": {"mean": whole["mean"][:2]},
        r"shapes": {"background": whole["background"][:0], "background_scale": whole["background_scale"][:0]},
        "finite": {"mean": np.full(3, np.nan, np.float32)},
        "float32": {"mean": whole["mean"].astype(np.float64)},
    }
    for message, change in cases.items():
        np.savez(bundle / SPACE, **{**whole, **change})
        with pytest.raises(BundleError, match=message):
            read_space(relisted(bundle))
    assert space.background.shape == (200, 3)


def test_a_space_is_the_same_after_writing_and_reading(tmp_path, bundle):
    random = np.random.default_rng(0)
    learned = random.normal(size=(400, 130)).astype(np.float32) * np.linspace(0.01, 9, 130, dtype=np.float32)
    space = fit_space(learned, learned[:50])
    assert space.directions.shape == (96, 130)
    np.testing.assert_allclose(np.linalg.norm(space.project(learned), axis=1), 1, atol=1e-5)
    spread = ((learned - space.mean) @ space.directions.T).std(0)
    assert spread.max() / spread.min() < 1.2  # whitened
    write_space(space, bundle / SPACE)
    restored = read_space(read_bundle_after_change(bundle))
    for name in ("mean", "directions", "background"):
        np.testing.assert_allclose(getattr(restored, name), getattr(space, name), rtol=1e-5)


def read_bundle_after_change(folder: Path):
    from dataclasses import replace

    from logo_edge.bundle.record import list_files, parse_bundle, write_bundle_record

    bundle: Bundle = parse_bundle(json.loads((folder / "bundle.json").read_text()), folder)
    write_bundle_record(replace(bundle, files=list_files(folder)))
    return read_bundle(folder)


def test_a_drawing_with_a_gap_is_embedded_in_parts_too(bundle):
    classifier = Classifier.load(bundle)
    space = read_space(classifier.bundle)
    image = Image.new("RGBA", (100, 30))
    ImageDraw.Draw(image).rectangle((0, 0, 29, 29), fill=(255, 0, 0))
    assert embed_parts(classifier, space, image).shape == (1, 3)
    ImageDraw.Draw(image).rectangle((60, 0, 99, 29), fill=(0, 0, 255))
    whole, first, second = embed_parts(classifier, space, image)
    red = next(embed_many(classifier, space, [Image.new("RGB", (30, 30), (255, 0, 0))]))
    assert first @ red == pytest.approx(1, abs=1e-5)
    assert max(whole @ red, second @ red) < 0.9


def test_a_bad_image_spoils_only_its_own_embedding(bundle, tmp_path):
    classifier = Classifier.load(bundle)
    sources = [paint(tmp_path / "a.png", (9, 200, 9)), b"no image", tmp_path / "a.png", *[b""] * 9]
    embeddings = list(embed_many(classifier, read_space(classifier.bundle), sources))
    assert [isinstance(result, ImageError) for result in embeddings] == [False, True, False, *[True] * 9]
    np.testing.assert_array_equal(embeddings[0], embeddings[2])


def test_ranking_puts_the_most_similar_first():
    vectors = np.array([[0, 1], [1, 0], [0.6, 0.8]], np.float32)
    assert [index for index, _ in rank(np.array([1, 0], np.float32), vectors)] == [1, 2, 0]
    assert rank(vectors[0], vectors)[1] == (2, pytest.approx(0.8))


def naive_groups(vectors: np.ndarray, same: float) -> list[list[int]]:
    """Average linkage by its definition, in O(N^3)."""
    groups = [[index] for index in range(len(vectors))]
    similarities = vectors @ vectors.T
    while len(groups) > 1:
        mean, one, other = max(
            (similarities[np.ix_(a, b)].mean(), -i, -j) for i, a in enumerate(groups) for j, b in enumerate(groups[:i])
        )
        if mean < same:
            break
        groups[-other] += groups.pop(-one)
    return sorted((sorted(group) for group in groups), key=lambda group: (-len(group), group))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("same", [0.2, 0.6, 0.95])
def test_groups_are_those_of_average_linkage(seed, same):
    random = np.random.default_rng(seed)
    vectors = np.repeat(random.normal(size=(9, 6)), 4, axis=0) + random.normal(size=(36, 6)) * 0.4
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert cluster(vectors, same) == naive_groups(vectors, same)


def test_grouping_is_deterministic_and_knows_its_edges():
    assert cluster(np.zeros((0, 4), np.float32)) == []
    assert cluster(np.eye(3, dtype=np.float32)) == [[0], [1], [2]]
    same = np.tile(np.eye(4, dtype=np.float32)[0], (5, 1))
    assert cluster(same) == [[0, 1, 2, 3, 4]]
    assert centre_of(np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]]), [0, 1, 2]) == 1
    with pytest.raises(LogoEdgeError, match="at most 10,000"):
        cluster(np.broadcast_to(np.float32(0), (MAX_CLUSTERED + 1, 2)))


def run(app, *arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_enrolls_lists_classifies_and_removes(bundle, tmp_path):
    file, image = tmp_path / "mine.json", paint(tmp_path / "o.png", TINTS["orange"])
    common = ("--file", file, "--bundle", bundle)
    enrolled = run(verbs.enroll, "acme", image, *common)
    assert enrolled.exit_code == 0, enrolled.output
    assert "1 new image of acme" in enrolled.stdout
    listed = json.loads(run(verbs.enroll, "--list", "--json", *common).stdout)
    assert listed["classes"] == [{"class": "acme", "images": 1, "found_when_left_out": None}]
    assert listed["false_accepts"] == 0.05
    result = run(classify, "--bundle", bundle, "--enrolled", file, "--json", image)
    record = json.loads(result.stdout)[0]
    assert record["enrolled"]["label"] == "acme"
    assert "enrolled: acme" in run(classify, "--bundle", bundle, "--enrolled", file, image).stdout
    assert "enrolled" not in json.loads(run(classify, "--bundle", bundle, "--json", image).stdout)[0]
    assert run(verbs.enroll, "--remove", "acme", *common).exit_code == 0
    assert json.loads(run(verbs.enroll, "--list", "--json", *common).stdout)["classes"] == []
    assert isinstance(run(verbs.enroll, "--remove", "acme", *common).exception, EnrolmentError)


def test_a_table_has_the_enrolled_classes_and_resumes_only_with_the_same_enrolment(bundle, enrolled, tmp_path):
    folder = tmp_path / "logos"
    folder.mkdir()
    paint(folder / "a.png", TINTS["orange"])
    paint(folder / "b.png", (0, 0, 0))
    (folder / "c.png").write_bytes(b"no image")
    tables = {}
    for suffix in WRITERS:
        out = tmp_path / f"table{suffix}"
        done = run(classify, "--bundle", bundle, "--enrolled", enrolled, "--out", out, folder)
        assert "3 images, 1 of them failed" in done.stdout, done.exception
        tables[suffix] = out
    rows = parquet.read_table(tables[".parquet"]).to_pylist()
    lines = [json.loads(line) for line in tables[".jsonl"].read_text().splitlines()]
    commas = list(csv.DictReader(tables[".csv"].read_text().splitlines()))
    assert [row["enrolled"] for row in rows] == ["orange", None, None]
    assert [row["enrolled"] for row in commas] == ["orange", "", ""]
    assert rows[1]["enrolled_best_guess"] == commas[1]["enrolled_best_guess"] == lines[1]["enrolled"]["best_guess"]
    for key in ("similarity", "confidence"):
        value = lines[0]["enrolled"][key]
        assert rows[0][f"enrolled_{key}"] == pytest.approx(value, abs=1e-6)
        assert float(commas[0][f"enrolled_{key}"]) == value
    classifier = Classifier.load(bundle, enrolled=enrolled)
    with Journal(tmp_path / "other.csv", classifier.labels, describe_settings(classifier)):
        pass
    run(verbs.enroll, "--bundle", bundle, "--file", enrolled, "third", folder / "b.png")
    for more in ((), ("--enrolled", enrolled)):
        done = run(classify, "--bundle", bundle, *more, "--out", tmp_path / "other.csv", folder)
        assert "begun with another enrolment_sha256" in str(done.exception)


def test_the_command_changes_nothing_if_an_image_cannot_be_read(bundle, tmp_path):
    file = tmp_path / "mine.json"
    (tmp_path / "bad.png").write_bytes(b"no image")
    result = run(
        verbs.enroll,
        "acme",
        paint(tmp_path / "o.png", TINTS["orange"]),
        tmp_path / "bad.png",
        "--file",
        file,
        "--bundle",
        bundle,
    )
    assert isinstance(result.exception, ImageError)
    assert not file.exists()


def test_only_what_was_written_is_reported_as_enrolled(bundle, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("logo_edge.likeness.enroll.write_file", full)
    result = run(
        verbs.enroll,
        "acme",
        paint(tmp_path / "o.png", TINTS["orange"]),
        "--file",
        tmp_path / "e.json",
        "--bundle",
        bundle,
    )
    assert isinstance(result.exception, EnrolmentError)
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["acme"], ["--list", "acme", "x.png"], ["--list", "--remove", "acme"]])
def test_wrong_usage_exits_with_two(bundle, arguments):
    assert run(verbs.enroll, *arguments, "--bundle", bundle).exit_code == 2


def test_similar_and_cluster_print_what_they_find(bundle, tmp_path):
    folder = tmp_path / "logos"
    folder.mkdir()
    for index, colour in enumerate((TINTS["orange"], TINTS["violet"], (249, 119, 6), (118, 4, 249))):
        paint(folder / f"{index}.png", colour)
    (folder / "bad.png").write_bytes(b"no image")
    options = ("--bundle", bundle)
    ranked = run(verbs.similar, folder / "0.png", folder, "--top-k", 2, "--json", *options)
    record = json.loads(ranked.stdout)
    assert ranked.exit_code == 1
    assert [Path(result["path"]).name for result in record["results"]] == ["0.png", "2.png"]
    assert [Path(error["path"]).name for error in record["errors"]] == ["bad.png"]
    assert "bad.png" in ranked.stderr
    (folder / "bad.png").unlink()
    ranked = run(verbs.similar, folder / "0.png", folder, "--csv", *options)
    assert (ranked.exit_code, ranked.stdout.splitlines()[0], len(ranked.stdout.splitlines())) == (
        0,
        "rank,similarity,path",
        5,
    )
    groups = json.loads(run(verbs.cluster, folder, "--json", *options).stdout)["groups"]
    assert [[Path(path).name for path in group] for group in groups] in (
        [["0.png", "2.png"], ["1.png", "3.png"]],
        [["2.png", "0.png"], ["3.png", "1.png"]],
        [["0.png", "2.png"], ["3.png", "1.png"]],
        [["2.png", "0.png"], ["1.png", "3.png"]],
    )
    assert "group 1: 2 images" in run(verbs.cluster, folder, *options).stdout
    for app, arguments in (
        (verbs.cluster, [tmp_path / "absent"]),
        (verbs.similar, [folder / "0.png", tmp_path / "absent"]),
    ):
        assert isinstance(run(app, *arguments, *options).exception, LogoEdgeError)


def test_the_constants_are_those_that_val_chose():
    chosen = json.loads((ROOT / "benchmarks" / "results" / "enroll.json").read_text())["chosen"]
    assert (chosen["sharpness"], chosen["same"]) == (SHARPNESS, SAME_LOGO)


@pytest.mark.parametrize("name", BUNDLES)
def test_the_committed_bundles_know_their_own_drawings_again(name, tmp_path):
    classifier = Classifier.load(BUNDLES[name])
    enrolment = new_enrolment(classifier.bundle)
    samples = sorted(SAMPLES.glob("*.png"))
    for sample in samples[:3]:
        enrolment, _ = add_class(enrolment, classifier, sample.stem, [sample])
    write_enrolment(enrolment, tmp_path / "enrolled.json")
    results = Classifier.load(BUNDLES[name], enrolled=tmp_path / "enrolled.json").classify_many(samples)
    labels = [result.enrolled.label for result in results]
    assert labels[:3] == [sample.stem for sample in samples[:3]]
    assert labels[3:].count(None) >= 4
