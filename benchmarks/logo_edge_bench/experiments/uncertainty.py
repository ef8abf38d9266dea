"""The uncertainty of one network, of draws from it and of ensembles, and detectors of images that are no logos.

    python -m logo_edge_bench.experiments uncertainty runs/shipped [--report-test]

Temperatures and scales are fitted on calib; the measure that separates other images from logos is chosen on val logos
against the families of CHOOSE_ON; test is used with --report-test only. The networks' outputs for each set of images
and the Bayesian network, whose fit resumes, are kept in runs/uncertainty/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from scipy.stats import spearmanr

from logo_edge.decision import logo_score
from logo_edge.images.load import load_image
from logo_edge.preprocess import InputContract, preprocess
from logo_edge.probabilities import entropy, softmax
from logo_edge_bench.experiments import novelty
from logo_edge_bench.experiments.record import RUNS, Device, ReportTest, file_name, keep_arrays
from logo_edge_report.statistics import area_under_risk_coverage, auroc
from logo_edge_train.checkpoints import load_weights, save_member
from logo_edge_train.data.dataset import LogoDataset, soft_label
from logo_edge_train.data.icons import fetch_logos
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import targets_of
from logo_edge_train.data.outliers import families_of, outlier_paths
from logo_edge_train.device import pick_device
from logo_edge_train.evaluate import accuracy_on, ensemble_logits, evaluation_sets
from logo_edge_train.fit import count_loaders, fit
from logo_edge_train.keys import artifact_key
from logo_edge_train.losses import supervised_objective
from logo_edge_train.metrics import (
    bootstrap,
    brier_score,
    calibration_error_interval,
    ece_interval,
    negative_log_likelihood,
    wilson_interval,
)
from logo_edge_train.models import LogoNetwork
from logo_edge_train.pretrain.probe import features_of
from logo_edge_train.progress import FitProgress
from logo_edge_train.recipe import BayesConfig
from logo_edge_train.runs import Run, read_run
from logo_edge_train.temperature import fit_temperature
from logo_edge_train.uncertainty import BayesianObjective, decompose, sample_logits, weigh_members, weighted_logits

COVERAGE = 0.9  # of the selective error
MEASURES = ("total", "aleatoric", "epistemic")
CHOOSE_ON = tuple(families_of("choice"))
FAMILIES = {**families_of("held_out"), **families_of("choice")}
NEAR = tuple(name for name, family in FAMILIES.items() if family.near)
OUTLIERS = 150  # images of each family at most
FROZEN = 7  # stages of EfficientNet-Lite: only the Bayesian classifier and the convolution below it are trained


@dataclass(frozen=True)
class Method:
    """Predictions by set of images, (M, N, K) logits; `pool` combines the M, `weigh` gives their weights."""

    logits: dict[str, np.ndarray]
    pool: Callable[[np.ndarray], np.ndarray] = ensemble_logits
    weigh: Callable[[np.ndarray], np.ndarray | None] = lambda logits: None


def measure(
    run: Annotated[Path, "the folder of a run, whose members are measured"],
    *,
    samples: Annotated[int, "draws of MC dropout and of Bayesian weights"] = 50,
    bayes_epochs: int = 4,
    pictures: Annotated[int, "of each family that is no logo, at most"] = OUTLIERS,
    device: Device = "auto",
    report_test: ReportTest = False,
) -> dict:
    fetch_logos()
    trained, chosen_device = read_run(run), pick_device(device)
    images = Images(trained, pictures)
    splits = ("val", "test") if report_test else ("val",)
    sets = ("calib", *splits, *FAMILIES)
    outputs = []
    for index, member in enumerate(trained.record["members"]):
        folder = RUNS / "uncertainty" / f"{member['sha256'][:12]}-{samples}-{pictures}"
        network, size_px = trained.load_member(index, drawing=True), trained.architecture(index).size_px
        outputs.append(read_outputs(network, size_px, images, ("train", *sets), folder, samples, chosen_device))
    config = BayesConfig(enabled=True, kl_warmup_epochs=2)
    bayesian, folder = fit_bayesian(trained, images, config, bayes_epochs, chosen_device)
    folder /= f"{samples}-{pictures}"
    size_px = trained.architecture(0).size_px
    drawn = read_outputs(bayesian, size_px, images, sets, folder, samples, chosen_device)

    def gather(kind: str, members: list[dict]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([member[name][kind] for member in members]) for name in sets}

    ensemble = gather("logits", outputs)
    methods = {
        "one network": Method(gather("logits", outputs[:1])),
        "MC dropout": Method(gather("draws", outputs[:1])),
        "Bayes by backprop": Method(gather("draws", [drawn])),
        "deep ensemble": Method(ensemble),
        "deep ensemble, weighted": Method(ensemble, weighted_logits, weigh_members),
        "deep ensemble of MC dropout": Method(gather("draws", outputs)),
    }
    return {
        "run": trained.folder.name,
        "members": [str(trained.architecture(index)) for index in range(len(outputs))],
        "samples": samples,
        "bayes": {**asdict(config), "epochs": bayes_epochs},
        "pictures": pictures,
        "chosen_on": list(CHOOSE_ON),
        "near": list(NEAR),
        "coverage": COVERAGE,
        "methods": {name: measure_method(method, images, splits) for name, method in methods.items()},
        "detectors": measure_detectors(trained, outputs, images, splits),
    }


class Images:
    """Sets of images by name: the splits of a run's data, without the rows that it left out, and `families`."""

    def __init__(self, run: Run, count: int, families: Sequence[str] = tuple(FAMILIES)):
        self.families = families
        self.manifest, self.classes, self.count = run.read_manifest(), run.classes, count
        left_out = set(run.record["left_out"])
        self.rows = {split: self.manifest.split(split) for split in ("train", "val", "calib", "test")}
        self.rows["train"] = [row for row in self.rows["train"] if f"{row.package}/{row.icon}" not in left_out]

    def pixels(self, name: str, size_px: int) -> np.ndarray:
        """(N, S, S, 3) uint8: the set as the input of a network of that size."""
        if name in self.rows:
            return pixels_of(self.rows[name], self.manifest, InputContract(size_px))
        paths = outlier_paths("choice" if name in CHOOSE_ON else "held_out", self.count)[name]
        return np.stack([preprocess(load_image(path), InputContract(size_px)) for path in paths])

    def targets(self, split: str) -> np.ndarray:
        return targets_of(self.rows[split], self.classes)

    def disagreement(self, split: str) -> np.ndarray:
        """(N,) nats: the entropy of each logo's votes."""
        return entropy(np.stack([soft_label(row, self.classes, use_votes=True) for row in self.rows[split]]))


