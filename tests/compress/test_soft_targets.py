"""What a student learns from: the views and answers of its teachers, votes, and attacked views."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from logo_edge.preprocess import InputContract
from logo_edge_compress.distill.losses import attack_views, distillation_objective
from logo_edge_compress.distill.soft_targets import SoftTargets
from logo_edge_train.models import LogoNetwork
from logo_edge_train.recipe import DistillConfig

MODEL = "test_resnet"


def test_the_teachers_see_the_very_views_of_the_student_and_the_same_batch_twice_is_the_same():
    torch.manual_seed(0)
    teachers = [LogoNetwork(MODEL, 3).eval() for _ in range(2)]
    contracts = [InputContract(48), InputContract(40)]
    soft_targets = SoftTargets(teachers, contracts, InputContract(32), DistillConfig(p_mixup=1.0, temperature=2.0))
    pictures = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    items = list(zip(pictures, torch.eye(3)[[0, 1, 2, 0]], [7, 8, 9, 10], strict=True))
    views, votes, logits = soft_targets.collate(items)
    again = soft_targets.collate(items)
    assert views.shape == (4, 32, 32, 3)
    assert logits.shape == (4, 2, 3)
    assert not votes.any(), "of mixed views no vote holds"
    assert all(torch.equal(a, b) for a, b in zip((views, votes, logits), again, strict=True))


@torch.no_grad()
def test_the_votes_weigh_the_same_whether_a_batch_is_learned_from_whole_or_in_parts():
    torch.manual_seed(0)
    network, teacher = (LogoNetwork(MODEL, 3).eval() for _ in range(2))
    config = DistillConfig(p_mixup=0.0, hard_weight=0.5)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    targets = torch.zeros(6, 3)
    targets[[0, 1, 4], [2, 0, 1]] = 1  # half of the logos are labelled, in unequal parts of the batch
    contract = InputContract(32)
    batch = SoftTargets([teacher], [contract], contract, config).collate(
        list(zip(pixels, targets, range(6), strict=True))
    )
    objective = distillation_objective(config, None)
    whole = objective(network, *batch)
    parts = [objective(network, *part) for part in zip(*(tensor.chunk(3) for tensor in batch), strict=True)]
    for name, loss in whole.items():
        assert sum(float(part[name]) for part in parts) / 3 == pytest.approx(float(loss), rel=1e-3), name
    plain = -(targets * network(torch.from_numpy(pixels)).log_softmax(1)).sum() / 3
    assert float(whole["votes"]) == pytest.approx(0.5 * float(plain), rel=1e-4)


def test_teachers_that_are_asked_in_turn_say_in_the_mean_what_all_of_them_say():
    torch.manual_seed(0)
    teachers = [LogoNetwork(MODEL, 3).eval() for _ in range(3)]
    pixels, contract = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8), InputContract(32)

    def ask(teachers_per_batch, position):
        config = DistillConfig(teachers_per_batch=teachers_per_batch, p_mixup=0.0)
        soft_targets = SoftTargets(teachers, [contract] * 3, contract, config)
        logits = soft_targets.collate(list(zip(pixels, torch.eye(3)[:2], [position, 0], strict=True)))[2]
        return (logits / config.temperature).softmax(2).mean(1)

    alone = [ask(1, position) for position in range(60)]
    assert len({tuple(soft.flatten().tolist()) for soft in alone}) == 3, "each teacher is asked at some time"
    assert (torch.stack(alone).mean(0) - ask(0, 0)).abs().max() < 0.1 * torch.stack(alone).std(0).max() + 0.02


def test_attacked_views_stay_within_noise_and_step_and_harm_the_student():
    torch.manual_seed(0)
    network = LogoNetwork(MODEL, 3).train()
    views = torch.randint(0, 256, (16, 32, 32, 3), generator=torch.Generator().manual_seed(1)).float()
    targets = torch.arange(16) % 3

    def loss(logits):
        return torch.nn.functional.cross_entropy(logits, targets)

    attacked = attack_views(network, views, loss, 8.0)
    assert 16 < (attacked - views).abs().max() <= 24 + 1e-4
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    assert not attacked.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters()), "the attack leaves no gradient behind"
    noise = (views + 16 * (2 * torch.rand(views.shape) - 1)).clamp(0, 255)
    assert loss(network(attacked)) > loss(network(noise)) + 0.01


def test_a_student_that_learns_on_attacked_views_normalises_by_the_statistics_it_had():
    network = LogoNetwork(MODEL, 3)
    network.keep_statistics()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()
    network(torch.randint(0, 256, (8, 32, 32, 3))).sum().backward()
    assert len(before) > 4
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert all(parameter.grad is not None for parameter in network.parameters()), "scale and shift are learned"


def test_freezing_the_first_blocks_takes_back_no_statistics_that_were_to_be_kept():
    network = LogoNetwork("mobilenetv4_conv_small_050", 3)
    network.keep_statistics()
    network.freeze(1)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network.train()(torch.randint(0, 256, (8, 32, 32, 3)))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
