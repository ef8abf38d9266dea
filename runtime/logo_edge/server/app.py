"""The HTTP service over one `Classifier`: what it answers, what it refuses, how it batches and what it counts.

Bodies are read to a limit, decoded in threads and classified in whatever batches form while the network is busy. What
is over a limit is refused at once: a client can tell "too much" (413), "not this" (415, 422), "too slow" (408, 504)
and "not now" (503 with Retry-After). Errors are problem details (RFC 9457).
"""

from __future__ import annotations

import asyncio
import hmac
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import numpy as np

from logo_edge import __version__
from logo_edge.classifier import Classifier
from logo_edge.errors import ImageError, LogoEdgeError, MissingExtraError
from logo_edge.images.load import decoding_cost
from logo_edge.images.svg import Renderer, is_svg, render_svg
from logo_edge.monitor import PredictionLog
from logo_edge.results import Classification, Rejection
from logo_edge.server.limits import RETRY_AFTER_S, Bodies, Body, Lane, Limits, Refused

try:
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request
    from fastapi.responses import JSONResponse, Response
    from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException as StarletteHTTPException
    from starlette.formparsers import MultiPartException, MultiPartParser
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise MissingExtraError("serve", error.name or "fastapi") from error

LABELLED, ABSTAINED, UNREADABLE = "labelled", "abstained", "unreadable"  # outcomes of an image
PROBLEM = "application/problem+json"
BINARY = {"type": "string", "format": "binary"}
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # bounds of the histograms


@dataclass(frozen=True)
class NamedResult:
    """One image of a multipart request: its file name and either its classification or why there is none."""

    name: str
    classification: Classification | None = None
    error: str | None = None


@dataclass(frozen=True)
class Results:
    """One result for each file of a multipart request, in order."""

    results: list[NamedResult]


@dataclass(frozen=True)
class Info:
    """What answers here: the bundle, how it decides, and what is refused."""

    version: str
    bundle: str
    labels: tuple[str, ...]
    precision: str
    size_px: int
    mode: str
    threshold: float
    coverage: float | None
    limits: Limits


@dataclass(frozen=True)
class Health:
    """`status` is "ok"."""

    status: str


