"""Checkpoints: the weights of a network as safetensors, in float16."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save

from logo_edge.files import write_file
from logo_edge_train.keys import file_hash
from logo_edge_train.models import LogoNetwork, bayesian_layers, mean_weights, resize_layers
from logo_edge_train.recipe import Architecture, TrainConfig


def save_member(path: Path, network: torch.nn.Module) -> str:
    """Writes the network's weights as float16 safetensors and gives the file's sha256.

    Batch-norm statistics stay float32: their range may exceed that of float16.
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
    """The network of a checkpoint that `save_member` wrote, in evaluation mode, float32, with that dropout.

    With `drawing`, what it was fitted by, it keeps its dropout and its weights' distributions; else it is the network of
    its mean weights, a plain one.
    """
    dropout = drawing.fit.dropout if drawing else dropout
    network = LogoNetwork(architecture.model, classes, size_px=architecture.size_px, dropout=dropout)
    if drawing and drawing.bayes.enabled:
        network.learn_deviations(drawing.bayes.prior_deviation, drawing.bayes.first_deviation)
    load_weights(path, network)
    return network.eval()


def load_weights(path: Path, network: LogoNetwork) -> None:
    """Gives the network the weights of a checkpoint that `save_member` wrote of its like; a plain one the mean weights."""
    tensors = {
        key: tensor for key, tensor in load_file(path).items() if not key.startswith("match.")
    }  # of distillation
    if not bayesian_layers(network):
        tensors = mean_weights(tensors)
    if kinds := {key.split(".")[1] for key in tensors if key.startswith("epistemic.")}:
        network.learn_epistemic(*kinds)
    resize_layers(network, tensors)
    network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
