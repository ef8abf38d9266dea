"""Converters in environments of their own: made once, checked, run with a limit, and believed only with their files."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
import time
import zipfile
from pathlib import Path

import pytest

from logo_edge.errors import ExportError, MissingExtraError
from logo_edge_compress.convert import environments
from logo_edge_compress.convert.environments import LOCKS, check_environment, open_environment, read_lock, run_converter

WORKS = """
import tiny_converter
from exchange import read_request, write_record
from pathlib import Path
request = read_request()
file = Path(request["folder"], "model.bin")
file.write_bytes(bytes(request["bytes"]))
write_record(request, [file], operators=tiny_converter.OPERATORS)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """A folder with one wheel, `tiny_converter` 1.0."""
    folder = tmp_path_factory.mktemp("wheels")
    information = "tiny_converter-1.0.dist-info/"
    files = {
        "tiny_converter.py": "OPERATORS = 3\n",
        f"{information}METADATA": "Metadata-Version: 2.1\nName: tiny-converter\nVersion: 1.0\n",
        f"{information}WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{information}RECORD"])
    with zipfile.ZipFile(folder / "tiny_converter-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in {**files, f"{information}RECORD": record}.items():
            wheel.writestr(name, text)
    return folder


@pytest.fixture(scope="module")
def lock(wheels) -> Path:
    digest = hashlib.sha256(next(wheels.glob("*.whl")).read_bytes()).hexdigest()
    (wheels / "tiny.txt").write_text(f"# shares: numpy\ntiny-converter==1.0 --hash=sha256:{digest}\n")
    return wheels / "tiny.txt"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def offline(monkeypatch, wheels, cache):
    """pip sees the folder of wheels and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(cache))


def convert(lock: Path, folder: Path, text: str, **options) -> dict:
    script = folder / "convert.py"
    script.write_text(text)
    return run_converter("tiny", {"bytes": [1, 2, 3]}, folder, script=script, lock=lock, **options)


def test_two_callers_build_one_environment_which_the_next_one_finds(lock, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path))
    builds, install = [], environments._install
    monkeypatch.setattr(environments, "_install", lambda *arguments: builds.append(install(*arguments)))
    opened: list[Path] = []
    callers = [threading.Thread(target=lambda: opened.append(open_environment("tiny", lock=lock))) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert open_environment("tiny", lock=lock) == opened[0] == opened[1]
    assert len(builds) == 1
    assert [path.name for path in (tmp_path / "converters").iterdir()] == [opened[0].parents[1].name]


def test_a_script_uses_the_locks_packages_and_those_that_are_shared_and_its_files_are_read_back(lock, tmp_path):
    record = convert(lock, tmp_path, WORKS + "import numpy\n")
    assert (tmp_path / "model.bin").read_bytes() == b"\x01\x02\x03"
    assert record == {
        "files": {"model.bin": {"sha256": hashlib.sha256(b"\x01\x02\x03").hexdigest(), "size_bytes": 3}},
        "operators": 3,
    }
    with pytest.raises(ExportError, match=r"ended with status 1.*No module named 'logo_edge'"):
        convert(lock, tmp_path, "import logo_edge")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("print('free(): invalid pointer', flush=True)\nimport os; os.abort()", "SIGABRT.*invalid pointer"),
        ("raise SystemExit('no such operator')", "status 1.*no such operator"),
        ("print('done')", "status 0 and no record.*done"),
        (WORKS + "file.write_bytes(b'half')", "status 0, but model.bin is missing or incomplete"),
        (WORKS + "file.unlink()", "status 0, but model.bin is missing or incomplete"),
    ],
)
def test_a_converter_that_fails_or_pretends_is_an_error_with_its_last_words(lock, tmp_path, text, complaint):
    with pytest.raises(ExportError, match=f"(?s)converter tiny .*{complaint}"):
        convert(lock, tmp_path, text)


def test_a_converter_that_hangs_is_stopped_with_what_it_has_started(lock, tmp_path):
    hangs = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
    with pytest.raises(ExportError, match=r"stopped after 10 s.*Its last lines: \d+") as stopped:
        convert(lock, tmp_path, hangs, limit_s=10)
    state = Path(f"/proc/{str(stopped.value).split()[-1]}/stat")
    deadline = time.monotonic() + 30
    while state.exists() and state.read_text().split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)  # a busy machine takes a while to end it
    assert time.monotonic() < deadline


def test_what_cannot_be_installed_is_named_with_the_way_round_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    lock = tmp_path / "other.txt"
    lock.write_text(f"missing-converter==2.0 --hash=sha256:{64 * '0'}\n")
    with pytest.raises(ExportError, match=r"(?s)missing-converter==2\.0.*Without a network.*--converter-python"):
        open_environment("other", lock=lock)
    assert list((tmp_path / "cache" / "converters").iterdir()) == []


def test_the_users_environment_is_compared_with_the_lock(lock, tmp_path):
    python = open_environment("tiny", lock=lock)
    own = tmp_path / "own.txt"
    own.write_text("tiny-converter==1.0\n")
    assert check_environment("tiny", python, lock=own) == python
    own.write_text("tiny-converter==1.1\nother==2.0\n# shares: numpy\n")
    complaint = r"tiny-converter 1\.0 \(expected 1\.1\), other missing \(expected 2\.0\), numpy missing"
    with pytest.raises(ExportError, match=complaint):
        convert(own, tmp_path, WORKS, python=python)
    with pytest.raises(ExportError, match="cannot be run"):
        check_environment("tiny", tmp_path / "no-python", lock=own)


def test_a_shared_package_that_is_not_installed_names_its_extra(lock, tmp_path):
    other = tmp_path / "tiny.txt"
    other.write_text(lock.read_text().replace("numpy", "no-such-package"))
    with pytest.raises(MissingExtraError, match="no-such-package"):
        convert(other, tmp_path, WORKS)


def test_every_committed_lock_pins_and_hashes_every_package():
    locks = sorted(LOCKS.glob("*.txt"))
    assert locks
    for lock in locks:
        packages, _ = read_lock(lock)
        lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
        assert packages, lock
        assert len(lines) == len(packages) == sum("--hash=sha256:" in line for line in lines), lock


def test_no_script_that_runs_inside_needs_our_packages():
    scripts = sorted(environments.INSIDE.glob("*.py"))
    assert len(scripts) >= 3
    assert not [script.name for script in scripts if "import logo_edge" in script.read_text()]
    assert not [script.name for script in scripts if "from logo_edge" in script.read_text()]


def test_settings_of_python_and_pip_neither_hide_nor_disturb_an_environment(wheels, lock, tmp_path, monkeypatch):
    (tmp_path / "tiny_converter.py").write_text("OPERATORS = 4\n")
    (tmp_path / "elsewhere").mkdir()
    disturbing = {
        "LOGO_EDGE_CACHE": tmp_path / "cache",
        "PYTHONPATH": tmp_path,
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "error",
        "PIP_TARGET": tmp_path / "elsewhere",
        "PIP_DRY_RUN": "1",
    }
    for name, value in disturbing.items():
        monkeypatch.setenv(name, str(value))
    (folder := tmp_path / "work").mkdir()
    assert convert(lock, folder, WORKS)["operators"] == 3
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_installation_that_pip_only_pretends_is_an_error_and_is_not_kept(lock, tmp_path, monkeypatch):
    """A configuration file may have what a variable may not."""
    (tmp_path / "pip.conf").write_text("[install]\ndry-run = true\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ExportError, match="could not be installed.*ended with status 0"):
        open_environment("tiny", lock=lock)
    assert list((tmp_path / "cache" / "converters").iterdir()) == []


@pytest.mark.parametrize("damage", ["python", "package"])
def test_an_environment_that_was_damaged_is_made_again(lock, cache, tmp_path, monkeypatch, damage):
    """A newer Python takes the place of the one that it points to, or someone installs another package there."""
    open_environment("tiny", lock=lock)
    shutil.copytree(cache, tmp_path / "cache", symlinks=True)
    monkeypatch.setenv("LOGO_EDGE_CACHE", str(tmp_path / "cache"))
    python = open_environment("tiny", lock=lock)
    if damage == "python":
        python.unlink()
        python.symlink_to(tmp_path / "no-python")
    else:
        information = next(python.parents[1].rglob("tiny_converter-1.0.dist-info"))
        information.rename(information.with_name("tiny_converter-0.9.dist-info"))
        metadata = information.with_name("tiny_converter-0.9.dist-info") / "METADATA"
        metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 0.9"))
    assert convert(lock, tmp_path, WORKS)["operators"] == 3
    names = [sorted(path.name for path in (folder / "converters").iterdir()) for folder in (cache, tmp_path / "cache")]
    assert names[0] == names[1], "nothing is left of the damaged one"


def test_a_lock_has_the_hashes_of_the_systems_that_have_wheels(monkeypatch):
    from logo_edge_compress.convert import lock

    def resolve(wanted, *options):
        if "no_wheel==1" in wanted:
            missing = "ERROR: No matching distribution found for no_wheel==1 \n"
            raise subprocess.CalledProcessError(1, "pip", stderr=missing)
        return dict.fromkeys(wanted, ("2", "abc"))

    monkeypatch.setattr(lock, "resolve", resolve)
    monkeypatch.setattr(lock, "normal_name", lambda name: name)
    assert lock.resolve_for({"no_wheel": "1"}, "3.12", ["linux"]) == {}
    assert lock.resolve_for({"no_wheel": "1", "other": "2"}, "3.12", ["linux"]) == {"other==2": ("2", "abc")}


def test_a_lock_is_not_written_where_the_index_cannot_be_asked(monkeypatch):
    from logo_edge_compress.convert import lock

    def resolve(wanted, *options):
        raise subprocess.CalledProcessError(1, "pip", stderr="ERROR: Could not connect")

    monkeypatch.setattr(lock, "resolve", resolve)
    with pytest.raises(subprocess.CalledProcessError):
        lock.resolve_for({"other": "2"}, "3.12", ["linux"])
