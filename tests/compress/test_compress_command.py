"""What `logo-edge compress` refuses before hours of work, and what its help teaches."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from logo_edge.errors import SelectionError
from logo_edge_compress.commands import compress
from logo_edge_compress.compress import TARGETS, check_targets
from logo_edge_compress.engine import why_no_engine
from logo_edge_compress.select import Limits
from logo_edge_train.runs import write_run_record


@pytest.fixture
def run(tmp_path):
    """The record of a run of two teachers, whose files nothing here gets as far as to read."""
    write_run_record(tmp_path, {"status": "finished", "members": [{}, {}]})
    return str(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--target", "toaster"],
            "--target toaster: expected one of cpu, openvino, jetson, web, torchscript, server, all",
        ),
        (["--members", "2"], "--members is of the server's bundle; add --target server"),
        (["--target", "server", "--members", "1"], "--members 1: expected from 2 to the 2 teachers"),
        (["--target", "server", "--members", "3"], "--members 3: expected from 2 to the 2 teachers"),
        (["--set", "distill.seed=1"], "--set changes fields of --recipe; name the recipe too"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(run, arguments, told):
    result = CliRunner().invoke(compress, [run, *arguments])
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", " ").split())


def test_a_latency_that_cannot_be_measured_here_is_no_limit_to_hold():
    with pytest.raises(SelectionError, match=r"--max-latency-ms 2 cannot be held here \(web: a browser runs it\)"):
        check_targets(("web",), Limits(latency_ms=2))
    check_targets(("web",), Limits(size_mb=1))
    check_targets(("cpu", "web"), Limits(latency_ms=2))  # it holds of one of them
    assert why_no_engine(), "this machine has no TensorRT"
    with pytest.raises(SelectionError, match=r"jetson: .*tensorrt"):
        check_targets(("jetson",), Limits(latency_ms=2))


def test_the_help_names_every_target():
    text = CliRunner().invoke(compress, ["--help"]).output
    assert all(f" {target} " in text for target in (*TARGETS, "all"))
