"""Classes added to a bundle on the device, from a few images and without training (`logo-edge enroll`).

A class has a prototype: the mean embedding of its images in the bundle's space (Snell et al. 2017, arXiv:1703.05175).
An image belongs to the class of the most similar prototype, or to none where the similarity is below the threshold.
All but a given share of the bundle's background, images of no enrolled class, stay below the threshold (split
conformal, rank ⌈(n + 1)(1 - share)⌉).

An enrolment is one JSON file. It holds embeddings and no image; `sha256` is the hash of the rest in canonical JSON.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from logo_edge.bundle.record import Bundle
from logo_edge.errors import EnrolmentError
from logo_edge.files import changing, json_text, write_file
from logo_edge.images.load import ImageSource, load_image
from logo_edge.likeness.space import SPACE, EmbeddingSpace, embed_parts, read_space, unit
from logo_edge.model import Model
from logo_edge.names import alike, cleaned
from logo_edge.results import Match

FORMAT = "logo-edge-enrolment"
FORMAT_VERSION = 1
FALSE_ACCEPTS = 0.05
SHARPNESS = 7.0  # of confidence as a function of similarity; has the lowest NLL on val (the experiment `enroll`)
MAX_BYTES = 256 * 1024 * 1024
MAX_NAME = 200


@dataclass(frozen=True)
class Sample:
    """One image of a class: sha256 of its pixels as the model sees them, and two (d,) embeddings.

    `whole` is that of the whole image, `shown` the mean of the whole and its parts.
    """

    sha256: str
    whole: np.ndarray
    shown: np.ndarray


@dataclass(frozen=True)
class Enrolment:
    """The enrolled classes of one bundle; at most `false_accepts` of the images of no class are matched to one."""

    identity: dict[str, str]
    space: EmbeddingSpace
    classes: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    false_accepts: float = FALSE_ACCEPTS

    @cached_property
    def prototypes(self) -> np.ndarray:
        """(K, d) of length 1."""
        return np.stack([_prototype(samples) for samples in self.classes.values()])

    @cached_property
    def threshold(self) -> float:
        """The lowest similarity to a prototype that gives a label, one for all classes."""
        return background_threshold(self.space.background, self.prototypes, self.false_accepts)

    @cached_property
    def sha256(self) -> str:
        """The hash of the content, which its file holds too."""
        return _digest(_record(self))

    def match(self, embeddings: np.ndarray) -> list[Match]:
        """The match of each of (B, D) embeddings, as the model gives them."""
        names, similarities = list(self.classes), self.space.project(embeddings) @ self.prototypes.T  # (B, K)
        shares = confidences(similarities, self.threshold)
        best = similarities.argmax(1)
        return [
            Match(
                names[index] if row[index] >= self.threshold else None,  # NaN gets no label
                names[index],
                float(row[index]),
                float(share[index]),
            )
            for index, row, share in zip(best, similarities, shares, strict=True)
        ]

    def left_out(self, name: str) -> tuple[int, int]:
        """Leave-one-out recall of a class: how many of its images match it without themselves, and of how many.

        (0, 0) for a class of one image.
        """
        samples = self.classes[name]
        if len(samples) < 2:
            return 0, 0
        matched = 0
        for index, sample in enumerate(samples):
            others = replace(self, classes={**self.classes, name: samples[:index] + samples[index + 1 :]})
            similarities = others.prototypes @ sample.whole
            best = int(similarities.argmax())
            matched += list(self.classes)[best] == name and bool(similarities[best] >= others.threshold)
        return matched, len(samples)

    def with_classes(self, classes: dict[str, tuple[Sample, ...]]) -> Enrolment:
        """The enrolment with these classes instead."""
        return replace(self, classes=classes)

    def without(self, name: str) -> Enrolment:
        """The enrolment without one class. Raises EnrolmentError where there is no such class."""
        if name not in self.classes:
            raise EnrolmentError(f"no class {name!r} is enrolled; there are: {', '.join(self.classes) or 'none'}")
        return replace(self, classes={other: samples for other, samples in self.classes.items() if other != name})


def background_threshold(background: np.ndarray, prototypes: np.ndarray, false_accepts: float) -> float:
    """The similarity to the nearest of (K, d) prototypes that at most `false_accepts` of (n, d) others reach.

    Raises EnrolmentError where the background is too small to promise that.
    """
    count = len(background)
    rank = math.ceil((count + 1) * (1 - false_accepts))
    if rank > count:
        raise EnrolmentError(
            f"false accepts of {false_accepts:g}; the bundle's background of {count} images can promise "
            f"{1 / (count + 1):.2g} at least"
        )
    highest = np.sort((background @ prototypes.T).max(1))
    return float(
        np.nextafter(highest[rank - 1], np.float32(np.inf))
    )  # an image as similar as the background is refused


def confidences(similarities: np.ndarray, threshold: float, sharpness: float = SHARPNESS) -> np.ndarray:
    """(B, K): the share of each class among all classes and "none", from (B, K) similarities.

    "None" weighs as much as a class whose similarity is at the threshold.
    """
    scaled = np.exp(sharpness * (similarities.astype(np.float64) - threshold))
    return scaled / (1 + scaled.sum(1, keepdims=True))


def new_enrolment(bundle: Bundle, *, false_accepts: float = FALSE_ACCEPTS) -> Enrolment:
    """An enrolment without classes.

    Raises BundleError where the bundle has no embeddings, EnrolmentError where `false_accepts` is no share.
    """
    if not 0 < false_accepts < 1:
        raise EnrolmentError(f"false accepts of {false_accepts:g}; expected a share between 0 and 1, such as 0.05")
    return Enrolment(_identity(bundle), read_space(bundle), false_accepts=false_accepts)


def add_class(enrolment: Enrolment, model: Model, name: str, sources: Sequence[ImageSource]) -> tuple[Enrolment, int]:
    """The enrolment with the images added to the class `name` (stripped, in NFC), and how many of them were new.

    Creates the class if needed. Raises ImageError where an image cannot be read, EnrolmentError for an invalid name and
    for an image that is enrolled as another class.
    """
    name = cleaned(name)
    _check_name(name, model.labels)
    for other in (*model.labels, *enrolment.classes):
        if other != name and alike(other) == alike(name):
            raise EnrolmentError(
                f"a class named {name!r}; there is {other!r}, which looks the same. Give that name, or another"
            )
    owners = {sample.sha256: owner for owner, samples in enrolment.classes.items() for sample in samples}
    samples = []
    for source in sources:
        image = load_image(source)
        digest = hashlib.sha256(model.read_pixels(image).tobytes()).hexdigest()
        owner = owners.setdefault(digest, name)
        if owner != name:
            raise EnrolmentError(
                f"{source}: enrolled as {owner!r} already; an image is of one class. Remove that one first"
            )
        if all(sample.sha256 != digest for sample in (*enrolment.classes.get(name, ()), *samples)):
            parts = embed_parts(model, enrolment.space, image)
            samples.append(Sample(digest, parts[0], unit(parts.mean(0))))
    classes = {**enrolment.classes, name: (*enrolment.classes.get(name, ()), *samples)}
    if not classes[name]:
        raise EnrolmentError(f"{name}: no image; expected one or more")
    return replace(enrolment, classes=classes), len(samples)


def write_enrolment(enrolment: Enrolment, path: str | os.PathLike) -> None:
    """Writes the file atomically. Raises EnrolmentError."""
    record = {**_record(enrolment), "sha256": enrolment.sha256}
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json_text(record))
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}; expected a file that can be written") from error


def change_enrolment(path: str | os.PathLike, bundle: Bundle, change: Callable[[Enrolment], Enrolment]) -> Enrolment:
    """Writes and returns the result of `change` on the enrolment at `path`, or on a new one where there is no file.

    Other processes that change the same file wait, so that no change is lost. Where `change` raises, the file stays as
    it was. Raises EnrolmentError.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with changing(path):
            enrolment = change(open_enrolment(path, bundle) if path.exists() else new_enrolment(bundle))
            write_enrolment(enrolment, path)
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}; expected a file that can be written") from error
    return enrolment


