"""Fitting: an interrupted run resumes to the same result; a bad loss, bad data and bad models raise clear errors."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from interrupted import Interrupted
from torch import nn
from typer.testing import CliRunner

from logo_edge.errors import DatasetError, RecipeError, RunError
from logo_edge.preprocess import InputContract
from logo_edge_train import fit as fit_module
from logo_edge_train import resources
from logo_edge_train import train as train_module
from logo_edge_train.architecture import Architecture
from logo_edge_train.checkpoints import load_network, save_member
from logo_edge_train.commands import train
from logo_edge_train.data.dataset import LogoDataset, check_classes, class_weights, soft_label
from logo_edge_train.data.manifest import FILES, LogoRow, Manifest, write_manifest
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.estimate import extrapolate, finish_time
from logo_edge_train.evaluate import ensemble_logits, predict_logits
from logo_edge_train.fit import fit
from logo_edge_train.fit_config import FitConfig, SamConfig
from logo_edge_train.losses import supervised_objective
from logo_edge_train.models import LogoNetwork, has_imagenet_weights, imagenet, load_imagenet_weights, normalise
from logo_edge_train.recipe import AugmentConfig
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.runs import read_run
from logo_edge_train.train import networks_to_pretrain, train_ensemble

CPU = torch.device("cpu")
CONFIG = FitConfig(epochs=3, batch_size=4, warmup_epochs=1.0)
MODEL = "mobilenetv3_small_050"
TEACHER = f"{MODEL}@32"


def fit_logos(manifest: Manifest, state, *, config=CONFIG, stop_at: tuple | None = None, tell=lambda item: None):
    """The averaged network and the history of a fit, interrupted at the report (kind, epoch, step); `tell` gets all."""
    dataset = LogoDataset(
        manifest, manifest.split("train"), manifest.classes, contract=InputContract(32), augment=AugmentConfig(), seed=3
    )
    torch.manual_seed(3)

    def report(item):
        tell(item)
        if (item["kind"], item.get("epoch"), item.get("step")) == stop_at:
            raise Interrupted

    return fit(
        LogoNetwork(MODEL, 3, dropout=0.2),
        dataset,
        supervised_objective(0.1),
        config,
        state=state,
        seed=3,
        device=CPU,
        evaluate=lambda network: {"accuracy": 0.0},
        report=report,
    )


SWITCHES = {
    "plain": {},
    "accumulate": {"accumulate": 2},
    "grad_checkpointing": {"grad_checkpointing": True},
    "amp": {"amp": "bf16"},
    "compile": {"compile": True},
    "sam": {"sam": SamConfig("sam"), "accumulate": 2},
}


@pytest.mark.parametrize(
    ("switch", "stop_at"), [("plain", ("epoch", 2, None)), *((switch, ("step", 2, 4)) for switch in SWITCHES)]
)
def test_an_interrupted_fit_resumes_to_the_same_weights(logos, tmp_path, monkeypatch, switch, stop_at):
    interpret(monkeypatch)
    config = replace(CONFIG, **SWITCHES[switch])
    whole, whole_history = fit_logos(logos, tmp_path / "whole.state", config=config)
    with pytest.raises(Interrupted):
        fit_logos(logos, tmp_path / "parts.state", config=config, stop_at=stop_at)
    resumed, history = fit_logos(logos, tmp_path / "parts.state", config=config)
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert [record["cross_entropy"] for record in history] == [record["cross_entropy"] for record in whole_history]
    tensors = resumed.state_dict()
    assert len(tensors) > 100
    assert tensors.keys() == LogoNetwork(MODEL, 3).state_dict().keys(), "no switch changes a name"
    for key, value in whole.state_dict().items():
        assert torch.equal(value, tensors[key]), key


class Plain(nn.Module):
    """(B, S, S, 3) uint8 -> (B, 3) logits; without BatchNorm, whose statistics would depend on the parts of a batch."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.GELU(), nn.Flatten(), nn.Linear(392, 3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(normalise(pixels))


