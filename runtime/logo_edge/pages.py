"""What the project's HTML pages share: one style sheet, pictures as data URIs, and names as harmless text."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from logo_edge.names import printable

STYLE = Path(__file__).with_name("page.css")


def page_style() -> str:
    """The style sheet of every page, which a page holds in full: it loads nothing."""
    return STYLE.read_text(encoding="utf-8")


def text_of(name: str) -> str:
    """A name as escaped HTML, also within an attribute."""
    return html.escape(printable(name))


def image_uri(pixels: np.ndarray) -> str:
    """The (H, W, 3) uint8 pixels as a WebP data URI."""
    return "data:image/webp;base64," + base64.b64encode(encode_webp(pixels)).decode()


def encode_webp(pixels: np.ndarray) -> bytes:
    """The (H, W, 3) uint8 pixels as a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=82, method=4)
    return buffer.getvalue()
