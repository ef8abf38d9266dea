"""logo-edge-web in Chromium: the same pixels, probabilities and decisions as Python, and the same refusals."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import struct
import uuid
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from contract.cases import RED_EPISTEMIC, contract_of, encode, encoded_images, jpeg_of_vector, write_epistemic_bundle
from fuzz.bombs import bombs, chunk
from fuzz.mutants import keep_findings, run_web, write_mutants
from pictures import marked
from PIL import Image
from system.browser.chromium import WEBGPU, launch
from system.web.serving import node

from logo_edge import Classifier, InputContract, Mode, load_image, preprocess
from logo_edge.bundle.calibration import Conformal
from logo_edge.bundle.record import DEFAULT_BUNDLE, DIGEST, RECORD, VECTORS, list_files, write_record
from logo_edge.explain import STEPS, occlusion
from logo_edge.preprocess import CROP, LETTERBOX

ROOT = Path(__file__).parents[3]
CONTRACT = ROOT / "tests" / "contract"
SAMPLES = sorted((ROOT / "runtime" / "logo_edge" / "samples").glob("*.png"))
BUNDLES = {"demo/bundle": DEFAULT_BUNDLE, "robust": ROOT / "runtime" / "bundles" / "robust"}
BYTES = "const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));"
PREPROCESS = (
    "async ([image, inputs]) => {"
    + BYTES
    + """
  const pixels = await logo.loadImage(new Blob([bytes(image)]));
  return inputs.map(([size_px, details, fit]) => {
    const backgrounds = { light_background: [255, 255, 255], dark_background: [60, 60, 60] };
    const contract = { size_px, details, fit, ...backgrounds, dark_above_luminance: 225 };
    let text = "";
    for (const byte of logo.preprocess(pixels, contract)) text += String.fromCharCode(byte);
    return btoa(text);
  });
}"""
)
CLASSIFY = (
    "async ([bundle, images, options]) => {"
    + BYTES
    + """
  const classifier = await logo.Classifier.load(bundle, options);
  const results = [];
  for await (const result of classifier.classifyMany(images.map((image) => new Blob([bytes(image)])))) {
    results.push(result instanceof logo.ImageError ? { error: result.message } : result);
  }
  await classifier.release();
  return results;
}"""
)
ONE_STEP = 0.009  # of a probability, where an INT8 logit is rounded to its neighbour, 0.035 away
LOAD_ERROR = """async (bundle) => {
  try {
    await logo.Classifier.load(bundle, { selfTest: true });
    return null;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}"""


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


IMAGES = encoded_images()


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_is_decoded_and_preprocessed_to_the_byte(page, image):
    inputs = [
        (16, False, LETTERBOX),
        (96, False, LETTERBOX),
        (96, True, LETTERBOX),
        (128, False, CROP),
        (160, True, CROP),
    ]
    outputs = page.evaluate(PREPROCESS, [base64_of(IMAGES[image]), inputs])
    for (size_px, details, fit), pixels in zip(inputs, outputs, strict=True):
        contract = InputContract(size_px, details=details, fit=fit)
        expected = preprocess(load_image(IMAGES[image], fast=False), contract)
        assert np.array_equal(np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(expected.shape), expected)


SIZES = (
    "async (images) => {"
    + BYTES
    + """
  const results = [];
  for (const image of images) {
    try {
      const { width, height } = await logo.loadImage(new Blob([bytes(image)]));
      results.push([width, height]);
    } catch (error) { results.push(`${error.name}: ${error.message}`); }
  }
  return results;
}"""
)


def test_a_jpeg_is_read_within_the_contract_s_limits_and_refused_beyond(page):
    vectors = json.loads((CONTRACT / "jpeg_limit_vectors.json").read_text())["vectors"]
    assert len(vectors) >= 12
    results = page.evaluate(SIZES, [base64_of(jpeg_of_vector(vector)) for vector in vectors])
    for vector, result in zip(vectors, results, strict=True):
        if vector["size"] and vector["scans"] == 1:
            assert result == vector["size"]
        elif vector["size"]:  # Chromium stops after a few hundred scans by itself
            assert result == vector["size"] or "not an image that this browser can read" in result
        else:
            assert "scans of" in result or "Scale it down" in result


def test_what_a_header_promises_is_checked_before_the_browser_decodes(page):
    data = {name: bombs()[name] for name in ("png", "ico of a png", "ico of a bitmap", "webp canvas", "scans")}
    data["gif"] = b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
    data["bmp"] = b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 60_000, 60_000, 1, 24) + bytes(24)
    plain = encode(Image.new("RGB", (9, 9)), "PNG")
    data["iphone"] = plain[:8] + chunk(b"CgBI", b"1234") + plain[8:]
    data["12 bits"] = encode(Image.fromarray(np.full((9, 9), 4095, np.uint16)), "PNG")
    for name, result in zip(data, page.evaluate(SIZES, [base64_of(file) for file in data.values()]), strict=True):
        assert re.search("at most 16000000 are read|scans of|CgBI|12 of them", result), (name, result)


@pytest.mark.parametrize(
    ("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("WEBP", {"quality": 90})]
)
def test_of_an_animation_the_first_frame_that_is_not_blank_is_taken(page, kind, options):
    frames = [Image.new("RGB", (40, 30), "white"), Image.new("RGB", (40, 30), "black"), marked("teal", (40, 30))]
    data = io.BytesIO()
    frames[0].save(data, kind, save_all=True, append_images=frames[1:], duration=50, **options)
    (pixels,) = page.evaluate(PREPROCESS, [base64_of(data.getvalue()), [(32, False)]])
    decoded = np.frombuffer(base64.b64decode(pixels), np.uint8)
    expected = preprocess(load_image(data.getvalue()), InputContract(32, (255, 255, 255), (60, 60, 60), 225)).ravel()
    assert decoded.std() > 5
    assert np.abs(decoded.astype(int) - expected).max() <= (0 if kind != "WEBP" or "lossless" in options else 3)


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_an_animation_of_blank_frames_or_a_damaged_one_gives_its_first_frame(page, kind):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("white", "black")]
    data = io.BytesIO()
    frames[0].save(data, kind, save_all=True, append_images=frames[1:])
    for content in (data.getvalue(), data.getvalue()[:-20]):
        (pixels,) = page.evaluate(PREPROCESS, [base64_of(content), [(32, False)]])
        assert set(base64.b64decode(pixels)) == {255}


def test_every_mutant_is_answered_in_time_by_itself(page, tmp_path):
    count = int(os.environ.get("LOGO_EDGE_MUTANTS", "120"))
    findings = run_web(page, write_mutants(tmp_path, count))
    if target := os.environ.get("LOGO_EDGE_MUTANTS_OUT"):
        keep_findings(Path(target), "web", findings)
    assert findings.broken == []
    assert sum(findings.errors.values()) + sum(findings.classified.values()) == findings.files > 0.8 * count
    assert findings.classified["control"] == -(-count // 20)
    assert findings.slowest_cpu_s < 2


def test_the_contract_s_images_are_preprocessed_to_the_byte(page):
    vectors = json.loads((CONTRACT / "preprocess_vectors.json").read_text())["vectors"]
    assert len(vectors) >= 20
    for vector in vectors:
        contract = contract_of(vector)
        image = base64_of((ROOT / vector["image"]).read_bytes())
        (encoded,) = page.evaluate(PREPROCESS, [image, [(contract.size_px, contract.details, contract.fit)]])
        assert base64.b64decode(encoded) == Image.open(ROOT / vector["expected"]).tobytes(), vector["expected"]
        blank = page.evaluate(
            "([text, channels]) => logo.isBlank(Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0)), channels)",
            [encoded, contract.channels],
        )
        assert blank == vector["blank"], vector["expected"]


DECIDE = """([record, logits, isBlank, mode, threshold]) => {
  const bundle = logo.parseBundle(new TextEncoder().encode(JSON.stringify(record)));
  const output = { logits: Float32Array.from(logits), epistemic: null, isBlank };
  return new logo.Classifier(bundle, null, { mode, threshold }).decide(output);
}"""


def test_the_contract_s_logits_give_its_decisions(page, fake_bundle):
    record = json.loads((fake_bundle() / RECORD).read_text())
    vectors = json.loads((CONTRACT / "decision_vectors.json").read_text())["vectors"]
    assert len(vectors) >= 60
    for vector in vectors:
        below, strict = vector["abstain_below"], vector["strict_below"]
        threshold = vector["not_a_logo_below"]
        record["labels"] = vector["labels"]
        record["calibration"] = {
            "temperature": vector["temperature"],
            "scaling": vector["scaling"],
            "conformal": [],
            "abstain_below": {"best-guess": 0, "balanced": below, "strict": strict},
            "familiarity": None if threshold is None else {"threshold": threshold, "false_positive_rate": 0.05},
        }
        decision = page.evaluate(DECIDE, [record, vector["logits"], vector["blank"], vector["mode"], None])
        assert (decision["label"], decision["bestGuess"], decision["reason"]) == (
            vector["label"],
            vector["best_guess"],
            vector["reason"],
        )
        assert decision["confidence"] == pytest.approx(vector["confidence"], abs=1e-9)
        assert decision["logoScore"] == pytest.approx(vector["logo_score"], abs=1e-9)
        assert decision["isLogo"] == vector["is_logo"]
        assert decision["highConfidence"] == vector["high_confidence"]
        assert decision["lowConfidence"] == vector["low_confidence"]


def test_the_contract_s_logits_give_its_labels_where_an_image_may_have_several(page, fake_bundle):
    record = json.loads((fake_bundle() / RECORD).read_text())
    vectors = json.loads((CONTRACT / "multi_label_vectors.json").read_text())["vectors"]
    assert len(vectors) >= 60
    for vector in vectors:
        threshold = vector["not_a_logo_below"]
        record["labels"] = vector["labels"]
        record["calibration"] = {
            "temperature": vector["temperature"],
            "scaling": vector["scaling"],
            "conformal": [],
            "abstain_below": {"best-guess": 0, "balanced": vector["abstain_below"], "strict": vector["strict_below"]},
            "familiarity": None if threshold is None else {"threshold": threshold, "false_positive_rate": 0.05},
            "label_thresholds": vector["label_thresholds"],
        }
        decision = page.evaluate(
            DECIDE, [record, vector["logits"], vector["blank"], vector["mode"], vector["threshold"]]
        )
        assert decision["labels"] == vector["given"]
        assert (decision["label"], decision["bestGuess"], decision["reason"]) == (
            vector["label"],
            vector["best_guess"],
            vector["reason"],
        )
        assert list(decision["probabilities"].values()) == pytest.approx(vector["probabilities"], abs=1e-9)
        assert decision["aleatoric"] == pytest.approx(vector["entropy"], abs=1e-9)
        assert decision["highConfidence"] == vector["high_confidence"]
        assert decision["lowConfidence"] == vector["low_confidence"]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_committed_bundle_decides_as_in_python_from_file_to_prediction_set(page, bundle):
    images = [path.read_bytes() for path in SAMPLES] + list(IMAGES.values())
    assert len(images) >= 30
    abstained = 0
    for mode in Mode:
        classifier = Classifier.load(BUNDLES[bundle], mode=mode)
        results = page.evaluate(CLASSIFY, [bundle, list(map(base64_of, images)), {"mode": mode}])
        for expected, result in zip(classifier.classify_many(images), results, strict=True):
            assert result["probabilities"] == pytest.approx(expected.probabilities, abs=ONE_STEP)
            assert (result["label"], result["bestGuess"]) == (expected.label, expected.best_guess)
            assert result["reason"] == expected.reason
            assert tuple(result["predictionSet"]) == classifier.prediction_set(expected, 0.95)
            abstained += result["label"] is None
    assert 0 < abstained < 2 * len(images)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_golden_vectors_of_a_committed_bundle_hold(page, bundle):
    assert page.evaluate("async (bundle) => (await logo.Classifier.load(bundle)).runVectors()", bundle) >= 8


@pytest.fixture
def webgpu_page(browser, package, server, site):
    """The empty page in a Chromium whose WebGPU is SwiftShader, with a demo that has the backend's files."""
    if not (site / "gpu").exists():
        done = node("build.js", "--webgpu", "--bundle", DEFAULT_BUNDLE, "--out", site / "gpu", folder=package)
        assert done.returncode == 0, done.stderr
        (site / "gpu.html").write_text((site / "harness.html").read_text().replace("./demo/", "./gpu/"))
    other = launch(browser.browser_type, WEBGPU)
    opened = other.new_page()
    opened.goto(f"{server.url}/gpu.html")
    opened.wait_for_function("window.logo")
    opened.set_default_timeout(300_000)
    yield opened
    other.close()