@pytest.mark.parametrize(("least_steps", "epochs"), [(0, 3), (18, 3), (19, 4), (36, 6)])
def test_few_logos_are_shown_more_often_until_the_fit_has_its_least_steps(logos, tmp_path, least_steps, epochs):
    config = replace(CONFIG, least_steps=least_steps)
    _, history = fit_logos(logos, tmp_path / "state", config=config)
    assert len(logos.split("train")) // CONFIG.batch_size == 6
    assert len(history) == epochs
    assert len(fit_logos(logos, tmp_path / "state", config=config)[1]) == epochs, "resumed, not lengthened again"


def interpret(monkeypatch, backend: str = "eager") -> list[nn.Module]:
    """The list of modules compiled from now on, by a fast backend that runs the traced graphs."""
    compiled, compile_ = [], torch.compile

    def replacement(network):
        compiled.append(network)
        return compile_(network, backend=backend)

    monkeypatch.setattr(torch, "compile", replacement)
    return compiled


def fit_one_step(manifest: Manifest, folder, network: nn.Module, objective=None, *, size_px=32, **settings):
    """The (gradients, record) of one step on all 24 logos."""
    dataset = LogoDataset(
        manifest, manifest.split("train"), manifest.classes, contract=InputContract(size_px), class_weight_power=0.5
    )
    config = FitConfig(epochs=1, batch_size=24, gradient_clip=1e9, **settings)
    _, history = fit(
        network,
        dataset,
        objective or supervised_objective(0.1),
        config,
        state=folder / f"{len(list(folder.iterdir()))}.state",
        seed=0,
        device=CPU,
        evaluate=lambda _: {},
        report=lambda _: None,
    )
    return {name: parameter.grad for name, parameter in network.named_parameters()}, history[0]


def seeded(make) -> nn.Module:
    torch.manual_seed(4)
    return make()


@pytest.mark.parametrize("accumulate", [2, 5, 24])
def test_accumulated_parts_have_the_gradient_and_loss_of_the_whole_batch(logos, tmp_path, accumulate):
    seen = []

    def objective(network, pixels, *rest):
        seen.append(len(pixels))
        return supervised_objective(0.1)(network, pixels, *rest)

    whole, whole_record = fit_one_step(logos, tmp_path, seeded(Plain))
    parts, record = fit_one_step(logos, tmp_path, seeded(Plain), objective, accumulate=accumulate)
    assert len(seen) == accumulate
    assert sum(seen) == 24
    assert record["cross_entropy"] == pytest.approx(whole_record["cross_entropy"], rel=1e-5)
    assert len(whole) == 4
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max())), name


def test_a_batch_that_cannot_be_cut_into_so_many_parts_is_refused(logos, tmp_path):
    with pytest.raises(RunError, match="24 images per step cannot be split over processes x accumulate = 1 x 25"):
        fit_one_step(logos, tmp_path, Plain(), accumulate=25)


def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(logos, tmp_path):
    kept_bytes = []

    def objective(network, *batch):
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses = supervised_objective(0.1)(network, *batch)
        kept_bytes.append(total)
        return losses

    def build():
        return LogoNetwork("test_vit", 3)

    plain, _ = fit_one_step(logos, tmp_path, seeded(build), objective, size_px=160)
    again, _ = fit_one_step(logos, tmp_path, seeded(build), objective, size_px=160, grad_checkpointing=True)
    assert kept_bytes[1] < 0.5 * kept_bytes[0]
    assert len(plain) > 20
    for name, gradient in plain.items():
        assert torch.allclose(again[name], gradient, rtol=1e-4, atol=1e-6), name


def test_a_network_that_cannot_compute_activations_anew_is_refused_by_name(logos, tmp_path):
    network = LogoNetwork(MODEL, 3)
    network.backbone = nn.Identity()
    with pytest.raises(RecipeError, match=f"{MODEL} cannot recompute activations; set grad_checkpointing = false"):
        fit_one_step(logos, tmp_path, network, grad_checkpointing=True)


