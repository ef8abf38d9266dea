"""Sharpness-aware gradients equal pytorch-optimizer's, in parts and in bfloat16; both passes have the same noise."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from pytorch_optimizer import SAM
from torch import nn
from torch.nn import functional

from logo_edge_train.fit import fit
from logo_edge_train.fit_config import FitConfig, SamConfig
from logo_edge_train.optim import NORM_DECAY, RHO_RANGE, SharpnessAware, is_perturbed

CPU = torch.device("cpu")
LOGOS, CLASSES = 12, 3
ONE_STEP = FitConfig(epochs=1, batch_size=LOGOS, warmup_epochs=0.0, gradient_clip=1e9, sam=SamConfig("sam", rho=0.5))


class Toy(nn.Module):
    """(B, 3, 8, 8) -> (B, K) logits; with `statistics` it has BatchNorm, else items of a batch are independent."""

    def __init__(self, statistics: bool = False):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6) if statistics else nn.GroupNorm(2, 6)
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.body(self.norm(self.stem(planes))))


class Batches:
    """LOGOS random planes with labels, as a dataset."""

    def __init__(self, seed: int = 0):
        random = torch.Generator().manual_seed(seed)
        self.planes = torch.randn(LOGOS, 3, 8, 8, generator=random)
        self.targets = torch.randint(0, CLASSES, (LOGOS,), generator=random)

    def __len__(self) -> int:
        return LOGOS

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.planes[position % LOGOS], self.targets[position % LOGOS]


def cross_entropy(network, planes, targets) -> dict[str, torch.Tensor]:
    return {"cross_entropy": functional.cross_entropy(network(planes).float(), targets)}


def fit_toy(folder, config: FitConfig, objective=cross_entropy, *, network: nn.Module | None = None):
    """The network, with the gradients of its last step, and the history."""
    network = network or Toy()
    state = folder / f"{len(list(folder.iterdir()))}.state"
    _, history = fit(
        network,
        Batches(),
        objective,
        config,
        state=state,
        seed=0,
        device=CPU,
        evaluate=lambda _: {},
        report=lambda _: None,
    )
    return network, history


def gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    assert len(actual) == 7
    for name, tensor in expected.items():
        assert torch.allclose(
            actual[name], tensor, rtol=tolerance, atol=tolerance * float(tensor.detach().abs().max())
        ), name


def kind_of(network: Toy, parameter: nn.Parameter) -> str:
    return "plain" if parameter.ndim == 1 else "stem" if parameter is network.stem.weight else "other"


@pytest.mark.parametrize("kind", ["sam", "asam"])
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.1, 0.5), (0.0, 1.0)])
def test_weights_move_as_those_of_pytorch_optimizer_step_by_step(kind, scales):
    config = SamConfig(kind, rho=0.2, plain_scale=scales[0], stem_scale=scales[1])
    ours, theirs, plain = Toy(), Toy(), Toy()
    descent = {"lr": 0.1, "momentum": 0.9}
    optimizer = torch.optim.SGD(ours.parameters(), **descent)
    sharpness = SharpnessAware(ours, config, [])
    rhos = {"plain": 0.2 * scales[0], "stem": 0.2 * scales[1], "other": 0.2}
    groups = [
        {"params": [each for each in theirs.parameters() if kind_of(theirs, each) == part], "rho": rho}
        for part, rho in rhos.items()
    ]
    oracle = SAM(groups, torch.optim.SGD, adaptive=kind == "asam", **descent)
    unaware = torch.optim.SGD(plain.parameters(), **descent)

    def add_gradients(network: nn.Module, batch: Batches) -> dict[str, torch.Tensor]:
        losses = cross_entropy(network, batch.planes, batch.targets)
        losses["cross_entropy"].backward()
        return losses

    for step in range(12):
        batch = Batches(step)
        optimizer.zero_grad()
        sharpness.add_gradients(optimizer, lambda hold=False, batch=batch: add_gradients(ours, batch))
        optimizer.step()

        def closure(batch=batch):
            oracle.zero_grad()
            return add_gradients(theirs, batch)

        closure()
        oracle.step(closure)
        unaware.zero_grad()
        add_gradients(plain, batch)
        unaware.step()
        assert_close(dict(ours.named_parameters()), dict(theirs.named_parameters()), 2e-5)
    apart = max(float((a - b).abs().max()) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))
    assert apart > 1e-3, "sharpness changed the way"


def by_hand(config: FitConfig, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The gradients of Toy at w + rho g / ||g||, for all logos at once."""
    network, batch = Toy(), Batches()

    def gradient() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = cross_entropy(network, batch.planes, batch.targets)["cross_entropy"]
        return torch.autograd.grad(loss, list(network.parameters()))

    first = gradient()
    norm = torch.sqrt(sum(part.square().sum() for part in first))
    with torch.no_grad():
        for parameter, part in zip(network.parameters(), first, strict=True):
            parameter += config.sam.rho * part / norm
    return dict(zip(gradients(network), gradient(), strict=True))


@pytest.mark.parametrize("accumulate", [1, 2, 5, LOGOS])
def test_all_parts_of_a_batch_are_perturbed_by_the_gradient_of_the_whole(tmp_path, accumulate):
    calls = []

    def objective(network, planes, targets):
        calls.append((is_perturbed(), len(planes), network.stem.weight.detach().clone()))
        return cross_entropy(network, planes, targets)

    network, _ = fit_toy(tmp_path, replace(ONE_STEP, accumulate=accumulate), objective)
    assert [perturbed for perturbed, *_ in calls] == [False] * accumulate + [True] * accumulate
    assert sum(count for _, count, _ in calls) == 2 * LOGOS
    for half in (calls[:accumulate], calls[accumulate:]):
        assert all(torch.equal(a[2], b[2]) for a, b in pairwise(half)), "one perturbation for all parts"
    assert not torch.equal(calls[0][2], calls[-1][2])
    assert_close(gradients(network), by_hand(ONE_STEP), 1e-4)


