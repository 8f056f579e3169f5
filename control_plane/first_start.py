"""What must be there before any role starts: folder, schema, keys, an administrator."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sqlalchemy.exc import DatabaseError

from control_plane.clock import SystemClock
from control_plane.errors import Misconfigured
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.authority import Authority
from control_plane.settings import Settings
from control_plane.store.damage import set_right
from control_plane.store.engine import Stores


class Prepared(NamedTuple):
    ca_sha256: str
    admin_password: str | None


def prepare(settings: Settings) -> Prepared:
    """Idempotent; the password is there only on the very first start."""
    make_data_dir(settings.data)
    authority = Authority.open(settings.data)
    clock = SystemClock()
    authority.server_identity(certificate_names(settings), now_ms=clock.now_ms())
    with Stores(settings.database_url) as stores:
        set_right(stores, ran_before=(settings.data / "run.json").exists(), now_ms=clock.now_ms())
        migrate(stores)
        password = Accounts(store=stores.business, clock=clock).ensure_admin()
    return Prepared(authority.fingerprint, password)


def migrate(stores: Stores) -> None:
    try:
        stores.migrate()
    except DatabaseError as error:
        raise Misconfigured(f"--database: can't be used: {error.orig}") from None


def make_data_dir(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise Misconfigured(f"--data-dir {path}: {error.strerror}") from None


def certificate_names(settings: Settings) -> tuple[str, ...]:
    """What this server is called by those who reach it: the certificate's names."""
    hosts = [settings.server_name]
    hosts += [
        settings.advertised(address).rpartition(":")[0].strip("[]") for address in (settings.grpc, settings.identity)
    ]
    return tuple(dict.fromkeys(hosts))
