"""Is this the same work? Each setting and each input changes the keys of exactly the stages that depend on it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from interrupted import Interrupted
from pictures import write_squares
from PIL import Image

from logo_edge.errors import RunError
from logo_edge_compress.candidates import plan as planning
from logo_edge_compress.candidates import store
from logo_edge_compress.candidates.members import plan_members
from logo_edge_compress.candidates.plan import make_candidates
from logo_edge_compress.candidates.store import Plan, Task, candidate_key, outcome
from logo_edge_compress.compress import compress, compression_key
from logo_edge_compress.convert.source import read_source
from logo_edge_compress.distill import distill as distillation
from logo_edge_compress.distill.distill import distill, student_identity
from logo_edge_compress.search.search import search_identity
from logo_edge_compress.select import Limits
from logo_edge_report.report import make_report
from logo_edge_report.subjects import load_subject, manifest_of
from logo_edge_train.architecture import Architecture
from logo_edge_train.data import pool
from logo_edge_train.data.manifest import FILES, LogoRow, read_manifest, write_manifest
from logo_edge_train.few_shot.run import CHECKPOINT, few_shot_identity
from logo_edge_train.keys import file_hash
from logo_edge_train.recipe import Recipe
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import Run, read_run
from logo_edge_train.train import pretrain_identity, run_identity, train_ensemble

CPU = torch.device("cpu")
NETWORK = "test_resnet@32"
CAREFUL = {"int8-equalised", "int8-depthwise-fp32", "int8-mixed"}
FITTED = {"int8-minmax", "int8-percentile", "int8-nncf", *CAREFUL, "fp32-openvino", "fp16-openvino", "int8-openvino"}
GRAPHS = {"fp32", "fp16", "int8-dynamic", "int8-weights", "int8-tuned"} | FITTED
STAGES_OF = {  # setting or section -> the stages whose keys it is in; the longest name that fits counts
    "name": {"compress"},
    "description": set(),
    "pretrain": {"run", "pretrain"},
    "train": {"run"},
    "train.pretrained": {"run", "pretrain"},
    "train.outlier_share": {"run", "student"},  # what a student learns from
    "train.seed": {"run", "search"},
    "train.augment": {"run", "search"},
    "train.fit.max_images": {"run", "search"},
    "train.fit.use_votes": {"run", "search"},
    "train.fit.class_weight_power": {"run", "search"},
    "train.fit.weight_decay": {"run", "search"},
    "train.fit.gradient_clip": {"run", "search"},
    "train.fit.label_smoothing": {"run", "search"},
    "search": {"search"},
    "search.joins": set(),
    "review": set(),
    "few_shot": {"few-shot"},
    "distill": {"student", "int8-tuned", "compress"},
    "distill.pretrained": {"student", "compress"},
    "distill.start_from_teacher": {"student", "compress"},
    "distill.prune": {"student", "compress"},
    "distill.fit": {"student", "compress"},
    "distill.hard_weight": {"student", "compress"},
    "distill.panel_share": {"student", "compress"},
    "distill.teachers_per_batch": {"student", "compress"},
    "distill.views": {"student", "compress"},
    "distill.feature_weight": {"student", "compress"},
    "distill.attention_weight": {"student", "compress"},
    "distill.relation_weight": {"student", "compress"},
    "distill.students": {"compress"},
    "distill.max_size_mb": {"compress"},
    "quantize.methods": {"compress"},
    "quantize.calibration_images": {"compress"},  # the images themselves are an input of candidates
    "quantize.equalise": {"compress"},
    "quantize.depthwise_fp32": {"compress"},
    "quantize.mixed": {"compress"},
    "quantize.nncf_minutes": {"int8-nncf", "compress"},
    "quantize.most_restored": {"int8-mixed", "compress"},
    "quantize.finetune": {"int8-tuned", "compress"},
    "quantize.reduce_range": {
        "int8-minmax",
        "int8-percentile",
        "int8-nncf",
        "int8-dynamic",
        *CAREFUL,
        "int8-tuned",
        "compress",
    },
    "calibrate": {"compress"},
}
RECIPE = recipe_from_dict(
    {
        "pretrain": {"fit": {"epochs": 1}},
        "quantize": {
            "methods": ["minmax", "percentile", "nncf", "dynamic", "weights-int8"],
            "equalise": "always",
            "depthwise_fp32": "always",
            "mixed": "always",
        },
    }
)


@dataclass(frozen=True)
class Drafted(Run):
    """A run of a recipe that need not make sense."""

    draft: Recipe

    @property
    def recipe(self) -> Recipe:
        return self.draft


class Workshop:
    """A manifest, the record of a run of it, and a file for all that candidates are made of."""

    def __init__(self, folder: Path, model: bytes):
        self.folder, self.model = folder, model
        rows = []
        for name in ("a", "b"):
            Image.new("RGB", (4, 4), (len(rows), 0, 0)).save(folder / f"{name}.png")
            rows.append(LogoRow(FILES, "", f"{name}.png", name, "x", ("x",), True, "train"))
        write_manifest(folder / "manifest.csv", rows)
        for name in ("teacher", CHECKPOINT, "student.safetensors", "pool.csv"):
            (folder / name).write_bytes(b"first")
        for name in ("body", "student-fp32", *(f"int8-{method}" for method in ("minmax", "percentile"))):
            (folder / f"{name}.onnx").write_bytes(model)
        for name in ("val", "calib", "fitting"):
            np.save(folder / f"{name}.npy", np.zeros(3))
        self.sha256 = {"teacher": "1", "logits": "1"}

    def keys(self, recipe: Recipe) -> dict[str, str]:
        """Stage -> its key now."""
        path = self.folder / "manifest.csv"
        manifest = read_manifest(path)
        members = [{"file": "teacher", "sha256": self.sha256["teacher"], "logits_sha256": self.sha256["logits"]}]
        identity = run_identity(recipe, manifest)
        record = {"members": members, "manifest": str(path), "identity": asdict(identity)}
        run = Drafted(self.folder, record, recipe)
        task = Task(run, manifest, Architecture.parse(NETWORK), self.folder, self.folder, NETWORK)
        return {
            "run": identity.key,
            "pretrain": pretrain_identity(recipe, manifest, NETWORK).key,
            "search": search_identity(recipe, manifest).key,
            "few-shot": few_shot_identity(recipe.few_shot, manifest, self.folder).key,
            "student": student_identity(run, manifest, recipe.distill, task.student).key,
            "compress": compression_key(run, "it", ("cpu",), Limits(), 0, [], ""),
            **{plan.name: candidate_key(task, plan) for plan in [*self.plans(task), *plan_members(task, 1)]},
        }

    def plans(self, task: Task) -> list[Plan]:
        """Every plan of the student, where each one succeeds and percentile is the closest."""
        plans = []

        def make(plan):
            plans.append(plan)
            file = plan.name if (self.folder / f"{plan.name}.onnx").exists() else "student-fp32"
            record = {"parity": {"kl_nats": 0.1 if plan.name == "int8-percentile" else 0.2}}
            return outcome(task, plan, "made", files={f"{file}.onnx": "1"}, record=record)

        make_candidates(task, {"onnxruntime", "openvino"}, make)
        return plans

    def changed(self, before: dict[str, str], recipe: Recipe) -> set[str]:
        """The stages whose keys are others than before; stages that are new or gone have none to compare."""
        now = self.keys(recipe)
        return {stage for stage in before.keys() & now.keys() if before[stage] != now[stage]}


@pytest.fixture
def workshop(tmp_path, fake_model, monkeypatch):
    monkeypatch.setattr(planning, "unknown_operators", lambda model: [])
    monkeypatch.setattr(pool, "unlabelled_rows", lambda *_: [LogoRow("pool", "1", (tmp_path / "pool.csv").read_text())])
    return Workshop(tmp_path, fake_model())


def every_change(value, name: str = "") -> list[tuple[str, object]]:
    """(dotted name, the same dataclass with another value there) for each field, nested ones too."""
    changes = []
    for field in fields(value):
        before, dotted = getattr(value, field.name), f"{name}.{field.name}".lstrip(".")
        if is_dataclass(before):
            inner = every_change(before, dotted)
            changes += [(deep, replace(value, **{field.name: part})) for deep, part in inner]
        else:
            changes.append((dotted, replace(value, **{field.name: another(before)})))
    return changes


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return value + "x" if isinstance(value, str) else value[:-1] or ("x",)


def test_each_field_of_the_recipe_changes_the_keys_of_exactly_the_stages_that_it_belongs_to(workshop):
    before, changes, seen = workshop.keys(RECIPE), every_change(RECIPE), set()
    assert GRAPHS | {"run", "pretrain", "search", "few-shot", "student", "compress", "member-0"} == set(before)
    for name, recipe in changes:
        section = max((part for part in STAGES_OF if f"{name}.".startswith(f"{part}.")), key=len)
        seen.add(section)
        assert workshop.changed(before, recipe) == STAGES_OF[section], name
    assert len(changes) > 150
    assert seen == set(STAGES_OF), "each line of the table is of some field"


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("a.png", {"run", "pretrain", "search", "few-shot", "student", "compress"}),
        ("pool.csv", {"run", "pretrain", "few-shot", "student"}),
        (CHECKPOINT, {"few-shot"}),
        ("teacher", {"member-0"}),
        ("student.safetensors", {"fp32", "int8-tuned", "fp32-openvino", "fp16-openvino", "int8-openvino"}),
        ("body.onnx", {"int8-minmax", "int8-percentile", "int8-nncf", "int8-dynamic", "int8-weights", *CAREFUL}),
        ("student-fp32.onnx", GRAPHS - {"fp32", "int8-openvino"}),
        ("int8-minmax.onnx", set()),  # percentile's is closer, and goes on
        ("int8-percentile.onnx", {"int8-tuned", "int8-openvino"}),
        ("val.npy", GRAPHS | {"member-0"}),
        ("fitting.npy", FITTED),
    ],
)
def test_each_input_file_changes_the_keys_of_exactly_the_stages_that_read_it(workshop, file, stages):
    before, path = workshop.keys(RECIPE), workshop.folder / file
    path.write_bytes(
        path.read_bytes() + (b" " if path.suffix != ".onnx" else b"\x12\x00")
    )  # of an ONNX: no producer name
    assert workshop.changed(before, RECIPE) == stages


@pytest.mark.parametrize(("part", "stages"), [("teacher", {"student", "compress"}), ("logits", {"compress"})])
def test_each_teacher_s_hash_changes_what_learns_from_it(workshop, part, stages):
    before = workshop.keys(RECIPE)
    workshop.sha256[part] = "2"
    assert workshop.changed(before, RECIPE) == stages


def test_a_changed_line_of_the_code_makes_candidates_again_and_no_student(workshop, monkeypatch):
    before = workshop.keys(RECIPE)
    monkeypatch.setattr(store, "source_hash", lambda folder: "another")
    assert workshop.changed(before, RECIPE) == {*GRAPHS, "member-0", "compress"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Squares of two colours, and a run of one teacher on them."""
    folder = tmp_path_factory.mktemp("squares")
    write_squares(folder)
    recipe = recipe_from_dict(
        {
            "train": {"teachers": [NETWORK], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}},
            "distill": {"students": [NETWORK], "pretrained": False, "fit": {"epochs": 2, "batch_size": 8}},
        }
    )
    train_ensemble(folder / "manifest.csv", recipe, folder / "run", device=CPU, report=lambda _: None)
    return folder


