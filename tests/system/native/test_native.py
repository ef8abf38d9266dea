"""The C++ example: the same pixels, probabilities and decisions as Python, and the same refusals."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from contract.cases import RED_EPISTEMIC, contract_of, encode, encoded_images, jpeg_of_vector, write_epistemic_bundle
from fuzz.bombs import bombs, chunk, noisy_progressive, png, tiff
from fuzz.mutants import run_native, write_mutants
from PIL import Image

from logo_edge import Classifier, ImageError, InputContract, Mode, load_image, preprocess
from logo_edge.bundle.record import DEFAULT_BUNDLE, DIGEST, RECORD, list_files, write_record
from logo_edge.preprocess import CROP, LETTERBOX
from logo_edge.privacy import VARIABLES

ROOT = Path(__file__).parents[3]
CONTRACT = ROOT / "tests" / "contract"
SAMPLES = sorted((ROOT / "runtime" / "logo_edge" / "samples").glob("*.png"))
BUNDLES = {"default": DEFAULT_BUNDLE, "robust": ROOT / "runtime" / "bundles" / "robust"}
OTHERS = ("jpeg-cmyk", "webp-alpha", "webp-every-alpha", "gif-transparency", "bmp")
pytestmark = pytest.mark.slow


def oriented_images() -> dict[str, bytes]:
    """A JPEG and a PNG in each EXIF orientation."""
    image, files = Image.open(SAMPLES[3]).convert("RGB").crop((0, 0, 170, 120)), {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"turned-{orientation}.jpg"] = encode(image, "JPEG", exif=exif)
        files[f"turned-{orientation}.png"] = encode(image, "PNG", exif=exif)
    return files


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    """Files of every encoding that the example reads."""
    folder = tmp_path_factory.mktemp("images")
    chosen = {name: data for name, data in encoded_images().items() if name not in OTHERS} | oriented_images()
    for name, data in chosen.items():
        (folder / name).write_bytes(data)
    paths = sorted(folder.iterdir())
    assert len(paths) >= 38
    return paths


def told(contract: InputContract) -> tuple[str, str, str]:
    """The contract as the arguments of the program `contract`."""
    return str(contract.size_px), str(int(contract.details)), str(int(contract.fit == CROP))


def records(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize(
    ("size_px", "fit"), [(16, LETTERBOX), (96, LETTERBOX), (96, CROP), (128, CROP), (160, LETTERBOX)]
)
def test_an_image_is_decoded_and_preprocessed_to_the_byte(programs, images, size_px, fit):
    contract = InputContract(size_px, details=size_px == 96, fit=fit)
    batch = np.frombuffer(programs.show("preprocess", *told(contract), *images), np.uint8)
    batch = batch.reshape(len(images), size_px, size_px, contract.channels)
    for path, pixels in zip(images, batch, strict=True):
        assert np.array_equal(pixels, preprocess(load_image(path, fast=False), contract)), path.name


def test_the_contract_s_images_are_preprocessed_to_the_byte(programs):
    vectors = json.loads((CONTRACT / "preprocess_vectors.json").read_text())["vectors"]
    assert len(vectors) >= 20
    for vector in vectors:
        pixels = programs.show("preprocess", *told(contract_of(vector)), ROOT / vector["image"])
        assert pixels == Image.open(ROOT / vector["expected"]).tobytes(), vector["expected"]
        blank = programs.show("is_blank", *told(contract_of(vector)), ROOT / vector["image"])
        assert bool(int(blank)) == vector["blank"], vector["expected"]


def test_a_jpeg_is_read_within_the_contract_s_limits_and_refused_beyond(programs, tmp_path):
    vectors = json.loads((CONTRACT / "jpeg_limit_vectors.json").read_text())["vectors"]
    assert len(vectors) >= 12
    paths = [tmp_path / f"{index}.jpg" for index in range(len(vectors))]
    for path, vector in zip(paths, vectors, strict=True):
        path.write_bytes(jpeg_of_vector(vector))
    for vector, line in zip(vectors, programs.show("size", *paths).decode().splitlines(), strict=True):
        if vector["size"]:
            assert line == "{} {}".format(*vector["size"])
        else:
            assert "scans of" in line or "pixels; expected" in line


def test_progressive_jpegs_that_cost_much_are_given_up_in_time(programs, tmp_path):
    for index, scans in enumerate((300, 16_000)):
        (tmp_path / f"{index}.jpg").write_bytes(noisy_progressive(200, 200, scans))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    few, many = programs.show("size", tmp_path / "0.jpg", tmp_path / "1.jpg").decode().splitlines()
    assert few == "200 200"
    assert "scans" in many
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 4


def test_grey_values_of_fewer_bits_and_odd_files_are_read_or_named_as_in_python(programs, tmp_path):
    image = Image.open(SAMPLES[3]).convert("RGB").crop((0, 0, 170, 120))
    jpeg, plain = encode(image, "JPEG", quality=90), encode(image, "PNG")
    gradual = encode(image, "JPEG", quality=90, progressive=True)
    files = {
        "without its end": jpeg[:-2],
        "cut": jpeg[:-400],
        "scans": gradual[:-2],
        "without a scan": gradual[: gradual.rindex(b"\xff\xc4")],
        "iphone": plain[:8] + chunk(b"CgBI", b"1234") + plain[8:],
    }
    for bits in (8, 10, 12, 14, 16):
        values = np.asarray(image.convert("L")).astype(np.uint16) << bits - 8
        files[f"{bits} bits"] = encode(Image.fromarray(values), "PNG")
        files[f"{bits} bits, one clear"] = encode(Image.fromarray(values), "PNG", transparency=int(values[0, 0]))
    for kind, value in ((2, 6), (3, 0), (3, 9), (3, 6), (4, 6)):
        block = tiff([(0x0112, kind, 1, value)])
        files[f"orientation {kind} {value}"] = encode(image, "JPEG", exif=b"Exif\0\0" + block)
    dark = zlib.compress(b"\0" + struct.pack(">6H", 4095, 2000, 0, 0, 4095, 4095))
    files["colours of 12 bits"] = png(2, 1, 16, 2, dark)
    paths = []
    for name, data in files.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    lines, read = programs.show("size", *paths).decode().splitlines(), []
    for path, line in zip(paths, lines, strict=True):
        try:
            expected = "{} {}".format(*load_image(path).size)
            read.append(path)
        except ImageError as error:
            expected = next(word for word in ("CgBI", "12 of them", "damaged") if word in str(error))
        assert expected in line, path.name
    assert len(read) == len(paths) - 4
    pixels = np.frombuffer(programs.show("preprocess", *told(InputContract(96)), *read), np.uint8).reshape(
        len(read), 96, 96, 3
    )
    for path, square in zip(read, pixels, strict=True):
        assert np.array_equal(square, preprocess(load_image(path, fast=False), InputContract(96))), path.name


def test_the_contract_s_logits_give_its_decisions(programs):
    vectors = json.loads((CONTRACT / "decision_vectors.json").read_text())["vectors"]
    decisions = json.loads(programs.show("decide", CONTRACT / "decision_vectors.json"))
    assert len(vectors) == len(decisions) >= 60
    for vector, decision in zip(vectors, decisions, strict=True):
        assert (decision["label"], decision["best_guess"], decision["reason"]) == (
            vector["label"],
            vector["best_guess"],
            vector["reason"],
        )
        assert decision["confidence"] == pytest.approx(vector["confidence"], abs=1e-9)
        assert decision["logo_score"] == pytest.approx(vector["logo_score"], abs=1e-9)
        assert decision["is_logo"] == vector["is_logo"]
        assert decision["high_confidence"] == vector["high_confidence"]
        assert decision["low_confidence"] == vector["low_confidence"]
        assert not decision["has_set"]


def test_the_contract_s_logits_give_its_labels_where_an_image_may_have_several(programs):
    vectors = json.loads((CONTRACT / "multi_label_vectors.json").read_text())["vectors"]
    decisions = json.loads(programs.show("decide", CONTRACT / "multi_label_vectors.json"))
    assert len(vectors) == len(decisions) >= 60
    for vector, decision in zip(vectors, decisions, strict=True):
        assert decision["labels"] == vector["given"]
        for name in ("label", "best_guess", "reason", "is_logo", "high_confidence", "low_confidence"):
            assert decision[name] == vector[name]
        for name in ("confidence", "logo_score", "entropy"):
            assert decision[name] == pytest.approx(vector[name], abs=1e-9)


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("mode", list(Mode))
def test_a_committed_bundle_decides_as_in_python_from_file_to_prediction_set(programs, images, bundle, mode):
    paths = [*SAMPLES, *images]
    classifier = Classifier.load(BUNDLES[bundle], mode=mode)
    done = programs.classify("--mode", mode, BUNDLES[bundle], *paths)
    assert done.returncode == 0, done.stderr
    for path, result, expected in zip(paths, records(done.stdout), classifier.classify_many(paths), strict=True):
        assert result["path"] == str(path)
        assert result["probabilities"] == pytest.approx(expected.probabilities, abs=1e-3)
        assert (result["label"], result["best_guess"]) == (expected.label, expected.best_guess)
        assert result["reason"] == expected.reason
        assert tuple(result["prediction_set"]) == classifier.prediction_set(expected, 0.95)


def test_a_threshold_and_a_coverage_may_be_asked_for(programs):
    done = programs.classify("--threshold", "0.993", "--coverage", "0.99", DEFAULT_BUNDLE, *SAMPLES)
    strict, usual = Classifier.load(DEFAULT_BUNDLE, threshold=0.993), Classifier.load(DEFAULT_BUNDLE)
    expected = list(strict.classify_many(SAMPLES))
    sets = [strict.prediction_set(wanted, 0.99) for wanted in expected]
    assert [result["label"] for result in records(done.stdout)] == [wanted.label for wanted in expected]
    assert [tuple(result["prediction_set"]) for result in records(done.stdout)] == sets
    assert [wanted.label for wanted in expected] != [wanted.label for wanted in usual.classify_many(SAMPLES)]
    assert sets != [strict.prediction_set(wanted, 0.9) for wanted in expected]


def test_an_epistemic_output_is_told_apart_from_the_rest(programs, tmp_path, fake_bundle, fake_model):
    for colour in ("red", "black"):
        (tmp_path / f"{colour}.png").write_bytes(encode(Image.new("RGB", (20, 10), colour), "PNG"))
    folder = write_epistemic_bundle(fake_bundle, fake_model)
    red, black = records(programs.classify(folder, tmp_path / "red.png", tmp_path / "black.png").stdout)
    assert red["epistemic"] == pytest.approx(RED_EPISTEMIC, abs=1e-4)
    entropy = -sum(share * np.log(share) for share in red["probabilities"].values())
    assert red["aleatoric"] == pytest.approx(entropy - red["epistemic"], abs=1e-6)
    assert black["epistemic"] == 0
    assert black["prediction_set"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a bundle and at least one image"),
        (["--mode", "lenient"], "mode lenient; expected best-guess, balanced or strict"),
        (["--threshold", "2"], "2; expected a number from 0 to 1"),
        (["--coverage", "0.7"], "no prediction sets at level 0.7; it is none of the bundle's levels"),
        (["--colour", "red"], "--colour: no such option"),
    ],
)
def test_usage_that_does_not_fit_is_refused(programs, arguments, message):
    done = programs.classify(*arguments, *([DEFAULT_BUNDLE, SAMPLES[0]] if arguments else []))
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_what_is_no_image_is_told_and_the_others_are_classified(programs, tmp_path):
    png, jpeg = SAMPLES[0].read_bytes(), encode(Image.open(SAMPLES[0]).convert("RGB"), "JPEG")
    bad = {
        "empty": b"",
        "text": b"no image",
        "cut.png": png[:900],
        "cut.jpg": jpeg[:900],
        "cmyk.jpg": encoded_images()["jpeg-cmyk"],
        "bomb.png": png[:16] + b"\0\0\xff\xff" * 2 + png[24:],
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    done = programs.classify(
        DEFAULT_BUNDLE, *(tmp_path / name for name in bad), tmp_path / "none", tmp_path, SAMPLES[0]
    )
    assert done.returncode == 1
    *failed, good = records(done.stdout)
    assert len(failed) == len(bad) + 2
    assert all(set(record) == {"path", "error"} for record in failed)
    assert "CMYK" in failed[4]["error"]
    assert good["label"] == "simple"


def test_no_bomb_takes_two_seconds(programs, tmp_path):
    assert len(bombs()) >= 20
    for name, data in bombs().items():
        (tmp_path / "bomb").write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert programs.classify(DEFAULT_BUNDLE, tmp_path / "bomb").returncode in (0, 1)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2, name


def test_no_mutated_file_brings_it_down(programs, tmp_path, images):
    generator, paths = np.random.default_rng(0), []
    seeds = [path for path in images if path.stat().st_size < 20_000]
    for index in range(400):
        data = bytearray(seeds[index % len(seeds)].read_bytes())
        for _ in range(int(generator.integers(1, 8))):
            data[int(generator.integers(len(data)))] = int(generator.integers(256))
        paths.append(tmp_path / f"{index}")
        paths[-1].write_bytes(data[: int(generator.integers(8, len(data) + 1))] if index % 3 == 0 else data)
    done = programs.classify(DEFAULT_BUNDLE, *paths)
    assert done.returncode == 1
    results = records(done.stdout)
    assert len(results) == len(paths)
    assert 100 < sum("error" in record for record in results) < 400


def test_every_mutant_is_answered_in_time_by_itself(programs, tmp_path):
    findings = run_native(programs.example, write_mutants(tmp_path, 120), DEFAULT_BUNDLE)
    assert findings.broken == []
    assert sum(findings.errors.values()) + sum(findings.classified.values()) == findings.files > 100
    assert findings.classified["control"] == 6
    assert findings.slowest_cpu_s < 2
    assert findings.peak_memory_mb < 600


def flip(name):
    def damage(folder, _):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return damage


def change(*path, value):
    def damage(_, record):
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip("model.onnx"), "model.onnx: not the file that was packed"),
        (flip("card.md"), "card.md: not the file that was packed"),
        (flip("vectors/0.png"), "vectors/0.png: not the file that was packed"),
        (lambda folder, _: (folder / "card.md").unlink(), "card.md: cannot be read"),
        (lambda folder, _: (folder / DIGEST).unlink() or True, "bundle.sha256: cannot be read"),
        (
            lambda folder, record: (folder / RECORD).write_text(json.dumps(record)),
            "bundle.json: not what bundle.sha256 says",
        ),
        (
            change("files", "../secret", value={"sha256": "0" * 64, "size_bytes": 1}),
            "../secret leads out of the bundle",
        ),
        (
            change("files", "/etc/passwd", value={"sha256": "0" * 64, "size_bytes": 1}),
            "/etc/passwd leads out of the bundle",
        ),
        (change("format_version", value=3), 'this program reads "logo-edge-bundle", version 2'),
        (change("members", value=[{}, {}]), "an ensemble of 2 models, which is for servers"),
        (change("labels", value=["a", "b"]), "the model gives another number of classes"),
        (change("input", "size_px", value=17), "the model reads another size"),
        (change("input", "details", value=True), "another size or number of channels"),
        (change("input", "details", value="yes"), "the bundle is damaged"),
        (change("input", "fit", value="stretch"), "input: expected fit letterbox or crop"),
        (change("calibration", "temperature", value=0), "expected a temperature above 0"),
        (
            change("calibration", "abstain_below", value={"best-guess": 0}),
            "calibration.abstain_below: a mode is missing",
        ),
        (change("calibration", "scaling", value={"weight": [[1]], "bias": [0]}), "calibration.scaling"),
        (change("calibration", value=None), "the bundle is damaged"),
        (change("model", "output_name", value="other"), "the model gives another number of classes"),
    ],
)
def test_a_bundle_that_is_not_whole_is_refused(programs, fake_bundle, damage, message):
    folder = fake_bundle()
    record = json.loads((folder / RECORD).read_text())
    assert {"card.md", "model.onnx", "vectors/0.png"} <= set(list_files(folder))
    if damage(folder, record) is None:
        write_record(folder, json.dumps(record).encode())
    done = programs.classify(folder, SAMPLES[0])
    assert done.returncode == 2
    assert message in done.stderr


def test_a_bundle_that_is_not_there_or_no_json_is_refused(programs, tmp_path, fake_bundle):
    missing = programs.classify(tmp_path, SAMPLES[0])
    write_record(fake_bundle(), SAMPLES[0].read_bytes())
    damaged = programs.classify(tmp_path / "bundle-1", SAMPLES[0])
    unset = programs.classify("", SAMPLES[0])
    assert missing.returncode == damaged.returncode == unset.returncode == 2
    assert "found an empty name; expected a bundle's folder" in unset.stderr
    assert "bundle.json: cannot be read" in missing.stderr
    assert "bundle.json: not JSON (byte 1); the bundle is damaged" in damaged.stderr


@pytest.mark.parametrize(("setting", "written"), [({}, False), ({"ORT_DISABLE_TELEMETRY": "0"}, True)])
def test_it_leaves_nothing_in_the_home_folder_unless_the_user_lets_onnx_runtime_report(
    programs, tmp_path, setting, written
):
    silencing = {*VARIABLES, "CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in silencing}
    command = [programs.example, DEFAULT_BUNDLE, SAMPLES[0]]
    done = subprocess.run(
        command, env=environment | {"HOME": str(tmp_path)} | setting, cwd=tmp_path, capture_output=True, check=True
    )
    assert json.loads(done.stdout)["label"]
    assert any(tmp_path.rglob("*")) is written
