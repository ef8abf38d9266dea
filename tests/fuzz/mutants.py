"""Image files that are wrong in every way that we know, the same for the same seed; and what is made of them.

    python tests/fuzz/mutants.py --count 20000 [--server]    # prints JSON; exit status 1 where something broke

`logo-edge classify FOLDER --jsonl` runs over them in another process or, with --server, each is posted to `logo-edge
serve`. CPU time is counted, not the clock, since machines
are busy; only one that says nothing for a minute is called hung by the clock.
"""

from __future__ import annotations

import argparse
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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = {
    "png": {}, "jpg": {"quality": 80}, "webp": {}, "gif": {}, "bmp": {}, "tiff": {"compression": "tiff_lzw"}, "ico": {},
    "ppm": {}, "tga": {}, "jp2": {}, "avif": {},
}  # fmt: skip
WRONG_TYPES = {
    "text": b"hello, this is no image\n", "html": b"<!doctype html><img src=x>", "zip": b"PK\x03\x04" + bytes(60),
    "pdf": b"%PDF-1.7\n1 0 obj\n", "elf": b"\x7fELF" + bytes(60), "gzip": b"\x1f\x8b\x08" + bytes(40),
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp/eps) (w) file closefile showpage\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"',
}  # fmt: skip
MUST_FAIL = ("empty", "wrong_type", "bomb", "scans", "link_to_itself", "dangling_link", "pipe", "unreadable")
CONTROL_EVERY = 20
HUNG_S, SLOW_CPU_S = 60.0, 2.0
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
RUN = "import sys; from logo_edge.cli import main; sys.argv[0] = 'logo-edge'; main()"


@dataclass
class Findings:
    """What happened to the files of a folder; `broken` are sentences, and empty where all is well."""

    files: int = 0
    errors: Counter = field(default_factory=Counter)
    classified: Counter = field(default_factory=Counter)
    slowest_cpu_s: float = 0.0
    peak_memory_mb: float = 0.0
    broken: list[str] = field(default_factory=list)

    def add_cost(self, path: str, cpu_s: float, memory_bytes: int) -> None:
        """Counts what a file took; more than SLOW_CPU_S is broken."""
        self.slowest_cpu_s = max(self.slowest_cpu_s, cpu_s)
        self.peak_memory_mb = max(self.peak_memory_mb, memory_bytes / 1e6)
        if cpu_s > SLOW_CPU_S:
            self.broken.append(f"{cpu_s:.1f} s of CPU before {path} was answered")

    def add_answer(self, path: str, kind: str, error: str | None) -> None:
        """Counts what was said of a file, an error or none, and holds it against its kind."""
        (self.classified if error is None else self.errors)[kind] += 1
        if error is not None and len(error) < 20:
            self.broken.append(f"{path}: says only {error!r}")
        if kind == "control" and error is not None:
            self.broken.append(f"{path} is whole, and failed: {error}")
        if kind in MUST_FAIL and error is None:
            self.broken.append(f"{path}: was classified")


def drawing(choose: random.Random) -> Image.Image:
    """A little picture with flat areas, a gradient and, half the time, transparency."""
    side = choose.choice((8, 33, 64, 120))
    down, across = np.mgrid[0:side, 0 : side + choose.randrange(20)]
    pixels = np.stack([down * 3 % 256, across * 5 % 256, (down // 8 + across // 8) % 2 * 255, 255 * (down > 3)], 2)
    return Image.fromarray(pixels.astype(np.uint8)).convert(choose.choice(("RGB", "RGBA", "RGB", "L", "P")))


def encode(image: Image.Image, suffix: str, **options) -> bytes:
    if suffix in ("jpg", "ppm", "jp2") and image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    data = io.BytesIO()
    kind = {"jpg": "JPEG", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
    image.save(data, kind, **{**FORMATS[suffix], **options})
    return data.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *more, chunk(b"IDAT", data), chunk(b"IEND", b"")])


def truncated(data: bytes, choose: random.Random) -> bytes:
    return data[: choose.randrange(1, len(data))]


def flipped(data: bytes, choose: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(choose.choice((1, 2, 8, 64))):
        changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    return bytes(changed)


def spliced(data: bytes, choose: random.Random) -> bytes:
    """A stretch taken out, doubled, or made all zeros or ones."""
    start, length = choose.randrange(len(data)), choose.randrange(1, 200)
    middle = choose.choice((b"", 2 * data[start : start + length], bytes(length), b"\xff" * length))
    return data[:start] + middle + data[start + length :]


def lying_header(data: bytes, choose: random.Random) -> bytes:
    """Numbers of the first bytes replaced by large, small or negative ones; of a PNG, its checksum mended."""
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
    """A small file of more pixels, or a larger text or profile, than may be read."""
    kind = choose.randrange(4)
    side = choose.choice((6001, 20_000, 65_000, 2**31 - 1))
    if kind == 0:
        return png(side, side, 8, 6, zlib.compress(bytes(10_000_000), 9))
    if kind == 1:
        return png(side, side, 1, 0, b"")
    if kind == 2:
        return b"BM" + struct.pack(
            "<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, side, min(side, 2**31 - 1), 1, 24, 0, 0, 0, 0, 0, 0
        )
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000), 9))
    return png(8, 8, 8, 6, zlib.compress(bytes(8 * 33)), *[text] * 3)


