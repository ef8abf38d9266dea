"""Checkpoints: the weights of a network as safetensors, in float16."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save

from logo_edge.files import write_file
from logo_edge_train.architecture import Architecture
from logo_edge_train.keys import file_hash
from logo_edge_train.models import LogoNetwork, bayesian_layers, mean_weights, resize_layers
from logo_edge_train.recipe import TrainConfig


def save_member(path: Path, network: torch.nn.Module) -> str:
    """Writes the network's weights as float16 safetensors; returns the file's sha256.

    BatchNorm statistics stay float32, since they may exceed the range of float16.
    """
    tensors = {
        key: (value.half() if value.ndim > 1 else value).detach().cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    write_file(path, save(tensors))
    return file_hash(path)


def load_network(
    path: Path, architecture: Architecture, classes: int, *, drawing: TrainConfig | None = None, dropout: float = 0.0
) -> LogoNetwork:
    """The network of a checkpoint of `save_member`, in evaluation mode and float32, with that dropout.

    With `drawing`, its training settings, it keeps its own dropout and its weights' distributions. Without, a Bayesian
    network has its mean weights.
    """
    dropout = drawing.fit.dropout if drawing else dropout
    network = LogoNetwork(architecture.model, classes, size_px=architecture.size_px, dropout=dropout)
    if drawing and drawing.bayes.enabled:
        network.learn_deviations(drawing.bayes.prior_deviation, drawing.bayes.first_deviation)
    load_weights(path, network)
    return network.eval()


def load_weights(path: Path, network: LogoNetwork) -> None:
    """Loads a checkpoint of `save_member` into a network of the same kind; a plain network gets the mean weights."""
    tensors = load_file(path)
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("match.")}  # of distillation
    if not bayesian_layers(network):
        tensors = mean_weights(tensors)
    if kinds := {key.split(".")[1] for key in tensors if key.startswith("epistemic.")}:
        network.learn_epistemic(*kinds)
    resize_layers(network, tensors)
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
