"""LogoViT: a vision transformer with extra inputs about logos. Registered with timm: `logo_vit_tiny@128`.

Three tokens of colour, lettering and contour (`extractors`) join the patches. Attention has biases for the offset of
two patches, for mirror images and for empty patches. A prior reads only the three tokens; a further head predicts the
variance of each logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from timm.layers import PatchEmbed
from timm.models import VisionTransformer, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from logo_edge.errors import RecipeError
from logo_edge_train.models.extractors import MEASURES, Measure, count_statistics, mirror_images, soft_ink
from logo_edge_train.models.normalise import to_colours

PATCH_PX = 16
PREFIX = 1 + len(MEASURES)  # the class token and one token per aspect
INK_SHARE = 0.02  # the share of ink from which a patch is not empty
INK_BIAS = 8.0  # initial penalty on the score of an empty patch: e^-8 of the weight of an inked one
LAYER_SCALE = 0.1  # initial value; Touvron et al. 2021, arXiv:2103.17239, for shallow networks
PRIOR_WIDTH = 64
LOG_VARIANCE = -2.0  # initial value


@dataclass(frozen=True)
class Prediction:
    """The outputs of a LogoViT, (B, K) each: logits (which include the prior's), prior logits, log variances."""

    logits: torch.Tensor
    prior_logits: torch.Tensor
    log_variance: torch.Tensor


class LogoViT(nn.Module):
    """(B, 3, S, S) normalised planes -> (B, K) logits, with timm's interface; S is `img_size`, a multiple of 16.

    Raises RecipeError for another size.
    """

    def __init__(
        self,
        img_size: int = 128,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 6,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ):
        super().__init__()
        if img_size % PATCH_PX:
            raise RecipeError(f"LogoViT at {img_size} px; expected a multiple of {PATCH_PX}")
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens, self.grad_checkpointing = PREFIX, False
        self.patch_embed = ConvPatchEmbed(img_size, PATCH_PX, in_chans, embed_dim)
        self.aspects = nn.ModuleList(AspectToken(measure, embed_dim) for measure in MEASURES)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias=True, init_values=LAYER_SCALE, attn_drop=attn_drop_rate)
            for _ in range(depth)
        )
        self.biases = nn.ModuleList(LogoBias(num_heads, img_size // PATCH_PX) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.prior_weight = nn.Parameter(torch.zeros(()))
        self.apply(_init_linear)
        for embedding in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(embedding, std=0.02)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """New heads for that many classes; 0: no heads, the output is the feature of the class token."""
        width, self.num_classes = self.embed_dim, num_classes
        if not num_classes:
            self.head, self.prior, self.log_variance = nn.Identity(), nn.Identity(), nn.Identity()
            return
        self.head, self.log_variance = nn.Linear(width, num_classes), nn.Linear(width, num_classes)
        self.prior = nn.Sequential(
            nn.Linear(len(MEASURES) * width, PRIOR_WIDTH), nn.GELU(), nn.Linear(PRIOR_WIDTH, num_classes)
        )
        for part in (self.head, self.prior, self.log_variance):
            part.apply(_init_linear)
        nn.init.constant_(self.log_variance.bias, LOG_VARIANCE)
        self.log_variance.requires_grad_(False)  # until a loss uses it: ranks would wait for its gradient

    def get_classifier(self) -> nn.Module:
        return self.head

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the blocks recompute activations in the backward pass."""
        self.grad_checkpointing = enable

    def forward_features(self, planes: torch.Tensor) -> torch.Tensor:
        """(B, N, C): the class token, the tokens of colour, lettering and contour, then the patches."""
        colours = to_colours(planes)
        ink = soft_ink(colours)  # (B, 1, S, S)
        patches = self.patch_embed(planes) + self.pos_embed
        tokens = [
            self.cls_token.expand(planes.shape[0], -1, -1),
            *(aspect(colours, ink) for aspect in self.aspects),
            patches,
        ]
        x = torch.cat(tokens, 1)
        empty = 1 - (functional.avg_pool2d(ink, PATCH_PX).flatten(1) / INK_SHARE).clamp(max=1)  # (B, patches)
        for block, bias in zip(self.blocks, self.biases, strict=True):
            if self.grad_checkpointing and self.training:
                x = checkpoint(_run_block, block, bias, x, empty, use_reentrant=False)
            else:
                x = _run_block(block, bias, x, empty)
        return self.norm(x)

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """(B, K) logits from the output of `forward_features`; with `pre_logits` the classifier's input, (B, C)."""
        pooled = self.head_drop(features[:, 0])
        if pre_logits or not self.num_classes:
            return pooled
        return self.head(pooled) + self.prior_weight * self.forward_prior(features)

    def forward_prior(self, features: torch.Tensor) -> torch.Tensor:
        """(B, K): logits from the colour, lettering and contour tokens, which do not depend on patches."""
        return self.prior(features[:, 1:PREFIX].flatten(1))

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(planes))

    def predict(self, planes: torch.Tensor) -> Prediction:
        """The logits of `forward`, with the outputs for training and uncertainty."""
        features = self.forward_features(planes)
        pooled, prior = self.head_drop(features[:, 0]), self.forward_prior(features)
        return Prediction(self.head(pooled) + self.prior_weight * prior, prior, self.log_variance(pooled))


class ConvPatchEmbed(PatchEmbed):
    """timm's patch embedding with four 3 x 3 convolutions of stride 2. Xiao et al. 2021, arXiv:2106.14881."""

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        widths = [in_chans, embed_dim // 8, embed_dim // 4, embed_dim // 2]
        layers = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(widths[-1], embed_dim, 3, 2, 1))


class AspectToken(nn.Module):
    """One token, (B, 1, C): the projected statistics of one aspect."""

    def __init__(self, measure: Measure, width: int):
        super().__init__()
        self.measure = measure
        count = count_statistics(measure)
        self.project = nn.Sequential(nn.LayerNorm(count), nn.Linear(count, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, colours: torch.Tensor, ink: torch.Tensor) -> torch.Tensor:
        return self.project(self.measure(colours, ink))[:, None]


class LogoBias(nn.Module):
    """The bias on one layer's attention scores before the softmax, (B, H, N, N), learned for each head.

    Between two patches: a value for their offset, which initially falls with the distance (steepest in the first head,
    constant in the last), and a value for each symmetry that maps one to the other. For an empty patch: a penalty. The
    tokens of the aspects attend only to each other.
    """

    def __init__(self, heads: int, side: int):
        super().__init__()
        patches = torch.arange(side * side)
        row, column = patches // side, patches % side
        span = 2 * side - 1  # of the offsets along one axis
        offset = (row[:, None] - row + side - 1) * span + column[:, None] - column + side - 1
        images = [functional.one_hot(image.flatten(), side * side) for image in mirror_images(patches.view(side, side))]
        mask = torch.zeros(PREFIX + side * side, PREFIX + side * side)
        mask[1:PREFIX] = -torch.inf
        mask[1:PREFIX, 1:PREFIX] = 0
        self.register_buffer("offset", offset, persistent=False)  # (P, P), P patches
        self.register_buffer("images", torch.stack(images).float(), persistent=False)  # (7, P, P)
        self.register_buffer("mask", mask, persistent=False)  # (N, N)
        steps = torch.arange(1.0 - side, side)
        distance = torch.hypot(steps[:, None], steps).flatten()  # (span * span,)
        self.relative = nn.Parameter(-torch.linspace(1, 0, heads)[:, None] * distance)
        self.symmetry = nn.Parameter(torch.zeros(heads, len(images)))
        self.ink = nn.Parameter(torch.full((heads,), INK_BIAS))

    def geometry(self) -> torch.Tensor:
        """(H, P, P): the part of the bias that depends only on the positions of two patches."""
        return self.relative[:, self.offset] + torch.einsum("hi,ipq->hpq", self.symmetry, self.images)

    def forward(self, empty: torch.Tensor) -> torch.Tensor:
        """empty: (B, P), 1 for a patch without ink, 0 for a patch with at least INK_SHARE of ink."""
        geometry = functional.pad(self.geometry(), (PREFIX, 0, PREFIX, 0)) + self.mask  # (H, N, N)
        penalty = self.ink[:, None, None] * functional.pad(empty, (PREFIX, 0))[:, None, None]  # (B, H, 1, N)
        return geometry - penalty


def _run_block(block: Block, bias: LogoBias, x: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    return block(x, attn_mask=bias(empty))


def _init_linear(module: nn.Module) -> None:
    """The initialisation of timm's vision transformers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


SIZES = {
    "logo_vit_base": {"img_size": 224, "embed_dim": 768, "depth": 12, "num_heads": 12},
    "logo_vit_small": {"img_size": 128, "embed_dim": 256, "depth": 8, "num_heads": 4},
    "logo_vit_tiny": {"img_size": 128, "embed_dim": 192, "depth": 6, "num_heads": 3},
    "plain_vit_tiny": {"img_size": 128, "embed_dim": 192, "depth": 6, "num_heads": 3, "mlp_ratio": 4.5},
}
default_cfgs = generate_default_cfgs(
    {
        name: {"input_size": (3, size["img_size"], size["img_size"]), "fixed_input_size": True, "classifier": "head"}
        for name, size in SIZES.items()
    }
)


@register_model
def logo_vit_base(pretrained: bool = False, **options) -> LogoViT:
    """The reference size: 12 layers of width 768, 12 heads, MLPs of width 3072, for 224 px."""
    return build_model_with_cfg(LogoViT, "logo_vit_base", pretrained, **SIZES["logo_vit_base"] | options)


@register_model
def logo_vit_small(pretrained: bool = False, **options) -> LogoViT:
    """8 layers of width 256, 4 heads, for 128 px."""
    return build_model_with_cfg(LogoViT, "logo_vit_small", pretrained, **SIZES["logo_vit_small"] | options)


@register_model
def logo_vit_tiny(pretrained: bool = False, **options) -> LogoViT:
    """6 layers of width 192, 3 heads, for 128 px."""
    return build_model_with_cfg(LogoViT, "logo_vit_tiny", pretrained, **SIZES["logo_vit_tiny"] | options)


@register_model
def plain_vit_tiny(pretrained: bool = False, **options) -> VisionTransformer:
    """The baseline of logo_vit_tiny: timm's vision transformer with equal depth, width and number of parameters."""
    return build_model_with_cfg(VisionTransformer, "plain_vit_tiny", pretrained, **SIZES["plain_vit_tiny"] | options)
