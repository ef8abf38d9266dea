"""Reads the images of a request, raw or multipart, up to the limits."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from logo_edge.server.limits import Bodies, Body, Limits
from logo_edge.server.problem import problem, too_large

BINARY = {"type": "string", "format": "binary"}
RAW_TYPES = ("image/png", "image/jpeg", "image/webp", "application/octet-stream")  # that the documentation names
FORM = {
    "type": "object",
    "required": ["files"],
    "properties": {"files": {"type": "array", "items": BINARY, "minItems": 1}},
}
REQUEST_BODY = {  # for OpenAPI
    "required": True,
    "content": {"multipart/form-data": {"schema": FORM}, **{kind: {"schema": BINARY} for kind in RAW_TYPES}},
}


async def read_body(request: Request, limits: Limits, bodies: Bodies, body: Body) -> bytes | list[tuple[str, bytes]]:
    """The image of a raw body, or (name, content) of each file of a multipart one."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        detail = f"found content encoding {encoding[:40]!r}; expected none: send the image's own bytes"
        raise HTTPException(415, detail, {"Accept-Encoding": "identity"})
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
    limited = Request(request.scope, _limited(request.receive, limits, bodies, body))
    if is_form:
        return await _read_form(limited, limits)
    if data := await limited.body():
        return data
    raise problem(400, "the body is empty; expected an image")


async def _read_form(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    parser = MultiPartParser(request.headers, request.stream(), max_files=limits.images, max_fields=limits.images)
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
    refuse_fields("form", (name for name, value in form.multi_items() if not isinstance(value, UploadFile)))
    images = []
    for upload in files:
        images.append((upload.filename or "", await upload.read()))
        await upload.close()
    return images


def refuse_fields(where: str, names: Iterable[str]) -> None:
    """Refuses fields of a query or form: a client that sends one expects it to change the answer."""
    if joined := ", ".join(sorted(set(names))):
        raise problem(
            422,
            f"found the {where} fields {joined[:200]}; expected none. The service uses the mode, threshold and "
            "coverage that it was started with: `logo-edge serve --mode strict`",
        )


def _limited(receive, limits: Limits, bodies: Bodies, body: Body):
    """An ASGI `receive` that counts the bytes, and raises beyond the limit."""

    async def receive_limited():
        message = await receive()
        bodies.hold(body, len(message.get("body", b"")))
        if body.held_bytes > limits.body_bytes:
            raise too_large(limits)
        return message

    return receive_limited
