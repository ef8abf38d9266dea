"""The page where a person corrects labels: a contact sheet in one file, or served by `logo-edge data review`."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from functools import partial
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from logo_edge.files import write_file
from logo_edge.names import alike, printable
from logo_edge.pages import image_uri, page_style, text_of
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_train.data.images import map_images
from logo_edge_train.data.manifest import LogoRow
from logo_edge_train.review.corrections import COLUMNS

if TYPE_CHECKING:
    from logo_edge_train.review.frozen_features import Features

PICTURE_PX = 160
MOST_BUTTONS = 8  # of a card, for its most likely classes; keys and the list of labels reach all
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
    listed = list_records(path.stem, records, classes)
    listed["digest"] = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    listed["pictures"] = pictures
    saved = f"The browser keeps your decisions. Download them, then run <code>{text_of(command)}</code>."
    write_file(path, fill_page(title, lead, saved, listed))


def list_records(name: str, records: Iterable[dict], classes: tuple[str, ...]) -> dict:
    """The data of a page: the columns of a correction, the classes with their keys, and a row for each record.

    A row has the columns, the printable name (`title`), the split and the buttons: [class, probability or None].
    """
    index_of, rows = {label: index for index, label in enumerate(classes)}, []
    for record in records:
        probabilities, label = record["probabilities"], record["label"]
        likeliest = sorted(probabilities, key=lambda name: (-probabilities[name], name)) or classes
        shown = [*likeliest[:MOST_BUTTONS], *[label] * (label in likeliest[MOST_BUTTONS:])]
        row = {column: record[column] for column in COLUMNS if column in record}
        row |= {"title": f"{record['rank']}. {printable(record['icon'])}", "split": record["split"]}
        rows.append(row | {"buttons": [[index_of[name], probabilities.get(name)] for name in shown]})
    names, keys = [printable(label) for label in classes], assign_keys(classes)
    return {"name": name, "columns": COLUMNS, "classes": classes, "names": names, "keys": keys, "rows": rows}


def fill_page(title: str, lead: str, saved: str, listed: dict, *, sources: str = "img-src data:") -> str:
    """The page of `list_records`.

    `saved` is HTML that says where decisions are kept; `sources` belongs to the content security policy.
    """
    template = files("logo_edge_train.review")
    script = template.joinpath("sheet.js").read_text(encoding="utf-8")
    return Template(template.joinpath("sheet.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        lead=html.escape(lead),
        saved=saved,
        sources=sources,
        script=script,
        data=json.dumps(listed).replace("<", "\\u003c"),  # cannot end the script element
        size=PICTURE_PX,
        style=page_style(),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def assign_keys(classes: tuple[str, ...]) -> list[str]:
    """A key for each class: its first letter if free, else the first free digit or letter, else none."""
    free, keys = dict.fromkeys(KEYS), []
    for name in classes:
        first = alike(name)[:1]
        key = first if first in free and not first.isdigit() else next(iter(free), "")
        free.pop(key, None)
        keys.append(key)
    return keys
