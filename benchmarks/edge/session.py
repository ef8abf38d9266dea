"""Measures a bundle and its exports on a Raspberry Pi (ssh) or an Android phone (adb), and brings the JSON back.

    python benchmarks/edge/session.py ssh pi@raspberrypi.local --exports exports --out pi.json
    python benchmarks/edge/session.py adb --exports exports --out phone.json

It pushes the bundle, the exports, logos and this checkout's code; checks the golden vectors (`logo-edge doctor`, and
every artifact when it is loaded); times all that give them by turns (`logo-edge bench`). The result is that of
`logo-edge bench --out`, with the doctor's report and the device's name. README.md beside this file says what was run.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
from logo_edge.errors import BenchError, LogoEdgeError
from logo_edge_bench.bench import PRESETS, read_result, write_result
from logo_edge_bench.result_tables import markdown_of
from logo_edge_bench.systems import find_artifacts
from logo_edge_train.data.icons import LABELS
from logo_edge_train.data.manifest import FILES, labelled_rows, read_manifest, write_manifest
from logo_edge_train.data.pool import stratified_sample

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("runtime/logo_edge", "train/logo_edge_train", "compress/logo_edge_compress")
ROOMS += ("benchmarks/logo_edge_bench", "benchmarks/logo_edge_report")
SOURCES = (*ROOMS, "runtime/c", "runtime/build_c.py", "pyproject.toml", "README.md", "LICENSE")
EMULATE = ROOT / "tests" / "system" / "arm" / "emulate.py"
PUSHED, DOCTOR, RESULT = "pushed.tar", "doctor.json", "result.json"
REPLACED = ("bundle", "exports", "logos", "source", "lib", PUSHED)  # of an earlier session
SSH_OPTIONS = {
    "BatchMode": "yes",
    "ServerAliveInterval": 15,
    "ServerAliveCountMax": 4,
}  # a board that is gone is noticed
ADB_FOLDER = "/data/local/tmp/logo-edge"
LOADER, LIBRARIES = "root/lib/ld-linux-aarch64.so.1", ("root/lib/aarch64-linux-gnu", "root/usr/lib/aarch64-linux-gnu")
ADB_SHELL = "/system/bin/sh"
PHONE = "getprop ro.product.manufacturer; getprop ro.product.model; getprop ro.build.version.release; uname -srm"
BOARD = "uname -srm; cat /proc/device-tree/model 2>/dev/null | tr -d '\\0'"


class Ssh:
    """A Linux board that ssh reaches, with a Python of 3.10 or later. `python` has logo-edge; else one is installed."""

    describe = BOARD

    def __init__(self, host: str, folder: str, python: str | None, config: Path | None):
        options = [word for name, value in SSH_OPTIONS.items() for word in ("-o", f"{name}={value}")]
        self._command = ["ssh", *(["-F", str(config)] if config else []), *options, "--", host]
        self.folder, self._python = folder, python
        self.python = shlex.quote(python) if python else "venv/bin/python"

    def run(self, text: str, stdin=subprocess.DEVNULL) -> bytes:
        """The output of a shell command in the device's folder. Raises BenchError."""
        return call([*self._command, in_folder(self.folder, text)], stdin=stdin)

    def push(self, tar: Path) -> None:
        with tar.open("rb") as file:
            self.run("tar -xf -", stdin=file)

    def pull(self, name: str, path: Path) -> None:
        path.write_bytes(self.run(f"cat {name}"))

    def code(self, work: Path) -> dict[str, Path]:
        """The sources, from which the device installs: {name there: path here}."""
        return {} if self._python else {f"source/{name}": ROOT / name for name in SOURCES}

    def install(self, extras: Sequence[str]) -> None:
        """logo-edge in an environment, with the runtimes that the device's Python has wheels for."""
        if self._python:
            return
        pip = "venv/bin/python -m pip install --quiet --disable-pip-version-check"
        self.run(f"python3 -m venv venv && {pip} './source[fast]' >&2")
        for extra in extras:
            try:
                self.run(f"{pip} './source[{extra}]' >&2")
            except BenchError as error:
                print(f"without {extra}: {error}", file=sys.stderr)


