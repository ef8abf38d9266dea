"""Reads the lettering on a logo by text detection and recognition: PP-OCRv4 (arXiv:2206.03001), by ONNX Runtime.

The two models are in the wheel of rapidocr-onnxruntime (Apache-2.0). Its code is not used: it needs opencv-python,
which overwrites opencv-python-headless. Both decoders are those of the paper: DB (arXiv:1911.08947) and CTC (Graves et
al. 2006).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from logo_edge.errors import LogoEdgeError
from logo_edge.images.load import load_image
from logo_edge.preprocess import border_colour
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.data.processes import each_in_processes
from logo_edge_train.keys import artifact_key, row_hashes, versions
from logo_edge_train.organize.features import lay_out

PACKAGE = "rapidocr-onnxruntime"
MADE_WITH = (PACKAGE, "numpy", "onnxruntime", "opencv-python-headless", "pillow")
CANVAS_PX, LOGO_PX = 256, 204  # the square that is read, and the longer side of the logo on it
INK_LEVEL, LEAST_BOX_SCORE, GROWTH = 0.3, 0.5, 1.6  # DB: of the map, of a box's mean, and by how much boxes grow
LEAST_SIDE_PX = 3
LINE_PX, LEAST_LINE_PX = 48, 160  # height of what the recogniser reads, and its least width
KINDS = ("letter", "digit", "other")  # of characters: of the Latin alphabet, 0 to 9, everything else
READ = 0.5  # confidence from which a character counts as read
MOST_READ, MOST_LINES = 12, 6  # counts are capped here


@dataclass(frozen=True)
class Line:
    """A line of text: its position and content.

    `box` has four corners (x, y), clockwise from the top left, as shares of the logo's box. `score` is the detector's,
    0 to 1. `confidences` are of the characters of `text`. `kinds` are the highest probabilities of any letter, digit
    and other character at one position, before decoding.
    """

    box: list[list[float]]
    score: float
    text: str
    confidences: list[float]
    kinds: list[float]


@dataclass(frozen=True)
class Reading:
    """The lettering of a logo: its lines, and the share of its box that the detector calls text.

    If the detector finds no line, the whole logo is read as one, with the score 0. `peak` is the highest value of the
    detector's map; `aspect_ratio` is the logo's, width over height.
    """

    lines: list[Line]
    text_share: float
    peak: float
    aspect_ratio: float


def read_lettering(path: Path) -> Reading:
    """Reads the lettering of an image file. Raises ImageError if the file is unreadable."""
    pixels, _ = lay_out(load_image(path), LOGO_PX)
    height, width = pixels.shape[:2]
    left, top = (CANVAS_PX - width) // 2, (CANVAS_PX - height) // 2
    canvas = np.empty((CANVAS_PX, CANVAS_PX, 3), np.uint8)
    canvas[:] = border_colour(pixels)
    canvas[top : top + height, left : left + width] = pixels
    canvas = np.ascontiguousarray(canvas[:, :, ::-1])  # the models expect BGR
    text_map = _detector().run(None, {"x": _normalise(canvas)})[0][0, 0]  # (S, S) 0 to 1
    logo = np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]], np.float32)

    def read(box: np.ndarray, score: float) -> Line:
        text, confidences, kinds = read_line(_cut(canvas, box))
        corners = ((box - (left, top)) / (width, height)).round(4).tolist()
        return Line(corners, round(score, 4), text, [round(value, 4) for value in confidences], kinds)

    inside = text_map[top : top + height, left : left + width] > INK_LEVEL
    boxes = list(find_boxes(text_map)) or [(logo, 0.0)]
    shares = (inside.mean(), text_map.max(), width / height)
    return Reading([read(box, score) for box, score in boxes], *(round(float(value), 4) for value in shares))


def describe_lettering(reading: Reading) -> np.ndarray:
    """(F,) float32 features of the lettering: number, confidence and kinds of its characters, and the part of the logo.

    Letters and digits of a confidence of at least READ count; shares are of the logo's box.
    """
    lines = reading.lines
    text, confidences = "".join(line.text for line in lines), [c for line in lines for c in line.confidences]
    kinds = [_kind_of(character) for character in text]
    known = np.array([c for c, kind in zip(confidences, kinds, strict=True) if kind in (0, 1)])
    counts = [
        sum(c >= READ and _kind_of(one) in (0, 1) for one, c in zip(line.text, line.confidences, strict=True))
        for line in lines
    ]
    boxes = np.array([line.box for line, count in zip(lines, counts, strict=True) if count]).reshape(-1, 4, 2)
    width, height = np.minimum(np.ptp(boxes.reshape(-1, 2), 0), 1) if len(boxes) else (0.0, 0.0)
    longest, total = lines[int(np.argmax(counts))], sum(counts)
    sides = [float(np.linalg.norm(np.subtract(longest.box[at], longest.box[0]))) for at in (1, 3)]
    certainty = known.mean() if len(known) else 0.0
    return np.array(
        [
            min(len(lines), MOST_LINES),
            min(len(text), MOST_READ),
            min(total, MOST_READ),
            min(max(counts), MOST_READ),
            *(total >= least for least in (1, 2, 3, 4)),
            min(float(known.sum()), MOST_READ),
            certainty,
            known.min(initial=1.0) if len(known) else 0.0,
            known.max(initial=0.0),
            *(kinds.count(kind) / max(len(kinds), 1) for kind in range(len(KINDS))),
            sum(one.isupper() for one in text) / max(len(text), 1),
            *(width, height, width * height, width * certainty),
            *sides,
            np.log((sides[0] + 0.01) / (sides[1] + 0.01)),
            max(line.score for line in lines),
            *np.max([line.kinds for line in lines], 0),
            *longest.kinds,
            reading.text_share,
            reading.peak,
            np.log(reading.aspect_ratio),
        ],
        np.float32,
    )


def find_boxes(text_map: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """Yields (4, 2) float32 corners of each text box, and its score, from the detector's (H, W) map (DB)."""
    bitmap = cv2.dilate((text_map > INK_LEVEL).astype(np.uint8), np.ones((2, 2), np.uint8))
    for contour in cv2.findContours(bitmap, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]:
        centre, (width, height), angle = cv2.minAreaRect(contour)
        if min(width, height) < LEAST_SIDE_PX:
            continue
        mask = np.zeros(text_map.shape, np.uint8)
        cv2.fillPoly(mask, [cv2.boxPoints((centre, (width, height), angle)).astype(np.int32)], 1)
        score = cv2.mean(text_map, mask)[0]
        if score < LEAST_BOX_SCORE:
            continue
        grown = GROWTH * width * height / (width + height)  # restores the shrunk boxes of the map
        box = cv2.boxPoints((centre, (width + grown, height + grown), angle))
        box = box[np.argsort(box[:, 0], kind="stable")]  # two left, two right
        left, right = (pair[np.argsort(pair[:, 1], kind="stable")] for pair in (box[:2], box[2:]))
        corners = np.stack([left[0], right[0], right[1], left[1]])
        yield np.clip(corners, 0, np.array(text_map.shape[::-1]) - 1).astype(np.float32), score


