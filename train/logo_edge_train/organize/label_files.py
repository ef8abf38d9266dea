"""Reads label files: one reader for each format, which yields the name, label, split and group of each image.

CSV (`path,label[,split][,group]` or, multi-label, `path,labels[,split][,group]`), COCO (JSON), Label Studio (JSON) and
CVAT for images 1.1 (XML). An image with several labels is yielded once with each.
"""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

from logo_edge.errors import DatasetError
from logo_edge.names import alike, cleaned, split_names
from logo_edge.tables.find import RASTER_SUFFIXES
from logo_edge_train.csv_table import CsvTable
from logo_edge_train.organize.placed_images import SPLIT_NAMES

UPLOADED = re.compile("[0-9a-f]{8}-(?=.)")  # Label Studio puts it before the name of an uploaded file


class NamedLabel(NamedTuple):
    """A label of an image as a file gives it; `label`, `split` and `group` are empty if it gives none.

    `name` is the image's path, mostly from the file's folder; `second_name` another one, if `name` does not exist.
    `several`: the file says itself that an image may have several labels or none. `seen`: somebody looked at the image,
    so that it has none of the labels if the file gives none.
    """

    name: str
    label: str = ""
    split: str = ""
    second_name: str = ""
    several: bool = False
    seen: bool = True
    group: str = ""


def read_csv(path: Path) -> Iterator[NamedLabel]:
    """The rows of a CSV with the columns path, label and perhaps split and group.

    Commas, semicolons or tabs separate them. Images of one group, such as photographs of one product, share a split.
    A column labels in place of label holds any number of labels, separated by `|` (`names.join_names`).
    """
    with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
        header = file.readline()
        file.seek(0)
        reader = CsvTable(file, delimiter=max(",;\t", key=header.count))
        columns = {alike(name): name for name in reader.fieldnames or ()}
        several = "labels" in columns
        if "path" not in columns or ("label" in columns) == several:
            raise DatasetError(
                f"{path}: found the columns {', '.join(columns) or 'none'}; expected path, label (or labels, if an "
                "image may have several or none) and perhaps split and group"
            )
        for row in reader:
            name, label, split, group = (
                (row[columns[key]] if key in columns else "") or ""
                for key in ("path", "labels" if several else "label", "split", "group")
            )
            if split.strip() and alike(split) not in SPLIT_NAMES:
                raise DatasetError(
                    f"{path}, line {reader.line_num}: split is {split!r}; expected train, val, calib, test or nothing"
                )
            for own in (split_names(label) or ("",)) if several else (label,):
                yield NamedLabel(name, own, SPLIT_NAMES.get(alike(split), ""), several=several, group=cleaned(group))


def read_json(path: Path) -> Iterator[NamedLabel]:
    """The labels of an export in the format of COCO or of Label Studio (JSON, not JSON-MIN)."""
    content = json.loads(path.read_bytes())
    return (_read_coco if isinstance(content, dict) else _read_label_studio)(content)


def _read_coco(content: dict) -> Iterator[NamedLabel]:
    """The categories of each image's annotations; boxes and masks do not matter. https://cocodataset.org/#format-data

    A file without any annotation, such as image_info_test2017.json, lists images that nobody looked at.
    """
    names, labels = {category["id"]: category["name"] for category in content["categories"]}, defaultdict(set)
    for annotation in content["annotations"]:
        labels[annotation["image_id"]].add(names[annotation["category_id"]])
    for image in content["images"]:
        for label in labels.pop(image["id"], {""}):
            yield NamedLabel(image["file_name"], str(label), seen=bool(content["annotations"]))
    for image_id in labels:  # such as "1" for 1: without a word, its image would count as one without labels
        yield NamedLabel(f"annotations of image_id {image_id!r}, which is none of the file's images")


def _read_label_studio(tasks: list) -> Iterator[NamedLabel]:
    """The choices of all annotators; cancelled annotations do not count. https://labelstud.io/guide/export"""
    for task in tasks:
        texts = [value for value in task["data"].values() if isinstance(value, str)]
        address = next((text for text in texts if PurePosixPath(text).suffix.lower() in RASTER_SUFFIXES), texts[0])
        name, parts = address, urlsplit(address)  # of a server, perhaps with its host
        if parts.path.startswith("/data/local-files"):
            (name,) = parse_qs(parts.query)["d"]
        elif parts.path.startswith("/data/upload/"):
            name = unquote(PurePosixPath(parts.path).name)
        given = [annotation for annotation in task["annotations"] if not annotation.get("was_cancelled")]
        results = [part for annotation in given for part in annotation["result"]]
        choices = {choice for part in results if part["type"] == "choices" for choice in part["value"]["choices"]}
        for label in choices or {""}:
            yield NamedLabel(name, str(label), second_name=UPLOADED.sub("", name, count=1), seen=bool(given))


def read_cvat(path: Path) -> Iterator[NamedLabel]:
    """The tags of each image of CVAT for images 1.1; shapes do not matter. https://docs.cvat.ai/docs/dataset_management"""
    root = ElementTree.parse(path).getroot()
    if root.tag != "annotations":
        raise DatasetError(f"{path}: found <{root.tag}>; expected <annotations>, as `CVAT for images 1.1` exports it")
    for image in root.iter("image"):
        split = SPLIT_NAMES.get(alike(image.get("subset", "")), "")
        for label in {tag.attrib["label"] for tag in image.iter("tag")} or {""}:
            yield NamedLabel(image.attrib["name"], label, split)


READERS = {".csv": read_csv, ".json": read_json, ".xml": read_cvat}


def read_labels(path: Path) -> Iterator[NamedLabel]:
    """The labels in a file of READERS. Raises DatasetError if it cannot be read or has another format."""
    try:
        yield from READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}; expected a label file") from error
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, ElementTree.ParseError) as error:
        raise DatasetError(f"{path}: damaged, or not UTF-8 ({error}); mend it, or export it again as UTF-8") from error
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: not as COCO, Label Studio (JSON) or CVAT for images 1.1 export labels of whole images "
            f"({type(error).__name__}: {error}); export it again in one of these formats, or as a CSV path,label,split"
        ) from error
