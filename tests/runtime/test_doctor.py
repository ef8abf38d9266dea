"""Golden vectors at the first load on a machine, known faults of ONNX Runtime, and `logo-edge doctor`."""

from __future__ import annotations

import json
import logging

import onnxruntime
import pytest
from typer.testing import CliRunner

from logo_edge import BundleError, Classifier, LogoEdgeError, machine
from logo_edge.backends import choose as backends
from logo_edge.backends.faults import FAULTS, faults_of
from logo_edge.backends.onnxruntime import OnnxRuntime
from logo_edge.cli import doctor
from logo_edge.machine import describe_core, instruction_sets, limits

RELEASES = {
    "1.22.1": 0,
    "1.23.2": 1,
    "1.24.0": 1,
    "1.25.1": 1,
    "1.26.0": 1,
    "1.27.0": 1,
    "1.27.1": 0,
    "1.32.0": 0,
    "1.27.0.dev2026": 1,
}


@pytest.fixture
def library(monkeypatch):
    """Replaces ONNX Runtime: counts passes, which are wrong from number `wrong_from` on unless KleidiAI is off."""

    class Library(OnnxRuntime):
        passes, wrong_from, always = 0, 10**9, False
        kleidiai: list[bool] = []  # noqa: RUF012 (of each session)

        def __init__(self, path, resources):
            super().__init__(path, resources)
            self.faulty = resources.kleidiai or Library.always
            Library.kleidiai.append(resources.kleidiai)

        def run(self, pixels, names):
            Library.passes += 1
            wrong = self.faulty and Library.passes >= Library.wrong_from
            return [output + wrong for output in super().run(pixels, names)]

    monkeypatch.setitem(backends.BACKENDS, "onnxruntime", Library)
    return Library


def test_golden_vectors_run_several_times_at_the_first_load_on_a_machine_and_never_again(fake_bundle, library):
    folder = fake_bundle()
    Classifier.load(folder)
    assert library.passes == 3 * 3 * 2, "three vectors in three rounds, each after another input"
    Classifier.load(folder, threads=2)
    assert library.passes == 18


@pytest.mark.parametrize("change", ["version", "machine", "bundle", "backend"])
def test_they_run_again_after_a_change_of_version_machine_bundle_or_backend(fake_bundle, library, monkeypatch, change):
    folder = fake_bundle()
    Classifier.load(folder)
    before = library.passes
    if change == "version":
        monkeypatch.setattr(onnxruntime, "__version__", "1.99.0")
    if change == "machine":
        monkeypatch.setattr(machine, "describe_core", lambda: {"model name": "another"})
    if change == "bundle":
        folder = fake_bundle(temperature=2.0)
    if change == "backend":
        pytest.importorskip("openvino")
        monkeypatch.setitem(backends.BACKENDS, "openvino", library)
    Classifier.load(folder, backend="openvino" if change == "backend" else "onnxruntime")
    assert library.passes == before + 18


def test_they_run_at_every_load_if_the_cache_cannot_be_written_or_is_damaged(
    fake_bundle, library, findings, monkeypatch
):
    folder = fake_bundle()
    findings.mkdir()  # no file can take its place
    assert [Classifier.load(folder).classify(folder / "vectors/0.png").label for _ in range(2)] == ["red"] * 2
    assert library.passes == 2 * 19

    def no_home():
        raise LogoEdgeError("no home folder is known")

    monkeypatch.setattr("logo_edge.cache.results_file", no_home)
    assert Classifier.load(folder).labels


@pytest.mark.parametrize("wrong_from", [1, 9, 14])
def test_if_they_fail_kleidiai_is_left_out_with_a_warning_and_remembered(fake_bundle, library, caplog, wrong_from):
    library.wrong_from = wrong_from
    folder = fake_bundle()
    with caplog.at_level(logging.WARNING):
        assert [Classifier.load(folder).kleidiai for _ in range(2)] == [False, False]
    assert len(caplog.records) == 2
    assert all("only without KleidiAI" in line and "another release" in line for line in caplog.messages)
    assert Classifier.load(folder).classify(folder / "vectors/2.png").confidence > 0.9
    assert library.passes < 2 * 18 + 2


def test_a_library_that_is_wrong_without_kleidiai_too_is_refused_at_every_load(fake_bundle, library):
    library.wrong_from, library.always, folder = 1, True, fake_bundle()
    for _ in range(2):
        with pytest.raises(BundleError, match=r"golden vector .* try another release or backend"):
            Classifier.load(folder)


def test_known_faults_are_those_of_the_release_on_the_architecture():
    for release, count in RELEASES.items():
        for name in ("aarch64", "arm64", "ARM64"):
            assert len(faults_of(release, name)) == count, (release, name)
        assert not faults_of(release, "x86_64")
    assert len(FAULTS) == 3
    assert all("#" in fault.source and "pip install" in fault.cure for fault in FAULTS)


