"""The rank correlation of verification agrees with SciPy's, and a different ranking is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from logo_edge.errors import VerificationError
from logo_edge_compress.verify import verify_epistemic


@pytest.mark.parametrize("decimals", [1, 6])
def test_epistemic_is_compared_by_spearmans_correlation_with_ties_and_without(decimals):
    random = np.random.default_rng(0)
    parent = random.random(60).round(decimals)
    artifact = (parent + random.normal(0, 0.2, 60)).round(decimals)
    correlation = verify_epistemic(parent, artifact, 0.5, "it")
    assert correlation == pytest.approx(spearmanr(parent, artifact).statistic, abs=1e-12)
    ranks = [
        (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2 for values in (parent, artifact)
    ]
    assert correlation == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12), "ties have their mean rank"


def test_an_artifact_that_orders_pictures_otherwise_is_refused():
    parent = np.arange(20.0)
    assert verify_epistemic(np.zeros(5), np.zeros(5), 0.9, "it") == 1.0
    for artifact in (parent[::-1], np.zeros(20), np.full(20, np.nan)):
        with pytest.raises(VerificationError, match="ranks 20 pictures differently from its parent"):
            verify_epistemic(parent, artifact, 0.9, "it")
