"""Stores the reports of fits: JSON lines and TensorBoard always, Weights & Biases and MLflow on request."""

from __future__ import annotations

import importlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from logo_edge.errors import MissingExtraError, RunError
from logo_edge.files import json_text, write_file
from logo_edge_train.keys import flatten

STEPS_APART = 10  # every tenth step and the last of an epoch are stored
PROJECT = "logo-edge"  # default project of Weights & Biases, and MLflow's experiment
PARAMS_PER_BATCH = 100  # the limit of MLflow


class Tracker:
    """A context manager; call it with the reports of `train_ensemble` and `distill` to store them.

    Each fitted network has RUN/metrics/STEM.jsonl, with every epoch once even after interruptions, and
    RUN/tensorboard/STEM, made from it. Each of `services` (wandb, mlflow) gets the same figures as one run per network,
    with `settings`. A service that fails is left out from then on, with a message to `warn`. Raises MissingExtraError
    or RunError at the start if a service is not installed, not known or not logged in to.
    """

    def __init__(
        self, folder: Path, *, settings: dict, services: tuple[str, ...] = (), warn: Callable[[str], None] = print
    ):
        self.folder, self.settings, self.services, self.warn = folder, settings, tuple(dict.fromkeys(services)), warn
        self.stems: dict[str, str] = {}
        self.networks: dict[str, NetworkRecord] = {}
        for service in self.services:
            if service not in SERVICES:
                raise RunError(f"no tracker {service!r}; expected one of {', '.join(SERVICES)}")
            check_service(service)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error) -> None:
        for network in self.networks.values():
            network.close(finished=False)
        self.networks.clear()

    def __call__(self, report: dict) -> None:
        name, kind = report["name"], report["kind"]
        if kind == "start":
            self.stems[name] = report["stem"]
            return  # the next report tells whether the fit resumes
        if kind == "stage":
            return  # work before a fit has no figures
        if name not in self.networks:
            self.networks[name] = NetworkRecord(self, name, self.stems[name], report.get("history", []))
        network, last = self.networks[name], report["epochs"]
        if kind == "resume":
            epoch = len(report["history"])
        else:
            epoch = report["epoch"] if kind == "epoch" else 0
            if kind == "epoch" or report["step"] % STEPS_APART == 0 or report["step"] == report["steps"]:
                network.add(_to_record(report))
        if epoch == last:
            network.close(finished=True)
            del self.networks[name]


class NetworkRecord:
    """One network's metrics file, event folder and service runs, cut back to `history` when opened."""

    def __init__(self, tracker: Tracker, name: str, stem: str, history: list[dict]):
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.warn = tracker.folder / "metrics" / f"{stem}.jsonl", tracker.warn
        before = read_metrics(self.path)
        is_new = not before or (not history and any(record["kind"] == "epoch" for record in before))
        start = {"kind": "start", "network": name, "key": secrets.token_hex(4)} if is_new else before[0]
        self.sent = set() if is_new else {_position(record) for record in before}
        steps = [record for record in before if record["kind"] == "step" and record["epoch"] <= len(history)]
        kept = sorted([*steps, *({"kind": "epoch", **epoch} for epoch in history)], key=_position)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path, "".join(_line(record) for record in [start, *kept]))
        self.file = self.path.open("a", encoding="utf-8")
        events = tracker.folder / "tensorboard" / stem
        shutil.rmtree(events, ignore_errors=True)
        self.events = SummaryWriter(str(events), flush_secs=10)
        self.runs: dict[str, WandbRun | MlflowRun] = {}
        for service in tracker.services:
            self._try(service, lambda service=service: SERVICES[service](tracker, stem, start["key"]))
        for record in kept:
            self._show(record)

    def add(self, record: dict) -> None:
        """Appends one record and sends it to TensorBoard and the services."""
        self.file.write(_line(record))
        self.file.flush()
        self._show(record)

    def close(self, *, finished: bool) -> None:
        self.file.close()
        self.events.close()
        for service, run in list(self.runs.items()):
            self._try(service, lambda run=run: run.close(finished=finished))

    def _show(self, record: dict) -> None:
        position, figures = record[record["kind"]], scalars(record)
        for name, value in figures.items():
            self.events.add_scalar(name, value, position)
        if _position(record) not in self.sent:
            for service, run in list(self.runs.items()):
                self._try(service, lambda run=run: run.log(record["kind"], position, figures))

    def _try(self, service: str, action: Callable) -> None:
        try:
            run = action()
        except Exception as error:  # a failing service must not stop the fit; the file has all records
            self.runs.pop(service, None)
            self.warn(f"{service}: {str(error).strip() or type(error).__name__}; it is left out; {self.path} continues")
        else:
            if run is not None:
                self.runs[service] = run