def test_mixed_precision_computes_both_passes_and_perturbs_float32_weights(tmp_path):
    expected = by_hand(ONE_STEP, torch.bfloat16)
    network, _ = fit_toy(tmp_path, replace(ONE_STEP, amp="bf16"))
    assert {gradient.dtype for gradient in gradients(network).values()} == {torch.float32}
    assert_close(gradients(network), expected, 1e-2)  # a bfloat16 has eight bits, and the order of the logos differs
    other = by_hand(ONE_STEP)
    assert any(not torch.allclose(expected[name], other[name], rtol=1e-3, atol=0) for name in expected)


def test_running_statistics_move_once_per_step(tmp_path):
    plain, _ = fit_toy(tmp_path, replace(ONE_STEP, sam=SamConfig()), network=Toy(statistics=True))
    sharp, _ = fit_toy(tmp_path, ONE_STEP, network=Toy(statistics=True))
    assert sharp.norm.num_batches_tracked == 1
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(sharp.named_buffers())[name]), name
    assert plain.norm.running_mean.abs().min() > 0, "they moved at all"
    assert not torch.equal(plain.stem.weight.grad, sharp.stem.weight.grad)


def test_both_passes_draw_the_same_noise_and_a_step_no_more_of_it_than_a_plain_one(tmp_path):
    drawn: dict[str, list] = {"plain": [], "sharp": []}

    def noisy(kind: str):
        def objective(network, planes, targets):
            noise = torch.rand(len(planes))
            drawn[kind].append(noise)
            losses = functional.cross_entropy(network(planes), targets, reduction="none")
            return {"cross_entropy": (losses * noise).mean()}

        return objective

    config = replace(ONE_STEP, epochs=3, accumulate=2)
    fit_toy(tmp_path, replace(config, sam=SamConfig()), noisy("plain"))
    fit_toy(tmp_path, config, noisy("sharp"))
    assert len(drawn["plain"]) == 6
    sharp = [drawn["sharp"][first : first + 4] for first in (0, 4, 8)]  # parts 1 and 2, and once more
    assert all(torch.equal(a, b) for step in sharp for a, b in zip(step[:2], step[2:], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(drawn["plain"], [n for step in sharp for n in step[:2]], strict=True))
    assert not torch.equal(drawn["plain"][0], drawn["plain"][1])


def test_weights_come_back_to_the_bit_and_what_has_no_gradient_stays():
    network, batch = Toy(statistics=True), Batches()
    network.stem.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    seen = []

    def add(hold: bool = False) -> dict[str, torch.Tensor]:
        seen.append({name: tensor.detach().clone() for name, tensor in network.named_parameters()})
        losses = cross_entropy(network, batch.planes, batch.targets)
        losses["cross_entropy"].backward()
        return losses

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    SharpnessAware(network, SamConfig("sam", rho=3.7), []).add_gradients(optimizer, add)
    assert optimizer.param_groups[0]["rho"] == 3.7
    moved = torch.sqrt(sum((seen[1][name] - tensor).square().sum() for name, tensor in before.items()))
    assert float(moved) == pytest.approx(3.7, rel=1e-4)
    assert torch.equal(seen[1]["stem.weight"], before["stem.weight"])
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not is_perturbed()


def test_rho_follows_the_norm_of_the_gradient_over_its_running_mean_within_bounds():
    network = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    norms, rhos, mean = [2.0, 2.0, 3.0, 1.5, 100.0, 0.001, 2.0], [], 2.0
    sharpness = SharpnessAware(network, SamConfig("sam", rho=0.1, adapt=0.5), [])
    for norm in norms:

        def add(hold: bool = False, norm: float = norm) -> dict[str, torch.Tensor]:
            loss = network(torch.tensor([[norm, 0.0]])).sum()
            loss.backward()
            return {"loss": loss}

        optimizer.zero_grad()
        sharpness.add_gradients(optimizer, add)
        expected = 0.1 * min(max((norm / mean) ** 0.5, 1 / RHO_RANGE), RHO_RANGE)
        mean = NORM_DECAY * mean + (1 - NORM_DECAY) * norm
        rhos.append(optimizer.param_groups[0]["rho"])
        assert rhos[-1] == pytest.approx(expected, rel=1e-6)
        assert optimizer.param_groups[0]["gradient_norm"] == pytest.approx(mean, rel=1e-6)
    assert rhos[0] == rhos[1] == pytest.approx(0.1)
    assert rhos[4:6] == [0.1 * RHO_RANGE, 0.1 / RHO_RANGE]


def test_the_reported_loss_is_that_of_the_weights_themselves(tmp_path):
    _, plain = fit_toy(tmp_path, replace(ONE_STEP, sam=SamConfig()))
    _, sharp = fit_toy(tmp_path, ONE_STEP)
    assert sharp[0]["cross_entropy"] == plain[0]["cross_entropy"]
    assert sharp[0]["rho"] == 0.5
    assert sharp[0]["gradient_norm"] > 0
    assert not {"rho", "gradient_norm"} & plain[0].keys()