LOAD_ON = """async ([bundle, backend]) => {
  try {
    const classifier = await logo.Classifier.load(bundle, { backend });
    const count = await classifier.runVectors();
    await classifier.release();
    return count;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
}"""


@pytest.mark.slow
def test_on_webgpu_a_bundle_runs_if_it_gives_its_golden_vectors_and_is_refused_if_not(webgpu_page, damaged):
    assert webgpu_page.evaluate(LOAD_ON, ["gpu/bundle", "webgpu"]) >= 8

    def shift(folder, record):
        vectors = json.loads((folder / VECTORS).read_text())
        vectors["vectors"][0]["logits"][0] += 1
        (folder / VECTORS).write_text(json.dumps(vectors))
        record["files"] = {name: asdict(entry) for name, entry in list_files(folder).items()}

    wrong = damaged(shift)
    found = webgpu_page.evaluate(LOAD_ON, [wrong, "webgpu"])
    assert found.startswith("BundleError: golden vector vectors/0.png gives red with logits off by 1")
    assert webgpu_page.evaluate("async (name) => (await logo.Classifier.load(name)).labels.length", wrong) == 3


def test_without_webgpu_or_its_files_the_backend_is_refused_and_wasm_stays_the_default(page, site):
    assert "LogoEdgeError: found no WebGPU adapter" in page.evaluate(LOAD_ON, ["demo/bundle", "webgpu"])
    assert "RangeError: backend is cuda; expected wasm or webgpu" in page.evaluate(LOAD_ON, ["demo/bundle", "cuda"])
    page.evaluate("Object.defineProperty(navigator, 'gpu', { value: { requestAdapter: async () => ({}) } })")
    found = page.evaluate(LOAD_ON, ["demo/bundle", "webgpu"])
    assert "LogoEdgeError: onnxruntime-web/webgpu cannot be loaded" in found
    assert "build the page with --webgpu" in found
    assert not list((site / "demo" / "ort").glob("*webgpu*")), "a page without it is as small as before"


