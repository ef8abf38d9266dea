"""Tracking: the reports of a fit, their files and services; an interrupted fit has every record once."""

from __future__ import annotations

import io
import json
import math
import queue
import re
import sys
import threading
import time

import pytest
import torch
from interrupted import Interrupted
from pictures import COLOURS, write_squares
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from logo_edge.errors import MissingExtraError, RunError
from logo_edge.files import without_nan
from logo_edge.preprocess import InputContract
from logo_edge_train import parallel, tracker
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_network
from logo_edge_train.commands import train
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.manifest import Manifest, read_manifest
from logo_edge_train.evaluate import accuracy_on
from logo_edge_train.fit import fit
from logo_edge_train.fit_config import FitConfig
from logo_edge_train.losses import supervised_objective
from logo_edge_train.models import LogoNetwork, attention_entropy, attention_layers
from logo_edge_train.optim import optimizer_scalars
from logo_edge_train.progress import FitProgress, describe_epoch, sparkline
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.tracker import Tracker, read_metrics
from logo_edge_train.train import train_ensemble

CPU = torch.device("cpu")
CONFIG = FitConfig(epochs=3, batch_size=4)  # of 24 logos: 6 steps per epoch
STEPS = 6
UNITS = 3600, 60, 1  # seconds of the parts of a time
NAME, STEM = "teacher 1/1 test_resnet@32", "member-0"
START = {"kind": "start", "name": NAME, "stem": STEM}


@pytest.fixture
def logos(tmp_path) -> Manifest:
    """Three classes by colour: 8 logos to learn from and 4 on each other split, of each."""
    return read_manifest(write_squares(tmp_path, COLOURS, {"train": 8, "val": 4, "calib": 4}))


def fit_logos(manifest: Manifest, folder, report, *, model="test_resnet", size_px=32, config=CONFIG) -> list[dict]:
    """The history of a fit whose reports have the network's name, like those of `fit_member`."""
    sets = {
        split: LogoDataset(manifest, manifest.split(split), manifest.classes, contract=InputContract(size_px))
        for split in ("train", "val")
    }
    torch.manual_seed(3)
    report(START)
    _, history = fit(
        LogoNetwork(model, 3),
        sets["train"],
        supervised_objective(0.1),
        config,
        state=folder / "member-0.state",
        seed=3,
        device=CPU,
        evaluate=accuracy_on(sets["val"], CPU),
        report=lambda item: report({"name": NAME, **item}),
        snapshots=folder / "snapshots" / STEM,
    )
    return history


def track_interrupted(manifest: Manifest, folder, stop, *, lost: bool, **options) -> None:
    """A tracked fit, interrupted at the report for which `stop` is true, before (`lost`) or after it is stored."""

    def report(item):
        if lost and stop(item):
            raise Interrupted
        keep(item)
        if stop(item):
            raise Interrupted

    with pytest.raises(Interrupted), Tracker(folder, settings={}, **options) as keep:
        fit_logos(manifest, folder, report)


def track(manifest: Manifest, folder, **options) -> list[dict]:
    with Tracker(folder, settings={"train": {"fit": {"epochs": 3}}}, **options) as keep:
        return fit_logos(manifest, folder, keep)


def in_epoch_2(item: dict) -> bool:
    return item["kind"] == "step" and (item["epoch"], item["step"]) == (2, 6)


def at_end_of_epoch_2(item: dict) -> bool:
    return item["kind"] == "epoch" and item["epoch"] == 2


def kept(folder) -> list[dict]:
    return read_metrics(folder / "metrics" / f"{STEM}.jsonl")


def recorded(folder, kind: str) -> list[int]:
    return [record[kind] for record in kept(folder) if record["kind"] == kind]


