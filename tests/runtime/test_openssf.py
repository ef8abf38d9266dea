"""OpenSSF Model Signing beside our signature: its own library verifies it, and refuses whatever was changed."""

from __future__ import annotations

import socket
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from logo_edge import LogoEdgeError, read_bundle
from logo_edge.bundle.record import RECORD, list_files
from logo_edge.bundle.signing import OPENSSF_SIGNATURE, make_keys, sign_for_openssf, sign_record
from logo_edge.cli.bundle import sign
from logo_edge.errors import MissingExtraError


@pytest.fixture
def verify(monkeypatch):
    """Their verifier, a function of folder and public key; a connection would be an error."""
    verifying = pytest.importorskip("model_signing.verifying", reason="needs model-signing, of the extra openssf")
    monkeypatch.setattr(socket, "create_connection", None)

    def verify(folder, key):
        verifying.Config().use_elliptic_key_verifier(public_key=key).verify(folder, folder / OPENSSF_SIGNATURE)

    return verify


def write_pair(folder, password: bytes | None = None):
    """A pair of P-256 keys as PEM files, the private one first."""
    key, private, public = ec.generate_private_key(ec.SECP256R1()), folder / "ec.private.pem", folder / "ec.public.pem"
    form = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, form))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_their_library_verifies_it_and_both_signatures_stand_in_any_order(verify, fake_bundle, tmp_path):
    ours, (private, public) = make_keys(tmp_path / "ours"), write_pair(tmp_path)
    for both in (["--openssf", private, "--key", ours[0]], ["--openssf", private]):
        folder = fake_bundle()
        done = CliRunner().invoke(sign, [str(folder), *map(str, both)])
        assert "model_signing verify key" in done.output, done.exception
        sign_record(folder / RECORD, ours[0])
        verify(folder, public)
        assert OPENSSF_SIGNATURE not in list_files(folder)
        assert read_bundle(folder, public_key=ours[1]) == read_bundle(folder)


@pytest.mark.parametrize(("name", "message"), [("model.onnx", "Hash mismatch"), ("new.txt", "Extra files")])
def test_a_changed_or_added_file_is_refused_by_their_library(verify, fake_bundle, tmp_path, name, message):
    (private, public), folder = write_pair(tmp_path), fake_bundle()
    sign_for_openssf(folder, private)
    with (folder / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match=message):
        verify(folder, public)


def test_another_key_does_not_verify(verify, fake_bundle, tmp_path):
    (tmp_path / "theirs").mkdir()
    folder, (_, theirs) = fake_bundle(), write_pair(tmp_path / "theirs")
    sign_for_openssf(folder, write_pair(tmp_path)[0])
    with pytest.raises(Exception, match=r"(?i)key|signature"):
        verify(folder, theirs)


def test_keys_of_another_kind_are_refused_and_nothing_is_written(verify, fake_bundle, tmp_path):
    (tmp_path / "locked").mkdir()
    folder, locked = fake_bundle(), write_pair(tmp_path / "locked", b"secret")[0]
    for key in (make_keys(tmp_path / "ours")[0], locked, tmp_path / "absent.pem", folder / RECORD):
        with pytest.raises(LogoEdgeError, match=r"cannot be used .*expected the PEM file of a P-256 private key"):
            sign_for_openssf(folder, key)
    assert not (folder / OPENSSF_SIGNATURE).exists()


def test_without_a_key_nothing_is_signed(fake_bundle):
    assert "expected one of them" in CliRunner().invoke(sign, [str(fake_bundle())]).output


def test_without_their_library_the_extra_is_named(fake_bundle, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'logo-edge\[openssf\]'"):
        sign_for_openssf(fake_bundle(), write_pair(tmp_path)[0])
