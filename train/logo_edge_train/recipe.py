"""The recipe: one frozen dataclass per stage, with bounds beside each field. `recipe_io` reads it from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, ClassVar, Literal, get_args

from logo_edge.errors import RecipeError
from logo_edge.preprocess import InputContract
from logo_edge_train.bounds import (
    Count,
    CountOrZero,
    NotNegative,
    Positive,
    Seed,
    Share,
    ShareBelowOne,
    not_empty,
    within,
)

ASPECTS = ("geometric", "colour", "text", "shape")  # of a logo, each with a head of its own in pretraining
OPERATIONS = (  # of an augmentation policy: see augment.py
    "shear",
    "perspective",
    "tint",
    "fade",
    "gamma",
    "desaturate",
    "invert",
    "noise",
    "sharpen",
)
Quantizer = Literal["minmax", "percentile", "entropy", "nncf", "dynamic", "weights-int8", "weights-int4"]
Attention = Literal["none", "se", "cbam", "mhsa"]  # of a composed network: see models/composed.py
Head = Literal["linear", "mlp", "attention_pool", "ensemble"]
PRIOR_PREFIX = "logo_vit"  # the networks that have a logo-type prior, and a head of log variances
NETWORK_FORM = "expected name@size_px, such as tf_efficientnet_lite0@128"
OPERATION_FORM = (
    "expected name, probability and magnitude, 0 to 1 each, such as 'shear 0.3 0.5', with one of "
    + ", ".join(OPERATIONS)
)


@dataclass(frozen=True)
class Architecture:
    """A network and its input size: a timm name, or one put together upon it, and the side of the square it sees, in px."""

    model: str
    size_px: int

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """`name@size_px`. Raises RecipeError for any other form."""
        model, _, size = text.partition("@")
        if not model or not size.isdecimal() or int(size) < 1:
            raise RecipeError(f"network {text!r}; {NETWORK_FORM}")
        return cls(model, int(size))

    def __str__(self) -> str:
        return f"{self.model}@{self.size_px}"

    @property
    def contract(self) -> InputContract:
        """What the network reads: RGB, and the detail planes where its name has `+details`."""
        return InputContract(self.size_px, details="details" in self.model.split("+"))


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
            raise RecipeError(f"operation {text!r}; {OPERATION_FORM}")
        return cls(name, probability, magnitude)


size_rule = within(16, 1024)  # of an input's side, px: below, networks have no place left to look at


def network_rule(text: str) -> str | None:
    """The rule of name@size_px: a network that can be built, of an input of that size."""
    try:
        architecture = Architecture.parse(text)
    except RecipeError:
        return NETWORK_FORM
    return size_rule(architecture.size_px) or network_error(architecture.model, architecture.size_px)


def backbone_rule(name: str) -> str | None:
    """The rule of a backbone that a search can take."""
    return network_error(f"{name}+none+linear", 0)


@cache
def network_error(name: str, size_px: int, *, frozen_blocks: int = -1, grad_checkpointing: bool = False) -> str | None:
    from logo_edge_train.models import check_network  # PyTorch and timm: seconds

    try:
        check_network(name, size_px, frozen_blocks=frozen_blocks, grad_checkpointing=grad_checkpointing)
    except RecipeError as error:
        return str(error)
    return None


def operation_rule(text: str) -> str | None:
    """The rule of an operation as `Operation.parse` reads it."""
    try:
        Operation.parse(text)
    except RecipeError:
        return OPERATION_FORM
    return None


def pair_rule(text: str) -> str | None:
    """The rule of two classes that are joined by a plus sign."""
    first, *others = text.split("+")
    return None if first and len(others) == 1 and others[0] else "expected two classes, such as 'complex+gradient'"


def file_name_rule(name: str) -> str | None:
    """The rule of a name that is also that of a folder."""
    plain = name.strip() == name and name not in ("", ".", "..") and not set(name) & set("/\\\0")
    return None if plain else "expected a name without slashes, and without blanks around it"


Network = Annotated[str, network_rule]
Networks = Annotated[tuple[Network, ...], not_empty]
Pair = Annotated[str, pair_rule]
Angle = Annotated[float, within(0, 180)]  # degrees


@dataclass(frozen=True)
class SamConfig:
    """Whether the main phase learns by the gradient at the worst weights near the present ones, which costs two passes.

    Near: within `rho` of them, as they are ("sam") or in units of each weight's own size ("asam"). Biases and normalisation
    move by `plain_scale` of rho, the first convolution by `stem_scale`. With `adapt`, rho follows the norm of the
    gradient over its running mean, to that power. `scope` is whose gradient perturbs: that of the whole batch, or under
    torchrun each process's own (m-sharpness).
    """

    kind: Literal["off", "sam", "asam"] = "off"
    rho: Positive = 0.05
    plain_scale: NotNegative = 1.0
    stem_scale: NotNegative = 1.0
    adapt: NotNegative = 0.0
    scope: Literal["batch", "process"] = "batch"


@dataclass(frozen=True)
class PhasesConfig:
    """What a fit does besides the warm-up and the main phase, which has the epochs that are left.

    Last but one come `ranger_epochs` of RAdam with Lookahead, last `finetune_epochs` of AdamW, each with a cosine from its
    own rate to 0. The cosine of the main phase restarts so often, each cycle `restart_growth` times as long as the last.
    """

    ranger_epochs: CountOrZero = 0
    ranger_rate: NotNegative = 5e-4
    finetune_epochs: CountOrZero = 0
    finetune_rate: NotNegative = 5e-5
    restarts: CountOrZero = 0
    restart_growth: Annotated[float, within(1)] = 2.0


@dataclass(frozen=True)
class LoopConfig:
    """What every fit has: learning rates are per step of `batch_size` images, decayed by a cosine to 0.

    `accumulate` cuts each batch into so many parts that pass one after another before the weights move, which takes less
    memory. A stage without a switch has the constant that stands here, and its recipe section does not know the name.
    """

    epochs: Count = 20
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


@dataclass(frozen=True)
class FitConfig(LoopConfig):
    """How a whole network is fitted.

    `grad_checkpointing` computes activations again instead of keeping them, which takes less memory. `amp` is bfloat16
    where it costs no accuracy, with "auto" on a GPU that computes in it; `compile` is torch.compile.
    """

    frozen_blocks: Annotated[int, within(-1)] = -1  # stages after the stem that keep their first weights; -1: none
    grad_checkpointing: bool = False
    amp: Literal["auto", "bf16", "off"] = "auto"
    compile: bool = False


@dataclass(frozen=True)
class TeacherFit(FitConfig):
    """How a teacher is fitted to labelled logos.

    Blocks are frozen of networks that have ImageNet weights only. From `aleatoric` on, losses.py and sampling.py say
    more: the focal loss, with `adaptive_focal` its gamma and class weights after each class's running recall; the weights
    of the penalty on confident errors and of the consistency with the logo-type prior, which logo_vit has; batches that
    hold all classes equally; and the epochs in which the logos grow from the easier half to all.
    """

    dropout: ShareBelowOne = 0.2
    max_images: CountOrZero = 0  # 0: all; else a stratified sample, for smoke runs
    label_smoothing: ShareBelowOne = 0.05
    class_weight_power: NotNegative = 0.5  # weight of a class: its count to the power -p, mean 1
    use_votes: bool = True  # the annotators' votes as soft labels
    aleatoric: bool = False  # also learn the variance of each logit: of teachers that have a head for it
    focal_gamma: NotNegative = 0.0  # 0: cross-entropy
    adaptive_focal: bool = False
    confident_errors: NotNegative = 0.0
    prior_consistency: NotNegative = 0.0
    balanced_batches: bool = False
    curriculum_epochs: NotNegative = 0.0


@dataclass(frozen=True)
class PretrainFit(FitConfig):
    """How a network learns from logos without labels; 0 epochs: not at all."""

    epochs: CountOrZero = 0
    batch_size: Count = 64
    learning_rate: Positive = 2e-3
    dropout: ShareBelowOne = 0.0
    max_images: CountOrZero = 0


@dataclass(frozen=True)
class PruneFit(FitConfig):
    """How a student that has lost channels learns on from its teachers."""

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
    """How a few-shot method learns on episodes, of which a step has `batch_size`."""

    epochs: Count = 10
    batch_size: Count = 4
    learning_rate: Positive = 3e-4
    ema_decay: ShareBelowOne = 0.98
    dropout: ShareBelowOne = 0.0
    frozen_blocks: Annotated[int, within(-1)] = 5
    amp: Literal["auto", "bf16", "off"] = "off"


@dataclass(frozen=True)
class FinetuneFit(LoopConfig):
    """How an INT8 graph learns from its FP32 parent, on the CPU in float32; 0 epochs: not at all."""

    epochs: CountOrZero = 1
    learning_rate: Positive = 1e-4
    weight_decay: NotNegative = 0.0
    warmup_epochs: NotNegative = 0.1
    ema_decay: ShareBelowOne = 0.98
    max_images: CountOrZero = 4800
    use_votes: ClassVar[bool] = False


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the class-preserving augmentation; every p is a probability.

    A picture of low resolution has a longer side of `least_px` to 160 px; `p_rescale` of them are scaled up again.
    `policy` is applied besides, each operation (`Operation.parse`) for itself.
    """

    scale_min: Annotated[float, within(above=0, most=1)] = 0.75
    rotate_degrees: Angle = 8.0
    p_rotate: Share = 0.25
    p_background: Share = 0.15
    p_colour: Share = 0.5
    hue_degrees: Angle = 180.0
    p_low_resolution: Share = 0.08
    least_px: Annotated[int, within(8, 160)] = 48
    p_rescale: Share = 0.0
    p_blur: Share = 0.08
    p_jpeg: Share = 0.15
    p_webp: Share = 0.0
    policy: tuple[Annotated[str, operation_rule], ...] = ()
    p_mixup: ClassVar[float] = 0.0
    p_cutmix: ClassVar[float] = 0.0
    adapt_intensity: ClassVar[float] = 0.0