@pytest.mark.parametrize(("amp", "dtype"), [("auto", torch.float32), ("off", torch.float32), ("bf16", torch.bfloat16)])
def test_mixed_precision_computes_in_bfloat16_where_it_is_asked_for_and_keeps_float32_weights(
    logos, tmp_path, amp, dtype
):
    seen = []

    def objective(network, pixels, *rest):
        seen.append(network(pixels).dtype)
        return supervised_objective(0.1)(network, pixels, *rest)

    gradients, _ = fit_one_step(logos, tmp_path, seeded(Plain), objective, amp=amp)
    assert seen == [dtype]
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}


def test_a_compiled_network_learns_the_same_under_the_same_names(logos, tmp_path, monkeypatch):
    compiled = interpret(monkeypatch)
    plain, _ = fit_one_step(logos, tmp_path, seeded(Plain))
    assert compiled == []
    network = seeded(Plain)
    gradients, _ = fit_one_step(logos, tmp_path, network, compile=True)
    assert compiled == [network]
    assert gradients.keys() == plain.keys()
    for name, gradient in plain.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-4, atol=1e-6), name


def test_all_switches_work_together(logos, tmp_path, monkeypatch):
    interpret(monkeypatch, "aot_eager")  # it knows, as the real one does, what a graph changes in place
    config = replace(
        CONFIG, epochs=1, accumulate=2, grad_checkpointing=True, amp="bf16", compile=True, sam=SamConfig("asam")
    )
    average, history = fit_logos(logos, tmp_path / "all.state", config=config)
    assert np.isfinite(history[0]["cross_entropy"])
    assert average.state_dict().keys() == LogoNetwork(MODEL, 3).state_dict().keys()


@pytest.mark.slow
def test_the_real_compiler_gives_the_same_gradients(logos, tmp_path):
    plain, _ = fit_one_step(logos, tmp_path, seeded(Plain))
    gradients, _ = fit_one_step(logos, tmp_path, seeded(Plain), compile=True, accumulate=2)
    for name, gradient in plain.items():
        assert torch.allclose(gradients[name], gradient, rtol=1e-3, atol=1e-5), name


def test_an_epoch_says_which_share_of_it_waited_for_data(logos, tmp_path, monkeypatch):
    clock_s = [0.0]
    monkeypatch.setattr(fit_module, "time", SimpleNamespace(perf_counter=lambda: clock_s[0]))

    class Slow(LogoDataset):
        def __getitem__(self, position):
            clock_s[0] += 0.1
            return super().__getitem__(position)

    def objective(network, *batch):
        clock_s[0] += 0.8
        return supervised_objective(0.1)(network, *batch)

    dataset = Slow(logos, logos.split("train"), logos.classes, contract=InputContract(32))
    _, history = fit(
        Plain(),
        dataset,
        objective,
        replace(CONFIG, batch_size=12),
        state=tmp_path / "s.state",
        seed=0,
        device=CPU,
        evaluate=lambda _: {},
        report=lambda _: None,
    )
    assert [record["data_wait"] for record in history] == pytest.approx([0.6] * 3)  # 1.2 s of 2 s
    assert [record["images_per_s"] for record in history] == pytest.approx([6.0] * 3)


def test_how_busy_the_gpu_is_is_told_where_it_can_be_and_stops_nothing_where_not(monkeypatch):
    assert resources.gpu_utilisation(CPU) == []
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 87)
    assert resources.gpu_utilisation(torch.device("cuda")) == [0.87]

    def fail(device):
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", fail)
    assert resources.gpu_utilisation(torch.device("cuda")) == []


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_fit_keeps_freed_memory_and_gives_it_back_at_its_end(logos, tmp_path):
    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6

    def growth_mb() -> tuple[float, float]:
        """By which memory has grown while images of 12 megapixels are held, and once they are freed."""
        pictures = [np.ones(36_000_000, np.uint8) for _ in range(4)]
        held_mb = resident_mb() - before_mb
        del pictures
        return held_mb, resident_mb() - before_mb

    def tell(item: dict) -> None:
        if item["kind"] == "epoch":
            during.append(growth_mb())

    config, during = replace(CONFIG, epochs=1), []
    fit_logos(logos, tmp_path / "a.state", config=config)  # what PyTorch itself keeps
    before_mb = resident_mb()
    fit_logos(logos, tmp_path / "b.state", config=config, tell=tell)
    assert [freed_mb > 140 for _, freed_mb in during] == [True], "in a fit it is kept for the next step"
    assert resident_mb() < before_mb + 20
    held_mb, freed_mb = growth_mb()
    assert held_mb > 140
    assert freed_mb < 20, "after a fit a large array is returned as it is freed"
    with resources.keeping_memory():
        assert growth_mb()[1] > 140
    assert resident_mb() < before_mb + 20, "at the end of the block, not when more is freed"