def test_an_interrupted_student_goes_on_with_the_same_settings_and_begins_again_with_others(
    trained, tmp_path, monkeypatch
):
    monkeypatch.setattr(distillation, "open_teacher", lambda network, *_: network)  # to export it takes seconds
    run, manifest = read_run(trained / "run"), read_manifest(trained / "manifest.csv")

    def learn(folder: str, temperature: float, stop_after: int | None = None) -> tuple[str, list[int]]:
        """The sha256 of the student, and the epochs that were fitted for it now."""
        epochs, config = [], replace(run.recipe.distill, temperature=temperature)

        def report(item):
            if item["kind"] == "epoch":
                epochs.append(item["epoch"])
                if item["epoch"] == stop_after:
                    raise Interrupted

        student = distill(
            run, manifest, config, Architecture.parse(NETWORK), tmp_path / folder, device=CPU, report=report
        )
        return file_hash(student.checkpoint), epochs

    whole, _ = learn("whole", 4.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 2)
    with pytest.raises(Interrupted):
        learn("same", 2.0, stop_after=1)
    left = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert left == threads + 2, "also interrupted it gives back the threads that it takes"
    shutil.copytree(tmp_path / "same", tmp_path / "other")
    same, epochs = learn("same", 2.0)
    assert (same != whole, epochs) == (True, [2])
    assert learn("other", 4.0) == (whole, [1, 2]), "nothing of the epoch at another temperature"
    assert not list(tmp_path.glob("*/*.state")), "the other student's state is gone too"
    assert learn("same", 2.0) == (same, []), "finished, it is read"


