"""`logo-edge serve`: answers and refusals, and no input that breaks it, blocks it or fills its memory."""

from __future__ import annotations

import gzip
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import schemathesis
from fuzz.bombs import bombs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutate import encode, hostile, mutations
from pictures import marked
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks
from serving import running
from typer.testing import CliRunner

from logo_edge import Classifier, Rejection
from logo_edge.bundle.calibration import Familiarity
from logo_edge.cli.serve import is_loopback, read_token, serve
from logo_edge.errors import LogoEdgeError
from logo_edge.server.app import create_app
from logo_edge.server.limits import Limits

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
PNG = {"Content-Type": "image/png"}
LONGEST_S = 2.0  # of CPU time that an answer to a bad image may take; a loaded machine stretches any other
TOKEN = "0123456789abcdef"


def png_of(colour: str) -> bytes:
    return encode(marked(COLOURS[colour], (30, 20)))["PNG"]


@pytest.fixture
def classifier(fake_bundle) -> Classifier:
    return Classifier.load(fake_bundle())


@pytest.fixture
def client(classifier) -> Iterator[httpx.Client]:
    with running(create_app(classifier)) as opened:
        yield opened


class Gate:
    """Wraps a function of the classifier: calls wait until the gate is open; `waiting` counts them."""

    def __init__(self, function: Callable):
        self._function, self._open, self.waiting = function, threading.Event(), threading.Semaphore(0)

    def __call__(self, *arguments, **options):
        self.waiting.release()
        assert self._open.wait(60)
        return self._function(*arguments, **options)

    def open(self) -> None:
        self._open.set()

    def await_callers(self, count: int) -> None:
        for _ in range(count):
            assert self.waiting.acquire(timeout=60)


@pytest.fixture
def gate(classifier, monkeypatch) -> Iterator[Gate]:
    """A gate before decoding."""
    decode_gate = Gate(classifier.read_pixels)
    monkeypatch.setattr(classifier, "read_pixels", decode_gate)
    yield decode_gate
    decode_gate.open()


def post(client: httpx.Client, data: bytes, **headers) -> httpx.Response:
    return client.post("/v1/classify", content=data, headers=PNG | headers)


def post_files(client: httpx.Client, *files: tuple[str, bytes]) -> httpx.Response:
    return client.post("/v1/classify", files=[("files", file) for file in files])


