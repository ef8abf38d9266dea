"""The schedule of a fit: phases (warm-up, AdamW or SAM, Ranger, fine-tuning), their optimizers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from logo_edge_train.fit_config import LoopConfig
from logo_edge_train.optim import parameter_groups, ranger


@dataclass(frozen=True)
class Phase:
    """A phase of a fit, from epoch `begin` to `end` (counted from 0). Its learning rate is `rate` x `share`.

    `share` maps the epochs since `begin` to 0 to 1. A `fresh` phase has a new optimizer; others continue with that of
    the phase before. A `sharp` phase uses sharpness-aware gradients.
    """

    name: str
    begin: float
    end: float
    rate: float
    share: Callable[[float], float]
    optimizer: Callable[[list[dict]], torch.optim.Optimizer] = torch.optim.AdamW
    fresh: bool = True
    sharp: bool = False

    def learning_rate(self, position: float) -> float:
        """The learning rate at a position, in epochs, between `begin` and `end`."""
        return self.rate * self.share(position - self.begin)


def plan_phases(config: LoopConfig) -> tuple[Phase, ...]:
    """The phases of a fit in order; they fill its epochs. Empty phases are left out.

    Ranger and fine-tuning come last. The warm-up comes first and takes at most half of the remaining epochs; the main
    phase, `adamw`, `sam` or `asam`, takes the rest. Each phase but the warm-up is a cosine from its own rate to 0.
    """
    phases, sharp = config.phases, config.sam.kind != "off"
    tuned = config.epochs - phases.finetune_epochs
    late = tuned - phases.ranger_epochs
    warm = min(config.warmup_epochs, late / 2)

    def warm_up(done: float) -> float:
        return (done + 1e-3) / warm

    def main(done: float) -> float:
        return cosine_share(done, late - warm, phases.restarts, phases.restart_growth)

    plan = (
        Phase("warm-up", 0, warm, config.learning_rate, warm_up),
        Phase(config.sam.kind if sharp else "adamw", warm, late, config.learning_rate, main, fresh=False, sharp=sharp),
        Phase("ranger", late, tuned, phases.ranger_rate, lambda done: cosine_share(done, tuned - late), ranger),
        Phase(
            "fine-tune",
            tuned,
            config.epochs,
            phases.finetune_rate,
            lambda done: cosine_share(done, phases.finetune_epochs),
        ),
    )
    return tuple(phase for phase in plan if phase.end > phase.begin)


def cosine_share(done: float, length: float, restarts: int = 0, growth: float = 2.0) -> float:
    """The share of the rate after `done` epochs: a cosine from 1 to 0 over `length`, with warm restarts.

    Each cycle is `growth` times as long as the one before; the last one ends at `length`. SGDR, Loshchilov and Hutter
    2017, arXiv:1608.03983, which fixes the length of the first cycle instead of the number of restarts.
    """
    cycle = length / sum(growth**index for index in range(restarts + 1))
    while restarts and done > cycle - 1e-9:  # tolerance: a step at the end of a cycle is the first of the next one
        done, cycle, restarts = done - cycle, cycle * growth, restarts - 1
    return 0.5 * (1 + math.cos(math.pi * done / cycle))


class Schedule:
    """The current `phase` of a fit and its `optimizer`, after `epochs_done` epochs."""

    def __init__(self, network: nn.Module, config: LoopConfig, steps: int, epochs_done: int):
        self.network, self.config, self.phases = network, config, plan_phases(config)
        self.phase = self._phase_at(max(0, epochs_done - 1 / steps))  # of the last step
        self.optimizer = self._build()
        for group in self.optimizer.param_groups:
            if "lookahead_step" in group:
                group["lookahead_step"] = (epochs_done - int(self.phase.begin)) * steps

    def move_to(self, position: float) -> torch.optim.Optimizer:
        """The optimizer, with its learning rate, for the step at that position, in epochs."""
        phase = self._phase_at(position)
        if phase is not self.phase:
            self.phase = phase
            self.optimizer = self._build() if phase.fresh else self.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = phase.learning_rate(position)
        return self.optimizer

    def _phase_at(self, position: float) -> Phase:
        return next((phase for phase in self.phases if position < phase.end), self.phases[-1])

    def _build(self) -> torch.optim.Optimizer:
        return self.phase.optimizer(parameter_groups(self.network.parameters(), self.config.weight_decay))
