"""The HTTP service over one `Classifier`: its routes, and what it answers.

Bodies are read to a limit, decoded in threads and classified in batches that fill while the network is busy. A request
over a limit is refused at once, and the status says why: too much (413), wrong kind (415, 422), too slow
(408, 504) or busy (503 with Retry-After). Errors are problem details (RFC 9457).
"""

from __future__ import annotations

import asyncio
import hmac
import math
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from logo_edge import __version__
from logo_edge.classifier import Classifier
from logo_edge.errors import ImageError, LogoEdgeError, MissingExtraError
from logo_edge.images.load import decoding_cost
from logo_edge.images.svg import Renderer, is_svg, render_svg
from logo_edge.monitor import PredictionLog
from logo_edge.results import Classification
from logo_edge.server.batcher import Batcher
from logo_edge.server.deadline import timeout
from logo_edge.server.limits import RETRY_AFTER_S, Bodies, Lane, Limits, Refused

try:
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request
    from fastapi.responses import Response
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
    from prometheus_client import generate_latest
    from starlette.exceptions import HTTPException as StarletteHTTPException
    from starlette.requests import ClientDisconnect

    from logo_edge.server.body import REQUEST_BODY, read_body, refuse_fields
    from logo_edge.server.metrics import Meter, Metrics
    from logo_edge.server.problem import (
        answer_disconnect,
        answer_internal_error,
        answer_problem,
        answer_refused,
        problem,
        problem_responses,
    )
except ImportError as error:
    raise MissingExtraError("serve", error.name or "fastapi") from error

DESCRIPTION = (
    "Classifies images, with calibrated confidence; `label` is null if it abstains. A multi-label bundle gives "
    "`labels`, which may be empty; other bundles give null. Send one image as the body, or several as files of a form; "
    "a bad image then gives its own error and does not affect the others."
)


@dataclass(frozen=True)
class NamedResult:
    """One image of a multipart request: its file name and either its classification or an error."""

    name: str
    classification: Classification | None = None
    error: str | None = None


@dataclass(frozen=True)
class Results:
    """One result for each file of a multipart request, in order."""

    results: list[NamedResult]


@dataclass(frozen=True)
class Info:
    """The bundle that answers, how it decides, and the limits of requests.

    `threshold` is null for a multi-label bundle, which has one for each label.
    """

    version: str
    bundle: str
    labels: tuple[str, ...]
    precision: str
    size_px: int
    mode: str
    threshold: float | None
    coverage: float | None
    limits: Limits
    multi_label: bool


@dataclass(frozen=True)
class Health:
    """`status` is "ok"."""

    status: str


