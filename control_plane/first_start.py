"""What must be there before any role starts: folder, schema, keys, an administrator."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.exc import DatabaseError

from control_plane.clock import SystemClock
from control_plane.errors import Misconfigured
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.authority import Authority
from control_plane.settings import Settings
from control_plane.store.damage import set_right
from control_plane.store.engine import Store, Stores
from control_plane.store.tables import installation
from control_plane.store.upsert import keep_first


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
        same_keys(stores.business, authority)
        password = Accounts(store=stores.business, clock=clock).ensure_admin()
    return Prepared(authority.fingerprint, password)


def same_keys(business: Store, authority: Authority) -> None:
    """Raises Misconfigured if this host's keys are not those that the installation was begun with."""
    with business.write() as connection:
        for name, value in (("ca_sha256", authority.fingerprint), ("config_key", authority.config_public_key.hex())):
            keep_first(connection, installation, {"name": name, "value": value})
            known = connection.execute(select(installation.c.value).where(installation.c.name == name)).scalar_one()
            if known != value:
                raise Misconfigured(
                    f"{authority.folder}: {name} {value[:16]}… is not that of this installation, {known[:16]}…. All "
                    "hosts need the same keys: put the pki folder of the first host, or of a backup, in its place"
                )


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