def test_an_epistemic_output_is_told_apart_from_the_rest(page, site, fake_bundle, fake_model):
    folder = write_epistemic_bundle(fake_bundle, fake_model)
    shutil.copytree(folder, site / "epistemic", dirs_exist_ok=True)
    images = [encode(Image.new("RGB", (20, 10), colour), "PNG") for colour in ("red", "black")]
    red, black = page.evaluate(CLASSIFY, ["epistemic", list(map(base64_of, images)), {}])
    assert red["epistemic"] == pytest.approx(RED_EPISTEMIC, abs=1e-4)
    entropy = -sum(share * np.log(share) for share in red["probabilities"].values())
    assert red["aleatoric"] == pytest.approx(entropy - red["epistemic"], abs=1e-6)
    assert black["epistemic"] == 0, "an estimate below 0 is none"
    assert black["aleatoric"] == pytest.approx(np.log(3), abs=1e-6)


def test_the_options_of_a_call_take_the_place_of_those_that_were_loaded(page):
    badge = base64_of(SAMPLES[6].read_bytes())
    script = (
        "async ([image, options]) => {"
        + BYTES
        + """
        const classifier = await logo.Classifier.load("demo/bundle");
        return Promise.all(options.map((option) => classifier.classify(bytes(image), option)));
    }"""
    )
    choices = [{}, {"mode": "best-guess"}, {"threshold": 0.5}, {"threshold": 1}]
    answers = page.evaluate(script, [badge, [*choices, {"coverage": None}, {"coverage": 0.99}]])
    results = [Classifier.load(**options).classify(SAMPLES[6]) for options in [*choices, {}, {}]]
    assert [result["label"] for result in answers] == [result.label for result in results]
    assert {result.label is None for result in results} == {True, False}
    wanted = Classifier.load().prediction_set(results[0], 0.99)
    assert [result["predictionSet"] for result in answers][-2:] == [None, list(wanted)]


