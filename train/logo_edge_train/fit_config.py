"""Settings of fits, with bounds beside each field: the loop that all have, and how each stage's fit differs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from logo_edge_train.bounds import Count, CountOrZero, NotNegative, Positive, ShareBelowOne, within


@dataclass(frozen=True)
class SamConfig:
    """Sharpness-aware minimisation in the main phase: two passes a step (see optim.py).

    `rho` is the radius of the perturbation, absolute ("sam") or relative to each weight's size ("asam"). Biases and
    normalisation layers use `plain_scale` x rho, the first convolution `stem_scale` x rho. With `adapt`, rho is scaled
    by (gradient norm / its running mean) to that power. `scope` selects the gradient that perturbs: the whole batch's
    or, under torchrun, each process's own (m-sharpness).
    """

    kind: Literal["off", "sam", "asam"] = "off"
    rho: Positive = 0.05
    plain_scale: NotNegative = 1.0
    stem_scale: NotNegative = 1.0
    adapt: NotNegative = 0.0
    scope: Literal["batch", "process"] = "batch"


@dataclass(frozen=True)
class PhasesConfig:
    """Phases after the main phase, and the restarts of the main phase.

    `ranger_epochs` of RAdam with Lookahead follow the main phase, then `finetune_epochs` of AdamW. Each has a cosine
    from its own rate to 0. The cosine of the main phase restarts `restarts` times; each cycle is `restart_growth` times
    as long as the one before.
    """

    ranger_epochs: CountOrZero = 0
    ranger_rate: NotNegative = 5e-4
    finetune_epochs: CountOrZero = 0
    finetune_rate: NotNegative = 5e-5
    restarts: CountOrZero = 0
    restart_growth: Annotated[float, within(1)] = 2.0


@dataclass(frozen=True)
class LoopConfig:
    """Settings of every fit. The learning rate is per step of `batch_size` images and decays by a cosine to 0.

    Few images are shown in more than `epochs` epochs, until the fit has `least_steps` steps (`fitted_epochs`).
    `accumulate` splits each batch into that many parts, which pass one after another before a step; this saves memory.
    The ClassVars are constants for stages that do not have these switches.
    """

    epochs: Count = 20
    least_steps: CountOrZero = 0
    batch_size: Count = 32
    learning_rate: Positive = 5e-4
    weight_decay: NotNegative = 0.05
    warmup_epochs: NotNegative = 1.0
    ema_decay: ShareBelowOne = 0.995
    gradient_clip: Positive = 1.0
    accumulate: Count = 1
    sam: SamConfig = SamConfig()
    phases: PhasesConfig = PhasesConfig()
    frozen_blocks: ClassVar[int] = -1
    grad_checkpointing: ClassVar[bool] = False
    amp: ClassVar[str] = "off"
    compile: ClassVar[bool] = False

    def fitted_epochs(self, steps: int) -> int:
        """The epochs of a fit whose epochs have that many steps."""
        return max(self.epochs, math.ceil(self.least_steps / steps))


@dataclass(frozen=True)
class FitConfig(LoopConfig):
    """Settings for the fit of a whole network.

    `grad_checkpointing` recomputes activations in the backward pass, which saves memory. `amp` is mixed precision in
    bfloat16; "auto" uses it on GPUs that support it. `compile` is torch.compile.
    """

    frozen_blocks: Annotated[int, within(-1)] = -1  # stages after the stem that are not trained; -1: all are trained
    grad_checkpointing: bool = False
    amp: Literal["auto", "bf16", "off"] = "auto"
    compile: bool = False


@dataclass(frozen=True)
class TeacherFit(FitConfig):
    """How a teacher is fitted to labelled images (losses.py, data/sampling.py).

    Only networks with ImageNet weights have frozen blocks. `adaptive_focal` sets the gamma and the class weights of the
    focal loss by each class's running recall. `confident_errors` and `prior_consistency` are loss weights; only
    logo_vit has the logo-type prior. `balanced_batches` have equally many images of each class. During
    `curriculum_epochs` the training set grows from the easier half to all images.
    """

    dropout: ShareBelowOne = 0.2
    max_images: CountOrZero = 0  # 0: all; else a stratified sample of that size
    label_smoothing: ShareBelowOne = 0.05
    class_weight_power: NotNegative = 0.5  # p; the weight of a class is count**-p, normalised to mean 1
    use_votes: bool = True  # the annotators' votes as soft labels
    aleatoric: bool = False  # also learn the variance of each logit; needs a head of log variances
    focal_gamma: NotNegative = 0.0  # 0: cross-entropy
    adaptive_focal: bool = False
    confident_errors: NotNegative = 0.0
    prior_consistency: NotNegative = 0.0
    balanced_batches: bool = False
    curriculum_epochs: NotNegative = 0.0


@dataclass(frozen=True)
class PretrainFit(FitConfig):
    """How a network learns from unlabelled images; 0 epochs: not at all."""

    epochs: CountOrZero = 0
    batch_size: Count = 64
    learning_rate: Positive = 2e-3
    dropout: ShareBelowOne = 0.0
    max_images: CountOrZero = 0


@dataclass(frozen=True)
class PruneFit(FitConfig):
    """How a pruned student learns on from its teachers."""

    epochs: Count = 3
    batch_size: Count = 64
    learning_rate: Positive = 3e-4
    warmup_epochs: NotNegative = 0.3
    max_images: CountOrZero = 0
    use_votes: bool = True


@dataclass(frozen=True)
class DistillFit(FitConfig):
    """How a student learns from its teachers."""

    epochs: Count = 6
    batch_size: Count = 64
    dropout: ShareBelowOne = 0.2
    max_images: CountOrZero = 0
    use_votes: bool = True


@dataclass(frozen=True)
class FewShotFit(LoopConfig):
    """How a few-shot method learns on episodes; `batch_size` episodes a step."""

    epochs: Count = 10
    batch_size: Count = 4
    learning_rate: Positive = 3e-4
    ema_decay: ShareBelowOne = 0.98
    dropout: ShareBelowOne = 0.0
    frozen_blocks: Annotated[int, within(-1)] = 5
    amp: Literal["auto", "bf16", "off"] = "off"


@dataclass(frozen=True)
class FinetuneFit(LoopConfig):
    """How an INT8 graph is fine-tuned on its FP32 parent, on the CPU in float32; 0 epochs: not at all."""

    epochs: CountOrZero = 1
    learning_rate: Positive = 1e-4
    weight_decay: NotNegative = 0.0
    warmup_epochs: NotNegative = 0.1
    ema_decay: ShareBelowOne = 0.98
    max_images: CountOrZero = 4800
    use_votes: ClassVar[bool] = False
