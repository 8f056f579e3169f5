"""Batches in quarantine, projected again after a fix.

An operator asks for it (`ask`); the projector, which alone writes what projections keep, does it between its portions.
Asked and done stand in the cursors' table: AGAIN is the newest batch that is meant, LATE and ROUND tell those who
follow the history by batch ids that older ones have come to it: from which on, and how often that happened.

What a quarantined batch left behind is taken back in the transaction that projects it: its gap record is withdrawn, and
its hour in the loss ledger, unless another one of that hour is still unread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, func, select, update

from control_plane.projections.originals import WITHDRAWN
from control_plane.projections.projection import Envelope
from control_plane.store.engine import Store
from control_plane.store.tables import batch, cursor, gap, loss, quarantine
from control_plane.store.upsert import upsert
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS

AGAIN = "again"
LATE = "again.late"
ROUND = "again.round"
AT_ONCE = 64


class Late(NamedTuple):
    """Batches from `since` on may have come to the history after later ones; `round` rises each time."""

    round: int
    since: int


def ask(telemetry: Store) -> int:
    """Have everything that is in quarantine now projected again; how many batches that are."""
    with telemetry.write() as connection:
        last, count = connection.execute(select(func.max(quarantine.c.batch_id), func.count())).one()
        if count:
            upsert(connection, cursor, [{"name": AGAIN, "position": last}])
        return int(count)


def asked(connection: Connection) -> int | None:
    """The newest batch that is meant; None if nothing is asked."""
    return _position(connection, AGAIN)


def done(connection: Connection) -> None:
    connection.execute(delete(cursor).where(cursor.c.name == AGAIN))


def portion(connection: Connection, *, after: int, upto: int) -> list[int]:
    """Quarantined batches, oldest first."""
    query = select(quarantine.c.batch_id).where(quarantine.c.batch_id > after, quarantine.c.batch_id <= upto)
    return list(connection.execute(query.order_by(quarantine.c.batch_id).limit(AT_ONCE)).scalars())


def late(connection: Connection) -> Late | None:
    number, since = _position(connection, ROUND), _position(connection, LATE)
    return None if number is None or since is None else Late(number, since)


class Anew:
    """A loop that follows the history by batch ids, built anew whenever older ones have come to it."""

    def __init__(self, telemetry: Store, build: Callable[[], Callable[[], bool]]) -> None:
        self._telemetry = telemetry
        self._build = build
        self._step = build()
        self._known = self._late()

    def _late(self) -> Late | None:
        with self._telemetry.read() as connection:
            return late(connection)

    def step(self) -> bool:
        found = self._late()
        if found != self._known:
            self._known, self._step = found, self._build()
        return self._step()


def take_back(connection: Connection, journal: Store, envelopes: Sequence[Envelope], now_ms: int) -> None:
    """What the quarantine of these batches left; and tell that they come late."""
    ids = [one.id for one in envelopes]
    connection.execute(delete(quarantine).where(quarantine.c.batch_id.in_(ids)))
    records = gap.c.id.in_([f"undecodable-{one}" for one in ids])
    connection.execute(update(gap).where(records).values(count=0, joined_to=WITHDRAWN, recorded_ms=now_ms))
    for gateway in sorted({one.gateway for one in envelopes}):
        _lessen(connection, journal, gateway, [one for one in envelopes if one.gateway == gateway])
    known = late(connection)
    since = min([*ids, *([known.since] if known is not None else [])])
    rows = {ROUND: 1 if known is None else known.round + 1, LATE: since}
    upsert(connection, cursor, [{"name": name, "position": position} for name, position in rows.items()])


def _lessen(connection: Connection, journal: Store, gateway: str, envelopes: Sequence[Envelope]) -> None:
    left = list(connection.execute(select(quarantine.c.batch_id).where(quarantine.c.gateway == gateway)).scalars())
    still = {_hour(row) for row in _rows(journal, left)}
    for where in {_hour(one) for one in envelopes} - still:
        epoch, boot, hour = where
        mine = (loss.c.gateway == gateway, loss.c.epoch == epoch, loss.c.boot == boot, loss.c.hour == hour)
        connection.execute(delete(loss).where(*mine, loss.c.reason == pb.GAP_UNDECODABLE))


def _hour(one: Envelope | Row[Any]) -> tuple[int, int, int]:
    return one.epoch, one.complete_boot, one.complete_mono_ms // HOUR_MS


def _rows(journal: Store, ids: Collection[int]) -> Sequence[Any]:
    if not ids:
        return []
    columns = (batch.c.epoch, batch.c.complete_boot, batch.c.complete_mono_ms)
    with journal.read() as connection:
        return connection.execute(select(*columns).where(batch.c.id.in_(ids))).fetchall()


def _position(connection: Connection, name: str) -> int | None:
    found = connection.execute(select(cursor.c.position).where(cursor.c.name == name)).scalar_one_or_none()
    return None if found is None else int(found)