def test_prediction_sets_by_class_are_those_of_python(page):
    classifier = Classifier.load()
    script = (
        "async ([image, level]) => {"
        + BYTES
        + """
        const classifier = await logo.Classifier.load("demo/bundle");
        return classifier.predictionSet(await classifier.classify(bytes(image)), level, { byClass: true });
    }"""
    )
    for path in SAMPLES:
        expected = classifier.prediction_set(classifier.classify(path), 0.95, by_class=True)
        assert tuple(page.evaluate(script, [base64_of(path.read_bytes()), 0.95])) == expected
    with pytest.raises(Exception, match="by class at level 0.99: complex: 71 images of calib, 99 needed"):
        page.evaluate(script, [base64_of(SAMPLES[0].read_bytes()), 0.99])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "lenient"}, "mode is lenient; expected one of best-guess, balanced, strict"),
        ({"threshold": 1.5}, "threshold 1.5; expected a confidence from 0 to 1"),
        ({"coverage": 0.7}, "no prediction sets at level 0.7; the bundle holds these: 0.8, 0.9, 0.95, 0.99"),
        ({"mod": "strict"}, "found option mod; expected mode, threshold or coverage"),
    ],
)
def test_an_option_that_there_is_not_is_refused(page, options, message):
    with pytest.raises(Exception, match=message):
        page.evaluate(CLASSIFY, ["demo/bundle", [], options])


