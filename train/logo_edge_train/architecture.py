"""A network and its input, by name in a recipe, a run or a bundle, and the rules of such a name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated

from logo_edge.errors import RecipeError
from logo_edge.preprocess import CROP, LETTERBOX, InputContract
from logo_edge_train.bounds import not_empty, within

PRIOR_PREFIX = "logo_vit"  # these networks have a logo-type prior and a head of log variances
NETWORK_FORM = "expected name@size_px, such as tf_efficientnet_lite0@128, or name@size_px:crop"


@dataclass(frozen=True)
class Architecture:
    """A network and its input: the name of a timm or composed network, the side of its square input in px, the fit.

    The fit is LETTERBOX, or CROP for the central square of an image only.
    """

    model: str
    size_px: int
    fit: str = LETTERBOX

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """`name@size_px` or `name@size_px:crop`. Raises RecipeError for any other form."""
        model, _, side = text.partition("@")
        size, colon, fit = side.partition(":")
        if not model or not size.isdecimal() or int(size) < 1 or (colon and fit != CROP):
            raise RecipeError(f"network {text!r}; {NETWORK_FORM}")
        return cls(model, int(size), fit or LETTERBOX)

    def __str__(self) -> str:
        return f"{self.model}@{self.size_px}" + f":{CROP}" * (self.fit == CROP)

    @property
    def contract(self) -> InputContract:
        """The network's input: RGB, and the detail planes if its name has `+details`."""
        return InputContract(self.size_px, details="details" in self.model.split("+"), fit=self.fit)


size_rule = within(16, 1024)  # of an input's side, px; below 16, the last maps of a network are empty


def network_rule(text: str) -> str | None:
    """The rule of name@size_px: the network can be built for that input size."""
    try:
        architecture = Architecture.parse(text)
    except RecipeError:
        return NETWORK_FORM
    return size_rule(architecture.size_px) or network_error(architecture.model, architecture.size_px)


def backbone_rule(name: str) -> str | None:
    """The rule of a search's backbone."""
    return network_error(f"{name}+none+linear", 0)


@cache
def network_error(name: str, size_px: int, *, frozen_blocks: int = -1, grad_checkpointing: bool = False) -> str | None:
    from logo_edge_train.models import check_network  # loads PyTorch and timm: seconds

    try:
        check_network(name, size_px, frozen_blocks=frozen_blocks, grad_checkpointing=grad_checkpointing)
    except RecipeError as error:
        return str(error)
    return None


Network = Annotated[str, network_rule]
Networks = Annotated[tuple[Network, ...], not_empty]
