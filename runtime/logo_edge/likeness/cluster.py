"""Groups similar images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from logo_edge.errors import LogoEdgeError

SAME_LOGO = 0.8  # mean similarity at which two groups merge; gives the best B-cubed F1 on val (docs/results/bundles.md)
MAX_CLUSTERED = 10_000  # images, whose similarities take 400 MB


def cluster(vectors: np.ndarray, same: float = SAME_LOGO) -> list[list[int]]:
    """The indices of (N, d) vectors of length 1 in groups, the largest first. Deterministic.

    Average linkage: the two groups of the highest mean similarity merge while it is at least `same`. Computed by
    nearest-neighbour chains, in O(N^2) time and memory (Murtagh 1983). Raises LogoEdgeError for too many vectors.
    """
    count = len(vectors)
    if count > MAX_CLUSTERED:
        raise LogoEdgeError(f"{count:,} images to group; at most {MAX_CLUSTERED:,} fit in memory. Group a part of them")
    similarities = (vectors @ vectors.T).astype(np.float32)  # between groups; a group's row is that of its first member
    np.fill_diagonal(similarities, -np.inf)
    members: list[list[int]] = [[index] for index in range(count)]
    chain: list[int] = []
    left = set(range(count))
    while left:
        if not chain:
            chain.append(min(left))
        tip = chain[-1]
        nearest = int(similarities[tip].argmax())
        if len(chain) > 1 and similarities[tip, chain[-2]] >= similarities[tip, nearest]:
            nearest = chain[-2]
        if not similarities[tip, nearest] >= same:  # merging other groups brings none nearer: this group is final
            chain.pop()
            left.discard(tip)
            similarities[tip] = similarities[:, tip] = -np.inf
        elif len(chain) > 1 and nearest == chain[-2]:
            chain[-2:] = []
            first, second = sorted((tip, nearest))
            sizes = len(members[first]), len(members[second])
            merged = (sizes[0] * similarities[first] + sizes[1] * similarities[second]) / sum(sizes)
            members[first] += members[second]
            members[second] = []
            similarities[first], similarities[:, first] = merged, merged
            similarities[second] = similarities[:, second] = -np.inf
            similarities[first, first] = -np.inf
            left.discard(second)
        else:
            chain.append(nearest)
    return sorted((sorted(group) for group in members if group), key=lambda group: (-len(group), group))


def centre_of(vectors: np.ndarray, group: Sequence[int]) -> int:
    """The member with the highest mean similarity to its group."""
    return int(group[int((vectors[group] @ vectors[group].sum(0)).argmax())])
