"""The browser package as users have it: installed by npm, its demo built by Node, served over HTTP to a Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from system.web.serving import Server, build_demo, copy_package

ROOT = Path(__file__).parents[3]
HARNESS = """<!doctype html><script type="module">
window.logo = await import("./demo/lib/index.js");
</script>"""


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    """A copy of runtime/web beside the node_modules of its lock file."""
    return copy_package(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="session")
def site(package) -> Path:
    """The built demo in demo/, with the default bundle, the robust bundle, and an empty page that has the package."""
    folder = package.parent / "site"
    folder.mkdir()
    build_demo(package, folder / "demo")
    shutil.copytree(ROOT / "runtime" / "bundles" / "robust", folder / "robust")
    (folder / "harness.html").write_text(HARNESS, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def server(site):
    server = Server(site)
    yield server
    server.stop()


@pytest.fixture
def page(browser, server):
    """An empty page that has the package as `window.logo`."""
    opened = browser.new_page()
    opened.goto(f"{server.url}/harness.html")
    opened.wait_for_function("window.logo")
    yield opened
    opened.close()
