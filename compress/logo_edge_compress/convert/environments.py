"""Converters that cannot share our environment: each has a virtual environment of its own, made from a committed lock.

`locks/NAME.txt` names every package of the converter NAME with its version and hashes, for `pip install --no-deps
--require-hashes`; `lock.py` writes it. A line `# shares: torch numpy` names large packages that the script takes from
our environment. A script of `inside/` runs there as a subprocess, with a time limit, and leaves files and a record.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import sysconfig
from collections import deque
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from logo_edge.cache import cache_folder
from logo_edge.errors import ExportError, MissingExtraError
from logo_edge.files import changing, folder_beside
from logo_edge_compress.process_tree import process_tree
from logo_edge_train.keys import artifact_key, file_hash

LOCKS, INSIDE = Path(__file__).parent / "locks", Path(__file__).parent / "inside"
LIMIT_S = 900.0  # for one conversion
QUOTED = 5  # last lines of output in an error
PIP_SOURCES = (  # settings of pip that say where packages come from; others may put them elsewhere, or nowhere
    "CACHE_DIR CERT CLIENT_CERT CONFIG_FILE EXTRA_INDEX_URL FIND_LINKS INDEX_URL KEYRING_PROVIDER NO_CACHE_DIR "
    "NO_INDEX PROXY RETRIES TIMEOUT TRUSTED_HOST"
).split()
LIST_VERSIONS = """import json, sys
from importlib.metadata import PackageNotFoundError, version
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = version(name)
    except PackageNotFoundError:
        versions[name] = None
