"""The recipe: one frozen dataclass per stage, with bounds beside each field. `recipe_io` reads it from a TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, get_args

from logo_edge.errors import RecipeError
from logo_edge_train.architecture import Network, Networks, backbone_rule, size_rule
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
from logo_edge_train.fit_config import DistillFit, FewShotFit, FinetuneFit, PretrainFit, PruneFit, TeacherFit

ASPECTS = ("geometric", "colour", "text", "shape")  # of a logo; pretraining has one head for each
OPERATIONS = (  # of an augmentation policy; data/augment.py implements them
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
When = Literal["off", "needed", "always"]
Attention = Literal["none", "se", "cbam", "mhsa"]  # of a composed network: see models/composed.py
Head = Literal["linear", "mlp", "attention_pool", "ensemble"]
OPERATION_FORM = (
    "expected name, probability and magnitude, 0 to 1 each, such as 'shear 0.3 0.5', with one of "
    + ", ".join(OPERATIONS)
)


@dataclass(frozen=True)
class Operation:
    """One operation of an augmentation policy; probability and magnitude are 0 to 1."""

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


def operation_rule(text: str) -> str | None:
    """The rule of an operation in the form of `Operation.parse`."""
    try:
        Operation.parse(text)
    except RecipeError:
        return OPERATION_FORM
    return None


def pair_rule(text: str) -> str | None:
    """The rule of two classes joined by a plus sign."""
    first, *others = text.split("+")
    return None if first and len(others) == 1 and others[0] else "expected two classes, such as 'complex+gradient'"


def file_name_rule(name: str) -> str | None:
    """The rule of a name that also names a folder."""
    plain = name.strip() == name and name not in ("", ".", "..") and not set(name) & set("/\\\0")
    return None if plain else "expected a name without slashes, and without blanks around it"


Pair = Annotated[str, pair_rule]
Angle = Annotated[float, within(0, 180)]  # degrees


@dataclass(frozen=True)
class SceneConfig:
    """Strengths of the views of pictures that fill their frame; every p is a probability.

    A view is a part of the image with `crop_min` to 1 of its area, and with its aspect ratio times or divided by up to
    `stretch`. It is mirrored left to right with `p_mirror`, upside down with `p_flip`, turned by up to `rotate_degrees`
    and seen at an angle that moves its corners inwards by up to `tilt` of a side. With `p_light` each, exposure,
    contrast and, from one side to the other, the light change by up to the share `light`; with `p_colour`, saturation
    changes by up to the share `saturation` and hue by `hue_degrees`.
    """

    crop_min: Annotated[float, within(above=0, most=1)]
    stretch: Annotated[float, within(1, 4)]
    p_mirror: Share = 0.0
    p_flip: Share = 0.0
    rotate_degrees: Annotated[float, within(0, 45)] = 0.0
    tilt: Annotated[float, within(0, 0.3)] = 0.0
    p_light: Share = 0.5
    light: Share = 0.25
    p_colour: Share = 0.0
    saturation: Share = 0.0
    hue_degrees: Angle = 0.0


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths of the class-preserving augmentation; every p is a probability.

    `kind` is the kind of picture: a `photo` or a `document` has the views of that table (SceneConfig), a logo those of
    the fields from `scale_min` to `hue_degrees`. `auto`: for a training and a search proposed from the images
    (organize/kinds.py), for a student its teachers' kind and tables, elsewhere logo. The other fields are for every
    kind. A low-resolution view has a longer side of `least_px` to 160 px; a share `p_rescale` of these is scaled up
    again. The operations of `policy` (`Operation.parse`) are applied in addition, each with its own probability.
    """

    kind: Literal["auto", "logo", "photo", "document"] = "auto"
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
    photo: SceneConfig = SceneConfig(
        crop_min=0.35, stretch=1.33, p_mirror=0.5, p_colour=0.5, saturation=0.3, hue_degrees=8.0
    )
    document: SceneConfig = SceneConfig(crop_min=0.8, stretch=1.1, rotate_degrees=2.0, tilt=0.03)
    p_mixup: ClassVar[float] = 0.0
    p_cutmix: ClassVar[float] = 0.0
    adapt_intensity: ClassVar[float] = 0.0


@dataclass(frozen=True)
class TeacherAugment(AugmentConfig):
    """The augmentation of labelled views.

    MixUp and CutMix mix images of the listed pairs of classes, for which mixed labels make sense, with a share from
    Beta(`mix_alpha`, `mix_alpha`). The image with the highest running loss gets all strengths times
    1 - `adapt_intensity`, the image with the lowest gets full strengths.
    """

    p_mixup: Share = 0.0
    p_cutmix: Share = 0.0
    mix_alpha: Positive = 1.0
    mixup_pairs: tuple[Pair, ...] = ("gradient+gradient", "complex+complex", "complex+gradient")
    cutmix_pairs: tuple[Pair, ...] = ("gradient+gradient", "complex+complex")
    adapt_intensity: Share = 0.0