def test_a_state_of_another_configuration_is_not_resumed(logos, tmp_path):
    with pytest.raises(Interrupted):
        fit_logos(logos, tmp_path / "a.state", stop_at=("epoch", 1, None))
    dataset = LogoDataset(logos, logos.split("train"), logos.classes, contract=InputContract(32))
    with pytest.raises(RunError, match="a fit of other settings, data or versions"):
        fit(
            LogoNetwork(MODEL, 3),
            dataset,
            supervised_objective(0.1),
            replace(CONFIG, learning_rate=0.1),
            state=tmp_path / "a.state",
            seed=3,
            device=CPU,
            evaluate=lambda _: {},
            report=lambda _: None,
        )


def test_a_loss_that_is_not_finite_stops_with_its_epoch_and_step(logos, tmp_path):
    dataset = LogoDataset(logos, logos.split("train"), logos.classes, contract=InputContract(32))

    def broken(network, pixels, *_):
        return {"cross_entropy": network(pixels).sum() * float("nan")}

    with pytest.raises(RunError, match="not finite at epoch 1, step 1"):
        fit(
            LogoNetwork(MODEL, 3),
            dataset,
            broken,
            CONFIG,
            state=tmp_path / "b.state",
            seed=0,
            device=CPU,
            evaluate=lambda _: {},
            report=lambda _: None,
        )


def test_a_gradient_that_is_not_finite_stops_before_it_is_kept(logos, tmp_path):
    dataset = LogoDataset(logos, logos.split("train"), logos.classes, contract=InputContract(32))
    calls = []

    def broken(network, pixels, *_):
        calls.append(len(pixels))
        logits = network(pixels)
        return {"cross_entropy": (logits.square().mean() if len(calls) < 8 else (0 * logits).abs().sqrt().mean())}

    with pytest.raises(RunError, match="gradient is not finite at epoch 2, step 2"):  # 6 steps per epoch
        fit(
            LogoNetwork(MODEL, 3),
            dataset,
            broken,
            CONFIG,
            state=tmp_path / "g.state",
            seed=0,
            device=CPU,
            evaluate=lambda _: {},
            report=lambda _: None,
        )
    assert (tmp_path / "g.state").exists(), "what was whole is there to go on from"


def test_frozen_stages_keep_weights_and_statistics_and_the_others_learn(logos, tmp_path):
    dataset = LogoDataset(logos, logos.split("train"), logos.classes, contract=InputContract(32))
    torch.manual_seed(0)
    network = LogoNetwork(MODEL, 3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    after, _ = fit(
        network,
        dataset,
        supervised_objective(0.1),
        replace(CONFIG, epochs=1, frozen_blocks=2),
        state=tmp_path / "c.state",
        seed=0,
        device=CPU,
        evaluate=lambda _: {},
        report=lambda _: None,
    )
    frozen = ("backbone.conv_stem", "backbone.bn1", "backbone.blocks.0", "backbone.blocks.1")
    changed = {key for key, value in after.state_dict().items() if not torch.equal(value, before[key])}
    assert not [key for key in changed if key.startswith(frozen)]
    assert [key for key in changed if key.startswith("backbone.blocks.2")]


def test_an_ensemble_is_trained_once_and_read_back(logos, tmp_path):
    recipe = recipe_from_dict(
        {"train": {"teachers": [TEACHER, "test_resnet@32"], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}}}
    )
    reports: list[dict] = []
    manifest_path = tmp_path / "manifest.csv"
    train_ensemble(manifest_path, recipe, tmp_path / "run", device=CPU, report=reports.append)
    assert {item["kind"] for item in reports} == {"start", "stage", "step", "epoch"}
    run = train_ensemble(
        manifest_path, recipe, tmp_path / "run", device=CPU, report=lambda item: pytest.fail("trained twice")
    )
    assert run.member_logits("test").shape == (2, 12, 3)
    assert [member["seed"] for member in run.record["members"]] == [0, 1], "no two see the same order and views"
    assert read_run(tmp_path / "run").record["metrics"]["val"].keys() >= {"accuracy", "worst_recall"}
    val = LogoDataset(logos, logos.split("val"), logos.classes, contract=InputContract(32))
    again = predict_logits(run.load_member(0), val, CPU)
    assert np.abs(again - run.member_logits("val")[0]).max() < 0.05, "float16 checkpoints give nearly the same logits"
    assert np.allclose(np.exp(ensemble_logits(run.member_logits("val"))).sum(1), 1, atol=1e-5)