def metric(client: httpx.Client, name: str, **labels) -> float:
    """The sum of the samples with that name and these labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def open_socket(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=60)


def accepts_connections(client: httpx.Client) -> bool:
    try:
        open_socket(client).close()
    except ConnectionRefusedError:
        return False
    return True


def request_head(length: int) -> bytes:
    """The head of a request whose body is still to come."""
    head = "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: "
    return f"{head}{length}\r\n\r\n".encode()


def test_a_raw_image_gives_its_classification(client, classifier):
    for colour in COLOURS:
        response, expected = post(client, png_of(colour)), classifier.classify(png_of(colour))
        answer = response.json()
        assert response.status_code == 200
        assert (answer["label"], answer["best_guess"]) == (expected.label, expected.best_guess)
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert answer["reason"] == "low_confidence"  # of grey


def test_files_of_a_form_are_answered_in_order_and_a_bad_one_affects_no_other(client):
    files = [("a.png", png_of("blue")), ("b.png", b"no image"), ("c.png", png_of("grey")), ("blau.jpg", png_of("red"))]
    response = post_files(client, *files)
    results = response.json()["results"]
    assert response.status_code == 200
    assert [result["name"] for result in results] == [name for name, _ in files]
    assert [result["classification"] and result["classification"]["label"] for result in results] == [
        "blue",
        None,
        None,
        "red",
    ]
    assert [result["classification"] is None for result in results] == [False, True, False, False]
    assert "not an image" in results[1]["error"]


def test_a_full_batch_of_files_is_classified(client):
    colours = [list(COLOURS)[index % 3] for index in range(64)]
    results = post_files(client, *((colour, png_of(colour)) for colour in colours)).json()["results"]
    assert [result["classification"]["label"] for result in results] == colours


def test_info_gives_the_bundle_and_the_limits(client):
    info = client.get("/v1/info").json()
    assert (info["bundle"], info["labels"], info["mode"], info["size_px"]) == (
        "fake",
        ["red", "green", "blue"],
        "balanced",
        16,
    )
    assert info["limits"]["requests"] == Limits().requests
    assert client.get("/healthz").json() == {"status": "ok"}
    assert "Classify images" in client.get("/openapi.json").text
    assert client.get("/docs").status_code == 200


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, {"content": b"", "headers": PNG}),
        (400, {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}),
        (400, {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}),
        (
            400,
            {
                "content": b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nxyz',
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
        ),
        (400, {"files": {"note": (None, "a field, no file")}}),
        (413, {"content": bytes(100_001), "headers": PNG}),
        (413, {"content": (bytes(50_000) for _ in range(3)), "headers": PNG}),
        (413, {"files": [("files", ("a.png", bytes(100_001)))]}),
        (413, {"files": [("files", ("a.png", png_of("red")))] * 5}),
        (415, {"content": png_of("red")}),
        (415, {"content": png_of("red"), "headers": {"Content-Type": "text/html"}}),
        (415, {"data": {"files": "x"}}),
        (422, {"content": b"no image", "headers": PNG}),
        (422, {"content": encode(Image.new("RGB", (101, 100)))["PNG"], "headers": PNG}),
    ],
)
def test_a_refusal_gives_its_reason(classifier, status, request_):
    limits = Limits(body_bytes=100_000, images=4, pixels=10_000)
    with running(create_app(classifier, limits)) as client:
        response = client.post("/v1/classify", **request_)
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        assert response.json()["status"] == status
        assert len(response.json()["detail"]) > 20
        assert post(client, png_of("red")).json()["label"] == "red"


def test_too_many_requests_at_once_get_retry_after(classifier, gate):
    with (
        running(create_app(classifier, Limits(requests=3, workers=3, timeout_s=60))) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        answers = [pool.submit(post, client, png_of("red")) for _ in range(3)]
        gate.await_callers(3)
        refused = post(client, png_of("red"))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/healthz").status_code == 200
        assert metric(client, "logo_edge_requests_in_flight") == 3
        gate.open()
        assert [answer.result().status_code for answer in answers] == [200, 200, 200]
        assert post(client, png_of("red")).status_code == 200
        assert metric(client, "logo_edge_requests_in_flight") == 0


def test_an_image_that_takes_too_long_makes_room_for_others(classifier, gate):
    with running(create_app(classifier, Limits(requests=1, timeout_s=0.2, workers=2))) as client:
        response = post(client, png_of("red"))
        assert (response.status_code, response.headers["retry-after"]) == (504, "1")
        gate.open()
        assert post(client, png_of("red")).status_code == 200


def test_a_body_that_does_not_arrive_makes_room_for_others(classifier):
    with running(create_app(classifier, Limits(requests=1, timeout_s=0.2))) as client:
        with open_socket(client) as slow:
            slow.sendall(request_head(99) + b"\x89P")
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        with open_socket(client) as gone:
            gone.sendall(request_head(99) + b"\x89P")
        assert post(client, png_of("red")).status_code == 200


def test_with_a_token_only_clients_that_send_it_are_answered(classifier):
    with running(create_app(classifier, token=TOKEN)) as client:
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": TOKEN},
        ):
            for answer in (
                post(client, png_of("red"), **headers),
                client.get("/v1/info", headers=headers),
                client.get("/metrics", headers=headers),
            ):
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert client.get("/healthz").status_code == 200
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert post(client, png_of("red"), **bearer).json()["label"] == "red"
        assert 'path="/v1/classify",status="401"' in client.get("/metrics", headers=bearer).text


def test_metrics_count_answers(client):
    for colour in ("red", "red", "grey"):
        post(client, png_of(colour))
    post(client, b"no image")
    client.get("/nowhere")
    assert metric(client, "logo_edge_requests_total", path="/v1/classify", status="200") == 3
    assert metric(client, "logo_edge_requests_total", path="/v1/classify", status="422") == 1
    assert metric(client, "logo_edge_requests_total", path="other", status="404") == 1
    images = {
        key: metric(client, "logo_edge_images_total", outcome=key[0], label=key[1])
        for key in (("labelled", "red"), ("labelled", "blue"), ("abstained", ""), ("unreadable", ""))
    }
    assert list(images.values()) == [2, 0, 1, 1]
    assert metric(client, "logo_edge_batch_size_sum") == metric(client, "logo_edge_decode_seconds_count") - 1 == 3
    assert metric(client, "process_resident_memory_bytes") > 1e7


def test_images_that_arrive_while_the_network_is_busy_are_classified_together(classifier, monkeypatch):
    gate, sizes = Gate(classifier.classify_pixels), []
    monkeypatch.setattr(classifier, "classify_pixels", lambda pixels: sizes.append(len(pixels)) or gate(pixels))
    colours = [list(COLOURS)[index % 3] for index in range(20)]
    with (
        running(create_app(classifier, Limits(workers=1, batch=8, timeout_s=60))) as client,
        ThreadPoolExecutor(21) as pool,
    ):
        first = pool.submit(post, client, png_of("red"))
        gate.await_callers(1)
        answers = [pool.submit(post, client, png_of(colour)) for colour in colours]
        while metric(client, "logo_edge_decode_seconds_count") < 21:
            time.sleep(0.01)
        gate.open()
        assert first.result().json()["label"] == "red"
        assert [answer.result().json()["label"] for answer in answers] == colours
    assert sizes[0] == 1
    assert sum(sizes) == 21
    assert max(sizes) == 8
    assert len(sizes) <= 5


def test_with_a_delay_a_batch_waits_for_more(classifier, monkeypatch):
    sizes, classify = [], classifier.classify_pixels
    monkeypatch.setattr(classifier, "classify_pixels", lambda pixels: sizes.append(len(pixels)) or classify(pixels))
    with running(create_app(classifier, Limits(workers=1, batch=4, batch_delay_ms=20_000, timeout_s=60))) as client:
        assert post_files(client, *[("x", png_of("blue"))] * 4).status_code == 200
    assert sizes == [4]


def test_an_internal_error_is_not_an_error_of_the_client(classifier, monkeypatch):
    broken, classify = threading.Event(), classifier.classify_pixels
    broken.set()
    monkeypatch.setattr(classifier, "classify_pixels", lambda pixels: 1 / 0 if broken.is_set() else classify(pixels))
    with running(create_app(classifier)) as client:
        response = post(client, png_of("red"))
        assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
        assert "division" not in response.text
        broken.clear()
        with httpx.Client(base_url=client.base_url) as reconnected:  # uvicorn has closed the connection
            assert post(reconnected, png_of("red")).status_code == 200
            assert metric(reconnected, "logo_edge_requests_total", status="500") == 1


def test_slow_bodies_do_not_block_other_clients(classifier):
    with running(create_app(classifier, Limits(bodies=20, requests=2, timeout_s=60))) as client, ExitStack() as stack:
        slow = [stack.enter_context(open_socket(client)) for _ in range(25)]
        for index, connection in enumerate(slow):
            connection.sendall(request_head(99) + b"\x89")
            while metric(client, "logo_edge_bodies_arriving") < min(index + 1, 20):
                time.sleep(0.005)
        assert metric(client, "logo_edge_requests_in_flight") == 0
        for colour in ("red", "green", "blue"):
            assert post(client, png_of(colour)).json()["label"] == colour
        assert all(connection.recv(4096).startswith(b"HTTP/1.1 408 ") for connection in slow[:5])  # the oldest gave way


def test_all_bodies_together_stay_within_their_memory(classifier):
    limits = Limits(body_bytes=100_000, held_bytes=250_000, timeout_s=60)
    with running(create_app(classifier, limits)) as client, ExitStack() as stack:
        slow = [stack.enter_context(open_socket(client)) for _ in range(3)]
        for index, connection in enumerate(slow):
            connection.sendall(request_head(99_999) + bytes(90_000))
            while metric(client, "logo_edge_bodies_arriving") < min(index + 1, 2):
                time.sleep(0.005)
        assert slow[0].recv(4096).startswith(b"HTTP/1.1 408 ")
        assert post(client, png_of("red")).json()["label"] == "red"
    with running(create_app(classifier, Limits(held_bytes=1000))) as client:
        refused = post(client, bytes(2000))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert post(client, png_of("red")).status_code == 200


def test_a_body_as_large_as_max_mb_has_memory(monkeypatch):
    kept = []
    monkeypatch.setattr("logo_edge.server.app.create_app", lambda _, limits, **__: kept.append(limits))
    monkeypatch.setattr("logo_edge.server.app.run_server", lambda *_, **__: None)
    for size in ("16", "100"):
        assert CliRunner().invoke(serve, ["--max-mb", size]).exit_code == 0
    assert [limits.held_bytes >> 20 for limits in kept] == [64, 200]


TURBULENCE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><filter id="f"><feTurbulence baseFrequency=".9" '
    b'numOctaves="99999"/></filter><rect width="9" height="9" filter="url(#f)"/></svg>'
)


def test_costly_drawings_wait_in_their_own_short_queue_while_others_are_answered(classifier):
    limits = Limits(workers=2, queue=2, drawing_s=0.3)
    with running(create_app(classifier, limits)) as client, ThreadPoolExecutor(8) as pool:
        drawings = [pool.submit(post, client, TURBULENCE) for _ in range(8)]
        meanwhile = []
        while not all(drawing.done() for drawing in drawings):
            start = time.monotonic()
            meanwhile.append((post(client, png_of("red")).status_code, time.monotonic() - start))
        statuses = [drawing.result().status_code for drawing in drawings]
        assert post(client, SQUARE).json()["label"] == "red"
    assert set(statuses) == {422, 503}
    assert statuses.count(503) >= 4
    assert all(
        "try again" in drawing.result().json()["detail"] for drawing in drawings if drawing.result().status_code == 503
    )
    assert {status for status, _ in meanwhile} == {200}
    assert (
        max(seconds for _, seconds in meanwhile) < 1.0
    )  # the drawings alone take 0.9 s of CPU time, one after another


SQUARE = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><rect width="9" height="8" fill="red"/></svg>'


def test_the_drawings_of_one_request_are_in_the_queue_once(classifier):
    with running(create_app(classifier, Limits(queue=0))) as client:
        results = post_files(client, *[("a.svg", SQUARE)] * 5).json()["results"]
    assert [result["classification"]["label"] for result in results] == ["red"] * 5


def test_large_pictures_do_not_block_small_ones(classifier, monkeypatch):
    limits, read = Limits(workers=1, queue=0, quick_pixels=1000, timeout_s=60), classifier.read_pixels
    gate = Gate(read)
    monkeypatch.setattr(
        classifier, "read_pixels", lambda data, **options: (gate if len(data) > 5000 else read)(data, **options)
    )
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    large = encode(Image.fromarray(noise))["PNG"]
    assert len(large) > 5000
    with running(create_app(classifier, limits)) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, client, large)
        gate.await_callers(1)
        assert post(client, png_of("red")).json()["label"] == "red"
        assert post(client, large).status_code == 503
        gate.open()
        assert answer.result().status_code == 200


def test_without_drawings_an_svg_is_refused_and_a_picture_is_not(classifier):
    with running(create_app(classifier, Limits(drawings=False))) as client:
        assert "reads none" in post(client, SQUARE).json()["detail"]
        assert post(client, png_of("blue")).json()["label"] == "blue"


def test_unknown_queries_form_fields_and_encodings_are_refused(client):
    for path, ask in (("/v1/classify", client.post), ("/v1/info", client.get)):
        refused = ask(
            path, params={"mode": "strict"}, **({"content": png_of("red"), "headers": PNG} if "class" in path else {})
        )
        assert (refused.status_code, "mode" in refused.json()["detail"]) == (422, True)
    form = client.post("/v1/classify", data={"mode": "strict"}, files={"files": ("a.png", png_of("red"), "image/png")})
    assert (form.status_code, "form fields mode" in form.json()["detail"]) == (422, True)
    packed = post(client, gzip.compress(png_of("red")), **{"Content-Encoding": "gzip"})
    assert (packed.status_code, packed.headers["accept-encoding"]) == (415, "identity")
    assert post(client, png_of("red"), **{"Content-Encoding": "identity"}).status_code == 200


def test_head_is_answered_wherever_get_is(client):
    for path in ("/healthz", "/v1/info", "/metrics", "/docs"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert client.head("/nowhere").status_code == 404


def test_a_picture_of_no_logo_is_answered_and_counted_as_such(fake_bundle):
    with running(create_app(Classifier.load(fake_bundle(familiarity=Familiarity(100.0, 0.05))))) as client:
        answer = post(client, png_of("red")).json()
        assert (answer["label"], answer["reason"], answer["is_logo"]) == (None, "not_a_logo", False)
        assert answer["logo_score"] < 100
        counted = {
            reason: metric(client, "logo_edge_images_total", outcome="abstained", reason=reason) for reason in Rejection
        }
        assert counted == {"blank": 0, "not_a_logo": 1, "low_confidence": 0, "no_label": 0}


def test_labels_named_like_outcomes_are_counted_separately(fake_bundle):
    with running(create_app(Classifier.load(fake_bundle(labels=("unreadable", "abstained", "blue"))))) as client:
        assert post(client, png_of("red")).json()["label"] == "unreadable"
        post(client, b"no image")
        assert metric(client, "logo_edge_images_total", outcome="labelled", label="unreadable") == 1
        assert metric(client, "logo_edge_images_total", outcome="unreadable") == 1
        assert metric(client, "logo_edge_images_total", outcome="abstained") == 0


def test_a_form_is_never_written_to_disk(classifier, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: 1 / 0)
    noise = encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)))["PNG"]
    assert len(noise) > 2_000_000
    with running(create_app(classifier)) as client:
        assert post_files(client, ("a.png", noise)).status_code == 200


def test_a_full_log_is_counted_and_changes_no_answer(classifier, tmp_path):
    with running(create_app(classifier, log="/dev/full")) as client:
        assert [post(client, png_of("red")).status_code for _ in range(3)] == [200] * 3
        assert metric(client, "logo_edge_log_failures") == 3


def test_predictions_are_logged_without_images(classifier, tmp_path):
    with running(create_app(classifier, log=tmp_path / "log.jsonl")) as client:
        post(client, png_of("red"))
        post_files(client, ("secret-name.png", png_of("blue")), ("bad.png", b"x"))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert "secret" not in "".join(lines)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.slow
def test_damaged_and_hostile_images_get_clear_answers_in_time_and_in_bounded_memory(classifier):
    bad = [*hostile().items(), *mutations(seed=7, count=800)]
    assert len({name.split()[0] for name, _ in bad}) >= 15
    process, statuses = psutil.Process(), {}
    with running(create_app(classifier)) as client:
        for _, data in bad[:200]:
            post(client, data)
        before = process.memory_info().rss
        for name, data in bad:
            start = time.process_time()
            response = post(client, data)
            assert time.process_time() - start < LONGEST_S, name
            assert response.status_code in ((400,) if not data else (200, 422)), (name, response.text)
            assert response.status_code == 200 or len(response.json()["detail"]) > 20, name
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        for start in range(0, len(bad), 16):
            batch = [*bad[start : start + 16], ("good", png_of("green"))]
            results = post_files(client, *batch).json()["results"]
            assert len(results) == len(batch)
            assert all(bool(result["error"]) == (result["classification"] is None) for result in results)
            assert results[-1]["classification"]["label"] == "green"
        assert post(client, png_of("red")).json()["label"] == "red"
    assert min(statuses[200], statuses[422]) > 50
    assert process.memory_info().rss - before < 200_000_000


def raw_images() -> st.SearchStrategy[bytes]:
    proper = st.sampled_from([png_of(colour) for colour in COLOURS])
    return st.one_of(
        proper, st.binary(max_size=200), st.tuples(proper, st.integers(0, 90)).map(lambda cut: cut[0][: cut[1]])
    )


for media_type in ("image/png", "image/jpeg", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, raw_images())
schemathesis.openapi.format("binary", raw_images())


@pytest.mark.parametrize(
    "mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE], ids=["fit", "unfit"]
)
@pytest.mark.slow
def test_the_service_follows_its_openapi_document(classifier, mode):
    """Status codes, content types and bodies match the document, for valid and invalid input."""
    expected = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.response_headers_conformance,
        checks.ignored_auth,
        checks.unsupported_method,
    ]
    seen, app = set(), create_app(classifier, Limits(body_bytes=100_000, images=4), token=TOKEN)
    with running(app) as client:
        schema = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()
            if mode == schemathesis.GenerationMode.NEGATIVE and not operation.body.items:
                continue  # nothing that could be unfit

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            def check(case):
                response = case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, checks=expected)
                seen.add((case.operation.label, response.status_code))

            check()
    if mode == schemathesis.GenerationMode.POSITIVE:
        assert {("POST /v1/classify", 200), ("POST /v1/classify", 422), ("GET /v1/info", 200)} <= seen
    assert {label for label, _ in seen} >= {"POST /v1/classify"}


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("edge.example", False),
    ],
)
def test_only_this_machine_is_loopback(host, local):
    assert is_loopback(host) == local


def test_the_token_comes_from_the_environment_or_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv("LOGO_EDGE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("LOGO_EDGE_TOKEN", TOKEN)
    assert read_token(None) == TOKEN
    (tmp_path / "token").write_text("of-the-file\n")
    assert read_token(tmp_path / "token") == "of-the-file"
    for text in ("", "two words", "blank\u00e4"):
        (tmp_path / "token").write_text(text, encoding="utf-8")
        with pytest.raises(Exception, match="expected one such as"):
            read_token(tmp_path / "token")
    monkeypatch.setenv("LOGO_EDGE_TOKEN", "")
    with pytest.raises(Exception, match="empty token"):
        read_token(None)
    with pytest.raises(Exception, match="No such file"):
        read_token(tmp_path / "missing")


def test_without_the_extra_the_verb_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "logo_edge.server.app")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    result = CliRunner().invoke(serve, [])
    assert "pip install 'logo-edge[serve]'" in str(result.exception)


def test_the_service_keeps_to_its_cores_and_spins_if_told_to(fake_bundle, monkeypatch):
    cores, kept = {min(os.sched_getaffinity(0))}, []
    loaded = Classifier.load

    def load(bundle, **options):
        kept.append((set(options["cores"] or ()), options["spinning"]))
        return loaded(bundle, **options)

    monkeypatch.setattr(Classifier, "load", load)
    monkeypatch.setattr("logo_edge.server.app.run_server", lambda *_, **__: kept.append(os.sched_getaffinity(0)))
    before, arguments = os.sched_getaffinity(0), ["--bundle", str(fake_bundle())]
    done = CliRunner().invoke(serve, [*arguments, "--cores", str(min(cores)), "--spinning"])
    assert done.exit_code == 0, done.exception
    assert kept == [(cores, True), cores]
    assert os.sched_getaffinity(0) == before
    assert CliRunner().invoke(serve, arguments).exit_code == 0
    assert kept[2:] == [(set(), False), before]
    assert CliRunner().invoke(serve, ["--cores", "x", *arguments]).exit_code == 2


@contextmanager
def served(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen, httpx.Client]]:
    """The command as a shell runs it, and a client of it."""
    code = "from logo_edge.cli.serve import serve; serve()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if match := re.search(r"running on (http://\S+)", line):
                break
        else:
            raise AssertionError("".join(lines))
        with httpx.Client(base_url=match[1].replace("0.0.0.0", "127.0.0.1"), timeout=60) as client:
            client.started = "".join(lines)
            yield process, client
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_stop_lets_current_requests_finish(fake_bundle):
    data = png_of("green")
    with served("--bundle", str(fake_bundle())) as (process, client):
        assert client.base_url.host == "127.0.0.1"
        assert {
            connection.laddr.ip
            for connection in psutil.Process(process.pid).net_connections()
            if connection.status == "LISTEN"
        } == {"127.0.0.1"}
        with open_socket(client) as half:
            half.sendall(request_head(len(data)) + data[:20])
            while metric(client, "logo_edge_bodies_arriving") < 1:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            while accepts_connections(client):
                time.sleep(0.02)
            assert process.poll() is None
            half.sendall(data[20:])
            answer = b"".join(iter(lambda: half.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"label":"green"' in answer
        process.wait(60)


def test_beyond_this_machine_it_needs_a_token_or_no_token(fake_bundle, monkeypatch):
    monkeypatch.delenv("LOGO_EDGE_TOKEN", raising=False)
    bundle = str(fake_bundle())
    for host in ("0.0.0.0", "::", "192.168.1.2"):
        refused = CliRunner().invoke(serve, ["--bundle", bundle, "--host", host])
        assert isinstance(refused.exception, LogoEdgeError)
        assert "set LOGO_EDGE_TOKEN" in str(refused.exception)
    with served("--bundle", bundle, "--host", "0.0.0.0", "--no-token") as (_, client):
        assert client.get("/v1/info").status_code == 200
    with served("--bundle", bundle, "--host", "0.0.0.0", LOGO_EDGE_TOKEN=TOKEN) as (_, client):
        assert client.get("/v1/info").status_code == 401
        assert client.get("/v1/info", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("name", ["logo_edge.cli.main", "logo_edge.cli.serve"])
def test_the_verb_costs_nothing_until_it_is_called(name):
    code = f"import sys, {name}; print([m for m in ('fastapi', 'uvicorn', 'torch', 'onnx') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_default_bundle_answers_as_the_runtime_does():
    classifier = Classifier.load()
    samples = sorted((Path(__file__).parents[2] / "runtime/logo_edge/samples").glob("*.png"))
    assert len(samples) >= 8
    with running(create_app(classifier, Limits(batch=4))) as client:
        results = post_files(client, *((path.name, path.read_bytes()) for path in samples)).json()["results"]
    for path, result in zip(samples, results, strict=True):
        expected = classifier.classify(path)
        assert result["classification"]["label"] == expected.label
        probabilities = np.array(list(result["classification"]["probabilities"].values()))
        assert probabilities == pytest.approx(list(expected.probabilities.values()), abs=1e-4)


@pytest.mark.slow
def test_a_jpeg_above_the_pixel_limit_is_decoded_reduced_and_containers_are_checked(classifier):
    picture, icon = Image.new("RGB", (300, 200), "red"), bombs()["ico of a png"]
    picture.paste("maroon", (0, 0, 60, 60))  # so that it is not blank
    phone = encode(picture)["JPEG"]
    with running(create_app(classifier, Limits(pixels=20_000))) as client:
        assert post(client, phone).json()["label"] == "red"
        assert "at most 20,000 are read" in post(client, encode(Image.new("RGB", (300, 200)))["PNG"]).json()["detail"]
        assert "13000 x 13000 pixels" in post(client, icon).json()["detail"]