def read_outputs(
    network: LogoNetwork,
    size_px: int,
    images: Images,
    sets: tuple[str, ...],
    folder: Path,
    samples: int,
    device: torch.device,
) -> dict[str, dict[str, np.ndarray]]:
    """Set -> the network's outputs: logits (1, N, K), draws (M, N, K), features (N, F), stages (N, G).

    Kept in `folder`, set by set. The train split has no draws.
    """

    def compute(name: str) -> dict[str, np.ndarray]:
        print(f"{folder.name}: {name}", flush=True)
        pixels = images.pixels(name, size_px)
        features = features_of(network, pixels, device)
        with torch.no_grad():
            logits = network.backbone.get_classifier()(torch.from_numpy(features).to(device))
        stages = features_of(network, pixels, device, LogoNetwork.stage_features)
        draws = {} if name == "train" else {"draws": sample_logits(network, pixels, device, samples=samples)}
        return {"logits": logits.cpu().numpy()[None], "features": features, "stages": stages, **draws}

    return {name: keep_arrays(folder / f"{file_name(name)}.safetensors", compute, name) for name in sets}


def fit_bayesian(
    run: Run, images: Images, config: BayesConfig, epochs: int, device: torch.device
) -> tuple[LogoNetwork, Path]:
    """The run's first member with a Bayesian classifier, and its folder.

    The member's weights become the initial means (Krishnan et al. 2020, arXiv:1906.05323). It is fitted like the
    member, for `epochs`, with all layers frozen but the classifier and the last convolution.
    """
    train, member, size_px = run.recipe.train, run.record["members"][0], run.architecture(0).size_px
    settings = replace(train.fit, epochs=epochs, frozen_blocks=FROZEN)
    key = artifact_key({"start": member["sha256"], "data": run.data_hash}, {"fit": settings, "bayes": config}, {})
    folder = RUNS / "uncertainty" / f"bayesian-{key[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    network = run.load_member(0, drawing=True)
    network.learn_deviations(config.prior_deviation, config.first_deviation)
    if not (folder / "network.safetensors").exists():
        dataset = LogoDataset(
            images.manifest,
            images.rows["train"],
            run.classes,
            contract=InputContract(size_px),
            augment=train.augment,
            use_votes=settings.use_votes,
            class_weight_power=settings.class_weight_power,
            seed=member["seed"],
        )
        val = evaluation_sets(images.manifest, run.classes, InputContract(size_px), ("val",))["val"]
        objective = BayesianObjective(supervised_objective(settings.label_smoothing), config, len(dataset))
        with FitProgress() as progress:
            fitted, _ = fit(
                network,
                dataset,
                objective,
                settings,
                state=folder / "network.state",
                seed=member["seed"],
                device=device,
                evaluate=accuracy_on(val, device),
                report=lambda item: progress({"name": "Bayes by backprop", **item}),
                loaders=count_loaders(device),
            )
        save_member(folder / "network.safetensors", fitted)
    load_weights(folder / "network.safetensors", network)
    return network.eval(), folder


def measure_method(method: Method, images: Images, splits: tuple[str, ...]) -> dict:
    """The method's figures by split, at its temperature fitted on calib, and its uncertainty on other images."""
    pooled = {name: method.pool(logits) for name, logits in method.logits.items()}
    uncertainties = {name: vars(decompose(logits, method.weigh(logits))) for name, logits in method.logits.items()}
    return describe(pooled, uncertainties, images, splits) | {"draws": len(method.logits["calib"])}


