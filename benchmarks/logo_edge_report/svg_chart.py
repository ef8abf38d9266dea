"""A chart as inline SVG: transparent, with ink in the page's text colour, light or dark; its colours and axes."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK = "#010203"  # stands for the page's text colour
COLOURS = ("#3b82c4", "#d9772b", "#2a9d6f", "#b8529a", "#8a6d3b", "#5b6ee1", "#c0453a", "#4a9fb0")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
RIGHT, WRONG = COLOURS[0], COLOURS[6]
STYLE = {
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "legend.frameon": False,
    "svg.hashsalt": "logo-edge",
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.parse_math": False,
}


def draw(paint: Callable[[Axes], None], *, width: float = 4.2, height: float = 3.0) -> str:
    """The SVG element of what `paint` draws on one set of axes, `width` by `height` inches.

    The same figures give the same bytes. Text stays text, and ids are unique, so a page can hold several charts.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        paint(axes)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # text stays text: the browser's fonts draw it
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', f'style="max-width: {width * 1.5:.4g}in" ', svg, count=1)
    return re.sub(r">\s+<", "><", _own_ids(svg)).strip()


def _own_ids(svg: str) -> str:
    """The SVG with only the referenced ids, each prefixed with a digest of the whole."""
    digest = hashlib.sha256(svg.encode()).hexdigest()[:8]
    used = set(re.findall(r"[\"(]#([\w-]+)", svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda match: f' id="{digest}-{match[1]}"' if match[1] in used else "", svg)
    return re.sub(r"([\"(]#)([\w-]+)", lambda match: f"{match[1]}{digest}-{match[2]}", svg)


def show_log_scale(axis: Axis) -> None:
    """Makes the axis logarithmic, with few ticks as plain numbers; linear where it shows values of 0 or below."""
    low, high = axis.get_view_interval()
    least, most = axis.get_data_interval()
    if least <= 0:
        return
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    if least == most:
        axis.set_view_interval(least / 2, most * 2, ignore=True)
    low, high = axis.get_view_interval()
    ticks = _log_ticks(low, high)
    axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between the two, or the ends where there are fewer than two."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    return ticks if len(ticks) > 1 else [float(f"{low:.2g}"), float(f"{high:.2g}")]


def show_percent(*axis: Axis) -> None:
    """Labels the axes in per cent."""
    for each in axis:
        each.set_major_formatter(PercentFormatter(1, decimals=0))