print(json.dumps(versions))"""


def open_environment(name: str, *, lock: Path | None = None) -> Path:
    """The Python of the converter `name`, whose environment is made at the first use and kept in the cache folder.

    The folder is named by the lock's hash and this Python. Two callers build it once, and a build that was killed
    leaves nothing. One whose Python is gone, or whose packages are not the lock's, is made again. Raises ExportError,
    with the packages, where they cannot be installed.
    """
    lock = lock or LOCKS / f"{name}.txt"
    versions = {"python": platform.python_version(), "platform": sysconfig.get_platform()}
    folder = cache_folder() / "converters" / f"{name}-{artifact_key({'lock': lock}, {}, versions)[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = Path("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with changing(folder):
        if not is_whole(folder / python, lock):
            with folder_beside(folder) as temporary:
                _install(name, lock, temporary / "environment", python)
                if folder.exists():
                    folder.rename(temporary / "damaged")
                (temporary / "environment").rename(folder)
    return folder / python


def check_environment(name: str, python: Path, *, lock: Path | None = None) -> Path:
    """The Python of an environment that the user has made for the converter `name`.

    Raises ExportError where a package of the lock is missing there or has another version.
    """
    wanted, shared = read_lock(lock or LOCKS / f"{name}.txt")
    try:
        different = _find_differences(python, wanted | dict.fromkeys(shared))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ExportError(f"--converter-python {python}: cannot be run ({error}); expected a Python") from error
    if different:
        raise ExportError(
            f"--converter-python {python} does not fit the converter {name}: {', '.join(different)}. Install these "
            "versions there, or leave the option out"
        )
    return python


def is_whole(python: Path, lock: Path) -> bool:
    """Whether this Python runs and has the packages of the lock."""
    with suppress(OSError, ValueError, subprocess.SubprocessError):
        return not _find_differences(python, read_lock(lock)[0])
    return False


def _find_differences(python: Path, wanted: dict[str, str | None]) -> list[str]:
    """The packages that are missing there or have another version than the wanted one (None: any), in words."""
    command = [python, "-c", LIST_VERSIONS, *wanted]
    done = subprocess.run(command, env=undisturbed(python), capture_output=True, text=True, timeout=60, check=True)
    versions = json.loads(done.stdout)
    return [
        f"{package} {versions[package] or 'missing'} (expected {version or 'any version'})"
        for package, version in wanted.items()
        if versions[package] is None or version not in (None, versions[package])
    ]


def undisturbed(python: Path | None = None) -> dict[str, str]:
    """The variables of a process in another environment: without ours for Python, and for pip only PIP_SOURCES.

    A PYTHONPATH or PIP_TARGET would put other packages there, or leave it empty. All are kept where `python` is ours.
    """
    if python == Path(sys.executable):
        return dict(os.environ)
    kept = {f"PIP_{name}" for name in PIP_SOURCES}
    return {
        name: value for name, value in os.environ.items() if name in kept or not name.startswith(("PYTHON", "PIP_"))
    }


def read_lock(lock: Path) -> tuple[dict[str, str], list[str]]:
    """{package: version} of a lock, and the packages that are taken from our environment."""
    text = lock.read_text(encoding="utf-8")
    shared = re.search(r"^# shares: (.*)$", text, re.MULTILINE)
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)), shared.group(1).split() if shared else []


def run_converter(
    name: str,
    arguments: dict,
    folder: Path,
    *,
    python: Path | None = None,
    limit_s: float = LIMIT_S,
    script: Path | None = None,
    lock: Path | None = None,
) -> dict:
    """The record that `inside/NAME.py` leaves, run on `arguments` in its environment; its files are in `folder`.

    `python` is one of the user's; then nothing is taken from our environment. The record has `files` (sha256,
    size_bytes) and what else the script returned. Raises ExportError, with the last lines of output, where the script
    fails, crashes, takes longer than `limit_s`, or ends without the files that its record names.
    """
    shared = []
    if python is None:
        python = open_environment(name, lock=lock)
        shared = shared_folders(lock or LOCKS / f"{name}.txt")
    else:
        check_environment(name, python, lock=lock)
    request, record, log = (folder / f".{name}.{part}" for part in ("request.json", "record.json", "log"))
    record.unlink(missing_ok=True)
    request.write_text(
        json.dumps({**arguments, "folder": str(folder), "record": str(record), "shared": shared}), encoding="utf-8"
    )
    command = [python, INSIDE / "start.py", script or INSIDE / f"{name}.py", request]
    with log.open("wb") as output:
        running = {"cwd": folder, "env": undisturbed(python), "stdout": output, "stderr": output}
        try:
            with process_tree(command, **running) as process:
                process.wait(limit_s)
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"the converter {name} was stopped after {limit_s:.0f} s. {_last_lines(log)}") from error
    if process.returncode:
        ending = (
            f"was ended by {signal.Signals(-process.returncode).name}"
            if process.returncode < 0
            else f"ended with status {process.returncode}"
        )
        raise ExportError(f"the converter {name} {ending}. {_last_lines(log)}")
    return _read_record(name, folder, record, log)


def _read_record(name: str, folder: Path, record: Path, log: Path) -> dict:
    try:
        result = json.loads(record.read_text(encoding="utf-8"))
        files = {file: listed["sha256"] for file, listed in result["files"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(
            f"the converter {name} ended with status 0 and no record ({error!r}), so it did not finish. "
            f"{_last_lines(log)}"
        ) from error
    for file, sha256 in files.items():
        if not (folder / file).is_file() or file_hash(folder / file) != sha256:
            raise ExportError(
                f"the converter {name} ended with status 0, but {file} is missing or incomplete. {_last_lines(log)}"
            )
    return result


def _install(name: str, lock: Path, environment: Path, python: Path) -> None:
    """A virtual environment with the packages of the lock; its progress is shown on stderr."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    packages, _ = read_lock(lock)
    pip = [environment / python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar=off"]
    locked = ["--no-deps", "--no-compile", "--only-binary=:all:", "--require-hashes", "-r", lock]
    commands = [sys.executable, "-m", "venv", environment], [*pip, *locked]
    tail: deque[str] = deque(maxlen=QUOTED)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"install the converter {name}", total=len(packages) + 1)
        for command in commands:
            running = {"env": undisturbed(), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            with process_tree(command, **running) as process:
                for line in process.stdout:
                    tail.append(line.strip())
                    bar.advance(task, line.startswith("Collecting "))
                status = process.wait()
            if status or (command is commands[-1] and not is_whole(environment / python, lock)):
                wanted = " ".join(f"{package}=={version}" for package, version in packages.items())
                raise ExportError(
                    f"the converter {name} could not be installed, {' '.join(map(str, command[1:3]))} ended with "
                    f"status {status}: {' | '.join(tail)}. It needs {wanted or 'no packages'} from the "
                    "package registry that pip uses, once. Without a network, make the environment elsewhere for this "
                    f"system and Python (python -m venv DIR; DIR/bin/pip install --no-deps -r {lock}), copy it here "
                    "and name its Python with --converter-python"
                )


def shared_folders(lock: Path) -> list[str]:
    """The folders of our environment that hold the packages which the lock shares. Raises MissingExtraError."""
    folders = []
    for package in read_lock(lock)[1]:
        try:
            folders.append(str(distribution(package).locate_file("")))
        except PackageNotFoundError as error:
            raise MissingExtraError("compress", package) from error
    return list(dict.fromkeys(folders))


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line.strip() for line in lines if line.strip()][-QUOTED:]
    return f"Its last lines: {' | '.join(lines)}" if lines else "It printed nothing"
