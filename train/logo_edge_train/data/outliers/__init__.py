"""Pictures that are no logos, in families near (emoji, flags) and far: what a classifier of logos should not be sure of.

Three parts with no vendor, scene, emoji, country or drawing program of text in common: "fitted", from which networks may
learn; "held_out", which only evaluation sees; "choice", by which compression is watched.
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
