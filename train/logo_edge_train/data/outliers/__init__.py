"""Outliers: pictures that are no logos, in near families (emoji, flags) and far ones.

Three parts share no vendor, scene, emoji, country or text renderer: networks may learn from "fitted", only evaluation
reads "held_out", and compression is checked with "choice".
"""

from logo_edge_train.data.outliers.drawing import Draw, Family, draw_pictures
from logo_edge_train.data.outliers.parts import FAMILIES, Part, families_of, outlier_paths, outliers_key, plot_outliers

__all__ = [
    "FAMILIES",
    "Draw",
    "Family",
    "Part",
    "draw_pictures",
    "families_of",
    "outlier_paths",
    "outliers_key",
    "plot_outliers",
]
