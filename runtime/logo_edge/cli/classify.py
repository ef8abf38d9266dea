"""`logo-edge classify`, from its options to its exit status. The command line is read in `commands` or `cli`."""

from __future__ import annotations

import gc
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path

from logo_edge.classifier import Classifier
from logo_edge.errors import ImageError, LogoEdgeError
from logo_edge.images.load import MAX_FILE_BYTES, URL
from logo_edge.machine import on_cores
from logo_edge.names import printable, shown
from logo_edge.results import Classification, Rejection
from logo_edge.tables.journal import (
    EXPLAINED,
    FOLDERS,
    STDIN,
    Journal,
    Progress,
    classify_folder,
    classify_named,
    describe_settings,
    expand_glob,
    find_images,
    folders_of,
    is_glob,
    record_of,
    rounded,
    usable_cores,
)

BATCH = 8
NAME_WIDTH = 60  # of the table's first column, at most
PEEKED = 256  # paths that are looked for before the first is classified
STDIN_NAME = "stdin"
WITHHELD = {Rejection.BLANK: "(blank)", Rejection.NOT_A_LOGO: "(no logo)", Rejection.LOW_CONFIDENCE: "(unsure)"}
ENGINES = LOCAL, RAY = ("local", "ray")


@dataclass(frozen=True)
class Options:
    """What `logo-edge classify --help` lists."""

    paths: tuple[str, ...]
    bundle: Path | str | None = None
    json: bool = False
    jsonl: bool = False
    mode: str = "balanced"
    threshold: float | None = None
    coverage: float | None = None
    top_k: int | None = None
    explain: bool = False
    out: Path | str | None = None
    overwrite: bool = False
    backend: str = "onnxruntime"
    artifact: Path | str | None = None
    threads: int = 1
    cores: tuple[int, ...] | None = None
    spinning: bool = False
    workers: int | None = None
    engine: str = LOCAL
    public_key: Path | str | None = None
    log: Path | str | None = None
    enrolled: Path | str | None = None


