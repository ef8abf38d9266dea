"""A timm network that is told what can be measured of a logo: `backbone+measures`, such as `tf_efficientnet_lite0+measures`."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from logo_edge.errors import RecipeError
from logo_edge_train.models.extractors import MEASURES, count_statistics, soft_ink
from logo_edge_train.models.normalise import to_colours

WIDTH = 64  # of what the classifier reads of the statistics
MEASURED_PX = 96  # larger planes are averaged down to about this: measuring costs by the pixel, and says little more
FAR = 3.0  # standard deviations, beyond which a statistic says no more


class MeasuredNetwork(nn.Module):
    """(B, C, S, S) planes of 0 to 1 after `mean` and `scale`, RGB first -> (B, K) logits, with timm's interface.

    The classifier reads what `body` pools, and beside it the statistics of colour, lettering and contour
    (models/extractors.py), standardised over what was seen and passed through one hidden layer. In `forward_features` they
    stand as WIDTH more channels, alike everywhere. No gradient passes to the pixels through them. Raises RecipeError for a
    body without maps of features, such as a transformer.
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
        self.body, self.standardise = body, nn.BatchNorm1d(count, eps=1e-6, affine=False)  # members are kept in float16
        self.project = nn.Sequential(nn.Linear(count, WIDTH), nn.GELU())
        self.dropout, self.num_features = nn.Dropout(dropout), self.channels + WIDTH
        self.head_hidden_size = pooled + WIDTH
        self.reset_classifier(classes)

    def reset_classifier(self, num_classes: int) -> None:
        self.classifier = nn.Linear(self.head_hidden_size, num_classes)

    def get_classifier(self) -> nn.Linear:
        return self.classifier

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the body computes anew in the backward pass what it would otherwise keep."""
        self.body.set_grad_checkpointing(enable)

    def forward_features(self, planes: torch.Tensor) -> torch.Tensor:
        """(B, C + WIDTH, H, W)."""
        features = self.body.forward_features(planes)
        told = self.project(self.standardise(self.measure(planes)).clamp(-FAR, FAR))
        return torch.cat([features, told[:, :, None, None].expand(-1, -1, *features.shape[2:])], 1)

    @torch.no_grad()
    def measure(self, planes: torch.Tensor) -> torch.Tensor:
        """(B, F) float32: all statistics of (B, C, S, S) normalised planes, of RGB alone."""
        with torch.autocast(planes.device.type, enabled=False):
            smaller = functional.avg_pool2d(planes[:, :3].float(), max(1, planes.shape[-1] // MEASURED_PX))
            colours = to_colours(smaller)
            ink = soft_ink(colours)
            return torch.cat([measure(colours, ink) for measure in MEASURES], 1)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(B, K) logits of the maps; with `pre_logits` what the classifier reads."""
        pooled = self.body.forward_head(features[:, : self.channels], pre_logits=True)
        read = self.dropout(torch.cat([pooled, features[:, self.channels :].mean((2, 3))], 1))
        return read if pre_logits else self.classifier(read)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(planes))
