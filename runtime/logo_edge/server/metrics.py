"""The service's counters and times, which /metrics shows for Prometheus."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from logo_edge import __version__
from logo_edge.results import Classification, Rejection

LABELLED, ABSTAINED, UNREADABLE = "labelled", "abstained", "unreadable"  # outcomes of an image
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # bounds of the histograms
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)  # bounds of the histogram


class Metrics:
    """The metrics of one application, in a registry of its own."""

    def __init__(self, bundle: str, labels: tuple[str, ...]):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def seconds(name: str, text: str, *label_names: str) -> Histogram:
            return Histogram(f"logo_edge_{name}", text, label_names, buckets=SECONDS, registry=registry)

        def gauge(name: str, text: str, *label_names: str) -> Gauge:
            return Gauge(f"logo_edge_{name}", text, label_names, registry=registry)

        self.requests = Counter("logo_edge_requests", "Answered requests.", ["path", "status"], registry=registry)
        self.seconds = seconds("request_seconds", "From a request's head to the end of its answer.", "path")
        self.in_flight = gauge("requests_in_flight", "Classify requests being answered.")
        self.arriving = gauge("bodies_arriving", "Bodies that are not there yet.")
        self.log_failures = gauge("log_failures", "Predictions that --log could not write.")
        outcomes = "Images by outcome: labelled (as label, of several the likeliest), abstained (reason) or unreadable."
        names = ["outcome", "label", "reason"]
        self.images = Counter("logo_edge_images", outcomes, names, registry=registry)
        passes = "Images of a forward pass."
        self.batches = Histogram("logo_edge_batch_size", passes, buckets=BATCH_SIZES, registry=registry)
        self.decode = seconds("decode_seconds", "Decoding and preprocessing of an image.")
        self.forward = seconds("forward_seconds", "A forward pass and its decisions.")
        gauge("bundle", "The bundle that answers.", "name", "version").labels(bundle, __version__).set(1)
        for label in labels:
            self.images.labels(LABELLED, label, "")
        for reason in Rejection:
            self.images.labels(ABSTAINED, "", reason)
        self.images.labels(UNREADABLE, "", "")

    def count_image(self, result: Classification) -> None:
        outcome = LABELLED if result.reason is None else ABSTAINED
        self.images.labels(outcome, result.label or "", result.reason or "").inc()

    def count_unreadable(self) -> None:
        self.images.labels(UNREADABLE, "", "").inc()


class Meter:
    """ASGI middleware: counts and times answers by route; answers HEAD wherever GET is answered."""

    def __init__(self, app, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if scope["method"] == "HEAD":  # answered as GET; the server leaves the body out (RFC 9110, 9.3.2)
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
