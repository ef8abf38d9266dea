"""The verb `logo-edge bench`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer

bench = typer.Typer(rich_markup_mode=None, add_completion=False)


@bench.command(help="Measure a bundle's accuracy and latency together, in one run.")
def bench_command(
    bundle: Path | None = typer.Argument(None, metavar="[BUNDLE]", help="Left out: the embedded default."),
    manifest: Path = typer.Option(..., "--manifest", help="CSV of labelled logos, columns as in labels.csv."),
    images: Path = typer.Option(Path(), "--images", help="Folder of renders, where the manifest names icon sets."),
    split: str = typer.Option("test", "--split", help="Which split to report on."),
    runs: int = typer.Option(500, "--runs", min=10, help="Counted calls per latency."),
    install_size: bool = typer.Option(False, "--install-size", help="Also install the wheel bare and weigh it."),
    out: Path | None = typer.Option(None, "--out", help="Write the figures to this JSON file."),
) -> None:
    from logo_edge.manifest import read_manifest
    from logo_edge_bench.bench import bench_bundle, measure_install_size

    figures = bench_bundle(bundle, read_manifest(manifest), images, split=split, runs=runs)
    if install_size:
        figures["install"] = measure_install_size()
    _print_figures(figures)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_suffix(".part")
        part.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        os.replace(part, out)
        typer.echo(f"wrote {out}")


def _print_figures(figures: dict) -> None:
    accuracy = figures["accuracy"]
    rows = {"all": accuracy["accuracy"], "sure": accuracy["accuracy_sure"], **accuracy["recall"],
            "calibration error (bias-corrected)": accuracy["calibration_error_debiased"],
            "ECE less its bias": accuracy["ece_debiased"]}  # fmt: skip
    typer.echo(
        f"{figures['bundle']}: {figures['size_bytes'] / 1e6:.2f} MB, {accuracy['count']} logos of {figures['split']}"
    )
    for name, figure in rows.items():
        typer.echo(f"{name:>40}  {figure['value']:6.1%}  ({figure['low']:.1%} to {figure['high']:.1%})")
    for name, latency in figures["latency"].items():
        typer.echo(f"{name:>40}  {latency['p50_ms']:6.2f} ms  (p90 {latency['p90_ms']:.2f})")
    process = figures["process"]
    typer.echo(
        f"{'logo-edge classify one.png':>40}  {process['classify_one_png_s']:6.2f} s   ({process['ratio']:.2f} x bare import)"
    )
    if "install" in figures:
        typer.echo(f"{'base install':>40}  {figures['install']['megabytes']:6.0f} MB")
