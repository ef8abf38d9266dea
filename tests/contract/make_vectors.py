"""Writes the vectors that every backend and language must agree on: `python tests/contract/make_vectors.py`.

Decisions are calculated here, by the math module alone. The preprocessed images are what `logo_edge.preprocess` gave
when they were committed: run this again only where the contract is meant to change.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
INPUTS = (  # size_px, details, fit
    (128, False, "letterbox"),
    (96, False, "letterbox"),
    (96, True, "letterbox"),
    (96, False, "crop"),
    (96, True, "crop"),
)
STEP = 1e-4  # of confidence; just below and just above a threshold
LABELS = ("simple", "text", "gradient", "complex", "badge", "mark", "seal")
# Sixteenths, so that float32 holds them exactly: (logits, temperature).
CASES = (
    ((2.5, -1.25), 1.0),
    ((-0.5, 0.75), 0.5),
    ((1.0, 3.0, 0.25), 1.0),
    ((4.5, 4.25, -2.0), 1.75),
    ((0.5, -0.25, 0.125, 1.9375), 0.75),
    ((-3.0, 6.0, 1.5, 0.0), 2.5),
    ((1.0, 0.5, 0.25, 0.125, 2.0, -1.0, 3.5), 1.25),
)
# The confidence is a float exactly: equal logits, or one far above the rest: (logits, temperature, confidence).
EXACT = (
    ((1.5, 1.5), 1.0, 0.5),
    ((0.0, 0.0), 0.3, 0.5),
    ((-2.0, -2.0, -2.0, -2.0), 1.7, 0.25),
    ((7.0, 7.0, -900.0, -900.0), 1.0, 0.5),
    ((500.0, 0.0, 0.0), 1.0, 1.0),
    ((-800.0, -800.0, -1.0, -800.0), 2.0, 1.0),
)


def softmax(logits: tuple[float, ...], temperature: float) -> list[float]:
    """Class probabilities in double precision, with an exact sum."""
    top = max(logits)
    exponentials = [math.exp((logit - top) / temperature) for logit in logits]
    total = math.fsum(exponentials)
    return [exponential / total for exponential in exponentials]


def scale(logits: tuple[float, ...], temperature: float, scaling: dict) -> list[float]:
    """Class probabilities after the affine map of the log-probabilities."""
    logarithms = [math.log(value) for value in softmax(logits, temperature)]
    return softmax(
        tuple(
            math.fsum(map(math.prod, zip(row, logarithms, strict=True))) + offset
            for row, offset in zip(scaling["weight"], scaling["bias"], strict=True)
        ),
        1.0,
    )


def logo_score(logits: tuple[float, ...]) -> float:
    """The logarithm of the sum of the logits' exponentials, before temperature."""
    return max(logits) + math.log(math.fsum(math.exp(logit - max(logits)) for logit in logits))


def entropy(probabilities: list[float]) -> float:
    """In nats."""
    return -math.fsum(value * math.log(value) for value in probabilities if value > 0)


def decision_vector(
    side: str,
    logits: tuple[float, ...],
    temperature: float,
    abstain_below: float,
    *,
    mode: str = "balanced",
    scaling: dict | None = None,
    not_a_logo_below: float | None = None,
    blank: bool = False,
) -> dict:
    """One row: the input, the side of the threshold on which its confidence lies, and the expected decision.

    Every mode but best-guess gives no label to an image that is `blank` or whose logo score is below
    `not_a_logo_below`. `abstain_below` is the threshold of balanced; that of strict lies halfway from it to 1.
    """
    probabilities = scale(logits, temperature, scaling) if scaling else softmax(logits, temperature)
    confidence = max(probabilities)
    best_guess = LABELS[probabilities.index(confidence)]  # of equal ones the first
    strict_below = (1 + abstain_below) / 2
    abstains = confidence < {"best-guess": 0.0, "balanced": abstain_below, "strict": strict_below}[mode]
    is_logo = not_a_logo_below is None or logo_score(logits) >= not_a_logo_below
    unfit = "blank" if blank else None if is_logo else "not_a_logo"
    reason = unfit if unfit and mode != "best-guess" else "low_confidence" if abstains else None
    return {
        "side": side,
        "mode": mode,
        "blank": blank,
        "labels": list(LABELS[: len(logits)]),
        "logits": list(logits),
        "temperature": temperature,
        "scaling": scaling,
        "abstain_below": abstain_below,
        "strict_below": strict_below,
        "logo_score": logo_score(logits),
        "entropy": entropy(probabilities),
        "not_a_logo_below": not_a_logo_below,
        "is_logo": is_logo,
        "high_confidence": unfit is None and confidence >= strict_below,
        "low_confidence": unfit is not None or confidence < abstain_below,
        "label": best_guess if reason is None else None,
        "best_guess": best_guess,
        "confidence": confidence,
        "reason": reason,
    }


