"""Tables of the experiments on own images: the comparison, and the walk through one data set."""

from __future__ import annotations

from logo_edge_bench.markdown import markdown, share

MOST_LINES = 30  # of an output in a page
GOALS = {"points": -1.5, "size": 0.25, "ece": 0.02}  # over timm; of timm's size; ECE less its bias


def own_images(result: dict) -> str:
    """A row for each data set and system."""
    rows = []
    for row in result["rows"].values():
        if "test" not in row:
            rows.append([row["data"], row["system"], f"not measured: {row['not_measured']}", *[""] * 6])
            continue
        test, latency = row["test"], row.get("latency_ms")
        rows.append(
            [
                row["data"],
                row["system"],
                share(test["score"]) + (" F1" if row["multi_label"] else ""),
                f"{100 * row['over_timm']['value']:+.1f} ({100 * row['over_timm']['low']:+.1f} to "
                f"{100 * row['over_timm']['high']:+.1f})"
                if "over_timm" in row
                else "",
                f"{test['ece_debiased']['value']:.1%}",
                f"{row['size_bytes'] / 1e6:.2f}",
                f"{row['input_px']}",
                f"{latency['value']:.2f}" if latency else "",
                f"{row['minutes']:.0f}",
            ]
        )
    header = ["data", "system", "test", "points over timm", "ECE less bias", "MB", "px", "ms", "minutes"]
    return markdown(header, rows)


def own_data(own_images: dict) -> str:
    """A row for each data set, with the teachers and the bundle on val and test, and whether the goals are reached."""
    rows = []
    for row in own_images["rows"].values():
        if row["system"] != "logo-edge":
            continue
        counts = row["images"]
        rows.append(
            [
                row["data"],
                f"{sum(counts.values()):,}: {' / '.join(map(str, counts.values()))}",
                f"{row['classes']}" + (" labels" if row["multi_label"] else ""),
                f"{row['teachers_val']:.1%}",
                f"{row['val']['score']['value']:.1%}",
                f"{row['test']['score']['value']:.1%}",
                row["calibration"],
                ", ".join(missed(row, own_images["rows"].get(f"{row['data']}, timm"))) or "all reached",
            ]
        )
    header = ["data", "images: train / val / calib / test", "classes", "teachers, val", "bundle, val", "test"]
    return markdown([*header, "calibration", "missed"], rows)


def missed(row: dict, timm: dict | None) -> list[str]:
    """The goals that a bundle misses, beside the timm fine-tune."""
    reasons = []
    if timm:
        if 100 * row["over_timm"]["value"] < GOALS["points"]:
            reasons.append(f"{100 * row['over_timm']['value']:+.1f} points")
        if row["size_bytes"] > GOALS["size"] * timm["size_bytes"]:
            reasons.append(f"{row['size_bytes'] / timm['size_bytes']:.2f} of the size")
    if row["test"]["ece_debiased"]["value"] >= GOALS["ece"]:
        reasons.append(f"ECE {row['test']['ece_debiased']['value']:.1%}")
    return reasons


def walkthrough(result: dict) -> str:
    """Every command with its output; the middle of a long one is left out."""
    parts = []
    for step in result["steps"]:
        lines = [line.rstrip() for line in step["output"].strip().splitlines()]
        if (left_out := len(lines) - MOST_LINES) > 1:
            half = MOST_LINES // 2
            lines = [*lines[:half], f"[{left_out} lines]", *lines[-half:]]
        parts.append("\n".join([step["text"], "", "```text", *lines, "```"]))
    return "\n\n".join(parts)
