"""The fleet's own certificate authority and the key that signs configuration.

Everything in `<data dir>/pki/`, each file replaced atomically, private ones 0600:

    ca.key, ca.pem     P-256; the certificate is written last, so its presence means both are there
    server.pem         key and chain of this server in one file, so that no crash can part them
    config.key         Ed25519; its public half is handed out at enrolment

The CA and the server certificates are valid from 1970: a gateway whose clock was lost in a power cut must still be
able to connect. A clock that is behind can meet "not yet valid", never "expired"; `notAfter` and revocation do the
rest. Gateway certificates are judged by this side's clock only.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.durable import exclusive, replace_file

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CA_END = datetime(2100, 1, 1, tzinfo=UTC)
SERVER_LIFE = timedelta(days=825)
GATEWAY_LIFE = timedelta(days=180)
CLOCK_SLACK = timedelta(hours=1)  # replicas of one control plane may disagree this much
GATEWAY_URN = "urn:comboio:gateway:"


class ServerIdentity(NamedTuple):
    """What a TLS listener needs. `path` holds key and chain together."""

    path: Path
    key_pem: bytes
    chain_pem: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """Open with `Authority.open(data_dir)`; the first call of an installation makes the keys."""

    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    config_key: Ed25519PrivateKey

    @classmethod
    def open(cls, data_dir: Path) -> Self:
        folder = data_dir / "pki"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(folder / ".lock"):
            if not (folder / "ca.pem").exists():
                _make_ca(folder)
            if not (folder / "config.key").exists():
                replace_file(folder / "config.key", _private_pem(Ed25519PrivateKey.generate()), mode=0o600)
        key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
        config_key = load_pem_private_key((folder / "config.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(config_key, Ed25519PrivateKey)
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        return cls(folder=folder, certificate=certificate, key=key, config_key=config_key)

    @property
    def ca_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the CA certificate's DER, lower-case hexadecimal: what a join token pins."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def config_public_key(self) -> bytes:
        return self.config_key.public_key().public_bytes_raw()

    def server_identity(self, names: tuple[str, ...], *, now_ms: int) -> ServerIdentity:
        """This server's key and certificate for `names` + localhost; made again when it no longer fits."""
        path = self.folder / "server.pem"
        wanted = _alternative_names(names)
        with exclusive(self.folder / ".lock"):
            if not path.exists() or not self._still_serves(path.read_bytes(), wanted, now_ms):
                replace_file(path, self._make_server(wanted, now_ms), mode=0o600)
            bundle = path.read_bytes()
        start = bundle.index(b"-----BEGIN CERTIFICATE-----")
        return ServerIdentity(path, bundle[:start], bundle[start:])

    def sign_gateway(self, key: ec.EllipticCurvePublicKey, gateway_id: str, *, now_ms: int) -> x509.Certificate:
        now = _moment(now_ms)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(GATEWAY_URN + gateway_id)]
        builder = self._leaf(key, gateway_id, names, ExtendedKeyUsageOID.CLIENT_AUTH)
        builder = builder.not_valid_before(max(EPOCH, now - CLOCK_SLACK)).not_valid_after(now + GATEWAY_LIFE)
        return builder.sign(self.key, hashes.SHA256())

    def issued(self, certificate: x509.Certificate) -> bool:
        """Whether this CA signed it; dates are not looked at."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _still_serves(self, bundle: bytes, wanted: list[x509.GeneralName], now_ms: int) -> bool:
        certificate = x509.load_pem_x509_certificate(bundle)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        left = certificate.not_valid_after_utc - _moment(now_ms)
        return set(names) == set(wanted) and left > SERVER_LIFE / 3 and self.issued(certificate)

    def _make_server(self, names: list[x509.GeneralName], now_ms: int) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._leaf(key.public_key(), "comboio-control", names, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.not_valid_before(EPOCH).not_valid_after(_moment(now_ms) + SERVER_LIFE)
        return _private_pem(key) + builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM) + self.ca_pem

    def _leaf(
        self, key: ec.EllipticCurvePublicKey, name: str, names: list[x509.GeneralName], usage: x509.ObjectIdentifier
    ) -> x509.CertificateBuilder:
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        )


def gateway_named_in(certificate: x509.Certificate) -> str | None:
    """The gateway id in the certificate's URI SAN, or None."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    ids = [uri.removeprefix(GATEWAY_URN) for uri in uris if uri.startswith(GATEWAY_URN)]
    return ids[0] if len(ids) == 1 else None


def _make_ca(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Comboio fleet CA {secrets.token_hex(4)}")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(EPOCH)
        .not_valid_after(CA_END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    replace_file(folder / "ca.key", _private_pem(key), mode=0o600)
    replace_file(folder / "ca.pem", certificate.public_bytes(Encoding.PEM))


def _alternative_names(names: tuple[str, ...]) -> list[x509.GeneralName]:
    wanted = dict.fromkeys((*names, "localhost", "127.0.0.1"))
    return [_general_name(name) for name in wanted if name]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _moment(now_ms: int) -> datetime:
    return EPOCH + timedelta(milliseconds=now_ms)
