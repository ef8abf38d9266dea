"""Figures in documents: each number of the prose follows from its source, or is named."""

from __future__ import annotations

import json

import pytest

from logo_edge_bench.experiments.figures import check_figures, list_figures, read_pages

RESULTS = {
    "speed": {
        "ours": {"p50_ms": 1.234, "size_bytes": 1_004_103},
        "rows": [{"name": "Lite0, FP32", "baseline": "Lite1", "p50_ms": 3.17}],
        "accuracy": {"value": 0.9183, "low": 0.9021, "high": 0.9323},
        "provenance": {"versions": {"numpy": 77}},
    },
    "many": {"logits": list(range(100))},
}
CODE = """
MAX_BYTES = 16 * 2**20
class Limits:
    share: float = 0.05
def check(level=0.9, *, rounds=11):
    return 7
"""


@pytest.fixture
def check(tmp_path):
    for name, record in RESULTS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "limits.py").write_text(CODE)
    (tmp_path / "code" / "recipe.toml").write_text("[fit]\nepochs = 16\n")
    (tmp_path / "code" / "port.js").write_text("const WIDTH = 512;\nconst OTHER = 9;\n")

    def check(text, earlier=(), **pages):
        return check_figures({"page.md": text, **pages}, earlier, root=tmp_path, results=tmp_path)

    return check


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("speed.ours.p50_ms", "It takes 1.2 ms."),
        ("speed.ours.p50_ms", "It takes 1.234 ms, or 0.0012 s."),
        ("speed.ours", "It takes 1.2 ms and 1.00 MB."),
        ("speed.accuracy", "Accuracy is 91.8 % (90.2 to 93.2 %)."),
        ("speed.accuracy.value - 1", "It is wrong on -8.2 % of them."),
        ('speed.rows["Lite0, FP32"].p50_ms / speed.ours.p50_ms', "Lite0 takes 2.6 times as long."),
        ("ceil(log(0.05) / log(1 - 0.05))", "This needs 59 answers."),
        ("code/limits.py MAX_BYTES", "At most 16 MiB are read."),
        ("code/limits.py Limits.share", "At most 5 % are wrong."),
        ("code/limits.py level, rounds", "All 11 rounds reach 90 %."),
        ("code/limits.py check", "It returns 7."),
        ("code/limits.py MAX_BYTES / rounds", "It reads 1.5 million bytes of each."),
        ("code/recipe.toml epochs", "It is fitted for 16 epochs."),
        ("code/port.js WIDTH", "It draws 512 columns."),
        ("64, 1,300 https://arxiv.org/abs/1234", "LoadGen asks for 64 queries of 1,300."),
        ("speed.ours.p50_ms;\n     code/limits.py MAX_BYTES", "It takes 1.2 ms for 16 MiB."),
    ],
)
def test_a_figure_that_follows_from_its_source_passes(check, source, text):
    assert list(list_figures(text))
    assert check(f"<!-- figures: {source} -->\n{text}\n") == []


@pytest.mark.parametrize(
    ("source", "text", "reason"),
    [
        (None, "It is right on 97.3 % of logos.", "'97.3 %' has no source"),
        (None, "| a | b |\n| --- | --- |\n| x | 97.3 |", "'97.3' has no source"),
        ("speed.ours.p50_ms", "It takes 1.2 ms, on 531 logos.", "'531' has no source"),
        ("speed.ours.p50_ms", "It takes 1.3 ms.", "'1.3 ms' has no source"),
        ("speed.ours.p50_ms", "It takes 1.235 ms.", "'1.235 ms' has no source"),
        ("speed.ours.p50_ms", "It takes 1.3 ms.", "no figure of the text after it"),
        ("speed.accuracy.value", "It is right on 0.918 %.", "'0.918 %' has no source"),
        ("speed.ours.p90_ms", "It takes 1.2 ms.", "there is no 'p90_ms'"),
        ('speed.rows["Lite1"]', "It takes 3.2 ms.", "there is no 'Lite1'"),
        ("speed", "It was 77.", "'77' has no source"),
        ("gone.p50_ms", "It takes 1.2 ms.", "gone is not in benchmarks/results"),
        ("many", "It takes 50 ms.", "100 values"),
        ("code/gone.py MAX_BYTES", "At most 16 MiB.", "no such file"),
        ("code/limits.py GONE", "At most 16 MiB.", "no 'GONE'"),
        ("code/port.js GONE", "It draws 512 columns.", "no 'GONE'"),
        ("code/recipe.toml gone", "16 epochs.", "no 'gone'"),
        ("code/limits.py MAX_BYTES / GONE", "It reads 8 MiB.", "no 'GONE'"),
        ("code/limits.py MAX_BYTES / Limits.share", "It reads 8 MiB.", "no figure of the text"),
        ("code/limits.py MAX_BYTES", "It reads 20 bytes.", "'20' has no source"),
        ("table gone", "It takes 1.2 ms.", "no page has this table"),
        ("64 https://arxiv.org/abs/1234", "It asks for 65 queries.", "'65' has no source"),
        ("1.2", "It takes 1.2 ms.", "not its own source"),
        ("see the results", "It takes 1.2 ms.", "neither a table"),
        ("__import__('os').getpid()", "It takes 1.2 ms.", "no arithmetic"),
    ],
)
def test_a_figure_without_source_and_a_wrong_source_fail(check, source, text, reason):
    wrong = check(f"<!-- figures: {source} -->\n{text}\n" if source else text + "\n")
    assert any(reason in line for line in wrong), wrong