def scans(data: bytes, choose: random.Random) -> bytes:
    """A progressive JPEG that goes over its pixels a thousand times."""
    image = Image.new("RGB", (1500, 1500), choose.choice(("red", "teal", "#123456")))
    data = encode(image, "jpg", progressive=True)
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[start:end] * 1000 + data[end:]


def large(data: bytes, choose: random.Random) -> bytes:
    """As many pixels as may be read, half the time all of them different."""
    if choose.random() < 0.5:
        return encode(Image.new(choose.choice(("RGB", "RGBA", "L")), (6000, 6000), "navy"), "png", compress_level=1)
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    return encode(Image.fromarray(np.tile(noise, (12, 12, 1))), "jpg", quality=50)


def many_frames(data: bytes, choose: random.Random) -> bytes:
    frames = [Image.new("P", (40, 40), index % 256) for index in range(choose.randrange(2, 60))]
    suffix, more = choose.choice((("gif", {}), ("tiff", {}), ("webp", {}), ("png", {})))
    return encode(frames[0].convert("RGB"), suffix, save_all=True, append_images=[frame.convert("RGB") for frame in frames[1:]], **more)  # fmt: skip


def looping_tiff(data: bytes, choose: random.Random) -> bytes:
    """Pages that follow one another in a circle."""
    data = bytearray(encode(drawing(choose).convert("RGB"), "tiff"))
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, first)
    struct.pack_into(f"{order}I", data, first + 2 + 12 * entries, first)
    return bytes(data)


CONTENT = {
    "truncated": truncated, "flipped": flipped, "spliced": spliced, "lying_header": lying_header, "bomb": bomb,
    "many_frames": many_frames, "looping_tiff": looping_tiff, "scans": scans, "large": large,
    "empty": lambda data, choose: b"",
    "wrong_type": lambda data, choose: choose.choice(list(WRONG_TYPES.values())),
    "noise": lambda data, choose: data[: choose.choice((0, 4, 16))] + choose.randbytes(choose.randrange(1, 3000)),
}  # fmt: skip
PLACES = ("link_to_itself", "dangling_link", "pipe", "folder", "unreadable", "link_to_folder")
WEIGHTS = {"truncated": 250, "flipped": 250, "spliced": 150, "lying_header": 200, "bomb": 15, "scans": 2, "large": 2,
           "many_frames": 10, "looping_tiff": 10, "empty": 10, "wrong_type": 30, "noise": 40,
           **dict.fromkeys(PLACES, 5)}  # fmt: skip


