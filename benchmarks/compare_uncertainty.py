"""How well one network, draws from it and ensembles know what they do not know, and which pictures are no logos.

    python benchmarks/compare_uncertainty.py runs/default [--report-test]

Writes benchmarks/results/uncertainty.json. Temperatures and scales are fitted on calib; which measure tells other pictures
from logos is chosen on val logos against the families of CHOOSE_ON; test is looked at with --report-test only. What the
networks say of each set of pictures is kept in runs/uncertainty/, and so is the Bayesian network, whose fit resumes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from scipy.stats import spearmanr

from logo_edge.decision import logo_score
from logo_edge.images.load import load_image
from logo_edge.preprocess import InputContract, preprocess
from logo_edge.probabilities import softmax
from logo_edge_report.novelty import (
    Familiarity,
    background,
    mahalanobis,
    nearest_neighbours,
    on_one_scale,
    relative_mahalanobis,
    virtual_logit,
)
from logo_edge_report.statistics import area_under_risk_coverage, auroc
from logo_edge_train.checkpoints import load_weights, save_member
from logo_edge_train.data.dataset import LogoDataset, soft_label
from logo_edge_train.data.icons import fetch_logos, renders_folder
from logo_edge_train.data.images import pixels_of
from logo_edge_train.data.manifest import targets_of
from logo_edge_train.data.outliers import families_of, outlier_paths
from logo_edge_train.device import pick_device
from logo_edge_train.evaluate import accuracy_on, ensemble_logits, evaluation_sets
from logo_edge_train.fit import count_loaders, fit
from logo_edge_train.keys import artifact_key, versions
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
from logo_edge_train.runs import Run, read_run, save_logits, write_json
from logo_edge_train.temperature import fit_temperature
from logo_edge_train.uncertainty import (
    BayesianObjective,
    decompose,
    entropy,
    sample_logits,
    weigh_members,
    weighted_logits,
)

ROOT = Path(__file__).resolve().parents[1]
RESULT, WORK = ROOT / "benchmarks" / "results" / "uncertainty.json", ROOT / "runs" / "uncertainty"
COVERAGE = 0.9  # at which the selective error is told
MEASURES = ("total", "aleatoric", "epistemic")
CHOOSE_ON = tuple(families_of("choice"))
FAMILIES = {**families_of("held_out"), **families_of("choice")}
NEAR = tuple(name for name, family in FAMILIES.items() if family.near)
OUTLIERS = 150  # pictures of each family at most
FROZEN = 7  # stages of EfficientNet-Lite: the Bayesian classifier learns with the last convolution below it, no more


@dataclass(frozen=True)
class Method:
    """Something that predicts: set of pictures -> (M, N, K) logits; how the M become one, and how much each counts."""

    logits: dict[str, np.ndarray]
    pool: Callable[[np.ndarray], np.ndarray] = ensemble_logits
    weigh: Callable[[np.ndarray], np.ndarray | None] = lambda logits: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the folder of a run, whose members are measured")
    parser.add_argument("--samples", type=int, default=50, help="draws of MC dropout and of Bayesian weights")
    parser.add_argument("--bayes-epochs", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=OUTLIERS, help="of each family that is no logo, at most")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--report-test", action="store_true", help="report on the test split too, once all is chosen")
    arguments = parser.parse_args()
    fetch_logos()
    run, device = read_run(arguments.run), pick_device(arguments.device)
    pictures = Pictures(run, arguments.pictures)
    splits = ("val", "test") if arguments.report_test else ("val",)
    sets = ("calib", *splits, *FAMILIES)
    said = []
    for index, member in enumerate(run.record["members"]):
        folder = WORK / f"{member['sha256'][:12]}-{arguments.samples}-{arguments.pictures}"
        network = run.load_member(index, drawing=True)
        said.append(
            ask(network, run.architecture(index).size_px, pictures, ("train", *sets), folder, arguments.samples, device)
        )
    config = BayesConfig(enabled=True, kl_warmup_epochs=2)
    bayesian, place = fit_bayesian(run, pictures, config, arguments.bayes_epochs, device)
    folder = place / f"{arguments.samples}-{arguments.pictures}"
    drawn = ask(bayesian, run.architecture(0).size_px, pictures, sets, folder, arguments.samples, device)

    def gather(kind: str, entries: list[dict]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([entry[name][kind] for entry in entries]) for name in sets}

    ensemble = gather("logits", said)
    methods = {
        "one network": Method(gather("logits", said[:1])),
        "MC dropout": Method(gather("draws", said[:1])),
        "Bayes by backprop": Method(gather("draws", [drawn])),
        "deep ensemble": Method(ensemble),
        "deep ensemble, weighted": Method(ensemble, weighted_logits, weigh_members),
        "deep ensemble of MC dropout": Method(gather("draws", said)),
    }
    write_json(
        arguments.out,
        {
            "run": run.folder.name,
            "members": [str(run.architecture(index)) for index in range(len(said))],
            "samples": arguments.samples,
            "bayes": {**asdict(config), "epochs": arguments.bayes_epochs},
            "pictures": arguments.pictures,
            "chosen_on": list(CHOOSE_ON),
            "near": list(NEAR),
            "coverage": COVERAGE,
            "methods": {name: measure(method, pictures, splits) for name, method in methods.items()},
            "detectors": measure_detectors(run, said, pictures, splits),
            "versions": versions(),
        },
    )


class Pictures:
    """Sets of pictures by name: the splits of a run's data, without what it left out, and FAMILIES."""

    def __init__(self, run: Run, count: int):
        self.manifest, self.classes, self.count = run.read_manifest(), run.classes, count
        left_out = set(run.record["left_out"])
        self.rows = {split: self.manifest.split(split) for split in ("train", "val", "calib", "test")}
        self.rows["train"] = [row for row in self.rows["train"] if f"{row.package}/{row.icon}" not in left_out]

    def pixels(self, name: str, size_px: int) -> np.ndarray:
        """(N, S, S, 3) uint8, as a network of that input size sees the set."""
        if name in self.rows:
            return pixels_of(self.rows[name], self.manifest, InputContract(size_px))
        paths = outlier_paths("choice" if name in CHOOSE_ON else "held_out", self.count)[name]
        return np.stack([preprocess(load_image(path), InputContract(size_px)) for path in paths])

    def targets(self, split: str) -> np.ndarray:
        return targets_of(self.rows[split], self.classes)

    def disagreement(self, split: str) -> np.ndarray:
        """(N,) nats: the entropy of each logo's votes."""
        return entropy(np.stack([soft_label(row, self.classes, use_votes=True) for row in self.rows[split]]))