def drawn(folder, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard" / STEM), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_a_fit_reports_losses_accuracy_uncertainty_balance_and_pace(logos, tmp_path):
    last = fit_logos(logos, tmp_path, lambda _: None)[-1]
    assert {"cross_entropy", "accuracy", "accuracy_sure", "worst_recall", "nll"} <= last.keys()
    assert 0 < last["entropy"] <= math.log(3)
    assert 1 / 3 <= last["mean_confidence"] <= 1
    assert 0 <= last["calibration_error"] <= 1
    assert last["true_share"] == pytest.approx(dict.fromkeys(("blue", "green", "red"), 1 / 3))
    assert sum(last["predicted_share"].values()) == pytest.approx(1)
    assert 0 < last["learning_rate"] < CONFIG.learning_rate
    assert last["images_per_s"] > 0
    assert last["peak_memory_mb"] > 50
    assert not {"rho", "attention_entropy", "peak_gpu_memory_mb"} & last.keys(), "what is not there is not made up"


def test_the_neighbourhood_of_a_sharpness_aware_optimiser_is_reported():
    optimizer = torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "rho": 0.05}], lr=0.2)
    assert optimizer_scalars(optimizer) == {"learning_rate": 0.2, "rho": 0.05}


def test_a_network_with_attention_reports_its_entropy_after_each_epoch(logos, tmp_path):
    config = FitConfig(epochs=1, batch_size=12)
    (only,) = fit_logos(logos, tmp_path, lambda _: None, model="test_vit", size_px=160, config=config)
    assert 0 < only["attention_entropy"] <= math.log(101)


def test_attention_entropy_is_that_of_equal_weights_where_queries_and_keys_are_zero():
    torch.manual_seed(0)
    network = LogoNetwork("test_vit", 3)
    pixels = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8)
    tokens = 10 * 10 + 1  # patches of 16 px, and the class token
    with torch.no_grad():
        for layer in attention_layers(network):
            layer.qkv.weight.mul_(6)
    sharp = attention_entropy(network, pixels)
    assert 0 < sharp < math.log(tokens) - 1e-3
    with torch.no_grad():
        for layer in attention_layers(network):
            layer.qkv.weight[: 2 * layer.attn_dim].zero_()
            layer.qkv.bias[: 2 * layer.attn_dim].zero_()
    assert attention_entropy(network, pixels) == pytest.approx(math.log(tokens), abs=1e-5)


def test_measuring_attention_leaves_the_network_as_it_was():
    network = LogoNetwork("test_vit", 3)
    layers = attention_layers(network)
    before = [layer.fused_attn for layer in layers]
    attention_entropy(network, torch.zeros(1, 160, 160, 3, dtype=torch.uint8))
    assert len(layers) == 6
    assert [layer.fused_attn for layer in layers] == before
    assert not any(layer.attn_drop._forward_pre_hooks for layer in layers)
    assert attention_layers(LogoNetwork("test_resnet", 3)) == []


def test_every_epoch_and_some_steps_are_kept_as_json_lines(logos, tmp_path):
    history = track(logos, tmp_path)
    records = kept(tmp_path)
    assert records[0]["network"] == NAME
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert epochs == [{"kind": "epoch", **record} for record in history]
    assert recorded(tmp_path, "step") == [6, 12, 18], "the last step of each epoch: there are fewer than ten"
    assert {"cross_entropy", "learning_rate", "images_per_s"} <= records[1].keys()


def test_tensorboard_reads_the_same_figures(logos, tmp_path):
    history = track(logos, tmp_path)
    accuracy = [(record["epoch"], pytest.approx(record["accuracy"])) for record in history]
    assert drawn(tmp_path, "epoch/accuracy") == accuracy
    assert [step for step, _ in drawn(tmp_path, "step/cross_entropy")] == [6, 12, 18]
    shares = sum(drawn(tmp_path, f"epoch/predicted_share/{label}")[-1][1] for label in COLOURS)
    assert shares == pytest.approx(1)


