"""The recipe: one frozen dataclass per stage, read from one TOML file; the command line overrides single fields."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from logo_edge.errors import RecipeError

BUILT_IN = Path(str(files("logo_edge_train") / "recipes"))
ASPECTS = ("geometric", "colour", "text", "shape")  # of a logo, each with a head of its own in pretraining
OPERATIONS = (  # of an augmentation policy: see augment.py
    "shear", "perspective", "tint", "fade", "gamma", "desaturate", "invert", "noise", "sharpen",
)  # fmt: skip
QUANTIZERS = ("minmax", "percentile", "entropy", "nncf", "dynamic", "weights-int8", "weights-int4")
PRIOR_PREFIX = "logo_vit"  # the networks that have a logo-type prior


@dataclass(frozen=True)
class Architecture:
    """A network and its input size: a timm name, or backbone+attention+head, and the side of the square it sees, in px."""

    model: str
    size_px: int

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """`name@size_px`. Raises RecipeError for any other form."""
        model, _, size = text.partition("@")
        if not model or not size.isdigit() or int(size) < 1:
            raise RecipeError(f"network {text!r}; expected name@size_px, such as tf_efficientnet_lite0@128")
        return cls(model, int(size))

    def __str__(self) -> str:
        return f"{self.model}@{self.size_px}"


@dataclass(frozen=True)
class SamConfig:
    """Whether the main phase learns by the gradient at the worst weights near the present ones, which costs two passes.

    Near: within `rho` of them, as they are ("sam") or in units of each weight's own size ("asam"). Biases and normalisation
    move by `plain_scale` of rho, the first convolution by `stem_scale`. With `adapt`, rho follows the norm of the
    gradient over its running mean, to that power. `scope` is whose gradient perturbs: that of the whole batch, or under
    torchrun each process's own (m-sharpness).
    """

    kind: Literal["off", "sam", "asam"] = "off"
    rho: float = 0.05
    plain_scale: float = 1.0
    stem_scale: float = 1.0
    adapt: float = 0.0
    scope: Literal["batch", "process"] = "batch"


@dataclass(frozen=True)
class PhasesConfig:
    """What a fit does besides the warm-up and the main phase, which has the epochs that are left.

    Last but one come `ranger_epochs` of RAdam with Lookahead, last `finetune_epochs` of AdamW, each with a cosine from its
    own rate to 0. The cosine of the main phase restarts so often, each cycle `restart_growth` times as long as the last.
    """

    ranger_epochs: int = 0
    ranger_rate: float = 5e-4
    finetune_epochs: int = 0
    finetune_rate: float = 5e-5
    restarts: int = 0
    restart_growth: float = 2.0


@dataclass(frozen=True)
class Operation:
    """One operation of an augmentation policy: how often a view undergoes it, and how strongly, both 0 to 1."""

    name: str
    probability: float
    magnitude: float

    @classmethod
    def parse(cls, text: str) -> Operation:
        """`name probability magnitude`. Raises RecipeError for any other form, name or range."""
        try:
            name, *numbers = text.split()
            probability, magnitude = map(float, numbers)
        except ValueError:
            name, probability, magnitude = "", -1.0, -1.0
        if name not in OPERATIONS or not (0 <= probability <= 1 and 0 <= magnitude <= 1):
            raise RecipeError(
                f"operation {text!r}; expected name, probability and magnitude, 0 to 1 each, such as 'shear 0.3 0.5', "
                f"with one of {', '.join(OPERATIONS)}"
            )
        return cls(name, probability, magnitude)


@dataclass(frozen=True)
class FitConfig:
    """How one network is fitted. Learning rates are per step of `batch_size` images, decayed by a cosine to 0.

    What follows `aleatoric` down to `curriculum_epochs` is for labelled logos, in losses.py and sampling.py: the focal
    loss, with `adaptive_focal` its gamma and class weights after each class's running recall; the weights of the
    penalty on confident errors and of the consistency with the logo-type prior, which logo_vit has; batches that hold
    all classes equally; and the epochs in which the logos grow from the easier half to all.

    `accumulate` cuts each batch into so many parts that pass one after another before the weights move, and
    `grad_checkpointing` computes activations anew instead of keeping them: both take less memory. `amp` is bfloat16 for
    what bears it, with "auto" on a GPU that computes in it; `compile` is torch.compile.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.05
    class_weight_power: float = 0.5  # weight of a class: its count to the power -p, mean 1
    use_votes: bool = True  # the annotators' votes as soft labels
    aleatoric: bool = False  # also learn the variance of each logit: of teachers that have a head for it
    focal_gamma: float = 0.0  # 0: cross-entropy
    adaptive_focal: bool = False
    confident_errors: float = 0.0
    prior_consistency: float = 0.0
    balanced_batches: bool = False
    curriculum_epochs: float = 0.0
    ema_decay: float = 0.995
    gradient_clip: float = 1.0
    dropout: float = 0.2
    frozen_blocks: int = -1  # stages after the stem that keep their ImageNet weights, where there are any; -1: none
    max_images: int = 0  # 0: all; else a stratified sample, for smoke runs
    accumulate: int = 1
    grad_checkpointing: bool = False
    amp: Literal["auto", "bf16", "off"] = "auto"
    compile: bool = False
    sam: SamConfig = SamConfig()
    phases: PhasesConfig = PhasesConfig()


