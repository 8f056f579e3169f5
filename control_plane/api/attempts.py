"""Failed attempts to log in, counted for all web processes of an installation together.

Counts stand in the business store where several processes share it (PostgreSQL); one process keeps its own in memory.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, request
from flask_limiter import Limiter
from limits.storage import Storage
from sqlalchemy import BigInteger, case, delete, literal_column, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from control_plane.settings import WebSection
from control_plane.store.engine import Store
from control_plane.store.leases import DATABASE_MS
from control_plane.store.tables import failed_attempt as table

FORGET_MS = 3_600_000


def limiter(app: Flask, web: WebSection, shared: Store | None) -> Limiter:
    """`shared`: the business store, if there is one."""

    def address() -> str:
        return caller_address(web.proxies)

    if shared is None or shared.sqlite:
        return Limiter(address, app=app, storage_uri="memory://", headers_enabled=True)
    options: Any = {"store": shared}
    return Limiter(address, app=app, storage_uri="business://", storage_options=options, headers_enabled=True)


def caller_address(proxies: tuple[str, ...]) -> str:
    """Of whoever asks; what a proxy says of it counts only if the proxy is declared."""
    address = request.remote_addr or "unknown"
    if address in proxies:
        said = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        return said[:64] or address
    return address


class StoredCounts(Storage):
    """Counts that end by themselves, by the database's clock."""

    STORAGE_SCHEME = ["business"]  # noqa: RUF012 - as the base class has it

    def __init__(self, uri: str | None = None, *, store: Any, wrap_exceptions: bool = False) -> None:
        super().__init__(uri, wrap_exceptions)
        self._store: Store = store

    @property
    def base_exceptions(self) -> type[Exception]:
        return SQLAlchemyError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        fresh = insert(table).values(name=key, failures=amount, until_ms=DATABASE_MS + expiry * 1000)
        over = table.c.until_ms < DATABASE_MS
        values = {
            "failures": case((over, fresh.excluded.failures), else_=table.c.failures + fresh.excluded.failures),
            "until_ms": case((over, fresh.excluded.until_ms), else_=table.c.until_ms),
        }
        counted = fresh.on_conflict_do_update(index_elements=["name"], set_=values).returning(table.c.failures)
        with self._store.write() as connection:
            connection.execute(delete(table).where(table.c.until_ms < DATABASE_MS - FORGET_MS))
            return int(connection.execute(counted).scalar_one())

    def get(self, key: str) -> int:
        query = select(table.c.failures).where(table.c.name == key, table.c.until_ms >= DATABASE_MS)
        with self._store.read() as connection:
            return int(connection.execute(query).scalar_one_or_none() or 0)

    def get_expiry(self, key: str) -> float:
        query = select(table.c.until_ms).where(table.c.name == key)
        now = select(literal_column("0", BigInteger) + DATABASE_MS)
        with self._store.read() as connection:
            until_ms = connection.execute(query).scalar_one_or_none()
            return float(until_ms if until_ms is not None else connection.execute(now).scalar_one()) / 1000

    def check(self) -> bool:
        try:
            self.get("")
        except SQLAlchemyError:
            return False
        return True

    def reset(self) -> int | None:
        with self._store.write() as connection:
            return connection.execute(delete(table)).rowcount

    def clear(self, key: str) -> None:
        with self._store.write() as connection:
            connection.execute(delete(table).where(table.c.name == key))
