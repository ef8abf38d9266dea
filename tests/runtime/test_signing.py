"""A signed bundle loads with its signer's key; each way to be changed or signed by another has its own message."""

from __future__ import annotations

import base64
import json
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from logo_edge import BundleError, Classifier, LogoEdgeError, read_bundle
from logo_edge.backends.choose import OWN_GRAPH
from logo_edge.bundle.record import RECORD, list_files, write_record
from logo_edge.bundle.signing import SIGNATURE, make_keys, sign_record
from logo_edge.cli.bundle import info, keygen, monitor, sign
from logo_edge.cli.classify_typer import classify
from logo_edge.cli.doctor import doctor
from logo_edge.cli.likeness import cluster, enroll, similar
from logo_edge.cli.serve import export_triton
from logo_edge.scale import ray as scale
from logo_edge_bench import reference, subject
from logo_edge_bench.commands import bench
from logo_edge_bench.systems import bundle_systems, reference_system
from logo_edge_compress.commands import export
from logo_edge_report.commands import evaluate


@pytest.fixture
def keys(tmp_path):
    """A pair of keys, the private one first."""
    return make_keys(tmp_path / "keys" / "ours")


@pytest.fixture
def signed(fake_bundle, keys):
    folder = fake_bundle()
    sign_record(folder / RECORD, keys[0])
    return folder


def test_half_a_pair_of_keys_is_never_left(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))  # as on a full disk
    try:
        with pytest.raises(LogoEdgeError, match=r"release\.p.*: File too large"):
            make_keys(tmp_path / "release")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())
    assert len(make_keys(tmp_path / "release")) == 2


def test_a_signed_bundle_loads_with_its_key_and_without(signed, keys):
    assert Classifier.load(signed, public_key=keys[1], self_test=True).labels
    assert read_bundle(signed) == read_bundle(signed, public_key=str(keys[1]))
    assert SIGNATURE not in list_files(signed)


def test_an_unsigned_bundle_is_refused_only_where_a_key_is_given(fake_bundle, keys):
    folder = fake_bundle()
    assert read_bundle(folder).labels
    with pytest.raises(BundleError, match=r"not signed, there is no signature.json; .*`logo-edge sign`"):
        read_bundle(folder, public_key=keys[1])


def test_the_key_of_another_is_refused(signed, tmp_path):
    _, theirs = make_keys(tmp_path / "theirs")
    with pytest.raises(BundleError, match="signed by another key .*theirs.public.pem is"):
        read_bundle(signed, public_key=theirs)


def test_a_forged_fingerprint_does_not_pass(signed, keys, tmp_path):
    ours = json.loads((signed / SIGNATURE).read_text())
    private, _ = make_keys(tmp_path / "theirs")
    forged = json.loads(sign_record(signed / RECORD, private).read_text())
    (signed / SIGNATURE).write_text(json.dumps(forged | {"key": ours["key"]}))
    with pytest.raises(BundleError, match="is not what was signed"):
        read_bundle(signed, public_key=keys[1])


@pytest.mark.parametrize("position", [0, 1, 400, -1])
def test_a_changed_byte_of_the_record_is_refused_before_it_is_read(signed, keys, position):
    data = bytearray((signed / RECORD).read_bytes())
    data[position] ^= 1
    (signed / RECORD).write_bytes(data)
    with pytest.raises(BundleError, match="bundle.json is not what was signed; .*changed afterwards"):
        read_bundle(signed, public_key=keys[1])


def test_a_changed_byte_of_a_listed_file_is_refused_even_where_its_hash_is_brought_up_to_date(signed, keys):
    model = signed / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match="model.onnx: not the file that was packed"):
        read_bundle(signed, public_key=keys[1])
    record = json.loads((signed / RECORD).read_text())
    record["files"]["model.onnx"] = vars(list_files(signed)["model.onnx"])
    write_record(signed, json.dumps(record).encode())
    assert read_bundle(signed).labels
    with pytest.raises(BundleError, match="bundle.json is not what was signed"):
        read_bundle(signed, public_key=keys[1])


