"""Answers that refuse a request: problem details, RFC 9457."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from logo_edge.server.limits import Limits, Refused

PROBLEM = "application/problem+json"
SCHEMA = {
    "type": "object",
    "required": ["title", "status", "detail"],
    "properties": {"title": {"type": "string"}, "status": {"type": "integer"}, "detail": {"type": "string"}},
}


def problem(status: int, detail: str, retry_after_s: int | None = None) -> HTTPException:
    headers = None if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return HTTPException(status, detail, headers)


def too_large(limits: Limits) -> HTTPException:
    return problem(413, f"the body is larger than {limits.body_bytes:,} bytes; scale the image down, or send fewer")


def problem_responses(*statuses: int) -> dict:
    """The OpenAPI description of answers with these statuses."""
    content = {PROBLEM: {"schema": SCHEMA}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


async def answer_problem(_request: Request, error: StarletteHTTPException) -> JSONResponse:
    content = {"title": HTTPStatus(error.status_code).phrase, "status": error.status_code, "detail": str(error.detail)}
    return JSONResponse(content, error.status_code, error.headers, PROBLEM)


async def answer_refused(request: Request, error: Refused) -> JSONResponse:
    return await answer_problem(request, problem(error.status, error.detail, error.retry_after_s))


async def answer_disconnect(_request: Request, _error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody reads it


async def answer_internal_error(request: Request, _error: Exception) -> JSONResponse:
    return await answer_problem(request, problem(500, "an internal error of the service; its log has the details"))