class Adb:
    """An Android phone that adb reaches. It gets Debian's Python and C library beside its own: no root, no app.

    They are the files that `tests/system/arm` runs in the emulator, with the same aarch64 wheels.
    """

    describe, python = PHONE, "./python"

    def __init__(self, serial: str | None, folder: str):
        self._command = ["adb", *(["-s", serial] if serial else [])]
        self.folder = folder

    def run(self, text: str) -> bytes:
        """As `Ssh.run`."""
        return call([*self._command, "shell", in_folder(self.folder, text)])

    def push(self, tar: Path) -> None:
        call([*self._command, "push", str(tar), f"{self.folder}/{PUSHED}"])
        self.run(f"tar -xf {PUSHED} && rm {PUSHED}")

    def pull(self, name: str, path: Path) -> None:
        call([*self._command, "pull", f"{self.folder}/{name}", str(path)])

    def code(self, work: Path) -> dict[str, Path]:
        """Python with its libraries, logo-edge with its preprocessing for ARM, and the script that starts them."""
        cache, preprocessing = map(Path, call([sys.executable, EMULATE, "--build"]).decode().splitlines())
        packages, script = work / "lib", work / "python"
        call([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages, ROOT])
        shutil.copyfile(preprocessing, packages / "logo_edge" / "_preprocess.so")
        interpreter = next((cache / "root" / "usr" / "bin").glob("python3.*"))
        script.write_text(start_script(self.folder, interpreter.name), encoding="utf-8")
        script.chmod(0o755)
        return {"root": cache / "root", "site": cache / "site", "lib": packages, "python": script}

    def install(self, extras: Sequence[str]) -> None:
        """Nothing: the wheels were pushed."""


def in_folder(folder: str, text: str) -> str:
    """The shell command, in this folder of the device."""
    there = shlex.quote(folder)
    return f"mkdir -p {there} && cd {there} && {text}"


def start_script(folder: str, interpreter: str) -> str:
    """A shell script that is the phone's Python, also for the processes that Python starts (`sys.executable`)."""
    folder = shlex.quote(folder)
    libraries = ":".join(f"{folder}/{name}" for name in LIBRARIES)
    return f"""#!{ADB_SHELL}
export PYTHONHOME={folder}/root/usr PYTHONPATH={folder}/lib:{folder}/site PYTHONDONTWRITEBYTECODE=1
export HOME={folder} TMPDIR={folder}/tmp LOGO_EDGE_CACHE={folder}/cache
mkdir -p {folder}/tmp
exec {folder}/{LOADER} --argv0 {folder}/python --library-path {libraries} {folder}/root/usr/bin/{interpreter} "$@"
"""


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    for name, about in (("ssh", "a Linux board"), ("adb", "an Android phone")):
        way = ways.add_parser(name, help=about)
        way.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="left out: the embedded default")
        way.add_argument("--exports", type=Path, help="folder of `logo-edge export`")
        way.add_argument("--manifest", type=Path, default=LABELS, help="CSV of labelled logos; left out: the project's")
        way.add_argument("--images", type=Path, help="folder of renders, where the manifest names icon sets")
        way.add_argument("--split", default="test")
        way.add_argument("--logos", type=int, default=200, help="how many to push for the accuracy (default: 200)")
        way.add_argument("--threads", default="1", metavar="N,...")
        way.add_argument("--preset", choices=list(PRESETS), default="quick")
        way.add_argument("--out", type=Path, required=True)
    ssh, adb = ways.choices["ssh"], ways.choices["adb"]
    ssh.add_argument("host", help="as for ssh, such as pi@raspberrypi.local or ssh://pi@HOST:PORT")
    ssh.add_argument("--folder", default="logo-edge-session", help="on the board (default: in the home folder)")
    ssh.add_argument("--python", help="a Python there that has logo-edge; left out: one is installed")
    ssh.add_argument("--config", type=Path, help="a configuration file of ssh")
    adb.add_argument("serial", nargs="?", help="of the phone, where several are connected")
    adb.add_argument("--folder", default=ADB_FOLDER)
    chosen = parser.parse_args(words)
    if chosen.way == "ssh":
        device: Ssh | Adb = Ssh(chosen.host, chosen.folder, chosen.python, chosen.config)
    else:
        device = Adb(chosen.serial, chosen.folder)
    try:
        result = measure(device, chosen)
        write_result(result, chosen.out)
        print(markdown_of(result))
        for sentence in result["doctor"]["advice"]:
            print(f"doctor: {sentence}", file=sys.stderr)
    except LogoEdgeError as error:
        sys.exit(f"session.py: {error}")


