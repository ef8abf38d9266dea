"""`logo-edge serve` under load, on loopback: requests a second, latency, refusals, batches, memory.

python -m logo_edge_bench.experiments server [--seconds 10]

Each client has one connection, sends one sample logo after another and waits for each answer. The clients run on the
same machine and compete with the service for its cores. The load average before the start shows other programs.
"""

from __future__ import annotations

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
from itertools import cycle, islice
from typing import Annotated

import numpy as np

from logo_edge import Classifier
from logo_edge.timing import measure_latency
from logo_edge_bench.experiments.record import ROOT, Out, write_record

SAMPLES = sorted((ROOT / "runtime/logo_edge/samples").glob("*.png"))
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
CASES = (  # clients, images a request, options of the service
    (1, 1, ()),
    (4, 1, ()),
    (4, 1, ("--batch", "1")),
    (16, 1, ()),
    (16, 1, ("--batch", "1")),
    (4, 32, ()),
    (64, 1, ()),  # more than the 32 requests that it accepts
)


WORKERS = os.cpu_count() or 1  # of the service, by default
IN_PROCESS = 1000  # images


def measure(*, seconds: Annotated[float, "of each case"] = 10.0, out: Out) -> None:
    load_before = os.getloadavg()[0]
    classifier = Classifier.load()
    turn = cycle([path.read_bytes() for path in SAMPLES])
    direct = measure_latency(lambda: classifier.classify(next(turn)))
    cpu_s = time.process_time()
    for _ in range(200):
        classifier.classify(next(turn))
    cpu_s = (time.process_time() - cpu_s) / 200
    pace = measure_pace(classifier)
    rows = []
    for clients, images, options in CASES:
        with service(options) as port:
            asyncio.run(press(port, min(clients, 8), images, 2.0))  # warm up
            before = read_metrics(port)
            figures = asyncio.run(press(port, clients, images, seconds))
            after = read_metrics(port)
        names = "logo_edge_batch_size_count", "logo_edge_batch_size_sum", "process_cpu_seconds_total"
        passes, classified, cpu_s_used = (after[name] - before[name] for name in names)
        rows.append(
            {
                "clients": clients,
                "images_per_request": images,
                "options": list(options),
                **figures,
                "images_per_s": classified / figures["seconds"],
                "mean_batch": classified / passes,
                "cpu_s_per_image": cpu_s_used / classified,
                "resident_mb": after["process_resident_memory_bytes"] / 1e6,
            }
        )
        print(json.dumps(rows[-1]))
    record = {
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "direct": {**vars(direct), "cpu_s_per_image": cpu_s},
        "in_process": {"threads": WORKERS, "images_per_s": pace},
        "entries": rows,
    }
    write_record(out, record, [classifier.bundle])


def measure_pace(classifier: Classifier) -> float:
    """Images a second of `classify_many` with as many threads as the service has, without it."""
    files = [path.read_bytes() for path in SAMPLES]
    start = time.perf_counter()
    images = sum(1 for _ in classifier.classify_many(islice(cycle(files), IN_PROCESS), workers=WORKERS))
    return images / (time.perf_counter() - start)


@contextlib.contextmanager
def service(options: tuple[str, ...]) -> Iterator[int]:
    """Yields the port of a service with the default bundle, in its own process."""
    code = "from logo_edge.cli.serve import serve; serve()"
    process = subprocess.Popen([sys.executable, "-c", code, "--port", "0", *options], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if match := re.search(r"running on http://[^:]+:(\d+)", line):
                yield int(match[1])
                return
        raise SystemExit("the service did not start")
    finally:
        process.terminate()
        process.communicate()


async def press(port: int, clients: int, images: int, seconds: float) -> dict:
    """Latencies of the answered requests, and the counts by status."""
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
    """An HTTP request: one image as a raw body, several as a form."""
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
