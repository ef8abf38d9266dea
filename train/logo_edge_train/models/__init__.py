"""The networks that can be trained: timm's, and this project's own beside them."""

from logo_edge_train.models.network import (
    MEAN,
    PRETRAINED_PREFIX,
    SCALE,
    LogoNetwork,
    attention_entropy,
    attention_layers,
    build_body,
    each_attention,
    load_imagenet_weights,
    normalise,
)

__all__ = [
    "MEAN",
    "PRETRAINED_PREFIX",
    "SCALE",
    "LogoNetwork",
    "attention_entropy",
    "attention_layers",
    "build_body",
    "each_attention",
    "load_imagenet_weights",
    "normalise",
]
