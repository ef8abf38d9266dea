"""When a fit does what: its phases (warm-up, AdamW or SAM, Ranger, fine-tuning), their optimizers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from logo_edge_train.optim import parameter_groups, ranger
from logo_edge_train.recipe import LoopConfig


@dataclass(frozen=True)
class Phase:
    """A stretch of a fit, from epoch `begin` to `end` (0 is its start); `share` of `rate` is its learning rate.

    `share` maps the epochs since `begin` to 0 to 1. A phase that is not `fresh` goes on with the optimizer of the one
    before; `sharp` ones take sharpness-aware gradients.
    """

    name: str
    begin: float
    end: float
    rate: float
    share: Callable[[float], float]
    optimizer: Callable[[list[dict]], torch.optim.Optimizer] = torch.optim.AdamW
    fresh: bool = True
    sharp: bool = False

    def learning_rate(self, place: float) -> float:
        """The learning rate at a place, in epochs, between `begin` and `end`."""
        return self.rate * self.share(place - self.begin)


def plan_phases(config: LoopConfig) -> tuple[Phase, ...]:
    """The phases of a fit in order, without those of no length: they fill its epochs.

    Ranger and fine-tuning have their lengths at the end, the warm-up its own at the start, but at most half of what is
    left, and the main phase, `adamw`, `sam` or `asam`, the rest. Each but the warm-up is a cosine from its own rate to 0.
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
    """What is left of a rate that falls from 1 to 0 in `length`, or does so again after each of so many warm restarts.

    Each cycle is `growth` times as long as the one before, and the last ends with the length. SGDR, Loshchilov and
    Hutter 2017, arXiv:1608.03983, who choose the first cycle instead of the number of restarts.
    """
    cycle = length / sum(growth**index for index in range(restarts + 1))
    while restarts and done > cycle - 1e-9:  # places are rounded: a step at the end of a cycle is the next one's first
        done, cycle, restarts = done - cycle, cycle * growth, restarts - 1
    return 0.5 * (1 + math.cos(math.pi * done / cycle))


class Schedule:
    """Where a fit is: its `phase`, and that phase's `optimizer`, of a fit of which `epochs_done` are done."""

    def __init__(self, network: nn.Module, config: LoopConfig, steps: int, epochs_done: int):
        self.network, self.config, self.phases = network, config, plan_phases(config)
        self.phase = self._phase_at(max(0, epochs_done - 1 / steps))  # that of the last step
        self.optimizer = self._build()
        for group in self.optimizer.param_groups:
            if "lookahead_step" in group:
                group["lookahead_step"] = (epochs_done - int(self.phase.begin)) * steps

    def move_to(self, place: float) -> torch.optim.Optimizer:
        """The optimizer for the step at that place, in epochs, with its learning rate: a new one where such a phase begins."""
        phase = self._phase_at(place)
        if phase is not self.phase:
            self.phase = phase
            self.optimizer = self._build() if phase.fresh else self.optimizer
        for group in self.optimizer.param_groups:
            group["lr"] = phase.learning_rate(place)
        return self.optimizer

    def _phase_at(self, place: float) -> Phase:
        return next((phase for phase in self.phases if place < phase.end), self.phases[-1])

    def _build(self) -> torch.optim.Optimizer:
        return self.phase.optimizer(parameter_groups(self.network.parameters(), self.config.weight_decay))