def create_app(
    classifier: Classifier,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    log: str | os.PathLike | None = None,
) -> FastAPI:
    """The ASGI application. With `token`, all routes but /healthz and the documentation need it as a bearer token.

    `log` names a file to which every classification, never the image, is appended for `logo-edge monitor`.
    """
    limits = limits or Limits()
    bundle = classifier.bundle
    metrics = Metrics(bundle.name, classifier.labels)
    predictions = PredictionLog(log, bundle.name) if log else None
    if predictions:
        metrics.log_failures.set_function(lambda: predictions.failures)
    bodies = Bodies(limits, metrics.arriving.set)
    quick, slow = Lane(limits.workers, "decode"), Lane(1, "decode-slow", limits.queue)
    renderer = Renderer(limits.drawing_s)
    in_flight = 0

    def forward(pixels: np.ndarray) -> list[Classification]:
        metrics.batches.observe(len(pixels))
        with metrics.forward.time():
            results = classifier.classify_pixels(pixels)
        for result in results:
            metrics.count_image(result)
            if predictions:
                predictions.append(result)
        return results

    def decode(data: bytes, *, is_slow_lane: bool) -> np.ndarray | None:
        """The pixels for the model; None for a costly picture, unless this is the slow lane."""
        try:
            drawing = is_svg(data)
            if drawing and not limits.drawings:
                raise ImageError("an SVG drawing; this service reads none. Send it as PNG")
            if not is_slow_lane and (drawing or decoding_cost(data, limits.pixels) > limits.quick_pixels):
                return None
            with metrics.decode.time():
                source = render_svg(data, "the drawing", renderer) if drawing else data
                return classifier.read_pixels(source, max_pixels=limits.pixels)
        except ImageError:
            metrics.count_unreadable()
            raise

    def classify_now(data: bytes, *, is_slow_lane: bool) -> Classification | None:
        """The classification; None for a costly picture, unless this is the slow lane."""
        pixels = decode(data, is_slow_lane=is_slow_lane)
        return None if pixels is None else forward(pixels[None])[0]

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        app.state.batcher = Batcher(forward, limits)
        yield
        await app.state.batcher.close()
        quick.close()
        slow.close()
        renderer.close()

    app = FastAPI(title="logo-edge", version=__version__, lifespan=lifespan, description=DESCRIPTION)
    app.add_middleware(Meter, metrics=metrics)
    app.add_exception_handler(StarletteHTTPException, answer_problem)
    app.add_exception_handler(Refused, answer_refused)
    app.add_exception_handler(ClientDisconnect, answer_disconnect)
    app.add_exception_handler(Exception, answer_internal_error)
    guard = [Depends(bearer_guard(token))] if token else []
    refusals = (401,) if token else ()

    @app.post(
        "/v1/classify",
        response_model=Classification | Results,
        openapi_extra={"requestBody": REQUEST_BODY},
        responses=problem_responses(400, 408, 413, 415, 422, 503, 504, *refusals),
        dependencies=guard,
        summary="Classify images",
    )
    async def classify(request: Request):
        nonlocal in_flight
        refuse_fields("query", request.query_params)
        async with bodies.admit() as body:
            async with bodies.arriving(body):
                images = await read_body(request, limits, bodies, body)
            if in_flight >= limits.requests:
                raise Refused(503, f"{in_flight} requests are being answered, the maximum; try again", RETRY_AFTER_S)
            in_flight += 1
            metrics.in_flight.set(in_flight)
            try:
                async with timeout(limits.timeout_s):
                    return await classify_images(images)
            except asyncio.TimeoutError:
                detail = f"not classified within {limits.timeout_s:g} s; send less, or try again"
                raise problem(504, detail, RETRY_AFTER_S) from None
            finally:
                in_flight -= 1
                metrics.in_flight.set(in_flight)

    async def classify_images(images: bytes | list[tuple[str, bytes]]) -> Classification | Results:
        one_by_one = asyncio.Lock()  # for the slow pictures of one request, so that it is once in the queue
        if isinstance(images, bytes):
            try:
                return await classify_one(images, one_by_one)
            except ImageError as error:
                raise problem(422, str(error)) from None
        return Results(list(await asyncio.gather(*(named_result(name, data, one_by_one) for name, data in images))))

    async def named_result(name: str, data: bytes, one_by_one: asyncio.Lock) -> NamedResult:
        try:
            return NamedResult(name, classification=await classify_one(data, one_by_one))
        except ImageError as error:
            return NamedResult(name, error=str(error))

    async def classify_one(data: bytes, one_by_one: asyncio.Lock) -> Classification:
        work = decode if limits.batch > 1 else classify_now  # a batch is filled between two threads
        result = await quick.run(partial(work, data, is_slow_lane=False))
        if result is None:
            async with one_by_one:
                result = await slow.run(partial(work, data, is_slow_lane=True))
        return await app.state.batcher.classify(result) if limits.batch > 1 else result

    info_responses = problem_responses(422, *refusals)

    @app.get("/v1/info", dependencies=guard, responses=info_responses, summary="The bundle and the limits")
    async def info(request: Request) -> Info:
        refuse_fields("query", request.query_params)
        return Info(
            version=__version__,
            bundle=bundle.name,
            labels=classifier.labels,
            precision=bundle.model.precision,
            size_px=bundle.input.size_px,
            mode=classifier.mode,
            threshold=classifier.threshold,
            coverage=classifier.coverage,
            limits=limits,
            multi_label=bundle.calibration.multi_label,
        )

    @app.get("/healthz", summary="Whether the service runs")
    async def healthz() -> Health:
        return Health("ok")

    @app.get(
        "/metrics",
        dependencies=guard,
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problem_responses(*refusals)},
    )
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def bearer_guard(token: str):
    """A dependency that refuses requests without the token; compared in constant time."""

    def guard(credentials: HTTPAuthorizationCredentials | None = Depends(HTTPBearer(auto_error=False))) -> None:
        if credentials is None or not hmac.compare_digest(credentials.credentials.encode(), token.encode()):
            raise HTTPException(401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    return guard


def run_server(app: FastAPI, host: str, port: int, *, drain_s: float, access_log: bool = False) -> None:
    """Serves until SIGTERM or Ctrl-C; current requests then have `drain_s` seconds to finish.

    Raises LogoEdgeError if it cannot listen there; uvicorn has then printed the reason on stderr.
    """
    try:
        uvicorn.run(
            app,
            host=host,
            port=port,
            access_log=access_log,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(drain_s),
        )
    except SystemExit as error:
        if not error.code:
            raise
        raise LogoEdgeError(
            f"{host}, port {port}: cannot listen there, see above; give an address of this machine by --host, and a "
            "free port by --port (0: any)"
        ) from error