LABEL_SWITCHES = (
    "aleatoric", "focal_gamma", "adaptive_focal", "confident_errors", "prior_consistency", "balanced_batches",
    "curriculum_epochs",
)  # fmt: skip


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the class-preserving augmentation; every p is a probability.

    `policy` is applied besides, each operation (`Operation.parse`) for itself. MixUp and CutMix join logos of the pairs
    of classes that are named, whose mix keeps a meaning, with a share of Beta(`mix_alpha`, `mix_alpha`). The logo of the
    highest running loss gets all strengths times 1 - `adapt_intensity`, that of the lowest gets them in full.
    """

    scale_min: float = 0.75
    rotate_degrees: float = 8.0
    p_rotate: float = 0.25
    p_background: float = 0.15
    p_colour: float = 0.5
    hue_degrees: float = 180.0
    p_low_resolution: float = 0.08
    p_blur: float = 0.08
    p_jpeg: float = 0.15
    policy: tuple[str, ...] = ()
    p_mixup: float = 0.0
    p_cutmix: float = 0.0
    mix_alpha: float = 1.0
    mixup_pairs: tuple[str, ...] = ("gradient+gradient", "complex+complex", "complex+gradient")
    cutmix_pairs: tuple[str, ...] = ("gradient+gradient", "complex+complex")
    adapt_intensity: float = 0.0


@dataclass(frozen=True)
class BayesConfig:
    """Bayes by backprop: whether the teachers' classifiers learn a distribution over each weight (models/bayesian.py).

    A priori the weights are Gaussian of `prior_deviation`; their deviations begin at `first_deviation`. The KL of the
    weights counts `kl_weight` times as much as the logos' likelihood has it, 1 being Bayes' rule, in full from epoch
    `kl_warmup_epochs` on and before that in proportion to the epoch (annealed: Sønderby et al. 2016, arXiv:1602.02282).
    """

    enabled: bool = False
    prior_deviation: float = 0.02
    first_deviation: float = 0.005
    kl_weight: float = 1.0
    kl_warmup_epochs: int = 4


@dataclass(frozen=True)
class TrainConfig:
    """The teachers, timm name @ input size in px: one member of the ensemble each, equal ones with other seeds.

    With `pretrained`, those for which ImageNet weights can be had (EfficientNet-Lite) begin at them, all others at random.
    """

    teachers: tuple[str, ...] = ("tf_efficientnet_lite0@128", "tf_efficientnet_lite0@192")
    pretrained: bool = True
    seed: int = 0
    fit: FitConfig = FitConfig()
    augment: AugmentConfig = AugmentConfig()
    bayes: BayesConfig = BayesConfig()


@dataclass(frozen=True)
class AspectConfig:
    """Where one aspect's head begins: the temperature of its softmax, and how strongly its views are distorted, 0 to 1."""

    temperature: float = 0.15
    strength: float = 0.2


