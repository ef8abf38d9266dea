"""Two processes that fit one network are one process with twice the views: gradients, losses, predictions, resuming.

The tests start this very file twice, with the variables that torchrun sets; `main` is what each of the two does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import COLOURS, write_squares
from torch import nn
from torch.nn import functional
from torch.utils.data import default_collate

from logo_edge.preprocess import InputContract
from logo_edge_train import distributed
from logo_edge_train.data.augment import Intensity
from logo_edge_train.data.dataset import LogoDataset
from logo_edge_train.data.manifest import read_manifest
from logo_edge_train.evaluate import predict_logits
from logo_edge_train.fit import fit
from logo_edge_train.fit_config import FitConfig, SamConfig, TeacherFit
from logo_edge_train.losses import SupervisedObjective, supervised_objective
from logo_edge_train.models import LogoNetwork, normalise
from logo_edge_train.runs import read_run

CPU = torch.device("cpu")
RANKS, TIMEOUT_S = 2, 240
SHARP = SamConfig("asam", rho=0.5, adapt=1.0)
ONE_STEP = FitConfig(epochs=1, batch_size=24, gradient_clip=1e9)  # of 24 logos: the gradients stay behind it
EPOCHS = FitConfig(epochs=3, batch_size=8, accumulate=2)  # 3 steps per epoch
COUNTS = {"red": 14, "green": 7, "blue": 3}  # of train: their weights differ, and so do those of the ranks' shares


class Plain(nn.Module):
    """(B, S, S, 3) uint8 -> (B, K) logits, without BatchNorm, whose statistics would be of one rank only."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.GroupNorm(2, 8),
            nn.GELU(),
            nn.Conv2d(8, 16, 3),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, classes),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layers(normalise(pixels))


def write_logos(folder: Path) -> None:
    write_squares(folder, COLOURS, {"train": COUNTS, "val": 3, "calib": 2, "test": 2})


def read_logos(folder: Path, split: str = "train") -> LogoDataset:
    manifest = read_manifest(folder / "manifest.csv")
    return LogoDataset(
        manifest, manifest.split(split), manifest.classes, contract=InputContract(32), class_weight_power=0.5, seed=3
    )


def build_network() -> Plain:
    torch.manual_seed(7 + 100 * distributed.rank())  # every rank starts from the main one's weights, whatever its own
    return Plain()


def fit_logos(folder: Path, config: FitConfig, state: Path, report=lambda _: None) -> tuple[Plain, nn.Module, list]:
    """The fitted network with the gradients of its last step, its average, and the history."""
    network = build_network()
    val = read_logos(folder, "val")
    average, history = fit(
        network,
        read_logos(folder),
        supervised_objective(0.1),
        config,
        state=state,
        seed=3,
        device=CPU,
        evaluate=lambda ema: {"accuracy": float((predict_logits(ema, val, CPU).argmax(1) == val.hard_targets).mean())},
        report=report,
    )
    return network, average, history


def fit_adaptively(folder: Path, state: Path) -> dict[str, torch.Tensor]:
    """The running statistics of the objective after a fit."""
    logos = read_logos(folder)
    config = TeacherFit(**{**vars(EPOCHS), "focal_gamma": 2.0, "adaptive_focal": True})
    objective = SupervisedObjective(config, logos.classes, Intensity(len(logos), 0.5))
    fit(
        build_network(),
        logos,
        objective,
        config,
        state=state,
        seed=3,
        device=CPU,
        evaluate=lambda _: {},
        report=lambda _: None,
    )
    return objective.state_dict()


def gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