@pytest.mark.parametrize(
    ("release", "kleidiai"), [("1.25.0", False), ("1.27.0", False), ("1.23.0", True), ("1.27.1", True)]
)
def test_a_release_that_is_known_to_be_faulty_runs_without_kleidiai_from_the_start(
    fake_bundle, library, monkeypatch, caplog, release, kleidiai
):
    monkeypatch.setattr(onnxruntime, "__version__", release)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with caplog.at_level(logging.WARNING):
        assert Classifier.load(fake_bundle()).kleidiai is kleidiai
    assert library.kleidiai == [kleidiai]
    assert ("#" in caplog.text) == (release != "1.27.1")


def test_the_processor_is_read_on_arm_and_on_x86(tmp_path):
    (tmp_path / "arm").write_text(
        "processor\t: 0\nFeatures\t: fp asimddp sme sve2\nCPU part\t: 0xd0b\nBogoMIPS\t: 1\n\nFeatures\t: i8mm\n"
    )
    (tmp_path / "x86").write_text(
        "processor\t: 0\nmodel name\t: A: B\ncpu MHz\t: 2000.1\nflags\t\t: fpu avx2 avx512_vnni\n"
    )
    assert instruction_sets(describe_core(tmp_path / "arm")) == ["asimddp", "sme", "sve2"]
    assert describe_core(tmp_path / "x86") == {"model name": "A: B", "flags": "fpu avx2 avx512_vnni"}
    assert (describe_core(tmp_path / "absent"), instruction_sets({})) == ({}, [])


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_a_cgroup_and_of_its_parents_are_read(tmp_path, version):
    lines = (
        "0::/outer/inner\n" if version == 2 else "4:memory:/outer/inner\n3:cpu,cpuacct:/outer/inner\n1:name=systemd:/\n"
    )
    files = (
        {
            "outer/inner/cpu.max": "max 100000",
            "outer/cpu.max": "150000 100000",
            "outer/inner/memory.max": str(512 << 20),
            "memory.max": "max",
        }
        if version == 2
        else {
            "cpu,cpuacct/outer/cpu.cfs_quota_us": "150000",
            "cpu,cpuacct/outer/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/outer/inner/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/outer/inner/cpu.cfs_period_us": "100000",
            "memory/outer/inner/memory.limit_in_bytes": str(512 << 20),
            "memory/memory.limit_in_bytes": str(2**63 - 4096),
        }
    )
    for name, text in {
        "proc/self/cgroup": lines,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert {name: limits(tmp_path)[name] for name in ("cpu_quota", "memory_mb")} == {"cpu_quota": 1.5, "memory_mb": 512}
    assert limits(tmp_path / "absent")["cpu_quota"] is None


def test_ranges_of_cores_are_written_as_linux_does():
    assert [machine.ranges(cores) for cores in ([], [3], [0, 1], [0, 2, 3, 4, 7])] == ["", "3", "0-1", "0,2-4,7"]


def run_doctor(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(doctor.doctor, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_doctor_finds_a_healthy_machine_healthy(fake_bundle):
    pytest.importorskip("openvino")
    status, output = run_doctor("--bundle", str(fake_bundle()))
    assert status == 0
    rows = dict(line.strip().split("  ", 1) for line in output.splitlines())
    assert {"machine", "instruction sets", "cores", "memory limit", "versions", "bundle", "cache"} <= set(rows)
    assert rows["onnxruntime"] == rows["openvino"] == "gives all 3 golden vectors"
    assert rows["result"] == "healthy"


def test_the_doctor_names_known_faults_failing_backends_and_the_cure(fake_bundle, library, monkeypatch):
    library.wrong_from = 1
    monkeypatch.setitem(backends.BACKENDS, "openvino", library)
    monkeypatch.setattr("logo_edge.cli.doctor.installed_versions", lambda: {"onnxruntime": "1.27.0"})
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    status, output = run_doctor("--bundle", str(fake_bundle()), "--json")
    findings = json.loads(output)
    assert (status, findings["healthy"]) == (1, False)
    assert findings["backends"]["onnxruntime"] == {"passes": True, "vectors": 3, "kleidiai": False, "error": None}
    assert not findings["backends"]["openvino"]["passes"]
    assert "golden vector" in findings["backends"]["openvino"]["error"]
    assert "#31569" in findings["faults"][0]
    assert any("onnxruntime>=1.27.1" in sentence for sentence in findings["advice"])


def test_the_doctor_explains_a_quota_and_a_cache_that_cannot_be_written(fake_bundle, monkeypatch):
    folder = fake_bundle()
    monkeypatch.setattr(
        doctor,
        "limits",
        lambda: {"cores": 4, "cores_of_machine": 4, "cpuset": "0-3", "cpu_quota": 1.5, "memory_mb": 300},
    )
    monkeypatch.setattr(doctor, "_describe_cache", lambda: {"folder": "/proc/cache", "writable": False})
    status, output = run_doctor("--bundle", str(folder))
    assert status == 0
    assert "--workers 1" in output
    assert "/proc/cache, cannot be written" in output
    assert "300 MB by cgroup" in output
