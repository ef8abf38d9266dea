"""LogoNetwork: a backbone behind a fixed normalisation, which reads uint8 images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

import timm
import torch
from timm.models import EfficientNet
from torch import nn

from logo_edge.errors import RecipeError, RunError
from logo_edge.preprocess import InputContract
from logo_edge_train.models.bayesian import BayesianLinear
from logo_edge_train.models.composed import ComposedNetwork
from logo_edge_train.models.epistemic import EpistemicHead, epistemic_nats
from logo_edge_train.models.feature_network import MeasuredNetwork
from logo_edge_train.models.imagenet import load_imagenet_weights
from logo_edge_train.models.logo_vit import Prediction
from logo_edge_train.models.normalise import normalise


@dataclass(frozen=True)
class Answer:
    """The outputs of a network: logits (B, K), pooled features (B, F), last maps or tokens, evidence (B, 1) or None."""

    logits: torch.Tensor
    features: torch.Tensor
    maps: torch.Tensor
    evidence: torch.Tensor | None


class LogoNetwork(nn.Module):
    """(B, S, S, C) uint8 -> (B, K) float32 logits, before temperature; RGB first.

    `name` is a timm name, `backbone:5` (the first five stages of an EfficientNet), `backbone+measures` (with statistics
    of the image, feature_network.py) or `backbone+attention+head` (composed.py). With `+details` after the backbone, it
    reads the four detail planes besides RGB. `size_px` is S, for backbones with a fixed input size; 0: their default.
    Raises RecipeError for an unknown name.
    """

    def __init__(self, name: str, classes: int, *, size_px: int = 0, dropout: float = 0.0, pretrained: bool = False):
        super().__init__()
        self.name, self.frozen, self.channels = name, [], count_channels(name)
        self.epistemic: EpistemicHead | None = None
        self.backbone = build_backbone(name, classes, size_px=size_px, dropout=dropout, pretrained=pretrained)
        if pretrained:
            nn.init.zeros_(self.backbone.get_classifier().weight)  # no random gradient into the pretrained layers

    def freeze(self, blocks: int) -> None:
        """Freezes the stem and the first `blocks` stages: no gradients, no updates of BatchNorm statistics.

        Raises RecipeError if the network has no stages, or reads detail planes, which its stem must learn.
        """
        body = _body(self.backbone)
        if self.channels > 3:
            raise RecipeError(f"{self.name}: the stem must learn the detail planes; set frozen_blocks = -1")
        if not all(hasattr(body, part) for part in ("conv_stem", "bn1", "blocks")):
            raise RecipeError(f"{self.name} has no stem and stages that can be frozen; set frozen_blocks = -1")
        frozen = [body.conv_stem, body.bn1, *body.blocks[:blocks]]
        for module in frozen:
            module.eval().requires_grad_(False)
        self.frozen += frozen

    def keep_statistics(self) -> None:
        """Freezes BatchNorm statistics: training uses the running statistics, not those of the batch."""
        self.frozen += [module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self.train(self.training)

    def checkpoint_gradients(self) -> None:
        """Recomputes activations in the backward pass, to save memory. Chen et al. 2016, arXiv:1604.06174.

        Raises RecipeError if the network does not support it.
        """
        try:
            self.backbone.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise RecipeError(f"{self.name} cannot recompute activations; set grad_checkpointing = false") from error

    def train(self, mode: bool = True) -> LogoNetwork:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def learn_features(self, size_px: int) -> int:
        """F, the feature width; freezes parameters that do not affect the features, such as the classifier."""
        features = self.eval().features(torch.zeros(1, size_px, size_px, self.channels, dtype=torch.uint8))  # (1, F)
        features.sum().backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None).grad = None
        return features.shape[1]

    @property
    def float32_bytes(self) -> int:
        """The size of the parameters in float32."""
        return 4 * sum(parameter.numel() for parameter in self.parameters())

    def learn_variance(self) -> None:
        """Makes the head of log variances trainable. Raises RecipeError for a network without one."""
        if not hasattr(self.backbone, "predict"):
            raise RecipeError(
                f"{self.name} has no head of log variances; take a logo_vit, or set train.fit.aleatoric = false"
            )
        self.backbone.log_variance.requires_grad_(True)

    @torch.no_grad()
    def count_features(self) -> int:
        """F, the feature width."""
        mode, patches = self.training, getattr(_body(self.backbone), "patch_embed", None)
        side = patches.img_size[0] if patches is not None else 64
        features = self.eval().features(torch.zeros(1, side, side, self.channels, dtype=torch.uint8))  # (1, F)
        self.train(mode)
        return features.shape[1]

    def learn_epistemic(self, kind: str) -> None:
        """Adds an untrained epistemic head of that kind (models/epistemic.py)."""
        self.epistemic = EpistemicHead(kind, self.count_features())

    def learn_deviations(self, prior_deviation: float, first_deviation: float) -> None:
        """Replaces the classifier by a BayesianLinear around its weights. Raises RecipeError if it is not linear."""
        classifier = self.backbone.get_classifier()
        if not isinstance(classifier, nn.Linear) or classifier.bias is None:
            raise RecipeError(f"{self.name} has no linear classifier with a bias; set train.bayes.enabled = false")
        name = next(name for name, module in self.backbone.named_modules() if module is classifier)
        layer = BayesianLinear(classifier, prior_deviation, first_deviation)
        self.backbone.set_submodule(name, layer)

    def forward(self, pixels: torch.Tensor, whole: bool = False) -> torch.Tensor | Prediction:
        """The logits; with `whole` all outputs of a LogoViT."""
        return self.backbone.predict(normalise(pixels)) if whole else self.backbone(normalise(pixels))

    def answer(self, pixels: torch.Tensor) -> Answer:
        """All outputs for (B, S, S, C) uint8 pixels."""
        maps = self.backbone.forward_features(normalise(pixels))
        features = self.backbone.forward_head(maps, pre_logits=True)
        evidence = self.epistemic(features) if self.epistemic else None
        return Answer(self.backbone.forward_head(maps), features, maps, evidence)

    def epistemic_nats(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B,) 0 to log K: the epistemic uncertainty for (B, S, S, C) uint8 pixels; needs an epistemic head."""
        answer = self.answer(pixels)
        return epistemic_nats(self.epistemic.kind, answer.logits, answer.evidence)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, F): the input of the classifier for (B, S, S, C) uint8 pixels."""
        return self.backbone.forward_head(self.backbone.forward_features(normalise(pixels)), pre_logits=True)

    def stage_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, G): mean and standard deviation over positions of every channel of every stage, for (B, S, S, C) pixels.

        Raises RecipeError if timm does not give the stages of the network.
        """
        body = _body(self.backbone)
        if not hasattr(body, "forward_intermediates"):
            raise RecipeError(f"{self.name} does not give its stages; expected a timm network")
        maps = body.forward_intermediates(normalise(pixels), intermediates_only=True)  # each (B, C, H, W)
        return torch.cat([moment for part in maps for moment in (part.mean((2, 3)), part.std((2, 3), correction=0))], 1)


