"""Labels of any source: each format gives the same images, labels and splits; what cannot be used is said."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import pytest
from hostile_tree import draw_mark
from typer.testing import CliRunner

from logo_edge.errors import DatasetError, MissingExtraError
from logo_edge.names import csv_line
from logo_edge_train.command_line import find_manifest
from logo_edge_train.commands import data, train
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, read_manifest
from logo_edge_train.organize.limits import describe_limits
from logo_edge_train.organize.manifest_file import compare_with_source, manifest_of
from logo_edge_train.organize.organize import describe_report, organize_images
from logo_edge_train.organize.sources import read_source
from logo_edge_train.recipe import CalibrateConfig

IMAGES = {  # name below images/ -> label, split
    "cats & co/1.png": ("cat", "train"),
    "cats & co/2 (final).png": ("cat", "val"),
    "3.0.png": ("3M", "train"),
    unicodedata.normalize("NFD", "é.png"): ("3M", "test"),
    "unknown.png": ("", "train"),
}


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder `export` with IMAGES in `images`, each a drawing of its own."""
    for at, name in enumerate(IMAGES):
        path = tmp_path / "export" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_mark(at, size_px=40).save(path)
    return tmp_path / "export"


def write_text(path: Path, text: str, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, **options)
    return path


def write_csv(folder: Path) -> Path:
    lines = [csv_line((f"images/{name}", label, split)) for name, (label, split) in IMAGES.items()]
    return write_text(folder / "mine.csv", "path,label,split\n" + "".join(lines))


def write_spreadsheet(folder: Path) -> Path:
    """As a German spreadsheet on Windows writes it: byte order mark, semicolons, backslashes, composed letters."""
    lines = [
        f"images\\{unicodedata.normalize('NFC', name)}".replace("/", "\\") + f"; {label} ;{split.upper()};x\r\n"
        for name, (label, split) in IMAGES.items()
    ]
    return write_text(folder / "mine.csv", "Path;Label;Split;price\r\n" + "".join(lines), encoding="utf-8-sig")


def write_coco(folder: Path) -> Path:
    for split in ("train", "val", "test"):
        names = [name for name, (_, own) in IMAGES.items() if own == split]
        content = {
            "images": [{"id": at, "file_name": name} for at, name in enumerate(names, 1)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "3M"}],
            "annotations": [
                {"id": at, "image_id": at, "category_id": {"cat": 1, "3M": 7}[IMAGES[name][0]]}
                for at, name in enumerate(names, 1)
                if IMAGES[name][0]
            ],
        }
        write_text(folder / "annotations" / f"instances_{split}2017.json", json.dumps(content))
    return folder


def write_cvat(folder: Path) -> Path:
    images = "".join(
        f"<image id='{at}' name={quoteattr(name)} subset='{split.title()}' width='40' height='40'>"
        + (f"<tag label='{label}' source='manual'/>" if label else "")
        + "<box label='eye' xtl='1' ytl='1' xbr='2' ybr='2'/></image>"
        for at, (name, (label, split)) in enumerate(IMAGES.items())
    )
    write_text(folder / "annotations.xml", f"<annotations><version>1.1</version>{images}</annotations>")
    return folder


def write_label_studio(folder: Path) -> Path:
    def task(at: int, name: str, label: str) -> dict:
        address = f"/data/local-files/?d={quote(f'images/{name}')}"
        if at % 2 == 0:
            address = f"http://localhost:8080/data/upload/3/0a1b2c3d-{quote(Path(name).name)}"
        result = {"type": "choices", "from_name": "kind", "to_name": "image", "value": {"choices": [label]}}
        given = [{"was_cancelled": False, "result": [result]}, {"was_cancelled": True, "result": [{}]}]
        return {"id": at, "data": {"title": "x", "photo": address}, "annotations": given if label else []}

    tasks = [task(at, name, label) for at, (name, (label, _)) in enumerate(IMAGES.items())]
    return write_text(folder / "project-1.json", json.dumps(tasks))


