"""The phases of a fit: their order, optimizers and learning rates; an interruption in any of them changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from interrupted import Interrupted
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from logo_edge_train.fit import fit
from logo_edge_train.fit_config import PhasesConfig, SamConfig, TeacherFit
from logo_edge_train.models import LogoNetwork
from logo_edge_train.progress import describe_epoch, describe_pace
from logo_edge_train.schedule import Schedule, cosine_share, plan_phases
from logo_edge_train.tracker import scalars

CPU = torch.device("cpu")
LOGOS, STEPS = 20, 5  # per epoch: no multiple of Lookahead's six, whose second meeting is amid the third of its epochs
SAM = SamConfig("asam", rho=0.5, plain_scale=0.1, stem_scale=0.5, adapt=0.5)
EVERYTHING = TeacherFit(
    epochs=9,
    batch_size=4,
    warmup_epochs=1.4,
    dropout=0.2,
    learning_rate=2e-3,
    sam=SAM,
    phases=PhasesConfig(ranger_epochs=3, ranger_rate=1e-3, finetune_epochs=2, finetune_rate=1e-4, restarts=1),
)
PHASES = ["warm-up", *["asam"] * 3, *["ranger"] * 3, *["fine-tune"] * 2]  # of each epoch's last step


class Noise:
    """Random logos with labels, as a dataset."""

    def __init__(self):
        random = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (LOGOS, 32, 32, 3), dtype=torch.uint8, generator=random)
        self.targets = torch.randint(0, 3, (LOGOS,), generator=random)

    def __len__(self) -> int:
        return LOGOS

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pixels[position % LOGOS], self.targets[position % LOGOS]


def cross_entropy(network, pixels, targets) -> dict[str, torch.Tensor]:
    return {"cross_entropy": nn.functional.cross_entropy(network(pixels), targets)}


def fit_noise(state, config: TeacherFit = EVERYTHING, stop_at: tuple | None = None):
    """The averaged weights, the history and the reports of a fit, interrupted at the report (kind, epoch, step)."""
    torch.manual_seed(3)
    network, reports = LogoNetwork("test_resnet", 3, dropout=config.dropout), []

    def report(item: dict) -> None:
        reports.append(item)
        if (item["kind"], item.get("epoch"), item.get("step")) == stop_at:
            raise Interrupted

    average, history = fit(
        network,
        Noise(),
        cross_entropy,
        config,
        state=state,
        seed=3,
        device=CPU,
        evaluate=lambda _: {"accuracy": 0.5},
        report=report,
    )
    return average.state_dict(), history, reports


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return fit_noise(tmp_path_factory.mktemp("whole") / "whole.state")


FIGURES = ("cross_entropy", "phase", "learning_rate", "rho", "gradient_norm")


@pytest.mark.parametrize(
    "stop_at",
    [
        ("step", 2, 2),
        ("step", 2, 4),
        ("epoch", 3, None),
        ("step", 4, 3),
        ("epoch", 4, None),
        ("step", 5, 2),
        ("step", 7, 1),
        ("epoch", 7, None),
        ("step", 9, 1),
    ],
)
def test_an_interruption_in_any_phase_changes_no_bit(whole, tmp_path, stop_at):
    weights, history, _ = whole
    with pytest.raises(Interrupted):
        fit_noise(tmp_path / "parts.state", stop_at=stop_at)
    resumed, resumed_history, _ = fit_noise(tmp_path / "parts.state")
    assert len(resumed_history) == 9
    for record, other in zip(history, resumed_history, strict=True):
        assert [record.get(key) for key in FIGURES] == [other.get(key) for key in FIGURES]
    assert len(weights) > 20
    for name, tensor in weights.items():
        assert torch.equal(tensor, resumed[name]), name


def test_every_epoch_records_its_phase_rate_and_rho_and_every_view_shows_them(whole):
    _, history, reports = whole
    assert [record["phase"] for record in history] == PHASES
    assert [index for index, record in enumerate(history) if "rho" in record] == [1, 2, 3]
    assert all(0.25 <= record["rho"] <= 1 for record in history[1:4])
    assert len({record["rho"] for record in history[1:4]}) == 3, "it is adapted"
    assert all(record["learning_rate"] > 0 for record in history)
    step = next(item for item in reports if item["kind"] == "step" and item["phase"] == "asam")
    assert f"asam, rate {step['learning_rate']:.1e}, rho {step['rho']:.2g}" in describe_pace(step)
    epoch = next(item for item in reports if item["kind"] == "epoch" and item["phase"] == "ranger")
    assert f"ranger, rate {epoch['learning_rate']:.1e}" in describe_epoch({**epoch, "name": "teacher"})
    figures = scalars(next(item for item in reports if item["kind"] == "epoch" and item["phase"] == "asam"))
    assert {"epoch/rho", "epoch/learning_rate", "epoch/gradient_norm"} <= figures.keys()
    assert "epoch/phase" not in figures, "no number"


def rates(config: TeacherFit, steps: int = STEPS) -> list[float]:
    """The learning rate of every step."""
    schedule = Schedule(nn.Linear(2, 2), config, steps, 0)
    positions = [epoch + step / steps for epoch in range(config.epochs) for step in range(steps)]
    return [schedule.move_to(position).param_groups[0]["lr"] for position in positions]


@pytest.mark.parametrize("warmup_epochs", [0.0, 0.3, 1.0, 3.0])
def test_without_phases_a_fit_warms_up_and_follows_one_cosine(warmup_epochs):
    config = TeacherFit(epochs=4, warmup_epochs=warmup_epochs)
    warm, expected = min(warmup_epochs, 2), []
    for epoch in (index + step / STEPS for index in range(4) for step in range(STEPS)):
        share = (epoch + 1e-3) / warm if epoch < warm else 0.5 * (1 + math.cos(math.pi * (epoch - warm) / (4 - warm)))
        expected.append(5e-4 * share)
    assert rates(config) == expected
    assert [phase.name for phase in plan_phases(config)] == ["warm-up"] * (warm > 0) + ["adamw"]
    schedule = Schedule(nn.Linear(2, 2), config, STEPS, 0)
    assert schedule.move_to(0.0) is schedule.move_to(3.9), "one optimizer throughout"
    assert type(schedule.optimizer) is torch.optim.AdamW


def test_warm_restarts_are_those_of_pytorch():
    config = TeacherFit(epochs=7, warmup_epochs=0.0, learning_rate=0.1, phases=PhasesConfig(restarts=2))
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=STEPS, T_mult=2)  # cycles of 1, 2 and 4 epochs
    expected = []
    for _ in range(7 * STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    actual = rates(config)
    assert actual == pytest.approx(expected, rel=1e-6)
    assert [index for index, rate in enumerate(actual) if rate == 0.1] == [0, STEPS, 3 * STEPS]


def test_a_restart_is_at_its_step_however_its_place_is_rounded():
    assert 2 / 3 - 0.5 < 0.5 / 3
    assert cosine_share(2 / 3 - 0.5, 0.5, restarts=1) == pytest.approx(1)


def test_each_phase_begins_at_its_own_rate_with_its_own_optimizer():
    schedule = Schedule(nn.Linear(2, 2), EVERYTHING, STEPS, 0)
    optimizers = []
    for position, name, rate in ((1.4, "asam", 2e-3), (4, "ranger", 1e-3), (7, "fine-tune", 1e-4)):
        optimizer = schedule.move_to(position)
        assert (schedule.phase.name, optimizer.param_groups[0]["lr"]) == (name, pytest.approx(rate))
        optimizers.append((type(optimizer).__name__, optimizer))
    assert [name for name, _ in optimizers] == ["AdamW", "Lookahead", "AdamW"]
    assert optimizers[0][1] is not optimizers[2][1]
    assert [phase.sharp for phase in schedule.phases] == [False, True, False, False]


def test_ranger_is_radam_whose_every_sixth_step_goes_half_the_way():
    config = replace(EVERYTHING, epochs=6, phases=PhasesConfig(ranger_epochs=5, ranger_rate=1e-2), weight_decay=0.1)
    ours, theirs = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    theirs.load_state_dict(ours.state_dict())
    schedule = Schedule(ours, config, STEPS, 1)
    radam = torch.optim.RAdam(theirs.parameters(), decoupled_weight_decay=True, weight_decay=0.1)
    slow = None
    for step in range(5 * STEPS):
        optimizer = schedule.move_to(1 + step / STEPS)
        radam.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        gradient = torch.randn(4, 4, generator=torch.Generator().manual_seed(step))
        ours.weight.grad, theirs.weight.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        radam.step()
        if (step + 1) % 6 == 0:
            with torch.no_grad():
                slow = theirs.weight.clone() if slow is None else slow + 0.5 * (theirs.weight - slow)
                theirs.weight.copy_(slow)
        assert torch.allclose(ours.weight, theirs.weight, rtol=1e-6, atol=1e-7), step
    assert schedule.phase.name == "ranger"
    assert slow is not None
