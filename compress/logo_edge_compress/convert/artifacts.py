"""A bundle, or the run it was made from -> a verified artifact for another runtime (`logo-edge export`).

Every format keeps the bundle's contract: `pixels` (batch, S, S, 3) uint8 RGB -> `logits` (batch, K) float32 before
temperature, normalisation inside.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from logo_edge.bundle.record import RECORD, Bundle, read_bundle
from logo_edge.classifier import Classifier
from logo_edge.errors import DatasetError, ExportError, MissingExtraError, RecipeError, VerificationError
from logo_edge.files import folder_beside, json_text, write_file
from logo_edge.images.load import load_image
from logo_edge.preprocess import InputContract, preprocess
from logo_edge.tables.find import walk_images
from logo_edge_compress.convert.tensorrt import build_engine, trtexec_line, unsupported_operators, why_no_engine
from logo_edge_compress.onnx.graph import PIXELS, fix_batch, save_model, to_float16, to_tensorrt
from logo_edge_compress.verify import (
    EXPORTED,
    QUANTIZED,
    ROUNDED,
    Forward,
    Tolerance,
    compare_logits,
    open_artifact,
    open_onnx,
    run_artifact,
    run_onnx,
    verify,
)
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.keys import ROWS, check_rows, file_hash, versions
from logo_edge_train.recipe import Architecture

FORMATS = ("onnx", "openvino", "tensorrt", "torchscript")
PRECISIONS = ("fp32", "fp16", "int8")
LEAST_IMAGES = 8  # fewer say nothing of an artifact
FITTING_IMAGES = 32
COMPUTED_IN = {"fp16": "fp32", "int8-weights": "fp32"}  # of what is only stored in fewer bits
SUFFIX_OF_FILES = (".onnx", ".xml", ".bin", ".pt")
KEPT_RANGES = (1.0, 0.98, 0.96, 0.94, 0.92)  # tried for TensorRT's S8 activations
VERSIONED = ("logo-edge", "onnx", "onnxruntime", "openvino", "tensorrt", "torch")


@dataclass(frozen=True)
class Source:
    """What can be exported: ONNX graphs by precision; the bundle that holds them, or a run's student, folder and manifest."""

    name: str
    input: InputContract
    graphs: dict[str, Path]
    bundle: Bundle | None = None
    student: Path | None = None
    run: Path | None = None
    manifest: Path | None = None


@dataclass(frozen=True)
class Images:
    """(N, S, S, 3) uint8 each: `fitting` to choose by, `verifying` to hold the artifact against its parent."""

    fitting: np.ndarray
    verifying: np.ndarray


def read_source(path: Path, *, public_key: Path | None = None) -> Source:
    """The bundle in folder `path`, or what `logo-edge compress` left in the run's folder `path`.

    With `public_key` it is a bundle that the key's owner signed. Raises BundleError where the bundle is damaged or not signed, ExportError where `path` is neither, or a run not compressed yet,
    RunError where the run's manifest is another one by now.
    """
    if public_key or (path / RECORD).exists():
        bundle = read_bundle(path, public_key=public_key)
        Classifier(bundle).run_vectors(limit=1)
        precision = COMPUTED_IN.get(bundle.model.precision, bundle.model.precision)
        return Source(bundle.name, bundle.input, {precision: bundle.model_path}, bundle)
    work = path / "compress" if (path / "run.json").exists() else path
    run = path if work != path else path.parent
    try:
        report = json.loads((work / "report.json").read_text(encoding="utf-8"))
        manifest = Path(json.loads((run / "run.json").read_text(encoding="utf-8"))["manifest"])
        contract = Architecture.parse(report["chosen"]).contract
        graphs = {precision: work / path for precision, path in report["graphs"].items()}
    except (OSError, ValueError, KeyError, RecipeError) as error:
        raise ExportError(
            f"{path}: found neither a bundle ({RECORD}) nor a compressed run ({error!r}); expected a folder that "
            "`logo-edge compress` wrote, or RUN/compress-RECIPE. Compress the run first: logo-edge compress RUN"
        ) from error
    check_rows(read_manifest(manifest), run / ROWS, manifest)
    name = run.resolve().name + work.name.removeprefix("compress")
    student = next(iter(graphs.values())).parent / "student.safetensors"
    return Source(name, contract, graphs, student=student, run=run, manifest=manifest)


