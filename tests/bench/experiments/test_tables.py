"""The tables of peers and goals, from made-up results; and the command line of experiments."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pytest

from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
from logo_edge_bench.experiments import compression_tables, labels, peer_tables, shipped, tables, training_tables
from logo_edge_bench.experiments.__main__ import build_parser, list_modules, main
from logo_edge_bench.experiments.record import result_path, write_record


def row(name, ms, accuracy, ece, size_bytes, kind="peer"):
    def figure(value):
        return {"value": value, "low": value, "high": value}

    return {
        "name": name,
        "kind": kind,
        "note": "",
        "input_px": 96,
        "threads": 1,
        "batch": 1,
        "size_bytes": size_bytes,
        "peak_rss_bytes": 9e7,
        "accuracy": {"count": 531, "accuracy": figure(accuracy), "ece": ece},
        "images_per_s": figure(1000 / ms),
        "process_start_s": None,
        "latency": {stage: {"p50_ms": figure(ms / part)} for stage, part in (("end_to_end", 1), ("inference", 2))},
    }


@pytest.fixture
def peers():
    rows = [
        row("default", 1, 0.92, 0.02, 1_000_000, "bundle"),
        row("YOLO11n-cls, predict, PyTorch", 4.5, 0.76, 0.1, 3_200_000),
        row("timm tf_efficientnet_lite0, ONNX Runtime FP32", 5, 0.9, 0.05, 13_400_000),
    ]
    machine = {"cpu": "A", "isa": ["avx2"], "versions": {"onnxruntime": "1"}}
    return {
        "rows": rows,
        "machine": machine,
        "warnings": [],
        "made": "2026-01-02",
        "method": {"name": "quick"},
        "process_starts_s": {},
        "not_measured": {"openvino-app": "not installed"},
    }


def cells(table):
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return {name: rest for name, *rest in lines[2:]}


def test_goals_are_shown_before_and_after_they_are_measured(peers):
    before = cells(peer_tables.goals(None, None))
    assert len(before) == 13
    assert {measured for measured, _ in before.values()} == {"not measured yet"}
    bench = {
        "scaling": {
            "cores": [
                {
                    "cores": count,
                    **{
                        how: {"of_one": {"value": count * share}}
                        for how, share in (("processes", 0.98), ("threads", 0.9))
                    },
                }
                for count in (1, 2)
            ]
        }
    }
    after = cells(peer_tables.goals(peers, bench))
    assert after["latency of Ultralytics' predict on PyTorch, end to end"] == ["4.50 (4.50 / 1.00 ms)", ">= 4"]
    assert after["latency of Ultralytics' predict on ONNX, end to end"] == ["not measured yet", ">= 2"]
    assert after["latency of Lite0 in ONNX Runtime FP32, the forward pass"][0] == "5.00 (2.50 / 0.50 ms)"
    assert after["accuracy on test, points over Lite0"] == ["+2.0 (92.0% / 90.0%, test split of round 1)", ">= 1"]
    assert after["ECE by Lite0's"] == ["0.40 (2.0% / 5.0%, which has no temperature)", "<= 0.50"]
    assert after["size by Lite0's FP32 ONNX"] == ["0.07 (1.00 / 13.40 MB)", "<= 0.10"]
    assert after["throughput on 2 cores by that on one"] == ["1.96 by processes, 1.80 by threads", ">= 1.90"]


def test_the_peers_table_shows_multiples_of_the_bundles_latency_and_failures(peers):
    table = peer_tables.peers(peers)
    assert cells(table)["YOLO11n-cls, predict, PyTorch"][7] == "4.50"
    assert "preset `quick`" in table
    assert "Not measured: openvino-app: not installed." in table


def test_the_calibration_of_peers_is_compared_at_a_temperature_where_one_was_fitted(peers):
    *_, lite0 = peers["rows"]
    lite0["calibrated"] = {"temperature": 1.5, "ece": 0.025}
    shown = cells(peer_tables.peers(peers))
    assert shown["default"][1:3] == ["2.0%", "2.0%"]
    assert shown["YOLO11n-cls, predict, PyTorch"][1:3] == ["10.0%", "not fitted"]
    assert shown[lite0["name"]][1:3] == ["5.0%", "2.5%"]
    assert cells(peer_tables.goals(peers))["ECE by Lite0's"][0] == "0.80 (2.0% / 2.5%)"


def test_results_of_fewer_logos_name_their_rounds():
    assert shipped.test_split(531) == "test split of round 1"
    assert shipped.test_split(1246) == "test split"
    with pytest.raises(ValueError, match="a result of 500 logos of the test split; labels.csv has 1246 there"):
        shipped.test_split(500)


def test_every_goal_names_an_existing_system():
    scripts = Path(__file__).resolve().parents[3] / "benchmarks" / "peers"
    text = "".join(path.read_text() for path in scripts.glob("*.py"))
    for name in ("YOLO_PT", "YOLO_ONNX", "EAGER", "FP32", "OPENCV"):
        model, _, system = getattr(peer_tables, name).rpartition(", ")
        assert f'"{system}"' in text
        assert model.removeprefix("timm tf_") in text


def test_a_missing_result_shows_the_command_that_writes_it(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "result_path", lambda name: tmp_path / f"{name}.json")
    text = "Not measured yet: `{}` writes benchmarks/results/{}.json."
    assert tables.render_table("kills") == text.format("python -m logo_edge_bench.experiments kills", "kills")
    assert tables.render_table("stages") == text.format("logo-edge compress", "default_report")
    assert set(cells(tables.render_table("goals"))) == set(peer_tables.GOALS), "shows what is measured"
    (tmp_path / "kills.json").write_text('{"train": {"kills": 3, "trials": 2}}')
    assert cells(tables.render_table("kills")) == {"train": ["3", "2"]}


def test_tables_need_no_library_that_only_measuring_needs():
    heavy = "torch", "timm", "scipy", "sklearn", "onnx", "psutil"
    code = f"import sys, logo_edge_bench.experiments.tables; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_option_is_a_parameter_of_measure():
    def measure(
        run: Path,
        bundles: Sequence[str] = (),
        *,
        work: Annotated[Path, "a folder"],
        variants: Annotated[Sequence[str], {"choices": ("a", "b c")}] = ("a", "b c"),
        report_test: bool = False,
    ) -> None: ...

    parser = build_parser(measure, "prog", "About.", Path("name.json"))
    plain = vars(parser.parse_args(["runs/a", "--work", "w"]))
    assert plain == {
        "run": Path("runs/a"),
        "bundles": (),
        "work": Path("w"),
        "variants": ("a", "b c"),
        "report_test": False,
    }
    chosen = parser.parse_args(["runs/a", "x=1", "--work", "w", "--variants", "b c", "a", "--report-test"])
    assert (chosen.bundles, chosen.variants, chosen.report_test) == (["x=1"], ["b c", "a"], True)
    with pytest.raises(SystemExit):
        parser.parse_args(["runs/a"])


@pytest.mark.parametrize("name", list_modules())
def test_every_experiment_documents_its_command(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: python -m logo_edge_bench.experiments {name} " in text
    assert name == "tables" or f"python -m logo_edge_bench.experiments {name}" in list_modules()[name]


def test_a_result_without_provenance_or_of_another_bundle_is_refused_unless_the_tables_say_why(tmp_path, monkeypatch):
    hashes = tables.shipped_hashes()
    path = tmp_path / "one.json"

    write_record(path, {}, [read_bundle(DEFAULT_BUNDLE)])
    assert tables.check_origin(path, hashes) == ""
    record = json.loads(path.read_text())
    record["provenance"]["bundles"]["default"]["record_sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    assert "is of a bundle that does not ship" in tables.check_origin(path, hashes)
    path.write_text("{}")
    assert "has no provenance" in tables.check_origin(path, hashes)
    monkeypatch.setitem(tables.EARLIER, "one", "the reason")
    assert tables.check_origin(path, hashes) == ""
    write_record(path, {})
    assert "remove 'one' from EARLIER" in tables.check_origin(path, hashes)


def test_a_table_of_an_earlier_bundle_says_so_and_why():
    earlier = [name for name in tables.EARLIER if name in vars(compression_tables)]
    assert earlier
    for name in earlier:
        assert tables.render_table(name).endswith(f"Measured earlier ({name}.json): {tables.EARLIER[name]}.")


def test_the_counts_of_labels_are_those_of_labels_csv():
    committed = json.loads(result_path("labels").read_text())
    assert committed.pop("provenance")["date"]
    assert labels.measure() == committed


def test_a_table_may_show_chosen_rows_and_says_which_it_lacks(monkeypatch):
    monkeypatch.setattr(
        training_tables, "ablation", lambda: "| a | b |\n| --- | --- |\n| x, y | 1 |\n| z | 2 |\n\nnote"
    )
    assert tables.render_table("ablation", "z; x, y").splitlines()[2:4] == ["| z | 2 |", "| x, y | 1 |"]
    assert cells(tables.render_table("kills", "train")).keys() == {"train"}
    assert "Measured earlier (kills.json)" in tables.render_table("kills", "train")
    with pytest.raises(SystemExit, match=r"no row begins with \['q'\]"):
        tables.render_table("ablation", "q")
