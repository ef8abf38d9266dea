"""The charts of the reports, from figures to SVG."""

from __future__ import annotations

import numpy as np

from logo_edge.errors import MissingExtraError

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, to_rgb
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    from logo_edge_report.svg_chart import COLOURS, INK, MARKERS, RIGHT, WRONG, draw, show_log_scale, show_percent
except ImportError as error:
    raise MissingExtraError("report", "matplotlib") from error

LONG_NAME = 24  # letters; longer names stand below the chart
CONFIDENCE = LinearSegmentedColormap.from_list(
    "confidence", ("#d98a1f", "#9a86a4", "#3577c9")
)  # seen on light and dark


def confusion_matrix(counts: list[list[int]], labels: list[str]) -> str:
    """True labels down, predicted ones across; each cell shows its count, shaded by its share of the row."""
    table = np.array(counts)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)

    def paint(axes: Axes) -> None:
        for row, column in np.ndindex(*table.shape):
            colour = RIGHT if row == column else WRONG
            axes.add_patch(
                Rectangle(
                    (column - 0.48, row - 0.48),
                    0.96,
                    0.96,
                    color=colour,
                    alpha=0.06 + 0.6 * shares[row, column],
                    linewidth=0,
                )
            )
            axes.text(column, row, str(table[row, column]), ha="center", va="center")
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xticks(range(len(labels)), labels, rotation=0 if len(labels) < 6 else 60)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)

    side = 1.4 + 0.5 * len(labels)
    return draw(paint, width=side + 0.8, height=side)


def reliability_diagram(bins_by_name: dict[str, list[dict]]) -> str:
    """Accuracy against confidence in equal-mass bins; on the diagonal, confidence equals accuracy."""

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--", alpha=0.5)
        for index, (name, bins) in enumerate(bins_by_name.items()):
            axes.plot(
                [row["confidence"] for row in bins],
                [row["accuracy"] for row in bins],
                f"{MARKERS[index]}-",
                color=COLOURS[index],
                markersize=4,
                linewidth=1.2,
                label=name,
            )
        least = min(min(row["confidence"], row["accuracy"]) for bins in bins_by_name.values() for row in bins)
        axes.set_xlabel("mean confidence")
        axes.set_ylabel("accuracy")
        axes.set_xlim(max(0.0, least - 0.05), 1.02)
        axes.set_ylim(max(0.0, least - 0.05), 1.02)
        show_percent(axes.xaxis, axes.yaxis)
        if len(bins_by_name) > 1:
            axes.legend(loc="upper left")

    return draw(paint)


def risk_coverage_curve(curves: dict[str, dict]) -> str:
    """The error among the most confident share of the images."""

    def paint(axes: Axes) -> None:
        for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
            axes.plot(curve["coverage"], curve["risk"], color=colour, label=name)
        axes.set_xlabel("share answered, the most confident first")
        axes.set_ylabel("error among the answered")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        show_percent(axes.xaxis, axes.yaxis)
        if len(curves) > 1:
            axes.legend()

    return draw(paint)


def confidence_histogram(counts: list[int], wrong: list[int]) -> str:
    """The numbers of images and of errors in each equal part of the confidence range 0 to 1."""

    def paint(axes: Axes) -> None:
        edges = np.linspace(0, 1, len(counts) + 1)
        for values, colour, name in ((counts, RIGHT, "right"), (wrong, WRONG, "wrong")):
            axes.bar(edges[:-1], values, width=np.diff(edges) * 0.94, align="edge", color=colour, label=name)
        first = np.flatnonzero(counts)[0]
        axes.set_xlim(edges[max(0, first - 1)], 1)
        axes.set_xlabel("confidence")
        axes.set_ylabel("images")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        show_percent(axes.xaxis)
        axes.legend(loc="upper left")

    return draw(paint)