@pytest.mark.parametrize("lost", [False, True], ids=["kept", "lost"])
@pytest.mark.parametrize("stop", [in_epoch_2, at_end_of_epoch_2])
def test_an_interrupted_fit_is_kept_once(logos, tmp_path, stop, lost):
    track_interrupted(logos, tmp_path, stop, lost=lost)
    key = kept(tmp_path)[0]["key"]
    history = track(logos, tmp_path)
    assert len(history) == 3
    assert recorded(tmp_path, "epoch") == [1, 2, 3]
    steps = recorded(tmp_path, "step")
    assert steps == sorted(set(steps))
    assert steps[-1] == 18
    assert kept(tmp_path)[0]["key"] == key
    assert [step for step, _ in drawn(tmp_path, "epoch/nll")] == [1, 2, 3]
    assert len(list((tmp_path / "tensorboard" / STEM).iterdir())) == 1


def test_a_line_cut_short_by_a_kill_is_mended_on_resuming(logos, tmp_path):
    track_interrupted(logos, tmp_path, at_end_of_epoch_2, lost=False)
    path = tmp_path / "metrics" / f"{STEM}.jsonl"
    path.write_text(path.read_text()[:-20])
    assert recorded(tmp_path, "epoch") == [1]
    track(logos, tmp_path)
    assert recorded(tmp_path, "epoch") == [1, 2, 3]
    assert len(path.read_text().splitlines()) == len(kept(tmp_path))


def test_a_fit_that_begins_anew_replaces_what_was_kept(logos, tmp_path):
    track(logos, tmp_path)
    key = kept(tmp_path)[0]["key"]
    (tmp_path / "member-0.state").unlink()
    (tmp_path / "snapshots" / STEM / "epoch-007.safetensors").write_bytes(b"of a longer fit")
    track(logos, tmp_path)
    assert recorded(tmp_path, "epoch") == [1, 2, 3]
    assert kept(tmp_path)[0]["key"] != key, "services must not take it for the old one"
    assert len(list((tmp_path / "snapshots" / STEM).iterdir())) == 3


def test_the_averaged_weights_are_kept_after_every_epoch(logos, tmp_path):
    track_interrupted(logos, tmp_path, in_epoch_2, lost=False)
    assert [path.name for path in (tmp_path / "snapshots" / STEM).iterdir()] == ["epoch-001.safetensors"]
    track(logos, tmp_path)
    paths = sorted((tmp_path / "snapshots" / STEM).iterdir())
    assert [path.name for path in paths] == [f"epoch-00{epoch}.safetensors" for epoch in (1, 2, 3)]
    first, last = (load_network(paths[index], Architecture("test_resnet", 32), 3).state_dict() for index in (0, 2))
    assert any(not torch.equal(value, last[key]) for key, value in first.items())


@pytest.mark.slow
def test_a_trained_run_keeps_metrics_events_and_snapshots_of_networks_fitted_side_by_side(logos, tmp_path):
    recipe = recipe_from_dict(
        {
            "train": {
                "teachers": ["test_resnet@32", "test_resnet@48"],
                "pretrained": False,
                "fit": {"epochs": 2, "batch_size": 12},
            }
        }
    )
    folder = tmp_path / "run"
    with Tracker(folder, settings={}) as keep:
        run = train_ensemble(tmp_path / "manifest.csv", recipe, folder, device=CPU, report=keep)
    for index in range(2):
        records = read_metrics(folder / "metrics" / f"member-{index}.jsonl")
        epochs = [record for record in records if record["kind"] == "epoch"]
        assert [record["epoch"] for record in epochs] == [1, 2]
        assert epochs[-1]["accuracy"] == run.record["members"][index]["history"][-1]["accuracy"]
        assert len(list((folder / "snapshots" / f"member-{index}").iterdir())) == 2
        assert list((folder / "tensorboard" / f"member-{index}").iterdir())


def test_what_keeping_a_report_raises_is_not_lost_in_the_listening_thread():
    reports, errors = queue.Queue(), []

    def report(item):
        raise OSError("disk full")

    listener = threading.Thread(target=parallel._forward, args=(reports, report, errors))
    listener.start()
    for item in ({"kind": "step"}, {"kind": "step"}, None):
        reports.put(item)
    listener.join(timeout=10)
    assert not listener.is_alive()
    assert [str(error) for error in errors] == ["disk full"]