def decision_vectors() -> list[dict]:
    """Every case just below and just above its threshold, exact ones also at it, and the two extreme thresholds."""
    rows = []
    for logits, temperature in CASES:
        confidence = max(softmax(logits, temperature))
        rows.append(decision_vector("below", logits, temperature, confidence + STEP))
        rows.append(decision_vector("above", logits, temperature, confidence - STEP))
    for logits, temperature, confidence in EXACT:
        rows.append(decision_vector("at", logits, temperature, confidence))
        rows.append(decision_vector("above", logits, temperature, confidence - STEP))
        if confidence < 1:
            rows.append(decision_vector("below", logits, temperature, confidence + STEP))
    rows.append(decision_vector("above", CASES[0][0], 5.0, 0.0))
    rows.append(decision_vector("below", CASES[0][0], 5.0, 1.0))
    for logits, temperature in CASES:
        confidence = max(softmax(logits, temperature))
        rows.append(decision_vector("above", logits, temperature, confidence + STEP, mode="best-guess"))
        rows.append(decision_vector("below", logits, temperature, confidence - STEP, mode="strict"))
        rows.append(decision_vector("above", logits, temperature, max(0.0, 2 * confidence - 1 - STEP), mode="strict"))
    for logits, temperature in CASES[:4]:
        confidence = max(softmax(logits, temperature))
        for mode in ("best-guess", "balanced", "strict"):
            rows.append(
                decision_vector(
                    "above", logits, temperature, max(0.0, 2 * confidence - 1 - STEP), mode=mode, blank=True
                )
            )
            rows.append(
                decision_vector(
                    "below",
                    logits,
                    temperature,
                    confidence + STEP,
                    mode=mode,
                    blank=True,
                    not_a_logo_below=logo_score(logits) + STEP,
                )
            )
    for logits, temperature in CASES:
        confidence, score = max(softmax(logits, temperature)), logo_score(logits)
        sure = max(0.0, 2 * confidence - 1 - STEP)  # a threshold that strict reaches too
        for mode in ("best-guess", "balanced", "strict"):
            rows.append(decision_vector("above", logits, temperature, sure, mode=mode, not_a_logo_below=score - STEP))
            rows.append(decision_vector("above", logits, temperature, sure, mode=mode, not_a_logo_below=score + STEP))
        rows.append(decision_vector("below", logits, temperature, confidence + STEP, not_a_logo_below=score - STEP))
    for logits, temperature, confidence in EXACT[4:]:  # whose logo score is a float exactly, too
        rows.append(decision_vector("at", logits, temperature, confidence, not_a_logo_below=max(logits)))
    for index, (logits, temperature) in enumerate(CASES):
        scaling = make_scaling(len(logits), whole=index % 2 == 1)
        confidence = max(scale(logits, temperature, scaling))
        for side, step in (("below", STEP), ("above", -STEP)):
            rows.append(
                decision_vector(
                    side,
                    logits,
                    temperature,
                    confidence + step,
                    scaling=scaling,
                    not_a_logo_below=logo_score(logits) + step,
                )
            )
    return rows


def make_scaling(classes: int, *, whole: bool) -> dict:
    """An affine map that changes some best guesses: a diagonal weight or, with `whole`, a full one."""
    weight = [
        [0.75 + row / 8 if row == column else (row - column) / 16 if whole else 0.0 for column in range(classes)]
        for row in range(classes)
    ]
    bias = [0.5 - row / 4 for row in range(classes)]
    return {"method": "dirichlet" if whole else "vector", "weight": weight, "bias": bias}


