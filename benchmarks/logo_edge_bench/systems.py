"""The systems under test of a run, one for each row of its result."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from logo_edge.backends.choose import BACKENDS, OWN_GRAPH, READS
from logo_edge.bundle.record import DEFAULT_BUNDLE, Bundle, read_bundle
from logo_edge.errors import BenchError

CLASSIFY = "from logo_edge.cli.main import main; main()"
DEFAULT_BACKEND = OWN_GRAPH[0]
NO_BACKEND = "no backend of the runtime runs this format"
SINGLE_STREAM, MULTI_STREAM = "SingleStream", "MultiStream"
PERCENTILE = {SINGLE_STREAM: 90, MULTI_STREAM: 99}  # reported by MLPerf for each


@dataclass(frozen=True)
class System:
    """A system under test: a subject with its options, on `threads` threads, given `batch` images at a time.

    `subject` is a module or a .py file with `load(labels, **options)` (see worker.py), run by `python`. `command` is
    the command line that its users type for one image, whose path is appended; it is timed from process start to exit.
    `environment` is added to the process's variables, `about` to the row of the result.
    """

    name: str
    subject: str
    options: dict = field(default_factory=dict)
    threads: int = 1
    batch: int = 1
    kind: str = "bundle"
    python: str = sys.executable
    command: tuple[str, ...] = ()
    note: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)

    @property
    def scenario(self) -> str:
        return SINGLE_STREAM if self.batch == 1 else MULTI_STREAM


def bundle_systems(
    bundles: Iterable[Path | None],
    *,
    backends: Iterable[str] = ("onnxruntime",),
    threads: Iterable[int] = (1,),
    batches: Iterable[int] = (1,),
    spinning: bool = False,
    artifacts: Iterable[Path] = (),
    public_key: Path | None = None,
) -> list[System]:
    """Every bundle with every backend, number of threads and batch, then every artifact of `logo-edge export`.

    None is the default bundle. With `public_key` each process verifies the bundle's signature. An artifact runs with
    the first bundle's preprocessing and calibration.
    """
    runs = [
        (folder or DEFAULT_BUNDLE, {} if backend == DEFAULT_BACKEND else {"backend": backend}, backend)
        for folder in bundles
        for backend in backends
    ]
    for path in artifacts:
        backend = _backend_of(path)
        options = {"backend": backend, "artifact": str(path.absolute())}
        runs.append((runs[0][0], options, f"{backend} {path.name}"))
    systems = []
    for folder, options, label in runs:
        bundle = read_bundle(folder, public_key=public_key)
        title = bundle.name if folder == DEFAULT_BUNDLE else f"{bundle.name} ({folder.name})"
        precision = precision_of(options["artifact"]) if "artifact" in options else bundle.model.precision
        options = options | _signed_by(public_key)
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        command = (sys.executable, "-c", CLASSIFY, "classify", "--bundle", str(folder), *arguments)
        options = {"bundle": str(folder), **({"spinning": True} if spinning else {}), **options}
        systems += [
            System(
                f"{title}, {label}, {precision}, {count} thread{'s' * (count > 1)}, batch {batch}",
                "logo_edge_bench.subject",
                {**options, "threads": count},
                count,
                batch,
                command=command,
            )
            for count in threads
            for batch in batches
        ]
    return systems


def find_artifacts(folder: Path, bundle: Bundle) -> tuple[dict[Path, dict], dict[str, str]]:
    """{artifact of the bundle: its record} of `logo-edge export`, and {record left out: reason}, of all in the folder.

    Subfolders are searched too. Raises BenchError where there is no record.
    """
    artifacts, left_out = {}, {}
    for path in sorted(folder.rglob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # another JSON file
            record = json.loads(path.read_bytes())
            names = [record["engine"]["file"]] if record.get("engine") else record["files"]
            files = [path.parent / name for name in names if Path(name).suffix in READS]
            runs = record["format"] in (*BACKENDS, "onnx") and files
            home = path.parent.resolve()
            if outside := [name for name in names if not (home / name).resolve().is_relative_to(home)]:
                left_out[str(path)] = f"it names files outside its folder: {', '.join(outside)}"
            elif reason := record.get("not_done") or why_other(record, bundle) or ("" if runs else NO_BACKEND):
                left_out[str(path)] = reason
            else:
                artifacts[files[0]] = record
    if not artifacts and not left_out:
        raise BenchError(f"{folder}: no record of `logo-edge export`; make artifacts there: logo-edge export --out")
    return artifacts, left_out


def why_other(record: dict, bundle: Bundle) -> str:
    """Why an artifact with this record of `logo-edge export` is not the bundle's, or empty."""
    expected = json.loads(json.dumps(asdict(bundle.input)))
    read = {name: record["input"].get(name) for name in expected}
    run = bundle.name.removesuffix(f"-{bundle.provenance.get('target', '')}")  # it may be exported from the run
    if record["source"] in (bundle.name, run) and read == expected:
        return ""
    return (
        f"it is of {record['source']!r} and reads {read}; expected {bundle.name!r} and {expected}. Give --bundle the "
        "bundle that it was exported with, and keep each bundle's artifacts in a folder of their own"
    )


def precision_of(artifact: str) -> str:
    """The precision in the export record of the file, or `not told`."""
    return str((record_of(artifact) or {}).get("precision", "not told"))


def record_of(artifact: str) -> dict | None:
    """The record of `logo-edge export` that names the file: beside it or, for an engine, in the folder above."""
    path = Path(artifact)
    for json_path in sorted([*path.parent.glob("*.json"), *path.parent.parent.glob("*.json")]):
        with suppress(OSError, ValueError, AttributeError):
            record = json.loads(json_path.read_bytes())
            engine = Path((record.get("engine") or {}).get("file", "")).name
            if path.name in record.get("files", {}) or path.name == engine:
                return record
    return None


def reference_system(bundle: Path | None, public_key: Path | None = None) -> System:
    """The yardstick: see reference.py."""
    return System(
        "by hand: Pillow and ONNX Runtime",
        "logo_edge_bench.reference",
        {"bundle": str(bundle or DEFAULT_BUNDLE), **_signed_by(public_key)},
        kind="reference",
    )


def _signed_by(public_key: Path | None) -> dict[str, str]:
    """The option of a subject that verifies its bundle's signature."""
    return {"public_key": str(public_key)} if public_key else {}


def _backend_of(artifact: Path) -> str:
    if artifact.suffix not in READS:
        raise BenchError(
            f"{artifact}: found {artifact.suffix!r}; expected an artifact of `logo-edge export`: {', '.join(READS)}"
        )
    return READS[artifact.suffix][0]
