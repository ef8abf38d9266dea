"""The browser package as users have it: installed by npm, its demo built by Node, served over HTTP to a Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from system.web.serving import Server, node

from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge_train.data.icons import install_packages

ROOT = Path(__file__).parents[3]
WEB = ROOT / "runtime" / "web"
HARNESS = """<!doctype html><script type="module">
window.logo = await import("./demo/lib/index.js");
</script>"""


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Path:
    """A copy of runtime/web beside the node_modules of its lock file."""
    folder = tmp_path_factory.mktemp("web") / "package"
    folder.mkdir()
    for name in ("package.json", "build.js"):
        shutil.copy(WEB / name, folder)
    for name in ("src", "demo"):
        shutil.copytree(WEB / name, folder / name)
    (folder / "node_modules").symlink_to(install_packages(WEB, "web"))
    return folder


@pytest.fixture(scope="session")
def site(package) -> Path:
    """The built demo in demo/, with the default bundle, the robust bundle, and an empty page that has the package."""
    folder = package.parent / "site"
    folder.mkdir()
    done = node("build.js", "--bundle", DEFAULT_BUNDLE, "--out", folder / "demo", folder=package)
    assert done.returncode == 0, done.stderr
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
