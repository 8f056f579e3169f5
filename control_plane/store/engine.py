"""Opens the three stores on SQLite files or PostgreSQL schemas and gives out transactions.

SQLite: WAL, synchronous=FULL, every write transaction is BEGIN IMMEDIATE, so that two writers wait for each other at
the start and never fail in the middle. PostgreSQL: read committed, one schema per store.
"""

from __future__ import annotations

import copy
import fcntl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text

from control_plane.errors import Misconfigured
from control_plane.store.tables import STORES

Check = Callable[[Connection], None]
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 15_000
LIFELINES = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""A host that vanished is noticed in a quarter of a minute; on a Unix socket the kernel tells."""


class Store:
    """One store. Transactions only by `read()` and `write()`."""

    def __init__(
        self, name: str, engine: Engine, check: Check | None = None, turn: threading.Lock | None = None
    ) -> None:
        """`check` is called at the beginning of each write transaction; what it raises rolls it back."""
        self.name = name
        self.engine = engine
        self._check = check
        self.sqlite = engine.dialect.name == "sqlite"
        self._turn = turn or threading.Lock()
        """SQLite has one writer. Who waits for it inside asks at longer and longer intervals, and may never find it
        free beside a thread that writes most of the time; who waits for this is woken."""

    def checked(self, check: Check) -> Store:
        """The same, with its turns, and `check` at the beginning of each write."""
        return Store(self.name, self.engine, check, self._turn)

    @contextmanager
    def read(self, *, snapshot: bool = False) -> Iterator[Connection]:
        """A view of committed data, on SQLite always of one instant, on PostgreSQL if asked; keep it under 5 s."""
        with self.engine.connect() as connection:
            if self.sqlite:
                connection = connection.execution_options(comboio_begin="BEGIN")  # noqa: PLW2901
            elif snapshot:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")  # noqa: PLW2901
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One durable transaction; committed when the block ends, rolled back if it raises."""
        with self._alone(), self.engine.connect() as connection, connection.begin():
            if self._check is not None:
                self._check(connection)
            yield connection

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """On SQLite among this process's threads; after the longest wait SQLite is left to say that it is busy."""
        mine = self.sqlite and self._turn.acquire(timeout=BUSY_TIMEOUT_MS / 1000)
        try:
            yield
        finally:
            if mine:
                self._turn.release()

    def close(self) -> None:
        self.engine.dispose()


class Stores:
    """journal, telemetry and business of one installation."""

    def __init__(self, url: str) -> None:
        """`url`: sqlite:///FOLDER or postgresql://…; nothing is created before `migrate`."""
        self.url = url
        self.journal = Store("journal", _engine(url, "journal"))
        self.telemetry = Store("telemetry", _engine(url, "telemetry"))
        self.business = Store("business", _engine(url, "business"))

    def all(self) -> tuple[Store, Store, Store]:
        """In backup order reversed: the order in which they are migrated."""
        return self.journal, self.telemetry, self.business

    def checked(self, check: Check) -> Stores:
        """The same stores, with `check` at the beginning of each write. Close these, not those."""
        found = copy.copy(self)
        for store in self.all():
            setattr(found, store.name, store.checked(check))
        return found

    def migrate(self) -> None:
        """Bring every store to the newest revision. Safe to call from several processes."""
        for store in self.all():
            if store.sqlite:
                with _file_lock(Path(str(store.engine.url.database) + ".migrate.lock")):
                    _upgrade(store)
            else:
                with store.engine.connect() as connection, connection.begin():
                    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('comboio.migrate'))"))
                    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {store.name}"))
                    _run_alembic(store, connection)

    def make(self, connection: Connection, versions: Mapping[str, str]) -> None:
        """Make empty schemas of these versions (store → migration) in one PostgreSQL transaction."""
        for name, version in versions.items():
            connection.execute(text(f"CREATE SCHEMA {name}"))
            connection.execute(text(f"SET LOCAL search_path = {name}"))
            _run_alembic(getattr(self, name), connection, to=version)

    def close(self) -> None:
        for store in self.all():
            store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _engine(url: str, name: str) -> Engine:
    if url.startswith("sqlite:///"):
        folder = Path(url.removeprefix("sqlite:///"))
        folder.mkdir(parents=True, exist_ok=True)
        engine = create_engine(f"sqlite:///{folder / name}.db", connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise Misconfigured(f"database: {parsed.get_backend_name()!r} is not supported; use a folder or postgresql://…")
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        connect_args={"options": f"-csearch_path={name}", **LIFELINES},
        pool_pre_ping=True,
        pool_size=8,
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("comboio_begin", "BEGIN IMMEDIATE"))


def _upgrade(store: Store) -> None:
    with store.write() as connection:
        _run_alembic(store, connection)


def _run_alembic(store: Store, connection: Connection, *, to: str = "head") -> None:
    from alembic import command  # noqa: PLC0415 - roles start without it
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("version_locations", str(MIGRATIONS / store.name))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    config.attributes["metadata"] = STORES[store.name]
    command.upgrade(config, to)


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