def write_tables(folder: Path, suffix: str) -> Path:
    """As `datasets` writes them: `to_parquet`, or `save_to_disk`."""
    pyarrow = pytest.importorskip("pyarrow")
    names = ["cat", "3M"]
    features = {"photo": {"_type": "Image"}, "kind": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("photo", image), ("kind", pyarrow.int64())], metadata)
    for split, of_hub in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = [
            {
                "photo": {"bytes": (folder / "images" / name).read_bytes(), "path": Path(name).name},
                "kind": names.index(label) if label else -1,
            }
            for name, (label, own) in IMAGES.items()
            if own == split
        ]
        table = pyarrow.Table.from_pylist(rows, schema)
        if suffix == ".parquet":
            from pyarrow import parquet

            path = folder / "tables" / "data" / f"{of_hub}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, path)
        else:
            path = folder / "tables" / of_hub / "data-00000-of-00001.arrow"
            path.parent.mkdir(parents=True, exist_ok=True)
            with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
                writer.write_table(table)
    return folder / "tables"


WRITERS = {
    "csv": write_csv,
    "spreadsheet": write_spreadsheet,
    "coco": write_coco,
    "cvat": write_cvat,
    "label studio": write_label_studio,
    "parquet": lambda folder: write_tables(folder, ".parquet"),
    "datasets": lambda folder: write_tables(folder, ".arrow"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_each_format_gives_the_same_images_labels_and_splits(kind, pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    placed, skipped = read_source(WRITERS[kind](pictures))
    wanted = {(pictures / "images" / name).read_bytes(): facts for name, facts in IMAGES.items()}
    if kind == "label studio":  # whose export has no splits
        wanted = {content: (label, "") for content, (label, _) in wanted.items()}
    assert {image.path.read_bytes(): (image.label, image.split) for image in placed} == wanted
    assert len(placed) == len(IMAGES)
    assert skipped == []


def test_images_of_one_name_in_two_splits_are_found_in_the_folder_of_their_split(tmp_path):
    for at, split in enumerate(("train", "val")):
        image = tmp_path / "images" / f"{split}2017" / "1.png"
        image.parent.mkdir(parents=True)
        draw_mark(at).save(image)
        content = {
            "images": [{"id": 1, "file_name": "1.png"}],
            "categories": [{"id": 1, "name": split * 2}],
            "annotations": [{"id": at, "image_id": 1, "category_id": 1} for at in range(3)],
        }
        write_text(tmp_path / "annotations" / f"instances_{split}2017.json", json.dumps(content))
        write_text(
            tmp_path / "annotations" / f"image_info_{split}2017.json", json.dumps({**content, "annotations": []})
        )
    placed, skipped = read_source(tmp_path)
    assert {(image.path.parent.name, image.label, image.split) for image in placed} == {
        ("train2017", "traintrain", "train"),
        ("val2017", "valval", "val"),
    }
    assert skipped == []


def test_tables_are_written_into_the_cache_once_and_again_when_their_content_changes(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    tables = WRITERS["parquet"](pictures)
    first, _ = read_source(tables)
    stamps = {image.path: image.path.stat().st_mtime_ns for image in first}
    assert all(path.is_relative_to(tmp_path / "cache" / "tables") and path.suffix == ".png" for path in stamps)
    again, _ = read_source(tables)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    os.replace(tables / "data" / "test-00000-of-00001.parquet", tables / "data" / "validation-00000-of-00001.parquet")
    other, _ = read_source(tables)
    assert not {image.path for image in other} & stamps.keys()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"]}, "found the columns image; expected one of images.*and a column label"),
        ({"a": [b"x"], "b": [b"x"], "label": ["c"]}, "found the columns a, b, label"),
        ({"image": [b"x"], "label": [{"c": "d"}]}, "one, or a list of labels, for each image"),
        (
            {"image": [b"x"], "other": [[1, 2]], "label": ["c"], "split": ["holdout"]},
            "split is 'holdout'; expected train, val",
        ),
    ],
)
def test_a_table_without_one_image_and_one_label_a_row_is_refused(columns, message, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    with pytest.raises(DatasetError, match=message):
        read_source(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="expected a readable Parquet or Arrow file"):
        read_source(tmp_path / "t.parquet")


def test_rows_without_a_list_among_lists_are_said_and_tables_of_two_kinds_are_refused(pictures, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    names = ["images/3.0.png", "images/unknown.png", "images/cats & co/1.png"]
    paths = [str(pictures / name) for name in names]
    lists = pyarrow.table({"path": paths, "labels": [["a", "b"], None, []]})
    (tmp_path / "tables").mkdir()
    parquet.write_table(lists, tmp_path / "tables" / "1.parquet")
    for _ in ("extracted now", "read from the cache"):
        placed, skipped = read_source(tmp_path / "tables" / "1.parquet")
        assert [(image.path.name, image.labels) for image in placed] == [("3.0.png", ("a", "b")), ("1.png", ())]
        assert [(file.path.name, file.reason[:26]) for file in skipped] == [
            ("unknown.png", "its row has no list of lab")
        ]
    parquet.write_table(pyarrow.table({"path": paths, "label": ["a", "b", "c"]}), tmp_path / "tables" / "2.parquet")
    with pytest.raises(DatasetError, match=r"2\.parquet has one label for each image, .*1\.parquet a list of labels"):
        read_source(tmp_path / "tables")


@pytest.mark.parametrize("other", ["captions_train2017.json", "stuff_train2017.json", "panoptic_val2017.json"])
def test_other_annotations_beside_the_labels_of_coco_are_not_read_and_said(other, tmp_path):
    draw_mark(1, size_px=40).save(tmp_path / "1.png")
    image, annotation = {"id": 1, "file_name": "1.png"}, {"image_id": 1, "category_id": 1}
    labels = {"images": [image], "categories": [{"id": 1, "name": "cat"}], "annotations": [annotation]}
    captions = {"images": [image], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    stuff = {**labels, "categories": [{"id": 1, "name": "sky"}]}
    write_text(tmp_path / "annotations" / "instances_train2017.json", json.dumps(labels))
    written = write_text(tmp_path / "annotations" / other, json.dumps(stuff if "stuff" in other else captions))
    placed, skipped = read_source(tmp_path)
    assert [(image.path.name, image.label) for image in placed] == [("1.png", "cat")]
    assert [(file.path, file.reason) for file in skipped] == [
        (written, "other annotations of images whose labels instances_*.json give")
    ]
    if "stuff" not in other:
        with pytest.raises(DatasetError, match="not as COCO"):
            read_source(written)


def test_a_table_may_hold_paths_and_plain_labels(pictures, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    rows = {"path": ["images/3.0.png", "gone.png", None], "label": [7, 8, 9], "split": ["Test", None, None]}
    parquet.write_table(pyarrow.table(rows), pictures / "t.parquet")
    placed, skipped = read_source(pictures / "t.parquet")
    assert [(image.path.name, image.label, image.split) for image in placed] == [("3.0.png", "7", "test")]
    assert skipped[0].path.name == "gone.png"
    assert skipped[1].reason == "a row without the path of an image"


def test_tables_need_the_extra_parquet(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'logo-edge\[parquet\]'"):
        read_source(tmp_path / "t.parquet")


def test_names_that_give_no_image_several_labels_or_several_splits_are_skipped_with_the_reason(pictures):
    for name in ("a/same.png", "b/same.png"):
        (pictures / name).parent.mkdir()
        draw_mark(50).save(pictures / name)
    lines = [
        "images/3.0.png,cat,",
        "./images/3.0.png,cat,train",
        "images/unknown.png,cat,",
        f"{pictures}/images/unknown.png,dog,",
        "cats & co/1.png,cat,train",
        "images/cats & co/1.png,cat,test",
        "same.png,dog,",
        "gone/1.png,dog,",
        "https://example.org/1.png,dog,",
        ",dog,",
    ]
    source = write_text(pictures / "mine.csv", "path,label,split\n" + "\n".join(lines) + "\n")
    placed, skipped = read_source(source)
    assert [(image.path.name, image.label, image.split) for image in placed] == [("3.0.png", "cat", "train")]
    reasons = {str(file.path): file.reason for file in skipped}
    assert reasons[f"{pictures}/images/unknown.png"] == (
        "2 labels ('cat', 'dog'); expected one, or `logo-edge data organize --multi-label`"
    )
    assert reasons[f"{pictures}/images/cats & co/1.png"] == "2 splits ('test', 'train'); expected one"
    assert "2 images below" in reasons["same.png"]
    assert "no images below" in reasons["gone/1.png"], "images/cats & co/1.png is not meant"
    assert "web address" in reasons["https:/example.org/1.png"]
    assert reasons[str(pictures)] == "a row without the path of an image"
    assert len(skipped) == 6


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,label\nx.png,cat\n", "found the columns file, label; expected path, label"),
        ("a.csv", "path,label,split\nx.png,cat,holdout\n", "line 2: split is 'holdout'; expected train, val, calib"),
        ("a.json", "{", "damaged, or not UTF-8"),
        ("a.json", '{"images": []}', "not as COCO"),
        ("a.json", '[{"image": "x.png", "choice": "cat"}]', "not as COCO, Label Studio"),
        ("a.json", "3", "not as COCO"),
        ("a.json", "[" * 100_000, "not as COCO"),
        ("a.csv", "", "found the columns none"),
        ("a.xml", "<annotation><filename>x.png</filename></annotation>", "found <annotation>; expected <annotations>"),
        ("a.xml", "<annotations><image name='x.png'>", "damaged, or not UTF-8"),
        ("a.xml", "<annotations><image/></annotations>", "not as COCO.*CVAT for images 1.1"),
        ("a.txt", "x.png cat\n", r"a file with the suffix '.txt'; expected a folder.*\.csv, \.json, \.xml, \.parquet"),
        ("a.csv", 'path,label\nx.png,"cat\ny.png,dog\n', "unexpected end of data"),
        ("a.csv", "path,label\nx.png,red, green\n", "line 2: 1 more cells than columns; a cell that holds ',' needs"),
        ("a.csv", "path;label\nx.png;a;b\n", "line 2: 1 more cells than columns; a cell that holds ';' needs"),
        ("a.csv", "path,label,Label \nx.png,cat,dog\n", "column 'label' is there 2 times"),
        ("a.csv", "path,label\nx.png,Cat\ny.png,cat\n", "differ only in case.*'Cat' and 'cat'"),
    ],
)
def test_a_damaged_or_foreign_label_file_is_refused_with_the_cure(name, text, message, tmp_path):
    for image in ("x.png", "y.png"):
        (tmp_path / image).touch()
    with pytest.raises(DatasetError, match=message):
        read_source(write_text(tmp_path / name, text))


def test_a_source_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DatasetError, match=r"gone: no such file or folder; expected a folder with images"):
        read_source(tmp_path / "gone")


def write_classes(folder: Path, counts: dict[str, dict[str, int]]) -> Path:
    """A label file path,label,split and its drawings; counts: label -> split -> images."""
    lines, at = ["path,label,split\n"], 0
    folder.mkdir(parents=True, exist_ok=True)
    for label, splits in counts.items():
        for split, count in splits.items():
            for _ in range(count):
                draw_mark(at, size_px=60).save(folder / f"{at}.png")
                lines.append(csv_line((f"{at}.png", label, split)))
                at += 1
    return write_text(folder / "mine.csv", "".join(lines))


def test_splits_of_a_label_file_are_kept_and_what_it_lacks_comes_from_train(tmp_path):
    source = write_classes(
        tmp_path / "x", {"cat": {"train": 20, "val": 4, "": 10}, "dog": {"train": 30, "val": 4, "test": 3}}
    )
    report = organize_images(source, tmp_path / "m.csv")
    splits = {Path(image.path).name: image.split for image in read_source(source)[0]}
    for row in read_manifest(tmp_path / "m.csv").rows:
        given = splits[Path(row.icon).name]
        assert row.split == given or (given in ("", "train") and row.split in ("train", "calib"))
    assert report.given == ("train", "val", "test")
    assert report.counts["test"] == {"cat": 0, "dog": 3}
    assert report.filled == {"calib": 6}
    lines = describe_report(report)
    assert lines[0].startswith("71 labelled by mine.csv")
    assert "splits of your own, which are kept: train, val, test" in lines
    assert "no images of calib: 6 of train are used for it" in lines
    assert "10 without a split, used as train" in lines


def test_a_copy_without_a_split_does_not_leak_an_image_of_test_into_train(tmp_path):
    source = write_classes(
        tmp_path / "x", {label: {"train": 8, "val": 4, "calib": 4, "test": 4} for label in ("cat", "dog")}
    )
    lines = []
    for name, at in (("of test", 19), ("of train", 0)):
        draw_mark(at, size_px=90).save(source.parent / f"{name}.png")
        lines.append(f"{name}.png,cat,\n")
    source.write_text(source.read_text() + "".join(lines))
    report = organize_images(source, tmp_path / "m.csv")
    splits = {Path(row.icon).stem: row.split for row in read_manifest(tmp_path / "m.csv").rows}
    assert (splits["of test"], splits["of train"]) == (splits["19"], splits["0"]) == ("test", "train")
    assert (report.unsplit, report.joined, report.split_groups) == (1, 1, ())
    assert "1 without a split, in a group of val, calib or test and used there" in describe_report(report)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("exact", [False, True])
def test_images_of_one_group_of_the_source_are_in_one_split_though_they_look_different(tmp_path, suffix, exact):
    rows = []
    for at in range(80):  # two classes of ten products, each on four different pictures
        draw_mark(at, size_px=40).save(tmp_path / f"{at}.png")
        rows.append({"path": f"{at}.png", "label": ("cat", "dog")[at % 2], "Group": f" {at // 8}{at % 2} "})
    rows.append({"path": "0.png", "label": "cat", "Group": "another"})
    source = tmp_path / f"mine{suffix}"
    if suffix == ".csv":
        write_text(source, "".join(map(csv_line, [rows[0], *(row.values() for row in rows)])))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = [{**row, "group": row["Group"]} for row in rows]
        parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), source)
    report = organize_images(source, tmp_path / "m.csv", exact_copies=exact)
    (twice,) = report.skipped
    assert (twice.path.name, twice.reason) == ("0.png", "2 groups ('00', 'another'); expected one")
    splits, groups = defaultdict(set), defaultdict(set)
    for row in read_manifest(tmp_path / "m.csv").rows:
        product = rows[int(Path(row.icon).stem)]["Group"]
        splits[product].add(row.split)
        groups[row.group].add(product)
    assert len(groups) == report.groups == 20
    assert all(len(names) == 1 for names in (*splits.values(), *groups.values()))
    assert {split for (split,) in splits.values()} == {"train", "val", "calib", "test"}
    assert not report.limits, "groups of the source count for no limit of copies"


def test_a_label_file_that_lies_in_a_folder_reaches_no_image_elsewhere(pictures):
    """The folder may be a download, and a bundle holds some images of its training."""
    draw_mark(60, size_px=40).save(pictures.parent / "private.png")
    names = ("../private.png", str(pictures.parent / "private.png"), "images/../images/3.0.png", "images/unknown.png")
    lines = "".join(csv_line((name, "cat")) for name in names)
    source = write_text(pictures / "labels.csv", "path,label\n" + lines)
    placed, skipped = read_source(pictures)
    assert {image.path.name for image in placed} == {"3.0.png", "unknown.png"}
    reasons = {file.path: file.reason for file in skipped}
    assert reasons[pictures.parent / "private.png"].startswith(f"outside the folder {pictures}; give the label file")
    assert {image.path.name for image in read_source(source)[0]} == {"3.0.png", "unknown.png", "private.png"}


def test_annotations_of_coco_without_an_image_are_listed(tmp_path):
    draw_mark(1, size_px=40).save(tmp_path / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": "1", "category_id": 1}],
    }
    placed, skipped = read_source(write_text(tmp_path / "a.json", json.dumps(content)))
    assert [image.label for image in placed] == [""]
    assert str(skipped[0].path) == "annotations of image_id '1', which is none of the file's images"


def test_images_that_the_label_file_of_a_folder_does_not_name_are_listed(pictures):
    os.symlink(pictures / "images" / "3.0.png", pictures / "link.png")
    write_text(pictures / "labels.csv", "path,label\nlink.png,3M\nimages/unknown.png,cat\ngone.png,cat\n")
    placed, skipped = read_source(pictures)
    assert {image.path.name for image in placed} == {"link.png", "unknown.png"}
    reasons = {file.path.name: file.reason for file in skipped}
    assert reasons.pop("gone.png").startswith("named by the labels, but no images")
    assert set(reasons) == {unicodedata.normalize("NFD", "é.png"), "1.png", "2 (final).png"}
    assert set(reasons.values()) == {"named by no row of 'labels.csv'"}


def test_classes_that_given_splits_leave_out_stop_are_left_out_or_merged(tmp_path):
    full = {"train": 5, "val": 2, "calib": 2, "test": 1}
    source = write_classes(tmp_path / "x", {"a": full, "b": full, "c": {"train": 4}, "d": {"val": 2, "calib": 1}})
    with pytest.raises(
        DatasetError, match=r"'c' \(none in val, calib\), 'd' \(none in train\).*--small-classes leave-out"
    ):
        organize_images(source, tmp_path / "m.csv")
    report = organize_images(source, tmp_path / "m.csv", small_classes="leave-out")
    assert report.small_classes == {"c": 4, "d": 3}
    assert read_manifest(tmp_path / "m.csv").classes == ("a", "b")
    report = organize_images(source, tmp_path / "m.csv", small_classes="merge", overwrite=True)
    assert report.counts["train"] == {"a": 5, "b": 5, "other": 4}


def test_a_manifest_does_not_replace_the_label_file_that_it_is_made_of(tmp_path):
    source = write_classes(tmp_path / "x", {"a": {"": 5}, "b": {"": 5}})
    before = source.read_bytes()
    with pytest.raises(DatasetError, match="the label file itself"):
        organize_images(source, source, overwrite=True)
    assert source.read_bytes() == before


def test_data_takes_a_label_file_and_notices_its_changes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    source = write_classes(tmp_path / "x", {"a": {"": 6}, "b": {"": 6}})
    manifest = find_manifest(source)
    assert manifest == manifest_of(source)
    assert manifest.is_relative_to(tmp_path / "cache")
    assert manifest_of(manifest) == manifest, "a manifest is its own"
    assert sorted(path.name for path in source.parent.iterdir() if path.suffix != ".png") == ["mine.csv"]
    assert compare_with_source(manifest, source) == ""
    source.write_text(source.read_text().replace("3.png,a", "3.png,b"))
    capsys.readouterr()
    assert find_manifest(source) == manifest
    assert "1 have another content than when it was written" in capsys.readouterr().out
    draw_mark(99).save(source.parent / "new.png")
    source.write_text(source.read_text() + "new.png,a,\n")
    assert "1 images of" in compare_with_source(manifest, source)


def test_a_folder_with_an_export_and_class_folders_takes_the_labels_of_the_export(pictures):
    write_cvat(pictures)
    (pictures / "annotations").mkdir()
    (pictures / "annotations" / "._instances.json").write_bytes(b"of a Mac")
    for name in ("cat", "dog"):
        (pictures / name).mkdir()
        draw_mark(70).save(pictures / name / "0.png")
    assert {image.label for image in read_source(pictures)[0]} == {"cat", "3M", ""}


def test_a_table_of_results_beside_class_folders_is_no_source(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        draw_mark(70).save(tmp_path / name / "0.png")
    (tmp_path / "results.parquet").write_bytes(b"of classify")
    placed, skipped = read_source(tmp_path)
    assert {image.label for image in placed} == {"cat", "dog"}
    assert [file.reason for file in skipped] == ["the suffix .parquet is not that of an image"]


def make_manifest(counts: dict[str, dict[str, int]]) -> Manifest:
    rows = [
        LogoRow(FILES, "", f"{label}-{split}-{at}", label=label, split=split)
        for split, labels in counts.items()
        for label, count in labels.items()
        for at in range(count)
    ]
    return Manifest(tuple(rows), Path())


def test_what_is_too_small_to_be_promised_is_said_with_the_number_that_is_enough():
    small = {split: {"a": 4, "b": 3} for split in ("val", "calib", "test")}
    text = "\n".join(describe_limits(make_manifest({"train": {"a": 40, "b": 9}, **small}), CalibrateConfig()))
    assert "imbalanced: train has 40 images of 'a' and 9 of 'b'" in text
    assert "test has 7 images: its accuracy, which reports give, is known to about 22 points" in text
    assert "calib has 7 images: mode balanced promises a risk of 5% from 59 on" in text
    assert "mode strict promises a risk of 3% from 99 on" in text
    assert "calib has 3 images of 'b': prediction sets by class are promised at 80% from 4 on, 90% from 9 on" in text
    assert "by class from 20 of each class on" in text
    assert text.endswith("takes a tenth, remove these limits")


def test_enough_images_of_each_class_are_no_reason_to_say_anything():
    enough = {split: {"a": 99, "b": 99} for split in ("train", "val", "calib", "test")}
    assert describe_limits(make_manifest(enough), CalibrateConfig()) == []
    assert len(describe_limits(make_manifest({**enough, "train": {"a": 300, "b": 99}}), CalibrateConfig())) == 1


def test_organize_and_train_say_before_anything_is_fitted_what_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    source = write_classes(tmp_path / "x", {"a": {"": 6}, "b": {"": 6}})
    done = CliRunner().invoke(data, ["organize", str(source)])
    assert done.exit_code == 0, done.output
    assert "calib has 2 images: mode balanced promises a risk of 5% from 59 on" in done.output
    assert (tmp_path / "x" / "manifest.csv").exists()
    monkeypatch.setattr("logo_edge_train.train.train_ensemble", lambda *_, **__: pytest.fail("said too late"))
    monkeypatch.setattr(
        "logo_edge_train.commands.say_limits", lambda manifest, recipe: sys.exit(f"{manifest} {recipe.name}")
    )
    done = CliRunner().invoke(train, ["--data", str(source), "--recipe", "smoke", "--out", str(tmp_path / "run")])
    assert done.exception.code == f"{manifest_of(source)} smoke"
    done = CliRunner().invoke(data, ["where", str(source)])
    assert done.output.strip() == str(manifest_of(source))


def test_splits_of_folders_are_not_asked_of_a_label_file(pictures):
    with pytest.raises(DatasetError, match=r"mine.csv gives the splits; --split-folders is for class folders"):
        read_source(write_csv(pictures), split_folders=True)


def test_labels_of_a_hostile_tree_reach_the_same_manifest_through_a_csv(hostile_tree, tmp_path):
    organize_images(hostile_tree.root, tmp_path / "m.csv")
    rows = read_manifest(tmp_path / "m.csv").rows
    lines = [csv_line((os.path.normpath(tmp_path / row.icon), row.label, row.split)) for row in rows]
    lines += [csv_line((name, "ok", "train")) for name in sorted(hostile_tree.damaged)]
    source = write_text(hostile_tree.root / "labels.csv", "path,label,split\n" + "".join(lines))
    report = organize_images(hostile_tree.root, tmp_path / "csv.csv")
    again = read_manifest(tmp_path / "csv.csv").rows
    key = [(row.icon, row.label, row.split) for row in rows]
    assert sorted((row.icon, row.label, row.split) for row in again) == sorted(key)
    assert len(rows) > 60
    assert report.label_files == (source,)
    assert "  1 x empty: 'empty.jpg'" in describe_report(report)
    unnamed = {file.path.name for file in report.skipped if file.reason == "named by no row of 'labels.csv'"}
    assert unnamed == {"caf\udce9.png"}, "a manifest cannot hold its name"
    assert {file.path.name for file in report.skipped} == {Path(name).name for name in hostile_tree.damaged} | unnamed