class Body(nn.Module):
    """A network without its normalisation: (B, C, S, S) planes -> logits and, with an epistemic head, evidence."""

    def __init__(self, network: LogoNetwork):
        super().__init__()
        self.backbone, self.epistemic = network.backbone, network.epistemic

    def forward(self, planes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.epistemic is None:
            return (self.backbone(planes),)
        maps = self.backbone.forward_features(planes)
        return self.backbone.forward_head(maps), self.epistemic(self.backbone.forward_head(maps, pre_logits=True))


def resize_layers(network: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Narrows the layers to the tensors of a pruned network's checkpoint (compress: distill/prune.py).

    Raises RunError if a tensor is larger than its layer: the checkpoint belongs to another network.
    """
    for name, module in network.named_modules():
        own = {**module._parameters, **module._buffers}
        shapes = {
            key: tensors[f"{name}.{key}"].shape
            for key, tensor in own.items()
            if tensor is not None and f"{name}.{key}" in tensors and tensors[f"{name}.{key}"].shape != tensor.shape
        }
        for key, shape in shapes.items():
            before = own[key].shape
            if len(shape) != len(before) or any(new > old for new, old in zip(shape, before, strict=True)):
                raise RunError(
                    f"the checkpoint's {name}.{key} is {tuple(shape)}, the network's {tuple(before)}; expected the "
                    "same network, or one with fewer channels"
                )
            if key in module._parameters:
                module._parameters[key] = nn.Parameter(own[key].new_empty(shape))
            else:
                module._buffers[key] = own[key].new_empty(shape)
        if not shapes:
            continue
        if isinstance(module, nn.Conv2d):
            depthwise = 1 < module.groups == module.in_channels
            module.out_channels, width = module.weight.shape[:2]
            module.groups = module.out_channels if depthwise else module.groups
            module.in_channels = width * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_features = len(module.weight)


def check_network(name: str, size_px: int, *, frozen_blocks: int = -1, grad_checkpointing: bool = False) -> None:
    """Raises RecipeError if the network cannot be built, or does not support the switches that are on.

    Builds it on PyTorch's meta device, without memory for weights. Does not change the random state.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            network = LogoNetwork(name, 2, size_px=size_px)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:  # timm raises many kinds
            raise RecipeError(f"{name} at {size_px} px cannot be built: {error}") from error
    if frozen_blocks >= 0:
        network.freeze(frozen_blocks)
    if grad_checkpointing:
        network.checkpoint_gradients()


def count_channels(name: str) -> int:
    """The number of input channels of the network of that name."""
    return InputContract(details="details" in name.split("+")).channels


def is_sized(name: str) -> bool:
    """Whether the network of that name has a fixed input size."""
    return timm.get_pretrained_cfg(re.split("[:+]", name)[0]).fixed_input_size


def build_backbone(
    name: str, classes: int, *, size_px: int = 0, dropout: float = 0.0, pretrained: bool = False
) -> nn.Module:
    """(B, C, S, S) normalised planes -> (B, K) logits: a timm network, or a network built on one.

    Raises RecipeError for an unknown name, or with `pretrained` for a network without ImageNet weights.
    """
    body_name, *blocks = name.split("+")
    channels = count_channels(name)
    if blocks[:1] == ["details"]:
        blocks = blocks[1:]
    if (len(blocks) not in (0, 2) and blocks != ["measures"]) or "details" in blocks:
        raise RecipeError(
            f"network {name!r}; expected a timm name, backbone+measures, or backbone+attention+head; for detail "
            "planes with +details after the backbone"
        )
    body = build_body(body_name, classes, size_px=size_px, channels=channels, dropout=dropout, pretrained=pretrained)
    if blocks == ["measures"]:
        return MeasuredNetwork(body, classes, channels=channels, dropout=dropout)
    return ComposedNetwork(body, *blocks, classes, dropout=dropout) if blocks else body


def _body(backbone: nn.Module) -> nn.Module:
    """The timm network inside a composed network, or the network itself."""
    if isinstance(backbone, ComposedNetwork):
        return backbone.trunk.body
    return backbone.body if isinstance(backbone, MeasuredNetwork) else backbone


def build_body(
    name: str, classes: int, *, size_px: int = 0, channels: int = 3, dropout: float = 0.0, pretrained: bool = False
) -> nn.Module:
    """The timm network of that name, or its first stages, for planes of `size_px`; 0: its default size."""
    name, cut, stages = name.partition(":")
    if name not in timm.list_models():
        close = ", ".join(get_close_matches(name, timm.list_models(), n=5))
        raise RecipeError(f"timm has no model {name!r}; close names: {close or 'none'}")
    size = {"img_size": size_px} if size_px and is_sized(name) else {}
    body = timm.create_model(name, num_classes=classes, in_chans=channels, drop_rate=dropout, **size)
    if pretrained:
        load_imagenet_weights(body, name)
    if cut:
        keep_stages(body, name, stages)
    return body


def keep_stages(body: nn.Module, name: str, stages: str) -> None:
    """Cuts an EfficientNet after that many stages; the classifier moves there. Late stages have most of the weights.

    Raises RecipeError for another network, or an invalid number of stages.
    """
    if not isinstance(body, EfficientNet):
        raise RecipeError(
            f"{name}:{stages}: found {type(body).__name__}; only an EfficientNet can be cut after a stage"
        )
    if not stages.isdigit() or not 1 <= int(stages) < len(body.blocks):
        raise RecipeError(f"{name}:{stages}: expected 1 to {len(body.blocks) - 1} stages, as in {name}:1")
    body.blocks = body.blocks[: int(stages)]
    last = body.blocks[-1][-1]
    body.num_features = body.head_hidden_size = (
        last.conv_pwl if hasattr(last, "conv_pwl") else last.conv_pw
    ).out_channels
    body.conv_head, body.bn2 = nn.Identity(), nn.Identity()
    body.stage_ends = [end for end in body.stage_ends if end <= int(stages)]
    body.feature_info = body.feature_info[: len(body.stage_ends)]
    body.reset_classifier(body.num_classes)