@pytest.mark.parametrize("change", [{"signature": base64.b64encode(bytes(64)).decode()}, {"signature": ""}])
def test_a_changed_signature_is_refused(signed, keys, change):
    (signed / SIGNATURE).write_text(json.dumps(json.loads((signed / SIGNATURE).read_text()) | change))
    with pytest.raises(BundleError, match="is not what was signed"):
        read_bundle(signed, public_key=keys[1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "5",
        '{"algorithm": "ed25519", "key": "", "signature": 5}',
        '{"algorithm": "ed25519", "key": "", "signature": "no base64!"}',
        "[" * 100_000,
    ],
)
def test_a_signature_that_cannot_be_read_is_refused(signed, keys, text):
    (signed / SIGNATURE).write_text(text)
    with pytest.raises(BundleError, match=r"signature.json: cannot be read .*sign it again"):
        read_bundle(signed, public_key=keys[1])


def test_another_algorithm_is_refused(signed, keys):
    (signed / SIGNATURE).write_text('{"algorithm": "none", "key": "", "signature": ""}')
    with pytest.raises(BundleError, match="signed by 'none'; this runtime verifies ed25519"):
        read_bundle(signed, public_key=keys[1])


def test_files_that_are_no_such_key_are_refused(signed, keys, tmp_path):
    private, public = keys
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec.pem").write_bytes(
        other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    locked = serialization.load_pem_private_key(private.read_bytes(), None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    (tmp_path / "text.pem").write_text("no key")
    for name, message in {
        "ec.pem": "a key of another kind",
        "locked.pem": "encrypted; decrypt it first",
        "text.pem": "no private key",
        "absent.pem": "No such file",
    }.items():
        with pytest.raises(LogoEdgeError, match=f"{name}: .*{message}"):
            sign_record(signed / RECORD, tmp_path / name)
    with pytest.raises(LogoEdgeError, match="ours.public.pem: no private key"):
        sign_record(signed / RECORD, public)
    with pytest.raises(LogoEdgeError, match="ours.private.pem: no public key"):
        read_bundle(signed, public_key=private)


def test_keys_are_for_their_owner_and_never_overwritten(keys, tmp_path):
    assert stat.S_IMODE(keys[0].stat().st_mode) == 0o600
    before = keys[0].read_bytes()
    with pytest.raises(LogoEdgeError, match=r"ours.private.pem is there already"):
        make_keys(tmp_path / "keys" / "ours")
    assert keys[0].read_bytes() == before


def test_the_command_line_makes_keys_signs_and_verifies(fake_bundle, tmp_path):
    folder, name, run = fake_bundle(), tmp_path / "release", CliRunner().invoke
    assert run(keygen, [str(name)]).exit_code == 0
    public = str(tmp_path / "release.public.pem")
    unsigned = run(info, ["--bundle", str(folder), "--public-key", public])
    assert isinstance(unsigned.exception, BundleError)
    assert run(sign, [str(folder), "--key", f"{name}.private.pem"]).exit_code == 0
    shown = run(info, ["--bundle", str(folder), "--public-key", public])
    assert shown.exit_code == 0, shown.output
    assert "signed by" in shown.output
    image = str(folder / "vectors" / "0.png")
    assert run(classify, [image, "--bundle", str(folder), "--public-key", public]).exit_code == 0
    (folder / "card.md").write_text("changed")
    assert isinstance(run(sign, [str(folder), "--key", f"{name}.private.pem"]).exception, BundleError)


VERBS = {
    enroll: ["acme", "image.png", "--bundle"],
    similar: ["image.png", "folder", "--bundle"],
    cluster: ["folder", "--bundle"],
    monitor: ["log.jsonl", "--bundle"],
    export_triton: ["--bundle"],
    evaluate: ["--manifest", "logos.csv"],
    bench: ["--manifest", "logos.csv"],
    export: ["--format", "onnx"],
    doctor: ["--bundle"],
}


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.registered_commands[0].callback.__name__)
def test_every_verb_that_loads_a_bundle_takes_a_key_and_refuses_one_that_its_owner_has_not_signed(
    verb, fake_bundle, keys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(verb, [*VERBS[verb], str(fake_bundle()), "--public-key", str(keys[1])])
    assert isinstance(result.exception, BundleError), result.output
    assert "not signed, there is no signature.json" in str(result.exception)


def test_every_process_of_bench_verifies_the_bundle_again(signed, keys):
    labels = list(Classifier.load(signed).labels)
    (system,) = bundle_systems([signed], public_key=keys[1])
    assert f"--public-key={keys[1]}" in system.command
    loads = [(subject.load, system), (reference.load, reference_system(signed, keys[1]))]
    for load, wanted in loads:
        assert load(labels, **wanted.options).describe()["size_bytes"] > 0
    (signed / SIGNATURE).unlink()
    for load, wanted in loads:
        with pytest.raises(BundleError, match="not signed"):
            load(labels, **wanted.options)


@pytest.mark.parametrize("name", [".", "..", "/", "", "keys/.."])
def test_keys_are_not_named_as_a_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(keygen, [name])
    assert isinstance(refused.exception, LogoEdgeError), refused.exception
    assert "expected a name for the pair" in str(refused.exception)
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_the_signed_bundle_does_not_list_is_refused_where_a_key_is_given(signed, keys, tmp_path):
    unsigned = tmp_path / "model.onnx"
    unsigned.write_bytes((signed / "model.onnx").read_bytes() + b"\x2a\x00")  # an empty, unknown field
    assert Classifier.load(signed, artifact=unsigned).labels
    for backend in (*OWN_GRAPH, "auto"):
        with pytest.raises(BundleError, match=r"model.onnx: not signed, .* lists no file of this content.*Leave out"):
            Classifier.load(signed, public_key=keys[1], artifact=unsigned, backend=backend)
    refused = CliRunner().invoke(
        info, ["--bundle", str(signed), "--public-key", str(keys[1]), "--artifact", str(unsigned)]
    )
    assert isinstance(refused.exception, BundleError)
    shown = CliRunner().invoke(info, ["--bundle", str(signed), "--artifact", str(unsigned)]).output
    assert f"runs instead  {unsigned}" in shown
    assert "signed by" not in shown


def test_an_artifact_that_the_signed_bundle_lists_is_run_by_its_key_too(fake_bundle, keys, tmp_path):
    folder = fake_bundle()
    shutil.copyfile(folder / "model.onnx", folder / "other.onnx")
    record = json.loads((folder / RECORD).read_text())
    record["files"]["other.onnx"] = vars(list_files(folder)["other.onnx"])
    write_record(folder, json.dumps(record).encode())
    sign_record(folder / RECORD, keys[0])
    assert Classifier.load(folder, public_key=keys[1], artifact=folder / "other.onnx").run_vectors() == 3


@pytest.mark.parametrize("backend", OWN_GRAPH)
def test_a_model_that_is_swapped_after_it_was_verified_is_not_run(signed, keys, monkeypatch, fake_model, backend):
    """All but the first opening of the model's file give another model, like a swap between check and use."""
    other, opened = fake_model(classes=3, size_px=16), []
    path = signed / "model.onnx"
    verified = path.read_bytes()
    read = Path.read_bytes

    def swapping(self):
        data = read(self)
        if self == path and data == verified:
            opened.append(self)
            path.write_bytes(other + b"\x2a\x00")
        return data

    bundle = read_bundle(signed, public_key=keys[1])
    monkeypatch.setattr(Path, "read_bytes", swapping)
    classifier = Classifier(bundle, backend=backend)
    assert opened == [path]
    assert read(path) != verified
    assert classifier.run_vectors() == 3
    with pytest.raises(BundleError, match="model.onnx: not the file that was packed"):
        Classifier(bundle, backend=backend)


def test_the_workers_of_a_cluster_verify_by_the_key_too(signed, keys):
    bundle = read_bundle(signed, public_key=keys[1])
    keys[1].unlink()  # a worker's machine has no such file
    files = scale._files(bundle)
    assert scale.Worker(files, bundle.public_key, {})._classifier.bundle.public_key == bundle.public_key
    for forged in (
        {name: data for name, data in files.items() if name != SIGNATURE},
        files | {RECORD: files[RECORD] + b" "},
    ):
        with pytest.raises(BundleError, match="not signed|not what was signed"):
            scale.Worker(forged, bundle.public_key, {})


def test_cryptography_is_imported_only_for_a_key(signed, keys):
    code = (
        f"import sys, logo_edge; logo_edge.Classifier.load({str(signed)!r}); assert 'cryptography' not in sys.modules; "
        f"sys.modules['cryptography'] = None; logo_edge.Classifier.load({str(signed)!r}, public_key={str(keys[1])!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in done.stderr
    assert "pip install 'logo-edge[sign]'" in done.stderr
