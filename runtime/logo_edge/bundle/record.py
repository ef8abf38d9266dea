"""The bundle: a folder with a model, its input contract, its calibration and its own test vectors.

    bundle.json      the schema below
    bundle.sha256    the sha256 of bundle.json, as `sha256sum` writes it
    model.onnx       uint8 (B, S, S, C) -> float32 logits (B, K) and, where bundle.json says so, epistemic and embedding
    vectors/         images and vectors.json: the logits that this artifact must give on them
    card.md          the model card
    signature.json   optional, like model.sig: `logo_edge.bundle.signing`

bundle.json lists every other file, except its digest and its signatures, with size and sha256. Writer and reader share
this module.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from logo_edge.bundle.calibration import Calibration, calibration_table, parse_calibration, problems_of_calibration
from logo_edge.bundle.fields import parse_table, typed
from logo_edge.bundle.signing import OPENSSF_SIGNATURE, SIGNATURE, verify_record
from logo_edge.errors import BundleError
from logo_edge.files import json_text, write_file
from logo_edge.preprocess import FITS, LETTERBOX, InputContract

FORMAT = "logo-edge-bundle"
FORMAT_VERSION = 2
RECORD = "bundle.json"
DIGEST = "bundle.sha256"
VECTORS = "vectors/vectors.json"
DEFAULT_BUNDLE = Path(__file__).parents[1] / "default_bundle"
EPISTEMIC, EMBEDDING = "epistemic", "embedding"  # optional outputs of a graph: (B,) nats and (B, D) features


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class ModelEntry:
    """The model file, and the names of its graph's input and outputs.

    `precision` is fp32, fp16 or int8; `optional_outputs` lists which of EPISTEMIC and EMBEDDING the graph has.
    """

    file: str
    precision: str
    input_name: str = "pixels"
    output_name: str = "logits"
    optional_outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemberEntry:
    """One model of an ensemble: its file, the size of its images, and its weight in the mean."""

    file: str
    size_px: int
    weight: float


@dataclass(frozen=True)
class VariantEntry:
    """The same network in another precision or format, with vectors and a calibration of its own logits."""

    file: str
    precision: str
    vectors: str
    calibration: Calibration


@dataclass(frozen=True)
class Bundle:
    """The content of bundle.json; `reference` is that of `monitor.reference_of`, `folder` is the bundle's.

    `public_key` is the PEM text of the key whose owner signed it, None where no key was given. `members` is empty, or
    holds the two or more models of an ensemble; the first is `model`'s, and all have its input, outputs and labels.
    `variants` are what `--backend auto` may run instead of `model`. `vectors` is the file of the golden vectors.
    """

    name: str
    labels: tuple[str, ...]
    model: ModelEntry
    input: InputContract
    calibration: Calibration
    files: dict[str, FileEntry]
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    members: tuple[MemberEntry, ...] = ()
    variants: tuple[VariantEntry, ...] = ()
    vectors: str = VECTORS
    public_key: bytes | None = field(default=None, compare=False, repr=False)

    @property
    def model_path(self) -> Path:
        """The file of the bundle's own model; of an ensemble, of its first member."""
        return self.folder / self.model.file

    def of_variant(self, variant: VariantEntry) -> Bundle:
        """The bundle as if the variant were its only model; it promises no embedding, which has a space."""
        outputs = tuple(name for name in self.model.optional_outputs if name != EMBEDDING)
        model = replace(self.model, file=variant.file, precision=variant.precision, optional_outputs=outputs)
        return replace(self, model=model, calibration=variant.calibration, vectors=variant.vectors, variants=())

    @property
    def model_sha256(self) -> str:
        """The sha256 of the model file or, for an ensemble, of its members' files, sizes and weights."""
        if not self.members:
            return self.files[self.model.file].sha256
        members = [[self.files[member.file].sha256, member.size_px, member.weight] for member in self.members]
        return hashlib.sha256(json.dumps(members).encode()).hexdigest()

    def read(self, name: str) -> bytes:
        """The bytes of a listed file as they were packed: the returned bytes themselves are hashed.

        Raises BundleError where the file is not listed, cannot be read or has changed.
        """
        if name not in self.files:
            raise BundleError(f"{self.folder / str(name)}: bundle.json does not list it; pack the bundle again")
        return _read_file(self.folder, name, self.files[name])

    @property
    def size_bytes(self) -> int:
        """The size of the listed files, bundle.json and its digest."""
        own = sum((self.folder / name).stat().st_size for name in (RECORD, DIGEST))
        return own + sum(file.size_bytes for file in self.files.values())