def test_a_run_of_another_recipe_is_not_overwritten(logos, tmp_path):
    recipe = {"train": {"teachers": [TEACHER], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}}}
    train_ensemble(
        tmp_path / "manifest.csv", recipe_from_dict(recipe), tmp_path / "run", device=CPU, report=lambda _: None
    )
    recipe["train"]["seed"] = 5
    with pytest.raises(RunError, match=r"a run of other settings or data \(train.seed 0 -> 5\)"):
        train_ensemble(
            tmp_path / "manifest.csv", recipe_from_dict(recipe), tmp_path / "run", device=CPU, report=lambda _: None
        )


def test_a_run_from_before_a_setting_was_known_is_read_and_not_trained_anew(logos, tmp_path):
    recipe = recipe_from_dict(
        {"train": {"teachers": [TEACHER], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}}}
    )
    path = tmp_path / "manifest.csv"
    train_ensemble(path, recipe, tmp_path / "run", device=CPU, report=lambda _: None)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    fit = record["recipe"]["train"]["fit"]
    del fit["accumulate"], fit["amp"], fit["sam"], fit["phases"]
    newer = tuple(f"train.fit.{name}" for name in ("accumulate", "amp", "sam", "phases"))
    kept = {name: value for name, value in record["identity"]["settings"].items() if not name.startswith(newer)}
    assert len(kept) < len(record["identity"]["settings"]) - 4
    record["identity"]["settings"] = kept
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    train_ensemble(path, recipe, tmp_path / "run", device=CPU, report=lambda _: pytest.fail("trained twice"))


def test_a_changed_checkpoint_is_refused(logos, tmp_path):
    recipe = {"train": {"teachers": [TEACHER], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}}}
    run = train_ensemble(
        tmp_path / "manifest.csv", recipe_from_dict(recipe), tmp_path / "run", device=CPU, report=lambda _: None
    )
    path = run.folder / run.record["members"][0]["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(RunError, match="not the file that run.json lists"):
        run.load_member(0)


def test_an_unfinished_or_missing_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="expected the folder of a run"):
        read_run(tmp_path)


def test_a_checkpoint_gives_its_network_back(tmp_path):
    torch.manual_seed(1)
    network = LogoNetwork(MODEL, 5).eval()
    save_member(tmp_path / "m.safetensors", network)
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(
            network(pixels), load_network(tmp_path / "m.safetensors", Architecture(MODEL, 32), 5)(pixels), atol=1e-2
        )


def test_imagenet_weights_land_in_the_layers_of_their_own_names():
    network = LogoNetwork("tf_efficientnet_lite0", 4, pretrained=True)
    stem = network.backbone.conv_stem.weight
    assert 0.05 < float(stem.detach().std()) < 1.5
    assert float(network.backbone.bn1.running_var.max()) > 10, "statistics of ImageNet, not of a fresh network"
    assert float(network.backbone.get_classifier().weight.abs().sum()) == 0
    assert not torch.equal(stem, LogoNetwork("tf_efficientnet_lite0", 4).backbone.conv_stem.weight)


