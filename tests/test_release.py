"""A release: one version, workflow, npm package, documents. The wheel and the sdist: tests/system/test_wheel.py."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder

from logo_edge import __version__

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
COPIES = ("runtime/web/package.json", "runtime/web/package-lock.json", "runtime/native/logo_edge.hpp")
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40}")


def run_version(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, root / ".ci" / "version.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_language_has_the_version_of_the_python_package():
    done = run_version(ROOT, "--check")
    assert done.returncode == 0, done.stdout
    assert __version__ in done.stdout


def test_a_new_version_is_written_everywhere_and_released_only_with_its_tag_and_changelog(tmp_path):
    for name in (".ci/version.py", "runtime/logo_edge/__init__.py", "CHANGELOG.md", *COPIES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    python, changes = tmp_path / "runtime" / "logo_edge" / "__init__.py", tmp_path / "CHANGELOG.md"
    python.write_text(python.read_text().replace(f'"{__version__}"', '"7.8.9"'))
    stale = run_version(tmp_path, "--check")
    assert stale.returncode == 1
    assert all(f"{name}: {__version__}; expected 7.8.9" in stale.stdout for name in COPIES)
    assert run_version(tmp_path).returncode == 0
    assert run_version(tmp_path, "--check").returncode == 0
    lock = json.loads((tmp_path / COPIES[1]).read_text())
    assert lock["version"] == lock["packages"][""]["version"] == "7.8.9"
    changes.write_text("## 7.8.9 (unreleased)\n")
    unready = run_version(tmp_path, "--check", "v7.8.8")
    assert "tag v7.8.8: expected v7.8.9" in unready.stdout
    assert "no heading '## 7.8.9'" in unready.stdout
    changes.write_text("# Changelog\n\n## 7.8.9\n")
    assert run_version(tmp_path, "--check", "v7.8.9").returncode == 0


def test_the_sdist_holds_every_tracked_part_of_the_root_and_no_other(tmp_path):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    listed = SdistBuilder(str(ROOT)).target_config["only-include"]
    for name in set(listed) - {"pyproject.toml", "README.md", "LICENSE"}:
        path = tmp_path / name / "part.txt" if (ROOT / name).is_dir() else tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for stray in ("notes.txt", "key.pem", "scratch/data.csv", ".env"):
        (tmp_path / stray).parent.mkdir(exist_ok=True)
        (tmp_path / stray).touch()
    files = {Path(file.relative_path).parts[0] for file in SdistBuilder(str(tmp_path)).recurse_included_files()}
    assert files == set(listed)
    if (ROOT / ".git").exists():  # an sdist has none
        done = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True)
        assert {name.split("/")[0] for name in done.stdout.splitlines()} == set(listed)


def test_only_tested_files_are_published_by_pinned_actions_and_without_a_token():
    text = WORKFLOW.read_text()
    workflow = yaml.safe_load(text)
    jobs, needed = workflow["jobs"], {"test", "oldest", "dist", "wheels", "npm"}
    actions = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert len(actions) >= 12
    assert [action for action in actions if not PINNED.fullmatch(action)] == []
    publishing = {name: job for name, job in jobs.items() if job["permissions"] != {"contents": "read"}}
    assert set(publishing) == {"publish-python", "publish-npm", "publish-release"} == jobs.keys() - needed
    assert workflow["permissions"] == {}
    assert set(publishing["publish-python"]["needs"]) == needed
    for name in ("publish-python", "publish-npm"):
        assert publishing[name]["permissions"] == {"id-token": "write"}
        assert publishing[name]["environment"] == "release"
    assert all(job["if"] == "github.ref_type == 'tag'" for job in publishing.values())
    assert "secrets." not in text
    runners = set(jobs["wheels"]["strategy"]["matrix"]["runner"])
    assert runners == {"ubuntu-24.04", "ubuntu-24.04-arm", "macos-15", "macos-15-intel", "windows-2025"}


@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here")
def test_the_npm_package_holds_its_sources_licence_and_readme():
    package = ROOT / "runtime" / "web"
    command = ["npm", "pack", "--dry-run", "--json", "--offline"]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=True)
    (packed,) = json.loads(done.stdout)
    sources = {f"src/{path.name}" for path in (package / "src").iterdir()}
    assert {file["path"] for file in packed["files"]} == {"LICENSE", "README.md", "package.json", *sources}
    assert len(sources) >= 9
    assert (package / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    record = json.loads((package / "package.json").read_text())
    lock = json.loads((package / "package-lock.json").read_text())["packages"]
    assert record["engines"] == {"node": ">=20"}
    assert record["repository"]["directory"] == "runtime/web"
    assert record["peerDependencies"] == {"onnxruntime-web": f"^{lock['node_modules/onnxruntime-web']['version']}"}
    assert "dependencies" not in record
