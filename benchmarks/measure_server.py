"""What `logo-edge serve` does under load, on loopback: requests a second, latency, refusals, batches, memory.

python benchmarks/measure_server.py [--seconds 10]  ->  benchmarks/results/server.json

So many clients, each with one connection, send one sample logo after another and wait for each answer. They run on the
same machine and take cores from the service. What else took them is told by the load before the start.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np

from logo_edge import Classifier
from logo_edge.machine import describe_machine
from logo_edge.timing import measure_latency

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "server.json"
SAMPLES = sorted((ROOT / "runtime/logo_edge/samples").glob("*.png"))
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
CASES = (  # clients, images a request, options of the service
    (1, 1, ()),
    (4, 1, ()),
    (16, 1, ()),
    (16, 1, ("--batch", "1")),
    (4, 32, ()),
    (64, 1, ()),  # more than the 32 requests that it takes on
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each case")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    classifier = Classifier.load()
    turn = cycle([path.read_bytes() for path in SAMPLES])
    direct = measure_latency(lambda: classifier.classify(next(turn)))
    cpu_s = time.process_time()
    for _ in range(200):
        classifier.classify(next(turn))
    cpu_s = (time.process_time() - cpu_s) / 200
    entries = []
    for clients, images, options in CASES:
        with service(options) as port:
            asyncio.run(press(port, min(clients, 8), images, 2.0))  # warm up
            before = read_metrics(port)
            found = asyncio.run(press(port, clients, images, arguments.seconds))
            after = read_metrics(port)
        passes = after["logo_edge_batch_size_count"] - before["logo_edge_batch_size_count"]
        classified = after["logo_edge_batch_size_sum"] - before["logo_edge_batch_size_sum"]
        entries.append(
            {
                "clients": clients,
                "images_per_request": images,
                "options": list(options),
                **found,
                "images_per_s": classified / found["seconds"],
                "mean_batch": classified / passes,
                "cpu_s_per_image": (after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"])
                / classified,
                "resident_mb": after["process_resident_memory_bytes"] / 1e6,
            }
        )
        print(json.dumps(entries[-1]))
    record = {
        "machine": describe_machine(),
        "cores": os.cpu_count(),
        "load_before": load,
        "load_after": os.getloadavg()[0],
        "direct": {**vars(direct), "cpu_s_per_image": cpu_s},
        "entries": entries,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def service(options: tuple[str, ...]) -> Iterator[int]:
    """The port of a service with the default bundle in a process of its own."""
    code = "from logo_edge.cli.serve import serve; serve()"
    process = subprocess.Popen([sys.executable, "-c", code, "--port", "0", *options], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"running on http://[^:]+:(\d+)", line):
                yield int(found[1])
                return
        raise SystemExit("the service did not start")
    finally:
        process.terminate()
        process.communicate()


async def press(port: int, clients: int, images: int, seconds: float) -> dict:
    """Latencies of the answered requests and the counts by status, of so many clients for so long."""
    turn = cycle(SAMPLES)
    requests = [build_request([next(turn).read_bytes() for _ in range(images)]) for _ in SAMPLES]
    times: list[float] = []
    statuses: Counter[int] = Counter()
    start = time.perf_counter()

    async def client(turn: Iterator[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() - start < seconds:
            begun = time.perf_counter()
            writer.write(next(turn))
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(LENGTH.search(head)[1]))
            status = int(head.split(b" ", 2)[1])
            statuses[status] += 1
            if status == 200:
                times.append(time.perf_counter() - begun)
            else:
                await asyncio.sleep(float(re.search(rb"retry-after: (\d+)", head)[1]))
        writer.close()

    starts = [number % len(requests) for number in range(clients)]
    await asyncio.gather(*(client(cycle(requests[first:] + requests[:first])) for first in starts))
    seconds = time.perf_counter() - start
    p50, p90, p99 = (np.percentile(times, [50, 90, 99]) * 1e3).tolist()
    return {
        "seconds": seconds,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "requests_per_s": len(times) / seconds,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
    }


def build_request(images: list[bytes]) -> bytes:
    """One image as a raw body, several as a form."""
    if len(images) == 1:
        kind, body = "image/png", images[0]
    else:
        kind = "multipart/form-data; boundary=boundary"
        head = b'--boundary\r\nContent-Disposition: form-data; name="files"; filename="x.png"\r\n\r\n'
        body = b"".join(head + image + b"\r\n" for image in images) + b"--boundary--\r\n"
    return (
        f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def read_metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.split() for line in lines if " " in line and line[0] != "#" and "{" not in line)
    }


if __name__ == "__main__":
    main()
