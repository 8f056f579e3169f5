"""Who this box is: one folder per certificate, `current` names the one in force.

<data dir>/identity/
    signing.key                    Ed25519, for the life of the box
    enrolling/ renewing/           key and request of an unfinished attempt, so that it can be repeated
    1/ tls.key certificate.pem ca.pem identity.json
    current -> 1                   replaced in one step: key and certificate never part
"""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import grpc
import msgspec
from cryptography import x509

from gateway.errors import Misconfigured, StorageDamaged
from gateway.identity.files import point_durably, sync_folder, write_durably
from gateway.identity.keys import tls_key

CURRENT = "current"


class DamagedIdentityError(Misconfigured, StorageDamaged):
    """There is an identity and it can't be read: sensors are read on, a person enrols the box again."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """identity.json: what the control plane told at enrolment."""

    gateway_id: str
    grpc: str
    identity: str
    config_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Both addresses are HOST:PORT of the control plane; `config_key` verifies configuration and commands."""

    gateway_id: str
    folder: Path
    grpc_address: str
    identity_address: str
    config_key: bytes
    not_before: datetime
    not_after: datetime

    @classmethod
    def load(cls, data_dir: Path) -> Self:
        """Raises Misconfigured when the box is not enrolled, DamagedIdentityError when that can't be read."""
        current = root(data_dir) / CURRENT
        while True:
            if not current.exists():
                raise Misconfigured(f"{data_dir}: not enrolled; run: comboio-gateway enrol --server URL --token TOKEN")
            folder = current.resolve()
            try:
                return cls.in_folder(folder)
            except DamagedIdentityError:
                if current.resolve() == folder:
                    raise  # otherwise a renewal took the folder away while it was read: read its successor

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        try:
            facts = msgspec.json.decode((folder / "identity.json").read_bytes(), type=Facts)
            certificate = x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())
            _check_keys(folder, certificate)
        except (OSError, ValueError, Misconfigured) as error:
            raise DamagedIdentityError(f"{folder}: damaged ({error}); enrol this box again") from None
        return cls(
            gateway_id=facts.gateway_id,
            folder=folder,
            grpc_address=facts.grpc,
            identity_address=facts.identity,
            config_key=bytes.fromhex(facts.config_key),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
        )

    @property
    def tls_key_path(self) -> Path:
        return self.folder / "tls.key"

    @property
    def certificate_path(self) -> Path:
        """The chain, this box's certificate first."""
        return self.folder / "certificate.pem"

    @property
    def ca_path(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def signing_key_path(self) -> Path:
        return self.folder.parent / "signing.key"

    def credentials(self) -> grpc.ChannelCredentials:
        """Mutual TLS with this certificate; the fleet's CA is the only root."""
        return grpc.ssl_channel_credentials(
            self.ca_path.read_bytes(), self.tls_key_path.read_bytes(), self.certificate_path.read_bytes()
        )

    def renewal_due(self, now_ms: int) -> bool:
        """Two thirds of its life are over. The clock may be wrong: the caller may also simply try."""
        due = self.not_before + (self.not_after - self.not_before) * 2 / 3
        return datetime.fromtimestamp(now_ms / 1000, UTC) >= due

    def in_force(self) -> None:
        """Make this the current identity, durably, and drop the others."""
        point_durably(self.folder.parent / CURRENT, self.folder.name)
        for other in self.folder.parent.iterdir():
            if other.is_dir() and not other.is_symlink() and other.name.isdigit() and other != self.folder:
                shutil.rmtree(other, ignore_errors=True)


def _check_keys(folder: Path, certificate: x509.Certificate) -> None:
    """Raises for a key or CA that can't be used: gRPC ends the whole process when it is given one."""
    x509.load_pem_x509_certificates((folder / "ca.pem").read_bytes())
    if not (folder / "tls.key").exists():
        raise ValueError("tls.key is missing")  # and must not be made anew
    if tls_key(folder / "tls.key").public_key() != certificate.public_key():
        raise ValueError("tls.key is not the key of certificate.pem")


def set_aside(data_dir: Path) -> Path:
    """Move the damaged identity in force out of the way, by name; returns where it is now."""
    folder = (root(data_dir) / CURRENT).resolve()
    aside = folder.with_name(f"{folder.name}.damaged-{secrets.token_hex(4)}")
    folder.rename(aside)
    sync_folder(folder.parent)
    return aside


def root(data_dir: Path) -> Path:
    return data_dir / "identity"


def store(data_dir: Path, *, facts: Facts, tls_key_pem: bytes, certificate_pem: bytes, ca_pem: bytes) -> Identity:
    """Write a further identity, durably, not yet in force."""
    parent = root(data_dir)
    numbers = [int(folder.name) for folder in parent.iterdir() if folder.name.isdigit()]
    folder = parent / str(max(numbers, default=0) + 1)
    folder.mkdir(mode=0o700)
    write_durably(folder / "tls.key", tls_key_pem, mode=0o600)
    write_durably(folder / "certificate.pem", certificate_pem)
    write_durably(folder / "ca.pem", ca_pem)
    write_durably(folder / "identity.json", msgspec.json.encode(facts))
    sync_folder(parent)
    return Identity.in_folder(folder)