# Of labels that do not exclude each other: (logits, temperature). A logit of 0 is a probability of exactly 0.5.
MULTI_LABEL = (
    ((2.5, -1.25), 1.0),
    ((0.0, 0.0, 0.0), 1.0),
    ((3.0, 2.75, -4.0), 0.5),
    ((-3.0, -6.0, -1.5, -2.0), 2.5),
    ((700.0, 0.5, -800.0, 0.0), 1.0),
    ((1.0, 0.5, 0.25, 0.125, 2.0, -1.0, 3.5), 1.25),
)


def sigmoid(logit: float) -> float:
    """In double precision, without overflow."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def multi_label_vector(
    side: str,
    logits: tuple[float, ...],
    temperature: float,
    steps: tuple[float, ...],
    *,
    mode: str = "balanced",
    scaling: dict | None = None,
    threshold: float | None = None,
    not_a_logo_below: float | None = None,
    blank: bool = False,
) -> dict:
    """One row: the input, and the labels that are expected: those whose probability reaches the mode's threshold.

    The threshold of label k in mode balanced is its probability plus `steps[k]`; that of strict lies halfway from it to
    1, that of best-guess is 0.5 or balanced's, if that is lower. `threshold` replaces all of them.
    """
    labels = LABELS[: len(logits)]
    mapped = [logit / temperature for logit in logits]
    if scaling:
        rows = zip(scaling["weight"], scaling["bias"], strict=True)
        mapped = [math.fsum(map(math.prod, zip(row, mapped, strict=True))) + offset for row, offset in rows]
    probabilities = dict(zip(labels, map(sigmoid, mapped), strict=True))
    balanced = {k: min(1.0, max(0.0, p + step)) for (k, p), step in zip(probabilities.items(), steps, strict=True)}
    thresholds = {
        "best-guess": {label: min(0.5, value) for label, value in balanced.items()},
        "balanced": balanced,
        "strict": {label: (1 + value) / 2 for label, value in balanced.items()},
    }
    given = {
        level: [label for label in sorted(labels, key=lambda label: -probabilities[label]) if reaches(label)]
        for level, reaches in {
            **{level: lambda label, t=table: probabilities[label] >= t[label] for level, table in thresholds.items()},
            **({} if threshold is None else {"own": lambda label: probabilities[label] >= threshold}),
        }.items()
    }
    is_logo = not_a_logo_below is None or logo_score(logits) >= not_a_logo_below
    unfit = "blank" if blank else None if is_logo else "not_a_logo"
    withheld = unfit if mode != "best-guess" else None
    expected = [] if withheld else given.get("own", given[mode])
    return {
        "side": side,
        "mode": mode,
        "blank": blank,
        "labels": list(labels),
        "logits": list(logits),
        "temperature": temperature,
        "scaling": scaling,
        "label_thresholds": thresholds,
        "threshold": threshold,
        "abstain_below": min(thresholds["balanced"].values()),
        "strict_below": min(thresholds["strict"].values()),
        "not_a_logo_below": not_a_logo_below,
        "logo_score": logo_score(logits),
        "is_logo": is_logo,
        "probabilities": list(probabilities.values()),
        "entropy": math.fsum(entropy([p, 1 - p]) for p in probabilities.values()),
        "given": expected,
        "label": expected[0] if expected else None,
        "best_guess": max(labels, key=probabilities.__getitem__),
        "confidence": max(probabilities.values()),
        "reason": withheld or (None if expected else "no_label"),
        "high_confidence": unfit is None and bool(given["strict"]),
        "low_confidence": unfit is not None or not given["balanced"],
    }


def multi_label_vectors() -> list[dict]:
    """Every case with all labels above their thresholds, all below, every other one, and each mode; blank; no logo."""
    rows = []
    for index, (logits, temperature) in enumerate(MULTI_LABEL):
        count, scaling = len(logits), make_scaling(len(logits), whole=index % 2 == 0)
        above, below = (-STEP,) * count, (STEP,) * count
        mixed = tuple(STEP if label % 2 else -STEP for label in range(count))
        far = tuple(-0.5 if label % 2 else -STEP for label in range(count))  # so far below that strict gives some
        rows += [
            multi_label_vector("above", logits, temperature, above),
            multi_label_vector("below", logits, temperature, below),
            multi_label_vector("below", logits, temperature, below, mode="best-guess"),
            multi_label_vector("mixed", logits, temperature, mixed),
            multi_label_vector("mixed", logits, temperature, mixed, scaling=scaling),
            multi_label_vector("mixed", logits, temperature, below, threshold=0.5),
            multi_label_vector("above", logits, temperature, above, blank=True),
            multi_label_vector("above", logits, temperature, above, blank=True, mode="best-guess"),
            *(multi_label_vector("mixed", logits, temperature, far, mode=mode) for mode in ("best-guess", "strict")),
        ]
        for step in (-STEP, STEP):
            least = logo_score(logits) + step
            rows.append(multi_label_vector("above", logits, temperature, above, not_a_logo_below=least))
    rows.append(multi_label_vector("at", MULTI_LABEL[1][0], 1.0, (0.0, 0.0, 0.0)))
    return rows


# Sixteenths again: the logits of two or three members, and how much each counts.
MEMBERS = (
    (((2.5, -1.25), (2.5, -1.25)), (0.5, 0.5)),
    (((4.0, -4.0), (-4.0, 4.0)), (0.5, 0.5)),
    (((1.0, 3.0, 0.25), (3.0, 1.0, 0.25)), (0.25, 0.75)),
    (((0.0, 0.0, 0.0, 0.0), (9.0, 0.0, 0.0, 0.0), (0.0, 9.0, 0.0, 0.0)), (0.5, 0.25, 0.25)),
    (((-3.0, 6.0, 1.5, 0.0), (5.5, -0.5, 1.0, 0.25)), (0.875, 0.125)),
    (((1.0, 0.5, 0.25, 0.125, 2.0, -1.0, 3.5), (-1.0, 3.5, 0.5, 0.25, 0.125, 2.0, 1.0)), (0.625, 0.375)),
)


def member_vectors() -> list[dict]:
    """The members' logits, and the ensemble's logits, probabilities and epistemic uncertainty."""
    rows = []
    for logits, weights in MEMBERS:
        each = [softmax(row, 1.0) for row in logits]
        mean = [math.fsum(w * p[k] for w, p in zip(weights, each, strict=True)) for k in range(len(logits[0]))]
        height = math.fsum(w * logo_score(row) for w, row in zip(weights, logits, strict=True))
        between = entropy(mean) - math.fsum(w * entropy(p) for w, p in zip(weights, each, strict=True))
        rows.append(
            {
                "members": [list(row) for row in logits],
                "weights": list(weights),
                "probabilities": mean,
                "logits": [math.log(p) + height for p in mean],
                "epistemic": max(0.0, between),
            }
        )
    return rows


def write_inputs() -> list[Path]:
    """The images to preprocess: the project's drawings, and cases that are not among those."""
    from PIL import Image, ImageDraw

    opaque = Image.new("RGB", (230, 75), (20, 40, 90))
    ImageDraw.Draw(opaque).ellipse((85, 8, 145, 68), (250, 210, 40), (255, 255, 255), 5)
    palette = Image.linear_gradient("L").resize((60, 133)).quantize(9)
    for name, image, options in (
        ("opaque-wide", opaque, {}),
        ("palette-alpha", palette, {"transparency": bytes(range(0, 252, 28))}),
    ):
        image.save(HERE / "preprocess" / f"{name}.png", **options)
    drawn = plain_pictures() | fading_pictures()
    for name, image in drawn.items():
        image.save(HERE / "preprocess" / f"{name}.png", optimize=True)
    own = [HERE / "preprocess" / f"{name}.png" for name in ("opaque-wide", "palette-alpha", *drawn)]
    return [*sorted((ROOT / "runtime/logo_edge/samples").glob("*.png")), *own]


