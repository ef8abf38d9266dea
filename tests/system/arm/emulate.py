"""The runtime and its contract vectors on an emulated aarch64, which tests ARM's arithmetic.

    python tests/system/arm/emulate.py                  # builds the root once; runs tests/contract and a classification
    python tests/system/arm/emulate.py -- -c "import platform; print(platform.machine())"
    python tests/system/arm/emulate.py --build          # prints the root's folder and the compiled preprocessing

Debian's arm64 Python and qemu-user-static are downloaded with apt and unpacked, not installed: no root, no chroot and
nothing changed on the system. The aarch64 wheels of the versions in constraints.txt come from the Python registry by
platform tag, and so does Zig's C compiler, which compiles the preprocessing for ARM. Needs Linux on x86-64 with apt-get
and dpkg-deb. No latency is quoted from emulation.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from logo_edge.cache import cache_folder

HERE = Path(__file__).resolve().parents[3]
CACHE = cache_folder() / "aarch64"
GUEST_PACKAGES = ["python3", "libstdc++6", "libgomp1"]
WHEELS = ["numpy", "onnxruntime", "pillow", "typer", "opencv-python-headless", "onnx", "pytest", "pytest-timeout"]
WHEELS += ["ai-edge-litert", "ncnn", "MNN", "openvino"]
PLATFORMS = [
    "manylinux_2_35_aarch64",
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux2014_aarch64",
]
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
CPUS = {
    "cortex-a76": FEATURES,  # of a Raspberry Pi 5; with dot products, without SVE
    "max": f"{FEATURES} sve sve2 i8mm bf16 sme",  # all that QEMU knows: ONNX Runtime takes KleidiAI's kernels for SME
}
FIRST = "cortex-a76"  # the preprocessing is compiled for it, and runs on later ones
COMPILER = "ziglang"
SOURCE = HERE / "runtime" / "c" / "preprocess.c"
VECTORS = "tests/contract/test_vectors.py"
TESTS = {  # pytest's arguments; the guest starts no process of its own
    FIRST: [VECTORS, "tests/runtime/test_preprocess.py", "-k", "not without_the_library and not asks_the_system"],
    # of the pixels and decisions a part: their code is the same on both, unlike the kernels of networks
    "max": [VECTORS, "-k", "end_to_end or members or [at- or (to_the_byte and fast and 96 and not details)"],
}
# QEMU 7 shows the guest the host's /proc/cpuinfo, in which ONNX Runtime finds no ARM core and crashes.
CORE = """processor\t: {index}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1
"""


def main() -> None:
    if reason := why_not():
        sys.exit(f"not run: {reason}")
    build()
    if sys.argv[1:] == ["--build"]:
        print(CACHE, compile_preprocessing(), sep="\n")
        return
    if "--" in sys.argv:
        sys.exit(run(*sys.argv[sys.argv.index("--") + 1 :]).returncode)
    sys.exit(max(run("-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS[cpu], cpu=cpu).returncode for cpu in CPUS))


def why_not() -> str:
    """Why this machine cannot emulate; empty where it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"the emulation is of aarch64 on Linux on x86-64; this is {platform.system()} on {platform.machine()}"
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    return f"Debian's {' and '.join(missing)} are not here to fetch the emulator" if missing else ""