def test_a_network_without_reachable_weights_is_refused_by_name():
    with pytest.raises(RecipeError, match="'resnet18' has no ImageNet weights; set pretrained = false, or take tf_eff"):
        load_imagenet_weights(torch.nn.Identity(), "resnet18")
    with pytest.raises(RecipeError, match="timm has no model 'efficientnett'"):
        LogoNetwork("efficientnett", 4)


@pytest.mark.parametrize("name", imagenet.PACKAGES)
def test_a_network_of_the_table_has_a_package_and_what_is_made_of_it_has_its_weights(name):
    assert timm.is_model(name)
    assert importlib.util.find_spec(imagenet.PACKAGES[name])
    assert all(has_imagenet_weights(text) for text in (name, f"{name}@96", f"{name}:5@96", f"{name}+measures@192"))


def test_a_network_whose_name_only_begins_alike_has_none():
    for name in ("tf_efficientnet_lite3", "tf_efficientnet_lite4@224", "tf_efficientnet_lite0x", "efficientnet_lite0"):
        assert not has_imagenet_weights(name)
    assert networks_to_pretrain(
        recipe_from_dict(
            {
                "train": {"teachers": ["tf_efficientnet_lite3@64", "tf_efficientnet_lite0@64"]},
                "pretrain": {"fit": {"epochs": 1}},
            }
        )
    ) == ["tf_efficientnet_lite3@64"]


def test_normalisation_is_the_one_of_the_imagenet_weights():
    planes = normalise(torch.tensor([[[[0, 127, 255]]]], dtype=torch.uint8))
    assert planes.flatten().tolist() == [-127 / 128, 0.0, 1.0]


def test_votes_become_shares_and_classes_are_weighted_by_rarity():
    row = LogoRow(FILES, "", "a", "a", "text", ("simple", "text", "text"))
    assert soft_label(row, ("simple", "text"), use_votes=True).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert soft_label(row, ("simple", "text"), use_votes=False).tolist() == [0, 1]
    rows = [replace(row, label="simple")] * 4 + [row]
    weights = class_weights(rows, ("simple", "text"), 0.5)
    assert weights[1] / weights[0] == pytest.approx(2)
    assert (4 * weights[0] + weights[1]) / 5 == pytest.approx(1)


def test_an_empty_split_and_a_missing_class_are_named():
    row = LogoRow(FILES, "", "a", "a", "text")
    with pytest.raises(DatasetError, match="split 'val' is empty"):
        check_classes([], ("simple", "text"), "val")
    with pytest.raises(DatasetError, match="split 'val' has no image of class simple"):
        check_classes([row], ("simple", "text"), "val")


@pytest.mark.parametrize("split", ["train", "val", "calib"])
@pytest.mark.parametrize("lost", ["red", "all"])
def test_training_stops_at_a_split_that_is_empty_or_lacks_a_class_and_writes_nothing(logos, tmp_path, split, lost):
    rows = [row for row in logos.rows if row.split != split or (row.label != lost and lost != "all")]
    write_manifest(tmp_path / "less.csv", rows)
    problem = "is empty" if lost == "all" else "has no image of class red"
    with pytest.raises(DatasetError, match=f"split '{split}' {problem}"):
        train_ensemble(tmp_path / "less.csv", recipe_from_dict({}), tmp_path / "run", device=CPU, report=print)
    assert not (tmp_path / "run").exists()


def test_training_stops_where_every_logo_of_a_class_looks_like_a_held_out_one(logos, tmp_path, monkeypatch):
    red = {row for row in logos.split("train") if row.label == "red"}
    monkeypatch.setattr(train_module, "leave_out", lambda *_: (red, set()))
    with pytest.raises(
        DatasetError, match=f"'train', without its {len(red)} look-alikes of held-out images, has no image of class red"
    ):
        train_ensemble(tmp_path / "manifest.csv", recipe_from_dict({}), tmp_path / "run", device=CPU, report=print)


