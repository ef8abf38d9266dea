"""The losses of a student: predictions, votes, features, attention, relations, epistemic output, attacked views."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import torch
from torch import nn
from torch.nn import functional

from logo_edge_train.fit import Objective
from logo_edge_train.losses import binary_cross_entropy, match_width
from logo_edge_train.models import Answer, LogoNetwork, epistemic_loss
from logo_edge_train.recipe import DistillConfig

GRID = 4  # side of the attention grid that is matched
ANGLES = 2.0  # the weight of angles, relative to that of distances, as in Park et al.


def matches(config: DistillConfig) -> bool:
    """Whether the student matches features, attention or relations besides predictions."""
    return bool(config.feature_weight or config.attention_weight or config.relation_weight)


def further_targets(answers: list[Answer], config: DistillConfig) -> tuple[torch.Tensor, ...]:
    """Targets besides logits: features (B, F) and attention (B, GRID * GRID), or a single teacher's evidence (B, 1).

    Features are the concatenation of all teachers', each normalised to length 1; attention is the teachers' mean.
    """
    if matches(config):
        features = torch.cat([functional.normalize(answer.features, dim=1) for answer in answers], 1)
        return features, torch.stack([answer.maps for answer in answers]).mean(0)
    return (answers[0].evidence,) if config.epistemic != "off" and answers[0].evidence is not None else ()


def distillation_objective(
    config: DistillConfig, ask: Callable[..., tuple[torch.Tensor, ...]] | None, *, multi_label: bool = False
) -> Objective:
    """The named losses of a student, weighted by the recipe.

    `ask` returns the teachers' outputs for a batch (`SoftTargets.answer`); None: the batch contains them.

    - `distillation`: T^2 KL(teachers || student) at temperature T, to the ensemble's mean softened prediction (Hinton
      et al. 2015, arXiv:1503.02531).
    - `votes`: cross-entropy on the annotators' votes of labelled images.
    - `features`: 1 - cosine between a linear map of the student's pooled features and the teachers' (Romero et al.
      2015, arXiv:1412.6550).
    - `attention`: squared distance of the last maps' energies (Zagoruyko and Komodakis 2017, arXiv:1612.03928).
    - `relations`: differences of distances and angles between the images of a batch, or of a part of it (Park et al.
      2019, arXiv:1904.05068).
    - `epistemic`: that of models/epistemic.py, or the squared difference from a single teacher's own evidence.

    With `adversarial_radius` the student learns on attacked views (Goldblum et al. 2020, arXiv:1905.09747). With
    `multi_label`, the soft targets are the mean of the teachers' softened sigmoids, KL and cross-entropy are summed
    over the labels, and votes are those of `SoftTargets.collate`.
    """
    temperature = config.temperature

    def objective(network, views, votes, *batch):
        teacher_logits, *further = ask(*batch) if ask else batch
        if multi_label:
            soft = (teacher_logits / temperature).sigmoid().mean(1)  # (B, K)
            own_entropy = binary_cross_entropy(soft.logit(eps=1e-6), soft)  # (B,)
        else:
            widened = match_width(teacher_logits, votes)
            soft = (widened / temperature).softmax(2).mean(1)  # (B, K), with outliers (B, K + 1)

        def diverge(logits):
            if multi_label:
                return (binary_cross_entropy(logits / temperature, soft) - own_entropy).mean()
            log_probabilities = (match_width(logits, votes) / temperature).log_softmax(1)
            return functional.kl_div(log_probabilities, soft, reduction="batchmean")

        def differ(logits):
            if multi_label:
                return (votes[:, -1] * binary_cross_entropy(logits, votes[:, :-1])).mean()
            return -(votes * match_width(logits, votes).log_softmax(1)).sum(1).mean()

        if config.adversarial_radius:
            views = attack_views(network, views, diverge, config.adversarial_radius)
        all_outputs = matches(config) or config.epistemic != "off"
        answer = network.answer(views) if all_outputs else Answer(network(views), None, None, None)
        logits = answer.logits.float()  # (B, K)
        losses = {
            "distillation": (1 - config.hard_weight) * temperature**2 * diverge(logits),
            "votes": config.hard_weight * differ(logits),
        }
        if matches(config):
            losses |= _match(network, answer, *further, config)
        if config.epistemic != "off":
            evidence = answer.evidence.float()
            if further and not matches(config):
                loss = functional.mse_loss(evidence, further[0])
            else:
                loss = epistemic_loss(config.epistemic, logits, evidence, teacher_logits)
            losses["epistemic"] = config.epistemic_weight * loss
        return losses

    return objective


def _match(
    network: LogoNetwork, answer: Answer, features: torch.Tensor, attention: torch.Tensor, config: DistillConfig
) -> dict[str, torch.Tensor]:
    losses, own = {}, answer.features.float()
    if config.feature_weight:
        distances = 1 - functional.cosine_similarity(network.match(own), features)
        losses["features"] = config.feature_weight * distances.mean()
    if config.attention_weight:
        distances = (attention_map(answer.maps, network) - attention).square().sum(1)
        losses["attention"] = config.attention_weight * distances.mean()
    if config.relation_weight:
        losses["relations"] = config.relation_weight * relation_loss(own, features)
    return losses


def attention_map(maps: torch.Tensor, network: LogoNetwork) -> torch.Tensor:
    """(B, GRID * GRID) of length 1: the energy of maps (B, C, H, W), or tokens (B, N, C), on one grid for all sizes."""
    maps = maps.float()
    if maps.ndim == 3:
        patches = maps[:, network.backbone.num_prefix_tokens :].transpose(1, 2)
        maps = patches.unflatten(2, (isqrt(patches.shape[2]), -1))
    strength = functional.adaptive_avg_pool2d(maps.square().mean(1, keepdim=True), GRID)
    return functional.normalize(strength.flatten(1), dim=1)


def relation_loss(own: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The difference between distances and angles within features (B, F) and within (B, G); 0 for one image."""
    distances, angles = (functional.smooth_l1_loss(measure(own), measure(target)) for measure in (_distances, _angles))
    return distances + ANGLES * angles


def _distances(features: torch.Tensor) -> torch.Tensor:
    """(B, B) distances between images, divided by their mean."""
    squares = features.square().sum(1)
    distances = (squares[:, None] + squares - 2 * features @ features.T).clamp(min=1e-12).sqrt()
    distances = distances * (1 - torch.eye(len(features), device=features.device))
    return distances / distances.sum().clamp(min=1e-6) * max(1, len(features) * (len(features) - 1))


def _angles(features: torch.Tensor) -> torch.Tensor:
    """(B, B, B) cosines of the angle at the first image between the second and the third."""
    directions = functional.normalize(features[None] - features[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


def attack_views(
    network: nn.Module, views: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor], radius: float
) -> torch.Tensor:
    """(B, S, S, C) views of 0 to 255, attacked to raise the loss: noise of 2 radii, then a step of one radius.

    The noise is strong and the result is not clipped to the radius: with weaker noise, a network soon learns to
    withstand this step and no other attack. N-FGSM, de Jorge et al. 2022, arXiv:2202.01181.
    """
    noisy = (views + torch.empty_like(views).uniform_(-2 * radius, 2 * radius)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(network(noisy).float()), noisy)
    return (noisy + radius * gradient.sign()).clamp(0, 255).detach()
