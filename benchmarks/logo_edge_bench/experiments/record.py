"""Where experiments read and write: the checkout's folders, the JSON file of a result, and options that many share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from safetensors.numpy import load_file

from logo_edge.bundle.record import DEFAULT_BUNDLE, Bundle
from logo_edge.files import json_text, write_file
from logo_edge_train.data.icons import LABELS, fetch_logos
from logo_edge_train.data.manifest import Manifest, read_manifest
from logo_edge_train.provenance import provenance
from logo_edge_train.runs import save_logits

ROOT = Path(__file__).resolve().parents[3]
RESULTS, RUNS = ROOT / "benchmarks" / "results", ROOT / "runs"
BUNDLES = {"default": DEFAULT_BUNDLE, "robust": ROOT / "runtime" / "bundles" / "robust"}  # the committed ones

Out = Annotated[Path, "the JSON file of the result"]
Device = Annotated[str, "cpu, cuda or auto"]
ReportTest = Annotated[bool, "measure the test split too, after every choice is made on val"]


def read_logos() -> Manifest:
    """The project's labelled logos, rendered."""
    fetch_logos()
    return read_manifest(LABELS)


def result_path(name: str) -> Path:
    return RESULTS / f"{name}.json"


def read_record(path: Path, empty: dict | None) -> dict | None:
    """The result as it was last written, or `empty` where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty


def keep_arrays(path: Path, compute: Callable[..., dict[str, np.ndarray]], *arguments) -> dict[str, np.ndarray]:
    """The arrays that `compute(*arguments)` gives, kept at `path` (.safetensors) and read from there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_logits(path, compute(*arguments))
    return load_file(path)


def write_record(path: Path, record: dict, bundles: Iterable[Bundle] = ()) -> None:
    """Writes the result with its provenance, whole or not at all; `bundles` are those that it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json_text({**record, "provenance": provenance(bundles)}))


def file_name(text: str) -> str:
    """The text as part of a file name: without blanks and commas."""
    return text.replace(", ", "-").replace(" ", "-")