def measure(device: Ssh | Adb, chosen: argparse.Namespace) -> dict:
    """The result of `logo-edge bench` on the device, with its name and the report of `logo-edge doctor`."""
    device.run(f"rm -rf {' '.join(REPLACED)}")
    with tempfile.TemporaryDirectory() as temporary:
        work, tar = Path(temporary), Path(temporary) / PUSHED
        data, extras = collect_data(work, chosen)
        with tarfile.open(tar, "w") as file:
            for name, path in {**data, **device.code(work)}.items():
                real = path.resolve()  # the device would get a link to nothing
                file.add(real, name, filter=leave_out_compiled if name.startswith("source/") else None)
        print(f"pushing {tar.stat().st_size / 1e6:.0f} MB", file=sys.stderr)
        device.push(tar)
        device.install(extras)
        edge = f"{device.python} -m logo_edge"
        device.run(f"{edge} doctor --bundle bundle --json > {DOCTOR} || test -s {DOCTOR}")
        options = ["--artifact", "exports"] if chosen.exports else []
        options += ["--manifest", "logos/manifest.csv", "--split", chosen.split, "--threads", chosen.threads]
        bench = shlex.join(["bench", "bundle", *options, f"--{chosen.preset}", "--out", RESULT])
        device.run(f"rm -f {RESULT} && ({edge} {bench} > bench.txt || test -s {RESULT})")
        for name in (DOCTOR, RESULT):
            device.pull(name, work / name)
        result = read_result(work / RESULT)
        result["doctor"] = read_report(work / DOCTOR)
        result["device"] = device.run(device.describe).decode(errors="replace").splitlines()
        return result


def read_report(path: Path) -> dict:
    """The report of `logo-edge doctor`. Raises BenchError where the device has printed anything else."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise BenchError(
            f"the device's doctor printed no report: {text[-300:]!r}; run it there, see README.md"
        ) from error


def collect_data(work: Path, chosen: argparse.Namespace) -> tuple[dict[str, Path], list[str]]:
    """Bundle, exports and logos as {name on the device: path here}, and the extras that run the exports."""
    bundle, data, extras = read_bundle(chosen.bundle), {"bundle": chosen.bundle}, []
    if chosen.exports:
        artifacts, left_out = find_artifacts(chosen.exports, bundle)
        for name, reason in left_out.items():
            print(f"not measured: {name}: {reason}", file=sys.stderr)
        data["exports"] = chosen.exports
        extras = sorted({record["format"] for record in artifacts.values()} - {"onnx"})
    manifest, written = read_manifest(chosen.manifest, chosen.images), []
    rows = stratified_sample(labelled_rows(manifest, chosen.split, bundle.labels, "the bundle's"), chosen.logos)
    for index, (row, path) in enumerate(zip(rows, manifest.image_paths(rows), strict=True)):
        name = f"{index:04d}{path.suffix}"
        data[f"logos/{name}"] = path
        written.append(replace(row, package=FILES, version="", icon=name))
    write_manifest(work / "manifest.csv", written)
    return data | {"logos/manifest.csv": work / "manifest.csv"}, extras


def leave_out_compiled(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """None for what is compiled for this machine."""
    return None if member.name.endswith((".so", "/__pycache__")) else member


def call(command: Sequence[str | Path], stdin=subprocess.DEVNULL) -> bytes:
    """What the command prints; its messages are shown. Raises BenchError where it fails or is not here."""
    try:
        return subprocess.run(command, stdin=stdin, stdout=subprocess.PIPE, check=True).stdout
    except OSError as error:
        raise BenchError(f"{command[0]}: {error.strerror}; install it, and see README.md beside this file") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{shlex.join(map(str, command))} gave status {error.returncode}; see above") from error


if __name__ == "__main__":
    main()
