"""Damaged and hostile image files of every kind, the same for the same seed, and how the runtimes answer them.

    python tests/fuzz/mutants.py --count 25000 --languages python,server --out benchmarks/results/mutants.json

Exit status 1 if something broke. `python`: another process runs `logo-edge classify FOLDER --jsonl`. `server`: each
file is posted to `logo-edge serve`, while healthy requests are posted at the same time. `native`: the C++ example of
--native classifies them. The JavaScript package is tested in Chromium: `LOGO_EDGE_MUTANTS=25000
LOGO_EDGE_MUTANTS_OUT=FILE pytest tests/system/web/test_package.py -k mutant`. CPU time is measured, not wall-clock
time, since machines are busy; but a process without output for a minute counts as hung.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import io
import json
import os
import queue
import random
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # as tests have it
from command_line import SHELL
from fuzz.bombs import animation, bombs, noisy_progressive, png, progressive

from logo_edge.bundle.record import DEFAULT_BUNDLE, read_bundle
from logo_edge_train.provenance import provenance

FORMATS = {
    "png": {},
    "jpg": {"quality": 80},
    "webp": {},
    "gif": {},
    "bmp": {},
    "tiff": {"compression": "tiff_lzw"},
    "ico": {},
    "ppm": {},
    "tga": {},
    "jp2": {},
    "avif": {},
    "icns": {},
    "mpo": {},
    "qoi": {},
}
WRONG_TYPES = {
    "text": b"hello, this is no image\n",
    "html": b"<!doctype html><img src=x>",
    "zip": b"PK\x03\x04" + bytes(60),
    "pdf": b"%PDF-1.7\n1 0 obj\n",
    "elf": b"\x7fELF" + bytes(60),
    "gzip": b"\x1f\x8b\x08" + bytes(40),
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp/eps) (w) file closefile showpage\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"',
}
SHAPES = (
    "<rect width='90' height='50' fill='teal'/>",
    "<circle cx='50' cy='50' r='{0}'/>",
    "<text y='20'>logo {0}</text>",
    "<path d='M0 0C{0} 9 9 {0} 90 90Z'/>",
    "<g transform='scale({0})'><use href='#a'/></g>",
)
FILTERED = "<rect width='99' height='99' filter='url(#f)'/>"
HOSTILE = (
    "<filter id='f'><feTurbulence baseFrequency='.{0}' numOctaves='9999'/></filter>" + FILTERED,
    "<filter id='f'><feGaussianBlur stdDeviation='{0}e3'/></filter>" + FILTERED,
    "<pattern id='p' width='.0{0}' height='.01' patternUnits='userSpaceOnUse'><rect width='1' height='1'/></pattern>"
    "<rect width='9999' height='9999' fill='url(#p)'/>",
    "<image href='file:///etc/passwd' width='{0}' height='9'/>",
    "<image href='data:image/png;base64,AAAA' width='9' height='{0}'/>",
)
MUST_FAIL = ("empty", "wrong_type", "bomb", "link_to_itself", "dangling_link", "pipe", "unreadable")
CONTROL_EVERY = 20
HUNG_S, SLOW_CPU_S, HEALTHY_S, SERVER_MB = 60.0, 2.0, 1.0, 400.0
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
BINARY = {"content-type": "application/octet-stream"}
LOAD = """async () => { window.classifier ??= await logo.Classifier.load("demo/bundle"); }"""
HAND_OVER = "(text) => { window.file = new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]); }"
CLASSIFY = """async () => {
  try { await window.classifier.classify(window.file); return null; } catch (error) {
    if (!(error instanceof logo.ImageError)) throw error;
    return error.message;
  }
}"""


@dataclass
class Findings:
    """Answers by kind of file, and their cost; `broken` holds a sentence for each failure."""

    files: int = 0
    errors: Counter = field(default_factory=Counter)
    classified: Counter = field(default_factory=Counter)
    slowest_cpu_s: float = 0.0
    peak_memory_mb: float = 0.0
    slowest_healthy_s: float = 0.0
    broken: list[str] = field(default_factory=list)

    def add_cost(self, path: str, cpu_s: float, memory_bytes: int) -> None:
        """Records the cost of a file; more than SLOW_CPU_S is broken."""
        self.slowest_cpu_s = max(self.slowest_cpu_s, cpu_s)
        self.peak_memory_mb = max(self.peak_memory_mb, memory_bytes / 1e6)
        if cpu_s > SLOW_CPU_S:
            self.broken.append(f"{cpu_s:.1f} s of CPU before {path} was answered")

    def check_service(self) -> None:
        """Checks the time of healthy requests and the memory, which is fair only on an idle machine."""
        if self.slowest_healthy_s > HEALTHY_S:
            self.broken.append(f"a healthy request was answered after {self.slowest_healthy_s:.2f} s")
        if self.peak_memory_mb > SERVER_MB:
            self.broken.append(f"{self.peak_memory_mb:.0f} MB of memory")

    def add_answer(self, path: str, kind: str, error: str | None) -> None:
        """Counts the answer to a file, an error or none, and compares it with its kind."""
        (self.classified if error is None else self.errors)[kind] += 1
        if error is not None and len(error) < 20:
            self.broken.append(f"{path}: says only {error!r}")
        if kind == "control" and error is not None:
            self.broken.append(f"{path} is undamaged, and failed: {error}")
        if kind in MUST_FAIL and error is None:
            self.broken.append(f"{path}: was classified")


def drawing(choose: random.Random) -> Image.Image:
    """A small picture with flat areas, a gradient and, half the time, transparency."""
    side = choose.choice((8, 33, 64, 120))
    down, across = np.mgrid[0:side, 0 : side + choose.randrange(20)]
    pixels = np.stack([down * 3 % 256, across * 5 % 256, (down // 8 + across // 8) % 2 * 255, 255 * (down > 3)], 2)
    return Image.fromarray(pixels.astype(np.uint8)).convert(choose.choice(("RGB", "RGBA", "RGB", "L", "P")))


def encode(image: Image.Image, suffix: str, **options) -> bytes:
    if (suffix in ("jpg", "ppm", "jp2", "mpo") and image.mode not in ("RGB", "L")) or suffix == "qoi":
        image = image.convert("RGB")
    data = io.BytesIO()
    kind = {"jpg": "JPEG", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
    image.save(data, kind, **{**FORMATS[suffix], **options})
    return data.getvalue()


def truncated(data: bytes, choose: random.Random) -> bytes:
    return data[: choose.randrange(1, len(data))]


def flipped(data: bytes, choose: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(choose.choice((1, 2, 8, 64))):
        changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    return bytes(changed)


def spliced(data: bytes, choose: random.Random) -> bytes:
    """A range of bytes removed, doubled, or set to zeros or ones."""
    start, length = choose.randrange(len(data)), choose.randrange(1, 200)
    middle = choose.choice((b"", 2 * data[start : start + length], bytes(length), b"\xff" * length))
    return data[:start] + middle + data[start + length :]


def lying_header(data: bytes, choose: random.Random) -> bytes:
    """Numbers in the first bytes replaced by large, small or negative ones; a PNG gets a valid checksum."""
    changed = bytearray(data)
    wild = choose.choice((0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, choose.randrange(2**32)))
    if data.startswith(b"\x89PNG"):
        struct.pack_into(">I", changed, choose.choice((16, 20)), wild)
        if choose.random() < 0.5:
            changed[24 + choose.randrange(5)] = choose.randrange(256)
        struct.pack_into(">I", changed, 29, zlib.crc32(bytes(changed[12:29])))
    else:
        at = choose.randrange(2, min(200, len(changed) - 4))
        struct.pack_into(choose.choice(("<I", ">I")), changed, at, wild)
    return bytes(changed)


def bomb(data: bytes, choose: random.Random) -> bytes:
    """A small file with more pixels than the limit."""
    side = choose.choice((6001, 20_000, 65_000, 2**31 - 1))
    if choose.random() < 0.4:
        return png(side, side, 8, 6, zlib.compress(bytes(10_000_000), 9))
    if choose.random() < 0.5:
        return png(side, side, 1, 0, b"")
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)


def scans(data: bytes, choose: random.Random) -> bytes:
    """A progressive JPEG with the most scans allowed, with more, or with its last scan a thousand times."""
    kind = choose.randrange(5)
    if kind < 2:
        return progressive(
            *choose.choice(((1500, 1500, 320), (1500, 1500, 1000), (100, 100, 14_400), (3000, 3000, 80)))
        )
    if kind < 4:
        return noisy_progressive(*choose.choice(((2000, 1500, 60), (500, 400, 300), (100, 100, 2000))))
    data = encode(Image.new("RGB", (1500, 1500), choose.choice(("red", "teal", "#123456"))), "jpg", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[start:end] * 1000 + data[end:]


def container(data: bytes, choose: random.Random) -> bytes:
    """A small file whose container promises much, half the time damaged."""
    file = choose.choice(list(bombs().values()))
    return choose.choice((truncated, flipped))(file, choose) if choose.random() < 0.5 else file


def vector(data: bytes, choose: random.Random) -> bytes:
    """An SVG drawing: valid, hostile or damaged; at times compressed or in UTF-16."""
    body = "".join(choose.choice(SHAPES).format(choose.randrange(1, 99)) for _ in range(choose.randrange(1, 30)))
    if choose.random() < 0.2:
        body += choose.choice(HOSTILE).format(choose.randrange(1, 9))
    size = choose.choice(
        ("viewBox='0 0 99 99'", "width='9e9' height='1'", "width='0' height='0'", "viewBox='0 0 1e-9 1e9'")
    )
    file = f"<svg xmlns='http://www.w3.org/2000/svg' {size}>{body}</svg>".encode(
        choose.choice(("utf-8", "utf-8", "utf-16"))
    )
    if choose.random() < 0.4:
        file = choose.choice((truncated, flipped, spliced))(file, choose)
    return gzip.compress(file, mtime=0) if choose.random() < 0.2 else file


def gradual(data: bytes, choose: random.Random) -> bytes:
    """A damaged progressive JPEG."""
    file = encode(drawing(choose), "jpg", progressive=True)
    return choose.choice((truncated, flipped, spliced))(file, choose)


def moving(data: bytes, choose: random.Random) -> bytes:
    """A damaged animation."""
    file = animation(choose.choice(("GIF", "PNG", "WEBP", "TIFF")), choose.randrange(8, 60))
    return choose.choice((truncated, flipped, spliced))(file, choose)


def large(data: bytes, choose: random.Random) -> bytes:
    """The most pixels allowed, here or in the service: of one colour, or noise; or a JPEG as large as a phone's."""
    side = choose.choice((6000, 5000))
    if choose.random() < 0.5:
        return encode(Image.new(choose.choice(("RGB", "RGBA", "L")), (side, side), "navy"), "png", compress_level=1)
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    across, down = choose.choice(((side // 500, side // 500), (16, 12)))
    return encode(Image.fromarray(np.tile(noise, (down, across, 1))), "jpg", quality=50)


def many_frames(data: bytes, choose: random.Random) -> bytes:
    frames = [Image.new("P", (40, 40), index % 256) for index in range(choose.randrange(2, 60))]
    suffix, more = choose.choice((("gif", {}), ("tiff", {}), ("webp", {}), ("png", {})))
    return encode(
        frames[0].convert("RGB"),
        suffix,
        save_all=True,
        append_images=[frame.convert("RGB") for frame in frames[1:]],
        **more,
    )


def looping_tiff(data: bytes, choose: random.Random) -> bytes:
    """Pages that link to each other in a circle."""
    data = bytearray(encode(drawing(choose).convert("RGB"), "tiff"))
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, first)
    struct.pack_into(f"{order}I", data, first + 2 + 12 * entries, first)
    return bytes(data)


CONTENT = {
    "truncated": truncated,
    "flipped": flipped,
    "spliced": spliced,
    "lying_header": lying_header,
    "bomb": bomb,
    "many_frames": many_frames,
    "looping_tiff": looping_tiff,
    "scans": scans,
    "large": large,
    "container": container,
    "vector": vector,
    "gradual": gradual,
    "moving": moving,
    "empty": lambda data, choose: b"",
    "wrong_type": lambda data, choose: choose.choice(list(WRONG_TYPES.values())),
    "noise": lambda data, choose: data[: choose.choice((0, 4, 16))] + choose.randbytes(choose.randrange(1, 3000)),
}
SPECIAL_FILES = ("link_to_itself", "dangling_link", "pipe", "folder", "unreadable", "link_to_folder")
WEIGHTS = {
    "truncated": 250,
    "flipped": 250,
    "spliced": 150,
    "lying_header": 200,
    "bomb": 15,
    "scans": 4,
    "large": 2,
    "container": 10,
    "vector": 80,
    "gradual": 60,
    "moving": 40,
    "many_frames": 10,
    "looping_tiff": 10,
    "empty": 10,
    "wrong_type": 30,
    "noise": 40,
    **dict.fromkeys(SPECIAL_FILES, 5),
}


def write_mutants(folder: Path, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Writes the files and returns their (name, kind); `control` files are undamaged. Folders are not returned."""
    written = []
    encoded: list[tuple[str, bytes]] = []
    make = random.Random(seed)
    for suffix in FORMATS:
        try:
            encoded += [(suffix, encode(drawing(make), suffix)) for _ in range(4)]
        except (OSError, KeyError):  # this Pillow lacks the format
            continue
    rare = [kind for kind in WEIGHTS if WEIGHTS[kind] < 20]  # each of these at least once
    for index in range(count):
        choose = random.Random(f"{seed}-{index}")
        suffix, data = choose.choice(encoded)
        kind = (
            rare[index // 2]
            if index % 2 and index // 2 < len(rare)
            else choose.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        )
        if index % CONTROL_EVERY == 0:
            kind, suffix = "control", "png"
            data = encode(Image.new("RGB", (30, 20), (255, 0, 0)), "png")
        subfolder = folder / f"{index // 1000:03}"
        subfolder.mkdir(exist_ok=True)
        path = subfolder / f"{index:06}-{kind}.{ {'icns': 'ico', 'mpo': 'jpg'}.get(suffix, suffix) }"
        if kind == "link_to_itself":
            path.symlink_to(path.name)
        elif kind == "dangling_link":
            path.symlink_to("nowhere.png")
        elif kind == "link_to_folder":
            path.symlink_to("..", target_is_directory=True)
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(data if kind in ("control", "unreadable") else CONTENT[kind](data, choose))
        if kind == "unreadable" and os.geteuid():
            path.chmod(0)
        elif kind == "unreadable":  # root can read any file; this one fails for root too
            path.unlink()
            path.symlink_to("/proc/self/mem")
        if kind not in ("folder", "link_to_folder"):  # neither holds an image
            written.append((str(path), kind))
    return sorted(written)


def classify_mutants(folder: Path, written: list[tuple[str, str]], bundle: Path | None) -> Findings:
    """Runs `logo-edge classify` over the folder and compares its rows with the files."""
    options = ["--bundle", str(bundle)] if bundle else []
    return _run([[sys.executable, "-c", SHELL, "classify", str(folder), "--jsonl", *options]], written)


def run_native(program: Path, written: list[tuple[str, str]], bundle: Path) -> Findings:
    """Runs the C++ example over the files and compares its rows with them."""
    paths = [path for path, _ in written]
    return _run(
        [[str(program), str(bundle), *paths[start : start + 500]] for start in range(0, len(paths), 500)], written
    )


def run_web(page, written: list[tuple[str, str]]) -> Findings:
    """Gives each readable file to the JavaScript package in a page of Chromium, a child of this process."""
    import psutil

    posted = [(path, kind) for path, kind in written if kind != "unreadable" and Path(path).is_file()]
    findings, me, seen = Findings(files=len(posted)), psutil.Process(), {}
    page.set_default_timeout(1000 * HUNG_S)
    page.evaluate(LOAD)
    for path, kind in posted:
        try:
            page.evaluate(HAND_OVER, base64.b64encode(Path(path).read_bytes()).decode())
            before = _cost(me, seen)[0]  # after the file was sent to the page
            error = page.evaluate(CLASSIFY)
        except Exception as crash:  # Playwright's, for a page that ended, or an error of another class
            findings.broken.append(f"{path}: {crash}")
            break
        cpu_s, memory = _cost(me, seen)
        findings.add_cost(path, cpu_s - before, memory)
        findings.add_answer(path, kind, error)
    return findings


def _run(commands: list[list[str]], written: list[tuple[str, str]]) -> Findings:
    """Runs the commands one after the other and reads their JSON lines about the files."""
    import psutil

    findings, kinds, seen = Findings(files=len(written)), dict(written), []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in commands:
        said: queue.Queue = queue.Queue()
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment)
            threading.Thread(target=_pass_on, args=(process.stdout, said), daemon=True).start()
            before, started = None, time.monotonic()
            for line, cpu_s, memory in _watch(said, psutil.Process(process.pid), process, findings):
                record = json.loads(line)
                findings.add_cost(record["path"], 0.0 if before is None else cpu_s - before, memory)
                before = cpu_s
                seen.append(record["path"])
                findings.add_answer(record["path"], kinds.get(record["path"], "?"), record.get("error"))
            status = process.wait(timeout=HUNG_S)
            stderr.seek(0)
            complaints = stderr.read().decode(errors="replace")
        if status not in (0, 1):
            findings.broken.append(
                f"ended with {status} after {time.monotonic() - started:.0f} s: {complaints[-2000:]}"
            )
        if "Traceback" in complaints:
            findings.broken.append(complaints[-2000:])
    if missing := sorted(set(kinds) - set(seen)):
        findings.broken.append(f"{len(missing)} files without a result, {missing[:3]} among them")
    if len(seen) != len(set(seen)):
        findings.broken.append("a file has two results")
    return findings


def post_mutants(written: list[tuple[str, str]], bundle: Path | None) -> Findings:
    """Posts every readable file to `logo-edge serve` on this machine and checks the answers."""
    import httpx
    import psutil

    posted = [(path, kind) for path, kind in written if kind != "unreadable" and Path(path).is_file()]
    findings = Findings(files=len(posted))
    options = ["--port", "0", *(["--bundle", str(bundle)] if bundle else [])]
    command = [sys.executable, "-c", SHELL, "serve", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said: list[str] = []
    at_end = threading.Event()
    try:
        address = next(match[0] for line in _kept(process.stderr, said) if (match := ADDRESS.search(line)))
        threading.Thread(target=lambda: list(_kept(process.stderr, said)), daemon=True).start()
        watched, seen = psutil.Process(process.pid), {}
        threading.Thread(target=_stay_healthy, args=(address, findings, at_end), daemon=True).start()
        with httpx.Client(base_url=address, timeout=HUNG_S) as client:
            for path, kind in posted:
                before = _cost(watched, seen)[0]
                answer = client.post("/v1/classify", content=Path(path).read_bytes(), headers=BINARY)
                cpu_s, memory = _cost(watched, seen)
                findings.add_cost(path, cpu_s - before, memory)
                if answer.status_code not in (200, 400, 413, 422):
                    findings.broken.append(f"{path}: {answer.status_code} {answer.text[:200]}")
                findings.add_answer(path, kind, None if answer.status_code == 200 else answer.json()["detail"])
    finally:
        at_end.set()
        process.terminate()
        process.wait(timeout=HUNG_S)
    if complaints := "".join(line for line in said if "Traceback" in line or "ERROR" in line):
        findings.broken.append(complaints[-2000:])
    return findings


def _stay_healthy(address: str, findings: Findings, at_end: threading.Event) -> None:
    """Posts an undamaged picture again and again, and records the slowest answer."""
    import httpx

    data = encode(Image.new("RGB", (30, 20), (255, 0, 0)), "png")
    with httpx.Client(base_url=address, timeout=HUNG_S) as client:
        while not at_end.wait(0.05):
            start = time.monotonic()
            answer = client.post("/v1/classify", content=data, headers=BINARY)
            findings.slowest_healthy_s = max(findings.slowest_healthy_s, time.monotonic() - start)
            if answer.status_code != 200:
                findings.broken.append(f"a healthy request: {answer.status_code} {answer.text[:200]}")


def _cost(process, seen: dict[int, float]) -> tuple[float, int]:
    """CPU seconds of the process and its descendants, also of those that ended, and their current bytes of memory."""
    import psutil

    memory, pids = 0, [process.pid]
    for pid in pids:  # grows in the loop
        with suppress(psutil.Error, OSError):  # it has ended
            each = psutil.Process(pid)
            times = each.cpu_times()
            seen[pid] = max(seen.get(pid, 0.0), times.user + times.system)
            memory += each.memory_info().rss
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return sum(seen.values()), memory


def _kept(stream, said: list[str]) -> Iterator[str]:
    """The lines; each is also appended to `said`."""
    for line in stream:
        said.append(line)
        yield line


def _pass_on(stream, said: queue.Queue) -> None:
    for line in stream:
        said.put(line)
    said.put(None)


def _watch(said: queue.Queue, watched, process, findings: Findings) -> Iterator[tuple[bytes, float, int]]:
    """Each line, with the CPU seconds and bytes of memory of the process so far; a hung process is killed."""
    import psutil

    cpu_s, memory, silent_since, seen = 0.0, 0, time.monotonic(), {}
    while True:
        try:
            line = said.get(timeout=0.05)
        except queue.Empty:
            line = b""
        with suppress(psutil.Error):  # it has ended
            cpu_s, now = _cost(watched, seen)
            memory = max(memory, now)
        if line is None:
            return
        if line:
            silent_since = time.monotonic()
            yield line, cpu_s, memory
        elif time.monotonic() - silent_since > HUNG_S:
            process.kill()
            findings.broken.append(f"said nothing for {HUNG_S:g} s")
            silent_since = float("inf")


def keep_findings(path: Path, language: str, findings: Findings) -> None:
    """Adds the findings to those of the other languages in a JSON file."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    part = {"provenance": provenance([read_bundle(DEFAULT_BUNDLE)]), **vars(findings)}
    path.write_text(json.dumps({**stored, language: part}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=25_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument(
        "--languages", default="python,server", help="of python, server (extra serve, and httpx) and native"
    )
    parser.add_argument("--native", type=Path, help="the built example of runtime/native")
    parser.add_argument("--out", type=Path, help="a JSON file that keeps the findings by language")
    arguments = parser.parse_args()
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        written = write_mutants(Path(folder), arguments.count, arguments.seed)
        runs = {
            "python": lambda: classify_mutants(Path(folder), written, arguments.bundle),
            "server": lambda: post_mutants(written, arguments.bundle),
            "native": lambda: run_native(arguments.native, written, arguments.bundle or DEFAULT_BUNDLE),
        }
        for language in arguments.languages.split(","):
            findings = runs[language]()
            if language == "server":
                findings.check_service()
            broken += findings.broken
            print(language, json.dumps(vars(findings), indent=1), flush=True)
            if arguments.out:
                keep_findings(arguments.out, language, findings)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