def plain_pictures() -> dict:
    """Blank images, whose names begin with `blank`, and nearly blank ones."""
    from PIL import Image

    clear = Image.linear_gradient("L").resize((31, 50)).convert("RGBA")  # hidden colours
    clear.putalpha(0)
    vanishing, faint, pixel = (Image.new("RGB", size, "white") for size in ((640, 640), (128, 90), (48, 48)))
    vanishing.putpixel((301, 77), (254, 255, 255))  # too little to be left of it at the model's size
    faint.paste((254, 255, 255), (40, 30, 52, 42))
    pixel.putpixel((20, 9), (0, 0, 0))
    return {
        "blank-white": Image.new("RGB", (40, 30), "white"),
        "blank-tint": Image.new("L", (30, 70), 243),
        "blank-clear": clear,
        "blank-one-pixel": Image.new("RGB", (1, 1), (200, 30, 40)),
        "blank-square-of-glass": Image.new("RGBA", (24, 24), (255, 255, 255, 130)),
        "blank-vanishing": vanishing,
        "faint": faint,
        "one-dark-pixel": pixel,
        "sheet-of-glass": Image.new("RGBA", (60, 30), (255, 255, 255, 254)),  # its edges show on the dark background
    }


def fading_pictures() -> dict:
    """Images for the detail planes: larger and smaller than the size at which they are computed, fades beside edges."""
    from PIL import Image, ImageDraw, ImageFilter

    ramp, ball = Image.linear_gradient("L"), Image.radial_gradient("L")
    wide = Image.merge("RGB", (ramp.rotate(90), Image.new("L", ramp.size, 90), ramp)).resize((400, 130))
    pen = ImageDraw.Draw(wide)
    pen.rectangle((60, 20, 150, 100), (240, 240, 20))
    pen.ellipse((240, 25, 330, 115), "white", (20, 20, 20), 4)
    glass = Image.merge("RGBA", (ball, ramp, ball.rotate(90), ramp.rotate(180))).resize((90, 700))
    shape = Image.new("RGB", (40, 30), "white")
    ImageDraw.Draw(shape).polygon(((4, 26), (20, 3), (36, 26)), (200, 30, 60))
    return {
        "fade-wide": wide,
        "fade-glass": glass,
        "fade-line": wide.crop((0, 64, 300, 65)),
        "blurred": shape.resize((237, 171)).filter(ImageFilter.GaussianBlur(3)),
    }