def read_bundle(folder: str | os.PathLike, *, public_key: str | os.PathLike | bytes | None = None) -> Bundle:
    """The bundle in `folder`, with every file's hash checked and, with `public_key`, the signature too.

    `public_key` is a PEM file or its bytes. Raises BundleError where bundle.json is missing, changed, malformed or of
    another format version, a path leaves the folder, a file is missing or has changed, or the key's signature is
    missing or wrong.
    """
    if os.fspath(folder) == "":
        raise BundleError(
            "found an empty name; expected a bundle's folder. Is a variable of the shell or of the environment not "
            "set? Leave the bundle out for the default one"
        )
    folder = Path(folder)
    path = folder / RECORD
    try:
        data = path.read_bytes()
        key = None if public_key is None else verify_record(folder, data, public_key)
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror}; expected a bundle's folder, made by `logo-edge compress`"
        ) from error
    _check_digest(folder, data)
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not JSON ({error}); the bundle is damaged, copy or pack it again") from error
    bundle = replace(parse_bundle(record, folder), public_key=key)
    for name in bundle.files:
        bundle.read(name)
    return bundle


def parse_bundle(record: Any, folder: Path) -> Bundle:
    """The checked content of bundle.json. Raises BundleError, which names the field that is not as expected."""
    where = folder / RECORD
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise BundleError(
            f'{where}: no logo-edge bundle; expected "format": "{FORMAT}", as `logo-edge compress` writes it'
        )
    if record.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{where}: format_version {record.get('format_version')!r}; this runtime reads {FORMAT_VERSION}. "
            "Repack it with `logo-edge compress`, or install the logo-edge that wrote it"
        )
    try:
        bundle = Bundle(
            name=typed(record, "name", str),
            labels=tuple(typed(record, "labels", list)),
            model=_model(typed(record, "model", dict)),
            input=_input_contract(typed(record, "input", dict)),
            calibration=parse_calibration(typed(record, "calibration", dict)),
            files={
                name: parse_table(FileEntry, f"files[{name!r}]", file)
                for name, file in typed(record, "files", dict).items()
            },
            provenance=typed(record, "provenance", dict),
            metrics=typed(record, "metrics", dict),
            reference=typed(record, "reference", dict),
            folder=folder,
            members=_members(record.get("members", [])),
            variants=_variants(record.get("variants", [])),
        )
    except (TypeError, ValueError, KeyError) as error:
        raise BundleError(f"{where}: {error}; the bundle is damaged, copy or pack it again") from error
    _check_content(bundle, where)
    return bundle


def write_bundle_record(bundle: Bundle) -> None:
    """Writes bundle.json and its digest into the bundle's folder, where the listed files lie already."""
    write_record(bundle.folder, record_bytes(bundle))


def record_bytes(bundle: Bundle) -> bytes:
    """The content of the bundle's bundle.json."""
    contract = asdict(bundle.input)
    if bundle.input.fit == LETTERBOX:
        del contract["fit"]  # the default, which older records do not name
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "name": bundle.name,
        "labels": list(bundle.labels),
        "model": asdict(bundle.model),
        "input": {"layout": "NHWC", "dtype": "uint8", "colour": "RGB", **contract},
        "calibration": calibration_table(bundle.calibration),
        "files": {name: asdict(file) for name, file in sorted(bundle.files.items())},
        "provenance": bundle.provenance,
        "metrics": bundle.metrics,
        "reference": bundle.reference,
    }
    if bundle.members:
        record["members"] = [asdict(member) for member in bundle.members]
    if bundle.variants:
        record["variants"] = [
            {**asdict(variant), "calibration": calibration_table(variant.calibration)} for variant in bundle.variants
        ]
    return json_text(record).encode()


def write_record(folder: Path, data: bytes) -> None:
    """Writes `data` as bundle.json and then its digest, each atomically."""
    for name, content in ((RECORD, data), (DIGEST, _digest_line(data))):
        write_file(folder / name, content)


