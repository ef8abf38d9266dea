"""`logo-edge classify` and `logo-edge info`: their output and exit status."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from command_line import classify, run_command
from pictures import marked
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from logo_edge import BundleError
from logo_edge.bundle.calibration import Conformal, Familiarity
from logo_edge.bundle.record import write_record
from logo_edge.cli import bundle as verbs
from logo_edge.cli.classify_typer import classify as classify_verb
from logo_edge.cli.options import PLAIN, ClassifyOptions, plain_options
from logo_edge.cli.verbs import OWN_VERBS, VERBS

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}


@pytest.fixture
def bundle(fake_bundle) -> Path:
    return fake_bundle()


@pytest.fixture
def logos(tmp_path) -> Path:
    """A folder with one image of each colour, one of them in a subfolder and with an upper-case suffix."""
    folder = tmp_path / "logos"
    (folder / "more").mkdir(parents=True)
    for name in ("red.png", "green.webp", "more/BLUE.PNG", "more/grey.png"):
        marked(COLOURS[Path(name).stem.lower()], (30, 20)).save(folder / name, lossless=True)
    return folder


def test_the_table_has_one_line_for_each_image(bundle, logos):
    result = classify(bundle, logos / "red.png", logos / "more" / "grey.png")
    header, red, grey = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (0, "")
    assert header.split() == ["image", "label", "confidence"]
    assert red.split() == [str(logos / "red.png"), "red", "99.5%"]
    assert "(unsure)" in grey
    assert "best guess: red" in grey


def test_json_is_one_array_in_the_order_of_the_arguments(bundle, logos):
    result = classify(bundle, "--json", logos / "more" / "grey.png", logos / "green.webp")
    grey, green = json.loads(result.stdout)
    assert result.exit_code == 0
    assert green == {
        "path": str(logos / "green.webp"),
        "label": "green",
        "best_guess": "green",
        "confidence": green["confidence"],
        "probabilities": {
            "red": green["probabilities"]["red"],
            "green": green["confidence"],
            "blue": green["probabilities"]["blue"],
        },
        "prediction_set": None,
        "aleatoric": green["aleatoric"],
        "epistemic": None,
        "logo_score": green["logo_score"],
        "is_logo": True,
        "high_confidence": True,
        "low_confidence": False,
        "reason": None,
    }
    assert sum(green["probabilities"].values()) == pytest.approx(1, abs=2e-6)
    assert (grey["label"], grey["reason"]) == (None, "low_confidence")


def test_a_blank_picture_is_marked_in_tables_and_json(bundle, logos):
    Image.new("RGBA", (30, 20)).save(logos / "clear.png")
    (record,) = map(json.loads, classify(bundle, "--jsonl", logos / "clear.png").stdout.splitlines())
    assert (record["label"], record["reason"], record["low_confidence"]) == (None, "blank", True)
    assert "(blank) " in classify(bundle, logos / "clear.png").stdout
    assert "(unsure) " in classify(bundle, logos / "more" / "grey.png").stdout
    table = logos.parent / "table.csv"
    assert classify(bundle, logos / "clear.png", "--out", table).exit_code == 0
    assert ",blank," in table.read_text()
    guessed = json.loads(classify(bundle, "--jsonl", "--mode", "best-guess", logos / "clear.png").stdout)
    assert (guessed["label"], guessed["reason"]) == (guessed["best_guess"], None)


def test_a_picture_of_no_logo_is_marked_in_tables_and_json(fake_bundle, logos):
    strange = fake_bundle(familiarity=Familiarity(100.0, 0.05))
    (record,) = map(json.loads, classify(strange, "--jsonl", logos / "green.webp").stdout.splitlines())
    assert (record["label"], record["reason"], record["is_logo"]) == (None, "not_a_logo", False)
    assert "(not a logo) " in classify(strange, logos / "green.webp").stdout
    table = logos.parent / "table.csv"
    assert classify(strange, logos / "green.webp", "--out", table).exit_code == 0
    assert ",not_a_logo," in table.read_text()


def test_a_data_uri_is_named_and_not_echoed_whole(bundle, logos):
    uri = "data:image/png;base64," + "iVBORw0KGgo" * 5000
    result = classify(bundle, "--json", uri, logos / "red.png")
    assert "a data URI; decode it" in result.stderr
    assert len(result.stderr) < 200
    assert [record["label"] for record in json.loads(result.stdout)] == ["red"]


def test_jsonl_is_one_object_a_line(bundle, logos):
    result = classify(bundle, "--jsonl", logos)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [record["label"] for record in records] == ["green", "red", "blue", None]


def test_folders_are_searched_recursively_without_hidden_files(bundle, logos):
    for hidden in (".hidden.png", "more/.hidden.png", ".cache/red.png", "more/.git/deep/red.png"):
        (logos / hidden).parent.mkdir(parents=True, exist_ok=True)
        (logos / hidden).write_bytes((logos / "red.png").read_bytes())
    (logos / "notes.txt").write_text("not asked for")
    records = json.loads(classify(bundle, "--json", logos).stdout)
    assert [Path(record["path"]).relative_to(logos).as_posix() for record in records] == [
        "green.webp",
        "red.png",
        "more/BLUE.PNG",
        "more/grey.png",
    ]
    assert (
        json.loads(classify(bundle, "--json", logos / ".hidden.png").stdout)[0]["label"] == "red"
    )  # asked for by name


def test_a_dash_reads_one_image_from_stdin(bundle, logos):
    result = classify(bundle, "--json", "-", logos / "green.webp", stdin=(logos / "red.png").read_bytes())
    assert [(record["path"], record["label"]) for record in json.loads(result.stdout)] == [
        ("stdin", "red"),
        (str(logos / "green.webp"), "green"),
    ]


def test_an_empty_stdin_is_an_error(bundle):
    result = classify(bundle, "-", stdin=b"")
    assert result.exit_code == 1
    assert "0 bytes" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("logo.svg", b'<svg xmlns="http://www.w3.org/2000/svg">', "a damaged SVG drawing"),
        ("page.pdf", b"%PDF-1.7", "a PDF document, which is not read"),
        ("notes.txt", b"hello", "starts with b'hello'); expected PNG"),
        ("cut.png", None, "damaged or truncated image"),
        ("empty.png", b"", "0 bytes"),
    ],
)
def test_a_file_that_is_no_image_fails_alone(bundle, logos, name, content, message):
    if name.endswith(".svg"):
        pytest.importorskip("resvg_py")
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(logos / "whole.png")
    (logos / name).write_bytes((logos / "whole.png").read_bytes()[:3000] if content is None else content)
    result = classify(bundle, logos / "red.png", logos / name, logos / "green.webp")
    assert result.exit_code == 1
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["label", "red", "green"]
    assert len(result.stderr.splitlines()) == 1
    assert name in result.stderr
    assert message in result.stderr


def test_in_json_a_failed_input_is_a_record_with_its_error(bundle, logos):
    (logos / "notes.png").write_bytes(b"hello")
    for option in ("--json", "--jsonl"):
        result = classify(bundle, option, logos / "red.png", logos / "notes.png")
        records = json.loads(result.stdout) if option == "--json" else list(map(json.loads, result.stdout.splitlines()))
        assert result.exit_code == 1
        assert [sorted(record) for record in records[1:]] == [["error", "path"]]
        assert records[0]["label"] == "red"
        assert "expected PNG" in records[1]["error"]


def test_a_missing_path_is_reported_on_stderr_and_the_others_are_classified(bundle, logos):
    result = classify(bundle, "--json", logos / "absent.png", logos / "red.png")
    assert result.exit_code == 1
    assert result.stderr == f"logo-edge: {logos / 'absent.png'}: no such file or folder\n"
    assert [record["label"] for record in json.loads(result.stdout)] == ["red"]
    assert json.loads(classify(bundle, "--json", logos / "absent.png").stdout) == []


def test_a_folder_without_images_is_an_error_that_names_what_is_expected(bundle, tmp_path):
    (tmp_path / "bare").mkdir()
    result = classify(bundle, tmp_path / "bare")
    assert result.exit_code == 1
    assert "no image found" in result.stderr
    assert "expected files such as .png" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--json", "--jsonl", "x.png"],
        ["--threads", "0", "x.png"],
        ["--frobnicate"],
        ["--mode", "sure", "x.png"],
        ["--threshold", "1.5", "x.png"],
        ["--top-k", "0", "x.png"],
        ["--cores", "a-b", "x.png"],
        ["--json", "--out", "x.csv", "x.png"],
        ["--out", "x.csv", "-"],
        ["--out", "x.csv", "--top-k", "2", "x.png"],
        ["--out", "x.csv", "--explain", "x.png"],
    ],
)
def test_wrong_usage_exits_with_two(bundle, arguments):
    result = classify(bundle, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage" in result.stderr


def test_the_options_of_a_decision_change_it(fake_bundle, logos):
    bundle = fake_bundle(strict_below=0.999, conformal=(Conformal(0.8, 0.3, None), Conformal(0.95, 0.001, None)))

    def one(*options) -> dict:
        return json.loads(classify(bundle, "--jsonl", *options, logos / "red.png").stdout)

    assert [one(*mode)["label"] for mode in ([], ["--mode", "strict"], ["--mode", "best-guess"])] == [
        "red",
        None,
        "red",
    ]
    assert one("--threshold", "0.999")["label"] is None
    assert (one("--coverage", "0.8")["prediction_set"], one()["prediction_set"]) == (["red"], ["red", "green", "blue"])
    assert list(one("--top-k", "2")["probabilities"]) == ["red", "green"]
    table = classify(bundle, "--top-k", "1", "--coverage", "0.8", logos / "red.png").stdout
    assert "red 99.5%" in table
    assert "0.8: {red}" in table
    refused = classify(bundle, "--coverage", "0.5", logos / "red.png")
    assert isinstance(refused.exception, BundleError)


def test_backends_threads_and_cores_are_taken_from_the_command_line(bundle, logos):
    pytest.importorskip("openvino")
    core = str(min(os.sched_getaffinity(0)))
    for options in (["--backend", "openvino"], ["--threads", "2", "--cores", core, "--spinning"], ["--workers", "3"]):
        records = json.loads(classify(bundle, "--json", *options, logos).stdout)
        assert [record["label"] for record in records] == ["green", "red", "blue", None], options
    assert (
        "golden vectors agree on openvino"
        in CliRunner().invoke(verbs.info, ["--bundle", str(bundle), "--self-test", "--backend", "openvino"]).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "plain"),
    [
        ("classify a.png", True),
        ("classify a.png b - --jsonl", True),
        ("classify -b x --json a.png", True),
        ("classify", False),
        ("classify --help", False),
        ("classify a.png --help", False),
        ("classify a.png --bundle", False),
        ("classify --json --jsonl a.png", False),
        ("classify --mode strict a.png", False),
        ("classify -- -a.png", False),
        ("classify --bundle --json a.png", False),
        ("info", False),
        ("", False),
        ("--version", False),
    ],
)
def test_only_a_plain_command_line_is_read_without_typer(arguments, plain):
    assert (plain_options(arguments.split()) is not None) == plain


def test_both_ways_to_read_the_command_line_have_the_same_options():
    parameters = {parameter.name: parameter for parameter in get_command(classify_verb).params}
    names = [option.name for option in fields(ClassifyOptions)]
    assert [name for name in parameters if name != "help"] == names
    assert {name: parameters[name].default for name in names[1:]} == {
        option.name: option.default for option in fields(ClassifyOptions)[1:]
    }
    listed = " ".join(run_command("classify", "--help").stdout.decode().split())
    for name, option in PLAIN.items():
        flags = option.flags.split()
        assert (sorted(parameters[name].opts), parameters[name].help) == (sorted(flags), option.help)
        assert ", ".join(sorted(flags, key=len)) in listed
        assert option.help in listed
        for flag in flags:
            more = [] if option.default is False else ["x"]
            assert plain_options(["classify", "a.png", flag, *more]) == ClassifyOptions(
                ["a.png"], **{name: "x" if more else True}
            )
    assert len(PLAIN) == 3


@pytest.mark.parametrize("case", ["table", "json", "jsonl", "absent image", "bare folder", "absent bundle", "no image"])
def test_a_plain_command_prints_what_typer_would(bundle, logos, tmp_path, case):
    (tmp_path / "bare").mkdir()
    (logos / "bad.png").write_bytes(b"no image")
    arguments = {
        "table": [logos],
        "json": ["--json", logos],
        "jsonl": ["--jsonl", logos, logos / "absent.png"],
        "absent image": [logos / "absent.png"],
        "bare folder": [tmp_path / "bare"],
        "absent bundle": ["-b", tmp_path / "absent", logos],
        "no image": [logos / "bad.png"],
    }[case]
    arguments = arguments if "-b" in arguments else ["--bundle", bundle, *arguments]
    plain, typers = run_command("classify", *arguments), run_command("classify", *arguments, "--threads", "1")
    assert plain_options(["classify", *map(str, arguments)])
    assert plain.stdout + plain.stderr
    assert (plain.returncode, plain.stdout, plain.stderr) == (typers.returncode, typers.stdout, typers.stderr)


def test_a_plain_command_loads_neither_typer_nor_what_a_plain_png_does_not_need(bundle, logos):
    slow = ["typer", "tempfile", "shutil", "logging", "fractions", "PIL.PngImagePlugin"]
    code = (
        "import sys; from logo_edge.cli.options import plain_options; from logo_edge.cli.classify import run; "
        f"run(plain_options(sys.argv[1:])); print([name for name in {slow} if name in sys.modules], file=sys.stderr)"
    )
    done = run_command("classify", "--bundle", bundle, "--jsonl", logos / "red.png", code=code)
    assert (done.stdout.count(b"\n"), done.stderr) == (1, b"[]\n")


def test_verbs_that_are_found_without_a_search_are_the_entry_points():
    points = {point.name: point.value for point in entry_points(group=VERBS)}
    assert {name: f"{module}:{name}" for name, module in OWN_VERBS.items()}.items() <= points.items()


def test_an_address_is_not_fetched(bundle, logos):
    result = classify(bundle, "http://127.0.0.1:9/logo.png", logos / "red.png")
    assert result.exit_code == 1
    assert "an address; nothing is fetched. Download it first" in result.stderr


def test_info_shows_the_bundle(bundle):
    result = CliRunner().invoke(verbs.info, ["--bundle", str(bundle)])
    rows = dict(line.strip().split("  ", 1) for line in result.stdout.splitlines())
    assert result.exit_code == 0
    assert rows["classes"] == "red, green, blue"
    assert rows["model"] == "mean-colour, fp32"
    assert rows["input"].startswith("letterboxed to 16 x 16 px")
    assert rows["no logo"] == "rejects none"
    assert "self-test" not in rows


def test_info_says_which_pictures_are_rejected_as_no_logo(fake_bundle):
    result = CliRunner().invoke(verbs.info, ["--bundle", str(fake_bundle(familiarity=Familiarity(1.25, 0.05)))])
    assert "no logo  below a logo score of 1.250" in result.stdout


def test_info_counts_the_golden_vectors_of_its_self_test(bundle):
    result = CliRunner().invoke(verbs.info, ["--bundle", str(bundle), "--self-test"])
    assert result.exit_code == 0
    assert "3 golden vectors agree" in result.stdout


def test_info_gives_the_record_as_json(bundle):
    result = CliRunner().invoke(verbs.info, ["--bundle", str(bundle), "--json", "--self-test"])
    assert json.loads(result.stdout) == json.loads((bundle / "bundle.json").read_text())


def test_info_shows_the_measured_accuracy(bundle):
    share = {"value": 0.9, "low": 0.85, "high": 0.94}
    record = json.loads((bundle / "bundle.json").read_text())
    record["metrics"] = {
        "test": {
            "count": 200,
            "accuracy": share,
            "accuracy_sure": share,
            "recall": {"red": share},
            "calibration_error_debiased": share,
        }
    }
    write_record(bundle, json.dumps(record).encode())
    output = CliRunner().invoke(verbs.info, ["--bundle", str(bundle)]).stdout
    assert "90.0% (85.0% to 94.0%) on all 200" in output
    assert "red 90.0% (85.0% to 94.0%)" in output


@pytest.mark.parametrize(
    "test", [[1], "good", {"accuracy": 0.9}, {"count": 5}, {"accuracy": {"value": None}, "count": 1}]
)
def test_info_shows_a_bundle_whose_metrics_have_another_format(bundle, test):
    record = json.loads((bundle / "bundle.json").read_text())
    record["metrics"], record["provenance"] = {"test": test}, {"student": None}
    write_record(bundle, json.dumps(record).encode())
    result = CliRunner().invoke(verbs.info, ["--bundle", str(bundle)])
    assert result.exit_code == 0, result.exception
    assert "not shown: metrics.test" in result.stdout
    assert "red, green, blue" in result.stdout


def test_info_says_what_the_bundle_does_not_promise(bundle):
    record = json.loads((bundle / "bundle.json").read_text())
    record["provenance"]["unpromised"] = {"balanced": "not promised: 6 pictures; 59 answers show it"}
    write_record(bundle, json.dumps(record).encode())
    output = CliRunner().invoke(verbs.info, ["--bundle", str(bundle)]).stdout
    assert "balanced  not promised: 6 pictures; 59 answers show it" in output


def test_the_command_lists_its_verbs_and_refuses_unknown_ones():
    listed, unknown = run_command("--help"), run_command("frobnicate")
    assert listed.returncode == 0
    verbs = [line.split()[0] for line in listed.stdout.decode().partition("Commands:")[2].splitlines() if line.strip()]
    assert {"bench", "classify", "compress", "data", "info", "train"} <= set(verbs)
    assert unknown.returncode == 2
    assert b"frobnicate" in unknown.stderr


def test_a_missing_bundle_is_one_line_on_stderr_and_exits_with_two(logos, tmp_path):
    for verb in (["classify", logos / "red.png"], ["info"]):
        result = run_command(*verb, "--bundle", tmp_path / "absent")
        assert (result.returncode, result.stdout) == (2, b"")
        assert result.stderr.startswith(b"logo-edge: ")
        assert b"expected a bundle's folder" in result.stderr
        assert result.stderr.count(b"\n") == 1


def test_the_command_classifies_without_loading_what_only_training_needs(bundle, logos):
    heavy = ["torch", "torchvision", "timm", "cv2", "onnx", "pandas", "matplotlib", "scipy", "logo_edge_train"]
    code = f"""import os, sys
from logo_edge.cli.main import main
sys.argv[0] = "logo-edge"
os._exit = sys.exit  # so that there is an end to print at
try:
    main()
finally:
    print("loaded:", sorted(set({heavy}) & set(sys.modules)), "onnxruntime" in sys.modules, file=sys.stderr)
"""
    result = run_command(
        "classify",
        "--jsonl",
        "--bundle",
        bundle,
        logos / "red.png",
        "-",
        code=code,
        input=(logos / "green.webp").read_bytes(),
    )
    assert result.returncode == 0
    assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == ["red", "green"]
    assert result.stderr.decode() == "loaded: [] True\n"


def test_warnings_of_pillow_are_not_printed(bundle, logos):
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    marked(COLOURS["red"], (30, 20)).save(logos / "broken-exif.png", exif=broken)
    result = run_command("classify", "--bundle", bundle, logos / "broken-exif.png")
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"red" in result.stdout