@pytest.mark.parametrize(("labels", "problem"), [(["red"], "one class, red"), ([], "no labelled image")])
def test_training_stops_without_two_classes(logos, tmp_path, labels, problem):
    rows = [row if row.label in labels else replace(row, label="", votes=()) for row in logos.rows]
    write_manifest(tmp_path / "few.csv", rows)
    with pytest.raises(DatasetError, match=f"{problem}; expected at least two classes"):
        train_ensemble(tmp_path / "few.csv", recipe_from_dict({}), tmp_path / "run", device=CPU, report=print)


def test_an_estimate_is_the_pace_of_the_second_epoch_times_all_steps():
    """Start-up takes 7 s, 3 s of it in the first epoch; an epoch takes 2 s for 4 steps of 10 logos and 1 s more."""
    epoch = {"kind": "epoch", "images_per_s": 20.0, "data_wait": 0.25}
    reports = [
        (100.0, {"kind": "start"}),
        *((100.0, {"kind": "step", "steps": 4}) for _ in range(4)),
        (110.0, {**epoch, "images_per_s": 9.0}),
        *((113.0, {"kind": "step", "steps": 4}) for _ in range(4)),
        (113.0, epoch),
    ]
    estimate = extrapolate("a", reports, FitConfig(epochs=6, batch_size=10), 205, evaluations=3.0)
    assert (estimate.steps, estimate.epochs, estimate.data_wait) == (20, 6, 0.25)
    assert estimate.seconds == pytest.approx(7 + 6 * (200 / 20 + 1) + 3 * 1)
    slower = extrapolate("a", reports, FitConfig(epochs=6, batch_size=10), 205, growth=2.0)
    assert slower.seconds == pytest.approx(7 + 6 * (200 / 20 + 2)), "an evaluation of twice as many logos"
    longer = extrapolate("a", reports, FitConfig(epochs=6, least_steps=150, batch_size=10), 205)
    assert (longer.epochs, longer.seconds) == (8, pytest.approx(7 + 8 * (200 / 20 + 1)))


def test_jobs_side_by_side_end_with_the_last_of_them():
    assert finish_time([3.0, 2.0, 2.0], workers=1) == 7.0
    assert finish_time([3.0, 2.0, 2.0], workers=2) == 4.0


def test_the_command_estimates_every_network_and_teacher_and_leaves_no_run(logos, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "count_cores", lambda: 1)
    done = CliRunner().invoke(
        train,
        [
            "--data",
            str(tmp_path / "manifest.csv"),
            "--out",
            str(tmp_path / "run"),
            "--recipe",
            "smoke",
            "--estimate",
            "--json",
            "--set",
            f"train.teachers=['{TEACHER}', '{TEACHER}']",
            "--set",
            "train.fit.batch_size=4",
            "--set",
            "pretrain.fit.epochs=3",
            "--set",
            "pretrain.fit.batch_size=8",
            "--set",
            "pretrain.fit.phases.ranger_epochs=2",
        ],
    )
    assert done.exit_code == 0, done.output
    estimate = json.loads(done.stdout)
    teachers = [f"teacher 1/2 {TEACHER}", f"teacher 2/2 {TEACHER}"]
    assert [stage["stage"] for stage in estimate["stages"]] == [f"pretraining {TEACHER}", *teachers]
    assert [stage["steps"] for stage in estimate["stages"]] == [3, 6, 6]
    assert [stage["epochs"] for stage in estimate["stages"]] == [3, 1, 1]
    assert estimate["seconds"] == pytest.approx(sum(stage["seconds"] for stage in estimate["stages"]))
    assert estimate["seconds"] > 0
    assert not (tmp_path / "run").exists()


def test_a_stratified_sample_keeps_every_class():
    rows = [LogoRow(FILES, "", f"{k}-{i}", "", f"{k}") for k in range(3) for i in range(10 * (k + 1))]
    sample = stratified_sample(rows, 12)
    assert 10 <= len(sample) <= 14
    assert {row.label for row in sample} == {"0", "1", "2"}
    assert stratified_sample(rows, 0) == rows
