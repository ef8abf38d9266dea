"""The verbs that compare logos by their embeddings: `logo-edge enroll`, `similar` and `cluster`."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import typer

from logo_edge.classifier import Classifier
from logo_edge.cli.bundle import BUNDLE_OPTION, PUBLIC_KEY_OPTION
from logo_edge.errors import EnrolmentError, ImageError, LogoEdgeError
from logo_edge.files import json_text
from logo_edge.images.load import load_image
from logo_edge.likeness.cluster import SAME_LOGO, centre_of
from logo_edge.likeness.cluster import cluster as group
from logo_edge.likeness.enroll import (
    FALSE_ACCEPTS,
    Enrolment,
    add_class,
    change_enrolment,
    new_enrolment,
    open_enrolment,
)
from logo_edge.likeness.space import embed_many, embed_parts, rank, read_space, unit
from logo_edge.names import csv_line, printable, shown
from logo_edge.tables.journal import find_images

enroll = typer.Typer(rich_markup_mode=None, add_completion=False)
similar = typer.Typer(rich_markup_mode=None, add_completion=False)
cluster = typer.Typer(rich_markup_mode=None, add_completion=False)

THREADS_OPTION = typer.Option(1, "--threads", min=1, help="CPU threads of one forward pass.")
JSON_OPTION = typer.Option(False, "--json", help="One JSON object.")
CSV_OPTION = typer.Option(False, "--csv", help="Rows of CSV.")


@enroll.command(
    help="""Teach a bundle one more class, such as a brand, from a few images and without training.

    \b
    logo-edge enroll acme acme/*.png              into ./enrolled.json; again adds images
    logo-edge classify --enrolled enrolled.json FOLDER
    logo-edge enroll --list
    logo-edge enroll --remove acme

    One image does; several, as different as they come, are better: marks alone, names alone, in colours and in black.
    An image of no enrolled class is left without one; --false-accepts says how often that may go wrong.
    """
)
def enroll_command(
    name: str | None = typer.Argument(None, metavar="NAME", help="The class; images are added where it is there."),
    images: list[Path] | None = typer.Argument(None, metavar="IMAGE...", help="Image files or folders of them."),
    file: Path = typer.Option(Path("enrolled.json"), "--file", "-f", metavar="FILE", help="Where classes are kept."),
    bundle: str | None = BUNDLE_OPTION,
    public_key: Path | None = PUBLIC_KEY_OPTION,
    listed: bool = typer.Option(False, "--list", help="Show the classes that are enrolled."),
    remove: str | None = typer.Option(None, "--remove", metavar="NAME", help="Forget a class."),
    false_accepts: float | None = typer.Option(
        None,
        "--false-accepts",
        min=0.0,
        max=1.0,
        help=f"The share of logos of no class that may be taken for one, of all classes together; {FALSE_ACCEPTS:g} at first.",
    ),
    as_json: bool = JSON_OPTION,
) -> None:
    """Exit status: 0 done, 2 refused: nothing was changed."""
    if (name is not None) + listed + (remove is not None) != 1 or bool(name) != bool(images):
        raise typer.BadParameter("give NAME and IMAGE..., or --list, or --remove NAME")
    warnings.filterwarnings("ignore", module=r"PIL\.")
    classifier = Classifier.load(bundle, public_key=public_key)

    changed: list[str] = []  # what is said once the file is written

    def change(enrolment: Enrolment) -> Enrolment:
        if false_accepts is not None:
            enrolment = new_enrolment(classifier.bundle, false_accepts=false_accepts).with_classes(enrolment.classes)
        if name is not None:
            paths = list(find_images(map(str, images)))
            if not paths:
                found = ", ".join(map(str, images))
                raise EnrolmentError(f"no image found in {found}; expected files such as .png, .jpg")
            enrolment, fresh = add_class(enrolment, classifier, name, paths)
            known = f", {len(paths) - fresh} known already" if fresh < len(paths) else ""
            changed.append(f"{file}: {fresh} new image{'s' * (fresh != 1)} of {name}{known}")
        elif remove is not None:
            enrolment = enrolment.without(remove)
        if enrolment.classes:
            _ = enrolment.threshold  # raises where it promises too much, before anything is written
        return enrolment

    if listed or (remove is not None and not file.exists()):
        enrolment = change(open_enrolment(file, classifier.bundle))
    else:
        enrolment = change_enrolment(file, classifier.bundle, change)
    if not as_json:
        for line in changed:
            typer.echo(printable(line))
    rows = [
        {
            "class": known,
            "images": len(samples),
            "found_when_left_out": enrolment.left_out(known)[0] if len(samples) > 1 else None,
        }
        for known, samples in enrolment.classes.items()
    ]
    threshold = enrolment.threshold if enrolment.classes else None
    if as_json:
        typer.echo(
            json_text(
                {
                    "file": shown(str(file)),
                    "classes": rows,
                    "false_accepts": enrolment.false_accepts,
                    "threshold": threshold,
                },
                indent=None,
            ),
            nl=False,
        )
        return
    width = max((len(row["class"]) for row in rows), default=0)
    for row in rows:
        found = row["found_when_left_out"]
        note = "" if found is None else f"  {found} of {row['images']} found when left out"
        typer.echo(f"{row['class']:{width}}  {row['images']:3} image{'s' * (row['images'] != 1)}{note}")
    if threshold is None:
        typer.echo(f"{printable(str(file))}: no class is enrolled")
    else:
        typer.echo(
            f"named from similarity {threshold:.3f} on; at most {enrolment.false_accepts:.1%} of other logos reach it"
        )


@similar.command(
    help="""Rank a folder by similarity to one logo, the most similar first.

    \b
    logo-edge similar logo.png downloads/ --top-k 20
    logo-edge similar logo.png downloads/ --csv > ranked.csv

    Similarity is a cosine, -1 to 1: near 0 for unrelated logos. QUERY stands for its whole and its parts together, so
    that a drawing with a gap is below 1 to itself.
    """
)
def similar_command(
    query: Path = typer.Argument(..., metavar="QUERY", help="An image."),
    folders: list[Path] = typer.Argument(..., metavar="DIR...", help="Folders, searched recursively, or images."),
    top_k: int = typer.Option(10, "--top-k", "-k", min=0, help="How many to show; 0: all."),
    bundle: str | None = BUNDLE_OPTION,
    public_key: Path | None = PUBLIC_KEY_OPTION,
    threads: int = THREADS_OPTION,
    as_json: bool = JSON_OPTION,
    as_csv: bool = CSV_OPTION,
) -> None:
    """Exit status: 0 done, 1 some images failed, 2 wrong usage."""
    classifier, space = _open(bundle, public_key, threads, as_json, as_csv)
    asked = unit(embed_parts(classifier, space, load_image(query)).mean(0))
    paths, vectors, failed = _embed_folders(classifier, space, folders)
    ranked = [(paths[index], similarity) for index, similarity in rank(asked, vectors)][: top_k or None]
    if as_json:
        results = [{"path": shown(path), "similarity": round(similarity, 6)} for path, similarity in ranked]
        typer.echo(json_text({"query": shown(str(query)), "results": results, "errors": failed}), nl=False)
    elif as_csv:
        _write_csv(
            ("rank", "similarity", "path"),
            [(place, f"{found:.6f}", shown(path)) for place, (path, found) in enumerate(ranked, 1)],
        )
    else:
        for path, similarity in ranked:
            typer.echo(f"{similarity:6.3f}  {printable(path)}")
    if failed:
        raise typer.Exit(1)


@cluster.command(
    help="""Sort a folder into groups of like logos, the largest group first.

    \b
    logo-edge cluster downloads/
    logo-edge cluster downloads/ --similarity 0.8 --csv > groups.csv    only near-duplicates

    Two groups become one while the mean similarity of their images is at least --similarity. The same folder gives the
    same groups. The first image of a group is the one most like all others in it.
    """
)
def cluster_command(
    folders: list[Path] = typer.Argument(..., metavar="DIR...", help="Folders, searched recursively, or images."),
    similarity: float = typer.Option(SAME_LOGO, "--similarity", min=-1.0, max=1.0, help="Of groups that become one."),
    bundle: str | None = BUNDLE_OPTION,
    public_key: Path | None = PUBLIC_KEY_OPTION,
    threads: int = THREADS_OPTION,
    as_json: bool = JSON_OPTION,
    as_csv: bool = CSV_OPTION,
) -> None:
    """Exit status: 0 done, 1 some images failed, 2 wrong usage."""
    classifier, space = _open(bundle, public_key, threads, as_json, as_csv)
    paths, vectors, failed = _embed_folders(classifier, space, folders)
    groups = []
    for found in group(vectors, similarity):
        first = centre_of(vectors, found)
        groups.append([paths[index] for index in (first, *(other for other in found if other != first))])
    if as_json:
        groups = [[shown(path) for path in paths] for paths in groups]
        typer.echo(json_text({"similarity": similarity, "groups": groups, "errors": failed}), nl=False)
    elif as_csv:
        _write_csv(
            ("group", "path"), [(number, shown(path)) for number, found in enumerate(groups, 1) for path in found]
        )
    else:
        for number, found in enumerate(groups, 1):
            typer.echo(f"group {number}: {len(found)} image{'s' * (len(found) != 1)}")
            for path in found:
                typer.echo(f"  {printable(path)}")
    if failed:
        raise typer.Exit(1)


def _open(bundle: str | None, public_key: Path | None, threads: int, as_json: bool, as_csv: bool):
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    warnings.filterwarnings("ignore", module=r"PIL\.")
    classifier = Classifier.load(bundle, public_key=public_key, threads=threads)
    return classifier, read_space(classifier.bundle)


def _embed_folders(classifier: Classifier, space, folders: list[Path]) -> tuple[list[str], np.ndarray, list[dict]]:
    """The readable images' paths and (N, d) vectors, and path and error of the others, which are told on stderr too."""
    for folder in folders:
        if not os.path.exists(folder):
            raise LogoEdgeError(f"{folder}: no such file or folder")
    found = list(find_images(map(str, folders)))
    if not found:
        raise LogoEdgeError(
            f"no image found in {', '.join(map(str, folders))}; expected files such as .png, .jpg, .webp"
        )
    paths, vectors, failed = [], [], []
    for path, result in zip(found, embed_many(classifier, space, found), strict=True):
        if isinstance(result, ImageError):
            failed.append({"path": shown(path), "error": shown(str(result))})
            typer.echo(f"logo-edge: {printable(str(result))}", err=True)
        else:
            paths.append(path)
            vectors.append(result)
    return paths, np.array(vectors, np.float32).reshape(len(vectors), len(space.directions)), failed


def _write_csv(header: tuple[str, ...], rows: list[tuple]) -> None:
    sys.stdout.writelines(map(csv_line, (header, *rows)))
