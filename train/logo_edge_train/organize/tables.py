"""Writes the images of Parquet files and of Hugging Face `datasets` into the cache, with a label file beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError
from logo_edge.files import changing, folder_beside, json_text, write_file
from logo_edge.names import alike, csv_line, join_names
from logo_edge.tables.find import RASTER_SUFFIXES
from logo_edge.tables.writers import import_pyarrow
from logo_edge_train.keys import artifact_key
from logo_edge_train.organize.placed_images import SPLIT_NAMES

SUFFIXES = (".parquet", ".arrow")
LABELS, LEFT_OUT = "labels.csv", "left_out.json"
NO_LIST = "its row has no list of labels, so that nobody knows its labels; an empty list says that it has none"
ROWS = 16  # images in memory at a time


def extract_tables(splits: Mapping[Path, str]) -> tuple[Path, dict[str, str]]:
    """The label file path,label,split,group of these tables, and what is left out with the reason.

    The images are written beside the file into the cache, once. Its column is `labels` if the tables have lists of
    labels; rows without a list are then left out. `splits`: table -> the split of its rows without one. The folder's
    name depends on the place and the content of the tables. Raises DatasetError if a table cannot be read, has no
    columns of images and labels, or has single labels where another has lists; MissingExtraError without pyarrow.
    """
    pyarrow = import_pyarrow()
    inputs = {f"{split} {path}": path for path, split in splits.items()}
    folder = cache_folder() / "tables" / artifact_key(inputs, {"version": 3}, {})[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with changing(folder):
        if not (folder / LABELS).exists():
            with folder_beside(folder) as part:
                rows, kinds = [], {}
                for at, (path, split) in enumerate(splits.items()):
                    try:
                        rows += (own := list(_extract(path, split, part, f"{at:03}")))
                    except (OSError, ValueError, LookupError, AttributeError, pyarrow.ArrowException) as error:
                        raise DatasetError(f"{path}: {error}; expected a readable Parquet or Arrow file") from error
                    for _, label, *_ in own:
                        if label:
                            kinds.setdefault(isinstance(label, tuple), path)
                if len(kinds) > 1:
                    raise DatasetError(
                        f"{kinds[False]} has one label for each image, {kinds[True]} a list of labels; expected tables "
                        "of one kind. Give each its own command, or make the labels lists"
                    )
                several, left_out = True in kinds, {}
                lines = [csv_line(("path", "labels" if several else "label", "split", "group"))]
                for number, (name, label, split, group) in enumerate(rows):
                    if several and label is None:
                        left_out[name or f"row {number}"] = NO_LIST
                        continue
                    label = join_names(label) if isinstance(label, tuple) else label or ""
                    lines.append(csv_line((name, label, split, group)))
                write_file(part / LEFT_OUT, json_text(left_out))
                write_file(part / LABELS, "".join(lines))
                part.rename(folder)
    left_out = json.loads((folder / LEFT_OUT).read_text(encoding="utf-8"))
    return folder / LABELS, {str(folder / name): reason for name, reason in left_out.items()}


def _extract(
    path: Path, split: str, folder: Path, prefix: str
) -> Iterator[tuple[str, str | tuple[str, ...] | None, str, str]]:
    """(path, label, split, group) of each row of a table; an empty path: no image. Images are written into
    the folder.

    The label is a tuple if the table has lists of labels, None where the row has none.
    """
    schema, read_batches = _open(path)
    image_column, label_column, names = _columns(path, schema)
    columns, number = [name for name in schema.names if name in (image_column, label_column, "split", "group")], 0
    for batch in read_batches(columns):
        for row in batch.to_pylist():
            image, value, own = row[image_column], row[label_column], str(row.get("split") or "")
            if own and alike(own) not in SPLIT_NAMES:
                raise DatasetError(f"{path}: split is {own!r}; expected train, val, calib, test or nothing")
            if isinstance(image, (str, bytes, type(None))):
                image = {"path" if isinstance(image, str) else "bytes": image}
            name = os.path.join(path.parent, image["path"]) if image.get("path") else ""
            if image.get("bytes"):
                suffix = Path(name).suffix.lower()
                name = f"{prefix}-{number:07}{suffix if suffix in RASTER_SUFFIXES else ''}"
                (folder / name).write_bytes(image["bytes"])
            if names and isinstance(value, int):
                value = names[value] if value >= 0 else None  # -1 is an unknown label
            if isinstance(value, list):
                known = [one for one in value if one is not None and not (names and one < 0)]
                label = tuple(names[one] if names else str(one) for one in known)
            else:
                label = None if value is None else str(value)
            group = row.get("group")
            yield name, label, SPLIT_NAMES.get(alike(own), split), "" if group is None else str(group)
            number += 1


def _open(path: Path):
    """The schema of a table, and a function: names of columns -> their record batches, read lazily."""
    import pyarrow

    if path.suffix.lower() == ".arrow":
        reader = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path)))
        return reader.schema, lambda columns: (
            batch.select(columns).slice(at, ROWS) for batch in reader for at in range(0, batch.num_rows, ROWS)
        )
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    return file.schema_arrow, lambda columns: file.iter_batches(batch_size=ROWS, columns=columns)


def _columns(path: Path, schema) -> tuple[str, str, list[str]]:
    """The column of images, that of labels, and the names of the labels if they are numbers of `datasets.ClassLabel`.

    Labels are one or a list in each row.
    Images are bytes, a path, or a struct of both. https://huggingface.co/docs/datasets/image_dataset
    """
    from pyarrow import types

    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    images = [
        field.name
        for field in schema
        if types.is_binary(field.type)
        or types.is_large_binary(field.type)
        or (types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ] or [name for name in ("path", "image") if name in schema.names]
    features = {name: feature.get("feature", feature) for name, feature in features.items()}  # of a list, its items
    coded = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    labels = [name for name in ("label", "labels") if name in schema.names][:1] or coded
    kind = schema.field(labels[0]).type if len(labels) == 1 else None
    if kind is not None and (types.is_list(kind) or types.is_large_list(kind)):
        kind = kind.value_type
    if len(images) != 1 or kind is None or types.is_nested(kind):
        raise DatasetError(
            f"{path}: found the columns {', '.join(schema.names)}; expected one of images (bytes, or a path), and a "
            "column label (one, or a list of labels, for each image). Rename or drop columns"
        )
    return images[0], labels[0], features[labels[0]]["names"] if labels[0] in coded else []
