"""The verbs `logo-edge bench` and `logo-edge check`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer

bench = typer.Typer(rich_markup_mode=None, add_completion=False)
check = typer.Typer(rich_markup_mode=None, add_completion=False)

BUNDLE = typer.Argument(None, metavar="[BUNDLE]", help="Left out: the embedded default.")
MANIFEST = typer.Option(..., "--manifest", help="CSV of labelled logos, columns as in labels.csv.")
IMAGES = typer.Option(Path(), "--images", help="Folder of renders, where the manifest names icon sets.")


@bench.command(help="Measure a bundle's accuracy and latency together, in one run.")
def bench_command(
    bundle: Path | None = BUNDLE,
    manifest: Path = MANIFEST,
    images: Path = IMAGES,
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


@check.command(
    help="Hold a bundle against gates: accuracy, recall, calibration, latency and size, all on the artifact that ships. "
    "Exit status: 0 all hold, 1 some fail, 2 wrong usage."
)
def check_command(
    bundle: Path | None = BUNDLE,
    gates: Path = typer.Option(..., "--gates", help="TOML of limits, such as accuracy = 0.93 or size_mb = 4."),
    manifest: Path = MANIFEST,
    images: Path = IMAGES,
    split: str = typer.Option("val", "--split", help="val to decide by; test only to guard what has shipped."),
    runs: int = typer.Option(200, "--runs", min=10, help="Counted calls per latency."),
    public_key: Path | None = typer.Option(
        None, "--public-key", metavar="PEM", help="Check the bundle only if this key's owner signed it (extra sign)."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    from logo_edge.manifest import read_manifest
    from logo_edge_bench.bench import measure_bundle
    from logo_edge_bench.gates import check_gates, read_gates

    limits = read_gates(gates)
    figures = measure_bundle(bundle, read_manifest(manifest), images, split=split, runs=runs, public_key=public_key)
    checks = check_gates(limits, figures)
    failed = [entry for entry in checks if not entry.holds]
    if as_json:
        rows = [{**vars(entry), "holds": entry.holds} for entry in checks]
        typer.echo(json.dumps({"bundle": figures["bundle"], "split": split, "holds": not failed, "gates": rows}))
    else:
        typer.echo(f"{figures['bundle']}: {len(checks) - len(failed)} of {len(checks)} gates hold on {split}")
        for entry in sorted(checks, key=lambda entry: entry.holds):
            sign = ">=" if entry.at_least else "<="
            typer.echo(
                f"{'ok' if entry.holds else 'FAILS':>6}  {entry.name:<20} {entry.found:9.4f}  {sign} {entry.limit:g}"
            )
    if failed:
        raise typer.Exit(1)


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
        typer.echo(
            f"{name:>40}  {latency['p50_ms']:6.2f} ms  (p90 {latency['p90_ms']:.2f}, p99 {latency['p99_ms']:.2f})"
        )
    process = figures["process"]
    typer.echo(
        f"{'logo-edge classify one.png':>40}  {process['classify_one_png_s']:6.2f} s   ({process['ratio']:.2f} x bare import)"
    )
    if "install" in figures:
        typer.echo(f"{'base install':>40}  {figures['install']['megabytes']:6.0f} MB")
