"""Attacks equal a maintained library's; a threshold fixed beforehand separates other images from logos."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from logo_edge.bundle.calibration import Familiarity
from logo_edge.errors import RunError
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_report import robustness
from logo_edge_report.attacks import ATTACKS, attack, fgsm, pgd
from logo_edge_report.commands import evaluate
from logo_edge_report.robustness import compare_with_outliers, evaluate_attacks, evaluate_outliers
from logo_edge_report.statistics import auroc
from logo_edge_report.subjects import Subject
from logo_edge_train.data.outliers import families_of
from logo_edge_train.models import LogoNetwork
from logo_edge_train.recipe_io import recipe_from_dict
from logo_edge_train.train import train_ensemble


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return LogoNetwork("test_resnet", 4).eval()


@pytest.fixture(scope="module")
def batch(network):
    pixels = torch.randint(0, 256, (24, 32, 32, 3), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        return pixels, network(pixels).argmax(1)


class ChannelsFirst(nn.Module):
    """The network as other libraries want it: (B, 3, S, S)."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, planes):
        return self.network(planes.permute(0, 2, 3, 1))


@pytest.mark.parametrize(("name", "radius"), [(name, radius) for name in ATTACKS for radius in (1, 2, 4)])
def test_every_attack_finds_the_same_pictures_as_foolbox(network, batch, name, radius):
    import foolbox

    pixels, targets = batch
    model = foolbox.PyTorchModel(ChannelsFirst(network), bounds=(0, 255))
    if name == "FGSM":
        theirs = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    else:
        theirs = foolbox.attacks.LinfPGD(abs_stepsize=radius / 4, steps=10, random_start=False)
    _, perturbed, _ = theirs(model, pixels.permute(0, 3, 1, 2), targets, epsilons=float(radius))
    ours = ATTACKS[name](network, pixels, targets, radius)
    off = (ours - perturbed.permute(0, 2, 3, 1)).abs()
    assert (off < 1e-3).float().mean() > 0.995  # the sign of a gradient of nearly nought may differ
    with torch.no_grad():
        agree = network(ours).argmax(1) == network(perturbed.permute(0, 2, 3, 1)).argmax(1)
    assert agree.float().mean() >= 23 / 24


def test_attacks_stay_in_the_ball_and_in_the_range_and_more_steps_do_more_harm(network, batch):
    pixels, targets = batch
    losses = []
    for attacked in (pixels, fgsm(network, pixels, targets, 2), pgd(network, pixels, targets, 2)):
        assert (attacked - pixels).abs().max() <= 2
        assert attacked.min() >= 0
        assert attacked.max() <= 255
        losses.append(nn.functional.cross_entropy(network(attacked), targets).item())
    assert losses[0] < losses[1] < losses[2]


def test_whole_values_are_attacked_to_whole_values_within_the_radius(network, batch):
    pixels = batch[0].to(torch.uint8).numpy()
    for name in ATTACKS:
        parts = list(attack(name, network, pixels, batch[1].numpy(), 2, batch_size=10))
        attacked = np.concatenate(parts)
        assert [len(part) for part in parts] == [10, 10, 4]
        assert attacked.dtype == np.uint8
        assert np.abs(attacked.astype(int) - pixels).max() == 2


def test_the_white_box_suffers_more_than_a_subject_that_the_attack_is_carried_to(network, batch):
    torch.manual_seed(7)
    other = LogoNetwork("test_resnet", 4).eval()
    images = [Image.fromarray(picture) for picture in batch[0].to(torch.uint8).numpy()]

    def subject(name, own):
        def forward(pixels):
            with torch.no_grad():
                return own(torch.from_numpy(pixels)).numpy()

        return Subject(
            name,
            "checkpoint",
            ("a", "b", "c", "d"),
            lambda pictures: forward(np.stack(pictures)),
            network=own,
            forward=forward,
            contract=InputContract(32),
        )

    white, carried = subject("white", network), subject("other", other)
    targets = white.predict(images).argmax(1)
    said: list[str] = []
    results = evaluate_attacks([white, carried], white, images, targets, (40,), said.append)
    assert [result["from"] for result in results] == ["white", "white"]
    agreement = (carried.predict(images).argmax(1) == targets).mean()
    assert results[0]["PGD-10"]["40/255"]["value"] < 0.5
    assert results[1]["PGD-10"]["40/255"]["value"] > agreement - 0.4
    assert said[-1] == "PGD-10 40/255: 24 of 24"


def test_an_attack_leaves_the_detail_planes_as_they_are():
    torch.manual_seed(0)
    contract, network = InputContract(32, details=True), LogoNetwork("test_efficientnet+details", 4).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), np.uint8)
    pixels = np.stack([preprocess(picture, contract) for picture in pictures])
    for name in ATTACKS:
        attacked = np.concatenate(list(attack(name, network, pixels, np.zeros(8, int), 4)))
        assert (attacked[..., :3] != pixels[..., :3]).any()
        assert np.array_equal(attacked[..., 3:], pixels[..., 3:])


def test_what_reads_other_planes_cannot_see_an_attack_on_them(network):
    detailed = Subject("detailed", "checkpoint", ("a",), len, contract=InputContract(32, details=True))
    plain = Subject("plain", "bundle", ("a",), len, contract=InputContract(32))
    with pytest.raises(RunError, match="plain does not have the input of detailed"):
        evaluate_attacks([detailed, plain], detailed, [], np.zeros(0, int), (1,), print)