@dataclass(frozen=True)
class TeacherAugment(AugmentConfig):
    """The augmentation of views that have labels.

    MixUp and CutMix join logos of the pairs of classes that are named, whose mix keeps a meaning, with a share of
    Beta(`mix_alpha`, `mix_alpha`). The logo of the highest running loss gets all strengths times 1 - `adapt_intensity`,
    that of the lowest gets them in full.
    """

    p_mixup: Share = 0.0
    p_cutmix: Share = 0.0
    mix_alpha: Positive = 1.0
    mixup_pairs: tuple[Pair, ...] = ("gradient+gradient", "complex+complex", "complex+gradient")
    cutmix_pairs: tuple[Pair, ...] = ("gradient+gradient", "complex+complex")
    adapt_intensity: Share = 0.0


@dataclass(frozen=True)
class BayesConfig:
    """Bayes by backprop: whether the teachers' classifiers learn a distribution over each weight (models/bayesian.py).

    A priori the weights are Gaussian of `prior_deviation`; their deviations begin at `first_deviation`. The KL of the
    weights counts `kl_weight` times as much as the logos' likelihood has it, 1 being Bayes' rule, in full from epoch
    `kl_warmup_epochs` on and before that in proportion to the epoch (annealed: Sønderby et al. 2016, arXiv:1602.02282).
    """

    enabled: bool = False
    prior_deviation: Positive = 0.02
    first_deviation: Positive = 0.005
    kl_weight: NotNegative = 1.0
    kl_warmup_epochs: CountOrZero = 4