def test_a_bad_image_gives_its_error_in_its_place_and_spoils_no_other(page):
    good = SAMPLES[0].read_bytes()
    images = [good, b"", b"no image", good[:500], good]
    results = page.evaluate(CLASSIFY, ["demo/bundle", list(map(base64_of, images)), {}])
    assert "empty (0 bytes)" in results[1]["error"]
    assert all("expected PNG, JPEG, WebP" in results[index]["error"] for index in (2, 3))
    assert results[0] == results[4]
    assert results[0]["label"] == "simple"


def test_overlapping_calls_give_what_single_ones_give(page):
    script = (
        "async (images) => {"
        + BYTES
        + """
        const classifier = await logo.Classifier.load("demo/bundle");
        const together = await Promise.all(images.map((image) => classifier.classify(bytes(image))));
        const apart = [];
        for (const image of images) apart.push(await classifier.classify(bytes(image)));
        return [together, apart];
    }"""
    )
    together, apart = page.evaluate(script, [base64_of(path.read_bytes()) for path in SAMPLES])
    assert together == apart
    assert len({result["bestGuess"] for result in apart}) == 4


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_heat_map_is_that_of_python(page, bundle):
    script = (
        "async ([bundle, image]) => {"
        + BYTES
        + """
        const classifier = await logo.Classifier.load(bundle);
        const pixels = await classifier.readPixels(bytes(image));
        const { bestGuess } = classifier.decide(await classifier.run(pixels));
        const shares = [];
        const heat = await logo.occlusion(classifier, pixels, bestGuess, { onStep: (share) => shares.push(share) });
        await classifier.release();
        return { heat: [...heat], shares, colours: [...logo.heatColours(heat).data] };
    }"""
    )
    path = SAMPLES[6]
    found = page.evaluate(script, [bundle, base64_of(path.read_bytes())])
    classifier = Classifier.load(BUNDLES[bundle])
    expected = occlusion(classifier, classifier.read_pixels(path), classifier.classify(path).best_guess)
    assert np.ptp(expected) > 1
    # INT8 may round to the next step; that moves few positions, and by little
    difference = np.abs(np.reshape(found["heat"], expected.shape) - expected)
    assert difference.max() < 0.1 * np.ptp(expected)
    assert np.median(difference) < 0.01 * np.ptp(expected)
    assert found["shares"] == [(row + 1) / STEPS for row in range(STEPS)]
    colours = np.reshape(found["colours"], (STEPS, STEPS, 4))
    assert ((colours[..., 0] > colours[..., 2]) == (np.reshape(found["heat"], expected.shape) > 0)).all()
    strongest = np.unravel_index(np.abs(found["heat"]).argmax(), expected.shape)
    assert colours[strongest][3] == colours[..., 3].max() == 191