def ask(
    network: LogoNetwork,
    size_px: int,
    pictures: Pictures,
    sets: tuple[str, ...],
    folder: Path,
    samples: int,
    device: torch.device,
) -> dict[str, dict[str, np.ndarray]]:
    """Set -> what the network says of it: logits (1, N, K), draws (M, N, K), features (N, F), stages (N, G).

    Kept in `folder`, set by set. Of the train split there are no draws.
    """
    found = {}
    for name in sets:
        path = folder / f"{name.replace(' ', '-')}.safetensors"
        if not path.exists():
            print(f"{folder.name}: {name}", flush=True)
            pixels = pictures.pixels(name, size_px)
            features = features_of(network, pixels, device)
            with torch.no_grad():
                logits = network.backbone.get_classifier()(torch.from_numpy(features).to(device))
            arrays = {
                "logits": logits.cpu().numpy()[None],
                "features": features,
                "stages": features_of(network, pixels, device, LogoNetwork.stage_features),
            }
            if name != "train":
                arrays["draws"] = sample_logits(network, pixels, device, samples=samples)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_logits(path, arrays)
        found[name] = load_file(path)
    return found


def fit_bayesian(
    run: Run, pictures: Pictures, config: BayesConfig, epochs: int, device: torch.device
) -> tuple[LogoNetwork, Path]:
    """The run's first member with a Bayesian classifier, and where it is kept.

    It starts from the member's weights, which become means (as Krishnan et al. 2020, arXiv:1906.05323, start theirs), and
    is fitted as the member was, for `epochs`, with all but its classifier and the last convolution below kept as they are.
    """
    train, member, size_px = run.recipe.train, run.record["members"][0], run.architecture(0).size_px
    settings = replace(train.fit, epochs=epochs, frozen_blocks=FROZEN)
    key = artifact_key({"start": member["sha256"], "data": run.data_hash}, {"fit": settings, "bayes": config}, {})
    place = WORK / f"bayesian-{key[:12]}"
    place.mkdir(parents=True, exist_ok=True)
    network = run.load_member(0, drawing=True)
    network.learn_deviations(config.prior_deviation, config.first_deviation)
    if not (place / "network.safetensors").exists():
        dataset = LogoDataset(
            pictures.manifest,
            pictures.rows["train"],
            run.classes,
            renders_folder(),
            contract=InputContract(size_px),
            augment=train.augment,
            use_votes=settings.use_votes,
            class_weight_power=settings.class_weight_power,
            seed=member["seed"],
        )
        val = evaluation_sets(pictures.manifest, run.classes, InputContract(size_px), ("val",))["val"]
        objective = BayesianObjective(supervised_objective(settings.label_smoothing), config, len(dataset))
        with FitProgress() as progress:
            fitted, _ = fit(
                network,
                dataset,
                objective,
                settings,
                state=place / "network.state",
                seed=member["seed"],
                device=device,
                evaluate=accuracy_on(val, device),
                report=lambda item: progress({"name": "Bayes by backprop", **item}),
                loaders=count_loaders(device),
            )
        save_member(place / "network.safetensors", fitted)
    load_weights(place / "network.safetensors", network)
    return network.eval(), place


