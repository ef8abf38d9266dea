"""Tables of the experiments on training: fits, starts, augmentation, few-shot learning, uncertainty, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import mean, stdev

from logo_edge_bench.markdown import markdown, named, share, table_of


def ablation(result: dict) -> str:
    """The effect of each technique of a fit, compared with the plain and the full recipe."""

    def change(metric: str, form: str) -> Callable[[dict], str]:
        """A mean difference and, of several folds, its interval."""

        def cell(row: dict) -> str:
            if not (figure := row["difference"].get(metric)):
                return ""
            interval = "" if figure["low"] is None else f" ({figure['low']:{form}} to {figure['high']:{form}})"
            return f"{figure['mean']:{form}}{interval}"

        return cell

    return table_of(
        result["summary"],
        ("recipe", "{variant}"),
        ("folds", "{folds}"),
        ("all", "{accuracy:.1%}"),
        ("sure", "{accuracy_sure:.1%}"),
        ("worst class", "{worst_recall:.1%}"),
        ("NLL", "{nll:.3f}"),
        ("less that of", lambda row: row["baseline"] if row["difference"] else ""),
        ("all (95 %)", change("accuracy", "+.1%")),
        ("NLL (95 %)", change("nll", "+.3f")),
        ("minutes a fit", lambda row: f"{row['seconds'] / 60:.1f}"),
    )


def augmentation(result: dict) -> str:
    """The cost of each operation on held-out logos of train, and its probability in the policy."""
    policy = {text.split()[0]: text.split()[1:] for text in result["policy"]}
    rows = []
    for name, cost in result["costs"].items():
        operation, magnitude = name.split()
        probability, chosen = policy.get(operation, ("0", ""))
        worst, rise = max(cost["by_class"].items(), key=lambda item: item[1])
        error = f"{cost['cost']:+.3f} ± {1.96 * cost['standard_error']:.3f}"
        shown = probability if magnitude == chosen else ""
        rows.append([operation, magnitude, error, f"{rise:+.3f} (`{worst}`)", shown])
    settings = result["settings"]
    text = markdown(["operation", "magnitude", "cost, nats", "in the worst class", "probability"], rows)
    return (
        f"{text}\n\n{settings['network']}, {settings['epochs']} epochs, {settings['folds']} folds of train; "
        "95 % intervals."
    )


def kinds(result: dict) -> str:
    """The kinds that are proposed for single pictures."""
    names = ("logo", "photo", "document")
    return table_of(
        result["groups"],
        ("pictures", "{pictures}"),
        ("number", lambda row: str(sum(row.get(name, 0) for name in names))),
        *((name, lambda row, name=name: str(row.get(name, 0))) for name in names),
    )


def labels(result: dict) -> str:
    """The logos of each split and its use."""
    uses = {
        "train": "fitting; calibration images of the quantizer",
        "val": "every choice: recipes, students, quantizers",
        "calib": "temperature and thresholds only",
        "test": "reports only",
        "all": "",
    }
    return table_of(
        named(result["splits"]),
        ("split", "{name}"),
        ("logos", "{logos:,}"),
        ("in round 1", lambda row: f"{row['rounds']['1']:,}"),
        ("labelled as sure", "{sure:,}"),
        ("two annotators agree on", "{agreement:.1%}"),
        ("for", lambda row: uses[row["name"]]),
    )


def few_shot(result: dict) -> str:
    """The accuracy of each method on each task; of brands also the interval of episodes drawn class by class."""

    def of_other_brands(row: dict) -> str:
        brands = row["task"].startswith("brands")
        return "{low:.1%} to {high:.1%}".format(**row["accuracy_by_class"]) if brands else ""

    return table_of(
        result["entries"],
        ("task", lambda row: f"{row['task'].split('-')[0]}, {row['ways']}-way {row['shots']}-shot"),
        ("method", "{method}"),
        ("network", lambda row: f"`{row['network']}`" + (f", after {row['start']}" if row["start"] else "")),
        ("episodes", "{episodes}"),
        ("accuracy", lambda row: share(row["accuracy"])),
        ("of other brands", of_other_brands),
        ("meta-training, min", lambda row: f"{row['seconds'] / 60:.0f}" if row["seconds"] else ""),
    )


def logo_vit(result: dict) -> str:
    """LogoViT and a plain ViT of its size, by split."""
    seeds = len(result["seeds"])
    header = [f"{result['size_px']} px, {result['epochs']} epochs, {seeds} seeds", "parameters", "minutes a seed"]
    even = ["attention without a focus", "", ""]
    for split, area in result["area"].items():
        header += [f"accuracy, {split}", f"focus, {split}", f"strictly on ink, {split}"]
        even += ["", *(f"{area[key]:.1%}" for key in ("near_ink", "on_ink"))]
    rows = []
    for run in result["subjects"]:
        minutes = sum(run["seconds"]) / seeds / 60
        row = [f"{run['subject']}: `{run['network']}`", f"{run['parameters'] / 1e6:.2f} M", f"{minutes:.0f}"]
        for split in result["area"]:
            row.append(f"{run[split]['mean']:.1%} ± {run[split]['spread']:.1%}")
            row += [f"{sum(run[split][key]) / seeds:.1%}" for key in ("near_ink", "on_ink")]
        rows.append(row)
    return markdown(header, [*rows, even])


def large_images(result: dict) -> str:
    """Peak memory and minutes of each stage by number of images, and the largest error of a bar's promised end."""
    rows = [
        [
            f"{row['images']:,} of {row['megapixels']:g} megapixels",
            name,
            f"{stage['peak_mb']:,} MB",
            f"{stage['minutes']:.1f}",
            f"{stage['load']:.0f}" if "load" in stage else "",
            f"{max(stage['promised_late_s'][0], stage['promised_early_s'][0]):.0f} s" if stage["bars"] else "",
        ]
        for row in result["rows"]
        for name, stage in row["stages"].items()
    ]
    headings = [
        "images",
        "stage",
        "memory, peak",
        "minutes",
        "processes that wanted a core",
        "a bar's promise was off by",
    ]
    held = ", ".join(f"{part['peak_mb']} MB for {part['images']:,}" for part in result["reduced"])
    return f"{markdown(headings, rows)}\n\nReduced images of a training at 192 px, alone: {held}."


