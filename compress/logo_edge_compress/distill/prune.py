"""A convolutional student with whole channels taken out, so that every later stage sees a plain, smaller network.

Which layers share channels, and lose them together, is found by torch-pruning (Fang et al. 2023, arXiv:2301.12900).
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
from logo_edge_train.models import Body, LogoNetwork, normalise
from logo_edge_train.recipe import PruneConfig

BATCH = 32
STEPS = 60  # of equal numbers of channels, at most
MOST = 0.9  # of the channels of a layer, or of all


def prune_channels(
    network: LogoNetwork, config: PruneConfig, manifest: Manifest, classes: tuple[str, ...], contract: InputContract
) -> LogoNetwork:
    """A copy of the network with channels taken out, those over all layers that matter least, until `config.share` of its
    multiplications are gone.

    Taylor's importance is that of the cross-entropy on labelled logos of the train split. Inputs and outputs stay as they
    are. It is worse than before until it has learned again. A checkpoint of it is read like that of the whole network:
    `models.resize_layers`. Raises RunError for a network with attention or more than timm's own layers,
    MissingExtraError without torch-pruning.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise MissingExtraError("compress", "torch-pruning") from error
    if set(network.name.split("+")[1:]) - {"details"} or hasattr(network.backbone, "num_prefix_tokens"):
        raise RunError(
            f"{network.name} cannot lose channels; expected one of timm's convolutional networks, or share = 0"
        )
    pruned = (
        copy.deepcopy(network).cpu().eval().requires_grad_(True)
    )  # an average of weights, such as `fit` gives, learns not
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
        for part, wanted in zip(pixels.split(BATCH), torch.from_numpy(targets).split(BATCH), strict=True):
            functional.cross_entropy(body(normalise(part))[0], wanted).backward()
        for parameter in body.parameters():  # the epistemic head has no part in that loss
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    wanted = (1 - config.share) * count_macs(network, contract.size_px)
    for _ in range(STEPS):
        if count_macs(pruned, contract.size_px) <= wanted:
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
