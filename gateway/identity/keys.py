"""The box's two keys, made here, never leaving: P-256 for TLS, Ed25519 for what it signs."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from gateway.errors import Misconfigured
from gateway.identity.files import write_durably


def tls_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key at `path`, made (0600) when there is none."""
    if not path.exists():
        _keep(path, ec.generate_private_key(ec.SECP256R1()))
    key = _load(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Misconfigured(f"{path}: not an elliptic-curve key; remove it and enrol again")
    return key


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key at `path`, made (0600) when there is none."""
    if not path.exists():
        _keep(path, Ed25519PrivateKey.generate())
    key = _load(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise Misconfigured(f"{path}: not an Ed25519 key; remove it and enrol again")
    return key


def certificate_request(path: Path, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The CSR (DER) for `key`, kept at `path`: a repeated attempt must send the same bytes to be known again."""
    if path.exists():
        kept = path.read_bytes()
        if x509.load_der_x509_csr(kept).public_key() == key.public_key():
            return kept
    # The name is the authority's to give; an empty one is not accepted everywhere.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    write_durably(path, request.public_bytes(Encoding.DER))
    return path.read_bytes()


def _keep(path: Path, key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> None:
    write_durably(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)


def _load(path: Path) -> object:
    try:
        return load_pem_private_key(path.read_bytes(), None)
    except ValueError as error:
        raise Misconfigured(f"{path}: can't be read as a key ({error}); remove it and enrol again") from None
