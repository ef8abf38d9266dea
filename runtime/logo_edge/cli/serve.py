"""The verbs that put a bundle behind a network: `logo-edge serve` and `logo-edge export-triton`."""

from __future__ import annotations

import ipaddress
import os
import warnings
from pathlib import Path

import typer

from logo_edge.bundle.calibration import Mode
from logo_edge.classifier import Classifier
from logo_edge.cli import options
from logo_edge.errors import LogoEdgeError
from logo_edge.machine import on_cores, usable_cores
from logo_edge.names import printable
from logo_edge.scale.triton import PARTS, Serving, write_repository
from logo_edge.server.limits import Limits

TOKEN_VARIABLE = "LOGO_EDGE_TOKEN"

serve = typer.Typer(rich_markup_mode=None, add_completion=False)
export_triton = typer.Typer(rich_markup_mode=None, add_completion=False)


@serve.command(
    help="""Answer over HTTP: POST /v1/classify, GET /v1/info, /healthz, /metrics (Prometheus), /docs.

    \b
    logo-edge serve
    curl --data-binary @logo.png -H 'Content-Type: image/png' http://127.0.0.1:8000/v1/classify
    curl -F files=@a.png -F files=@b.jpg http://127.0.0.1:8000/v1/classify

    Needs the extra serve. Listens on this machine only, unless --host says otherwise; then it needs a token, or
    --no-token. The token is in the environment variable LOGO_EDGE_TOKEN or in a file, and every client must send it:
    Authorization: Bearer TOKEN. After SIGTERM or Ctrl-C, current requests are finished.
    """
)
def serve_command(
    bundle: str | None = options.BUNDLE.typer(),
    host: str = typer.Option("127.0.0.1", "--host", help="The address to listen on; 0.0.0.0 for all networks."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="0 for any free port; it is printed."),
    mode: Mode = options.MODE.typer(),
    threshold: float | None = options.THRESHOLD.typer(),
    coverage: float | None = options.COVERAGE.typer(),
    backend: str = options.BACKEND.typer(),
    artifact: Path | None = options.ARTIFACT.typer(),
    open_to_all: bool = typer.Option(
        False, "--no-token", help="Listen beyond this machine without a token: anyone who reaches it may use it."
    ),
    token_file: Path | None = typer.Option(
        None, "--token-file", metavar="FILE", help="A file with the bearer token, instead of LOGO_EDGE_TOKEN."
    ),
    max_mb: float = typer.Option(
        Limits.body_bytes / 2**20, "--max-mb", min=0.001, help="The largest body of a request, in MiB."
    ),
    max_pixels: int = typer.Option(
        Limits.pixels,
        "--max-pixels",
        min=1,
        help="The most pixels of an image; a baseline JPEG may have four times as many.",
    ),
    max_images: int = typer.Option(Limits.images, "--max-images", min=1, help="The most files of a request."),
    max_requests: int = typer.Option(
        Limits.requests, "--max-requests", min=1, help="Requests answered at once; more get 503 and Retry-After."
    ),
    max_bodies: int = typer.Option(
        Limits.bodies,
        "--max-bodies",
        min=1,
        help="Bodies that arrive at once; with more, the one that began first gets 408.",
    ),
    drawings: bool = typer.Option(Limits.drawings, "--svg/--no-svg", help="Read SVG drawings (extra svg), or not."),
    timeout_s: float = typer.Option(
        Limits.timeout_s, "--timeout", min=0.001, help="Seconds for a body to arrive, and again to be classified."
    ),
    workers: int | None = options.WORKERS.typer(),
    threads: int = options.THREADS.typer(),
    cores: options.Cores | None = options.CORES.typer(),
    spinning: bool = options.SPINNING.typer(),
    batch: int = typer.Option(Limits.batch, "--batch", min=1, help="The most images of a forward pass; 1: no batches."),
    batch_delay_ms: float = typer.Option(
        Limits.batch_delay_ms,
        "--batch-delay-ms",
        min=0.0,
        help="How long a forward pass waits for more images; not needed under load.",
    ),
    public_key: Path | None = options.PUBLIC_KEY.typer(),
    log: Path | None = options.LOG.typer(),
    access_log: bool = typer.Option(False, "--access-log", help="Print a line for each request."),
) -> None:
    """Exit status: 0 stopped, 2 refused or wrong usage."""
    from logo_edge.server.app import create_app, run_server  # needs the extra serve

    warnings.filterwarnings("ignore", module=r"PIL\.")  # a bad image is reported by its ImageError
    token = read_token(token_file)
    if not (token or open_to_all or is_loopback(host)):
        raise LogoEdgeError(
            f"--host {host} lets others in, and no token is set; set {TOKEN_VARIABLE} or give --token-file, or say "
            "--no-token to let anyone in"
        )
    with on_cores(cores):
        classifier = Classifier.load(
            bundle,
            mode=mode,
            threshold=threshold,
            coverage=coverage,
            backend=backend,
            artifact=artifact,
            threads=threads,
            cores=cores,
            spinning=spinning,
            public_key=public_key,
            self_test=True,
        )
        body_bytes = int(max_mb * 2**20)
        limits = Limits(
            body_bytes=body_bytes,
            held_bytes=max(Limits.held_bytes, 2 * body_bytes),
            bodies=max_bodies,
            pixels=max_pixels,
            images=max_images,
            requests=max_requests,
            drawings=drawings,
            timeout_s=timeout_s,
            batch=batch,
            batch_delay_ms=batch_delay_ms,
            workers=workers or len(usable_cores()),
        )
        app = create_app(classifier, limits, token=token, log=log)
        started = f"logo-edge: {classifier.bundle.name} ({', '.join(classifier.labels)}), mode {classifier.mode}"
        typer.echo(printable(started), err=True)
        run_server(app, host, port, drain_s=2 * timeout_s, access_log=access_log)


