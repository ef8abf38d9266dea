"""A headless Chromium for tests: the one that the lock file in this folder names, and the libraries it needs."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import brotli
from playwright.sync_api import Browser, BrowserType, sync_playwright

from logo_edge.cache import cache_folder
from logo_edge.files import changing
from logo_edge_train.data.icons import install_packages

LOCKS = Path(__file__).parent
FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}/fonts</dir><cachedir>{folder}/fonts-cache</cachedir></fontconfig>
"""
FLAGS = ["--no-sandbox", "--no-zygote", "--in-process-gpu"]
NO_GPU = ["--disable-gpu"]
WEBGPU = [  # by SwiftShader, on the CPU
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
    "--disable-vulkan-surface",
]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium driven by Playwright, closed at the end."""
    with sync_playwright() as playwright:
        browser = launch(playwright.chromium, NO_GPU)
        yield browser
        browser.close()


def launch(kind: BrowserType, flags: Sequence[str]) -> Browser:
    """A Chromium with NO_GPU or WEBGPU; `kind` is Playwright's, which has one driver in a process."""
    folder = unpack_chromium()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib"), "FONTCONFIG_PATH": str(folder)}
    return kind.launch(executable_path=folder / "chromium", args=[*FLAGS, *flags], env=environment)


def unpack_chromium() -> Path:
    """The folder of the unpacked browser in the cache, fetched by npm the first time (70 MB, Linux on x86-64)."""
    packed = install_packages(LOCKS, "browser") / "@sparticuz" / "chromium" / "bin"
    folder = cache_folder() / "chromium"
    with changing(folder):  # another process may be unpacking it
        if not folder.exists() or folder.stat().st_mtime < packed.stat().st_mtime:
            _unpack(packed, folder)
    return folder


def _unpack(packed: Path, folder: Path) -> None:
    part = folder.with_name(f"chromium-{os.getpid()}")
    part.mkdir(parents=True)
    (part / "chromium").write_bytes(brotli.decompress((packed / "chromium.br").read_bytes()))
    (part / "chromium").chmod(0o755)
    for name in ("al2023", "fonts", "swiftshader"):
        with tarfile.open(fileobj=io.BytesIO(brotli.decompress((packed / f"{name}.tar.br").read_bytes()))) as archive:
            archive.extractall(part, filter="data")
    # The packed fonts.conf points to another place.
    (part / "fonts.conf").write_text(FONTS.format(folder=folder), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