def test_a_comment_is_for_its_block_or_with_a_blank_line_for_its_section(check):
    block = "<!-- figures: speed.ours.p50_ms -->\nIt takes 1.2 ms.\n\nStill 1.2 ms.\n"
    assert [line.split(":")[1] for line in check(block)] == ["4"]
    section = "# A\n\n<!-- figures: speed.ours.p50_ms -->\n\nIt takes 1.2 ms.\n\nStill 1.2 ms.\n\n## B\n\nAnd 1.2 ms.\n"
    assert [line.split(":")[1] for line in check(section)] == ["11"]
    items = "<!-- figures: speed.ours.p50_ms -->\n- 1.2 ms\n<!-- figures: code/limits.py rounds -->\n- 11 and 1.2 ms\n"
    assert [line.split(":")[1] for line in check(items)] == ["4"]


def test_a_table_of_any_page_is_a_source_and_holds_no_figures(check):
    table = "<!-- table: speed -->\n| x | 3.17 ms |\n| y | 4.5 ms |\n<!-- end -->\n"
    assert check("<!-- figures: table speed -->\nIt takes 3.2 ms.\n", **{"other.md": table}) == []
    assert "'3.3 ms'" in check("<!-- figures: table speed -->\n3.2 and 3.3 ms.\n", **{"other.md": table})[0]
    assert check("<!-- figures: table speed: | y -->\nIt takes 4.5 ms.\n", **{"other.md": table}) == []
    assert check("<!-- figures: table speed: | x -->\nIt takes 4.5 ms.\n", **{"other.md": table})
    many = f"<!-- table: many -->\n| {' | '.join(map(str, range(99)))} |\n<!-- end -->\n"
    assert "99 values" in check("<!-- figures: table many -->\nIt takes 50 ms.\n", **{"other.md": many})[0]


def test_a_result_of_an_earlier_bundle_is_named_so(check):
    text = "<!-- figures: speed.ours.p50_ms -->\nIt {} 1.2 ms.\n"
    assert "measured earlier" in check(text.format("takes"), earlier=["speed"])[0]
    assert check(text.format("took, on an earlier bundle,"), earlier=["speed"]) == []
    note = "\n<!-- table: speed -->\n| x |\n\nMeasured earlier (speed.json): for the methods.\n<!-- end -->\n"
    assert check(text.format("takes") + note, earlier=["speed"]) == []
    other = "<!-- table: quick -->\n| 1.2 |\n\nMeasured earlier (speed.json): for the methods.\n<!-- end -->\n"
    cited = "<!-- figures: table quick -->\nIt takes 1.2 ms.\n"
    assert "measured earlier" in check(cited, earlier=["speed"], **{"other.md": other})[0]


@pytest.mark.parametrize(
    "text",
    [
        "See Guo et al. 2017, of 2026-11-28, and RFC 9457.",
        "At 96 px, 128 and 160 px, 3 x 3 or 1x1, 2/255 and 4:2:0; PGD-10, Lite0, INT8, C++17, p90, Cortex-A76.",
        "Python 3.10, Pillow 12, TensorRT 10.3, onnxruntime 1.32.0 and 16-bit or 7 bits.",
        "1. One\n2. Two\n",
        "`--max-size-mb 1.2` and [the 3.2 MB](https://a.b/5.6)".replace("the 3.2 MB", "x"),
        "```sh\nmake 5\n```\n",
        "It falls from 1 to 0, with 95 % Wilson intervals.",
    ],
)
def test_what_is_no_figure_needs_no_source(text):
    assert list(list_figures(text)) == []


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("80, 90 and 95.5 % of 1,246", ["80 %", "90 %", "95.5 %", "1,246"]),
        ("(balanced -0.3 points)", ["0.3 points"]),
        ("the first 1 % and 1 logo", ["1 %"]),
        ("36 million; 1e-4 nats; a 48-megapixel phone", ["36 million", "1e-4", "48"]),
    ],
)
def test_numbers_are_read_with_their_units(text, printed):
    assert [f"{figure.text} {figure.unit}".strip() for figure in list_figures(text)] == printed


def test_all_pages_are_read():
    pages = read_pages()
    assert "README.md" in pages
    assert sum(name.endswith(".ipynb") for name in pages) == 1
    assert len(pages) > 10