def read_enrolment(path: str | os.PathLike, bundle: Bundle) -> Enrolment:
    """The enrolment at `path`.

    Raises EnrolmentError where it is missing, changed, of another format or bundle, or without classes.
    """
    enrolment = open_enrolment(path, bundle)
    if not enrolment.classes:
        raise EnrolmentError(
            f"{path}: no class is enrolled; add one with `logo-edge enroll NAME IMAGE... --file {path}`"
        )
    return enrolment


def open_enrolment(path: str | os.PathLike, bundle: Bundle) -> Enrolment:
    """`read_enrolment`, which also accepts a file without classes."""
    again = "Enroll its classes again, or get the file again"
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise EnrolmentError(f"{path}: more than {MAX_BYTES:,} bytes; expected a file of `logo-edge enroll`")
        record = json.loads(data)
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}; expected a file of `logo-edge enroll`") from error
    except (ValueError, RecursionError) as error:
        raise EnrolmentError(f"{path}: not JSON ({error}). {again}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise EnrolmentError(f'{path}: no file of `logo-edge enroll`; expected "format": "{FORMAT}"')
    if record.get("format_version") != FORMAT_VERSION:
        raise EnrolmentError(
            f"{path}: format_version {record.get('format_version')!r}; this runtime reads {FORMAT_VERSION}. {again}"
        )
    if record.pop("sha256", None) != _digest(record):
        raise EnrolmentError(f"{path}: not what was written; it was changed or damaged afterwards. {again}")
    fresh = new_enrolment(bundle)
    if record.get("bundle") != fresh.identity:
        raise EnrolmentError(
            f"{path}: enrolled with another bundle ({_short(record.get('bundle'))}); this one is "
            f"{_short(fresh.identity)}. Give that bundle, or enroll the classes again with this one"
        )
    try:
        return _parse_classes(record, fresh, bundle.labels)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise EnrolmentError(f"{path}: {error!r}; the file is damaged. {again}") from error


def _record(enrolment: Enrolment) -> dict:
    """The content of the file without its hash."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "bundle": enrolment.identity,
        "false_accepts": enrolment.false_accepts,
        "classes": {
            name: [
                {"sha256": sample.sha256, "whole": _encode(sample.whole), "shown": _encode(sample.shown)}
                for sample in samples
            ]
            for name, samples in enrolment.classes.items()
        },
    }


def _parse_classes(record: dict, fresh: Enrolment, labels: Sequence[str]) -> Enrolment:
    false_accepts = record["false_accepts"]
    if isinstance(false_accepts, bool) or not isinstance(false_accepts, (int, float)) or not 0 < false_accepts < 1:
        raise ValueError(f"false_accepts is {false_accepts!r}; expected a share between 0 and 1")
    size, classes = len(fresh.space.directions), {}
    for name, samples in record["classes"].items():
        _check_name(name, labels)
        if not samples:
            raise ValueError(f"class {name!r} has no image")
        classes[name] = tuple(
            Sample(str(sample["sha256"]), _decode(sample["whole"], size), _decode(sample["shown"], size))
            for sample in samples
        )
    return replace(fresh, classes=classes, false_accepts=false_accepts)


def _prototype(samples: Sequence[Sample]) -> np.ndarray:
    return unit(np.mean([sample.shown for sample in samples], axis=0))


def _check_name(name: str, labels: Sequence[str]) -> None:
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise EnrolmentError(
            f"a class named {name[:MAX_NAME]!r}; expected 1 to {MAX_NAME} characters that can be printed"
        )
    if name in labels:
        raise EnrolmentError(f"{name!r} is a class of the bundle itself; enroll under another name")


def _identity(bundle: Bundle) -> dict[str, str]:
    """The files on which embeddings depend: an enrolment is valid for one bundle only."""
    files = {"model": bundle.model.file, "space": SPACE}
    return {
        "name": bundle.name,
        **{key: bundle.files[name].sha256 for key, name in files.items() if name in bundle.files},
    }


def _short(identity: Any) -> str:
    """A bundle's name and the start of its model's hash, for messages."""
    known = identity if isinstance(identity, dict) else {}
    return f"{known.get('name')}, model {str(known.get('model'))[:12]}"


def _digest(record: Any) -> str:
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _encode(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _decode(text: str, size: int) -> np.ndarray:
    """(size,) float32. Raises ValueError."""
    try:
        vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except binascii.Error as error:
        raise ValueError(f"an embedding is no base64 ({error})") from error
    if vector.shape != (size,) or not np.isfinite(vector).all():
        raise ValueError(f"an embedding of {len(vector)} numbers; expected {size}, all finite")
    return vector