@dataclass(frozen=True)
class PretrainConfig:
    """How the teachers' networks learn from logos without labels before they are fitted (SimCLR); 0 epochs: not at all.

    `hidden` and `projection` are the widths of the four heads; `learn_temperature` and `uncertainty` switch what their
    names say. The second view of a logo is of itself or one of its `neighbours` nearest in the aspect. An aspect's strength moves by `strength_step` per batch, up while more than `target_accuracy` of its views
    find their partner, else down; 0: it stays. A batch holds as many logos of each aspect, so `fit.batch_size` is a
    multiple of 4. Networks that have ImageNet weights to begin at are left as they are but with `from_imagenet`.
    """

    hidden: int = 256
    projection: int = 64
    learn_temperature: bool = True
    uncertainty: bool = False
    strength_step: float = 0.002
    target_accuracy: float = 0.3
    neighbours: int = 5
    use_unlabelled: bool = True
    from_imagenet: bool = False
    seed: int = 0
    geometric: AspectConfig = AspectConfig()
    colour: AspectConfig = AspectConfig()
    text: AspectConfig = AspectConfig()
    shape: AspectConfig = AspectConfig()
    fit: FitConfig = FitConfig(epochs=0, batch_size=64, learning_rate=2e-3, warmup_epochs=1.0, dropout=0.0)


@dataclass(frozen=True)
class SearchConfig:
    """What `logo-edge search` chooses from, and how it chooses (Liu et al. 2019, arXiv:1806.09055).

    An architecture is one of `backbones` (timm names), of `attentions` and of `heads` (models/composed.py). The weights
    of them all learn from one half of the train split at `learning_rate`, and after `warmup_epochs` the architecture
    parameters from the other at `alpha_rate`. `inner_rate` is that of the virtual step of the weights by which
    second-order gradients look ahead; 0: first order. With `sample_paths`, a step of the weights evaluates one backbone
    and one of the architecture two, drawn by their shares (Cai et al. 2019, arXiv:1812.00332); else all of them.
    `entropy_weight`, reached linearly by the last epoch, presses for a sharp choice, `latency_weight` for one of at most
    `target_ms` (median of one logo on one thread; 0: no limit). After `patience` epochs of the same choice the search ends.
    In the recipe that it writes, what was found takes the place of all teachers and students or, with `joins`, comes
    beside them.
    Augmentation, votes, class weights and the seed are those of `train`.
    """

    backbones: tuple[str, ...] = (
        "tf_efficientnet_lite0", "mobilenetv3_small_100", "resnet10t", "vit_tiny_patch16_224", "mobilenetv4_conv_small_050",
    )  # fmt: skip
    attentions: tuple[str, ...] = ("none", "se", "cbam", "mhsa")
    heads: tuple[str, ...] = ("linear", "mlp", "attention_pool", "ensemble")
    size_px: int = 96
    pretrained: bool = False  # ImageNet weights for those backbones for which they can be had
    epochs: int = 30
    warmup_epochs: int = 8
    batch_size: int = 32
    learning_rate: float = 1e-3
    alpha_rate: float = 1e-2
    inner_rate: float = 0.0
    sample_paths: bool = True
    entropy_weight: float = 0.2
    latency_weight: float = 0.3
    target_ms: float = 0.0
    patience: int = 6
    joins: bool = False


@dataclass(frozen=True)
class PruneConfig:
    """How a distilled student loses channels, whole ones, and then learns on from its teachers; 0: it loses none.

    They go until `share` of the multiplications are gone, those first that matter least by `importance`: by the size of
    their weights, or by how much the loss would change to first order (taylor). Every layer keeps a multiple of `round_to`.
    """

    share: float = 0.0
    importance: Literal["taylor", "magnitude"] = "taylor"
    round_to: int = 16
    images: int = 128  # labelled ones, by which taylor judges
    fit: FitConfig = FitConfig(epochs=3, batch_size=64, learning_rate=3e-4, warmup_epochs=0.3)


