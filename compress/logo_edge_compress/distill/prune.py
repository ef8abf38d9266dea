"""Structured pruning: removes channels of a convolutional student, so that later stages see a plain, smaller network.

torch-pruning finds the layers that share channels and must lose them together (Fang et al. 2023, arXiv:2301.12900).
"""

from __future__ import annotations

import copy

import torch
from torch.nn import functional

from logo_edge.errors import MissingExtraError, RunError
from logo_edge.preprocess import InputContract
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import Manifest, targets_of
from logo_edge_train.data.pool import stratified_sample
from logo_edge_train.losses import binary_cross_entropy
from logo_edge_train.models import Body, LogoNetwork, normalise
from logo_edge_train.recipe import PruneConfig

BATCH = 32
STEPS = 60  # at most, with equal numbers of channels
MOST = 0.9  # share of the channels of a layer, or of all, that may be removed


def prune_channels(
    network: LogoNetwork, config: PruneConfig, manifest: Manifest, classes: tuple[str, ...], contract: InputContract
) -> LogoNetwork:
    """A copy of the network without its least important channels, over all layers.

    Channels are removed until `config.share` of the multiplications are gone. The Taylor importance uses the
    cross-entropy on labelled images of the train split. Inputs and outputs do not change. The network must be
    fine-tuned afterwards. Its checkpoint is read like that of the unpruned network: `models.resize_layers`. Raises
    RunError for a network with attention or with layers other than timm's, MissingExtraError without torch-pruning.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError("compress", "torch-pruning") from error
    if set(network.name.split("+")[1:]) - {"details"} or hasattr(network.backbone, "num_prefix_tokens"):
        raise RunError(
            f"{network.name} cannot lose channels; expected one of timm's convolutional networks, or share = 0"
        )
    # `fit` returns averaged weights, which do not require gradients
    pruned = copy.deepcopy(network).cpu().eval().requires_grad_(True)
    body = Body(pruned)
    importance = torch_pruning.importance
    taylor = config.importance == "taylor"
    pruner = torch_pruning.pruner.BasePruner(
        body,
        torch.zeros(2, contract.channels, contract.size_px, contract.size_px),
        global_pruning=True,
        pruning_ratio=MOST,
        iterative_steps=STEPS,
        importance=(importance.GroupTaylorImportance if taylor else importance.GroupMagnitudeImportance)(),
        round_to=config.round_to,
        max_pruning_ratio=MOST,
        ignored_layers=[pruned.backbone.get_classifier(), *([pruned.epistemic] if pruned.epistemic else [])],
    )
    if taylor:
        rows = stratified_sample(manifest.split("train"), config.images, seed=2)
        pixels, targets = torch.from_numpy(pixels_of(rows, manifest, contract)), targets_of(rows, classes)
        for part, labels in zip(pixels.split(BATCH), torch.from_numpy(targets).split(BATCH), strict=True):
            logits = body(normalise(part))[0]
            if manifest.multi_label:
                binary_cross_entropy(logits, labels.float()).mean().backward()
            else:
                functional.cross_entropy(logits, labels).backward()
        for parameter in body.parameters():  # that loss does not depend on the epistemic head
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    target = (1 - config.share) * count_macs(network, contract.size_px)
    for _ in range(STEPS):
        if count_macs(pruned, contract.size_px) <= target:
            break
        pruner.step()
    pruned.zero_grad()
    return pruned


def count_macs(network: LogoNetwork, size_px: int) -> int:
    """Multiplications with weights for one image."""
    import torch_pruning

    return int(
        torch_pruning.utils.count_ops_and_params(Body(network), torch.zeros(1, network.channels, size_px, size_px))[0]
    )