def share_bars(shares: dict[str, dict], ideal: float | None = None) -> str:
    """Shares with their 95 % intervals, one bar per name; `ideal` draws a line to compare with."""

    def paint(axes: Axes) -> None:
        names = list(shares)
        values = np.array([shares[name]["value"] for name in names], float)
        low, high = (np.array([shares[name][end] for name in names], float) for end in ("low", "high"))
        known = np.isfinite(values)
        positions = np.arange(len(names))
        axes.barh(positions, np.where(known, values, 0), color=COLOURS[0], alpha=0.8, height=0.7)
        known &= high > low
        axes.errorbar(
            values[known],
            positions[known],
            xerr=np.abs(np.stack([values - low, high - values])[:, known]),
            fmt="none",
            ecolor=INK,
            linewidth=1,
            capsize=2,
        )
        if ideal is not None:
            axes.axvline(ideal, color=INK, linewidth=0.8, linestyle="--", alpha=0.5)
        axes.set_yticks(positions, names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        show_percent(axes.xaxis)

    return draw(paint, height=0.7 + 0.27 * len(shares))


def stacked_bars(counts: dict[str, dict[str, int]], x_label: str) -> str:
    """A bar for each name, stacked of its parts; every name has the same parts."""

    def paint(axes: Axes) -> None:
        names = [name if len(name) <= LONG_NAME else f"{name[: LONG_NAME - 1]}…" for name in counts]
        starts, parts = np.zeros(len(counts)), list(next(iter(counts.values())))
        for index, part in enumerate(parts):
            widths = np.array([cells[part] for cells in counts.values()])
            axes.barh(range(len(names)), widths, left=starts, height=0.75, color=COLOURS[index], label=part)
            starts += widths
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.figure.legend(loc="outside lower center", ncols=len(parts))

    return draw(paint, height=1.2 + 0.24 * len(counts))


def log_histogram(values: np.ndarray, x_label: str, y_label: str, bins: int = 24) -> str:
    """The numbers of values above 0 in bins of equal width on a logarithmic axis."""

    def paint(axes: Axes) -> None:
        low, high = values.min() / 1.05, values.max() * 1.05  # equal values too have a width
        axes.hist(values, np.geomspace(low, high, bins + 1), color=COLOURS[0])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        show_log_scale(axes.xaxis)

    return draw(paint)


def lines(
    series: dict[str, dict[float, float]],
    x_label: str,
    y_label: str,
    *,
    percent: bool = True,
    log_x: bool = False,
    log_y: bool = False,
    markers: bool = True,
) -> str:
    """One line per name through its x -> y points; x on a linear axis are whole numbers such as epochs."""

    def paint(axes: Axes) -> None:
        for index, (name, points) in enumerate(series.items()):
            axes.plot(
                list(points),
                list(points.values()),
                marker=MARKERS[index % len(MARKERS)] if markers else None,
                markersize=3,
                linewidth=1.2,
                linestyle="-" if index < len(COLOURS) else "--",
                color=COLOURS[index % len(COLOURS)],
                label=name,
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if not log_x:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for is_log, axis in ((log_x, axes.xaxis), (log_y, axes.yaxis)):
            if is_log:
                show_log_scale(axis)
        if percent:
            show_percent(axes.yaxis)
        if len(series) > 1:
            if long_names:
                axes.figure.legend(loc="outside lower center")
            else:
                axes.legend()

    long_names = max(map(len, series)) > LONG_NAME
    return draw(paint, height=3.0 + 0.2 * len(series) * long_names)


def pareto_plane(points: list[dict], x_label: str) -> str:
    """Candidates by cost `x` and accuracy `y`; colour is the `student`, shape the `precision`, a ring the `chosen`.

    `dominated` ones are hollow. The line is the front: no candidate is both cheaper and more accurate than one on it.
    """
    colours = dict(zip(dict.fromkeys(point["student"] for point in points), COLOURS * len(points), strict=False))
    shapes = dict(zip(dict.fromkeys(point["precision"] for point in points), MARKERS, strict=False))

    def paint(axes: Axes) -> None:
        front, best = [], -1.0
        for point in sorted(points, key=lambda point: (point["x"], -point["y"])):
            if point["y"] > best:
                best = point["y"]
                front.append(point)
        axes.step(
            [point["x"] for point in front],
            [point["y"] for point in front],
            where="post",
            color=INK,
            linewidth=0.8,
            alpha=0.5,
        )
        for point in points:
            colour, hollow = colours[point["student"]], point["dominated"]
            axes.plot(
                [point["x"]],
                [point["y"]],
                shapes[point["precision"]],
                color=colour,
                markersize=6,
                alpha=0.6 if hollow else 1,
                markerfacecolor="none" if hollow else colour,
            )
            if point["chosen"]:
                axes.plot([point["x"]], [point["y"]], "o", markersize=14, markerfacecolor="none", markeredgecolor=INK)
        for name, colour in colours.items():
            axes.plot([], [], "s", color=colour, markersize=6, label=name)
        for name, shape in shapes.items():
            axes.plot([], [], shape, color=INK, markerfacecolor="none", markersize=6, label=name)
        axes.margins(0.12, 0.15)
        show_log_scale(axes.xaxis)
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.004))
        axes.set_xlabel(x_label)
        axes.set_ylabel("accuracy on val")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.figure.legend(loc="outside lower center", ncol=2, columnspacing=1, handletextpad=0.3)

    return draw(paint, height=3.2 + 0.2 * ((len(colours) + len(shapes) + 1) // 2))


def cost_plane(points: dict[str, tuple[float, float, float]], x_label: str, y_label: str) -> str:
    """Disks by name at (cost, gain), their area proportional to a size; a ring marks the Pareto front."""

    def paint(axes: Axes) -> None:
        largest = max(size for _, _, size in points.values())
        best = pareto_front([(cost, gain) for cost, gain, _ in points.values()])
        for index, (name, (cost, gain, size)) in enumerate(points.items()):
            colour, ringed = COLOURS[index % len(COLOURS)], index in best
            area, marker = max(12, 400 * size / largest), MARKERS[index // len(COLOURS) % len(MARKERS)]
            axes.scatter([cost], [gain], s=area, marker=marker, color=colour, alpha=0.55, linewidths=0)
            if ringed:
                axes.scatter([cost], [gain], s=area, marker=marker, facecolors="none", edgecolors=INK, linewidths=1.5)
            axes.plot([], [], marker, color=colour, markersize=5, label=name)
        axes.margins(0.12, 0.15)
        show_log_scale(axes.xaxis)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        show_percent(axes.yaxis)
        axes.figure.legend(loc="outside lower center")

    return draw(paint, height=3.2 + 0.2 * len(points))


def pareto_front(points: list[tuple[float, float]]) -> set[int]:
    """The indices of the (cost, gain) points that no other dominates: as cheap and better, or as good and cheaper."""
    return {
        index
        for index, (cost, gain) in enumerate(points)
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
    }


def layer_bars(layers: list[dict], restored: list[str]) -> str:
    """The cost of each layer in INT8, `kl_nats` by `name`, on a logarithmic axis; hollow ones stay in FP32."""

    def paint(axes: Axes) -> None:
        heights = [max(layer["kl_nats"], 1e-7) for layer in layers]
        faces = ["none" if layer["name"] in restored else COLOURS[0] for layer in layers]
        axes.bar(range(len(layers)), heights, color=faces, edgecolor=COLOURS[0])
        axes.set_yscale("log")
        axes.set_ylabel("KL, nats")
        axes.set_xticks(
            range(len(layers)), [layer["name"].removeprefix("node_") for layer in layers], rotation=90, fontsize=5
        )

    return draw(paint, height=3.6)


def uncertainty_map(confidence: np.ndarray, disagreement: np.ndarray, correct: np.ndarray) -> str:
    """Each image by its confidence and the disagreement of the members in nats; all (N,), errors on top."""

    def paint(axes: Axes) -> None:
        for chosen, marker, colour, name in ((correct, "o", RIGHT, "right"), (~correct, "X", WRONG, "wrong")):
            axes.plot(
                confidence[chosen],
                disagreement[chosen],
                marker,
                color=colour,
                markersize=4,
                alpha=0.75,
                markeredgewidth=0,
                label=name,
            )
        axes.set_xlabel("confidence")
        axes.set_ylabel("disagreement of the members, nats")
        axes.set_xlim(right=1.01)
        axes.set_ylim(bottom=0)
        show_percent(axes.xaxis)
        axes.legend()

    return draw(paint)


def class_plane(
    points: np.ndarray,
    targets: np.ndarray,
    labels: tuple[str, ...],
    *,
    regions: np.ndarray | None = None,
    wrong: np.ndarray | None = None,
    window: tuple[float, float, float, float] | None = None,
    small: bool = False,
) -> str:
    """Points (N, 2) coloured by class; `regions` (H, W) of class indices behind them, row 0 below; `wrong` (N,) ringed.

    `window` is (left, right, bottom, top), and the extent of the regions.
    """
    colours = np.array([to_rgb(COLOURS[index % len(COLOURS)]) for index in range(len(labels))])

    def paint(axes: Axes) -> None:
        if regions is not None:
            ground = np.concatenate([colours[regions], np.full((*regions.shape, 1), 0.22)], axis=2)
            axes.imshow(ground, extent=window, origin="lower", aspect="auto", interpolation="nearest")
        for index, label in enumerate(labels):
            chosen = targets == index
            axes.plot(
                points[chosen, 0],
                points[chosen, 1],
                MARKERS[index % len(MARKERS)],
                color=COLOURS[index % len(COLOURS)],
                markersize=2.5 if small else 3.5,
                markeredgewidth=0,
                label=label,
            )
        if wrong is not None and wrong.any():
            axes.plot(
                points[wrong, 0],
                points[wrong, 1],
                "o",
                markersize=7,
                markerfacecolor="none",
                markeredgecolor=INK,
                markeredgewidth=0.8,
                label="wrong",
            )
        _bare(axes, window)
        if not small:
            axes.figure.legend(
                loc="outside lower center", ncol=min(5, len(labels) + 1), handletextpad=0.1, columnspacing=1
            )

    return draw(paint, width=2.2, height=2.2) if small else draw(paint, width=4.2, height=4.3)


def confidence_plane(
    points: np.ndarray, confidence: np.ndarray, correct: np.ndarray, window: tuple[float, float, float, float]
) -> str:
    """Points (N, 2) coloured by confidence, right ones as dots and wrong ones as crosses."""

    def paint(axes: Axes) -> None:
        least = float(confidence.min())
        for chosen, marker, size in ((correct, "o", 14), (~correct, "X", 34)):
            shown = axes.scatter(
                points[chosen, 0],
                points[chosen, 1],
                c=confidence[chosen],
                s=size,
                marker=marker,
                cmap=CONFIDENCE,
                vmin=least,
                vmax=1,
                linewidths=0,
            )
        _bare(axes, window)
        bar = axes.figure.colorbar(
            shown, ax=axes, location="bottom", shrink=0.7, aspect=40, pad=0.01, label="confidence (crosses: wrong)"
        )
        bar.outline.set_visible(False)
        show_percent(bar.ax.xaxis)

    return draw(paint, width=4.2, height=4.3)


def loss_surface(steps: np.ndarray, losses: np.ndarray, top: float, *, small: bool = False) -> str:
    """The loss (S, S) over a plane through the weights, `steps` (S,) along both directions; capped at `top`."""

    def paint(axes: Axes) -> None:
        bottom = float(min(losses.min(), top * 0.98))
        levels = np.linspace(bottom, top, 15)
        shown = axes.contourf(steps, steps, np.minimum(losses, top), levels=levels, cmap="viridis")
        axes.contour(steps, steps, np.minimum(losses, top), levels=levels, colors="#ffffff", linewidths=0.3, alpha=0.6)
        axes.plot([0], [0], "+", color="#ffffff", markersize=9, markeredgewidth=1.6)
        axes.set_aspect("equal")
        if small:
            _bare(axes, None)
            return
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=5))
            axis.set_major_formatter(PercentFormatter(1))
        axes.set_xlabel("step along the first direction, of each filter's norm")
        axes.set_ylabel("along the second")
        bar = axes.figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02, label="loss, nats", ticks=MaxNLocator(nbins=6))
        bar.outline.set_visible(False)

    return draw(paint, width=2.2, height=2.2) if small else draw(paint, width=4.2, height=3.5)


def _bare(axes: Axes, window: tuple[float, float, float, float] | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if window is not None:
        axes.set_xlim(*window[:2])
        axes.set_ylim(*window[2:])