@dataclass(frozen=True)
class DistillConfig:
    """The students and how they learn from the ensemble (Hinton et al. 2015; Beyer et al. 2022 for long, matched views).

    `students` are candidates, timm name @ input size in px; the best on val, after quantization and within
    `max_size_mb`, is packed. `temperature` softens the teachers' targets; `hard_weight` is the share of the
    annotators' labels in the loss on labelled logos; `p_mixup` the share of batches whose views are mixed in pairs before
    teachers and student see them. With `start_from_teacher`, a student starts from the teacher of its own network, of the closest size, if any.
    `teachers_per_batch` teachers, drawn anew for each batch, are asked about it; 0: all. Teachers are asked in the first
    `views` epochs only, whose batches the later ones repeat; 0: in all. With an `adversarial_radius`, in
    values of 0 to 255, the student sees views with noise of twice as much that were moved against it by as much, its
    teachers the views as they are.

    What is matched besides, by weight (distill.py): the pooled features (`feature_weight`), where the last maps are
    strong (`attention_weight`), how the logos of a batch lie to each other (`relation_weight`). `foreign_share` of each
    batch are pictures that are no logos (transfer.py). With `epistemic`, the student learns a further output, what the
    teachers disagree on, as a Dirichlet distribution or as a figure, by `epistemic_weight`.
    """

    students: tuple[str, ...] = ("tf_efficientnet_lite0@128",)
    max_size_mb: float = 4.0
    pretrained: bool = True
    temperature: float = 2.0
    hard_weight: float = 0.1
    p_mixup: float = 0.3
    teachers_per_batch: int = 0
    views: int = 0
    adversarial_radius: float = 0.0
    feature_weight: float = 0.0
    attention_weight: float = 0.0
    relation_weight: float = 0.0
    foreign_share: float = 0.0
    epistemic: Literal["off", "dirichlet", "dispersion"] = "off"
    epistemic_weight: float = 0.1
    use_unlabelled: bool = True
    start_from_teacher: bool = True
    seed: int = 100
    fit: FitConfig = FitConfig(epochs=6, batch_size=64)
    augment: AugmentConfig = AugmentConfig()
    prune: PruneConfig = PruneConfig()


@dataclass(frozen=True)
class FewShotConfig:
    """What `logo-edge few-shot` learns: to tell classes apart of which it is shown `shots` views or logos each.

    The tasks are `brands`, `ways` of them, over packages, or `types`, all kinds of logo of a package; `held_out_package`
    is the one whose types are reported on. An epoch has `episodes` of them, a step `fit.batch_size`, and after each
    epoch `val_episodes` measure. `ridge` learns nothing beforehand: of `penalties` the best on val is kept. MAML takes
    `inner_steps` steps on the support, at rates that begin at `inner_rate` (`head_rate` of the last layer) and are then
    learned by `rates`: one for each `element` of the weights (Meta-SGD), for each `layer` and step (MAML++), or `fixed`.
    A `network` without ImageNet weights begins at random, and keeps no block frozen.
    """

    network: str = "tf_efficientnet_lite0@96"
    method: Literal["maml", "prototypes", "ridge"] = "prototypes"
    task: Literal["brands", "types"] = "brands"
    held_out_package: str = "@iconify-json/devicon"
    ways: int = 5
    shots: int = 5
    queries: int = 2  # of each class
    episodes: int = 200
    val_episodes: int = 200
    inner_steps: int = 3
    inner_rate: float = 0.01
    head_rate: float = 0.5
    rates: Literal["element", "layer", "fixed"] = "layer"
    second_order: bool = True
    penalties: tuple[float, ...] = (1.0, 0.1, 0.01, 10.0)  # the first serves where none was chosen
    seed: int = 0
    fit: FitConfig = FitConfig(
        epochs=10, batch_size=4, learning_rate=3e-4, dropout=0.0, ema_decay=0.98, frozen_blocks=5, amp="off"
    )
    augment: AugmentConfig = AugmentConfig(p_colour=0.3, hue_degrees=30.0)


@dataclass(frozen=True)
class QuantizeConfig:
    """Which ways to quantize are tried (QUANTIZERS), and on how many train images they are calibrated.

    Static INT8, whose ranges are by minmax, percentile or entropy: weights S8 per channel, activations U8. `nncf` is
    NNCF's, with layers put back to FP32 for up to `nncf_minutes` until val's accuracy holds; `dynamic` is INT8 matrices
    for transformers; `weights-int8` and `weights-int4` only store less. `mixed` measures every layer's sensitivity and
    leaves the most sensitive ones in FP32, at most `most_restored`: where no INT8 holds its parent ("needed"), or always.
    `reduce_range` keeps weights to 7 bits (but for depthwise ones), so that
    CPUs without VNNI, whose 16-bit sums of U8 x S8 pairs saturate, compute the same logits as all others. `finetune`
    is how the quantized graph then learns from its FP32 parent; 0 epochs: not at all.
    """

    methods: tuple[str, ...] = ("minmax", "percentile")
    calibration_images: int = 256
    nncf_minutes: float = 5.0
    mixed: Literal["off", "needed", "always"] = "needed"
    most_restored: int = 8
    reduce_range: bool = True
    finetune: FitConfig = FitConfig(
        epochs=1, learning_rate=1e-4, weight_decay=0.0, warmup_epochs=0.1, ema_decay=0.98, max_images=4800
    )


