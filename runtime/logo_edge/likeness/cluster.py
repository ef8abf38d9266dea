"""Logos by their likeness: a folder ranked by similarity to one logo, and a folder sorted into groups of like ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from logo_edge.errors import LogoEdgeError

SAME_LOGO = 0.9  # mean similarity from which on two groups are one; of the best B-cubed F1 on val (docs/enroll.md)
MAX_CLUSTERED = 10_000  # images: their similarities take 400 MB


def cluster(vectors: np.ndarray, same: float = SAME_LOGO) -> list[list[int]]:
    """The indices of (N, d) vectors of length 1 in groups, the largest first; the same for the same vectors.

    Average linkage: the two groups of the highest mean similarity become one while that is at least `same`. Found by
    chains of nearest neighbours, in O(N^2) time and memory (Murtagh 1983). Raises LogoEdgeError for too many vectors.
    """
    count = len(vectors)
    if count > MAX_CLUSTERED:
        raise LogoEdgeError(f"{count:,} images to group; at most {MAX_CLUSTERED:,} fit in memory. Group a part of them")
    similarities = (vectors @ vectors.T).astype(np.float32)  # between groups, each in the row of its first member
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
        if not similarities[tip, nearest] >= same:  # nothing comes nearer by merging others: the group is done
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
    return sorted((sorted(found) for found in members if found), key=lambda found: (-len(found), found))


def centre_of(vectors: np.ndarray, group: Sequence[int]) -> int:
    """The member of the group that is most similar to all of it."""
    return int(group[int((vectors[group] @ vectors[group].sum(0)).argmax())])