def test_any_labels_do_and_no_calibration_is_needed(page, site, fake_bundle):
    shutil.copytree(fake_bundle(labels=("1", "0", "blue")), site / "fake", dirs_exist_ok=True)
    images = [encode(marked(colour, (20, 10)), "PNG") for colour in ("red", "#00ff00", "blue")]
    results = page.evaluate(CLASSIFY, ["fake", list(map(base64_of, images)), {}])
    assert [result["label"] for result in results] == ["1", "0", "blue"]
    assert [result["predictionSet"] for result in results] == [None] * 3


@pytest.fixture
def damaged(site, fake_bundle):
    """A factory: the name of a served bundle after `damage(folder, record)`."""

    def make(damage) -> str:
        folder = site / uuid.uuid4().hex  # a name of its own, lest the browser keep files of another
        shutil.copytree(fake_bundle(conformal=(Conformal(0.9, 0.1, None),)), folder)
        record = json.loads((folder / RECORD).read_text())
        if damage(folder, record) is None:
            write_record(folder, json.dumps(record).encode())
        return folder.name

    return make


def test_an_empty_address_is_no_bundle(page):
    assert "BundleError: found an empty address" in page.evaluate(LOAD_ERROR, "")


def test_a_whole_bundle_is_accepted(page, damaged):
    assert page.evaluate(LOAD_ERROR, damaged(lambda folder, record: None)) is None


def test_a_changed_byte_in_any_file_is_refused(page, damaged, fake_bundle):
    names = list(list_files(fake_bundle()))
    assert "model.onnx" in names
    assert VECTORS in names
    for name in names:

        def flip(folder, record, name=name):
            data = bytearray((folder / name).read_bytes())
            data[len(data) // 2] ^= 1
            (folder / name).write_bytes(data)

        assert f"BundleError: {name}: not the file that was packed" in page.evaluate(LOAD_ERROR, damaged(flip))


def change(*path, value):
    """A damage: one field of the record."""

    def damage(_, record):
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("format_version", value=3), "format_version 3; this package reads 2. Repack it"),
        (change("format", value="zip"), "no logo-edge bundle"),
        (change("members", value=[{}, {}]), "an ensemble of 2 models, which is for servers"),
        (
            change("files", "../secret", value={"sha256": "0" * 64, "size_bytes": 1}),
            "a path is absolute or leads upwards",
        ),
        (
            change("files", "/etc/passwd", value={"sha256": "0" * 64, "size_bytes": 1}),
            "a path is absolute or leads upwards",
        ),
        (
            change("files", "a.txt", value={"sha256": "0" * 64, "size_bytes": 1}),
            "a.txt: cannot be read (HTTP status 404",
        ),
        (change("files", "a.txt", value={"sha256": "x", "size_bytes": 1}), "expected a sha256 and a size for each"),
        (change("labels", value=["one"]), "labels: expected at least two different names"),
        (change("labels", value=["a", "b"]), "gives no logits of 2 classes"),
        (change("input", "size_px", value=17), "reads pixels, uint8, 16,16,3; bundle.json says pixels, uint8, 17,17,3"),
        (
            change("input", "details", value=True),
            "reads pixels, uint8, 16,16,3; bundle.json says pixels, uint8, 16,16,7",
        ),
        (change("input", "details", value="yes"), "input: expected details true, false or none"),
        (change("input", "fit", value="stretch"), "input: expected fit letterbox, crop or none"),
        (change("input", "layout", value="NCHW"), "input: expected NHWC, uint8, RGB"),
        (change("input", "dark_background", value=[0, 0]), "input: expected two backgrounds"),
        (change("calibration", "temperature", value=0), "expected a temperature above 0"),
        (
            change("calibration", "abstain_below", value={"best-guess": 0, "balanced": 0.9, "strict": 0.8}),
            "abstain_below",
        ),
        (change("calibration", "scaling", value={"weight": [[1]], "bias": [0]}), "calibration.scaling"),
        (change("calibration", "conformal", value=[{"level": 2}]), "calibration.conformal"),
        (change("calibration", "familiarity", value={}), "calibration.familiarity"),
        (change("calibration", value=None), "calibration"),
        (change("model", "file", value="other.onnx"), "expected other.onnx among them"),
        (lambda folder, _: write_record(folder, b"{") or True, "bundle.json: not JSON"),
        (lambda folder, _: (folder / DIGEST).unlink() or True, "bundle.sha256: cannot be read (HTTP status 404"),
        (
            lambda folder, record: (folder / RECORD).write_text(json.dumps(record)),
            "bundle.json: not the file that was packed",
        ),
        (lambda folder, _: (folder / RECORD).unlink() or True, "bundle.json: cannot be read (HTTP status 404"),
    ],
    ids=lambda value: None if callable(value) else value[:30],
)
def test_what_does_not_fit_is_refused_with_its_name(page, damaged, damage, message):
    error = page.evaluate(LOAD_ERROR, damaged(damage))
    assert error.startswith("BundleError: ")
    assert message in error


