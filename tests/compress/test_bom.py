"""The hand-over of a bundle: its card, and its bill of materials, which is a file of the bundle like the others."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from logo_edge.bundle.record import Bundle, read_bundle
from logo_edge.errors import BundleError
from logo_edge.files import json_text
from logo_edge.preprocess import CROP
from logo_edge_compress.bom import BOM, bill_of_materials
from logo_edge_compress.card import find_failures, model_card
from logo_edge_compress.figures import summarize_rows
from logo_edge_compress.pack import describe_data, pack_bundle
from logo_edge_train.data.manifest import LogoRow, Manifest

LABELS = ("red", "green", "blue | <b>")
TRUE = [0] * 6 + [1] * 5 + [2] * 4
GUESSED = [0, 0, 0, 1, 1, 2] + [1] * 5 + [2] * 4
LOGITS = np.eye(3)[GUESSED] * 3
ROWS = [LogoRow("@icons/set", "1.2.3", str(at), str(at), LABELS[label], split="test") for at, label in enumerate(TRUE)]
MANIFEST = [
    *ROWS,
    LogoRow("files", "", "red/mine.png", "g", "red", sure=False),
    LogoRow("files", "", "red/copy.png", "g", "red"),
]


@pytest.fixture
def bundle(fake_bundle, tmp_path) -> Bundle:
    """A bundle with figures on test, of known data and versions."""
    packed = read_bundle(fake_bundle(labels=LABELS))
    return replace(
        packed,
        metrics={"test": summarize_rows(LOGITS, ROWS, LABELS)},
        provenance={
            "student": "tiny",
            "recipe": "cpu",
            "teachers": ["large@192"],
            "data_hash": "ab" * 32,
            "data": describe_data(Manifest(tuple(MANIFEST), tmp_path), left_out=3),
            "versions": {"python": "3.11.7", "torch": "2.15.0+cpu"},
        },
    )


def test_the_card_tells_counts_use_and_failures(bundle):
    card = model_card(bundle)
    assert "| images | train | test |" in card
    assert "| red | 2 | 6 |" in card
    assert r"| blue \| \<b\> | 0 | 4 |" in card
    assert "17 images in 16 groups of copies, 1 labels marked as not sure; 3 were not trained on" in card
    assert "- from @icons/set 1.2.3 (15), files (2)" in card
    assert f"sha256 `{'ab' * 32}`" in card
    assert "To give images like those that it was trained on one of 3 labels, or none" in card
    assert "- on test the weakest class is red, of which it recognises 50.0%" in card
    assert "- takes 2 of 6 images of red for green on test" in card
    assert r"- takes 1 of 6 images of red for blue \| \<b\> on test" in card
    assert "<b>" not in card, "no label is HTML or markup of a page that shows the card"
    assert card.count("- takes ") == 2
    ours = replace(bundle, provenance={**bundle.provenance, "intended_use": "Sort our catalogue."})
    assert "## Intended use\n\nSort our catalogue.\n" in model_card(ours)


def test_card_and_bill_say_what_a_bundle_that_crops_reads(bundle):
    crops = replace(bundle, input=replace(bundle.input, fit=CROP))
    for whole, part in (
        (model_card(bundle), model_card(crops)),
        map(json.dumps, map(bill_of_materials, (bundle, crops))),
    ):
        assert "central square" in part
        assert "central square" not in whole


def test_without_an_error_or_a_figure_there_is_no_known_failure(bundle):
    right = summarize_rows(np.eye(3)[TRUE] * 3, ROWS, LABELS)
    assert find_failures(replace(bundle, metrics={"test": right})) == []
    assert find_failures(replace(bundle, metrics={})) == []
    assert "- none was seen on the images above" in model_card(replace(bundle, metrics={"test": right}))


def test_a_class_without_images_on_the_split_is_not_the_weakest(bundle):
    rows = [row for row in ROWS if row.label != "green"]
    logits = np.array([scores for scores, row in zip(LOGITS, ROWS, strict=True) if row.label != "green"])
    failures = find_failures(replace(bundle, metrics={"test": summarize_rows(logits, rows, LABELS)}))
    assert failures[0] == "on test the weakest class is red, of which it recognises 50.0%"


def test_the_bill_lists_model_data_packages_and_files(bundle):
    document = bill_of_materials(bundle)
    parts = {part["bom-ref"]: part for part in document["components"]}
    assert parts["data"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    counts = {part["name"]: part["contents"]["properties"] for part in parts["data"]["data"]}
    assert {"name": "images of red", "value": "6"} in counts["test"]
    assert {part["purl"] for part in parts.values() if "purl" in part} == {
        "pkg:npm/%40icons/set@1.2.3",
        "pkg:generic/python@3.11.7",
        "pkg:pypi/torch@2.15.0%2Bcpu",
    }
    digests = {part["name"]: part["hashes"][0]["content"] for part in parts.values() if part["type"] == "file"}
    assert digests == {name: file.sha256 for name, file in bundle.files.items()}
    model = document["metadata"]["component"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {metric["slice"]: metric["value"] for metric in metrics if metric["type"] == "recall"} == {
        "test, red": "0.5000",
        "test, green": "1.0000",
        "test, blue | <b>": "1.0000",
    }
    assert model["modelCard"]["considerations"]["technicalLimitations"] == find_failures(bundle)
    references = [ref for edge in document["dependencies"] for ref in (edge["ref"], *edge["dependsOn"])]
    assert set(references) == {*parts, "model"}
    assert bill_of_materials(bundle) == document, "the same bundle gives the same document"


@pytest.mark.parametrize("known", [True, False], ids=["this release", "a bundle of an earlier release"])
def test_the_bill_is_valid_by_the_schema_of_cyclonedx(bundle, known):
    pytest.importorskip("cyclonedx", reason="needs cyclonedx-python-lib, of the extra dev")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    if not known:
        bundle = replace(bundle, metrics={}, provenance={})
    validator, document = JsonStrictValidator(SchemaVersion.V1_6), bill_of_materials(bundle)
    assert validator.validate_str(json_text(document)) is None
    document["metadata"]["component"]["type"] = "brain"
    assert validator.validate_str(json_text(document)) is not None


def test_a_packed_bill_is_hashed_like_every_file(bundle, tmp_path):
    packed = pack_bundle(bundle, bundle.model_path, tmp_path / "packed")
    assert {"card.md", BOM} <= packed.files.keys()
    document = json.loads(packed.read(BOM))
    listed = {part["name"] for part in document["components"] if part["type"] == "file"}
    assert listed == packed.files.keys() - {BOM}
    (packed.folder / BOM).write_text("{}")
    with pytest.raises(BundleError, match="not the file that was packed"):
        read_bundle(packed.folder)
