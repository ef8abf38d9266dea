"""`logo-edge enroll`, `similar` and `cluster` on brands across icon packages, and the choice of their constants.

    python -m logo_edge_bench.experiments enroll                   # val alone, on which choices are made
    python -m logo_edge_bench.experiments enroll --report-test     # and test, once

Embeddings are kept in runs/enroll. Episodes are those of `logo_edge_train.few_shot.episodes`: 5 brands, each with one
package's drawing to learn from (five shots are five views of it) and other packages' drawings as queries.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import torch

from logo_edge.classifier import Classifier
from logo_edge.likeness.cluster import cluster
from logo_edge.likeness.enroll import background_threshold, confidences
from logo_edge.likeness.space import DIRECTIONS, EmbeddingSpace, read_space, unit
from logo_edge_bench.experiments.record import BUNDLES, RUNS, Out, ReportTest, keep_arrays, read_logos, write_record
from logo_edge_train.data.manifest import Manifest
from logo_edge_train.few_shot.episodes import PARTS, BrandTasks, Drawings
from logo_edge_train.few_shot.methods import ridge_logits
from logo_edge_train.keys import data_hash, row_hashes
from logo_edge_train.metrics import bootstrap, expected_calibration_error
from logo_edge_train.recipe import FewShotConfig

SHOTS = {"1 shot": 1, "1 shot, in parts": PARTS, "5 shots": 5}  # views of a drawing to learn; a query is a whole one
SHOWN = max(SHOTS.values())
PENALTIES = (0.01, 0.1, 1.0, 10.0)
FALSE_ACCEPTS = (0.01, 0.02, 0.05, 0.1)
SHARPNESS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 10.0, 15.0, 20.0)
SAME = tuple(round(0.3 + 0.05 * step, 2) for step in range(14))
KEPT = 5  # brands of an episode, enrolled together
NEAREST = (1, 5, 10)
BINS = 10


class Split:
    """Embeddings of a split by one bundle: `whole` (N, D), and `views` (R, V, D) of the logos that episodes use."""

    def __init__(self, classifier: Classifier, manifest: Manifest, name: str):
        self.rows = rows = manifest.split(name)
        self.tasks = BrandTasks(rows, replace(FewShotConfig(), shots=1, ways=KEPT))
        self.position = np.zeros(len(rows), int)  # of a row in `views`
        self.position[self.tasks.rows] = np.arange(len(self.tasks.rows))
        model = classifier.bundle.files[classifier.bundle.model.file].sha256
        data = data_hash(row_hashes(manifest, manifest.rows))

        def embed() -> dict[str, np.ndarray]:
            drawn = [rows[index] for index in self.tasks.rows]
            whole = [classifier.read_pixels(manifest.image_path(row)) for row in rows]
            drawings = Drawings.load(manifest, drawn, classifier.bundle.input)
            views = [drawings.draw(index, view) for index in range(len(drawn)) for view in range(SHOWN)]
            parts = [np.concatenate([classifier.embeddings(one[None]) for one in part]) for part in (whole, views)]
            return {"whole": parts[0], "views": parts[1].reshape(len(drawn), SHOWN, -1)}

        arrays = keep_arrays(RUNS / "enroll" / f"{model[:16]}-{data[:16]}-{name}.safetensors", embed)
        self.whole, self.views = arrays["whole"], arrays["views"]


def measure(*, episodes: int = 600, report_test: ReportTest = False, out: Out) -> None:
    manifest = read_logos()
    classifiers = {name: Classifier.load(folder) for name, folder in BUNDLES.items()}
    spaces = {name: read_space(classifier.bundle) for name, classifier in classifiers.items()}
    bundles: dict[str, dict] = {}
    for name, classifier in classifiers.items():
        val = Split(classifier, manifest, "val")
        bundles[name] = {"val": split_figures(val, spaces[name], episodes, None, SHARPNESS, SAME)}
        print(name, "val", flush=True)
    on_val = [bundle["val"] for bundle in bundles.values()]
    sharpness = min(SHARPNESS, key=lambda value: sum(figures["open_set"]["nll"][str(value)] for figures in on_val))
    same = max(SAME, key=lambda value: sum(figures["groups"][str(value)]["b_cubed_f1"] for figures in on_val))
    for name, classifier in classifiers.items() if report_test else ():
        test = Split(classifier, manifest, "test")
        penalties = {key: head["penalty"] for key, head in bundles[name]["val"]["heads"].items()}
        bundles[name]["test"] = split_figures(test, spaces[name], episodes, penalties, (sharpness,), (same,))
        print(name, "test", flush=True)
    record = {
        "settings": {"episodes": episodes, "ways": KEPT, "directions": DIRECTIONS},
        "chosen": {"sharpness": sharpness, "same": same},
        "bundles": bundles,
    }
    write_record(out, record, [classifier.bundle for classifier in classifiers.values()])


def split_figures(
    split: Split,
    space: EmbeddingSpace,
    episodes: int,
    penalties: dict[str, float] | None,
    sharpness: tuple[float, ...],
    same: tuple[float, ...],
) -> dict:
    """All figures of a split, at each of the given values of the constants."""
    return {
        "heads": compare_heads(split, space, episodes, penalties),
        "open_set": open_set(split, space, episodes, sharpness),
        "nearest": nearest_figures(split, space),
        "groups": {str(value): group_figures(split, space, value) for value in same},
    }


def spaces_of(space: EmbeddingSpace):
    """{name: projection (..., D) -> (..., d) of length 1} for each way to compare embeddings."""
    return {"raw": unit, "centred": lambda embeddings: unit(embeddings - space.mean), "whitened": space.project}


def compare_heads(split: Split, space: EmbeddingSpace, episodes: int, penalties: dict[str, float] | None) -> dict:
    """{"space, head, shots": accuracy with its interval}; ridge at the best penalty, or at the given one."""
    heads = {}
    for (name, project), (shots, count) in product(spaces_of(space).items(), SHOTS.items()):
        views = project(split.views)
        for head, tried in (("prototypes", (0.0,)), ("ridge", PENALTIES)):
            key = f"{name}, {head}, {shots}"
            tried = (penalties[key],) if penalties else tried
            accuracy = {penalty: measure_episodes(split, views, count, head, penalty, episodes) for penalty in tried}
            best = max(accuracy, key=lambda penalty: accuracy[penalty].mean())
            heads[key] = {"accuracy": vars(bootstrap(np.mean, accuracy[best])), "penalty": best}
    return heads


def measure_episodes(
    split: Split, views: np.ndarray, count: int, head: str, penalty: float, episodes: int
) -> np.ndarray:
    """(E,) the accuracy of each episode."""
    shares = []
    for index in range(episodes):
        episode = split.tasks.draw(np.random.default_rng((0, index)))
        support = views[split.position[episode.support[:, 0]], :count]  # (N, V, d)
        queries = views[split.position[episode.queries.ravel()], 0]  # (N * Q, d)
        if head == "ridge":
            shown = support.reshape(-1, support.shape[-1]).astype(float), np.repeat(np.arange(KEPT), count)
            tensors = (torch.from_numpy(array) for array in (*shown, queries.astype(float)))
            logits = ridge_logits(*tensors, KEPT, penalty).numpy()
        else:
            logits = queries @ unit(support.mean(1)).T
        shares.append((logits.argmax(1) == np.repeat(np.arange(KEPT), episode.queries.shape[1])).mean())
    return np.array(shares)


def open_set(split: Split, space: EmbeddingSpace, episodes: int, tried: tuple[float, ...]) -> dict:
    """Of 5 enrolled brands: the recognized share of their other drawings, and of all other logos the accepted share."""
    views, whole = space.project(split.views), space.project(split.whole)
    groups = np.array([row.group for row in split.rows])
    shares: dict[float, list] = {limit: [] for limit in FALSE_ACCEPTS}  # found, wrong, others_taken
    known, unknown, targets = [], [], []  # similarities less the runtime's default threshold
    for index in range(episodes):
        episode = split.tasks.draw(np.random.default_rng((1, index)))
        prototypes = unit(views[split.position[episode.support[:, 0]], :PARTS].mean(1))
        queries = views[split.position[episode.queries.ravel()], 0] @ prototypes.T
        others = whole[~np.isin(groups, episode.classes)] @ prototypes.T
        right = queries.argmax(1) == np.repeat(np.arange(KEPT), episode.queries.shape[1])
        for limit in FALSE_ACCEPTS:
            threshold = background_threshold(space.background, prototypes, limit)
            accepted = queries.max(1) >= threshold
            taken = others.max(1) >= threshold
            shares[limit].append([(accepted & right).mean(), (accepted & ~right).mean(), taken.mean()])
            if limit == 0.05:
                known.append(queries - threshold)
                unknown.append(others[index % 10 :: max(1, len(others) // len(queries))][: len(queries)] - threshold)
                targets.append(np.repeat(np.arange(KEPT), episode.queries.shape[1]))
    answers, none, labels = np.concatenate(known), np.concatenate(unknown), np.concatenate(targets)
    by_false_accepts = {
        str(limit): {
            name: vars(bootstrap(np.mean, values))
            for name, values in zip(("found", "wrong", "others_taken"), np.array(parts).T, strict=True)
        }
        for limit, parts in shares.items()
    }
    record: dict = {"by_false_accepts": by_false_accepts, "nll": {}, "calibration_error": {}}
    for sharpness in tried:
        inside, outside = confidences(answers, 0.0, sharpness), confidences(none, 0.0, sharpness)
        likely = np.concatenate([inside[np.arange(len(labels)), labels], 1 - outside.sum(1)])
        record["nll"][str(sharpness)] = float(-np.log(np.maximum(likely, 1e-12)).mean())
        confidence = np.concatenate([inside.max(1), outside.max(1)])
        right = np.concatenate([answers.argmax(1) == labels, np.zeros(len(outside), bool)])
        record["calibration_error"][str(sharpness)] = expected_calibration_error(confidence, right, BINS)
    return record


def nearest_figures(split: Split, space: EmbeddingSpace) -> dict:
    """The share of drawings with a drawing of the brand from another package among the k most similar of the split."""
    whole, views = space.project(split.whole), space.project(split.views)
    groups, packages = (np.array([getattr(row, key) for row in split.rows]) for key in ("group", "package"))
    ranks = []
    for index in split.tasks.rows:
        similarities = whole @ unit(views[split.position[index], :PARTS].mean(0))
        similarities[index] = -np.inf
        order = np.argsort(-similarities)
        ranks.append(int(np.flatnonzero((groups[order] == groups[index]) & (packages[order] != packages[index]))[0]))
    shares = {str(k): float((np.array(ranks) < k).mean()) for k in NEAREST}
    return {**shares, "queries": len(ranks), "among": len(whole) - 1}


def group_figures(split: Split, space: EmbeddingSpace, same: float) -> dict:
    """B-cubed precision, recall and F1 of the clusters as brands (Bagga & Baldwin 1998)."""
    groups = np.array([row.group for row in split.rows])
    clusters = np.zeros(len(groups), int)
    for number, members in enumerate(cluster(space.project(split.whole), same)):
        clusters[members] = number
    true, guessed = groups[:, None] == groups, clusters[:, None] == clusters
    both = (true & guessed).sum(1)
    precision, recall = float((both / guessed.sum(1)).mean()), float((both / true.sum(1)).mean())
    return {
        "precision": precision,
        "recall": recall,
        "b_cubed_f1": 2 * precision * recall / (precision + recall),
        "groups": int(clusters.max()) + 1,
        "brands": len(set(groups)),
    }
