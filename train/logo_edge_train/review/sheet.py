"""Contact sheets: one HTML file with pictures, probabilities and keys for labels; it exports corrections as CSV."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from PIL import Image

from logo_edge.files import write_file
from logo_edge.names import alike, printable
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_train.data.images import map_images
from logo_edge_train.data.manifest import LogoRow
from logo_edge_train.review.corrections import COLUMNS
from logo_edge_train.review.frozen_features import Features

PICTURE_PX = 160
MOST_BUTTONS = 8  # of a card, for its most likely classes; keys reach all
KEYS = "1234567890abcdefghijklmnopqrstuvwxyz"
BLOCK = 64  # pictures between two reports of progress


def write_sheet(
    path: Path, title: str, lead: str, command: str, records: list[dict], classes: tuple[str, ...], features: Features
) -> None:
    """Writes the page of the records of `ranking.describe_row`. The page loads nothing and sends nothing.

    The browser keeps decisions under a digest of the records. `command` merges the downloaded corrections.
    """
    rows, pictures = [LogoRow(record["package"], record["version"], record["icon"]) for record in records], []
    draw = partial(preprocess, contract=InputContract(PICTURE_PX))
    for start in range(0, len(rows), BLOCK):
        features.tick("pictures", start, len(rows))
        pictures += map(image_uri, map_images(features.manifest, rows[start : start + BLOCK], draw))
    features.tick("pictures", len(rows), len(rows))
    template = files("logo_edge_train.review")
    script = template.joinpath("sheet.js").read_text(encoding="utf-8")
    keys = assign_keys(classes)
    listed = {
        "name": path.stem,
        "columns": COLUMNS,
        "classes": classes,
        "keys": keys,
        "rows": [{name: record[name] for name in COLUMNS if name in record} for record in records],
    }
    listed["digest"] = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    data = json.dumps(listed).replace("<", "\\u003c")  # cannot end the script element
    page = Template(template.joinpath("sheet.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        lead=html.escape(lead),
        command=text_of(command),
        script=script,
        data=data,
        size=PICTURE_PX,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        keys=" ".join(f"<kbd>{key}</kbd> {text_of(name)}" for name, key in zip(classes, keys, strict=True) if key),
        cards="\n".join(draw_card(*card, classes, keys) for card in zip(records, pictures, strict=True)),
    )
    write_file(path, page)


def draw_card(record: dict, picture: str, classes: tuple[str, ...], keys: list[str]) -> str:
    """One image as a list item: picture, name, label, and a button for each of its most likely classes."""
    probabilities = record["probabilities"]
    likeliest = sorted(classes, key=lambda name: (-probabilities[name], name))[:MOST_BUTTONS]
    if record["label"] in probabilities and record["label"] not in likeliest:
        likeliest.append(record["label"])
    buttons = "".join(
        f'<button type="button" data-class="{classes.index(name)}" aria-pressed="false" style="--share: '
        f'{probabilities[name]:.1%}">'
        f"<kbd>{keys[classes.index(name)]}</kbd> <span>{text_of(name)}</span> <b>{probabilities[name]:.0%}</b></button>"
        for name in likeliest
    )
    label = f"labelled <strong>{text_of(record['label'])}</strong>" if record["label"] else "no label"
    unsure = ", not sure" if record["sure"] == 0 else ""
    return (
        f'<li><img src="{picture}" width="{PICTURE_PX}" height="{PICTURE_PX}" alt="">'
        f"<div><h2>{record['rank']}. {text_of(record['icon'])}</h2><p>{label}{unsure}<br>{text_of(record['package'])}, "
        f"{record['split']}</p>{buttons}</div></li>"
    )


def text_of(name: str) -> str:
    """A name as escaped HTML."""
    return html.escape(printable(name))


def assign_keys(classes: tuple[str, ...]) -> list[str]:
    """A key for each class: its first letter if free, else the first free digit or letter, else none."""
    free, keys = dict.fromkeys(KEYS), []
    for name in classes:
        first = alike(name)[:1]
        key = first if first in free and not first.isdigit() else next(iter(free), "")
        free.pop(key, None)
        keys.append(key)
    return keys


def image_uri(pixels: np.ndarray) -> str:
    """The (H, W, 3) uint8 pixels as a WebP data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