@dataclass(frozen=True)
class CalibrateConfig:
    """Abstention: the least confidence at which the calib set's error among the answered is at most the risk.

    `target_risk` is that of mode balanced, `strict_risk` of strict, some 3 %: on as much two annotators disagree, so that
    less cannot be measured. `false_positive_rate`: the share of logos that may be called unfamiliar.
    """

    target_risk: float = 0.05
    strict_risk: float = 0.03
    false_positive_rate: float = 0.05


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on besides the data and the seed."""

    name: str = "cpu"
    description: str = ""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)


def load_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe of that name (smoke, cpu, default, full, robust) or TOML file, with `section.key=value` overrides applied.

    Raises RecipeError, naming the key, for an unknown key, a value of the wrong type or a missing file.
    """
    path = BUILT_IN / f"{name_or_path}.toml"
    if not path.exists():
        path = Path(name_or_path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(entry.stem for entry in BUILT_IN.glob("*.toml")))
        raise RecipeError(f"no recipe {name_or_path!r}: expected one of {known}, or the path of a TOML file") from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise RecipeError(f"{path}: {error}; expected a recipe, a TOML file") from error
    table.setdefault("name", path.stem)
    for override in overrides:
        _apply_override(table, override)
    return recipe_from_dict(table)


def recipe_from_dict(table: dict[str, Any]) -> Recipe:
    """The recipe of a nested dict, as `dataclasses.asdict` gives it. Raises RecipeError naming the key."""
    recipe = _build(Recipe(), table, "")
    fits = {
        "pretrain.fit": recipe.pretrain.fit,
        "train.fit": recipe.train.fit,
        "distill.fit": recipe.distill.fit,
        "distill.prune.fit": recipe.distill.prune.fit,
        "few_shot.fit": recipe.few_shot.fit,
        "quantize.finetune": recipe.quantize.finetune,
    }
    for stage, config in fits.items():
        optional = stage in ("pretrain.fit", "quantize.finetune")
        for key, least in (("epochs", int(not optional)), ("batch_size", 1), ("accumulate", 1)):
            if getattr(config, key) < least:
                raise RecipeError(f"{stage}.{key} is {getattr(config, key)}; expected at least {least}")
        if config.accumulate > config.batch_size:
            raise RecipeError(
                f"{stage}.accumulate is {config.accumulate}; expected at most {stage}.batch_size, {config.batch_size}"
            )
        for key in LABEL_SWITCHES if stage != "train.fit" else ():
            if value := getattr(config, key):
                found = "true" if value is True else value
                raise RecipeError(f"{stage}.{key} is {found}; only train.fit, which learns from labels, can be so")
        _check_optimization(stage, config)
    _check_pretraining(recipe.pretrain)
    _check_few_shot(recipe.few_shot)
    _check_distillation(recipe.distill)
    _check_bayes(recipe.train.bayes)
    _check_label_switches(recipe.train)
    for stage, augment in (("train", recipe.train.augment), ("distill", recipe.distill.augment)):
        _check_augmentation(augment, f"{stage}.augment", learns_labels=stage == "train")
    for key, networks in (("train.teachers", recipe.train.teachers), ("distill.students", recipe.distill.students)):
        if not networks:
            raise RecipeError(f"{key} is empty; expected at least one network, name@size_px")
        for text in networks:
            Architecture.parse(text)
    for key in ("backbones", "attentions", "heads"):
        if not getattr(recipe.search, key):
            raise RecipeError(f"search.{key} is empty; expected at least one name")
    for key in ("size_px", "epochs", "batch_size", "patience"):
        if getattr(recipe.search, key) < 1:
            raise RecipeError(f"search.{key} is {getattr(recipe.search, key)}; expected at least 1")
    if unknown := [name for name in recipe.quantize.methods if name not in QUANTIZERS]:
        raise RecipeError(f"quantize.methods has {unknown[0]!r}; expected some of {', '.join(QUANTIZERS)}")
    for key in ("target_risk", "strict_risk", "false_positive_rate"):
        if not 0 <= getattr(recipe.calibrate, key) < 1:
            raise RecipeError(f"calibrate.{key} is {getattr(recipe.calibrate, key)}; expected 0 or more, below 1")
    if recipe.calibrate.strict_risk > recipe.calibrate.target_risk:
        raise RecipeError(
            f"calibrate.strict_risk is {recipe.calibrate.strict_risk}; expected at most target_risk, "
            f"{recipe.calibrate.target_risk}: strict may not be wrong more often than balanced"
        )
    return recipe


