"""A timm network with the statistics of `extractors` as extra features: `backbone+measures`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from logo_edge.errors import RecipeError
from logo_edge_train.models.extractors import MEASURES, count_statistics, soft_ink
from logo_edge_train.models.normalise import to_colours

WIDTH = 64  # of the features from the statistics
LARGEST_PX = 96  # larger planes are averaged down to about this size: cheaper, with similar statistics
FAR = 3.0  # standard deviations at which a statistic is clipped


class MeasuredNetwork(nn.Module):
    """(B, C, S, S) normalised planes, RGB first -> (B, K) logits, with timm's interface.

    The classifier reads the pooled features of `body` and the statistics of colour, lettering and contour
    (models/extractors.py), standardised by running statistics and passed through one hidden layer. In
    `forward_features` they are WIDTH further channels, constant over the map. No gradient flows through them to the
    pixels. Raises RecipeError for a body without feature maps, such as a transformer.
    """

    def __init__(self, body: nn.Module, classes: int, *, channels: int = 3, dropout: float = 0.0):
        super().__init__()
        with torch.no_grad():
            features = body.eval().forward_features(torch.zeros(1, channels, 64, 64))
            if features.ndim != 4:
                raise RecipeError(
                    f"{type(body).__name__} gives no maps of features for +measures; take a convolutional network"
                )
            self.channels, pooled = features.shape[1], body.forward_head(features, pre_logits=True).shape[1]
        body.reset_classifier(0)
        count = sum(map(count_statistics, MEASURES))
        self.body, self.standardise = body, nn.BatchNorm1d(count, eps=1e-6, affine=False)  # checkpoints are float16
        self.project = nn.Sequential(nn.Linear(count, WIDTH), nn.GELU())
        self.dropout, self.num_features = nn.Dropout(dropout), self.channels + WIDTH
        self.head_hidden_size = pooled + WIDTH
        self.reset_classifier(classes)

    def reset_classifier(self, num_classes: int) -> None:
        self.classifier = nn.Linear(self.head_hidden_size, num_classes)

    def get_classifier(self) -> nn.Linear:
        return self.classifier

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the body recomputes activations in the backward pass."""
        self.body.set_grad_checkpointing(enable)

    def forward_features(self, planes: torch.Tensor) -> torch.Tensor:
        """(B, C + WIDTH, H, W)."""
        features = self.body.forward_features(planes)
        statistics = self.project(self.standardise(self.measure(planes)).clamp(-FAR, FAR))
        return torch.cat([features, statistics[:, :, None, None].expand(-1, -1, *features.shape[2:])], 1)

    @torch.no_grad()
    def measure(self, planes: torch.Tensor) -> torch.Tensor:
        """(B, F) float32: all statistics of the RGB planes of (B, C, S, S) normalised planes."""
        with torch.autocast(planes.device.type, enabled=False):
            smaller = functional.avg_pool2d(planes[:, :3].float(), max(1, planes.shape[-1] // LARGEST_PX))
            colours = to_colours(smaller)
            ink = soft_ink(colours)
            return torch.cat([measure(colours, ink) for measure in MEASURES], 1)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(B, K) logits of the maps; with `pre_logits` the input of the classifier."""
        pooled = self.body.forward_head(features[:, : self.channels], pre_logits=True)
        read = self.dropout(torch.cat([pooled, features[:, self.channels :].mean((2, 3))], 1))
        return read if pre_logits else self.classifier(read)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(planes))
