"""The local server of `logo-edge data review`: the page, pictures on demand, and decisions.

It listens on loopback only. Each path begins with a random token, so that other users and pages of this machine
cannot use it; other host names are refused (DNS rebinding). Requests name images by their position in the list.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from logo_edge.errors import ImageError, LogoEdgeError, MissingExtraError
from logo_edge.exits import describe_os_error
from logo_edge.images.load import load_reduced
from logo_edge.pages import encode_webp
from logo_edge.preprocess import InputContract, preprocess
from logo_edge_train.data.images import READERS
from logo_edge_train.review.session import Session
from logo_edge_train.review.sheet import PICTURE_PX

try:
    import uvicorn
    from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as error:
    raise MissingExtraError("serve", error.name or "fastapi") from error

HOST = "127.0.0.1"
LARGE_PX = 800
PAGE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
PICTURE_HEADERS = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
ERRORS = ((ImageError, 422, str), (LogoEdgeError, 409, str), (OSError, 507, describe_os_error))


@dataclass(frozen=True)
class Choice:
    """A label, and whether it is sure; None takes a decision back."""

    label: str | None
    sure: bool | None


@dataclass(frozen=True)
class Decision(Choice):
    """The choice for the row at a position of the list, and the one before that the page knew of, if any."""

    position: int
    before: Choice | None = None


def create_app(session: Session, token: str) -> FastAPI:
    """The ASGI application; it answers on /TOKEN/."""
    reading = threading.BoundedSemaphore(READERS)

    def guard(key: str) -> None:
        if not hmac.compare_digest(key.encode(), token.encode()):
            raise HTTPException(404, "expected the address that `logo-edge data review` has printed")

    def check_position(position: int) -> None:
        if not 0 <= position < len(session.rows):
            raise HTTPException(404, f"no row {position}; expected 0 to {len(session.rows) - 1}")

    def draw(position: int, size_px: int) -> Response:
        check_position(position)
        path = session.manifest.image_path(session.rows[position])
        with reading:
            image, covered = load_reduced(path, size_px)
            pixels = preprocess(image, InputContract(size_px), covered)
        return Response(encode_webp(pixels), media_type="image/webp", headers=PICTURE_HEADERS)

    router = APIRouter(prefix="/{key}", dependencies=[Depends(guard)])

    @router.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(session.page(), headers=PAGE_HEADERS)

    @router.get("/pictures/{position}")
    def picture(position: int) -> Response:
        return draw(position, PICTURE_PX)

    @router.get("/large/{position}")
    def large_picture(position: int) -> Response:
        return draw(position, LARGE_PX)

    @router.post("/decisions")
    def decide(decisions: list[Decision]) -> list[tuple[int, Choice]]:
        """Saves the decisions, and returns those that another page has made meanwhile, which stay."""
        for decision in decisions:
            check_position(decision.position)
            if decision.label is not None and decision.label not in session.classes:
                raise HTTPException(422, f"label {decision.label!r} is no class of the manifest")
        made, known = (
            dict(session.decide(item.position, choice.label, choice.sure) for item, choice in choices)
            for choices in (
                [(item, item) for item in decisions],
                [(item, item.before or Choice(None, None)) for item in decisions],
            )
        )
        others = session.file.save(made, known)
        names = [session.decide(item.position, None, None)[0] for item in decisions]
        kept = [(item.position, others[name]) for item, name in zip(decisions, names, strict=True) if name in others]
        return [(at, Choice(other.label, other.sure) if other else Choice(None, None)) for at, other in kept]

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    for kind, status, describe in ERRORS:
        app.add_exception_handler(kind, partial(answer_error, status, describe))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    app.include_router(router)
    return app


def answer_error(status: int, describe: Callable, _request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": describe(error)}, status)


def serve_review(session: Session, port: int, announce: Callable[[str], None]) -> None:
    """Serves on loopback until Ctrl-C or SIGTERM; calls `announce` with the address, which holds a new token.

    Raises LogoEdgeError if it cannot listen on the port.
    """
    token = secrets.token_urlsafe(32)
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise LogoEdgeError(f"{HOST}, port {port}: {error.strerror}; give a free port by --port (0: any)") from error
    with listener:
        announce(f"http://{HOST}:{listener.getsockname()[1]}/{token}/")
        config = uvicorn.Config(create_app(session, token), log_level="warning", server_header=False)
        with suppress(KeyboardInterrupt):  # raised again at the end, when all is answered
            uvicorn.Server(config).run([listener])
