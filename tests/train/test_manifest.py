"""A manifest reads back as it was written; a row that does not fit is named by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from logo_edge.errors import DatasetError
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, read_manifest, write_manifest

ROWS = (
    LogoRow("simple-icons", "15.0.0", "acme", "acme", "simple", ("simple", "text"), False, "calib"),
    LogoRow(FILES, "", 'pictures/été, "x".png', "été", "text", (), True, "train"),
    LogoRow(FILES, "", "two\nlines.png", "two", "complex", ("complex",), True, "test", 12),
    LogoRow("logos", "1.2.3", "unknown", "unknown", "", (), True, "val"),
)


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_read_back_as_they_were_written(tmp_path):
    path = tmp_path / "new" / "labels.csv"
    write_manifest(path, ROWS)
    manifest = read_manifest(path)
    assert manifest == Manifest(ROWS, path.parent)
    first = path.read_bytes()
    write_manifest(str(path), manifest.rows)
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == ["labels.csv"]


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "labels.csv"
    write_manifest(path, ROWS)
    before = path.read_bytes()

    def broken():
        yield ROWS[0]
        raise RuntimeError("no more rows")

    with pytest.raises(RuntimeError, match="no more rows"):
        write_manifest(path, broken())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["labels.csv"]


def test_a_manifest_is_readable_by_those_who_may_read_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_manifest(tmp_path / "labels.csv", ROWS)
    assert (tmp_path / "labels.csv").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_columns_left_out_get_their_defaults(tmp_path):
    manifest = read_manifest(write(tmp_path, "icon,package\nacme,logos\nb.png,files\n"))
    assert manifest.rows == (LogoRow("logos", "", "acme", "acme"), LogoRow(FILES, "", "b.png", "b.png"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_what_a_spreadsheet_saves_is_read(tmp_path, encoding, line_end):
    text = line_end.join(["package,icon,label,a note", "files,été.png,text,hello", ""])
    assert read_manifest(write(tmp_path, text, encoding)).rows == (LogoRow(FILES, "", "été.png", "été.png", "text"),)


def test_classes_splits_and_unlabelled_rows_are_told_apart(tmp_path):
    manifest = Manifest(ROWS, tmp_path)
    assert manifest.classes == ("complex", "simple", "text")
    assert [row.label for row in manifest.split("train", "calib")] == ["simple", "text"]
    assert manifest.split("val") == []
    assert [row.icon for row in manifest.unlabelled] == ["unknown"]


def test_an_image_lies_beside_the_manifest_or_among_the_renders(tmp_path):
    manifest = Manifest(ROWS, tmp_path / "set", tmp_path / "renders")
    paths = [manifest.image_path(row) for row in manifest.rows]
    assert paths[0] == tmp_path / "renders" / "simple-icons" / "15.0.0" / "acme.png"
    assert paths[1] == tmp_path / "set" / 'pictures/été, "x".png'
    assert len(paths) == len(ROWS)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",acme,,1,train", "package or icon is empty"),
        ("logos,,,1,train", "package or icon is empty"),
        ("logos", "package or icon is empty"),
        ("logos,acme,,yes,train", "sure is 'yes'; expected 0 or 1"),
        ("logos,acme,,2,train", "sure is '2'"),
        ("logos,acme,,,train", "sure is ''"),
        ("logos,acme,,1,holdout", "split is 'holdout'; expected one of train, val, calib, test"),
        ("logos,acme,,1,", "split is ''"),
        ("logos,acme,,1,val,0", "round is '0'; expected a whole number from 1"),
        ("logos,acme,,1,val,-1", "round is '-1'"),
        ("logos,acme,,1,val,1.0", "round is '1.0'"),
        ("logos,acme,,1,val,²", "round is '²'"),
        ("logos,acme,,1,val,", "round is ''"),
        (f"logos,acme,,1,val,{'9' * 5000}", "round is '999"),
    ],
)
def test_a_row_that_does_not_fit_is_named_by_file_and_line(tmp_path, row, message):
    path = write(tmp_path, f"package,icon,label,sure,split,round\nlogos,fine,,1,train,2\n{row}\n")
    with pytest.raises(DatasetError, match=f"labels.csv, line 3: {message}"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column icon, package; expected package, version, icon"),
        ("package,label\n", "no column icon; expected"),
        ("package;icon\nlogos;acme\n", "no column icon, package"),
    ],
)
def test_a_manifest_without_its_columns_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(DatasetError, match=f"labels.csv: {message}"):
        read_manifest(write(tmp_path, text))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('logos,acme,"text\nlogos,b,simple\n', "unexpected end of data"),
        ("logos,acme,text, bold\n", "line 2: 1 more cells than columns"),
        ("logos,acme,caf\u00e9\nlogos,b,Cafe\u0301\n", "differ only in case, blanks at an end or Unicode form"),
        ("logos,acme,text\nlogos,b,text \n", "'text' and 'text ' differ"),
    ],
)
def test_a_manifest_that_would_be_misread_is_refused(tmp_path, rows, message):
    """As after a correction by hand."""
    with pytest.raises(DatasetError, match=message):
        read_manifest(write(tmp_path, f"package,icon,label\n{rows}"))


def test_trailing_empty_cells_are_no_labels(tmp_path):
    assert len(read_manifest(write(tmp_path, "package,icon,label\nlogos,acme,text,,\n")).rows) == 1


def test_a_file_that_is_no_csv_is_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"labels.csv: not a UTF-8 CSV file .*expected the columns package"):
        read_manifest(write(tmp_path, "package,icon\nfiles,été.png\n", "latin-1"))
    with pytest.raises(DatasetError, match=r"labels.csv: not a UTF-8 CSV file"):
        read_manifest(write(tmp_path, f"package,icon\nfiles,{'x' * 200_000}\n"))


def test_a_missing_manifest_and_a_folder_are_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"absent.csv: No such file .*expected a manifest CSV"):
        read_manifest(tmp_path / "absent.csv")
    with pytest.raises(DatasetError, match="Is a directory"):
        read_manifest(tmp_path)


def test_names_and_labels_of_any_characters_come_back_as_they_were(tmp_path):
    names = ("a\rb.png", "a\nb.png", 'q"u,o.png', " blank .png", "=1+2.png", "[draft].png", "\ufeffmark.png", "a|b.png")
    labels = ("a|b", "back\\slash", "\\|", "t-shirts [new]")
    rows = [LogoRow(FILES, "", name, name, label, (label, "other")) for name in names for label in labels]
    write_manifest(tmp_path / "m.csv", rows)
    assert read_manifest(tmp_path / "m.csv").rows == tuple(rows)
    assert len(rows) == 32


def test_a_manifest_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="expected a folder that can be written"):
        write_manifest(tmp_path / "file" / "m.csv", [])
    with pytest.raises(DatasetError, match="is not UTF-8, which a manifest holds; rename"):
        write_manifest(tmp_path / "m.csv", [LogoRow(FILES, "", "caf\udce9.png")])
    assert not (tmp_path / "m.csv").exists()