@dataclass(frozen=True)
class BayesConfig:
    """Bayes by backprop: the teachers' classifiers learn a distribution over each weight (models/bayesian.py).

    The prior is Gaussian with `prior_deviation`; the learned deviations start at `first_deviation`. `kl_weight` scales
    the KL term of the loss; 1 is Bayes' rule. The KL term grows linearly until epoch `kl_warmup_epochs` (annealing:
    Sønderby et al. 2016, arXiv:1602.02282).
    """

    enabled: bool = False
    prior_deviation: Positive = 0.02
    first_deviation: Positive = 0.005
    kl_weight: NotNegative = 1.0
    kl_warmup_epochs: CountOrZero = 4


@dataclass(frozen=True)
class TrainConfig:
    """The teachers (name@size_px), one member of the ensemble each; teacher i uses the seed `seed` + i.

    With `pretrained`, networks with ImageNet weights (models/imagenet.py) start from them; all others start at random.
    `synthetic` pairs of drawn logos (data/synthesize.py) of the same `seed` join the train split. `outlier_share` of an
    epoch are pictures that are not logos (data/outliers): an extra class, whose logit is the constant 0.
    """

    teachers: Networks = ("tf_efficientnet_lite0@128", "tf_efficientnet_lite0@192")
    pretrained: bool = True
    seed: Seed = 0
    synthetic: Annotated[int, within(0, 100_000)] = 0
    outlier_share: ShareBelowOne = 0.0
    fit: TeacherFit = field(default_factory=TeacherFit)
    augment: TeacherAugment = TeacherAugment()
    bayes: BayesConfig = BayesConfig()


@dataclass(frozen=True)
class AspectConfig:
    """Start values of one aspect's head: the softmax temperature, and the distortion strength of its views, 0 to 1."""

    temperature: Positive = 0.15
    strength: Share = 0.2


@dataclass(frozen=True)
class PretrainConfig:
    """How the teachers' networks learn from unlabelled logos before they are fitted (SimCLR); 0 epochs: not at all.

    `hidden` and `projection` are the widths of the four heads. The second view of a logo shows the logo itself or one
    of its `neighbours` nearest in the aspect. An aspect's strength moves by `strength_step` per batch: up while more
    than `target_accuracy` of its views find their partner, else down. A batch has equally many logos of each aspect, so
    `fit.batch_size` is a multiple of 4. Networks with ImageNet weights are pretrained only with `from_imagenet`.
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
    fit: PretrainFit = field(default_factory=PretrainFit)


@dataclass(frozen=True)
class SearchConfig:
    """The options of `logo-edge search`, and how it chooses among them (Liu et al. 2019, arXiv:1806.09055).

    An architecture is one of `backbones` (timm names), one of `attentions` and one of `heads` (models/composed.py). All
    weights learn from one half of the train split at `learning_rate`. After `warmup_epochs`, the architecture
    parameters learn from the other half at `alpha_rate`. `inner_rate` is the rate of the virtual weight step of
    second-order gradients; 0: first order. With `sample_paths`, a weight step evaluates one backbone and an
    architecture step two, drawn by their shares (Cai et al. 2019, arXiv:1812.00332); else all. `entropy_weight`,
    reached linearly by the last epoch, favours a sharp choice. `latency_weight` favours an architecture within
    `target_ms` (median for one image on one thread; 0: no limit). The search ends after `patience` epochs with the same
    choice. The recipe that it writes has the chosen network as its only teacher and student or, with `joins`, beside
    the others. Augmentation, votes, class weights and the seed come from `train`.
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
    pretrained: bool = False  # ImageNet weights for the backbones that have them
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
    """How a distilled student is pruned by channels before it learns on from its teachers; share 0: not at all.

    Channels are removed until `share` of the multiplications are gone, the least important ones first. `importance` is
    the size of the weights, or the first-order change of the loss (taylor). Every layer keeps a multiple of `round_to`.
    """

    share: ShareBelowOne = 0.0
    importance: Literal["taylor", "magnitude"] = "taylor"
    round_to: Count = 16
    images: Count = 128  # labelled images for taylor
    fit: PruneFit = field(default_factory=PruneFit)


