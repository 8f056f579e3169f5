"""A private PostgreSQL for one test session: its own folder, a Unix socket only, fsync on."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from control_plane.store.tables import STORES

USER = "comboio"
TEMPLATE = "comboio_template"


def binaries() -> Path | None:
    """The folder of the newest installed initdb."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).resolve().parent if on_path else None


@dataclass(frozen=True)
class Cluster:
    folder: Path
    pid: int
    spare: list[str] = field(default_factory=list)
    """Databases that are migrated and empty."""

    def url(self, database: str) -> str:
        return f"postgresql://{USER}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """URL of an empty database that goes with the cluster."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)

    def clone(self) -> str:
        """Name of a migrated database."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def empty(self, database: str) -> None:
        """Take every row out and start every sequence again."""
        statements = [
            f"DELETE FROM {store}.{table.name}" for store, tables in STORES.items() for table in tables.sorted_tables
        ]
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                (database,),
            )
            units = "SELECT n.nspname, c.relname FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid"
            for schema, name in connection.execute(units + " JOIN pg_namespace n ON n.oid = c.relnamespace").fetchall():
                connection.execute(f'DROP TABLE {schema}."{name}"'.encode())
            found = connection.execute("SELECT schemaname, sequencename FROM pg_sequences").fetchall()
            statements += [f"ALTER SEQUENCE {schema}.{name} RESTART" for schema, name in found]
            connection.execute(";".join(statements).encode())

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def cluster(bin_dir: Path) -> Iterator[Cluster]:
    with mortal(bin_dir) as server:
        yield server.cluster


class Mortal:
    """A cluster whose server can be killed and started again on what is on disk."""

    def __init__(self, folder: Path, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._folder = folder
        self._start = start
        self.start()

    def start(self) -> None:
        self._server = self._start()
        self.cluster = Cluster(self._folder, self._server.pid)
        _await(self.cluster, self._server)

    def kill(self) -> None:
        """SIGKILL to all its processes at once, as if the machine had stopped."""
        processes = [psutil.Process(self._server.pid), *psutil.Process(self._server.pid).children(recursive=True)]
        for one in processes:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._server.wait(30)
        psutil.wait_procs(processes, timeout=30)

    def stop(self, signal_: int = signal.SIGINT) -> None:
        """SIGINT: an orderly end that cuts off who is connected."""
        self._server.send_signal(signal_)
        self._server.wait(60)


@contextmanager
def mortal(bin_dir: Path) -> Iterator[Mortal]:
    owner = _owner()
    folder = Path(tempfile.mkdtemp(prefix="comboio-pg-"))
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    # Not by Popen's own means: those fork, and a process that has used gRPC can't fork safely.
    as_owner = ["setpriv", "--pdeathsig", "QUIT"]
    if owner is not None:
        as_owner += [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    try:
        data = folder / "data"
        subprocess.run(
            [*as_owner, bin_dir / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "-N", "--no-locale"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=on"]

        def start() -> subprocess.Popen[bytes]:
            with (folder / "log").open("ab") as log:
                return subprocess.Popen(
                    [*as_owner, bin_dir / "postgres", "-D", data, *options], cwd=folder, stdout=log, stderr=log
                )

        started = Mortal(folder, start)
        try:
            yield started
        finally:
            started.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _owner() -> pwd.struct_passwd | None:
    """PostgreSQL refuses root: another user of this machine then."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def _await(started: Cluster, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(started.url("postgres")).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((started.folder / "log").read_text()) from None
            time.sleep(0.02)
