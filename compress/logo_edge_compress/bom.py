"""The bill of materials of a bundle: bom.json, a CycloneDX 1.6 ML-BOM (cyclonedx.org).

It lists the model with its card, the labelled images with their digest and counts, the packages that made the model,
and every other file of the bundle. It has no date, so that the same bundle gives the same bytes. As a file of the
bundle it is hashed by bundle.json and covered by the signature.
"""

from __future__ import annotations

import uuid
from urllib.parse import quote

from logo_edge import __version__
from logo_edge.bundle.record import Bundle
from logo_edge_compress.card import find_failures, intended_use
from logo_edge_train.data.manifest import FILES

BOM = "bom.json"
MODEL, DATA = "model", "data"  # references within the document


def bill_of_materials(bundle: Bundle) -> dict:
    """The document for a bundle whose `files` list all files but bom.json itself."""
    packages = [_package(name, number) for name, number in bundle.provenance.get("versions", {}).items()]
    sources = [_source(name) for name in bundle.provenance.get("data", {}).get("sources", {}) if name != FILES]
    files = [
        {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": _sha256(file.sha256)}
        for name, file in bundle.files.items()
    ]
    data, digests = _data(bundle), " ".join(file.sha256 for file in bundle.files.values())
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digests)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [_package("logo-edge", __version__) | {"type": "application"}]},
            "component": _model(bundle),
        },
        "components": [data, *sources, *packages, *files],
        "dependencies": [
            {"ref": MODEL, "dependsOn": [part["bom-ref"] for part in (data, *packages, *files)]},
            {"ref": DATA, "dependsOn": [part["bom-ref"] for part in sources]},
        ],
    }


def _model(bundle: Bundle) -> dict:
    provenance = bundle.provenance
    count = "any number" if bundle.calibration.multi_label else "one"
    metrics = [metric for split, figures in bundle.metrics.items() for metric in _metrics(split, figures)]
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": bundle.name,
        "version": bundle.model_sha256[:12],
        "properties": [
            {"name": f"logo-edge:{key}", "value": str(value)}
            for key in ("recipe", "quantization", "target")
            if (value := provenance.get(key)) is not None
        ]
        + [{"name": "logo-edge:teacher", "value": teacher} for teacher in provenance.get("teachers", ())],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "image classification",
                "modelArchitecture": str(provenance.get("student", "?")),
                "datasets": [{"ref": DATA}],
                "inputs": [{"format": f"image: uint8 RGB, {bundle.input.shown}"}],
                "outputs": [{"format": f"{count} of the labels {', '.join(bundle.labels)}, or none; probabilities"}],
            },
            **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
            "considerations": {"useCases": [intended_use(bundle)], "technicalLimitations": find_failures(bundle)},
        },
    }


def _metrics(split: str, figures: dict) -> list[dict]:
    named = {
        "accuracy": (figures["accuracy"], split),
        "accuracy on sure labels": (figures["accuracy_sure"], split),
        "calibration error, ECE less its bias": (figures["ece_debiased"], split),
    }
    named |= {f"recall of {label}": (figure, f"{split}, {label}") for label, figure in figures["recall"].items()}
    return [
        {
            "type": "recall" if name.startswith("recall of ") else name,
            "value": f"{figure['value']:.4f}",
            "slice": part,
            "confidenceInterval": {"lowerBound": f"{figure['low']:.4f}", "upperBound": f"{figure['high']:.4f}"},
        }
        for name, (figure, part) in named.items()
    ]


def _data(bundle: Bundle) -> dict:
    digest, splits = bundle.provenance.get("data_hash"), bundle.provenance.get("data", {}).get("splits", {})
    return {
        "type": "data",
        "bom-ref": DATA,
        "name": "labelled images",
        "description": "The digest covers every row of the manifest and the content of every image file, in order.",
        **({"hashes": _sha256(digest)} if digest else {}),
        "data": [
            {
                "type": "dataset",
                "name": split,
                "contents": {
                    "properties": [
                        {"name": f"images of {label}", "value": str(count)} for label, count in counts.items()
                    ]
                },
            }
            for split, counts in splits.items()
        ],
    }


def _source(name: str) -> dict:
    """An npm icon set, given as "package version"."""
    package, _, version = name.partition(" ")
    purl = f"pkg:npm/{quote(package, safe='/')}" + (f"@{version}" if version else "")
    return {"type": "data", "bom-ref": purl, "name": package, "version": version, "purl": purl}


def _package(name: str, version: str) -> dict:
    kind, source = ("platform", "generic") if name == "python" else ("library", "pypi")
    purl = f"pkg:{source}/{name}@{quote(version)}"
    return {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _sha256(digest: str) -> list[dict]:
    return [{"alg": "SHA-256", "content": digest}]