@pytest.mark.parametrize(
    "read",
    [
        lambda run, out: compress(run, out, name="it", device=CPU, report=lambda _: None, say=lambda _: None),
        lambda run, out: make_report(run, out, split="val", quick=True, evaluation=None, say=lambda _: None),
        lambda run, out: manifest_of([load_subject(run)], None),
        lambda run, out: manifest_of([load_subject(run)], read_run(run).manifest_path),
        lambda run, out: manifest_of([load_subject(run / "member-0.safetensors")], None),
        lambda run, out: read_source(run),
    ],
    ids=["compress", "report", "evaluate", "evaluate --manifest", "evaluate a checkpoint", "export"],
)
def test_every_reader_of_a_run_s_manifest_refuses_another_one_and_counts_the_rows_that_differ(trained, tmp_path, read):
    shutil.copytree(trained, tmp_path / "data")
    run, path = tmp_path / "data" / "run", tmp_path / "data" / "manifest.csv"
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "manifest": str(path)}))
    student = {"chosen": NETWORK, "graphs": {"fp32": "it/student-fp32.onnx"}}
    (run / "compress").mkdir()
    (run / "compress" / "report.json").write_text(json.dumps(student))
    rows = list(read_manifest(path).rows)
    rows[0] = replace(rows[0], split="val")  # a logo that the teachers have learned
    Image.new("RGB", (40, 40)).save(tmp_path / "data" / rows[1].icon)
    write_manifest(path, [*rows[:-1], LogoRow(FILES, "", "new.png")])
    with pytest.raises(
        RunError, match=r"rows 2 changed, 1 added, 1 removed: files/red-train-0.png, files/red-train-1.png"
    ):
        read(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