def write_mutants(folder: Path, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(name, kind) of the files written, of which some are whole (`control`). What is no file is none of them."""
    written = []
    encoded: list[tuple[str, bytes]] = []
    make = random.Random(seed)
    for suffix in FORMATS:
        try:
            encoded += [(suffix, encode(drawing(make), suffix)) for _ in range(4)]
        except (OSError, KeyError):  # this Pillow was built without that format
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
        place = folder / f"{index // 1000:03}"
        place.mkdir(exist_ok=True)
        path = place / f"{index:06}-{kind}.{suffix}"
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
        elif kind == "unreadable":  # root may read all but what fails
            path.unlink()
            path.symlink_to("/proc/self/mem")
        if kind not in ("folder", "link_to_folder"):  # neither holds an image
            written.append((str(path), kind))
    return sorted(written)


def classify_mutants(folder: Path, written: list[tuple[str, str]], bundle: Path | None) -> Findings:
    """Runs the command over the folder and holds what it says against what was written."""
    import psutil

    found, kinds = Findings(files=len(written)), dict(written)
    command = [
        sys.executable,
        "-c",
        RUN,
        "classify",
        str(folder),
        "--jsonl",
        *(["--bundle", str(bundle)] if bundle else []),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said: queue.Queue = queue.Queue()
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment)
        threading.Thread(target=_pass_on, args=(process.stdout, said), daemon=True).start()
        watched, before, started = psutil.Process(process.pid), None, time.monotonic()
        seen: list[str] = []
        for line, cpu_s, memory in _watch(said, watched, process, found):
            record = json.loads(line)
            found.add_cost(record["path"], 0.0 if before is None else cpu_s - before, memory)
            before = cpu_s
            seen.append(record["path"])
            found.add_answer(record["path"], kinds.get(record["path"], "?"), record.get("error"))
        status = process.wait(timeout=HUNG_S)
        stderr.seek(0)
        complaints = stderr.read().decode(errors="replace")
    if status not in (0, 1):
        found.broken.append(f"ended with {status} after {time.monotonic() - started:.0f} s: {complaints[-2000:]}")
    if "Traceback" in complaints:
        found.broken.append(complaints[-2000:])
    if missing := sorted(set(kinds) - set(seen)):
        found.broken.append(f"{len(missing)} files without a result, {missing[:3]} among them")
    if len(seen) != len(set(seen)):
        found.broken.append("a file has two results")
    return found


def post_mutants(written: list[tuple[str, str]], bundle: Path | None) -> Findings:
    """Posts every file that can be read to `logo-edge serve` on this machine and holds the answers against what was written."""
    import httpx
    import psutil

    posted = [(path, kind) for path, kind in written if kind != "unreadable" and Path(path).is_file()]
    found = Findings(files=len(posted))
    options = ["--port", "0", *(["--bundle", str(bundle)] if bundle else [])]
    command = [sys.executable, "-c", RUN, "serve", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    said: list[str] = []
    try:
        address = next(match[0] for line in _kept(process.stderr, said) if (match := ADDRESS.search(line)))
        threading.Thread(target=lambda: list(_kept(process.stderr, said)), daemon=True).start()
        watched = psutil.Process(process.pid)
        with httpx.Client(base_url=address, timeout=HUNG_S) as client:
            for path, kind in posted:
                before = sum(watched.cpu_times()[:2])
                answer = client.post(
                    "/v1/classify",
                    content=Path(path).read_bytes(),
                    headers={"content-type": "application/octet-stream"},
                )
                found.add_cost(path, sum(watched.cpu_times()[:2]) - before, watched.memory_info().rss)
                if answer.status_code not in (200, 400, 413, 422):
                    found.broken.append(f"{path}: {answer.status_code} {answer.text[:200]}")
                found.add_answer(path, kind, None if answer.status_code == 200 else answer.json()["detail"])
    finally:
        process.terminate()
        process.wait(timeout=HUNG_S)
    if complaints := "".join(line for line in said if "Traceback" in line or "ERROR" in line):
        found.broken.append(complaints[-2000:])
    return found


def _kept(stream, said: list[str]) -> Iterator[str]:
    """The lines, each of which `said` gets too."""
    for line in stream:
        said.append(line)
        yield line


def _pass_on(stream, said: queue.Queue) -> None:
    for line in stream:
        said.put(line)
    said.put(None)


def _watch(said: queue.Queue, watched, process, found: Findings) -> Iterator[tuple[bytes, float, int]]:
    """Each line with the CPU seconds and bytes of memory of the process by then; one that hangs is killed."""
    import psutil

    cpu_s, memory, silent_since = 0.0, 0, time.monotonic()
    while True:
        try:
            line = said.get(timeout=0.05)
        except queue.Empty:
            line = b""
        try:
            times = watched.cpu_times()
            cpu_s, memory = times.user + times.system, max(memory, watched.memory_info().rss)
        except psutil.Error:  # it has ended
            pass
        if line is None:
            return
        if line:
            silent_since = time.monotonic()
            yield line, cpu_s, memory
        elif time.monotonic() - silent_since > HUNG_S:
            process.kill()
            found.broken.append(f"said nothing for {HUNG_S:g} s")
            silent_since = float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--server", action="store_true", help="post them to `logo-edge serve` (extra serve, and httpx)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        written = write_mutants(Path(folder), arguments.count, arguments.seed)
        if arguments.server:
            found = post_mutants(written, arguments.bundle)
        else:
            found = classify_mutants(Path(folder), written, arguments.bundle)
    print(json.dumps(vars(found), indent=1))
    sys.exit(bool(found.broken))


if __name__ == "__main__":
    main()