def memory(result: dict) -> str:
    """Peak memory of a few steps with each switch."""
    on_gpu = "peak_gpu_memory_mb" in result["measured"][0]
    rows, plain_mb = [], 1.0
    for run in result["measured"]:
        peak_mb = run["peak_gpu_memory_mb"] if on_gpu else run["peak_memory_mb"] - run["before_mb"]
        plain_mb = peak_mb if run["variant"] == "plain" else plain_mb
        rows.append([run["network"], run["variant"], f"{peak_mb:,.0f} MB", f"{peak_mb / plain_mb:.0%}"])
    text = markdown(
        ["network", "switch", "GPU memory, peak" if on_gpu else "memory of the steps, peak", "of plain"], rows
    )
    torch_version = result["provenance"]["versions"]["torch"]
    return f"{text}\n\nBatches of {result['batch_size']} on {result['device']}, PyTorch {torch_version}."


def panel(result: dict) -> str:
    """Means over the seeds, over train and val, on val alone, and over the icon sets that were left out."""

    def average(part: str, figure: str, form: str) -> Callable[[dict], str]:
        return lambda variant: f"{mean(seed[part][figure] for seed in variant['seeds']):{form}}"

    def recall(label: str) -> Callable[[dict], str]:
        return lambda variant: f"{mean(seed['all']['recall'][label] for seed in variant['seeds']):.0%}"

    def left_out(variant: dict) -> str:
        accuracies = [figures["accuracy"] for figures in variant.get("left_out", {}).values()]
        return f"{mean(accuracies):.1%}" if accuracies else "-"

    return table_of(
        named(result["variants"]),
        (f"panel, {result['count']:,} logos of train and val", "{name}"),
        ("accuracy", average("all", "accuracy", ".1%")),
        ("sure", average("all", "accuracy_sure", ".1%")),
        *((f"`{label}`", recall(label)) for label in result["classes"]),
        ("NLL", average("all", "nll", ".3f")),
        ("val", average("val", "accuracy", ".1%")),
        ("icon sets left out", left_out),
    )


def pretraining(result: dict) -> str:
    """By network and start: the mean over the seeds and, of several, their standard deviation."""
    by_start: dict[tuple[str, str, int], list[dict]] = {}
    for run in result["entries"]:
        by_start.setdefault((run["network"], run["start"], run["pretraining_epochs"]), []).append(run)
    rows = []
    for (network, start, epochs), runs in by_start.items():
        fits = [run for run in runs if "fit" in run]
        random = {run["seed"]: run for run in by_start.get((network, "random", 0), []) if "fit" in run}
        overtakes = [
            first_epoch(run["curve"], random[run["seed"]]["accuracy"]) for run in fits if run["seed"] in random
        ]
        row = [network, f"{start}, {epochs} epochs" if epochs else start, str(len(runs))]
        row += [_spread([run[probe] for run in runs], ".1%") for probe in ("linear_probe", "neighbours")]
        row += [_first_epochs([run["reached"][level] for run in fits]) for level in ("80%", "85%")]
        row += [_first_epochs(overtakes), _spread([run["accuracy"] for run in fits], ".1%")]
        row.append(_spread([run["pretraining_seconds"] / 60 for run in runs], ".0f") * bool(epochs))
        rows.append([*row, _spread([run["fit_seconds"] / 60 for run in fits], ".0f")])
    header = ["network", "starts from", "seeds", "linear probe", "nearest neighbours", "epochs to 80 %", "to 85 %"]
    header += ["to where random ends", "after the fit", "pretraining, min", "fit, min"]
    return markdown(header, rows)


