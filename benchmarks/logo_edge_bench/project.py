"""A small project around one classifier, for a repository of its own (`logo-edge init`)."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

from logo_edge import __version__
from logo_edge.errors import LogoEdgeError
from logo_edge.files import write_file
from logo_edge.names import shown
from logo_edge_train.recipe_io import find_recipe, load_recipe

TEMPLATES = {
    "README.md": "README.md",
    "Makefile": "Makefile",
    "gates.toml": "gates.toml",
    ".gitignore": "gitignore",
    ".github/workflows/check.yml": "check.yml",
}  # file of the project -> file of logo_edge_bench/project


REQUIREMENTS = f"""\
# logo-edge is on no package index yet: write `logo-edge @ ADDRESS` here, the address of a wheel or of a git repository
logo-edge=={__version__}
"""


def write_project(folder: Path, recipe: str) -> list[str]:
    """Writes the project's files into `folder`, new or not, and returns their names.

    recipe.toml is a copy of `recipe`, under its own name. Raises LogoEdgeError, before anything is written, if one of
    the files exists; RecipeError for an unknown or invalid recipe.
    """
    load_recipe(recipe)
    head, table, rest = re.split(r"(?m)(^[ \t]*\[|\Z)", find_recipe(recipe).read_text(encoding="utf-8"), maxsplit=1)
    named = re.sub(r"(?m)^[ \t]*(['\"]?)name\1[ \t]*=.*\n?", "", head) + table + rest
    content = {
        name: files("logo_edge_bench").joinpath("project", file).read_bytes() for name, file in TEMPLATES.items()
    }
    content |= {"recipe.toml": f'name = "own"\n{named}', "requirements.txt": REQUIREMENTS}
    if existing := [name for name in content if os.path.lexists(folder / name)]:
        raise LogoEdgeError(
            f"{shown(str(folder))}: {', '.join(existing)} there already, and nothing is overwritten; give another "
            "folder, or move them away"
        )
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(folder / name, text)
    return sorted(content)
