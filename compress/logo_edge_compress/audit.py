"""What an artifact computes with, counted in the artifact itself: an INT8 whose convolutions run in float is refused.

The files of `convert/` count with a function `audit`, of their own or of a format that they share, which reads the file
or the graph that its runtime executes, never the request.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass

from logo_edge.errors import VerificationError

INTEGER = ("int", "uint")
SHOWN = 8  # layers in a message
CHOSEN_IN_FLOAT = 0.5  # of the layers, by a method that chooses itself which ones to quantize


@dataclass(frozen=True)
class Audit:
    """`layers`: the type in which each convolution and matrix product with weights computes, in order of execution.

    `operators`: the number of executed operators by kind, `bytes`: those of all constants by type. Types are named as
    NumPy names them, such as int8 and float32.
    """

    layers: dict[str, str]
    operators: dict[str, int]
    bytes: dict[str, int]

    @property
    def float_layers(self) -> list[str]:
        return [name for name, kind in self.layers.items() if not kind.startswith(INTEGER)]

    def record(self) -> dict:
        """The audit's part of an artifact's record, with its layers as numbers by type and the names of those in float.

        All layers of an FP32 artifact are in float, so they are named only where others are not.
        """
        kinds = list(self.layers.values())
        mixed = len(self.float_layers) < len(kinds)
        return {
            **asdict(self),
            "layers": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
            "float_layers": self.float_layers if mixed else [],
        }


def refuse_float(audit: Audit, name: str, *, left: Collection[str] = (), share: float = 0.0) -> None:
    """Raises VerificationError, with the list, where layers of an INT8 artifact compute in float.

    `left` are the layers that were left in float on purpose, `share` the share of layers that the method may leave so
    as it likes. An artifact without layers is refused too: nothing was counted.
    """
    float_layers = [layer for layer in audit.float_layers if layer not in left]
    if audit.layers and len(float_layers) <= share * len(audit.layers):
        return
    listed = ", ".join(float_layers[:SHOWN]) + (", ..." if len(float_layers) > SHOWN else "")
    raise VerificationError(
        f"{name} is no INT8: {len(float_layers)} of its {len(audit.layers)} layers compute in float"
        f"{': ' + listed if listed else ''}; expected {f'at most {share:.0%}' if share else 'none'} beyond the "
        f"{len(left)} that were left so. It is not packed; take another method or runtime, or another precision"
    )