@dataclass(frozen=True)
class TrainConfig:
    """The teachers, timm name @ input size in px: one member of the ensemble each, teacher i with the seed `seed` + i.

    With `pretrained`, those that have ImageNet weights (models/imagenet.py) begin at them, all others at random. So many
    `synthetic` pairs of drawn logos (synthesize.py), of the same `seed`, join the train split. `outlier_share` of an epoch
    are pictures that are no logos (outliers.py): a further class, whose logit is the constant 0.
    """

    teachers: Networks = ("tf_efficientnet_lite0@128", "tf_efficientnet_lite0@192")
    pretrained: bool = True
    seed: Seed = 0
    synthetic: Annotated[int, within(0, 100_000)] = 0
    outlier_share: ShareBelowOne = 0.0
    fit: TeacherFit = TeacherFit()
    augment: TeacherAugment = TeacherAugment()
    bayes: BayesConfig = BayesConfig()


@dataclass(frozen=True)
class AspectConfig:
    """Where one aspect's head begins: the temperature of its softmax, and how strongly its views are distorted, 0 to 1."""

    temperature: Positive = 0.15
    strength: Share = 0.2


@dataclass(frozen=True)
class PretrainConfig:
    """How the teachers' networks learn from logos without labels before they are fitted (SimCLR); 0 epochs: not at all.

    `hidden` and `projection` are the widths of the four heads; `learn_temperature` and `uncertainty` switch what their
    names say. The second view of a logo is of itself or one of its `neighbours` nearest in the aspect. An aspect's strength moves by `strength_step` per batch, up while more than `target_accuracy` of its views
    find their partner, else down; 0: it stays. A batch holds as many logos of each aspect, so `fit.batch_size` is a
    multiple of 4. Networks that have ImageNet weights to begin at are left as they are but with `from_imagenet`.
    """

    hidden: Count = 256
    projection: Count = 64
    learn_temperature: bool = True
    uncertainty: bool = False
    strength_step: Share = 0.002
    target_accuracy: Share = 0.3
    neighbours: CountOrZero = 5
    use_unlabelled: bool = True
    from_imagenet: bool = False
    seed: Seed = 0
    geometric: AspectConfig = AspectConfig()
    colour: AspectConfig = AspectConfig()
    text: AspectConfig = AspectConfig()
    shape: AspectConfig = AspectConfig()
    fit: PretrainFit = PretrainFit()


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

    backbones: Annotated[tuple[Annotated[str, backbone_rule], ...], not_empty] = (
        "tf_efficientnet_lite0",
        "mobilenetv3_small_100",
        "resnet10t",
        "vit_tiny_patch16_224",
        "mobilenetv4_conv_small_050",
    )
    attentions: Annotated[tuple[Attention, ...], not_empty] = get_args(Attention)
    heads: Annotated[tuple[Head, ...], not_empty] = get_args(Head)
    size_px: Annotated[int, size_rule] = 96
    pretrained: bool = False  # ImageNet weights for those backbones for which they can be had
    epochs: Count = 30
    warmup_epochs: CountOrZero = 8
    batch_size: Count = 32
    learning_rate: Positive = 1e-3
    alpha_rate: Positive = 1e-2
    inner_rate: NotNegative = 0.0
    sample_paths: bool = True
    entropy_weight: NotNegative = 0.2
    latency_weight: NotNegative = 0.3
    target_ms: NotNegative = 0.0
    patience: Count = 6
    joins: bool = False