def read_token(path: Path | None) -> str | None:
    """The bearer token of the file or of the environment, None without either. Raises LogoEdgeError."""
    try:
        token = path.read_text(encoding="utf-8").strip() if path else os.environ.get(TOKEN_VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LogoEdgeError(f"{path}: {reason}; expected a text file with the token") from error
    if token is not None and (not token.isascii() or not token or any(letter.isspace() for letter in token)):
        raise LogoEdgeError(
            f"{path or TOKEN_VARIABLE}: found an empty token, or one with blanks or non-ASCII characters; expected one "
            "such as `openssl rand -hex 32` prints"
        )
    return token


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@export_triton.command(
    help="""Write a bundle as a model repository for the NVIDIA Triton inference server.

    Clients send one decoded image, (H, W, 4) uint8 RGBA, to the ensemble NAME. It returns label (empty if it abstains),
    reason (empty if it does not), best_guess, confidence, probabilities, logo_score and is_logo. Preprocessing, network
    and decision are ONNX graphs. They are run here on the bundle's own vectors first, and written only if they agree
    with this runtime.

    \b
    logo-edge export-triton --out models
    logo-edge export-triton --bundle bundles/mine --out models --name marks --mode strict
    tritonserver --model-repository=models
    """
)
def export_triton_command(
    bundle: str | None = options.BUNDLE.typer(),
    public_key: Path | None = options.PUBLIC_KEY.typer(),
    out: Path = typer.Option(
        Path("models"), "--out", metavar="DIR", help="The model repository; other models in it are kept."
    ),
    name: str = typer.Option("logo_edge", "--name", help="The ensemble's name: letters, digits, _ and -."),
    mode: Mode = options.MODE.typer(),
    threshold: float | None = options.THRESHOLD.typer(),
    max_batch: int = typer.Option(Serving.max_batch, "--max-batch", min=1, help="The most images of one pass."),
    queue_delay_us: int = typer.Option(
        Serving.queue_delay_us, "--queue-delay-us", min=0, help="How long a request waits for others, in microseconds."
    ),
    instances: int = typer.Option(
        Serving.instances, "--instances", min=1, help="Copies of each model that run at once."
    ),
    threads: int = options.THREADS.typer(),
    device: str = typer.Option(Serving.device, "--device", help="cpu, or gpu for the network alone."),
) -> None:
    """Exit status: 0 written and verified, 2 refused or wrong usage."""
    if device not in ("cpu", "gpu"):
        raise typer.BadParameter(f"--device {device}: expected cpu or gpu")
    classifier = Classifier.load(bundle, public_key=public_key, mode=mode, threshold=threshold)
    checked = write_repository(classifier, out, name, Serving(max_batch, queue_delay_us, instances, threads, device))
    typer.echo(f"{out}: models {', '.join(f'{name}_{part}' for part in PARTS)} and the ensemble {name}")
    typer.echo(f"run in ONNX Runtime on {checked} vectors: pixels to the byte and decisions as this runtime's")
    typer.echo(f"serve it with: tritonserver --model-repository={out.resolve()}")