def list_files(folder: Path) -> dict[str, FileEntry]:
    """Every file under `folder` but bundle.json, its digest and its signatures, by its POSIX path."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (RECORD, DIGEST, SIGNATURE, OPENSSF_SIGNATURE):
            files[name] = FileEntry(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
    return files


def _digest_line(data: bytes) -> bytes:
    """The content of bundle.sha256 for this content of bundle.json."""
    return f"{hashlib.sha256(data).hexdigest()}  {RECORD}\n".encode()


def _check_digest(folder: Path, data: bytes) -> None:
    """Raises BundleError where bundle.sha256 is missing or not that of `data`, the content of bundle.json."""
    path, computed = folder / DIGEST, _digest_line(data)
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror}; expected the sha256 of {RECORD}, which this release packs. Copy or pack the "
            "bundle again"
        ) from error
    if packed != computed:
        raise BundleError(
            f"{folder / RECORD}: not the file that was packed (sha256 {computed[:12].decode()}..., which is not what "
            f"{DIGEST} says). Copy or pack the bundle again"
        )


def _read_file(folder: Path, name: str, expected: FileEntry) -> bytes:
    """The bytes of the file. Raises BundleError where their hash is not the expected one."""
    path = folder / name
    try:
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise BundleError(f"{folder}: {name!r} leads out of the bundle; refuse it and get the bundle again")
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; bundle.json lists it. Copy or pack the bundle again") from error
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != expected.sha256:
        raise BundleError(
            f"{path}: not the file that was packed (sha256 {sha256[:12]}..., expected {expected.sha256[:12]}...). "
            "Copy or pack the bundle again"
        )
    return data


def _check_content(bundle: Bundle, where: Path) -> None:
    labels, model, names = bundle.labels, bundle.model.file, [PurePosixPath(name) for name in bundle.files]
    are_names = all(isinstance(label, str) and label for label in labels)
    expectations = {
        "labels: expected at least two different names": are_names and len(set(labels)) == len(labels) >= 2,
        **dict.fromkeys(
            (
                problem
                for calibration in (bundle.calibration, *(variant.calibration for variant in bundle.variants))
                for problem in problems_of_calibration(calibration, labels)
            ),
            False,
        ),
        "variants: expected none in an ensemble, and listed files with listed vectors": not (
            bundle.variants and bundle.members
        )
        and {name for variant in bundle.variants for name in (variant.file, variant.vectors)} <= set(bundle.files),
        "input: expected size_px from 8 to 4096": 8 <= bundle.input.size_px <= 4096,
        f"input: expected fit {' or '.join(FITS)}": bundle.input.fit in FITS,
        f"files: expected {model!r} among them": model in bundle.files,
        f"members: expected none, or two or more listed files, the first {model!r}, of 8 px up to the input's and one "
        "of just that, weights above 0 that sum to 1": _fits_members(bundle),
        "files: a path is absolute or leads upwards": not any(
            path.is_absolute() or ".." in path.parts or "\\" in str(path) or "\0" in str(path) for path in names
        ),
    }
    for expected, holds in expectations.items():
        if not holds:
            raise BundleError(f"{where}: {expected}; the bundle is damaged, copy or pack it again")


def _fits_members(bundle: Bundle) -> bool:
    members, sizes = bundle.members, [member.size_px for member in bundle.members]
    if not members:
        return True
    return (
        len(members) >= 2
        and members[0].file == bundle.model.file
        and len({member.file for member in members} & set(bundle.files)) == len(members)
        and min(sizes) >= 8
        and max(sizes) == bundle.input.size_px
        and all(member.weight > 0 for member in members)
        and abs(sum(member.weight for member in members) - 1) < 1e-6
    )


def _members(members: Any) -> tuple[MemberEntry, ...]:
    if not isinstance(members, list):
        raise ValueError(f"members is {type(members).__name__}; expected list")
    return tuple(parse_table(MemberEntry, f"members[{index}]", member) for index, member in enumerate(members))


def _variants(entries: Any) -> tuple[VariantEntry, ...]:
    if not isinstance(entries, list):
        raise ValueError(f"variants is {type(entries).__name__}; expected list")
    variants = []
    for index, entry in enumerate(entries):
        name = f"variants[{index}]"
        if not isinstance(entry, dict):
            raise ValueError(f"{name} is {type(entry).__name__}; expected a table")
        calibration = parse_calibration(typed(entry, "calibration", dict))
        variants.append(parse_table(VariantEntry, name, {**entry, "calibration": calibration}))
    return tuple(variants)


def _model(table: dict) -> ModelEntry:
    outputs = table.get("optional_outputs", [])
    if not isinstance(outputs, list) or any(name not in (EPISTEMIC, EMBEDDING) for name in outputs):
        raise ValueError(f"model.optional_outputs is {outputs!r}; expected a list of {EPISTEMIC} and {EMBEDDING}")
    return parse_table(ModelEntry, "model", {**table, "optional_outputs": tuple(outputs)})


def _input_contract(table: dict) -> InputContract:
    fixed = {"layout": "NHWC", "dtype": "uint8", "colour": "RGB"}
    for key, expected in fixed.items():
        if table.get(key) != expected:
            raise ValueError(f"input.{key} is {table.get(key)!r}; this runtime reads {expected}")
    values = {key: value for key, value in table.items() if key not in fixed}
    for key in ("light_background", "dark_background"):
        values[key] = tuple(typed(values, key, list))
        if len(values[key]) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in values[key]):
            raise ValueError(f"input.{key} is {values[key]}; expected three numbers from 0 to 255")
    return parse_table(InputContract, "input", values)
