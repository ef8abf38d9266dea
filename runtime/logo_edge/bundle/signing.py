"""A detached signature of a bundle. The hashes prove integrity; the signature proves origin.

    signature.json   {"algorithm": "ed25519", "key": fingerprint of the public key, "signature": base64}

It signs the bytes of bundle.json, which lists every other file with its sha256 (RFC 8032). Keys are PEM files. The
package `cryptography` (extra `sign`) is imported only here, and only when a key is given.

    model.sig        optional too: the signature of all files by OpenSSF Model Signing, for its own tools to verify
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from logo_edge.errors import BundleError, LogoEdgeError, MissingExtraError
from logo_edge.files import json_text, write_file

SIGNATURE = "signature.json"
OPENSSF_SIGNATURE = "model.sig"
ALGORITHM = "ed25519"
EXPECTED = "expected the PEM file of an Ed25519 {} key, such as `logo-edge keygen` writes"


def make_keys(name: Path) -> tuple[Path, Path]:
    """Writes a new pair of keys, NAME.private.pem, readable by its owner only, and NAME.public.pem; returns both paths.

    Raises LogoEdgeError where one exists already, or the last part of `name` is no file name.
    """
    if name.name in ("", ".."):
        raise LogoEdgeError(f"{name}: a folder; expected a name for the pair in it, such as {name / 'release'}")
    serialization, ed25519 = _cryptography()
    private, public = (name.with_name(f"{name.name}.{half}.pem") for half in ("private", "public"))
    for path in (private, public):
        if path.exists():
            raise LogoEdgeError(f"{path} is there already; a key is never overwritten. Name another, or move it away")
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        private.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0) as file:
            try:
                file.write(pem)
                write_file(
                    public,
                    key.public_key().public_bytes(
                        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                    ),
                )
            except OSError:  # half a pair would block the next call
                private.unlink()
                raise
    except OSError as error:
        raise LogoEdgeError(
            f"{error.filename or private}: {error.strerror}; expected a folder that can be written"
        ) from error
    return private, public


def sign_record(record: Path, private_key: str | os.PathLike) -> Path:
    """Writes the signature of the file `record`, a bundle.json, beside it, and returns its path.

    The caller has read the bundle, so that no damaged bundle is signed. Raises LogoEdgeError for a bad key.
    """
    key = _parse_key(private_key, _read_pem(private_key, "private"), "private")
    content = {
        "algorithm": ALGORITHM,
        "key": fingerprint(key.public_key()),
        "signature": base64.b64encode(key.sign(record.read_bytes())).decode(),
    }
    path = record.with_name(SIGNATURE)
    write_file(path, json_text(content))
    return path


def sign_for_openssf(folder: Path, private_key: str | os.PathLike) -> Path:
    """Writes the OpenSSF Model Signing signature of the bundle's files into its folder, and returns its path.

    The key is of an elliptic curve, P-256, P-384 or P-521, without a password; nothing is sent anywhere. The two
    signatures are left out, so that they can be made in any order. This runtime does not read it: `model_signing
    verify key` does (github.com/sigstore/model-transparency). The caller has read the bundle. Raises LogoEdgeError
    for a bad key.
    """
    import tempfile  # slow to load; most starts do not need it

    try:
        from model_signing import hashing, signing
    except ImportError as error:
        raise MissingExtraError("openssf", "model-signing") from error
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError, AttributeError, UnsupportedAlgorithm) as error:  # Attribute: another kind
        raise LogoEdgeError(
            f"{private_key}: cannot be used ({error}); expected the PEM file of a P-256 private key without a "
            "password, such as `openssl ecparam -name prime256v1 -genkey -noout` writes"
        ) from error
    left_out = hashing.Config().set_ignored_paths(paths=[SIGNATURE, OPENSSF_SIGNATURE], ignore_git_paths=False)
    with tempfile.TemporaryDirectory() as outside:
        signed = Path(outside) / OPENSSF_SIGNATURE
        signer.set_hashing_config(left_out).sign(folder, signed)
        write_file(folder / OPENSSF_SIGNATURE, signed.read_bytes())
    return folder / OPENSSF_SIGNATURE


def verify_record(folder: Path, record: bytes, public_key: str | os.PathLike | bytes) -> bytes:
    """The PEM text of the key, after checking that `folder` holds its signature of `record`, the bytes of bundle.json.

    `public_key` is a PEM file, or its bytes. Raises BundleError where the signature is missing, unreadable, by another
    key or of other content, each with its own message; LogoEdgeError for a bad key.
    """
    name, pem = (
        ("the key", public_key) if isinstance(public_key, bytes) else (public_key, _read_pem(public_key, "public"))
    )
    key, path = _parse_key(name, pem, "public"), folder / SIGNATURE
    try:
        content = json.loads(path.read_bytes())
        algorithm, signer = content["algorithm"], content["key"]
        signature = base64.b64decode(content["signature"], validate=True)
    except FileNotFoundError as error:
        raise BundleError(
            f"{folder}: not signed, there is no {SIGNATURE}; a public key was given. Get the signed bundle, or sign it "
            "with `logo-edge sign`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise BundleError(f"{path}: cannot be read ({error!r}); get the bundle again, or sign it again") from error
    if algorithm != ALGORITHM:
        raise BundleError(f"{path}: signed by {algorithm!r}; this runtime verifies {ALGORITHM}")
    if signer != fingerprint(key):
        raise BundleError(
            f"{path}: signed by another key ({str(signer)[:16]}...); {name} is {fingerprint(key)[:16]}.... Give the "
            "signer's public key, or refuse the bundle"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, record)
    except InvalidSignature as error:
        raise BundleError(
            f"{folder}: bundle.json is not what was signed; it or {SIGNATURE} was changed afterwards. Get the bundle "
            "again, or sign it again if the change was yours"
        ) from error
    return pem


def fingerprint(public_key: Any) -> str:
    """sha256 of the raw 32 bytes of the public key, in hexadecimal."""
    return hashlib.sha256(public_key.public_bytes_raw()).hexdigest()


def _read_pem(path: str | os.PathLike, half: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise LogoEdgeError(f"{path}: {error.strerror}; {EXPECTED.format(half)}") from error


def _parse_key(path: str | os.PathLike, data: bytes, half: str) -> Any:
    """The private or public key in the content of a PEM file. Raises LogoEdgeError where it is no Ed25519 key."""
    serialization, ed25519 = _cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm

    expected = EXPECTED.format(half)
    try:
        if half == "private":
            key = serialization.load_pem_private_key(data, password=None)
        else:
            key = serialization.load_pem_public_key(data)
    except TypeError as error:
        raise LogoEdgeError(f"{path}: the key is encrypted; decrypt it first, with `openssl pkey -in ...`") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise LogoEdgeError(f"{path}: no {half} key ({str(error).split(' (', 1)[0]}); {expected}") from error
    kind = ed25519.Ed25519PrivateKey if half == "private" else ed25519.Ed25519PublicKey
    if not isinstance(key, kind):
        raise LogoEdgeError(f"{path}: a key of another kind, {type(key).__name__}; {expected}")
    return key


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingExtraError("sign", "cryptography") from error
    return serialization, ed25519
