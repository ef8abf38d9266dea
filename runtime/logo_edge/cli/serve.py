"""`logo-edge serve`: the verb that starts the HTTP service of `server`."""

from __future__ import annotations

import ipaddress
import os
import warnings
from pathlib import Path

import typer

from logo_edge.bundle.calibration import Mode
from logo_edge.classifier import Classifier
from logo_edge.cli.bundle import PUBLIC_KEY_OPTION, parse_cores
from logo_edge.errors import LogoEdgeError
from logo_edge.machine import on_cores
from logo_edge.names import printable
from logo_edge.tables.journal import usable_cores

TOKEN_VARIABLE = "LOGO_EDGE_TOKEN"

serve = typer.Typer(rich_markup_mode=None, add_completion=False)


@serve.command(
    help="""Answer over HTTP: POST /v1/classify, GET /v1/info, /healthz, /metrics (Prometheus), /docs.

    \b
    logo-edge serve
    curl --data-binary @logo.png -H 'Content-Type: image/png' http://127.0.0.1:8000/v1/classify
    curl -F files=@a.png -F files=@b.jpg http://127.0.0.1:8000/v1/classify

    It listens on this machine only, unless --host says otherwise, and needs the extra serve. A token in the environment
    variable LOGO_EDGE_TOKEN, or in a file, is asked of every client: Authorization: Bearer TOKEN. To listen beyond this
    machine it needs a token, or --no-token. SIGTERM and Ctrl-C let the requests at hand finish.
    """
)
def serve_command(
    bundle: str | None = typer.Option(
        None, "--bundle", "-b", metavar="DIR", help="A bundle's folder; left out: the embedded default."
    ),
    host: str = typer.Option("127.0.0.1", "--host", help="The address to listen on; 0.0.0.0 for all networks."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="0 for any that is free; it is printed."),
    mode: Mode = typer.Option(Mode.BALANCED, "--mode", help="How sure it must be to give a label."),
    threshold: float | None = typer.Option(
        None, "--threshold", min=0, max=1, help="The least confidence for a label, instead of the mode's."
    ),
    coverage: float | None = typer.Option(
        None, "--coverage", help="P that a prediction set holds the true label, a level of the bundle; left out: 0.95."
    ),
    backend: str = typer.Option("onnxruntime", "--backend", help="As in `logo-edge classify`."),
    artifact: Path | None = typer.Option(
        None,
        "--artifact",
        metavar="FILE",
        help="Run this file of `logo-edge export` instead of the bundle's own graph.",
    ),
    open_to_all: bool = typer.Option(
        False, "--no-token", help="Listen beyond this machine without a token: whoever reaches it may use it."
    ),
    token_file: Path | None = typer.Option(
        None, "--token-file", metavar="FILE", help="A file with the bearer token, instead of LOGO_EDGE_TOKEN."
    ),
    max_mb: float = typer.Option(16.0, "--max-mb", min=0.001, help="The largest body of a request, in MiB."),
    max_pixels: int = typer.Option(
        25_000_000,
        "--max-pixels",
        min=1,
        help="The most pixels of an image; a baseline JPEG may have four times as many.",
    ),
    max_images: int = typer.Option(64, "--max-images", min=1, help="The most files of a request."),
    max_requests: int = typer.Option(
        32, "--max-requests", min=1, help="Requests answered at once; more get 503 and Retry-After."
    ),
    max_bodies: int = typer.Option(
        256,
        "--max-bodies",
        min=1,
        help="Bodies that arrive at once; with more, the one that has been arriving longest gets 408.",
    ),
    drawings: bool = typer.Option(True, "--svg/--no-svg", help="Read SVG drawings (extra svg), or refuse them."),
    timeout_s: float = typer.Option(
        10.0, "--timeout", min=0.001, help="Seconds for a body to arrive, and again to be classified."
    ),
    workers: int | None = typer.Option(
        None, "--workers", min=1, help="Threads that decode, and as many that classify; left out: one a core."
    ),
    threads: int = typer.Option(1, "--threads", min=1, help="CPU threads of one forward pass."),
    cores: str | None = typer.Option(None, "--cores", metavar="0,2-3", help="The CPU cores to run on (Linux)."),
    spinning: bool = typer.Option(
        False, "--spinning", help="Let threads spin while they wait: a little faster, and they burn their cores."
    ),
    batch: int = typer.Option(16, "--batch", min=1, help="The most images of a forward pass."),
    batch_delay_ms: float = typer.Option(
        0.0, "--batch-delay-ms", min=0.0, help="How long a forward pass waits for more images; busy, it never needs to."
    ),
    public_key: Path | None = PUBLIC_KEY_OPTION,
    log: Path | None = typer.Option(
        None, "--log", metavar="FILE", help="Append each result, no image, for `logo-edge monitor`."
    ),
    access_log: bool = typer.Option(False, "--access-log", help="Print a line for each request."),
) -> None:
    """Exit status: 0 stopped, 2 refused or wrong usage."""
    from logo_edge.server.app import create_app, run_server
    from logo_edge.server.limits import Limits

    warnings.filterwarnings("ignore", module=r"PIL\.")  # what matters of a bad image comes as its ImageError
    token, kept = read_token(token_file), parse_cores(cores)
    if not (token or open_to_all or is_loopback(host)):
        raise LogoEdgeError(
            f"--host {host} lets others in, and no token is asked for; set {TOKEN_VARIABLE} or give --token-file, or say --no-token to let in whoever reaches it"
        )
    with on_cores(kept):
        classifier = Classifier.load(
            bundle,
            mode=mode,
            threshold=threshold,
            coverage=coverage,
            backend=backend,
            artifact=artifact,
            threads=threads,
            cores=kept,
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
            workers=workers or usable_cores(),
        )
        app = create_app(classifier, limits, token=token, log=log)
        typer.echo(
            printable(f"logo-edge: {classifier.bundle.name} ({', '.join(classifier.labels)}), mode {classifier.mode}"),
            err=True,
        )
        run_server(app, host, port, drain_s=2 * timeout_s, access_log=access_log)


def read_token(path: Path | None) -> str | None:
    """The bearer token of the file or of the environment, None where there is neither. Raises LogoEdgeError."""
    try:
        token = path.read_text(encoding="utf-8").strip() if path else os.environ.get(TOKEN_VARIABLE)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LogoEdgeError(f"{path}: {reason}; expected a text file that holds the token") from error
    if token is not None and (not token.isascii() or not token or any(letter.isspace() for letter in token)):
        raise LogoEdgeError(
            f"{path or TOKEN_VARIABLE}: found an empty token, or one with blanks or letters beyond ASCII; expected one such as `openssl rand -hex 32` prints"
        )
    return token


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