def test_weights_and_biases_gets_every_figure_offline(logos, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    said: list[str] = []
    track(logos, tmp_path, services=("wandb",), warn=said.append)
    assert not said
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert path.stem == f"run-{kept(tmp_path)[0]['key']}"
    names = ("epoch/accuracy", "epoch/calibration_error", "epoch/predicted_share/red", "step/learning_rate")
    end = time.monotonic() + 60  # W&B's own process writes the file, on a busy machine after the run has ended
    while missing := [name for name in names if name.encode() not in path.read_bytes()]:
        assert time.monotonic() < end, missing
        time.sleep(0.1)


def test_mlflow_gets_every_epoch_once_though_the_fit_was_interrupted(logos, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    store = (tmp_path / "mlflow").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    said: list[str] = []
    track_interrupted(logos, tmp_path, at_end_of_epoch_2, lost=True, services=("mlflow",), warn=said.append)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(tracker.PROJECT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "epoch/accuracy")] == [1]
    history = track(logos, tmp_path, services=("mlflow",), warn=said.append)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    accuracy = client.get_metric_history(run.info.run_id, "epoch/accuracy")
    assert [(metric.step, metric.value) for metric in accuracy] == [(r["epoch"], r["accuracy"]) for r in history]
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "step/cross_entropy")]
    assert steps == sorted(set(steps))
    assert run.data.tags["key"] == kept(tmp_path)[0]["key"]
    assert not said


def test_mlflow_shows_the_recipe_in_a_store_beside_the_run_where_no_other_is_named(logos, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "run").mkdir()
    track(logos, tmp_path / "run", services=("mlflow",))
    client = MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name(tracker.PROJECT).experiment_id])
    assert run.data.params == {"train.fit.epochs": "3"}