def test_a_vector_that_the_model_does_not_give_is_refused(page, damaged):
    def other_logits(folder, record):
        vectors = json.loads((folder / VECTORS).read_text())
        vectors["vectors"][1]["logits"][0] += 1
        (folder / VECTORS).write_text(json.dumps(vectors))
        file = list_files(folder)[VECTORS]
        record["files"][VECTORS] = {"sha256": file.sha256, "size_bytes": file.size_bytes}

    message = page.evaluate(LOAD_ERROR, damaged(other_logits))
    assert re.search(
        r"golden vector vectors/1\.png gives green with logits off by (1\.00|0\.999); expected green within 0\.2",
        message,
    )


CONSUMER = """
import { BundleError, Classifier, HEAT_STEPS, ImageError, heatColours, occlusion } from "logo-edge-web";
import type { Classification, Mode } from "logo-edge-web";

const mode: Mode = "strict";
const options = { mode, coverage: 0.95, selfTest: true };
const classifier = await Classifier.load(new URL("https://example.org/bundle"), options);
const result: Classification = await classifier.classify(new Blob(), { threshold: 0.5 });
const label: string | null = result.label;
for await (const each of classifier.classifyMany([new Uint8Array(4)])) {
  console.log(each instanceof ImageError ? each.message : each.predictionSet?.join());
}
const heat: Float64Array = await occlusion(classifier, await classifier.readPixels(new Blob()), result.bestGuess);
console.log(heatColours(heat).width === HEAT_STEPS);
console.log(label, classifier.bundle.calibration.familiarity?.threshold, new BundleError("no"));
// @ts-expect-error: label may be null
const sure: string = result.label;
// @ts-expect-error: no such mode
await Classifier.load("bundle", { mode: "lenient" });
// @ts-expect-error: only load makes one
new Classifier();
"""


def test_the_declarations_fit_a_typescript_program_and_name_all_that_is_exported(package, page):
    (package / "consumer.mts").write_text(CONSUMER)
    done = node(
        "node_modules/typescript/bin/tsc",
        "--noEmit",
        "--strict",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--lib",
        "es2024,dom",
        "consumer.mts",
        folder=package,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    declared = (package / "src" / "index.d.ts").read_text()
    names = page.evaluate("Object.keys(logo)")
    assert len(names) == 13
    assert [name for name in names if not re.search(rf"^export (const|class|function) {name}\b", declared, re.M)] == []


def test_the_demo_is_not_built_of_a_damaged_bundle(package, tmp_path, fake_bundle):
    folder = fake_bundle()
    (folder / "card.md").write_text("another")
    done = node("build.js", "--bundle", folder, "--out", tmp_path / "out", folder=package)
    assert done.returncode == 1
    assert "card.md: not the file that was packed" in done.stderr
    assert not (tmp_path / "out").exists()