def _check_optimization(stage: str, config: FitConfig) -> None:
    sam, phases = config.sam, config.phases
    if sam.rho <= 0:
        raise RecipeError(f"{stage}.sam.rho is {sam.rho}; expected more than 0")
    for part, least in (
        ("sam.plain_scale", 0), ("sam.stem_scale", 0), ("sam.adapt", 0), ("phases.ranger_epochs", 0),
        ("phases.finetune_epochs", 0), ("phases.restarts", 0), ("phases.restart_growth", 1),
        ("phases.ranger_rate", 0), ("phases.finetune_rate", 0),
    ):  # fmt: skip
        section, key = part.split(".")
        if not (value := getattr(getattr(config, section), key)) >= least:
            raise RecipeError(f"{stage}.{part} is {value}; expected at least {least}")
    late = phases.ranger_epochs + phases.finetune_epochs
    if late and late >= config.epochs:
        raise RecipeError(
            f"{stage}.phases.ranger_epochs + finetune_epochs is {late}; expected less than {stage}.epochs, "
            f"{config.epochs}: warm-up and main phase come before them"
        )


def _check_label_switches(config: TrainConfig) -> None:
    fit = config.fit
    for key in ("focal_gamma", "confident_errors", "prior_consistency", "curriculum_epochs"):
        if getattr(fit, key) < 0:
            raise RecipeError(f"train.fit.{key} is {getattr(fit, key)}; expected at least 0")
    if fit.adaptive_focal and not fit.focal_gamma:
        raise RecipeError("train.fit.adaptive_focal is true, train.fit.focal_gamma 0; expected a gamma above 0")
    without = [text for text in config.teachers if not text.startswith(PRIOR_PREFIX)]
    if fit.prior_consistency and without:
        raise RecipeError(
            f"train.fit.prior_consistency is {fit.prior_consistency}; {without[0]} has no logo-type prior: expected 0, or "
            f"only {PRIOR_PREFIX} among train.teachers"
        )


def _check_augmentation(config: AugmentConfig, where: str, *, learns_labels: bool) -> None:
    for text in config.policy:
        Operation.parse(text)
    for key in ("p_mixup", "p_cutmix", "adapt_intensity"):
        value = getattr(config, key)
        if not 0 <= value <= 1:
            raise RecipeError(f"{where}.{key} is {value}; expected 0 to 1")
        if value and not learns_labels:
            raise RecipeError(f"{where}.{key} is {value}; only train.augment, whose views have labels, can be so")
    if config.p_mixup + config.p_cutmix > 1:
        raise RecipeError(
            f"{where}.p_mixup and p_cutmix are {config.p_mixup} and {config.p_cutmix}; expected at most 1 together"
        )
    if config.mix_alpha <= 0:
        raise RecipeError(f"{where}.mix_alpha is {config.mix_alpha}; expected more than 0")
    for key in ("mixup_pairs", "cutmix_pairs"):
        for pair in getattr(config, key):
            if len(pair.split("+")) != 2:
                raise RecipeError(f"{where}.{key} has {pair!r}; expected two classes, such as 'complex+gradient'")


def _check_pretraining(config: PretrainConfig) -> None:
    size, parts = config.fit.batch_size, len(ASPECTS)
    if size % parts or size < 2 * parts:
        raise RecipeError(
            f"pretrain.fit.batch_size is {size}; expected a multiple of {parts}, at least {2 * parts}: each aspect has "
            "an equal part of a batch, and compares at least two logos"
        )
    for aspect in ASPECTS:
        begin = getattr(config, aspect)
        if not 0 <= begin.strength <= 1:
            raise RecipeError(f"pretrain.{aspect}.strength is {begin.strength}; expected 0 to 1")
        if begin.temperature <= 0:
            raise RecipeError(f"pretrain.{aspect}.temperature is {begin.temperature}; expected more than 0")