class WandbRun:
    """One network as a run of Weights & Biases, in the group of the run's folder; WANDB_* variables configure it."""

    def __init__(self, tracker: Tracker, stem: str, key: str):
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=os.environ.get("WANDB_DIR", str(tracker.folder)),
            group=tracker.folder.resolve().name,
            name=f"{tracker.folder.resolve().name} {stem}",
            id=key,
            resume="allow",
            config=tracker.settings,
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
        for kind in ("step", "epoch"):
            self.run.define_metric(f"{kind}/*", step_metric=kind)

    def log(self, kind: str, position: int, figures: dict[str, float]) -> None:
        self.run.log({kind: position, **figures})

    def close(self, *, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


class MlflowRun:
    """One network as a run of MLflow; MLFLOW_* variables configure it. Default: a file store beside the run."""

    def __init__(self, tracker: Tracker, stem: str, key: str):
        from mlflow import MlflowClient
        from mlflow.entities import Param

        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 refuses `file:` without it
        store = os.environ.get("MLFLOW_TRACKING_URI") or (tracker.folder.resolve().parent / "mlruns").as_uri()
        experiment_name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        self.client = MlflowClient(store)
        experiment = self.client.get_experiment_by_name(experiment_name)
        experiment_id = experiment.experiment_id if experiment else self.client.create_experiment(experiment_name)
        if earlier := self.client.search_runs([experiment_id], f"tags.key = '{key}'"):
            self.run_id = earlier[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
            return
        folder = tracker.folder.resolve().name
        run = self.client.create_run(experiment_id, tags={"key": key, "folder": folder}, run_name=f"{folder} {stem}")
        self.run_id = run.info.run_id
        params = [Param(name, str(value)) for name, value in flatten(tracker.settings).items()]
        for first in range(0, len(params), PARAMS_PER_BATCH):
            self.client.log_batch(self.run_id, params=params[first : first + PARAMS_PER_BATCH])

    def log(self, kind: str, position: int, figures: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = round(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, position) for name, value in figures.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def close(self, *, finished: bool) -> None:
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")


SERVICES = {"wandb": WandbRun, "mlflow": MlflowRun}


def check_service(service: str) -> None:
    """Raises MissingExtraError if the service's package is missing, RunError if nobody is logged in."""
    try:
        package = importlib.import_module(service)
    except ImportError as error:
        raise MissingExtraError("track", error.name or service) from error
    if service == "wandb":
        mode = package.setup().settings.mode
        if mode in ("online", "shared") and not package.login(prompt=False, verify=False):
            raise RunError("nobody is logged in to Weights & Biases; run `wandb login`, or set WANDB_MODE=offline")


def read_metrics(path: Path) -> list[dict]:
    """The records of a metrics file: the start, then steps and epochs in order; [] if there is no file.

    An incomplete last line (after a kill or a full disk) is left out.
    """
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def stem_of(kind: str, folder: Path) -> str:
    """The name, in the run's metrics and snapshots, of a network in RUN/compress*/NAME-SIZE.

    It has the kind (student, int8), the network, and the recipe if that is not the run's own.
    """
    return f"{kind}-{folder.name}{folder.parent.name.removeprefix('compress')}"


def scalars(record: dict) -> dict[str, float]:
    """The record's finite figures as {"epoch/accuracy": 0.9, "epoch/predicted_share/text": 0.4, ...}."""
    kind = record["kind"]
    return {
        f"{kind}/{name}": float(value)
        for name, value in flatten(record, separator="/").items()
        if name not in ("kind", "epoch", "step") and isinstance(value, (int, float)) and math.isfinite(value)
    }


def _to_record(report: dict) -> dict:
    """A report as a record; its step counts from the start of the fit."""
    record = {key: value for key, value in report.items() if key not in ("name", "losses", "epochs", "steps")}
    if report["kind"] == "step":
        record["step"] += (report["epoch"] - 1) * report["steps"]
    return record


def _position(record: dict) -> tuple[int, bool, int]:
    """Sort key of a network's records: by epoch, steps before the epoch's record."""
    return record.get("epoch", 0), record["kind"] == "epoch", record.get("step", 0)


def _line(record: dict) -> str:
    return json_text(record, indent=None)
