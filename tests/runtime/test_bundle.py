"""A bundle reads back as it was written; a damaged, foreign or changed one is refused at load, with the reason."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from logo_edge import BundleError, Classifier, InputContract, read_bundle
from logo_edge.bundle.calibration import Calibration, Conformal, Familiarity, Mode, Scaling
from logo_edge.bundle.record import (
    DEFAULT_BUNDLE,
    DIGEST,
    RECORD,
    VECTORS,
    list_files,
    record_bytes,
    write_bundle_record,
    write_record,
)
from logo_edge.preprocess import CROP, LETTERBOX

FILES = ["card.md", "model.onnx", "vectors/0.png", "vectors/1.png", "vectors/2.png", "vectors/vectors.json"]
MISSING = object()
FITTED = {
    "scaling": Scaling("dirichlet", ((1.1, -0.2), (0.0, 0.9)), (0.1, -0.1)),
    "conformal": (
        Conformal(0.9, 0.31, {"été": 0.2, "b": 0.4}),
        Conformal(0.99, 0.02, None, "b: 40 logos of calib, 99 needed"),
    ),
    "familiarity": Familiarity(1.5, 0.05),
}  # what a calibration holds beyond temperature and thresholds, for the labels été and b


def read_record(folder: Path) -> dict:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


def change_record(folder: Path, *keys: str, value) -> None:
    """Sets, or with MISSING removes, one field of bundle.json, named by its path of keys."""
    record = table = read_record(folder)
    for key in keys[:-1]:
        table = table[key]
    if value is MISSING:
        del table[keys[-1]]
    else:
        table[keys[-1]] = value
    write_record(folder, json.dumps(record).encode())


def relist(folder: Path) -> None:
    """Updates the hashes in bundle.json, as for a wrong file that was packed."""
    files = {name: {"sha256": file.sha256, "size_bytes": file.size_bytes} for name, file in list_files(folder).items()}
    change_record(folder, "files", value=files)


def test_a_bundle_reads_back_as_it_was_written(fake_bundle):
    folder = fake_bundle(
        labels=("été", "b"), temperature=1.25, abstain_below=0.4, strict_below=0.8, size_px=24, details=True, **FITTED
    )
    bundle = read_bundle(folder)
    text = (folder / RECORD).read_text(encoding="utf-8")
    assert (bundle.labels, bundle.input, bundle.folder) == (("été", "b"), InputContract(24, details=True), folder)
    assert bundle.calibration == Calibration(
        1.25, {Mode.BEST_GUESS: 0.0, Mode.BALANCED: 0.4, Mode.STRICT: 0.8}, *FITTED.values()
    )
    assert sorted(bundle.files) == [name for name in FILES if name != "vectors/2.png"]
    assert bundle.size_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    write_bundle_record(bundle)
    assert (folder / RECORD).read_text(encoding="utf-8") == text
    assert read_bundle(str(folder)).files == bundle.files


def test_the_listed_files_carry_their_size_and_hash(fake_bundle):
    folder = fake_bundle()
    listed = read_bundle(folder).files
    assert sorted(listed) == FILES
    for name, file in listed.items():
        data = (folder / name).read_bytes()
        assert (file.size_bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("name", [*FILES, RECORD])
@pytest.mark.parametrize("position", [0, -1])
def test_a_changed_byte_in_any_file_is_refused(fake_bundle, name, position):
    folder = fake_bundle()
    data = bytearray((folder / name).read_bytes())
    data[position] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: not the file that was packed"):
        read_bundle(folder)


def test_a_changed_digit_of_the_calibration_is_refused(fake_bundle):
    folder = fake_bundle(temperature=1.25)
    text = (folder / RECORD).read_text(encoding="utf-8")
    (folder / RECORD).write_text(text.replace("1.25", "1.35"), encoding="utf-8")
    with pytest.raises(
        BundleError, match=r"bundle\.json: not the file that was packed .*bundle\.sha256 says.* pack .* again"
    ):
        read_bundle(folder)


def test_the_digest_of_the_record_is_that_of_sha256sum_and_must_be_there_whole(fake_bundle):
    folder = fake_bundle()
    whole = (folder / DIGEST).read_bytes()
    assert whole.decode() == f"{hashlib.sha256((folder / RECORD).read_bytes()).hexdigest()}  bundle.json\n"
    assert DIGEST not in read_bundle(folder).files
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        (folder / DIGEST).write_bytes(changed)
        with pytest.raises(BundleError, match="not what bundle.sha256 says"):
            read_bundle(folder)
    (folder / DIGEST).unlink()
    with pytest.raises(BundleError, match=r"bundle\.sha256: No such file.*Copy or pack the bundle again"):
        read_bundle(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_truncated_file_is_refused(fake_bundle, name):
    folder = fake_bundle()
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(BundleError, match=f"{name}: not the file that was packed"):
        read_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: No such file"):
        read_bundle(folder)


def test_no_bundle_at_all_is_refused_with_what_was_expected(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(BundleError, match="expected a bundle's folder, made by `logo-edge compress`"):
            read_bundle(path)


@pytest.mark.parametrize("text", ["", "{", '{"format": ', "no json", "\ud800"])
def test_a_record_that_is_no_json_is_refused(fake_bundle, text):
    folder = fake_bundle()
    write_record(folder, text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BundleError, match=r"bundle.json: not JSON"):
        read_bundle(folder)


@pytest.mark.parametrize("record", [None, 3, "text", [], {}, {"format": "other"}, {"format": ["logo-edge-bundle"]}])
def test_json_of_another_kind_is_refused(fake_bundle, record):
    folder = fake_bundle()
    write_record(folder, json.dumps(record).encode())
    with pytest.raises(BundleError, match="no logo-edge bundle; expected"):
        read_bundle(folder)


@pytest.mark.parametrize("version", [1, 99, 0, "2", None, [2], MISSING])
def test_another_format_version_is_refused_with_what_to_do(fake_bundle, version):
    folder = fake_bundle()
    change_record(folder, "format_version", value=version)
    with pytest.raises(BundleError, match=r"format_version .*this runtime reads 2. Repack it"):
        read_bundle(folder)


COLOURS = (("input", "light_background"), ("input", "dark_background"))
FIXED = (("input", "layout"), ("input", "dtype"), ("input", "colour"))
TEXTS = (("name",), ("model", "file"), ("model", "precision"))
DEFAULTED = (("model", "input_name"), ("model", "output_name"))  # what an older writer may have left out
MODES = tuple(("calibration", "abstain_below", mode) for mode in Mode)
NUMBERS = (("calibration", "temperature"), *MODES)
TABLES = (
    ("model",),
    ("input",),
    ("calibration",),
    ("calibration", "abstain_below"),
    ("files",),
    ("provenance",),
    ("metrics",),
)
ENTRY = ("files", "card.md")
REQUIRED = [*TABLES, *TEXTS, *NUMBERS, *COLOURS, *FIXED, ("labels",), (*ENTRY, "sha256"), (*ENTRY, "size_bytes")]
WRONG = [
    *((keys, value) for keys in (*TEXTS, *DEFAULTED, (*ENTRY, "sha256")) for value in (None, 5, True, ["a"], {"a": 1})),
    *((keys, value) for keys in (*NUMBERS, ("input", "dark_above_luminance")) for value in (None, "1", True, [1], {})),
    *((keys, value) for keys in (("input", "size_px"), (*ENTRY, "size_bytes")) for value in (None, "8", True, 8.5, [])),
    *((keys, value) for keys in TABLES for value in (None, 5, "text", [], [["file", "model.onnx"]])),
    *(
        (keys, value)
        for keys in COLOURS
        for value in (None, 5, "123", [1, 2], [1, 2, 256], [-1, 0, 0], [1, 2, 0.5], {})
    ),
    *((keys, value) for keys in FIXED for value in (None, "NCHW", "float32", "BGR")),
    *(
        (("labels",), value)
        for value in (None, "ab", 5, {"a": 1}, [], ["a"], [1, 2, 3], [["a"], "b", "c"], ["", "b", "c"])
    ),
    *((("input", "details"), value) for value in (None, 1, "true", [], {})),
    *((("input", "fit"), value) for value in (None, 1, "stretch", "", [], {})),
    *((ENTRY, value) for value in (None, 5, "text", [])),
    *((("calibration", "conformal"), value) for value in (None, 5, "text", {}, [5], [{"level": "0.9"}])),
    *(
        (("calibration", key), value)
        for key in ("scaling", "familiarity")
        for value in (5, "text", [], {}, {"weight": 1})
    ),
]


@pytest.mark.parametrize("keys", REQUIRED, ids=".".join)
def test_a_record_without_a_field_is_refused_with_its_name(fake_bundle, keys):
    folder = fake_bundle()
    change_record(folder, *keys, value=MISSING)
    with pytest.raises(BundleError, match=rf"bundle.json: .*{keys[-1]}"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("keys", "value"), WRONG, ids=lambda part: ".".join(part) if isinstance(part, tuple) else repr(part)
)
def test_a_field_of_the_wrong_type_is_refused_with_its_name(fake_bundle, keys, value):
    folder = fake_bundle()
    change_record(folder, *keys, value=value)
    with pytest.raises(BundleError, match=rf"bundle.json: .*{keys[-1]}"):
        read_bundle(folder)


@pytest.mark.parametrize("table", ["model", "input", "calibration"])
def test_a_field_that_no_reader_knows_is_refused_with_its_name(fake_bundle, table):
    folder = fake_bundle()
    change_record(folder, table, "surprise", value=1)
    with pytest.raises(BundleError, match="surprise"):
        read_bundle(folder)


@pytest.mark.parametrize("labels", [["a", "a", "b"], ["a"], []])
def test_labels_must_be_at_least_two_different_names(fake_bundle, labels):
    folder = fake_bundle()
    change_record(folder, "labels", value=labels)
    with pytest.raises(BundleError, match="labels: expected at least two different names"):
        read_bundle(folder)


EYE = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
NAN, INFINITY, HUGE = float("nan"), float("inf"), 10**400
IMPOSSIBLE = {
    "calibration: expected a temperature above 0": [(("temperature",), value) for value in (0, -1.0)],
    "calibration.abstain_below: expected 0 for best-guess": [
        *((("abstain_below", mode), value) for mode in Mode for value in (-0.1, 1.1, NAN)),
        (("abstain_below", "best-guess"), 0.2),
        (("abstain_below", "strict"), 0.4),
    ],
    "calibration.scaling: expected a weight of 3 x 3 finite numbers": [
        (("scaling",), {"method": "vector", "weight": weight, "bias": bias})
        for weight, bias in (
            (EYE[:2], [0, 0, 0]),
            (EYE, [0, 0]),
            ([[1, 0]] * 3, [0, 0, 0]),
            (EYE, [0, 0, NAN]),
            (EYE, [0, 0, HUGE]),
        )
    ],
    "calibration.conformal: expected levels between 0 and 1": [
        (("conformal",), [{"level": level, "threshold": threshold, "by_class": by_class}])
        for level, threshold, by_class in (
            (1.0, 0.5, None),
            (0.0, 0.5, None),
            (0.9, 1.2, None),
            (0.9, "0.5", None),
            (0.9, 0.5, {"red": 0.5}),
            (0.9, 0.5, {"red": 0.5, "green": 0.5, "blue": -1}),
            (0.9, 0.5, [0.5]),
        )
    ],
}


@pytest.mark.parametrize(
    ("message", "keys", "value"), [(message, *case) for message, cases in IMPOSSIBLE.items() for case in cases]
)
def test_an_impossible_calibration_is_refused(fake_bundle, message, keys, value):
    folder = fake_bundle()
    change_record(folder, "calibration", *keys, value=value)
    with pytest.raises(BundleError, match=message):
        read_bundle(folder)


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY, HUGE], ids=["nan", "inf", "-inf", "huge"])
@pytest.mark.parametrize(
    ("table", "key", "field"),
    [
        ("calibration", "temperature", "temperature"),
        ("input", "dark_above_luminance", "dark_above_luminance"),
        ("calibration", "familiarity", "threshold"),
        ("calibration", "familiarity", "false_positive_rate"),
        ("calibration", "conformal", "level"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_with_its_name(fake_bundle, table, key, field, value):
    folder = fake_bundle()
    whole = {
        "familiarity": {"threshold": 1.0, "false_positive_rate": 0.05, field: value},
        "conformal": [{"level": value, "threshold": 0.5, "by_class": None}],
    }
    change_record(folder, table, key, value=whole.get(key, value))
    with pytest.raises(BundleError, match=rf"{table}\.({key}\.)?{field} is not finite"):
        read_bundle(folder)


@pytest.mark.parametrize("size_px", [7, 4097, -128, 0])
def test_an_impossible_input_size_is_refused(fake_bundle, size_px):
    folder = fake_bundle()
    change_record(folder, "input", "size_px", value=size_px)
    with pytest.raises(BundleError, match="size_px from 8 to 4096"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["../card.md", "/etc/hostname", "vectors/../../card.md", "..\\card.md", "nul\0", ".."])
def test_a_path_that_leaves_the_bundle_is_refused_unread(fake_bundle, name):
    folder = fake_bundle()
    (folder.parent / "card.md").write_bytes((folder / "card.md").read_bytes())
    change_record(folder, "files", name, value=read_record(folder)["files"]["card.md"])
    with pytest.raises(BundleError, match="a path is absolute or leads upwards"):
        read_bundle(folder)


def test_a_link_out_of_the_bundle_or_to_itself_is_refused(fake_bundle):
    folder = fake_bundle()
    card = folder / "card.md"
    card.rename(folder.parent / "card.md")
    card.symlink_to(folder.parent / "card.md")
    with pytest.raises(BundleError, match="'card.md' leads out of the bundle"):
        read_bundle(folder)
    card.unlink()
    card.symlink_to(card)
    with pytest.raises(BundleError, match="card.md"):
        read_bundle(folder)


def test_a_bundle_may_itself_be_reached_through_a_link(fake_bundle, tmp_path):
    (tmp_path / "link").symlink_to(fake_bundle())
    assert Classifier.load(tmp_path / "link", self_test=True).labels


def test_a_model_that_is_not_listed_is_refused(fake_bundle):
    folder = fake_bundle()
    change_record(folder, "model", "file", value="other.onnx")
    with pytest.raises(BundleError, match="expected 'other.onnx' among them"):
        read_bundle(folder)


MISFITS = {
    "input size": ({"size_px": 17}, "reads .*17.*bundle.json says 'pixels', uint8"),
    "input name": ({"input_name": "image"}, "reads .*image"),
    "channels": ({"channels": 7}, r"reads .*16, 16, 7.*\(B, 16, 16, 3\)"),
    "input type": ({"input_type": "FLOAT"}, r"reads .*tensor\(float\)"),
    "fixed batch": ({"batch": 1}, r"reads .*\[1, 16, 16, 3\]"),
    "number of classes": ({"classes": 4}, r"gives .*\[4\].*3 classes"),
    "output name": ({"output_name": "scores"}, "gives .*scores.*'logits'"),
    "output type": ({"output_type": "INT64"}, r"gives .*tensor\(int64\).*float32"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_model_that_does_not_fit_its_record_stops_at_load(fake_bundle, fake_model, misfit):
    options, message = MISFITS[misfit]
    folder = fake_bundle(model=fake_model(**options))
    with pytest.raises(BundleError, match=f"model.onnx: {message}.*Pack the bundle again"):
        Classifier.load(folder)


def test_a_record_without_details_has_none_and_a_model_that_lacks_them_stops_at_load(fake_bundle, fake_model):
    folder = fake_bundle()
    change_record(folder, "input", "details", value=MISSING)
    assert not read_bundle(folder).input.details
    with pytest.raises(BundleError, match=r"reads .*16, 16, 3.*bundle.json says .*\(B, 16, 16, 7\)"):
        Classifier.load(fake_bundle(details=True, model=fake_model()))


def test_a_record_names_the_fit_only_where_it_is_not_the_letterbox(fake_bundle):
    folder = fake_bundle()
    bundle = read_bundle(folder)
    assert bundle.input.fit == LETTERBOX
    assert "fit" not in json.loads(record_bytes(bundle))["input"]
    assert record_bytes(read_bundle(DEFAULT_BUNDLE)) == (DEFAULT_BUNDLE / RECORD).read_bytes()
    cropping = replace(bundle, input=replace(bundle.input, fit=CROP))
    write_bundle_record(cropping)
    assert read_bundle(folder).input == cropping.input
    assert cropping.input.shown == "cropped to its central square, 16 x 16 px"


def test_a_bundle_that_crops_classifies_the_central_square(fake_bundle):
    folder, image = fake_bundle(), np.zeros((40, 300, 3), np.uint8)
    image[:, :130], image[:, 170:] = (255, 0, 0), (0, 255, 0)
    whole = Classifier.load(folder).read_pixels(image)
    change_record(folder, "input", "fit", value="crop")
    classifier = Classifier.load(folder)
    assert whole.any()
    assert not classifier.read_pixels(image).any()
    wide = Image.fromarray(image).resize((6000, 800), Image.Resampling.NEAREST)
    file = io.BytesIO()
    wide.save(file, "JPEG", quality=100, subsampling=0)
    pixels, again = classifier._read_reduced(file.getvalue())
    assert again is not None, "a large JPEG is decoded at reduced scale"
    assert pixels.max() < 8


@pytest.mark.parametrize("data", [b"no model", b"", bytes(1000)])
def test_a_model_that_is_no_onnx_stops_at_load(fake_bundle, data):
    folder = fake_bundle()
    (folder / "model.onnx").write_bytes(data)
    relist(folder)
    with pytest.raises(BundleError, match="model.onnx: ONNX Runtime cannot load it"):
        Classifier.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": [0.0, 0.0, 6.0]}, "golden vector 0.png gives red with logits off by 6; expected red"),
        ({"logits": [6.21, 0.0, 0.0]}, "off by 0.21"),
        ({"best_guess": "blue"}, "gives red .*expected blue"),
        ({"logits": [6.0, 0.0]}, "off by nan"),
        ({"logits": [float("nan"), 0.0, 0.0]}, "off by nan"),
        ({"logits": "x"}, "vectors.json: cannot be read"),
        ({"image": None}, "None: bundle.json does not list it"),
    ],
)
def test_golden_vectors_that_disagree_are_refused(fake_bundle, change, message):
    folder = fake_bundle()
    vectors = json.loads((folder / VECTORS).read_text())["vectors"]
    vectors[0] |= change
    (folder / VECTORS).write_text(json.dumps({"vectors": vectors}))
    relist(folder)
    with pytest.raises(BundleError, match=message):
        Classifier.load(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"vectors": []}', '{"vectors": [{}]}', '{"vectors": 5}', None])
def test_a_bundle_without_golden_vectors_fails_its_self_test(fake_bundle, text):
    folder = fake_bundle()
    (folder / VECTORS).unlink()
    if text is not None:
        (folder / VECTORS).write_text(text)
    relist(folder)
    with pytest.raises(BundleError, match=r"vectors.json: .*pack the bundle again"):
        Classifier.load(folder, self_test=True)