@dataclass(frozen=True)
class PruneConfig:
    """How a distilled student loses channels, whole ones, and then learns on from its teachers; 0: it loses none.

    They go until `share` of the multiplications are gone, those first that matter least by `importance`: by the size of
    their weights, or by how much the loss would change to first order (taylor). Every layer keeps a multiple of `round_to`.
    """

    share: ShareBelowOne = 0.0
    importance: Literal["taylor", "magnitude"] = "taylor"
    round_to: Count = 16
    images: Count = 128  # labelled ones, by which taylor judges
    fit: PruneFit = PruneFit()


@dataclass(frozen=True)
class DistillConfig:
    """The students and how they learn from the ensemble (Hinton et al. 2015; Beyer et al. 2022 for long, matched views).

    `students` are candidates, timm name @ input size in px; the best on val, after quantization and within
    `max_size_mb`, is packed. `temperature` softens the teachers' targets; `hard_weight` is the share of the
    annotators' labels in the loss on labelled logos; `panel_share` that of the panel of `review` in these labels, which it
    gives to unlabelled logos too; `p_mixup` the share of batches whose views are mixed in pairs before
    teachers and student see them. With `start_from_teacher`, a student starts from the teacher of its own network, of the closest size, if any.
    `teachers_per_batch` teachers, drawn anew for each batch, are asked about it; 0: all. Teachers are asked in the first
    `views` epochs only, whose batches the later ones repeat; 0: in all. With an `adversarial_radius`, in
    values of 0 to 255, the student sees views with noise of twice as much that were moved against it by as much, its
    teachers the views as they are.

    What is matched besides, by weight (distill.py): the pooled features (`feature_weight`), where the last maps are
    strong (`attention_weight`), how the logos of a batch lie to each other (`relation_weight`). With `epistemic`, the student learns a further output, what the
    teachers disagree on, as a Dirichlet distribution or as a figure, by `epistemic_weight`.
    """

    students: Networks = ("tf_efficientnet_lite0@128",)
    max_size_mb: Positive = 4.0
    pretrained: bool = True
    temperature: Positive = 2.0
    hard_weight: Share = 0.1
    panel_share: Share = 0.0
    p_mixup: Share = 0.3
    teachers_per_batch: CountOrZero = 0
    views: CountOrZero = 0
    adversarial_radius: Annotated[float, within(0, 255)] = 0.0
    feature_weight: NotNegative = 0.0
    attention_weight: NotNegative = 0.0
    relation_weight: NotNegative = 0.0
    epistemic: Literal["off", "dirichlet", "dispersion"] = "off"
    epistemic_weight: NotNegative = 0.1
    use_unlabelled: bool = True
    start_from_teacher: bool = True
    seed: Seed = 100
    fit: DistillFit = DistillFit()
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

    network: Network = "tf_efficientnet_lite0@96"
    method: Literal["maml", "prototypes", "ridge"] = "prototypes"
    task: Literal["brands", "types"] = "brands"
    held_out_package: Annotated[str, not_empty] = "@iconify-json/devicon"
    ways: Annotated[int, within(2)] = 5
    shots: Count = 5
    queries: Count = 2  # of each class
    episodes: Count = 200
    val_episodes: Count = 200
    inner_steps: Count = 3
    inner_rate: Positive = 0.01
    head_rate: Positive = 0.5
    rates: Literal["element", "layer", "fixed"] = "layer"
    second_order: bool = True
    penalties: Annotated[tuple[Positive, ...], not_empty] = (
        1.0,
        0.1,
        0.01,
        10.0,
    )  # the first serves where none was chosen
    seed: Seed = 0
    fit: FewShotFit = FewShotFit()
    augment: AugmentConfig = AugmentConfig(p_colour=0.3, hue_degrees=30.0)