def measure(method: Method, pictures: Pictures, splits: tuple[str, ...]) -> dict:
    """The method's figures by split, at the temperature that fits it on calib, and its uncertainty about other pictures."""
    pooled = {name: method.pool(logits) for name, logits in method.logits.items()}
    doubts = {name: vars(decompose(logits, method.weigh(logits))) for name, logits in method.logits.items()}
    return describe(pooled, doubts, pictures, splits) | {"draws": len(method.logits["calib"])}


def describe(
    pooled: dict[str, np.ndarray], doubts: dict[str, dict[str, np.ndarray]], pictures: Pictures, splits: tuple[str, ...]
) -> dict:
    """The figures of (N, K) logits by set, and of what is not known of them by set and measure, (N,) nats each."""
    temperature = fit_temperature(pooled["calib"], pictures.targets("calib"))
    found = {"temperature": temperature}
    for split in splits:
        targets, probabilities = pictures.targets(split), softmax(pooled[split], temperature)
        confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
        kept = np.argsort(-confidence, kind="stable")[: math.ceil(COVERAGE * len(targets))]
        found[split] = {
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
                    "mean": float(doubts[split][name].mean()),
                    "spearman": vars(bootstrap(correlate, doubts[split][name], pictures.disagreement(split))),
                    "auroc": {family: auroc(-doubts[split][name], -doubts[family][name]) for family in FAMILIES},
                }
                for name in MEASURES
            },
        }
    by_measure = {name: figures["auroc"] for name, figures in found["val"]["uncertainty"].items()}
    return {**found, "chosen": choose(by_measure)}


def measure_detectors(run: Run, said: list[dict], pictures: Pictures, splits: tuple[str, ...]) -> dict:
    """Every detector's AUROC by split and family, the members' familiarities added up; and which of them is chosen."""
    sums: dict[str, dict[str, np.ndarray]] = {}
    for index, sets in enumerate(said):
        print(f"detectors on member {index}", flush=True)
        classifier = run.load_member(index).backbone.get_classifier()
        for name, familiarity in fit_detectors(sets, pictures.targets("train"), classifier).items():
            total = sums.setdefault(name, {})
            for part in (*splits, *FAMILIES):
                total[part] = total.get(part, 0.0) + familiarity(sets[part])
    found = {
        split: {
            name: {family: auroc(total[split], total[family]) for family in FAMILIES} for name, total in sums.items()
        }
        for split in splits
    }
    return {**found, "chosen": choose(found["val"])}


def fit_detectors(
    sets: dict[str, dict[str, np.ndarray]], targets: np.ndarray, classifier: torch.nn.Linear
) -> dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]]:
    """Name -> what a set's arrays are given to, to learn how familiar its pictures are, on the scale of calib's logos."""
    train, held_out = sets["train"], sets["calib"]
    weight, bias = (part.detach().numpy() for part in (classifier.weight, classifier.bias))

    def detect(kind: str, fit: Callable[..., Familiarity], **settings) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        scaled = on_one_scale(fit(train[kind], targets, **settings), held_out[kind])
        return lambda arrays: scaled(arrays[kind])

    score = on_one_scale(lambda logits: logo_score(logits[0]), held_out["logits"])
    vim = on_one_scale(virtual_logit(train["features"], weight, bias), held_out["features"])
    distance, neighbour = detect("stages", mahalanobis), detect("stages", nearest_neighbours, k=1)
    return {
        "logo score": lambda arrays: score(arrays["logits"]),
        "Mahalanobis": detect("features", mahalanobis),
        "relative Mahalanobis": detect("features", relative_mahalanobis),
        "nearest neighbour": detect("features", nearest_neighbours, k=1),
        "tenth neighbour": detect("features", nearest_neighbours, k=10),
        "ViM": lambda arrays: vim(arrays["features"]),
        "Mahalanobis, stages": distance,
        "Mahalanobis of one class, stages": detect("stages", background),
        "nearest neighbour, stages": neighbour,
        "tenth neighbour, stages": detect("stages", nearest_neighbours, k=10),
        "Mahalanobis + nearest neighbour, stages": lambda arrays: distance(arrays) + neighbour(arrays),
    }


def choose(by_name: dict[str, dict[str, float]]) -> str:
    """The name of the greatest mean AUROC over the families of CHOOSE_ON."""
    return max(by_name, key=lambda name: np.mean([by_name[name][family] for family in CHOOSE_ON]))


def correlate(uncertainty: np.ndarray, disagreement: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where either is the same for all."""
    if np.ptp(uncertainty) == 0 or np.ptp(disagreement) == 0:
        return 0.0
    return float(spearmanr(uncertainty, disagreement).statistic)


if __name__ == "__main__":
    main()
