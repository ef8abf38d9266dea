"""The networks: those of timm, and this project's own."""

from logo_edge_train.models.attention import (
    attention_entropy,
    attention_focus,
    attention_layers,
    attention_maps,
    near_ink,
    open_attention,
    patch_mass,
)
from logo_edge_train.models.bayesian import BayesianLinear, bayesian_layers, mean_weights
from logo_edge_train.models.epistemic import EpistemicHead, epistemic_loss, epistemic_nats, mutual_information
from logo_edge_train.models.extractors import find_ink
from logo_edge_train.models.imagenet import has_imagenet_weights, load_imagenet_weights
from logo_edge_train.models.logo_vit import LogoViT, Prediction
from logo_edge_train.models.network import Answer, Body, LogoNetwork, build_body, check_network, is_sized, resize_layers
from logo_edge_train.models.normalise import MEAN, SCALE, normalise

__all__ = [
    "MEAN",
    "SCALE",
    "Answer",
    "BayesianLinear",
    "Body",
    "EpistemicHead",
    "LogoNetwork",
    "LogoViT",
    "Prediction",
    "attention_entropy",
    "attention_focus",
    "attention_layers",
    "attention_maps",
    "bayesian_layers",
    "build_body",
    "check_network",
    "epistemic_loss",
    "epistemic_nats",
    "find_ink",
    "has_imagenet_weights",
    "is_sized",
    "load_imagenet_weights",
    "mean_weights",
    "mutual_information",
    "near_ink",
    "normalise",
    "open_attention",
    "patch_mass",
    "resize_layers",
]
