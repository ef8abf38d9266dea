"""A table as a picture sheet: one HTML file of images with their decisions; it loads nothing and runs no script."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from logo_edge.errors import ImageError
from logo_edge.images.load import load_reduced
from logo_edge.pages import image_uri, page_style, text_of
from logo_edge.preprocess import InputContract, preprocess
from logo_edge.results import WITHHELD, Rejection

MOST = 2_000  # cards of a sheet, about 5 kB each: browsers slow down beyond that
PICTURE_PX = 240
LABELLED, UNSURE, OTHER, FAILED = KINDS = ("labelled", "unsure", "other", "failed")  # classes of page.css, in order
TITLES = {LABELLED: "Labelled", UNSURE: "Unsure", OTHER: "Not a logo or blank", FAILED: "Not read"}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>logo-edge: {title}</title>
<link rel="icon" href="data:,">
<style>
{style}
.segments {{ margin-bottom: 1.25rem; }}
{filters}
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p>{lead}</p>
</header>
<main>
<fieldset class="segments">
<legend>Show</legend>
{choices}
</fieldset>
<ul class="results" role="list" aria-label="Images">
{cards}
</ul>
</main>
<footer><p>{about}</p></footer>
</body>
</html>
"""
CARD = """<li class="card {kind}">
<div class="picture"{background}>{picture}</div>
<div class="told">
<h2 class="file" title="{path}">{name}</h2>
<p class="label">{decision}</p>
{details}
</div>
</li>"""


def sheet_of(rows: Iterable[tuple[str, dict]], settings: dict) -> str:
    """The page of (name in the file system, record of `record_of`) pairs; `settings` are those of `describe_settings`.

    Images are read again for their pictures, in a reduced size. Only the first MOST rows have a card; all are counted.
    """
    remaining = iter(rows)
    carded = list(islice(remaining, MOST))
    folder = _common_folder([record["path"] for _, record in carded])
    counts, cards = Counter(), []
    for name, record in carded:
        counts[kind_of(record)] += 1
        cards.append(_card(name, record, folder, settings))
    counts.update(kind_of(record) for _, record in remaining)
    total, kinds = counts.total(), [kind for kind in KINDS if counts[kind]]
    more = f" The first {MOST:,} are shown; write a .csv or .jsonl to have all." if total > len(cards) else ""
    summary = ", ".join(f"{counts[kind]:,} {TITLES[kind].lower()}" for kind in kinds)
    choices = [_choice("all", f"All {total:,}", "checked")]
    choices += [_choice(kind, f"{TITLES[kind]} {counts[kind]:,}") for kind in kinds]
    return PAGE.format(
        title=f"{total:,} image{'' if total == 1 else 's'}" + (f" in {text_of(folder)}" if folder else ""),
        style=page_style(),
        filters="\n".join(f"main:has(#show-{kind}:checked) .card:not(.{kind}) {{ display: none; }}" for kind in kinds),
        lead=f"{summary}.{more}",
        choices="\n".join(choices),
        cards="\n".join(cards),
        about=f"Bundle {text_of(settings['bundle'])}, {settings['backend']}, mode {settings['mode']}; model "
        f"{settings['model_sha256'][:12]}. Written by <code>logo-edge classify</code>; nothing was sent anywhere.",
    )


def kind_of(record: dict) -> str:
    """One of KINDS: how the decision of a record is drawn."""
    if "error" in record:
        return FAILED
    if record["reason"] is None:
        return LABELLED
    return OTHER if record["reason"] in (Rejection.NOT_A_LOGO, Rejection.BLANK) else UNSURE


def _common_folder(paths: list[str]) -> str:
    """The folder above all of these paths; empty where there is none."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # no path, or absolute and relative ones
        return ""


def _choice(kind: str, text: str, state: str = "") -> str:
    return f'<label><input type="radio" name="show" id="show-{kind}" {state}><span>{text}</span></label>'


def _card(name: str, record: dict, folder: str, settings: dict) -> str:
    path, kind, picture, background = record["path"], kind_of(record), "", ""
    if kind == FAILED:
        decision, details = TITLES[FAILED], [_paragraph("reason", text_of(record["error"]))]
    else:
        withheld = "" if record["reason"] is None else WITHHELD[record["reason"]].capitalize()
        decision = withheld or ", ".join(record.get("labels") or [record["label"]])
        details, (picture, background) = _details(record, settings), _picture(name)
    return CARD.format(
        kind=kind,
        background=background,
        picture=picture,
        path=text_of(path),
        name=text_of(path[len(folder) :].lstrip("/\\") if folder else path),
        decision=text_of(decision),
        details="\n".join(details),
    )


def _picture(name: str) -> tuple[str, str]:
    """The image of a card and the style of the box around it; both empty where the image cannot be read any more."""
    try:
        image, size_px = load_reduced(name, PICTURE_PX)
        pixels = preprocess(image, InputContract(PICTURE_PX), size_px)
    except (ImageError, OSError, MemoryError):
        return "", ""
    colour = ", ".join(map(str, pixels[0, 0]))
    return f'<img src="{image_uri(pixels)}" alt="" loading="lazy">', f' style="background: rgb({colour})"'


def _details(record: dict, settings: dict) -> list[str]:
    """The lines below a decision: its reason, confidence, prediction set, and the probability of each class."""
    least = settings["threshold"]
    mark = f'<rect class="least" x="{least:.2%}" width="2" height="100%"/>' if least else ""
    bar = f'<rect class="share" width="{_percent(record["confidence"])}" height="100%"/>'
    lines = [
        _paragraph("reason", text_of(_reason(record, least))),
        f'<svg class="gauge" aria-hidden="true">{bar}{mark}</svg>',
    ]
    if record["prediction_set"] is not None:
        names = [f"<b>{text_of(name)}</b>" for name in record["prediction_set"]] or ["no class is likely enough"]
        lines.append(_paragraph("set", f"<span>{settings['coverage']:.0%} set</span> {' '.join(names)}"))
    if record.get("enrolled", {}).get("label"):
        match = record["enrolled"]
        lines.append(_paragraph("note", text_of(f"Enrolled: {match['label']}, {_percent(match['confidence'])}")))
    lines.append('<ul class="bars" role="list" aria-label="Probabilities">')
    for label, value in sorted(record["probabilities"].items(), key=lambda item: -(item[1] or 0)):
        best = ' class="best"' if label == record["best_guess"] else ""
        bar = f'<svg aria-hidden="true"><rect width="{_percent(value)}" height="100%"/></svg>'
        lines.append(f'<li{best}><span>{text_of(label)}</span>{bar}<span class="value">{_percent(value)}</span></li>')
    return [*lines, "</ul>"]


def _reason(record: dict, least: float | None) -> str:
    """Why there is this label, or none."""
    sure = f"{_percent(record['confidence'])} sure"
    guess = f"Best guess {record['best_guess']}, {sure}"
    match record["reason"]:
        case None:
            return sure if record["is_logo"] else f"{sure}, but unlike the images that the network knows"
        case Rejection.BLANK:
            return "All pixels have one colour"
        case Rejection.NOT_A_LOGO:
            return f"Unlike the images that the network knows. {guess}"
        case _:
            return guess if least is None else f"{guess}; a label needs {least:.1%}"


def _paragraph(kind: str, text: str) -> str:
    return f'<p class="{kind}">{text}</p>'


def _percent(share: float | None) -> str:
    return "0%" if share is None else f"{share:.1%}"
