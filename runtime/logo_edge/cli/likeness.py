"""The verbs that compare images by their embeddings: `logo-edge enroll`, `similar` and `cluster`."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import typer

from logo_edge.classifier import Classifier
from logo_edge.cli.options import BUNDLE, CSV, JSON, PUBLIC_KEY, THREADS
from logo_edge.errors import EnrolmentError, ImageError, LogoEdgeError
from logo_edge.files import json_text
from logo_edge.images.load import load_image
from logo_edge.likeness.cluster import SAME_LOGO, centre_of
from logo_edge.likeness.cluster import cluster as cluster_vectors
from logo_edge.likeness.enroll import (
    FALSE_ACCEPTS,
    Enrolment,
    add_class,
    change_enrolment,
    new_enrolment,
    open_enrolment,
)
from logo_edge.likeness.space import EmbeddingSpace, embed_many, embed_parts, rank, read_space, unit
from logo_edge.names import csv_line, printable, shown
from logo_edge.tables.find import find_images

enroll = typer.Typer(rich_markup_mode=None, add_completion=False)
similar = typer.Typer(rich_markup_mode=None, add_completion=False)
cluster = typer.Typer(rich_markup_mode=None, add_completion=False)

FOLDERS_ARGUMENT = typer.Argument(..., metavar="DIR...", help="Folders, searched recursively, or images.")


@enroll.command(
    help="""Add a class to a bundle, such as a brand, from a few images and without training.

    \b
    logo-edge enroll acme acme/*.png              into ./enrolled.json; again: adds images
    logo-edge classify --enrolled enrolled.json FOLDER
    logo-edge enroll --list
    logo-edge enroll --remove acme

    One image is enough; several different ones are better: marks alone, names alone, in colour and in black. An image
    of no enrolled class gets none of them; --false-accepts limits how often that fails.
    """
)
def enroll_command(
    name: str | None = typer.Argument(None, metavar="NAME", help="The class; if it exists, images are added to it."),
    images: list[Path] | None = typer.Argument(None, metavar="IMAGE...", help="Image files or folders of them."),
    file: Path = typer.Option(Path("enrolled.json"), "--file", "-f", metavar="FILE", help="The file of the classes."),
    bundle: str | None = BUNDLE.typer(),
    public_key: Path | None = PUBLIC_KEY.typer(),
    listed: bool = typer.Option(False, "--list", help="Show the enrolled classes."),
    remove: str | None = typer.Option(None, "--remove", metavar="NAME", help="Remove a class."),
    false_accepts: float | None = typer.Option(
        None,
        "--false-accepts",
        min=0.0,
        max=1.0,
        help=f"The largest share of images of no class that may get one, over all classes; at first {FALSE_ACCEPTS:g}.",
    ),
    as_json: bool = JSON.typer(),
) -> None:
    """Exit status: 0 done, 2 refused: nothing was changed."""
    if (name is not None) + listed + (remove is not None) != 1 or bool(name) != bool(images):
        raise typer.BadParameter("give NAME and IMAGE..., or --list, or --remove NAME")
    warnings.filterwarnings("ignore", module=r"PIL\.")
    classifier = Classifier.load(bundle, public_key=public_key)

    changes: list[str] = []  # printed once the file is written

    def change(enrolment: Enrolment) -> Enrolment:
        if false_accepts is not None:
            enrolment = new_enrolment(classifier.bundle, false_accepts=false_accepts).with_classes(enrolment.classes)
        if name is not None:
            paths = list(find_images(map(str, images)))
            if not paths:
                searched = ", ".join(map(str, images))
                raise EnrolmentError(f"no image found in {searched}; expected files such as .png, .jpg")
            enrolment, added = add_class(enrolment, classifier, name, paths)
            known = f", {len(paths) - added} known already" if added < len(paths) else ""
            changes.append(f"{file}: {added} new image{'s' * (added != 1)} of {name}{known}")
        elif remove is not None:
            enrolment = enrolment.without(remove)
        if enrolment.classes:
            _ = enrolment.threshold  # raises if it promises too much, before anything is written
        return enrolment

    if listed or (remove is not None and not file.exists()):
        enrolment = change(open_enrolment(file, classifier.bundle))
    else:
        enrolment = change_enrolment(file, classifier.bundle, change)
    if as_json:
        typer.echo(json_text(_enrolment_record(file, enrolment), indent=None), nl=False)
        return
    for line in changes:
        typer.echo(printable(line))
    _print_enrolment(file, enrolment)


def _enrolment_record(file: Path, enrolment: Enrolment) -> dict:
    """The output of `--json`: the classes, and the threshold of their similarity."""
    rows = [
        {
            "class": name,
            "images": len(samples),
            "found_when_left_out": enrolment.left_out(name)[0] if len(samples) > 1 else None,
        }
        for name, samples in enrolment.classes.items()
    ]
    threshold = enrolment.threshold if enrolment.classes else None
    return {"file": shown(str(file)), "classes": rows, "false_accepts": enrolment.false_accepts, "threshold": threshold}


def _print_enrolment(file: Path, enrolment: Enrolment) -> None:
    record = _enrolment_record(file, enrolment)
    width = max((len(row["class"]) for row in record["classes"]), default=0)
    for row in record["classes"]:
        count, recalled = row["images"], row["found_when_left_out"]
        note = "" if recalled is None else f"  {recalled} of {count} found when left out"
        typer.echo(f"{row['class']:{width}}  {count:3} image{'s' * (count != 1)}{note}")
    if record["threshold"] is None:
        typer.echo(f"{printable(str(file))}: no class is enrolled")
    else:
        share = f"at most {enrolment.false_accepts:.1%} of other images reach it"
        typer.echo(f"named from similarity {record['threshold']:.3f} on; {share}")


@similar.command(
    help="""Rank a folder by similarity to one image, the most similar first.

    \b
    logo-edge similar logo.png downloads/ --top-k 20
    logo-edge similar logo.png downloads/ --csv > ranked.csv

    Similarity is a cosine, -1 to 1: near 0 for unrelated images. QUERY is compared as a whole and by its parts
    together, so the similarity of a drawing with a gap to itself is below 1.
    """
)
def similar_command(
    query: Path = typer.Argument(..., metavar="QUERY", help="An image."),
    folders: list[Path] = FOLDERS_ARGUMENT,
    top_k: int = typer.Option(10, "--top-k", "-k", min=0, help="How many to show; 0: all."),
    bundle: str | None = BUNDLE.typer(),
    public_key: Path | None = PUBLIC_KEY.typer(),
    threads: int = THREADS.typer(),
    as_json: bool = JSON.typer(),
    as_csv: bool = CSV.typer(),
) -> None:
    """Exit status: 0 done, 1 some images failed, 2 wrong usage."""
    classifier, space = _open(bundle, public_key, threads, as_json, as_csv)
    query_vector = unit(embed_parts(classifier, space, load_image(query)).mean(0))
    paths, vectors, errors = _embed_folders(classifier, space, folders)
    ranked = [(paths[index], similarity) for index, similarity in rank(query_vector, vectors)][: top_k or None]
    if as_json:
        results = [{"path": shown(path), "similarity": round(similarity, 6)} for path, similarity in ranked]
        typer.echo(json_text({"query": shown(str(query)), "results": results, "errors": errors}), nl=False)
    elif as_csv:
        rows = [(position, f"{similarity:.6f}", shown(path)) for position, (path, similarity) in enumerate(ranked, 1)]
        _write_csv(("rank", "similarity", "path"), rows)
    else:
        for path, similarity in ranked:
            typer.echo(f"{similarity:6.3f}  {printable(path)}")
    if errors:
        raise typer.Exit(1)


@cluster.command(
    help="""Sort a folder into groups of similar images, the largest group first.

    \b
    logo-edge cluster downloads/
    logo-edge cluster downloads/ --similarity 0.8 --csv > groups.csv    only near-duplicates

    Two groups are merged while the mean similarity of their images is at least --similarity. The same folder gives the
    same groups. The first image of a group is the most similar to the others in it.
    """
)
def cluster_command(
    folders: list[Path] = FOLDERS_ARGUMENT,
    similarity: float = typer.Option(SAME_LOGO, "--similarity", min=-1.0, max=1.0, help="Of groups that are merged."),
    bundle: str | None = BUNDLE.typer(),
    public_key: Path | None = PUBLIC_KEY.typer(),
    threads: int = THREADS.typer(),
    as_json: bool = JSON.typer(),
    as_csv: bool = CSV.typer(),
) -> None:
    """Exit status: 0 done, 1 some images failed, 2 wrong usage."""
    classifier, space = _open(bundle, public_key, threads, as_json, as_csv)
    paths, vectors, errors = _embed_folders(classifier, space, folders)
    groups = []
    for members in cluster_vectors(vectors, similarity):
        centre = centre_of(vectors, members)
        groups.append([paths[index] for index in (centre, *(other for other in members if other != centre))])
    if as_json:
        named = [[shown(path) for path in group] for group in groups]
        typer.echo(json_text({"similarity": similarity, "groups": named, "errors": errors}), nl=False)
    elif as_csv:
        rows = [(number, shown(path)) for number, group in enumerate(groups, 1) for path in group]
        _write_csv(("group", "path"), rows)
    else:
        for number, group in enumerate(groups, 1):
            typer.echo(f"group {number}: {len(group)} image{'s' * (len(group) != 1)}")
            for path in group:
                typer.echo(f"  {printable(path)}")
    if errors:
        raise typer.Exit(1)


def _open(
    bundle: str | None, public_key: Path | None, threads: int, as_json: bool, as_csv: bool
) -> tuple[Classifier, EmbeddingSpace]:
    if as_json and as_csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    warnings.filterwarnings("ignore", module=r"PIL\.")
    classifier = Classifier.load(bundle, public_key=public_key, threads=threads)
    return classifier, read_space(classifier.bundle)


def _embed_folders(
    classifier: Classifier, space: EmbeddingSpace, folders: list[Path]
) -> tuple[list[str], np.ndarray, list[dict]]:
    """The readable images' paths and (N, d) vectors; path and error of the others, which are printed on stderr too."""
    for folder in folders:
        if not os.path.exists(folder):
            raise LogoEdgeError(f"{folder}: no such file or folder")
    images = list(find_images(map(str, folders)))
    if not images:
        searched = ", ".join(map(str, folders))
        raise LogoEdgeError(f"no image found in {searched}; expected files such as .png, .jpg, .webp")
    paths, vectors, errors = [], [], []
    for path, result in zip(images, embed_many(classifier, space, images), strict=True):
        if isinstance(result, ImageError):
            errors.append({"path": shown(path), "error": shown(str(result))})
            typer.echo(f"logo-edge: {printable(str(result))}", err=True)
        else:
            paths.append(path)
            vectors.append(result)
    return paths, np.array(vectors, np.float32).reshape(len(vectors), len(space.directions)), errors


def _write_csv(header: tuple[str, ...], rows: list[tuple]) -> None:
    sys.stdout.writelines(map(csv_line, (header, *rows)))