@dataclass(frozen=True)
class DistillConfig:
    """The students and how they learn from the ensemble (Hinton et al. 2015; Beyer et al. 2022: long, matched views).

    `students` are candidates (name@size_px); the best one on val, after quantization and within `max_size_mb`, is
    packed. `temperature` softens the teachers' targets. `hard_weight` is the share of the annotators' labels in the
    loss on labelled images. `panel_share` is the share of the panel of `review` in these labels; the panel labels
    unlabelled images too. At most `pictograms` pictograms (data/pictograms.py) and `drawn` pairs of drawn logos
    (data/synthesize.py) join these, without labels. `p_mixup` is the share of batches whose views are mixed in pairs,
    for teachers and student alike. With `start_from_teacher`, a student starts from a teacher of the same network, of
    the closest size, if there is one. `teachers_per_batch` teachers, drawn for each batch, give its targets; 0: all.
    Teachers give targets in the first `views` epochs; later epochs repeat these batches; 0: in all epochs. With an
    `adversarial_radius`, in values of 0 to 255, the student sees attacked views: noise of 2 radii, then a step of one
    radius against it. The teachers see the views without the attack.

    Further terms of the loss (distill.py) match the pooled features (`feature_weight`), the energy of the last maps
    (`attention_weight`) and the relations between the images of a batch (`relation_weight`). With `epistemic`, the
    student has a further output for the disagreement of its teachers, as a Dirichlet distribution or as a dispersion,
    weighted by `epistemic_weight`.
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
    pictograms: CountOrZero = 0
    drawn: Annotated[int, within(0, 100_000)] = 0
    start_from_teacher: bool = True
    seed: Seed = 100
    fit: DistillFit = field(default_factory=DistillFit)
    augment: AugmentConfig = AugmentConfig()
    prune: PruneConfig = PruneConfig()


@dataclass(frozen=True)
class FewShotConfig:
    """`logo-edge few-shot`: classification with `shots` views or images per class.

    A task has `ways` `brands`, over packages, or all `types` of logo of a package; figures are reported for the types
    of `held_out_package`. An epoch has `episodes` episodes, a step `fit.batch_size`; `val_episodes` measure after each
    epoch. `ridge` is not trained; the best of `penalties` on val is kept. MAML takes `inner_steps` steps on the support
    at learned rates, which start at `inner_rate` (last layer: `head_rate`). There is one rate for each `element` of the
    weights (Meta-SGD), one for each `layer` and step (MAML++), or the rates are `fixed`. A `network` without ImageNet
    weights starts at random, without frozen blocks.
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
    penalties: Annotated[tuple[Positive, ...], not_empty] = (1.0, 0.1, 0.01, 10.0)  # the first is the default
    seed: Seed = 0
    fit: FewShotFit = field(default_factory=FewShotFit)
    augment: AugmentConfig = AugmentConfig(p_colour=0.3, hue_degrees=30.0)


@dataclass(frozen=True)
class ReviewConfig:
    """The panel of classifiers behind `logo-edge data suspects` and `logo-edge data next`.

    The `classifiers` learn from frozen features of `networks` (the pooled maps of their stages, with ImageNet weights
    if there are any) and from `measures` of the image: `curves` of measurements, `fades` and edges, `lettering` found
    by a text reader. A `logistic` regression reads one network and the measures, a `perceptron` all of them, `boosting`
    only the measures. The groups of train and val are split into `folds` parts, `divisions` times; models fitted on the
    other parts predict each part. `penalty` is the L2 penalty on the coefficients of standardised features.
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
    """The quantization methods to try, and the number of train images that calibrate them.

    minmax, percentile and entropy are static INT8: S8 weights per channel, U8 activations. `nncf` is NNCF; it restores
    layers to FP32 for up to `nncf_minutes` until val's accuracy is kept. `dynamic` is INT8 matrices for transformers.
    `weights-int8` and `weights-int4` only reduce storage. Three further candidates are made in turn, by the method of
    the closest static INT8: always, or while every INT8 disagrees with its parent ("needed"). `equalise` scales
    channels such that all use the range of their activations, `depthwise_fp32` keeps depthwise convolutions in FP32,
    and `mixed` measures every layer's sensitivity and keeps the most sensitive ones, at most `most_restored`, in FP32.
    `reduce_range` limits weights to 7 bits (except depthwise ones): on CPUs without VNNI, 16-bit sums of U8 x S8 pairs
    saturate, and their logits would differ. `finetune` is how the quantized graph then learns from its FP32 parent; 0
    epochs: not at all.
    """

    methods: tuple[Quantizer, ...] = ("minmax", "percentile")
    calibration_images: Count = 256
    nncf_minutes: NotNegative = 5.0
    equalise: When = "needed"
    depthwise_fp32: When = "needed"
    mixed: When = "needed"
    most_restored: CountOrZero = 8
    reduce_range: bool = True
    finetune: FinetuneFit = field(default_factory=FinetuneFit)


@dataclass(frozen=True)
class CalibrateConfig:
    """Abstention: the lowest confidence at which the error among answered calib images is at most the risk.

    `target_risk` applies to mode balanced, `strict_risk` to strict. The default of 3 % is the disagreement between two
    annotators; a smaller error cannot be measured. `false_positive_rate` is the share of images that may be rejected as
    not a logo. `class_balance` raises the probabilities of rare classes by this power of the inverse of their share:
    0 leaves them, 1 treats all classes as equally frequent. It trades accuracy of the frequent classes for the rare.
    """

    target_risk: ShareBelowOne = 0.05
    strict_risk: ShareBelowOne = 0.03
    false_positive_rate: ShareBelowOne = 0.05
    class_balance: Share = 0.0


@dataclass(frozen=True)
class Recipe:
    """All settings of a run, for every stage."""

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