def build(cache: Path = CACHE) -> None:
    """Downloads and unpacks missing parts; about 600 MB on disk in total."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:  # two may start at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        _build(cache)


def _build(cache: Path) -> None:
    if not (cache / "done").exists():
        _unpack_root(cache)
    installed = cache / f"wheels-{hashlib.sha256(' '.join(WHEELS).encode()).hexdigest()[:12]}"
    if not installed.exists():
        _install_wheels(cache)
        installed.touch()
    for cpu in CPUS:
        if not (cache / f"root-{cpu}").exists():
            _link_root(cpu, cache)


def _unpack_root(cache: Path) -> None:
    root, debs = cache / "root", cache / "apt"
    for folder in (root / "proc", debs / "lists" / "partial", debs / "archives" / "partial"):
        folder.mkdir(parents=True, exist_ok=True)
    (debs / "status").touch()
    options = {
        "Dir::State": debs,
        "Dir::State::lists": debs / "lists",
        "Dir::State::status": debs / "status",
        "Dir::Cache": debs,
        "Dir::Cache::archives": debs / "archives",
        "Debug::NoLocking": 1,
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
    }
    apt = ["apt-get", "-q", "-y", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    for architecture, packages, target in (
        ("arm64", GUEST_PACKAGES, root),
        ("amd64", ["qemu-user-static"], cache / "host"),
    ):
        chosen = [*apt, "-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}"]
        _quietly(*chosen, "update")
        _quietly(*chosen, "--download-only", "install", *packages)
        for package in sorted((debs / "archives").glob(f"*_{architecture}.deb")) + sorted(
            (debs / "archives").glob("*_all.deb")
        ):
            _quietly("dpkg-deb", "-x", str(package), str(target))
    for other in set((cache / "host/usr/bin").iterdir()) - {cache / "host/usr/bin/qemu-aarch64-static"}:
        other.unlink()  # the emulators of thirty other processors
    shutil.rmtree(debs)
    (cache / "done").touch()


def _link_root(cpu: str, cache: Path) -> None:
    """The guest's root for this CPU: hard links to the unpacked one, and a /proc/cpuinfo of its own."""
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        root = Path(folder) / "root"
        shutil.copytree(cache / "root", root, symlinks=True, copy_function=os.link)
        (root / "proc" / "cpuinfo").unlink(missing_ok=True)
        cores = (CORE.format(index=index, features=CPUS[cpu]) for index in range(os.cpu_count() or 1))
        (root / "proc" / "cpuinfo").write_text("\n".join(cores) + "\n")
        root.rename(cache / f"root-{cpu}")


def _install_wheels(cache: Path) -> None:
    python, site = next((cache / "root/usr/bin").glob("python3.*")), cache / "site"
    tags = [word for tag in PLATFORMS for word in ("--platform", tag)]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    wheels = ["--implementation", "cp", "--only-binary=:all:", "-c", str(HERE / "constraints.txt"), *WHEELS]
    version = ["--python-version", python.name.removeprefix("python")]
    _quietly(*install, "--target", str(site), *tags, *version, *wheels)


def compile_preprocessing(cache: Path = CACHE) -> Path:
    """The library for ARM, compiled once for each state of its source."""
    content = b"".join(path.read_bytes() for path in sorted(SOURCE.parent.iterdir()))
    library = cache / f"preprocess-{hashlib.sha256(content).hexdigest()[:12]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as folder:
            install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", folder]
            _quietly(sys.executable, "-m", "pip", *install, "-c", str(HERE / "constraints.txt"), COMPILER)
            zig = str(Path(folder) / COMPILER / "zig")
            flags = runpy.run_path(str(HERE / "runtime/build_c.py"))["FLAGS"]
            target = ["-target", "aarch64-linux-gnu.2.31", f"-mcpu={FIRST.replace('-', '_')}"]
            _quietly(
                zig, "cc", *target, *flags, "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", f"{folder}/made.so", "-lm"
            )
            shutil.copyfile(f"{folder}/made.so", library)
    return library


def run(*arguments: str, cpu: str = FIRST, cache: Path = CACHE, **options) -> subprocess.CompletedProcess:
    """Runs the guest's Python with these arguments on one of CPUS, from the repository's root, with its runtime."""
    root = cache / f"root-{cpu}"
    python = next((root / "usr/bin").glob("python3.*"))
    qemu = [str(cache / "host/usr/bin/qemu-aarch64-static"), "-cpu", cpu, "-L", str(root)]
    with tempfile.TemporaryDirectory() as folder:  # one for each call: two may run at once
        runtime = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__", "_preprocess.so")
        shutil.copytree(HERE / "runtime" / "logo_edge", runtime / "logo_edge", ignore=ignored)
        shutil.copyfile(compile_preprocessing(cache), runtime / "logo_edge" / "_preprocess.so")
        settings = {
            "PYTHONPATH": f"{cache / 'site'}:{runtime}:{HERE / 'tests'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [*qemu, str(python), *arguments]
        return subprocess.run(command, env=os.environ | settings, cwd=HERE, check=False, **options)


def _quietly(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr)[-2000:]
        sys.exit(f"{' '.join(command[:1] + command[-3:])} gave status {done.returncode}:\n{output}")


if __name__ == "__main__":
    main()
