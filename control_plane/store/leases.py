"""Who does a piece of work that only one process may do at a time.

Invariants
1. Once `take` returned, no transaction that ran under an earlier lease of that name will commit: `take` waits for
   those under way, and those begun later find another fence and roll back (`Fenced`).
2. Time is the database's. What the machines' clocks say does not matter.

PostgreSQL: a row in `business.lease`. Every write under a lease first locks that row FOR KEY SHARE with its own fence;
renewing changes no key and is not held up by that, taking over locks FOR UPDATE and waits. A holder that stands still
inside a transaction is ended by the server after FROZEN_S: nobody waits longer for it.

SQLite: a lock on a file beside the stores, held by the process itself. It has no end but the holder's, so nothing has
to be checked: the other one waits, on the same machine, until this one has ended.
"""

from __future__ import annotations

import fcntl
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from sqlalchemy import BigInteger, Connection, Row, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import insert

from control_plane.errors import Fenced
from control_plane.lifeline import surely_ended
from control_plane.store.engine import Store, Stores
from control_plane.store.tables import lease

LIFE_S = 12.0
"""A holder that said nothing for so long is replaced."""
RENEW_S = 3.0
FROZEN_S = 12

DATABASE_MS = literal_column("(extract(epoch FROM clock_timestamp()) * 1000)::bigint", BigInteger)


class Lease(NamedTuple):
    name: str
    fence: int


class Leases(Protocol):
    """Of one process. Blocking; one thread at a time."""

    def take(self, name: str) -> Lease | None:
        """The lease, if nobody lives who has it."""

    def renew(self, lease_: Lease) -> bool:
        """Whether it is still ours. Raises DBAPIError where that can't be known."""

    def release(self, lease_: Lease) -> None:
        """Let the next one have it at once."""

    def under(self, lease_: Lease) -> Stores:
        """The stores, with writes that end in `Fenced` once the lease is somebody else's."""


def leases_of(stores: Stores, *, holder: str, life_s: float = LIFE_S) -> Leases:
    """`holder`: how people are told who it is, unique."""
    if stores.business.sqlite:
        return FileLeases(stores, holder)
    return TableLeases(stores, holder, round(life_s * 1000))


@dataclass(slots=True)
class TableLeases:
    stores: Stores
    holder: str
    life_ms: int = round(LIFE_S * 1000)

    def take(self, name: str) -> Lease | None:
        over = (lease.c.until_ms < DATABASE_MS).label("over")
        query = select(lease.c.fence, lease.c.holder, over).where(lease.c.name == name)
        with self.stores.business.read() as connection:
            known = connection.execute(query).one_or_none()
        if known is not None and not _free(known):
            return None
        with self.stores.business.write() as connection:
            if known is None:
                # Not from 0: after a restore nobody's old fence may be right again.
                first = insert(lease).values(name=name, holder="", fence=DATABASE_MS, until_ms=0, taken_ms=0)
                connection.execute(first.on_conflict_do_nothing())
            row = connection.execute(query.with_for_update()).one_or_none()
            if row is None or not _free(row):  # another one was quicker, or the holder is alive after all
                return None
            values = {"holder": self.holder, "fence": row.fence + 1, "taken_ms": DATABASE_MS}
            until = {"until_ms": DATABASE_MS + self.life_ms}
            connection.execute(update(lease).where(lease.c.name == name).values(values | until))
            return Lease(name, row.fence + 1)

    def renew(self, lease_: Lease) -> bool:
        with self.stores.business.write() as connection:
            held = (lease.c.name == lease_.name, lease.c.fence == lease_.fence)
            fresh = {"until_ms": DATABASE_MS + self.life_ms}
            return connection.execute(update(lease).where(*held).values(fresh)).rowcount == 1

    def release(self, lease_: Lease) -> None:
        with self.stores.business.write() as connection:
            held = (lease.c.name == lease_.name, lease.c.fence == lease_.fence)
            connection.execute(update(lease).where(*held).values(until_ms=0))

    def under(self, lease_: Lease) -> Stores:
        def check(connection: Connection) -> None:
            _hold(connection, lease_)

        return self.stores.checked(check)


def _free(row: Row[Any]) -> bool:
    """Nobody has it, or who has it was killed on this machine: then there is nothing to wait for."""
    return bool(row.over) or surely_ended(row.holder)


def _hold(connection: Connection, lease_: Lease) -> None:
    """Keep the lease from being taken over until this transaction ends. Raises Fenced if it was."""
    if connection.execute(_HOLD, lease_._asdict()).first() is None:
        raise Fenced(f"{lease_.name}: another worker has taken over")


_HOLD = text(f"""
    SELECT set_config('idle_in_transaction_session_timeout', '{FROZEN_S}s', true)
    FROM business.lease WHERE name = :name AND fence = :fence FOR KEY SHARE""")


@dataclass(slots=True)
class FileLeases:
    stores: Stores
    holder: str
    _held: dict[str, IO[str]] = field(default_factory=dict)

    def take(self, name: str) -> Lease | None:
        folder = Path(str(self.stores.business.engine.url.database)).parent
        handle = (folder / f"{name}.lease").open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return None
        handle.truncate(0)
        handle.write(self.holder)
        handle.flush()
        self._held[name] = handle
        return Lease(name, 0)

    def renew(self, lease_: Lease) -> bool:
        return lease_.name in self._held

    def release(self, lease_: Lease) -> None:
        if (handle := self._held.pop(lease_.name, None)) is not None:
            handle.close()

    def under(self, _lease: Lease) -> Stores:
        return self.stores


# --- being there -----------------------------------------------------------------------------------------


class Alive:
    """Says that a process lives, so that others can act once it does not. PostgreSQL only.

    Unlike a lease nobody takes it over: `lapsed` tells who fell silent, `forget` ends the matter.
    """

    def __init__(self, business: Store, *, life_s: float = LIFE_S) -> None:
        self._business = business
        self._life_ms = round(life_s * 1000)

    def say(self, name: str) -> None:
        row = {"name": name, "holder": name, "fence": 0, "taken_ms": DATABASE_MS}
        until = {"until_ms": DATABASE_MS + self._life_ms}
        fresh = insert(lease).values(row | until)
        with self._business.write() as connection:
            connection.execute(fresh.on_conflict_do_update(index_elements=["name"], set_=until))

    def lapsed(self, prefix: str) -> dict[str, int]:
        """Those that fell silent, and when they last spoke, in ms by the database's clock."""
        query = select(lease.c.name, lease.c.until_ms)
        silent = query.where(lease.c.name.startswith(prefix, autoescape=True), lease.c.until_ms < DATABASE_MS)
        with self._business.read() as connection:
            return {name: max(0, until_ms - self._life_ms) for name, until_ms in connection.execute(silent)}

    def forget(self, name: str) -> None:
        """Unless it speaks again."""
        with self._business.write() as connection:
            connection.execute(lease.delete().where(lease.c.name == name, lease.c.until_ms < DATABASE_MS))