@pytest.mark.parametrize("service", ["wandb", "mlflow"])
def test_a_service_that_is_not_installed_is_named_before_anything_is_trained(service, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, service, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'logo-edge\[track\]'"):
        Tracker(tmp_path / "run", settings={}, services=(service,))
    assert not (tmp_path / "run").exists()


def test_a_service_that_nobody_knows_is_refused_by_the_command(logos, tmp_path):
    result = CliRunner().invoke(
        train, ["--data", str(tmp_path / "manifest.csv"), "--out", str(tmp_path / "run"), "--track", "abacus"]
    )
    assert isinstance(result.exception, RunError)
    assert "no tracker 'abacus'; expected one of wandb, mlflow" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_service_that_fails_is_left_out_and_the_fit_is_kept(logos, tmp_path, monkeypatch):
    class Away:
        def __init__(self, *_):
            self.calls = 0

        def log(self, *_):
            raise ConnectionError("no route to host")

    monkeypatch.setitem(tracker.SERVICES, "mlflow", Away)
    said: list[str] = []
    track(logos, tmp_path, services=("mlflow",), warn=said.append)
    assert len(said) == 1
    assert "mlflow: no route to host" in said[0]
    assert recorded(tmp_path, "epoch") == [1, 2, 3]


def test_what_is_not_finite_is_null_in_json():
    record = {"kind": "epoch", "accuracy_sure": float("nan"), "shares": [{"a": float("inf")}], "nll": 0.5}
    assert json.loads(json.dumps(without_nan(record), allow_nan=False)) == {
        "kind": "epoch",
        "accuracy_sure": None,
        "shares": [{"a": None}],
        "nll": 0.5,
    }
    assert tracker.scalars({"kind": "epoch", "epoch": 1, "accuracy_sure": float("nan"), "nll": 0.5}) == {
        "epoch/nll": 0.5
    }


def test_a_log_gets_one_line_per_epoch(logos, tmp_path):
    text = io.StringIO()
    with FitProgress(Console(file=text, width=40)) as progress:
        fit_logos(logos, tmp_path, progress)
    lines = text.getvalue().splitlines()
    assert len(lines) == 1 + 3
    assert lines[1].startswith(f"  {NAME}: epoch 1/3  cross_entropy ")
    for part in ("val accuracy", "sure", "worst class", "calibration error", "images/s"):
        assert part in lines[1], part
    assert "predicted_share" not in lines[1]


def test_a_terminal_shows_bars_and_the_latest_figures_of_each_network(logos, tmp_path):
    text = io.StringIO()
    with FitProgress(Console(file=text, width=160, force_terminal=True)) as progress:
        fit_logos(logos, tmp_path, progress)
    screen = Console(file=io.StringIO(), width=160, record=True)
    screen.print(progress.render())
    shown = screen.export_text()
    for part in (f"{NAME} (3)", "epoch 3/3, step 6/6", "loss ", "images/s", "calib. error", "entropy", "accuracy by"):
        assert part in shown, part
    assert any(block in shown for block in "▁▂▃▄▅▆▇█")


def test_a_stage_before_a_fit_has_a_bar_and_one_line_in_a_log(tmp_path):
    log, terminal = io.StringIO(), Console(file=io.StringIO(), width=160, force_terminal=True)
    with FitProgress(Console(file=log)) as line, FitProgress(terminal) as bar, Tracker(tmp_path, settings={}) as record:
        for done in (0, 512, 1024):
            for show in (line, bar, record):
                show({"kind": "stage", "name": "panel, features: fades", "done": done, "total": 2048})
        screen = Console(file=io.StringIO(), width=160, record=True)
        screen.print(bar.render())
    assert log.getvalue().splitlines() == ["  panel, features: fades: 2,048"]
    assert "panel, features: fades" in (shown := screen.export_text())
    assert "1,024/2,048" in shown


def test_a_resumed_fit_goes_on_where_its_bar_was(logos, tmp_path):
    track_interrupted(logos, tmp_path, at_end_of_epoch_2, lost=False)
    text = io.StringIO()
    reports: list[dict] = []
    with FitProgress(Console(file=text)) as progress:
        fit_logos(logos, tmp_path, lambda item: (progress(item), reports.append(item)))
    assert [item["kind"] for item in reports[:2]] == ["start", "resume"]
    assert "resumes after epoch 2/3" in text.getvalue()
    assert progress.bar.tasks[0].completed == progress.bar.tasks[0].total == 3 * STEPS
    assert "epoch 3/3" in describe_epoch(reports[-1])


def test_a_bar_promises_an_end_by_the_recent_pace_and_none_before_it_knows_one():
    """400 steps, of which the second half takes four times as long each; the bar is drawn as each step ends."""
    now_s = [0.0]
    console = Console(file=io.StringIO(), width=160, force_terminal=True, get_time=lambda: now_s[0])
    progress = FitProgress(console)

    def shown_left_s() -> int | None:
        screen = Console(file=io.StringIO(), width=160, record=True)
        screen.print(progress.bar)
        (*_, left) = re.findall(r"\d+:\d\d:\d\d|-:--:--", screen.export_text())
        return None if "-" in left else sum(unit * int(part) for unit, part in zip(UNITS, left.split(":"), strict=True))

    progress(START)
    now_s[0] = 60.0
    assert shown_left_s() is None, "the images are read first"
    position = {"epoch": 1, "epochs": 1, "steps": 400}
    pace = {"kind": "step", "name": NAME, "losses": [], "phase": "", "images_per_s": 1.0}
    for step in range(1, 401):
        now_s[0] += 0.6 if step <= 200 else 2.4
        progress({**pace, **position, "step": step})
        left = shown_left_s()
        if step == 350:
            assert left == pytest.approx(50 * 2.4, rel=0.1)
    assert left > 0, "val is evaluated next"
    progress({"kind": "epoch", "name": NAME, "losses": [], "accuracy": 0.5, **position})
    assert shown_left_s() == 0


def test_a_sparkline_spans_the_range_of_its_values():
    assert sparkline([0.5, 0.75, 1.0]) == "▁▅█"
    assert sparkline([0.9, 0.9]) == "▄▄"
    assert sparkline([float("nan")]) == ""