def read_images(data: Path, contract: InputContract) -> Images:
    """The train and val logos of the manifest CSV at `data`, or the images of a folder, every other one for fitting.

    Raises DatasetError where fewer than LEAST_IMAGES are left to verify on.
    """
    if data.is_dir() and not (data / "manifest.csv").exists():
        paths = [Path(path) for path in walk_images(data)]
        fitting, verifying = paths[::2], paths[1::2]
    else:
        from logo_edge_train.data.icons import renders_folder

        manifest = read_manifest(data / "manifest.csv" if data.is_dir() else data)
        fitting, verifying = (
            manifest.image_paths(manifest.split(split), renders_folder()) for split in ("train", "val")
        )
    if len(verifying) < LEAST_IMAGES or not fitting:
        raise DatasetError(
            f"{data}: {len(verifying)} images to verify on and {len(fitting)} to fit on; expected at least "
            f"{LEAST_IMAGES} and 1. Give --data a folder of {2 * LEAST_IMAGES} logos or more, or a manifest whose "
            "splits train and val have logos"
        )
    fitting = fitting[:: -(-len(fitting) // FITTING_IMAGES)]
    return Images(
        *(np.stack([preprocess(load_image(path), contract) for path in part]) for part in (fitting, verifying))
    )


def export_artifact(
    source: Source,
    kind: str,
    precision: str,
    batch: int | None,
    out: Path,
    images: Images,
    *,
    say: Callable[[str], None],
) -> dict:
    """The record of the artifact in folder `out`, also written beside it as JSON: hashes, parity, versions.

    All files are made and verified in a temporary folder and renamed to `out` at the end, where they hold; the record goes
    first and comes last, so that none names the files of two exports. `batch` None leaves the batch
    free. Raises VerificationError where the artifact disagrees with its parent, ExportError where the source has no
    such precision or TensorRT would refuse it, MissingExtraError where the format's library is missing.
    """
    check_request(source, kind, precision, batch)
    out.mkdir(parents=True, exist_ok=True)
    stem = "-".join([source.name, precision, *([f"batch{batch}"] if batch else []), kind])
    with folder_beside(out / "export") as beside:
        path = beside / stem
        if kind == "torchscript":
            made = _torchscript(source, path, images)
        else:
            graph = _take_graph(source, precision, beside)
            parent = run_onnx(graph, images.verifying)
            model = onnx.load(graph)
            if precision == "fp16":
                model = to_float16(model)
            make = {"onnx": _onnx, "openvino": _openvino, "tensorrt": _tensorrt}[kind]
            made = make(model, graph, parent, precision, batch, path, images, say)
            made["parent"] = {"file": graph.name, "sha256": file_hash(graph)}
        if kind == "tensorrt":
            made |= _engine(path.with_suffix(".onnx"), out / "engines", parent, precision, batch, images, say)
        files = sorted(file for file in beside.iterdir() if file.suffix in SUFFIX_OF_FILES)
        record = {
            "format": kind,
            "precision": precision,
            "batch": batch or "dynamic",
            "source": source.name,
            "input": {"name": PIXELS, "layout": "NHWC", "dtype": "uint8", "colour": "RGB", **asdict(source.input)},
            "files": {file.name: {"sha256": file_hash(file), "size_bytes": file.stat().st_size} for file in files},
            **made,
            "versions": versions(VERSIONED),
        }
        told = beside / f"{stem}.json"
        write_file(told, json_text(record))
        (out / told.name).unlink(missing_ok=True)
        for file in (*files, told):
            os.replace(file, out / file.name)
    return record


def _take_graph(source: Source, precision: str, beside: Path) -> Path:
    """The graph that the artifact is made of; of a bundle a copy of the very bytes whose hash was checked.

    Raises BundleError where the bundle's file has changed.
    """
    graph = source.graphs[_stored(precision)]
    if source.bundle is None:
        return graph
    copy = beside / "parent" / graph.name
    copy.parent.mkdir()
    copy.write_bytes(source.bundle.read(graph.name))
    return copy


def check_request(source: Source, kind: str, precision: str, batch: int | None) -> None:
    """Raises ExportError where the source cannot give this format, precision or batch."""
    if kind == "torchscript":
        if source.student is None:
            raise ExportError(
                f"{source.name} is a bundle, which holds no PyTorch network; TorchScript is made of a run: "
                "logo-edge export RUN --format torchscript"
            )
        if precision != "fp32" or batch:
            raise ExportError("TorchScript modules are FP32 and take any batch; leave out --precision and --batch")
    elif _stored(precision) not in source.graphs:
        raise ExportError(
            f"{source.name} holds its model in {', '.join(source.graphs)} only, and {precision} is made of "
            f"{_stored(precision)}; give the run that the bundle was compressed from: logo-edge export RUN"
        )


def _stored(precision: str) -> str:
    """The precision of the graph that one of `precision` is made of."""
    return "fp32" if precision == "fp16" else precision


def _onnx(model, graph, parent, precision, batch, path, images, say) -> dict:
    path = path.with_suffix(".onnx")
    save_model(fix_batch(model, batch) if batch else model, path)
    tolerance = ROUNDED if precision == "fp16" else EXPORTED
    return _verified(open_onnx(path), parent, tolerance, path.name, batch, images, "onnxruntime")


def _openvino(model, graph, parent, precision, batch, path, images, say) -> dict:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    path = path.with_suffix(".xml")
    converted = openvino.convert_model(graph)  # of FP16 the weights only: devices choose the type they compute in
    if batch:
        converted.reshape({PIXELS: [batch, *converted.input(PIXELS).partial_shape[1:]]})
    openvino.save_model(converted, path, compress_to_fp16=precision == "fp16")
    tolerance = EXPORTED if precision == "fp32" else ROUNDED
    return _verified(open_artifact("openvino", path), parent, tolerance, path.name, batch, images, "openvino")


def _tensorrt(model, graph, parent, precision, batch, path, images, say) -> dict:
    """Writes the ONNX that TensorRT 10 and 11 parse; its numbers are those of ONNX Runtime on the CPU."""
    path, made = path.with_suffix(".onnx"), {}
    if precision == "int8":
        say(f"choosing the range of S8 activations on {len(images.fitting)} images")
        wanted, tried = run_onnx(graph, images.fitting), {}
        for share in KEPT_RANGES:
            save_model(to_tensorrt(model, share), path)
            tried[share] = compare_logits(wanted, run_onnx(path, images.fitting)).kl_nats
        made["kept_range"] = min(tried, key=tried.__getitem__)
        model = to_tensorrt(model, made["kept_range"])
    else:
        model = to_tensorrt(model)
    save_model(fix_batch(model, batch) if batch else model, path)
    if problems := unsupported_operators(model):
        raise ExportError(f"TensorRT would refuse {path.name}: {'; '.join(problems)}; take --format onnx or openvino")
    tolerance = {"fp32": EXPORTED, "fp16": ROUNDED, "int8": QUANTIZED}[precision]
    return made | _verified(open_onnx(path), parent, tolerance, path.name, batch, images, "onnxruntime")


def _engine(path: Path, folder: Path, parent, precision: str, batch, images: Images, say) -> dict:
    """Builds the engine and holds it against the parent, or says why there is none; one that fails is deleted."""
    say(f"without Python: {trtexec_line(onnx.load(path), path, path.stem + '.engine')}")
    if reason := why_no_engine():
        say(f"not done: no engine was built or run here. {reason}. Build it from the ONNX on the device")
        return {"engine": None, "not_done": f"no engine was built or run: {reason}"}
    engine = build_engine(path, folder)
    tolerance = QUANTIZED if precision == "int8" else ROUNDED  # on GPUs FP32 is TF32
    try:
        made = _verified(open_artifact("tensorrt", engine), parent, tolerance, engine.name, batch, images, "tensorrt")
    except VerificationError:
        engine.unlink()
        raise
    return {"engine": {"file": f"{folder.name}/{engine.name}", "sha256": file_hash(engine), **made}}


def _torchscript(source: Source, path: Path, images: Images) -> dict:
    import torch

    from logo_edge_compress.distill.distill import load_student
    from logo_edge_compress.onnx.export import export_torchscript
    from logo_edge_train.runs import read_run

    run = read_run(source.run)
    network = load_student(source.student.parent, len(run.classes)).network
    with torch.no_grad():
        parent = run_artifact(lambda pixels: network(torch.from_numpy(pixels)).numpy(), images.verifying, None)
    path = export_torchscript(network, source.input.size_px, path.with_suffix(".pt"))
    made = _verified(open_artifact("torchscript", path), parent, EXPORTED, path.name, None, images, "torch")
    return made | {"parent": {"file": source.student.name, "sha256": file_hash(source.student)}}


def _verified(
    forward: Forward, parent: np.ndarray, tolerance: Tolerance, name: str, batch: int | None, images: Images, by: str
) -> dict:
    parity = verify(parent, run_artifact(forward, images.verifying, batch), tolerance, name)
    return {"verified_by": by, "parity": asdict(parity), "tolerance": asdict(tolerance)}