def describe(
    pooled: dict[str, np.ndarray],
    uncertainties: dict[str, dict[str, np.ndarray]],
    images: Images,
    splits: tuple[str, ...],
) -> dict:
    """The figures of (N, K) logits by set, and of their uncertainties in nats, (N,) by set and measure."""
    temperature = fit_temperature(pooled["calib"], images.targets("calib"))
    figures: dict = {"temperature": temperature}
    for split in splits:
        targets, probabilities = images.targets(split), softmax(pooled[split], temperature)
        confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
        kept = np.argsort(-confidence, kind="stable")[: math.ceil(COVERAGE * len(targets))]
        figures[split] = {
            "accuracy": vars(wilson_interval(int(correct.sum()), len(targets))),
            "nll": vars(bootstrap(negative_log_likelihood, probabilities, targets)),
            "nll_before": negative_log_likelihood(softmax(pooled[split]), targets),
            "brier": vars(bootstrap(brier_score, probabilities, targets)),
            "ece_debiased": vars(ece_interval(confidence, correct)),
            "calibration_error_debiased": vars(calibration_error_interval(confidence, correct)),
            "area_under_risk_coverage": vars(bootstrap(area_under_risk_coverage, confidence, correct)),
            "selective_error": vars(wilson_interval(int((~correct[kept]).sum()), len(kept))),
            "uncertainty": {
                name: {
                    "mean": float(uncertainties[split][name].mean()),
                    "spearman": vars(bootstrap(correlate, uncertainties[split][name], images.disagreement(split))),
                    "auroc": {
                        family: auroc(-uncertainties[split][name], -uncertainties[family][name])
                        for family in images.families
                    },
                }
                for name in MEASURES
            },
        }
    by_measure = {name: own["auroc"] for name, own in figures["val"]["uncertainty"].items()}
    return {**figures, "chosen": choose(by_measure)}


def measure_detectors(run: Run, outputs: list[dict], images: Images, splits: tuple[str, ...]) -> dict:
    """Every detector's AUROC by split and family, the members' familiarities added up, and the chosen detector."""
    sums: dict[str, dict[str, np.ndarray]] = {}
    for index, sets in enumerate(outputs):
        print(f"detectors on member {index}", flush=True)
        classifier = run.load_member(index).backbone.get_classifier()
        for name, familiarity in fit_detectors(sets, images.targets("train"), classifier).items():
            total = sums.setdefault(name, {})
            for part in (*splits, *images.families):
                total[part] = total.get(part, 0.0) + familiarity(sets[part])
    figures = {
        split: {
            name: {family: auroc(total[split], total[family]) for family in images.families}
            for name, total in sums.items()
        }
        for split in splits
    }
    return {**figures, "chosen": choose(figures["val"])}


def fit_detectors(
    sets: dict[str, dict[str, np.ndarray]], targets: np.ndarray, classifier: torch.nn.Linear
) -> dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]]:
    """Name -> a function from a set's arrays to the familiarity of its images, on the scale of calib's logos."""
    train, held_out = sets["train"], sets["calib"]
    weight, bias = (part.detach().numpy() for part in (classifier.weight, classifier.bias))

    def detect(
        kind: str, fit: Callable[..., novelty.Familiarity], **settings
    ) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        scaled = novelty.on_one_scale(fit(train[kind], targets, **settings), held_out[kind])
        return lambda arrays: scaled(arrays[kind])

    score = novelty.on_one_scale(lambda logits: logo_score(logits[0]), held_out["logits"])
    vim = novelty.on_one_scale(novelty.virtual_logit(train["features"], weight, bias), held_out["features"])
    distance, neighbour = detect("stages", novelty.mahalanobis), detect("stages", novelty.nearest_neighbours, k=1)
    return {
        "logo score": lambda arrays: score(arrays["logits"]),
        "Mahalanobis": detect("features", novelty.mahalanobis),
        "relative Mahalanobis": detect("features", novelty.relative_mahalanobis),
        "nearest neighbour": detect("features", novelty.nearest_neighbours, k=1),
        "tenth neighbour": detect("features", novelty.nearest_neighbours, k=10),
        "ViM": lambda arrays: vim(arrays["features"]),
        "Mahalanobis, stages": distance,
        "Mahalanobis of one class, stages": detect("stages", novelty.background),
        "nearest neighbour, stages": neighbour,
        "tenth neighbour, stages": detect("stages", novelty.nearest_neighbours, k=10),
        "Mahalanobis + nearest neighbour, stages": lambda arrays: distance(arrays) + neighbour(arrays),
    }


def choose(by_name: dict[str, dict[str, float]]) -> str:
    """The name with the greatest mean AUROC over the families of CHOOSE_ON."""
    return max(by_name, key=lambda name: np.mean([by_name[name][family] for family in CHOOSE_ON]))


def correlate(uncertainty: np.ndarray, disagreement: np.ndarray) -> float:
    """Spearman's rank correlation, or 0 where either is constant."""
    if np.ptp(uncertainty) == 0 or np.ptp(disagreement) == 0:
        return 0.0
    return float(spearmanr(uncertainty, disagreement).statistic)
