"""Names of classes, files and runs are printed literally, not as markup or emoji codes."""

from __future__ import annotations

import io

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from logo_edge_train.console import LiteralTable, TimeLeftColumn
from logo_edge_train.data.manifest import LogoRow, Manifest
from logo_edge_train.organize.describe import describe_manifest, plot_description, plot_samples, print_description

NAMES = ("t-shirts [new]", "[draft]", "[/]", ":cat:", "[bold]")


def test_a_literal_table_shows_every_text_letter_by_letter():
    table = LiteralTable(NAMES[0], title=NAMES[1])
    table.add_column(NAMES[2])
    table.add_row(NAMES[3], NAMES[4])
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    shown = console.file.getvalue()
    assert all(name in shown for name in NAMES)


def test_a_description_names_classes_and_groups_as_they_are(tmp_path):
    rows = [
        LogoRow("files", "", f"{name}{split}", f"{name} group", name, (name,), True, split)
        for name in NAMES
        for split in ("train", "val")
    ]
    console = Console(file=io.StringIO(), width=200)
    print_description(describe_manifest(Manifest(tuple(rows), tmp_path)), console)
    shown = console.file.getvalue()
    assert all(shown.count(name) >= 2 for name in NAMES)  # a heading, and a group in two splits


def test_names_are_no_formulas_in_pictures(tmp_path):
    rows = []
    for index, name in enumerate(("$\\broken{$", "a$b$", "_hidden")):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index}.png")
        rows.append(LogoRow("files", "", f"{index}.png", name, name, (name,)))
    manifest = Manifest(tuple(rows), tmp_path)
    plot_description(describe_manifest(manifest), tmp_path / "bars" / "bars.png")
    plot_samples(manifest, tmp_path / "sheet.png")
    for path in (tmp_path / "bars" / "bars.png", tmp_path / "sheet.png"):
        assert Image.open(path).size > (100, 100)


def test_the_time_left_of_a_bar_is_dashes_until_it_is_known_and_is_by_the_recent_pace():
    now_s, column = [0.0], TimeLeftColumn()
    bar = Progress(column, get_time=lambda: now_s[0], console=Console(file=io.StringIO()))
    task = bar.add_task("images", total=None)

    def left() -> str:
        return column(bar.tasks[0]).plain

    assert left() == "-:--:--", "rich shows nothing, and the time since the start is taken for it"
    bar.update(task, total=400)
    for done in range(1, 301):
        now_s[0] += 0.5 if done <= 200 else 2.0
        bar.update(task, completed=done)
        left()
    assert left() == "0:03:20"
    now_s[0] += 90
    assert left() > "0:04:00", "it stands still"
    bar.update(task, completed=400)
    assert left() == "0:00:00"