def read_line(pixels: np.ndarray) -> tuple[str, list[float], list[float]]:
    """The text on (H, W, 3) uint8 BGR pixels, its characters' confidences, and `Line.kinds` (CTC, greedy)."""
    height, width = pixels.shape[:2]
    width = max(1, math.ceil(LINE_PX * width / height))
    line = np.zeros((1, 3, LINE_PX, max(width, LEAST_LINE_PX)), np.float32)
    line[..., :width] = _normalise(cv2.resize(pixels, (width, LINE_PX)))
    recogniser, characters, kind_of = _recogniser()
    probabilities = recogniser.run(None, {"x": line})[0][0]  # (T, C), class 0 a blank
    best = probabilities.argmax(1)
    kept = np.flatnonzero((best > 0) & (best != np.append(0, best[:-1])))
    text = "".join(characters[at] for at in best[kept])
    kinds = [round(float(probabilities[:, kind_of == kind].sum(1).max()), 4) for kind in range(len(KINDS))]
    return text, probabilities[kept, best[kept]].tolist(), kinds


def _normalise(pixels: np.ndarray) -> np.ndarray:
    """(1, 3, H, W) float32, -1 to 1."""
    return np.ascontiguousarray((pixels.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None])


def _cut(canvas: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The pixels within four corners, upright; a vertical box is rotated."""
    width = max(1, int(max(np.linalg.norm(box[0] - box[1]), np.linalg.norm(box[2] - box[3]))))
    height = max(1, int(max(np.linalg.norm(box[0] - box[3]), np.linalg.norm(box[1] - box[2]))))
    flat = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    turn = cv2.getPerspectiveTransform(box, flat)
    cut = cv2.warpPerspective(canvas, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(np.rot90(cut)) if height >= 1.5 * width else cut


def _load_model(name: str) -> onnxruntime.InferenceSession:
    package = find_spec("rapidocr_onnxruntime")
    if package is None:
        raise LogoEdgeError(
            f"lettering is read by the models in the wheel of {PACKAGE}, which is not installed; install it with: "
            f"pip install --no-deps {PACKAGE}"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one process a core
    options.log_severity_level = 3
    path = Path(package.origin).parent / "models" / name
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@cache
def _detector() -> onnxruntime.InferenceSession:
    return _load_model("ch_PP-OCRv4_det_infer.onnx")


@cache
def _recogniser() -> tuple[onnxruntime.InferenceSession, list[str], np.ndarray]:
    """The model, its characters, and each character's index in KINDS; -1 for the blank and the space."""
    model = _load_model("ch_PP-OCRv4_rec_infer.onnx")
    characters = ["", *model.get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    return model, characters, np.array([_kind_of(text) for text in characters])


def _kind_of(character: str) -> int:
    """The index in KINDS; -1 for a blank or a space."""
    if not character.strip():
        return -1
    return 2 if not character.isascii() or not character.isalnum() else int(character.isdigit())


def read_rows(manifest: Manifest, rows: Sequence[LogoRow], folder: Path) -> Iterator[Reading]:
    """Yields each row's Reading in order; new ones are added to the journal in `folder`.

    The journal has one line per image. If an interruption cut the last line, its image is read again.
    """
    images = [row.without_labels() for row in rows]
    hashes = [digest for _, digest in row_hashes(manifest, images)]
    key = artifact_key({}, {"px": (CANVAS_PX, LOGO_PX, LEAST_LINE_PX)}, versions(MADE_WITH))
    journal = folder / f"lettering-{key[:16]}.jsonl"
    known = read_journal(journal)
    missing = {digest: row for digest, row in zip(hashes, images, strict=True) if digest not in known}
    paths = manifest.image_paths(list(missing.values()))
    new = zip(missing, each_in_processes(read_lettering, paths), strict=True)
    folder.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as file:
        for digest in hashes:
            while digest not in known:
                read, reading = next(new)
                known[read] = reading
                file.write(json.dumps([read, asdict(reading)], ensure_ascii=False) + "\n")
                file.flush()
            yield known[digest]


def read_journal(path: Path) -> dict[str, Reading]:
    """The readings by the image's digest; an incomplete last line is removed from the file."""
    known: dict[str, Reading] = {}
    if not path.exists():
        return known
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for line in whole.decode("utf-8").splitlines():
        digest, reading = json.loads(line)
        known[digest] = Reading([Line(**line) for line in reading.pop("lines")], **reading)
    return known