def _check_few_shot(config: FewShotConfig) -> None:
    Architecture.parse(config.network)
    least = {"ways": 2, "shots": 1, "queries": 1, "episodes": 1, "val_episodes": 1, "inner_steps": 1}
    for key, bound in least.items():
        if getattr(config, key) < bound:
            raise RecipeError(f"few_shot.{key} is {getattr(config, key)}; expected at least {bound}")
    if config.fit.batch_size > config.episodes:
        raise RecipeError(
            f"few_shot.fit.batch_size is {config.fit.batch_size}; expected at most few_shot.episodes, {config.episodes}"
        )
    if not config.penalties or min(config.penalties) <= 0:
        raise RecipeError(f"few_shot.penalties is {list(config.penalties)}; expected one or more above 0")
    for key in ("compile", "grad_checkpointing"):
        if getattr(config.fit, key):
            raise RecipeError(f"few_shot.fit.{key} is true; expected false: gradients of gradients do not bear it")


def _check_distillation(config: DistillConfig) -> None:
    for key in ("views", "feature_weight", "attention_weight", "relation_weight", "epistemic_weight"):
        if getattr(config, key) < 0:
            raise RecipeError(f"distill.{key} is {getattr(config, key)}; expected at least 0")
    for key, value in (("foreign_share", config.foreign_share), ("prune.share", config.prune.share)):
        if not 0 <= value < 1:
            raise RecipeError(f"distill.{key} is {value}; expected 0 or more, below 1")
    if config.prune.round_to < 1 or config.prune.images < 1:
        raise RecipeError("distill.prune.round_to and distill.prune.images; expected at least 1 each")
    if config.teachers_per_batch and (config.feature_weight or config.epistemic == "dispersion"):
        what = "feature_weight" if config.feature_weight else "epistemic = 'dispersion'"
        raise RecipeError(
            f"distill.teachers_per_batch is {config.teachers_per_batch}; expected 0: distill.{what} needs all teachers"
        )


def _check_bayes(config: BayesConfig) -> None:
    for key in ("prior_deviation", "first_deviation"):
        if getattr(config, key) <= 0:
            raise RecipeError(f"train.bayes.{key} is {getattr(config, key)}; expected more than 0")
    for key in ("kl_weight", "kl_warmup_epochs"):
        if getattr(config, key) < 0:
            raise RecipeError(f"train.bayes.{key} is {getattr(config, key)}; expected at least 0")


def recipe_to_toml(recipe: Recipe) -> str:
    """The recipe as `load_recipe` reads it, with every field: it stays as it is when a default changes."""
    return "\n".join(_toml_lines(asdict(recipe), "")) + "\n"


def _toml_lines(table: dict[str, Any], where: str) -> list[str]:
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}"
        for key, value in table.items()
        if not isinstance(value, dict)
    ]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{where}{key}]", *_toml_lines(value, f"{where}{key}.")]
    return lines


def _build(default: Any, table: dict[str, Any], where: str):
    """The dataclass `default` with the values of the table; what the table leaves out stays."""
    if not isinstance(table, dict):
        raise RecipeError(f"{where.rstrip('.') or 'recipe'} is {table!r}; expected a table")
    hints = get_type_hints(type(default))
    known = {entry.name for entry in fields(default)}
    for key in table:
        if key not in known:
            raise RecipeError(f"unknown key {where}{key}; expected one of {', '.join(sorted(known))}")
    values = {}
    for key, value in table.items():
        hint, before = hints[key], getattr(default, key)
        values[key] = (
            _build(before, value, f"{where}{key}.") if is_dataclass(hint) else _check(hint, value, where + key)
        )
    return replace(default, **values)


def _check(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{where} is {value!r}; expected a list")
        return tuple(_check(get_args(hint)[0], item, where) for item in value)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise RecipeError(f"{where} is {value!r}; expected {', '.join(get_args(hint))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise RecipeError(f"{where} is {value!r}; expected {hint.__name__}")
    return value


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RecipeError(f"override {override!r}; expected section.key=value, such as train.fit.epochs=5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise RecipeError(f"override {override!r}: {parent} is no table")
    table[last] = value
