"""Out-of-fold predictions of a panel of classifiers on frozen features; an interrupted computation continues.

Each fit's predictions are kept under the artifact_key of its inputs. So a corrected label costs new fits, and a new
image only its own features.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays
from sklearn.base import ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from logo_edge.errors import DatasetError
from logo_edge.files import write_file
from logo_edge_train.data.dataset import soft_label
from logo_edge_train.data.manifest import LogoRow, targets_of
from logo_edge_train.keys import artifact_key, data_hash, row_hashes, versions
from logo_edge_train.recipe import ReviewConfig
from logo_edge_train.review.frozen_features import MADE_WITH, Features
from logo_edge_train.state import read_metadata

MOST_STEPS = 300  # of the solver of a regression
COMPONENTS = 256  # principal ones that a perceptron sees
HIDDEN, EPOCHS = 64, 30  # of a perceptron
TREES, LEAVES = 150, 12  # of boosting


@dataclass(frozen=True)
class Panel:
    """The labelled rows of train and val, and their probabilities by classifiers that have not seen their groups.

    `probabilities` is (M, N, K) of M members; a member is a classifier, its inputs and a division into folds. `others`
    is (M, F, P, K): the probabilities of P other rows by the fit of each of F folds; NaN if the fit has seen the row's
    group, or the division has fewer folds.
    """

    rows: list[LogoRow]
    classes: tuple[str, ...]
    probabilities: np.ndarray
    others: np.ndarray


def panel_inputs(config: ReviewConfig) -> list[tuple[str, tuple[str, ...]]]:
    """The (classifier, names of its features) of a panel, the same for all divisions."""
    seen = {
        "logistic": [(network, *config.measures) for network in config.networks],
        "perceptron": [(*config.networks, *config.measures)],
        "boosting": [config.measures or config.networks],
    }
    return [(classifier, names) for classifier in config.classifiers for names in seen[classifier]]


def panel_probabilities(features: Features, rows: list[LogoRow]) -> np.ndarray:
    """(N, K) probabilities of the rows, the mean of a panel that has not seen the rows' groups.

    Out-of-fold for labelled rows of train and val. For all other rows (unlabelled, drawn, calib, test) the mean of all
    folds' fits. The classes are those of train and val, in alphabetical order.
    """
    known = {row: at for at, row in enumerate(features.manifest.split("train", "val"))}
    others = [row for row in rows if row not in known]
    panel = review_labels(features, others)
    own = panel.probabilities.mean(0)
    rest = iter(np.nanmean(panel.others, (0, 1)))
    return np.stack([own[known[row]] if row in known else next(rest) for row in rows])


def review_labels(features: Features, others: Sequence[LogoRow] = ()) -> Panel:
    """The panel's probabilities of the labelled rows of train and val, and of `others`; calib and test are not used.

    A classifier never predicts a group that it has seen. Raises DatasetError with fewer than two classes, or if a class
    lacks a second group.
    """
    config, rows, others = features.config, features.manifest.split("train", "val"), list(others)
    classes = tuple(sorted({row.label for row in rows}))
    if len(classes) < 2:
        raise DatasetError(
            f"the labelled rows of train and val have {f'one class, {classes[0]}' if classes else 'no class'}; "
            "expected at least two. Label some images of each class first"
        )
    targets, soft = targets_of(rows, classes), np.stack([soft_label(row, classes, True) for row in rows])
    data = [data_hash(row_hashes(features.manifest, part)) for part in (rows, others)]
    divisions = [divide_groups(rows, targets, classes, config, division) for division in range(config.divisions)]
    members, folds = panel_inputs(config), max(fold_of.max() + 1 for fold_of in divisions)
    total, fitted, out_of_fold, of_others = len(members) * sum(fold_of.max() + 1 for fold_of in divisions), 0, [], []
    for classifier, names in members:
        inputs = features.read(names, rows + others)
        for division, fold_of in enumerate(divisions):
            own = np.zeros((len(rows), len(classes)), np.float32)
            rest = np.full((folds, len(others), len(classes)), np.nan, np.float32)
            for fold in range(fold_of.max() + 1):
                features.tick("out-of-fold fits", fitted, total)
                left_out = fold_of == fold
                settings = {
                    "classifier": classifier,
                    "features": names,
                    "penalty": config.penalty,
                    "folds": config.folds,
                    "division": config.seed + division,
                    "fold": fold,
                }
                path = features.folder / "fits" / f"{artifact_key({'others': data[1]}, settings, {})[:16]}.safetensors"
                key = artifact_key({"rows": data[0], "others": data[1]}, settings, versions(MADE_WITH))
                if not path.exists() or read_metadata(path)["key"] != key:
                    learned, seed = inputs[: len(rows)][~left_out], config.seed + division
                    model = fit_classifier(classifier, learned, soft[~left_out], config.penalty, seed)
                    unseen = inputs[np.append(left_out, np.ones(len(others), bool))]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    predicted = np.zeros((len(unseen), len(classes)), np.float32)
                    predicted[:, model.classes_] = model.predict_proba(unseen)
                    write_file(path, save_arrays({"probabilities": predicted}, {"key": key}))
                predicted = load_file(path)["probabilities"]
                own[left_out] = predicted[: left_out.sum()]
                groups = {rows[at].group for at in np.flatnonzero(~left_out)}
                unknown = np.array([row.group not in groups for row in others], bool)
                rest[fold, unknown] = predicted[left_out.sum() :][unknown]
                fitted += 1
            out_of_fold.append(own)
            of_others.append(rest)
    features.tick("out-of-fold fits", fitted, total)
    return Panel(rows, classes, np.stack(out_of_fold), np.stack(of_others))


def divide_groups(
    rows: Sequence[LogoRow], targets: np.ndarray, classes: tuple[str, ...], config: ReviewConfig, division: int
) -> np.ndarray:
    """(N,) the fold of each row: whole groups, stratified by class; at most `config.folds` and at least two folds.

    Raises DatasetError if a class would be in one fold only.
    """
    groups = np.array([row.group for row in rows])
    few = [name for at, name in enumerate(classes) if len(set(groups[targets == at])) < 2]
    if few:
        raise DatasetError(
            f"in train and val, class {', '.join(few)} has images of one group only; expected at least two groups for "
            "each class, as a group is judged by models that have not seen it. Label more images of it, or leave it "
            "out"
        )
    folds = min(config.folds, int(np.bincount(targets).max()), len(set(groups)))
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=config.seed + division)
    fold_of = np.zeros(len(rows), int)
    with warnings.catch_warnings():  # a class of few images can only be in few folds
        warnings.filterwarnings("ignore", "The least populated class in y", UserWarning)
        for fold, (_, left_out) in enumerate(split.split(groups, targets, groups)):
            fold_of[left_out] = fold
    lacking = [name for at, name in enumerate(classes) if len(set(fold_of[targets == at])) < 2]
    if lacking:
        raise DatasetError(
            f"in train and val, all groups of class {', '.join(lacking)} fell into one fold; label more images of it"
        )
    return fold_of


def fit_classifier(kind: str, features: np.ndarray, soft: np.ndarray, penalty: float, seed: int) -> ClassifierMixin:
    """A classifier fitted to (N, F) features and (N, K) soft targets; its `classes_` are class indices.

    A row enters once for each class with votes, weighted by the share of the votes.
    """
    rows, targets = np.nonzero(soft)
    features, weights = features[rows], soft[rows, targets]
    if kind == "boosting":
        model = HistGradientBoostingClassifier(
            max_iter=TREES,
            max_leaf_nodes=LEAVES,
            learning_rate=0.06,
            l2_regularization=1.0,
            min_samples_leaf=10,
            early_stopping=False,
            random_state=seed,
        )
        return model.fit(features, targets, weights)
    if kind == "logistic":
        steps = [LogisticRegression(C=1 / penalty, max_iter=MOST_STEPS, tol=1e-3)]
    else:
        parts = min(COMPONENTS, *features.shape)
        steps = [
            PCA(parts, random_state=seed),
            StandardScaler(),
            MLPClassifier((HIDDEN,), alpha=3.0, learning_rate_init=1e-3, max_iter=EPOCHS, random_state=seed),
        ]
    model = make_pipeline(StandardScaler(), *steps)
    with warnings.catch_warnings():  # near convergence is enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "lbfgs failed to converge", UserWarning)
        return model.fit(features, targets, **{f"{model.steps[-1][0]}__sample_weight": weights})