def test_attacks_need_exactly_one_checkpoint(fake_bundle, colours):
    result = CliRunner().invoke(evaluate, [str(fake_bundle()), "--manifest", str(colours), "--attacks"])
    assert isinstance(result.exception, RunError)
    assert "0 of the subjects are checkpoints" in str(result.exception)


def test_a_checkpoint_is_evaluated_with_corruptions_and_attacks_on_the_command_line(colours, tmp_path):
    recipe = recipe_from_dict(
        {"train": {"teachers": ["test_resnet@32"], "pretrained": False, "fit": {"epochs": 1, "batch_size": 8}}}
    )
    train_ensemble(colours, recipe, tmp_path / "run", device=torch.device("cpu"), report=lambda _: None)
    out = tmp_path / "figures.json"
    arguments = [
        tmp_path / "run" / "member-0.safetensors",
        "--manifest",
        colours,
        "--no-slices",
        "--corruptions",
        "--attacks",
        "--out",
        out,
    ]
    result = CliRunner().invoke(evaluate, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    (figures,) = json.loads(out.read_text())["subjects"]
    assert figures["attacks"]["count"] == 28  # two of the thirty are not sure
    assert set(figures["attacks"]["PGD-10"]) == {"1/255", "2/255", "4/255"}
    assert set(figures["corruptions"]["mean"]) == {"1", "2", "3", "4", "5"}
    assert "white-box on" in result.output


def sure_logits(random, count: int) -> np.ndarray:
    return np.eye(3)[random.integers(0, 3, count)] * random.uniform(4, 8, (count, 1))


def test_a_subject_that_is_sure_of_logos_only_distinguishes_every_family(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8), "black").save(tmp_path / "black.png")
    paths = {name: [tmp_path / "black.png"] * 20 for name in families_of("held_out")}
    asked = []
    monkeypatch.setattr(robustness, "outlier_paths", lambda part, count: asked.append((part, count)) or paths)
    random = np.random.default_rng(0)
    subject = Subject(
        "s", "onnx", ("a", "b", "c"), lambda images: random.uniform(0, 0.5, (len(images), 3)), abstain_below=0.9
    )
    logits = {split: sure_logits(random, 60) for split in ("val", "calib")}
    (figures,) = evaluate_outliers([subject], [logits], "val", lambda _: None, count=20)
    assert asked == [("held_out", 20)]
    assert set(figures["auroc"]) == set(figures["answered"]) == set(figures["rejected"]) == set(families_of("held_out"))
    assert all(value == 1.0 for value in (*figures["auroc"].values(), *figures["auroc_together"].values()))
    assert all(figure["value"] == 1.0 for figure in figures["rejected"].values())
    assert all(figure["value"] == 0.0 for figure in figures["answered"].values())
    assert figures["logos_rejected"]["value"] < 0.1  # the threshold of calib, at a rate of 5 %
    assert set(figures["near"]) == {"emoji", "emoji-fxemoji", "flags", "flags-flagpack"}


def test_far_and_near_families_are_taken_together_and_the_worst_far_one_is_named():
    scores = np.array([3.0, 4.0, 5.0, 6.0])
    outside = {"noise": np.array([1.0, 2.0]), "charts": np.array([2.0, 5.5]), "emoji": np.array([7.0, 4.5])}
    answered = {"noise": np.array([False, False]), "charts": np.array([True, False]), "emoji": np.array([True, True])}
    record = compare_with_outliers(scores, outside, 3.5, answered)
    assert record["auroc"] == {"noise": 1.0, "charts": 5 / 8, "emoji": 2 / 8}
    assert record["auroc_together"] == {"far": 13 / 16, "near": 2 / 8}
    assert record["worst_far"] == "charts"
    assert {kind: figure["value"] for kind, figure in record["answered_together"].items()} == {"far": 0.25, "near": 1.0}
    assert {name: figure["value"] for name, figure in record["rejected"].items()} == {
        "noise": 1.0,
        "charts": 0.5,
        "emoji": 0.0,
    }
    assert record["logos_rejected"]["value"] == 0.25
    assert (record["count"], record["logos"]) == ({"noise": 2, "charts": 2, "emoji": 2}, 4)


def test_a_bundle_calls_no_logo_what_its_own_threshold_does(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8), "black").save(tmp_path / "black.png")
    monkeypatch.setattr(robustness, "outlier_paths", lambda part, count: {"noise": [tmp_path / "black.png"] * 4})
    random = np.random.default_rng(0)
    logits = {split: sure_logits(random, 60) for split in ("val", "calib")}
    subject = Subject(
        "s", "bundle", ("a", "b", "c"), lambda images: np.zeros((len(images), 3)), familiarity=Familiarity(1.0, 0.05)
    )
    (figures,) = evaluate_outliers([subject], [logits], "val", lambda _: None)
    assert figures["threshold"] == 1.0
    assert figures["rejected"]["noise"]["value"] == 0.0  # log 3 is above it


def test_auroc_counts_pairs():
    inside, outside = np.array([0.9, 0.8, 0.7, 0.3]), np.array([0.1, 0.2, 0.6, 0.75])
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert auroc(inside, outside) == pytest.approx(np.mean(pairs))
