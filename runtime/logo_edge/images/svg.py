"""SVG -> pixels (extra `svg`), by resvg in a child process that hostile drawings cannot leave.

A drawing that names another file or address to load is refused. The child has little memory and time and, unless text
needs the system's fonts, cannot open a file. It is a separate process because some drawings of a few bytes make resvg
abort.
"""

from __future__ import annotations

import atexit
import codecs
import os
import re
import struct
import sys
import threading
import zlib
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from xml.parsers import expat

from logo_edge.errors import ImageError
from logo_edge.forks import after_fork, never_free

if TYPE_CHECKING:
    import subprocess

RENDER_PX = 512  # of the longer side: the size at which the project's own logos were rendered
LIMIT_S = 1.5  # of CPU time
PATIENCE = 5  # times LIMIT_S by the clock, as other work on the machine may slow the drawing down
EMBEDDED = re.compile(r"\s*data:image/(png|jpe?g|gif|webp)[;,]", re.IGNORECASE)
MAX_BYTES = 32 * 1024 * 1024  # of a document, uncompressed
GZIP = b"\x1f\x8b"
UTF_16 = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
ONE_BYTE = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["'](iso-8859-\d{1,2}|windows-125\d)["']""", re.IGNORECASE)
ROOT = re.compile(rb"<([\w.-]{1,99}:)?svg[\s/>]")
LOADING = ("image", "feImage")  # the elements whose href resvg follows
TEXT = ("text", "tspan", "textPath")


def is_svg(data: bytes) -> bool:
    """Whether the bytes look like an SVG document, compressed (.svgz) or not, in any encoding that is read."""
    start = _unpack(data[:65536], 4096)[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    return start.startswith(b"<") and ROOT.search(start) is not None


def render_svg(data: bytes, name: str, renderer: Renderer | None = None) -> bytes:
    """PNG bytes, RGBA, the longer side RENDER_PX, from this renderer or the process's own.

    Raises ImageError where the document is no SVG, loads something from outside, needs more CPU time than the renderer
    allows or too much memory, or the extra `svg` is not installed.
    """
    if find_spec("resvg_py") is None:
        raise ImageError(f"{name}: an SVG drawing; to read those: pip install 'logo-edge[svg]'")
    data = _unpack(data, MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name}: an SVG drawing of more than {MAX_BYTES:,} bytes; simplify it, or convert it to PNG")
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(
            f"{name}: an SVG drawing that is neither UTF-8 nor UTF-16 ({error}); save it as UTF-8"
        ) from error
    has_text = _inspect(data, name)
    return (renderer or _RENDERER).render(data, has_text, name)


def _unpack(data: bytes, most: int) -> bytes:
    """The document as UTF-8, up to `most` bytes, from gzip (.svgz), UTF-16 or a declared ISO 8859; up to any damage."""
    if data.startswith(GZIP):
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, 2 * most + 2)  # of UTF-16, with its mark
        except zlib.error:
            return b""
    encoding = UTF_16.get(data[:2])
    if declared := ONE_BYTE.match(data[:200].lstrip()):  # as older drawing programs write it
        with suppress(LookupError):
            encoding = codecs.lookup(declared[1].decode()).name
    return data[: 2 * most + 2].decode(encoding, "replace").encode() if encoding else data


def _inspect(data: bytes, name: str) -> bool:
    """Whether the document has text. Raises ImageError where it is not well-formed, or loads from outside."""
    root, has_text = "", False

    def refuse(what: str) -> None:
        raise ImageError(f"{name}: an SVG drawing that loads {what}; embed it, or convert the drawing to PNG")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal root, has_text
        local = tag.rpartition(":")[2]
        root = root or local
        if root != "svg":
            raise ImageError(f"{name}: starts with <{tag}>; expected <svg>")
        has_text |= local in TEXT
        if local in LOADING:
            for key, value in attributes.items():
                if key.rpartition(":")[2] == "href" and not value.startswith("#") and not EMBEDDED.match(value):
                    refuse(f"{value[:80]!r}")

    def entity(entity_name, is_parameter, value, base, system_id, public_id, notation) -> None:
        if system_id is not None or is_parameter:
            refuse(f"the external entity {entity_name!r}")

    parser = expat.ParserCreate("utf-8")  # overrides the declaration, which may say UTF-16
    parser.StartElementHandler, parser.EntityDeclHandler = start, entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ImageError(f"{name}: a damaged SVG drawing ({error})") from error
    return has_text


class Renderer:
    """A child process, started at the first use and again after it has died; safe to share between threads."""

    def __init__(self, limit_s: float = LIMIT_S):
        """`limit_s`: CPU time that a drawing may take, in seconds."""
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._child: subprocess.Popen | None = None
        atexit.register(self.close)
        after_fork(self)

    def render(self, data: bytes, has_text: bool, name: str) -> bytes:
        import subprocess  # its six modules would be a tenth of all imports at start

        with self._lock:
            if self._child is None or self._child.poll() is not None:
                program = Path(__file__).with_name("svg_child.py")
                self._child = subprocess.Popen(
                    [sys.executable, "-P", str(program), str(RENDER_PX), str(self._limit_s)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                self._exchange(b"", False)  # waits for the start, whose time does not count for the drawing
            answer = self._exchange(data, has_text)
            if answer is None:
                self.close()
                raise ImageError(
                    f"{name}: an SVG drawing that takes more than {self._limit_s:g} s or too much memory to render; "
                    "simplify it, or convert it to PNG"
                )
        if answer[:1] != b"\1":
            raise ImageError(f"{name}: an SVG drawing that resvg cannot render: {answer[1:].decode(errors='replace')}")
        return answer[1:]

    def leave_to_parent(self) -> None:
        """Drops the parent's child process, without ending it or writing to it."""
        self._lock = threading.Lock()
        if self._child is None:
            return
        never_free(self._child)  # its destructor would send what the parent has not sent yet
        nowhere = os.open(os.devnull, os.O_RDWR)
        for pipe in (self._child.stdin, self._child.stdout):
            os.dup2(nowhere, pipe.fileno(), inheritable=False)
        os.close(nowhere)
        self._child = None

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            with suppress(OSError):  # unsent data is lost with the child
                self._child.stdin.close()
            self._child.stdout.close()
            self._child = None

    def _exchange(self, data: bytes, has_text: bool) -> bytes | None:
        """The child's answer, or None where it died or was killed because it was too slow."""
        child = self._child
        assert child is not None
        limit = threading.Timer(PATIENCE * (self._limit_s if data else 10), child.kill)
        limit.start()
        try:
            child.stdin.write(struct.pack("<?I", has_text, len(data)) + data)
            child.stdin.flush()
            header = child.stdout.read(4)
            size = struct.unpack("<I", header)[0] if len(header) == 4 else 0
            answer = child.stdout.read(size)
            return answer if size and len(answer) == size else None
        except OSError:
            return None
        finally:
            limit.cancel()


_RENDERER = Renderer()
