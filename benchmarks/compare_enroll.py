"""What `logo-edge enroll`, `similar` and `cluster` are worth on brands across icon packages, and the constants they use.

    python benchmarks/compare_enroll.py                   # val alone: what choices are made by
    python benchmarks/compare_enroll.py --report-test     # and test, once

Writes benchmarks/results/enroll.json; embeddings are kept in runs/enroll. Episodes are those of `logo_edge_train.few_shot.episodes`: 5 brands, of each one package's
drawing to learn from (five shots are five views of it), other packages' drawings to tell.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.classifier import Classifier
from logo_edge.likeness.cluster import cluster
from logo_edge.likeness.enroll import background_threshold, confidences
from logo_edge.likeness.space import DIRECTIONS, EmbeddingSpace, read_space, unit
from logo_edge_train.data.icons import LABELS, fetch_logos, renders_folder
from logo_edge_train.data.manifest import Manifest, read_manifest
from logo_edge_train.few_shot.episodes import PARTS, BrandTasks, Drawings
from logo_edge_train.keys import data_hash, row_hashes, versions
from logo_edge_train.metrics import bootstrap
from logo_edge_train.recipe import FewShotConfig
from logo_edge_train.runs import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT, RUNS = ROOT / "benchmarks" / "results" / "enroll.json", ROOT / "runs" / "enroll"
BUNDLES = {"default": DEFAULT_BUNDLE, "robust": ROOT / "runtime" / "bundles" / "robust"}
SHOTS = {"1 shot": 1, "1 shot, in parts": PARTS, "5 shots": 5}  # how many of VIEWS are learned from; a query is whole
SHOWN = max(SHOTS.values())
PENALTIES = (0.01, 0.1, 1.0, 10.0)
FALSE_ACCEPTS = (0.01, 0.02, 0.05, 0.1)
SHARPNESS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 10.0, 15.0, 20.0)
SAME = tuple(round(0.3 + 0.05 * step, 2) for step in range(14))
KEPT = 5  # brands of an episode, and enrolled together
NEAREST = (1, 5, 10)
BINS = 10


class Split:
    """The logos of a split of one bundle: `whole` (N, D), and (R, V, D) views of those that episodes are drawn from."""

    def __init__(self, classifier: Classifier, manifest: Manifest, name: str):
        self.rows = rows = manifest.split(name)
        self.tasks = BrandTasks(rows, replace(FewShotConfig(), shots=1, ways=KEPT))
        self.place = np.zeros(len(rows), int)
        self.place[self.tasks.rows] = np.arange(len(self.tasks.rows))
        model = classifier.bundle.files[classifier.bundle.model.file].sha256
        cache = RUNS / f"{model[:16]}-{data_hash(row_hashes(manifest, manifest.rows))[:16]}-{name}.npz"
        if not cache.exists():
            whole = [classifier.read_pixels(manifest.image_path(row, renders_folder())) for row in rows]
            drawings = Drawings.load(
                manifest, [rows[index] for index in self.tasks.rows], classifier.bundle.input.size_px
            )
            views = [drawings.draw(index, view) for index in range(len(drawings.images)) for view in range(SHOWN)]
            embedded = [
                np.concatenate([classifier.embeddings(image[None]) for image in part]) for part in (whole, views)
            ]
            RUNS.mkdir(parents=True, exist_ok=True)
            np.savez(cache, whole=embedded[0], views=embedded[1].reshape(len(drawings.images), SHOWN, -1))
        with np.load(cache) as arrays:
            self.whole, self.views = arrays["whole"], arrays["views"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--report-test", action="store_true", help="measure test too, at what val chose")
    arguments = parser.parse_args()
    fetch_logos()
    manifest = read_manifest(LABELS)
    classifiers = {name: Classifier.load(folder) for name, folder in BUNDLES.items()}
    spaces = {name: read_space(classifier.bundle) for name, classifier in classifiers.items()}
    found: dict[str, dict] = {}
    for name, classifier in classifiers.items():
        val, space = Split(classifier, manifest, "val"), spaces[name]
        model = classifier.bundle.files[classifier.bundle.model.file].sha256
        found[name] = {
            "model_sha256": model,
            "val": {
                "heads": compare_heads(val, space, arguments.episodes, None),
                "open_set": open_set(val, space, arguments.episodes, SHARPNESS),
                "nearest": nearest_figures(val, space),
                "groups": {str(same): group_figures(val, space, same) for same in SAME},
            },
        }
        print(name, "val", flush=True)
    on_val = [entry["val"] for entry in found.values()]
    sharpness = min(SHARPNESS, key=lambda value: sum(entry["open_set"]["nll"][str(value)] for entry in on_val))
    same = max(SAME, key=lambda value: sum(entry["groups"][str(value)]["b_cubed_f1"] for entry in on_val))
    for name, classifier in classifiers.items() if arguments.report_test else ():
        test, space = Split(classifier, manifest, "test"), spaces[name]
        penalties = {key: entry["penalty"] for key, entry in found[name]["val"]["heads"].items()}
        found[name]["test"] = {
            "heads": compare_heads(test, space, arguments.episodes, penalties),
            "open_set": open_set(test, space, arguments.episodes, (sharpness,)),
            "nearest": nearest_figures(test, space),
            "groups": {str(same): group_figures(test, space, same)},
        }
        print(name, "test", flush=True)
    write_json(
        RESULT,
        {
            "settings": {"episodes": arguments.episodes, "ways": KEPT, "directions": DIRECTIONS},
            "chosen": {"sharpness": sharpness, "same": same},
            "bundles": found,
            "versions": versions(),
        },
    )


def spaces_of(space: EmbeddingSpace):
    """Each way to compare embeddings: (..., D) -> (..., d) of length 1."""
    return {"raw": unit, "centred": lambda embeddings: unit(embeddings - space.mean), "whitened": space.project}


def compare_heads(split: Split, space: EmbeddingSpace, episodes: int, penalties: dict[str, float] | None) -> dict:
    """{space, head, shots: accuracy with its interval}; ridge at the penalty of best accuracy, or at the given one."""
    found = {}
    for name, project in spaces_of(space).items():
        views = project(split.views)
        for shots, count in SHOTS.items():
            for head, tried in (("prototypes", (0.0,)), ("ridge", PENALTIES)):
                key = f"{name}, {head}, {shots}"
                if penalties:
                    tried = (penalties[key],)
                accuracy = {penalty: measure(split, views, count, head, penalty, episodes) for penalty in tried}
                best = max(accuracy, key=lambda penalty: accuracy[penalty].mean())
                figure = bootstrap(lambda drawn: float(drawn.mean()), accuracy[best])
                found[key] = {"accuracy": vars(figure), "penalty": best}
    return found


def measure(split: Split, views: np.ndarray, count: int, head: str, penalty: float, episodes: int) -> np.ndarray:
    """(E,) the share of right queries of each episode."""
    shares = []
    for index in range(episodes):
        episode = split.tasks.draw(np.random.default_rng((0, index)))
        support = views[split.place[episode.support[:, 0]], :count]  # (N, V, d)
        queries = views[split.place[episode.queries.ravel()], 0]  # (N * Q, d)
        if head == "ridge":
            logits = ridge(support.reshape(-1, support.shape[-1]), np.repeat(np.arange(KEPT), count), queries, penalty)
        else:
            logits = queries @ unit(support.mean(1)).T
        shares.append((logits.argmax(1) == np.repeat(np.arange(KEPT), episode.queries.shape[1])).mean())
    return np.array(shares)


def ridge(support: np.ndarray, labels: np.ndarray, queries: np.ndarray, penalty: float) -> np.ndarray:
    """(M, N): ridge regression with an intercept, as `logo_edge_train.few_shot.methods.ridge_logits`."""
    targets = 2.0 * np.eye(KEPT)[labels] - 1
    centre, intercept = support.mean(0), targets.mean(0)
    centred = support - centre
    weights = centred.T @ np.linalg.solve(centred @ centred.T + penalty * np.eye(len(support)), targets - intercept)
    return (queries - centre) @ weights + intercept


def open_set(split: Split, space: EmbeddingSpace, episodes: int, tried: tuple[float, ...]) -> dict:
    """Of 5 enrolled brands: what is found of their other drawings, and taken for one of them of all other logos."""
    views, whole = space.project(split.views), space.project(split.whole)
    groups = np.array([row.group for row in split.rows])
    known_found: dict[float, list] = {share: [] for share in FALSE_ACCEPTS}
    known_wrong: dict[float, list] = {share: [] for share in FALSE_ACCEPTS}
    unknown_taken: dict[float, list] = {share: [] for share in FALSE_ACCEPTS}
    known, unknown, targets = [], [], []  # similarities above the threshold that the runtime begins with
    for index in range(episodes):
        episode = split.tasks.draw(np.random.default_rng((1, index)))
        prototypes = unit(views[split.place[episode.support[:, 0]], :PARTS].mean(1))
        asked = views[split.place[episode.queries.ravel()], 0] @ prototypes.T
        others = whole[~np.isin(groups, episode.classes)] @ prototypes.T
        right = asked.argmax(1) == np.repeat(np.arange(KEPT), episode.queries.shape[1])
        for share in FALSE_ACCEPTS:
            threshold = background_threshold(space.background, prototypes, share)
            accepted = asked.max(1) >= threshold
            known_found[share].append((accepted & right).mean())
            known_wrong[share].append((accepted & ~right).mean())
            unknown_taken[share].append((others.max(1) >= threshold).mean())
            if share == 0.05:
                known.append(asked - threshold)
                unknown.append(others[index % 10 :: max(1, len(others) // len(asked))][: len(asked)] - threshold)
                targets.append(np.repeat(np.arange(KEPT), episode.queries.shape[1]))
    answers, none, labels = np.concatenate(known), np.concatenate(unknown), np.concatenate(targets)
    record: dict = {
        "by_false_accepts": {
            str(share): {
                name: vars(bootstrap(lambda drawn: float(drawn.mean()), np.array(values[share])))
                for name, values in (("found", known_found), ("wrong", known_wrong), ("others_taken", unknown_taken))
            }
            for share in FALSE_ACCEPTS
        },
        "nll": {},
        "calibration_error": {},
    }
    for sharpness in tried:
        shares, rest = confidences(answers, 0.0, sharpness), confidences(none, 0.0, sharpness)
        likely = np.concatenate([shares[np.arange(len(labels)), labels], 1 - rest.sum(1)])
        record["nll"][str(sharpness)] = float(-np.log(np.maximum(likely, 1e-12)).mean())
        confidence = np.concatenate([shares.max(1), rest.max(1)])
        right = np.concatenate([answers.argmax(1) == labels, np.zeros(len(rest), bool)])
        record["calibration_error"][str(sharpness)] = calibration_error(confidence, right)
    return record


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The mean distance of confidence and accuracy over bins of equal count."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    return float(sum(len(part) * abs(confidence[part].mean() - right[part].mean()) for part in parts) / len(confidence))


def nearest_figures(split: Split, space: EmbeddingSpace) -> dict:
    """The share of brands' drawings of which another package's drawing is among the k most similar of the whole split."""
    whole, views = space.project(split.whole), space.project(split.views)
    groups, packages = (np.array([getattr(row, key) for row in split.rows]) for key in ("group", "package"))
    places = []
    for index in split.tasks.rows:
        similarities = whole @ unit(views[split.place[index], :PARTS].mean(0))
        similarities[index] = -np.inf
        order = np.argsort(-similarities)
        places.append(int(np.flatnonzero((groups[order] == groups[index]) & (packages[order] != packages[index]))[0]))
    return {str(k): float((np.array(places) < k).mean()) for k in NEAREST} | {
        "queries": len(places),
        "among": len(whole) - 1,
    }


def group_figures(split: Split, space: EmbeddingSpace, same: float) -> dict:
    """How well the groups found are the brands: B-cubed precision, recall and F1 (Bagga & Baldwin 1998)."""
    groups = np.array([row.group for row in split.rows])
    found = np.zeros(len(groups), int)
    for number, members in enumerate(cluster(space.project(split.whole), same)):
        found[members] = number
    true, guessed = groups[:, None] == groups, found[:, None] == found
    both = (true & guessed).sum(1)
    precision, recall = float((both / guessed.sum(1)).mean()), float((both / true.sum(1)).mean())
    return {
        "precision": precision,
        "recall": recall,
        "b_cubed_f1": 2 * precision * recall / (precision + recall),
        "groups": int(found.max()) + 1,
        "brands": len(set(groups)),
    }


if __name__ == "__main__":
    main()
