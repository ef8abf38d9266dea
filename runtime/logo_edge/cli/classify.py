"""Runs `logo-edge classify`: from its options to its output and exit status."""

from __future__ import annotations

import gc
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import chain, islice

from logo_edge.classifier import Classifier
from logo_edge.cli.options import RAY, ClassifyOptions
from logo_edge.errors import ImageError, LogoEdgeError
from logo_edge.images.load import MAX_FILE_BYTES, URL
from logo_edge.machine import on_cores, usable_cores
from logo_edge.names import printable, shown
from logo_edge.results import WITHHELD, Classification
from logo_edge.tables.find import HEAT_MAP_SUFFIX, expand_glob, find_images, is_glob, source_folders
from logo_edge.tables.folder import Progress, classify_folder, classify_named, describe_settings
from logo_edge.tables.journal import FOLDERS, Journal
from logo_edge.tables.writers import record_of, rounded

BATCH = 8
NAME_WIDTH = 60  # of the printed table's first column, at most
PEEKED = 256  # paths that are looked for before the first is classified
SHARED_OPTIONS = ("mode", "threshold", "coverage", "backend", "threads", "spinning")  # of Classifier.load
LOCAL_OPTIONS = ("artifact", "cores", "public_key", "log", "enrolled")  # of Classifier.load, on this machine only
STDIN = "-"
STDIN_NAME = "stdin"


def run(options: ClassifyOptions) -> int:
    """Classifies and prints; 0 if everything was classified, 1 if some inputs failed. Raises LogoEdgeError."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # a bad image is reported by its ImageError
    paths = [path for path in options.paths if _exists(path)]
    with on_cores(options.cores):
        classifier = Classifier.load(options.bundle, **_values(options, *SHARED_OPTIONS, *LOCAL_OPTIONS))
        gc.enable()
        images = find_images(paths)
        first = list(islice(images, PEEKED))
        if not first and len(paths) == len(options.paths):
            svg = "" if find_spec("resvg_py") else "; SVG needs pip install 'logo-edge[svg]'"
            message = f"no image found in {', '.join(paths)}; expected files such as .png, .jpg, .webp{svg}"
            print(f"logo-edge: {printable(message)}", file=sys.stderr)
            return 1
        workers = options.workers or (len(usable_cores()) if len(first) > 2 * BATCH else 1)
        if options.out:
            failed = _write_table(classifier, paths, options, workers)
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


def _values(options: ClassifyOptions, *names: str) -> dict:
    return {name: getattr(options, name) for name in names}


def _exists(path: str) -> bool:
    """Whether there is such an input; if not, says so on stderr."""
    if path == STDIN or os.path.lexists(path) or (is_glob(path) and any(expand_glob(path))):
        return True
    kind = "an address; nothing is fetched. Download it first" if URL.match(path) else "no such file or folder"
    if path[:5].lower() == "data:":
        path, kind = f"{path[:40]}...", "a data URI; decode it, and give its bytes to -"
    print(f"logo-edge: {printable(path)}: {kind}", file=sys.stderr)
    return False


def _source(name: str) -> str | bytes:
    return sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if name == STDIN else name  # a byte too many is refused


def _write_table(classifier: Classifier, paths: list[str], options: ClassifyOptions, workers: int) -> int:
    """Writes --out and gives the number of failures."""
    assert options.out is not None
    settings = describe_settings(classifier) | {FOLDERS: source_folders(paths)}
    with Journal(options.out, classifier.labels, settings, overwrite=options.overwrite) as journal:
        images, progress = find_images(paths), Progress(sum(1 for _ in find_images(paths)), journal.resumed)
        try:
            if options.engine == RAY:
                from logo_edge.scale.ray import classify_on_cluster

                load_options = _values(options, *SHARED_OPTIONS)
                bundle, size = classifier.bundle, options.workers  # None: one worker a core of the cluster
                classify_on_cluster(bundle, load_options, images, journal, workers=size, progress=progress)
            else:
                classify_folder(classifier, images, journal, workers=workers, batch_size=BATCH, progress=progress)
        finally:
            progress.close()
    print(f"{printable(str(options.out))}: {journal.rows:,} images, {journal.failed:,} of them failed")
    return journal.failed


def _explained(
    classifier: Classifier, named: Iterable[tuple[str, str | bytes]], options: ClassifyOptions
) -> Iterator[dict]:
    """The record of each image; writes its heat map beside it."""
    from logo_edge.explain import explain

    for name, source in named:
        try:
            result = classifier.classify(source)
            heat_map = explain(classifier, source, result)
        except ImageError as error:
            yield _record(name, error, options)
            continue
        path = name + HEAT_MAP_SUFFIX
        try:
            heat_map.save(path, "PNG")
        except PermissionError as error:
            raise LogoEdgeError(f"{path}: {error.strerror}; --explain needs a folder that can be written") from error
        yield _record(name, result, options) | {"explanation": shown(path)}


def _record(name: str, result: Classification | ImageError, options: ClassifyOptions) -> dict:
    record = record_of(name, result)
    if options.top_k and isinstance(result, Classification):
        record["probabilities"] = {label: rounded(value) for label, value in result.top(options.top_k).items()}
    return record


def _print(records: Iterator[dict], options: ClassifyOptions, width: int) -> int:
    """Prints every record and gives the number of failures."""
    failed = 0
    if options.json:
        array = list(records)
        print(json.dumps(array, indent=1, ensure_ascii=False, allow_nan=False))
        return sum("error" in record for record in array)
    has_images, width = width > 0, min(max(width, 4), NAME_WIDTH)
    if not options.jsonl and has_images:
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


def _describe(record: dict, options: ClassifyOptions) -> str:
    """The printed columns after the name: label, confidence, and those that the options add."""
    label = ", ".join(record["labels"]) if record.get("labels") else record["label"]
    parts = [f"{label or '(' + WITHHELD[record['reason']] + ')':12}  {_percent(record['confidence']):>6}"]
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