def first_epoch(curve: list[float], level: float) -> int | None:
    """The first epoch, counted from 1, whose accuracy is at least `level`, or None."""
    return next((index + 1 for index, accuracy in enumerate(curve) if accuracy >= level), None)


def _first_epochs(epochs: list[int | None]) -> str:
    """The mean and spread of the known epochs, and their number where some are unknown."""
    reached = [epoch for epoch in epochs if epoch is not None]
    known = "" if len(reached) == len(epochs) else f" ({len(reached)} of {len(epochs)})"
    return f"{_spread(reached, '.1f')}{known}".strip()


def _spread(values: list[float], form: str) -> str:
    """The mean and, of several values, the sample standard deviation."""
    if len(values) < 2:
        return "".join(f"{value:{form}}" for value in values)
    return f"{mean(values):{form}} ± {stdev(values):{form}}"


def teachers(result: dict) -> str:
    """The teachers of several runs on val, with the settings in which they differ."""
    return table_of(
        result["teachers"],
        ("network", "{network}"),
        ("epochs", "{epochs}"),
        ("frozen", lambda row: "stem and 2 stages" if row["frozen_blocks"] == 2 else "nothing"),
        ("mixup", "{p_mixup:g}"),
        ("class weights", "{class_weight_power:g}"),
        ("unsure smoothing", "{unsure_smoothing:g}"),
        ("least scale", "{augment_scale_min:g}"),
        ("all", "{accuracy:.1%}"),
        ("sure", "{accuracy_sure:.1%}"),
        ("worst class", "{worst_recall:.1%}"),
        ("NLL", "{nll:.3f}"),
    )


def uncertainty(result: dict) -> str:
    """The accuracy, calibration and uncertainty of each method, by split."""

    rows = [
        {**method[split], "name": f"{name}, {split}", "chosen": method["chosen"], "outliers": outliers}
        for split in measured_splits(result["methods"].values())
        for name, method in result["methods"].items()
        for outliers in [outliers_by(method, split, result["near"])]
    ]
    return table_of(
        rows,
        ("", "{name}"),
        ("accuracy", "{accuracy[value]:.1%}"),
        ("NLL", "{nll[value]:.3f}"),
        ("Brier", "{brier[value]:.3f}"),
        ("ECE less its bias", "{ece_debiased[value]:.1%}"),
        ("AURC", "{area_under_risk_coverage[value]:.4f}"),
        (f"error at {result['coverage']:.0%} coverage", "{selective_error[value]:.1%}"),
        ("outliers by", "{chosen}"),
        ("near", "{outliers[0]:.3f}"),
        ("far", "{outliers[1]:.3f}"),
        ("votes, total", "{uncertainty[total][spearman][value]:.2f}"),
        ("votes, epistemic", "{uncertainty[epistemic][spearman][value]:.2f}"),
    )


def detectors(uncertainty: dict) -> str:
    """How well each detector separates other images from logos: AUROC by family."""
    by_split = uncertainty["detectors"]
    rows = []
    for split in measured_splits([by_split]):
        for name, aurocs in by_split[split].items():
            label = f"**{name}**" if name == by_split["chosen"] else name
            values = [*aurocs.values(), *near_and_far(aurocs, uncertainty["near"])]
            rows.append([f"{label}, {split}", *(f"{value:.3f}" for value in values)])
    starred = [family + " *" * (family in uncertainty["chosen_on"]) for family in by_split["val"]["ViM"]]
    return markdown(["", *starred, "near", "far"], rows) + "\n\nBold: the chosen one. * chosen on it."


def measured_splits(records: Iterable[dict]) -> list[str]:
    """The splits, val and test, that all records have."""
    records = list(records)
    return [split for split in ("val", "test") if all(split in record for record in records)]


def near_and_far(by_family: dict[str, float], near: list[str]) -> list[float | None]:
    """The means over the families of near and of far images; None over no family."""
    parts = ([value for family, value in by_family.items() if (family in near) == is_near] for is_near in (True, False))
    return [mean(part) if part else None for part in parts]


def outliers_by(method: dict, split: str, near: list[str]) -> list[float | None]:
    """The mean AUROC of the method's chosen measure over near and over far images."""
    return near_and_far(method[split]["uncertainty"][method["chosen"]]["auroc"], near)