def halves_by_hand(folder: Path) -> tuple[dict[str, torch.Tensor], float]:
    """The means of both halves' ASAM gradients, each at its own perturbed weights, and of their norms |w| g."""
    dataset, order = read_logos(folder), np.random.default_rng((3, 0)).permutation(24)
    half_gradients, norms = [], []
    for half in (order[:12], order[12:]):
        batch = default_collate([dataset[int(index)] for index in half])
        network = build_network()
        weights = list(network.parameters())

        def gradient(network=network, batch=batch, weights=weights):
            return torch.autograd.grad(supervised_objective(0.1)(network, *batch)["cross_entropy"], weights)

        first = gradient()
        norms.append(torch.sqrt(sum((w * g).square().sum() for w, g in zip(weights, first, strict=True))).item())
        with torch.no_grad():
            for weight, part in zip(weights, first, strict=True):
                weight += SHARP.rho * weight.square() * part / norms[-1]
        half_gradients.append(gradient())
    names = [name for name, _ in network.named_parameters()]
    mean = [(first + second) / 2 for first, second in zip(*half_gradients, strict=True)]
    return dict(zip(names, mean, strict=True)), sum(norms) / 2


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.5) -> torch.Tensor:
    """This rank's views against those of all ranks. Chen et al. 2020, arXiv:2002.05709."""
    mine = functional.normalize(torch.cat([first, second]), dim=1)  # (2 n, D)
    halves = [functional.normalize(distributed.gather(part), dim=1) for part in (first, second)]
    everyone = torch.cat(halves)  # (2 N, D)
    n, count = len(first), len(everyone) // 2
    own = torch.arange(n) + distributed.rank() * n
    rows, positives = torch.cat([own, own + count]), torch.cat([own + count, own])
    similarity = mine @ everyone.T / temperature
    similarity[torch.arange(2 * n), rows] = -torch.inf  # not with itself
    return functional.cross_entropy(similarity, positives)