def write_preprocess_vectors() -> list[dict]:
    """One row for each image and input, the expected pixels in a PNG beside it: grey, S times channels wide, where
    they have detail planes."""
    from PIL import Image

    from logo_edge import InputContract, load_image, preprocess

    (HERE / "preprocess").mkdir(exist_ok=True)
    rows = []
    for path in write_inputs():
        image = load_image(path, fast=False)
        for size_px, details, fit in INPUTS:
            if fit == "crop" and image.width == image.height:
                continue  # a square is shown as a whole
            suffix = "-details" * details + "-crop" * (fit == "crop")
            expected = HERE / "preprocess" / f"{path.stem}-{size_px}{suffix}.png"
            pixels = preprocess(image, InputContract(size_px, details=details, fit=fit))
            Image.fromarray(pixels.reshape(size_px, -1) if details else pixels).save(expected, optimize=True)
            colours = {tuple(pixel) for row in pixels[:, :, :3].tolist() for pixel in row}
            rows.append(
                {
                    "image": path.relative_to(ROOT).as_posix(),
                    "size_px": size_px,
                    "details": details,
                    "fit": fit,
                    "blank": len(colours) == 1,
                    "expected": expected.relative_to(ROOT).as_posix(),
                }
            )
    return rows


# (width, height, scans, size when read). Limits: 36 million pixels, 4 times as many for a JPEG, 20 times as many for
# scans times pixels, and 14,400 scans.
JPEGS = (
    (1500, 1500, 320, (1500, 1500)),
    (1500, 1500, 321, None),
    (1500, 1500, 1000, None),
    (600, 400, 3000, (600, 400)),
    (600, 400, 3001, None),
    (16, 8, 14_400, (16, 8)),
    (16, 8, 14_401, None),
    (8000, 6000, 1, (4000, 3000)),
    (6000, 6000, 1, (6000, 6000)),
    (6001, 6000, 1, (3001, 3000)),
    (12_001, 12_000, 1, None),
    (65_000, 65_000, 1, None),
)


def jpeg_limit_vectors() -> list[dict]:
    """JPEGs at their limits, with the size at which they are read, None where they are refused."""
    return [dict(zip(("width", "height", "scans", "size"), row, strict=True)) for row in JPEGS]


def write_vectors(path: Path, rows: list[dict]) -> None:
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f'{{"vectors": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    write_vectors(HERE / "decision_vectors.json", decision_vectors())
    write_vectors(HERE / "multi_label_vectors.json", multi_label_vectors())
    write_vectors(HERE / "member_vectors.json", member_vectors())
    write_vectors(HERE / "jpeg_limit_vectors.json", jpeg_limit_vectors())
    write_vectors(HERE / "preprocess_vectors.json", write_preprocess_vectors())