def run(options: Options) -> int:
    """Classifies and prints; 0 where all could be classified, 1 where some failed. Raises LogoEdgeError."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of a bad image comes as its ImageError
    paths = [path for path in options.paths if _is_there(path)]
    with on_cores(options.cores):
        classifier = Classifier.load(
            options.bundle,
            mode=options.mode,
            threshold=options.threshold,
            coverage=options.coverage,
            backend=options.backend,
            artifact=options.artifact,
            threads=options.threads,
            cores=options.cores,
            spinning=options.spinning,
            public_key=options.public_key,
            log=options.log,
            enrolled=options.enrolled,
        )
        gc.enable()
        images = find_images(paths)
        first = list(islice(images, PEEKED))
        if not first and len(paths) == len(options.paths):
            found = printable(", ".join(paths))
            svg = "" if find_spec("resvg_py") else "; SVG needs pip install 'logo-edge[svg]'"
            print(
                f"logo-edge: no image found in {found}; expected files such as .png, .jpg, .webp{svg}", file=sys.stderr
            )
            return 1
        workers = options.workers or (usable_cores() if len(first) > 2 * BATCH else 1)
        if options.out:
            failed = _make_table(classifier, paths, options, workers)
        else:
            named = ((name, _source(name)) for name in chain(first, images))
            named = ((STDIN_NAME if name == STDIN else name, source) for name, source in named)
            if options.explain:
                records = _explained(classifier, named, options)
            else:
                batch_size = 1 if len(first) == 1 else BATCH
                results = classify_named(classifier, named, workers=workers, batch_size=batch_size)
                records = (_record(name, result, options) for name, result in results)
            failed = _print(records, options, max(map(len, first), default=0))
    return 1 if failed or len(paths) < len(options.paths) else 0


def _is_there(path: str) -> bool:
    if path == STDIN or os.path.lexists(path) or (is_glob(path) and any(expand_glob(path))):
        return True
    kind = "an address; nothing is fetched. Download it first" if URL.match(path) else "no such file or folder"
    if path[:5].lower() == "data:":
        path, kind = f"{path[:40]}...", "a data URI; decode it, and give its bytes to -"
    print(f"logo-edge: {printable(path)}: {kind}", file=sys.stderr)
    return False


def _source(name: str) -> str | bytes:
    return sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if name == STDIN else name  # a byte too many is refused


def _make_table(classifier: Classifier, paths: list[str], options: Options, workers: int) -> int:
    """Writes --out and gives the number of failures."""
    assert options.out is not None
    out, settings = Path(options.out), describe_settings(classifier) | {FOLDERS: folders_of(paths)}
    with Journal(out, classifier.labels, settings, overwrite=options.overwrite) as journal:
        progress = Progress(sum(1 for _ in find_images(paths)), journal.begun)
        try:
            if options.engine == RAY:
                from logo_edge.scale.ray import classify_on_cluster

                chosen = {
                    "mode": options.mode,
                    "threshold": options.threshold,
                    "coverage": options.coverage,
                    "backend": options.backend,
                    "threads": options.threads,
                    "spinning": options.spinning,
                }
                classify_on_cluster(
                    classifier.bundle, chosen, find_images(paths), journal, workers=options.workers, progress=progress
                )
            else:
                classify_folder(
                    classifier, find_images(paths), journal, workers=workers, batch_size=BATCH, progress=progress
                )
        finally:
            progress.close()
    print(f"{printable(str(out))}: {journal.rows:,} images, {journal.failed:,} of them failed")
    return journal.failed


def _explained(classifier: Classifier, named: Iterable[tuple[str, str | bytes]], options: Options) -> Iterator[dict]:
    """The record of each image, with a heat map left beside it."""
    from logo_edge.explain import explain

    for name, source in named:
        try:
            result = classifier.classify(source)
            picture = explain(classifier, source, result)
        except ImageError as error:
            yield _record(name, error, options)
            continue
        path = name + EXPLAINED
        try:
            picture.save(path, "PNG")
        except PermissionError as error:
            raise LogoEdgeError(f"{path}: {error.strerror}; --explain needs a folder that can be written") from error
        yield _record(name, result, options) | {"explanation": shown(path)}


def _record(name: str, result: Classification | ImageError, options: Options) -> dict:
    record = record_of(name, result)
    if options.top_k and isinstance(result, Classification):
        record["probabilities"] = {label: rounded(value) for label, value in result.top(options.top_k).items()}
    return record


def _print(records: Iterator[dict], options: Options, width: int) -> int:
    """Prints every record and gives the number of failures."""
    failed = 0
    if options.json:
        whole = list(records)
        print(json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False))
        return sum("error" in record for record in whole)
    some, width = width > 0, min(max(width, 4), NAME_WIDTH)
    if not options.jsonl and some:
        print(f"{'image':{width}}  {'label':12}  confidence")
    for record in records:
        failed += "error" in record
        if options.jsonl:
            print(json.dumps(record, ensure_ascii=False, allow_nan=False), flush=True)
        elif "error" in record:
            print(printable(f"{record['path']:{width}}  {'-':12}  error: {record['error']}"), file=sys.stderr)
        else:
            print(printable(f"{record['path']:{width}}  {_describe(record, options)}"))
    return failed


def _describe(record: dict, options: Options) -> str:
    """Label, confidence and what else was asked for, as the table shows it."""
    parts = [f"{record['label'] or WITHHELD[record['reason']]:12}  {_percent(record['confidence']):>6}"]
    if record["label"] is None:
        parts.append(f"best guess: {record['best_guess']}")
    if options.top_k:
        parts.append(", ".join(f"{label} {_percent(value)}" for label, value in record["probabilities"].items()))
    if options.coverage is not None:
        parts.append(f"{options.coverage:g}: {{{', '.join(record['prediction_set'])}}}")
    if record.get("enrolled", {}).get("label"):
        parts.append(f"enrolled: {record['enrolled']['label']}, {_percent(record['enrolled']['confidence'])}")
    if "explanation" in record:
        parts.append(record["explanation"])
    return "  ".join(parts)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
