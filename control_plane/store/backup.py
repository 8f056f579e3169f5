"""Copies of an installation in a folder, and back.

A backup is a folder that was made under another name and renamed once it was whole and on disk:

    manifest.json            what, when, which version; size and SHA-256 of every other file, rows of every table
    manifest.sha256          its own
    pki/                     the fleet's keys: whoever has them is the fleet
    SQLite:     business.db, telemetry.db, journal.db by the online backup API, in this order, checked
    PostgreSQL: <store>.<table>.copy.zst, COPY in binary out of one REPEATABLE READ transaction over all three schemas

The order on SQLite makes cursors point to what the copy has: each file is from no earlier than the one whose cursors
it is read by. On PostgreSQL one snapshot does. PostgreSQL's own pg_dump is not used: it has to be of the server's
version or later and is rarely there where this program runs; COPY streams are as fast and need only the connection.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import msgspec
import zstandard
from sqlalchemy import Connection, Table, delete, text, update

from control_plane.durable import replace_file, sync_folder
from control_plane.errors import Misconfigured
from control_plane.store import units
from control_plane.store.content import cursors, lasting, names, newest
from control_plane.store.engine import Stores
from control_plane.store.tables import (
    STORES,
    batch,
    command_result,
    kept,
    reconcile_cursor,
    rule_checkpoint,
    telemetry_unit,
)
from control_plane.store.tables import telemetry as telemetry_tables
from control_plane.store.transplant import count_on, driver, refuse_content, versions

FORMAT = 1
MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
KEYS = "pki"
ORDER = ("business", "telemetry", "journal")
CHUNK = 1 << 20


class File(msgspec.Struct, frozen=True, kw_only=True):
    bytes: int
    sha256: str


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    rows: int
    columns: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    kind: str
    """sqlite or postgresql"""
    program: str
    made_ms: int
    versions: dict[str, str]
    """Store → its newest migration."""
    tables: dict[str, Rows]
    """By store.table."""
    files: dict[str, File]


def backup(stores: Stores, data: Path, to: Path, *, now_ms: int) -> Manifest:
    """Copy the stores and the keys in `data` to the folder `to`, which must not be there or be empty.

    Servers may go on meanwhile. Raises Misconfigured; then there is nothing at `to`.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Misconfigured(f"{to}: is there already; a backup goes into a folder of its own")
    work = to.with_name(f".{to.name}.{os.getpid()}.part")
    work.mkdir(mode=0o700, parents=True)
    try:
        tables = _sqlite(stores, work) if stores.journal.sqlite else _postgresql(stores, work)
        _keys(data, work)
        manifest = Manifest(
            format=FORMAT,
            kind="sqlite" if stores.journal.sqlite else "postgresql",
            program=version("comboio"),
            made_ms=now_ms,
            versions=versions(stores),
            tables=tables,
            files={str(path.relative_to(work)): _seen(path) for path in _files(work)},
        )
        for path in _files(work):
            _sync(path)
        written = msgspec.json.format(msgspec.json.encode(manifest))
        replace_file(work / MANIFEST, written, mode=0o600)
        replace_file(work / CHECKSUM, hashlib.sha256(written).hexdigest().encode(), mode=0o600)
        work.replace(to)
        sync_folder(to.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Raises Misconfigured if this is no backup, or any file is not as it was written."""
    try:
        written = (folder / MANIFEST).read_bytes()
        if hashlib.sha256(written).hexdigest().encode() != (folder / CHECKSUM).read_bytes():
            raise Misconfigured(f"{folder / MANIFEST}: is not what was backed up: this backup is damaged")
        manifest = msgspec.json.decode(written, type=Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise Misconfigured(f"{folder}: is no backup of this program: {error}") from None
    if manifest.format != FORMAT:
        raise Misconfigured(f"{folder}: was made by a newer program ({manifest.program})")
    for name, said in manifest.files.items():
        if not (folder / name).is_file() or _seen(folder / name) != said:
            raise Misconfigured(f"{folder / name}: is not what was backed up: this backup is damaged")
    return manifest


def restore(folder: Path, stores: Callable[[], Stores], data: Path) -> tuple[Manifest, list[str]]:
    """Put a backup into an empty data folder or database. Returns also what had to be set right.

    Raises Misconfigured, with nothing changed, where anything is there already.
    """
    manifest = read_manifest(folder)
    _refuse_data(folder, data)
    with stores() as target:
        if manifest.kind != ("sqlite" if target.journal.sqlite else "postgresql"):
            raise Misconfigured(
                f"{folder} is of {manifest.kind}. A SQLite one is restored without --database, then "
                "comboio-control migrate --to moves it; a PostgreSQL one needs --database"
            )
        if not target.journal.sqlite:
            _put_keys(folder, data)
            return manifest, _load(folder, target, manifest)
    work = data / ".restoring"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    for store in ORDER:
        shutil.copyfile(folder / f"{store}.db", work / f"{store}.db")
    with Stores(f"sqlite:///{work}") as copied:
        copied.migrate()
        notes = set_right(copied)
    _put_keys(folder, data)
    for store in ORDER:
        with closing(sqlite3.connect(work / f"{store}.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _sync(work / f"{store}.db")
        (work / f"{store}.db").replace(data / f"{store}.db")
    shutil.rmtree(work)
    sync_folder(data)
    return manifest, notes


def set_right(stores: Stores) -> list[str]:
    """Where what follows the journal has read further than the journal goes, take it back; say so.

    That is so where the files were not copied in their order: what the projections know then came out of batches that
    this journal does not have, and gateways will send them again under numbers that would be taken for read.
    """
    notes = []
    with stores.journal.read() as connection:
        last = units.newest_id(connection, batch.name)
    with stores.telemetry.read() as telemetry, stores.business.read() as business:
        read = cursors(business, telemetry)
    if read.projected > last:
        with stores.telemetry.write() as connection:
            for table in telemetry_tables.sorted_tables:
                if table.name in units.FAMILIES:
                    units.clear(connection, table.name)
                elif table.name not in {telemetry_unit.name, kept.name}:  # they say how it is, and what is gone
                    connection.execute(delete(table))
        notes.append("the projections were ahead of the journal: they are made again from it")
    if max(read.projected, read.reconciled) > last:
        with stores.business.write() as connection:
            rewound = update(reconcile_cursor).where(reconcile_cursor.c.name == "history").values(position=0)
            connection.execute(rewound)
            connection.execute(delete(rule_checkpoint))
        notes.append("business events are looked at again from the beginning; those that are right stay as they are")
    with stores.telemetry.read() as telemetry:
        told = newest(telemetry, command_result, "position")
    if read.told > told:
        with stores.business.write() as connection:
            behind = update(reconcile_cursor).where(reconcile_cursor.c.name == "commands").values(position=told)
            connection.execute(behind)
    return notes


# --- SQLite ----------------------------------------------------------------------------------------------


def _sqlite(stores: Stores, work: Path) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    by_name = {store.name: store for store in stores.all()}
    for name in ORDER:
        source, target = str(by_name[name].engine.url.database), work / f"{name}.db"
        target.touch(mode=0o600)
        with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as copy:
            reading.backup(copy)  # in one go: one snapshot, and writers don't make it begin again
            copy.execute("PRAGMA journal_mode=DELETE")
            said = [row[0] for row in copy.execute("PRAGMA integrity_check")]
            if said != ["ok"]:
                raise Misconfigured(f"{source} is damaged: {said[0]}. Nothing was backed up")
            for table in lasting(name):
                count = copy.execute(f'SELECT count(*) FROM "{table.name}"').fetchone()[0]
                found[f"{name}.{table.name}"] = _rows(table, int(count))
    return found


def _rows(table: Table, count: int) -> Rows:
    return Rows(rows=count, columns=tuple(str(column.name) for column in table.columns))


# --- PostgreSQL ------------------------------------------------------------------------------------------


def _postgresql(stores: Stores, work: Path) -> dict[str, Rows]:
    engine = stores.business.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    found = {}
    with engine.connect() as connection, connection.begin():
        for name in ORDER:
            for table in lasting(name):
                count = _copy_out(connection, name, table, work / f"{name}.{table.name}.copy.zst")
                found[f"{name}.{table.name}"] = _rows(table, count)
    return found


def _copy_out(connection: Connection, store: str, table: Table, path: Path) -> int:
    path.touch(mode=0o600)
    statement = f'COPY (SELECT {names(table)} FROM {store}."{table.name}") TO STDOUT (FORMAT binary)'
    with driver(connection).cursor() as cursor, path.open("wb") as raw:
        packer = zstandard.ZstdCompressor(level=3).stream_writer(raw, closefd=False)
        with packer as packed, cursor.copy(statement.encode()) as copy:
            for piece in copy:
                packed.write(piece)
        return cursor.rowcount


def _load(folder: Path, target: Stores, manifest: Manifest) -> list[str]:
    with target.business.engine.connect() as connection, connection.begin():
        _empty(connection)
        target.make(connection, manifest.versions)
        for name, said in manifest.tables.items():
            _copy_in(connection, name, said, folder / f"{name}.copy.zst")
    target.migrate()
    for store in (target.journal, target.telemetry):
        with store.write() as connection:
            units.fold(connection, store.name)
    notes = set_right(target)
    with target.telemetry.read() as telemetry, target.business.read() as business:
        read = cursors(business, telemetry)
    with target.business.write() as connection:
        count_on(connection, read)
    return notes


def _empty(connection: Connection) -> None:
    """Take away schemas without content, of whatever version they are. Raises Misconfigured if there is some."""
    schemas = list(connection.execute(text("SELECT nspname FROM pg_namespace")).scalars())
    ours = [store for store in STORES if store in schemas]
    if ours:
        if len(ours) == len(STORES):
            refuse_content(connection)
        for store in ours:
            connection.execute(text(f"DROP SCHEMA {store} CASCADE"))


def _copy_in(connection: Connection, name: str, said: Rows, path: Path) -> None:
    store, _, table = name.partition(".")
    columns = ", ".join(f'"{column}"' for column in said.columns)
    statement = f'COPY {store}."{table}" ({columns}) FROM STDIN (FORMAT binary)'
    with driver(connection).cursor() as cursor, path.open("rb") as raw:
        unpacked = zstandard.ZstdDecompressor().stream_reader(raw)
        with unpacked, cursor.copy(statement.encode()) as copy:
            for piece in _pieces(unpacked):
                copy.write(piece)
        if cursor.rowcount != said.rows:
            raise Misconfigured(f"{path}: has {cursor.rowcount} rows, not what the manifest says")


# --- files -----------------------------------------------------------------------------------------------


def _keys(data: Path, work: Path) -> None:
    (work / KEYS).mkdir(mode=0o700)
    for path in sorted((data / KEYS).glob("*")):
        if path.is_file() and not path.name.startswith("."):
            replace_file(work / KEYS / path.name, path.read_bytes(), mode=0o600)


def _put_keys(folder: Path, data: Path) -> None:
    (data / KEYS).mkdir(mode=0o700, exist_ok=True)
    for path in sorted((folder / KEYS).iterdir()):
        replace_file(data / KEYS / path.name, path.read_bytes(), mode=0o600)


def _refuse_data(folder: Path, data: Path) -> None:
    """The same keys may be there: an attempt before this one was cut short."""
    found = [f"{store}.db" for store in ORDER if (data / f"{store}.db").exists()]
    keys = data / KEYS / "ca.pem"
    if keys.exists() and keys.read_bytes() != (folder / KEYS / "ca.pem").read_bytes():
        found.append(f"{KEYS}/ca.pem")
    if found:
        raise Misconfigured(f"--data-dir {data}: {found[0]} is there; restore into an empty folder")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _seen(path: Path) -> File:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in _pieces(file):
            digest.update(piece)
    return File(bytes=path.stat().st_size, sha256=digest.hexdigest())


def _pieces(file: IO[bytes] | Any) -> Iterator[bytes]:
    while piece := file.read(CHUNK):
        yield piece


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