@dataclass(frozen=True)
class ReviewConfig:
    """The panel by which `logo-edge data suspects` doubts labels and `data next` chooses images to label.

    Each of `classifiers` learns from frozen features of `networks`, which have ImageNet weights where there are any (the
    pooled maps of their stages), and from `measures` of the logo: `curves` of measurements, `fades` and edges, `lettering`
    that a reader of text sees. A `logistic` regression sees one network and the measures, a `perceptron` all of them,
    `boosting` the measures alone. The groups of train and val are divided into `folds` parts, so many `divisions` in turn,
    and each part is predicted by fits on the others. `penalty` is the weight of the squared coefficients of standardised
    features.
    """

    networks: Networks = ("tf_efficientnet_lite0@96", "tf_efficientnet_lite0@128")
    measures: tuple[Literal["curves", "fades", "lettering"], ...] = ("curves", "fades", "lettering")
    classifiers: Annotated[tuple[Literal["logistic", "perceptron", "boosting"], ...], not_empty] = (
        "logistic",
        "perceptron",
        "boosting",
    )
    folds: Annotated[int, within(2)] = 5
    divisions: Count = 2
    penalty: Positive = 100.0
    seed: Seed = 0


@dataclass(frozen=True)
class QuantizeConfig:
    """Which ways to quantize are tried, and on how many train images they are calibrated.

    Static INT8, whose ranges are by minmax, percentile or entropy: weights S8 per channel, activations U8. `nncf` is
    NNCF's, with layers put back to FP32 for up to `nncf_minutes` until val's accuracy holds; `dynamic` is INT8 matrices
    for transformers; `weights-int8` and `weights-int4` only store less. `mixed` measures every layer's sensitivity and
    leaves the most sensitive ones in FP32, at most `most_restored`: where no INT8 holds its parent ("needed"), or always.
    `reduce_range` keeps weights to 7 bits (but for depthwise ones), so that
    CPUs without VNNI, whose 16-bit sums of U8 x S8 pairs saturate, compute the same logits as all others. `finetune`
    is how the quantized graph then learns from its FP32 parent; 0 epochs: not at all.
    """

    methods: tuple[Quantizer, ...] = ("minmax", "percentile")
    calibration_images: Count = 256
    nncf_minutes: NotNegative = 5.0
    mixed: Literal["off", "needed", "always"] = "needed"
    most_restored: CountOrZero = 8
    reduce_range: bool = True
    finetune: FinetuneFit = FinetuneFit()


@dataclass(frozen=True)
class CalibrateConfig:
    """Abstention: the least confidence at which the calib set's error among the answered is at most the risk.

    `target_risk` is that of mode balanced, `strict_risk` of strict, some 3 %: on as much two annotators disagree, so that
    less cannot be measured. `false_positive_rate`: the share of logos that may be rejected as no logo.
    """

    target_risk: ShareBelowOne = 0.05
    strict_risk: ShareBelowOne = 0.03
    false_positive_rate: ShareBelowOne = 0.05


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on besides the data and the seed."""

    name: Annotated[str, file_name_rule] = "cpu"
    description: str = ""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    few_shot: FewShotConfig = field(default_factory=FewShotConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)
