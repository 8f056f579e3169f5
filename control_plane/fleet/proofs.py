"""What a gateway must prove about its keys before a certificate is signed. All raise Denied(MALFORMED)."""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from control_plane.errors import Denied, DeniedReason

DER_LIMIT_BYTES = 8_192


def requested_key(csr: bytes) -> ec.EllipticCurvePublicKey:
    """The P-256 key a CSR (DER) asks to be certified, its own signature checked."""
    try:
        request = x509.load_der_x509_csr(_bounded(csr))
        key = request.public_key()
        genuine = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        raise _malformed("The certificate request can't be read.") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _malformed("The certificate request must be for a P-256 key.")
    if not genuine:
        raise _malformed("The certificate request is not signed by its own key.")
    return key


def check_signing_key(signing_key: bytes, csr: bytes, proof: bytes) -> None:
    """`proof` is Ed25519 over sha256(csr) by `signing_key`."""
    try:
        Ed25519PublicKey.from_public_bytes(signing_key).verify(proof, hashlib.sha256(csr).digest())
    except (ValueError, InvalidSignature):
        raise _malformed("The signing key did not sign this certificate request.") from None


def presented_certificate(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(_bounded(der))
    except ValueError:
        raise _malformed("The old certificate can't be read.") from None


def check_renewal(old: x509.Certificate, message: bytes, signature: bytes) -> None:
    """`signature` is ECDSA-SHA256 over `message` by the key of the certificate being renewed."""
    key = old.public_key()
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _malformed("The renewal is not signed by the old certificate's key.") from None


def _bounded(der: bytes) -> bytes:
    if len(der) > DER_LIMIT_BYTES:
        raise _malformed(f"More than {DER_LIMIT_BYTES} bytes where a certificate or its request belongs.")
    return der


def _malformed(message: str) -> Denied:
    return Denied(message, reason=DeniedReason.MALFORMED)