def contrast(views: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of all 8 pairs, and its gradients. views: (2, 8, S, S, 3) uint8."""
    network = build_network()
    replica = distributed.replicate(network)
    first, second = (distributed.share(half) for half in views)
    loss = nt_xent(*replica(torch.cat([first, second])).chunk(2))
    loss.backward()
    return distributed.reduce_mean({"loss": loss.item()})["loss"], gradients(network)


def make_views() -> torch.Tensor:
    return torch.randint(0, 256, (2, 8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def work(folder: Path, out: Path) -> dict:
    """The values to compare, computed by this process, alone or as a rank."""
    values: dict = {}
    for accumulate in (1, 3):
        config = FitConfig(**{**vars(ONE_STEP), "accumulate": accumulate})
        network, _, history = fit_logos(folder, config, out / f"one-{accumulate}.state")
        values[f"gradients {accumulate}"] = gradients(network)
        values[f"loss {accumulate}"] = history[0]["cross_entropy"]
        for scope in ("batch", "process"):
            sharp = replace(config, warmup_epochs=0.0, sam=replace(SHARP, scope=scope))
            network, _, history = fit_logos(folder, sharp, out / f"{scope}-{accumulate}.state")
            values[f"sharp gradients {scope} {accumulate}"] = gradients(network)
            values[f"sharp record {scope} {accumulate}"] = history[0]
    sharp = replace(EPOCHS, warmup_epochs=0.0, sam=replace(SHARP, scope="process"))
    values["sharp whole"] = fit_logos(folder, sharp, out / "sharp.state")[1].state_dict()
    reports: list[dict] = []
    _, average, history = fit_logos(folder, EPOCHS, out / "whole.state", reports.append)
    values["history"], values["whole"], values["reports"] = history, average.state_dict(), len(reports)
    for aleatoric in (False, True):
        vit = LogoNetwork("logo_vit_tiny", 3, size_px=32)
        if aleatoric:
            vit.learn_variance()
        vit_average, _ = fit(
            vit,
            read_logos(folder),
            supervised_objective(0.1, aleatoric=aleatoric),
            EPOCHS,
            state=out / "vit.state",
            seed=3,
            device=CPU,
            evaluate=lambda _: {},
            report=lambda _: None,
        )
        values[f"vit {aleatoric}"] = vit_average.state_dict()
        distributed.on_main((out / "vit.state").unlink)()
        distributed.wait()
    values["objective"] = fit_adaptively(folder, out / "adaptive.state")
    values["contrast loss"], values["contrast gradients"] = contrast(make_views())
    values["logits"] = predict_logits(average, read_logos(folder, "val"), CPU)
    values["one logit"] = predict_logits(average, OneLogo(), CPU)
    values["mean"] = distributed.reduce_mean({"a": float(distributed.rank()), "b": 3.0})
    values["shares"] = distributed.share(range(7))
    values["order"] = distributed.gather_list([f"rank {distributed.rank()}"])
    statistics = nn.BatchNorm1d(2)
    statistics.running_mean.fill_(float(distributed.rank()))
    distributed.agree_on_buffers(statistics)
    values["statistics"] = statistics.running_mean
    with distributed.main_first():
        values["made before"] = (out / "made").exists()
        (out / "made").touch()
    return values


class OneLogo:
    """Fewer logos than ranks."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[torch.Tensor]:
        return (torch.full((32, 32, 3), 99, dtype=torch.uint8),)


def main(task: str, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    assert distributed.start(CPU) == CPU
    if task == "work":
        torch.save(work(folder, out), out / f"rank-{distributed.rank()}.pt")
    elif task == "uneven":
        fit_logos(folder, FitConfig(epochs=1, batch_size=5), out / "uneven.state")
    else:

        def report(item):
            if task == "killed" and (item["kind"], item["epoch"], item.get("step")) == ("step", 2, 2):
                os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does, amid an epoch

        _, average, history = fit_logos(folder, EPOCHS, out / "parts.state", report)
        torch.save({"average": average.state_dict(), "history": history}, out / f"resumed-{distributed.rank()}.pt")
    distributed.stop()


def launch(task: str, folder: Path, out: Path) -> list[int]:
    """The exit statuses of the two ranks; if one fails, the other is ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(RANKS):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with (out / f"{task}-{rank}.log").open("w") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, __file__, task, folder, out],
                    env={**os.environ, **shared, **own},
                    stdout=log,
                    stderr=log,
                )
            )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                deadline = min(deadline, time.monotonic() + 20)  # the other finds out, or is ended, as torchrun does
            time.sleep(0.05)
        return [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def logos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("logos")
    write_logos(folder)
    return folder


@pytest.fixture(scope="module")
def together(logos, tmp_path_factory) -> list[dict]:
    """The values of each of two ranks."""
    out = tmp_path_factory.mktemp("together")
    statuses = launch("work", logos, out)
    assert statuses == [0, 0], "\n".join(path.read_text() for path in out.glob("work-*.log"))
    return [torch.load(out / f"rank-{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def alone(logos, tmp_path_factory) -> dict:
    return work(logos, tmp_path_factory.mktemp("alone"))


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert len(actual) >= 8
    for name, tensor in expected.items():
        assert tensor.abs().max() > 1e-5, f"{name} has no gradient"
        assert torch.allclose(actual[name], tensor, rtol=1e-4, atol=1e-6 * float(tensor.abs().max())), name


@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_ranks_have_the_gradients_of_one_process_with_the_whole_batch(together, alone, accumulate):
    for rank in together:
        assert_close(rank[f"gradients {accumulate}"], alone["gradients 1"])
        assert rank[f"loss {accumulate}"] == pytest.approx(alone["loss 1"], rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_ranks_perturb_by_the_gradient_of_the_whole_batch(together, alone, accumulate):
    for rank in together:
        assert_close(rank[f"sharp gradients batch {accumulate}"], alone["sharp gradients batch 1"])
        record, expected = (side[f"sharp record batch {accumulate}"] for side in (rank, alone))
        assert record["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-5)
        assert record["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-5)
        assert record["rho"] == SHARP.rho
    unaware = alone["gradients 1"]
    assert not torch.allclose(
        alone["sharp gradients batch 1"]["layers.0.weight"], unaware["layers.0.weight"], rtol=1e-2
    )


@pytest.mark.parametrize("accumulate", [1, 3])
def test_with_the_scope_of_a_process_each_rank_perturbs_by_its_own_gradient(together, alone, logos, accumulate):
    expected, norm = halves_by_hand(logos)
    for rank in together:
        assert_close(rank[f"sharp gradients process {accumulate}"], expected)
        assert rank[f"sharp record process {accumulate}"]["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    whole = alone["sharp gradients process 1"]["layers.0.weight"]
    assert not torch.allclose(expected["layers.0.weight"], whole, rtol=1e-2), "one process has one neighbourhood"
    first, second = (rank["sharp whole"] for rank in together)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()), "no rank keeps its perturbation"


def test_a_contrastive_loss_over_gathered_views_has_the_gradients_of_one_process(together, alone):
    for rank in together:
        assert_close(rank["contrast gradients"], alone["contrast gradients"])
        assert rank["contrast loss"] == pytest.approx(alone["contrast loss"], rel=1e-5)


def test_two_ranks_learn_what_one_process_learns_and_agree_to_the_last_bit(together, alone):
    losses = [record["cross_entropy"] for record in alone["history"]]
    assert len(losses) == 3
    for rank in together:
        assert [record["cross_entropy"] for record in rank["history"]] == pytest.approx(losses, rel=1e-3)
        assert np.allclose(rank["logits"], alone["logits"], atol=1e-2)
    first, second = (rank["whole"] for rank in together)
    assert len(first) >= 8
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("aleatoric", [False, True])
def test_ranks_agree_on_a_network_whose_loss_may_leave_a_head_alone(together, aleatoric):
    first, second = (rank[f"vit {aleatoric}"] for rank in together)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_ranks_learn_the_same_recalls_and_losses_as_one_process(together, alone):
    first, second = (rank["objective"] for rank in together)
    assert alone["objective"].keys() == {"seen", "hit", "intensity.losses", "intensity.strengths"}
    for name, tensor in alone["objective"].items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], tensor, atol=0.05 if "strengths" in name else 1e-3), name
    assert alone["objective"]["seen"].min() > 0
    assert alone["objective"]["intensity.losses"].isfinite().all()


def test_every_rank_has_all_predictions_in_order(together, logos):
    network = Plain()
    network.load_state_dict(together[0]["whole"])
    expected = predict_logits(network, read_logos(logos, "val"), CPU)
    assert expected.shape == (9, 3)
    for rank in together:
        assert np.allclose(rank["logits"], expected, atol=1e-5)
        assert rank["one logit"].shape == (1, 3)


def test_only_the_main_rank_reports(together, alone):
    assert alone["reports"] == 3 * (3 + 1)
    assert [rank["reports"] for rank in together] == [alone["reports"], 0]


def test_values_are_averaged_items_shared_and_gathered_in_the_order_of_ranks(together, alone):
    for rank in together:
        assert rank["mean"] == {"a": 0.5, "b": 3.0}
        assert rank["order"] == ["rank 0", "rank 1"]
        assert rank["statistics"].tolist() == [0.0, 0.0], "the main rank's"
    assert [list(rank["shares"]) for rank in together] == [[0, 1, 2], [3, 4, 5, 6]]
    assert [rank["made before"] for rank in together] == [False, True], "the main rank went first"
    assert alone["mean"] == {"a": 0.0, "b": 3.0}
    assert list(alone["shares"]) == list(range(7))


@pytest.mark.slow
def test_two_ranks_of_which_one_is_killed_resume_to_the_same_weights(together, logos, tmp_path):
    statuses = launch("killed", logos, tmp_path)
    assert statuses[0] == -signal.SIGKILL
    assert statuses[1] != 0, "the other rank does not go on alone"
    assert (tmp_path / "parts.state").exists()
    assert launch("resumed", logos, tmp_path) == [0, 0], (tmp_path / "resumed-0.log").read_text()
    for rank in range(RANKS):
        resumed = torch.load(tmp_path / f"resumed-{rank}.pt", weights_only=True)
        assert [record["epoch"] for record in resumed["history"]] == [1, 2, 3]
        assert resumed["average"].keys() == together[rank]["whole"].keys()
        assert all(torch.equal(tensor, together[rank]["whole"][name]) for name, tensor in resumed["average"].items())


@pytest.mark.slow
def test_a_batch_that_two_ranks_cannot_share_equally_is_refused_on_both(logos, tmp_path):
    assert 0 not in launch("uneven", logos, tmp_path)
    for rank in range(RANKS):
        assert (
            "5 images per step cannot be split over processes x accumulate = 2 x 1"
            in (tmp_path / f"uneven-{rank}.log").read_text()
        )


@pytest.mark.slow
def test_logo_edge_train_runs_under_torchrun(logos, tmp_path):
    shutil.copytree(logos, tmp_path / "logos")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(RANKS),
        "--no-python",
        Path(sys.executable).with_name("logo-edge"),
        "train",
        "--recipe",
        "smoke",
        "--data",
        tmp_path / "logos" / "manifest.csv",
        "--out",
        tmp_path / "run",
        "--set",
        "train.teachers=['test_vit@160', 'mobilenetv3_small_050@32']",
        "--set",
        "train.fit.batch_size=8",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 teachers, together") == 1, "said once"
    run = read_run(tmp_path / "run")
    assert run.record["device"] == "2 x cpu"
    assert run.member_logits("val").shape == (2, 9, 3)
    assert not list(tmp_path.glob("run/*.state"))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