class Metrics:
    """What /metrics tells."""

    def __init__(self, bundle: str, labels: tuple[str, ...]):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("logo_edge_requests", "Answered requests.", ["path", "status"], registry=registry)
        self.seconds = Histogram(
            "logo_edge_request_seconds",
            "From a request's head to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("logo_edge_requests_in_flight", "Classify requests being answered.", registry=registry)
        self.arriving = Gauge("logo_edge_bodies_arriving", "Bodies that are not there yet.", registry=registry)
        self.log_failures = Gauge(
            "logo_edge_log_failures", "Predictions that --log could not write.", registry=registry
        )
        self.images = Counter(
            "logo_edge_images",
            "Images by outcome: labelled (as label), abstained (for a reason) or unreadable.",
            ["outcome", "label", "reason"],
            registry=registry,
        )
        self.batches = Histogram(
            "logo_edge_batch_size", "Images of a forward pass.", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.decode = Histogram(
            "logo_edge_decode_seconds", "Decoding and preprocessing of an image.", buckets=SECONDS, registry=registry
        )
        self.forward = Histogram(
            "logo_edge_forward_seconds", "A forward pass and its decisions.", buckets=SECONDS, registry=registry
        )
        Gauge("logo_edge_bundle", "The bundle that answers.", ["name", "version"], registry=registry).labels(
            bundle, __version__
        ).set(1)
        for label in labels:
            self.images.labels(LABELLED, label, "")
        for reason in Rejection:
            self.images.labels(ABSTAINED, "", reason)
        self.images.labels(UNREADABLE, "", "")


class Batcher:
    """Classifies single images in the batches that form while all passes are taken. Lives in one event loop."""

    def __init__(self, forward: Callable[[np.ndarray], list[Classification]], limits: Limits):
        self._forward, self._limits = forward, limits
        self._waiting: asyncio.Queue[tuple[np.ndarray, asyncio.Future]] = asyncio.Queue()
        self._free = asyncio.Semaphore(limits.workers)
        self._pool = ThreadPoolExecutor(limits.workers, "forward")
        self._passes: set[asyncio.Task] = set()
        self._task = asyncio.create_task(self._gather())

    async def classify(self, pixels: np.ndarray) -> Classification:
        """The classification of (S, S, C) uint8 pixels."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((pixels, future))
        return await future

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, *self._passes, return_exceptions=True)
        self._pool.shutdown()

    async def _gather(self) -> None:
        while True:
            await self._free.acquire()
            batch = [await self._waiting.get()]
            end = asyncio.get_running_loop().time() + self._limits.batch_delay_ms / 1e3
            while len(batch) < self._limits.batch:
                try:
                    async with asyncio.timeout_at(end if self._waiting.empty() else None):
                        batch.append(await self._waiting.get())
                except TimeoutError:
                    break
            running = asyncio.create_task(self._pass(batch))
            self._passes.add(running)
            running.add_done_callback(self._passes.discard)

    async def _pass(self, batch: list[tuple[np.ndarray, asyncio.Future]]) -> None:
        try:
            if wanted := [entry for entry in batch if not entry[1].done()]:  # the others' clients have given up
                pixels = np.stack([pixels for pixels, _ in wanted])
                results = await asyncio.get_running_loop().run_in_executor(self._pool, self._forward, pixels)
                for (_, future), result in zip(wanted, results, strict=True):
                    if not future.done():
                        future.set_result(result)
        except Exception as error:  # each request fails with it, and the service goes on
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        finally:
            self._free.release()


def create_app(
    classifier: Classifier,
    limits: Limits | None = None,
    *,
    token: str | None = None,
    log: str | os.PathLike | None = None,
) -> FastAPI:
    """The ASGI application. With `token`, all but /healthz and the documentation ask for it as a bearer token.

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
            metrics.images.labels(
                LABELLED if result.reason is None else ABSTAINED, result.label or "", result.reason or ""
            ).inc()
            if predictions:
                predictions.append(result)
        return results

    def decode(data: bytes, *, at_any_cost: bool) -> np.ndarray | None:
        """The pixels for the model; None where the picture is costly to decode and that is not wanted here."""
        try:
            drawing = is_svg(data)
            if drawing and not limits.drawings:
                raise ImageError("an SVG drawing; this service reads none. Send it as PNG")
            if not at_any_cost and (drawing or decoding_cost(data, limits.pixels) > limits.quick_pixels):
                return None
            with metrics.decode.time():
                source = render_svg(data, "the drawing", renderer) if drawing else data
                return classifier.read_pixels(source, max_pixels=limits.pixels)
        except ImageError:
            metrics.images.labels(UNREADABLE, "", "").inc()
            raise

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
    app.add_exception_handler(Exception, answer_mistake)
    guard = [Depends(bearer_guard(token))] if token else []
    refusals = (401,) if token else ()

    @app.post(
        "/v1/classify",
        response_model=Classification | Results,
        openapi_extra={"requestBody": REQUEST_BODY},
        responses=problems(400, 408, 413, 415, 422, 503, 504, *refusals),
        dependencies=guard,
        summary="Classify images",
    )
    async def classify(request: Request):
        nonlocal in_flight
        need_no_fields("query", request.query_params)
        async with bodies.admit() as body:
            async with bodies.arriving(body):
                images = await read_body(request, limits, bodies, body)
            if in_flight >= limits.requests:
                raise Refused(
                    503, f"{in_flight} requests are being answered, as many as may be; try again", RETRY_AFTER_S
                )
            in_flight += 1
            metrics.in_flight.set(in_flight)
            try:
                async with asyncio.timeout(limits.timeout_s):
                    return await classify_images(images)
            except TimeoutError:
                raise problem(
                    504, f"not classified within {limits.timeout_s:g} s; send less, or try again", RETRY_AFTER_S
                ) from None
            finally:
                in_flight -= 1
                metrics.in_flight.set(in_flight)

    async def classify_images(images: bytes | list[tuple[str, bytes]]) -> Classification | Results:
        one_by_one = asyncio.Lock()  # the slow pictures of a request, so that it stands in the queue once
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
        pixels = await quick.run(partial(decode, data, at_any_cost=False))
        if pixels is None:
            async with one_by_one:
                pixels = await slow.run(partial(decode, data, at_any_cost=True))
        return await app.state.batcher.classify(pixels)

    @app.get("/v1/info", dependencies=guard, responses=problems(422, *refusals), summary="The bundle and the limits")
    async def info(request: Request) -> Info:
        need_no_fields("query", request.query_params)
        return Info(
            __version__,
            bundle.name,
            classifier.labels,
            bundle.model.precision,
            bundle.input.size_px,
            classifier.mode,
            classifier.threshold,
            classifier.coverage,
            limits,
        )

    @app.get("/healthz", summary="Whether the service runs")
    async def healthz() -> Health:
        return Health("ok")

    @app.get(
        "/metrics",
        dependencies=guard,
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(*refusals)},
    )
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


def run_server(app: FastAPI, host: str, port: int, *, drain_s: float, access_log: bool = False) -> None:
    """Serves until SIGTERM or Ctrl-C; requests at hand then have `drain_s` seconds to finish.

    Raises LogoEdgeError where it cannot listen there; uvicorn has then said why on stderr.
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
            f"{host}, port {port}: cannot be listened on, see above; give an address of this machine by --host, and a "
            "free port by --port (0: any)"
        ) from error


def need_no_fields(where: str, names: Iterable[str]) -> None:
    """Refuses fields of a query or form: to ignore one would be to answer another question."""
    if joined := ", ".join(sorted(set(names))):
        raise problem(
            422,
            f"found the {where} fields {joined[:200]}; expected none. Mode, threshold and coverage are those that the "
            "service was started with: `logo-edge serve --mode strict`",
        )


async def read_body(request: Request, limits: Limits, bodies: Bodies, body: Body) -> bytes | list[tuple[str, bytes]]:
    """The image of a raw body, or (name, content) of each file of a multipart one, read up to the limits."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise HTTPException(
            415,
            f"found content encoding {encoding[:40]!r}; expected none: send the image's own bytes",
            {"Accept-Encoding": "identity"},
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = kind == "multipart/form-data"
    if not is_form and not kind.startswith("image/") and kind != "application/octet-stream":
        raise problem(
            415,
            f"found content type {kind or 'none'!r}; expected an image as the body, with a header such as "
            "Content-Type: image/png, or multipart/form-data with files",
        )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise too_large(limits)
    limited = Request(request.scope, limit_body(request.receive, limits, bodies, body))
    if not is_form:
        if data := await limited.body():
            return data
        raise problem(400, "the body is empty; expected an image")
    parser = MultiPartParser(limited.headers, limited.stream(), max_files=limits.images, max_fields=limits.images)
    parser.spool_max_size = limits.body_bytes + 1  # nothing is written to disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many" in error.message:
            raise problem(413, f"more than {limits.images} parts in the form; send fewer at once") from None
        raise problem(400, f"the multipart body cannot be read: {error.message}") from None
    files = [upload for _, upload in form.multi_items() if isinstance(upload, UploadFile)]
    if not files:
        raise problem(400, "no files in the form; send each image as a file, such as curl -F files=@logo.png")
    need_no_fields("form", (name for name, value in form.multi_items() if not isinstance(value, UploadFile)))
    images = []
    for upload in files:
        images.append((upload.filename or "", await upload.read()))
        await upload.close()
    return images


def limit_body(receive, limits: Limits, bodies: Bodies, body: Body):
    """An ASGI `receive` that accounts for the bytes, and refuses to go on after the limit."""

    async def limited():
        message = await receive()
        bodies.hold(body, len(message.get("body", b"")))
        if body.held_bytes > limits.body_bytes:
            raise too_large(limits)
        return message

    return limited


def bearer_guard(token: str):
    """A dependency that refuses requests without the token; compared in constant time."""

    def guard(found: HTTPAuthorizationCredentials | None = Depends(HTTPBearer(auto_error=False))) -> None:
        if found is None or not hmac.compare_digest(found.credentials.encode(), token.encode()):
            raise HTTPException(401, "expected the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    return guard


def problem(status: int, detail: str, retry_after_s: int | None = None) -> HTTPException:
    headers = None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return HTTPException(status, detail, headers)


def too_large(limits: Limits) -> HTTPException:
    return problem(413, f"the body is larger than {limits.body_bytes:,} bytes; scale the image down, or send fewer")


def problems(*statuses: int) -> dict:
    """The OpenAPI description of these answers."""
    schema = {
        "type": "object",
        "required": ["title", "status", "detail"],
        "properties": {"title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}},
    }
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {PROBLEM: {"schema": schema}}}
        for status in statuses
    }


async def answer_problem(_request: Request, error: StarletteHTTPException) -> JSONResponse:
    content = {"title": HTTPStatus(error.status_code).phrase, "status": error.status_code, "detail": str(error.detail)}
    return JSONResponse(content, error.status_code, error.headers, PROBLEM)


async def answer_refused(request: Request, error: Refused) -> JSONResponse:
    return await answer_problem(request, problem(error.status, error.detail, error.retry_after_s))


async def answer_disconnect(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # which nobody reads


async def answer_mistake(request: Request, _error: Exception) -> JSONResponse:
    return await answer_problem(
        request, StarletteHTTPException(500, "a mistake of the service; its log has the details")
    )


class Meter:
    """ASGI middleware: counts answers and times them, by route; HEAD is answered wherever GET is."""

    def __init__(self, app, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["method"] == "HEAD":  # is answered as GET is, and the server leaves the body out (RFC 9110, 9.3.2)
            scope = scope | {"method": "GET"}
        start, status = time.perf_counter(), 500

        async def watched(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # never the client's own text
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - start)


DESCRIPTION = (
    "Classifies logos, with calibrated confidence; `label` is null where it abstains. Send one image as the body, or "
    "several as files of a form, where a bad image gives its error in its place and spoils no other."
)
REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {"files": {"type": "array", "items": BINARY, "minItems": 1}},
            }
        },
        **{kind: {"schema": BINARY} for kind in ("image/png", "image/jpeg", "image/webp", "application/octet-stream")},
    },
}
