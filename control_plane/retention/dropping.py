"""Divides what is kept into units and drops those that are over. A loop of one worker.

Invariants
1. A unit is dropped only when it was closed for as long as the group it is kept for says, and everything was read of it
   that follows the journal: projections and business events; of chunks, the rollups.
2. What must outlive it leaves it in the same transaction: batches that events rest on become evidence; batches that
   readings still come from (thinned ones, unreadable ones, those not sealed) go to the open unit.
3. That readings are gone is told (`kept`) in the transaction that drops them.

One unit a step. A reader with an open transaction puts it off; the next step tries the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection, Table, func, or_, select, text, update
from sqlalchemy.exc import OperationalError

from control_plane.clock import Clock
from control_plane.journal.dictionaries import in_order
from control_plane.projections import kept
from control_plane.retention.evidence import Evidence
from control_plane.retention.policies import DAY_MS, Keep, Policies
from control_plane.store import units
from control_plane.store.content import cursors
from control_plane.store.engine import Store, Stores
from control_plane.store.tables import anchor, batch, boot, chunk, history, quarantine, rolled, rollup
from control_plane.store.units import BASE, Unit

SHARE = 12
"""A unit takes in data for a twelfth of the time they are kept."""
UNLIMITED_MS = 90 * DAY_MS
"""The same where they are kept for ever: the time may be limited later."""
UNIT_BYTES = 256 * 1024 * 1024
"""On SQLite, where dropping takes a millisecond of everybody's time for some MB."""
MOST_UNITS = 64
PUT_OFF_MS = 60_000
AT_ONCE = 500
SPAN_MS = (3_600_000, DAY_MS, 31 * DAY_MS, 31 * DAY_MS)
"""What a row of a rollup covers, by level."""

log = structlog.get_logger("control_plane.retention")


@dataclass(slots=True)
class Retention:
    """`unit_bytes`: on SQLite a unit takes in no more than about that."""

    stores: Stores
    policies: Policies
    evidence: Evidence
    clock: Clock
    unit_bytes: int = UNIT_BYTES
    _put_off: dict[tuple[str, int], int] = field(default_factory=dict)
    """Until when nobody tries that unit again."""

    def step(self) -> bool:
        """Divide what is due, drop at most one unit. True if one was dropped."""
        keeps = self.policies.keeps()
        try:
            self._divide(self.stores.journal, batch, keeps)
            self._divide(self.stores.telemetry, chunk, keeps)
            self._divide_rollups(keeps)
        except OperationalError as error:
            log.info("retention.not_divided", error=str(error.orig).splitlines()[0])
        now_ms = self.clock.now_ms()
        for family in units.FAMILIES:
            for unit in self._over(family, keeps, now_ms):
                if self._try(unit, keeps, now_ms):
                    return True
        return False

    # --- dividing --------------------------------------------------------------------------------------

    def _divide(self, store: Store, table: Table, keeps: dict[str, Keep]) -> None:
        family, now_ms = table.name, self.clock.now_ms()
        keep_ms = {slug: _of(family, 0, keep) for slug, keep in keeps.items()}
        with store.read() as connection:
            open_ones = units.opened(connection, family)
            if not open_ones and not self._worth_it(connection, table, keep_ms):
                return
            due = [slug for slug, ms in keep_ms.items() if self._due(connection, open_ones.get(slug), ms)]
        gone = [unit for slug, unit in open_ones.items() if slug not in keep_ms]
        if due or gone:
            with store.write() as connection:
                _in_turn(connection, store)
                for slug in due:
                    units.add(connection, family, kept_as=slug, begins_ms=now_ms)
                for unit in gone:
                    units.close(connection, unit, now_ms)

    def _worth_it(self, connection: Connection, table: Table, keeps_ms: dict[str, int | None]) -> bool:
        """Whether a table that was never divided is to be: groups differ, or it holds a unit's time."""
        keep_ms = keeps_ms[""]
        if len(set(keeps_ms.values())) > 1:
            return True
        if keep_ms is None:
            return False
        came = table.c.received_ms if table.name == batch.name else table.c.sealed_ms
        first_ms = connection.execute(select(came).order_by(table.c.id).limit(1)).scalar_one_or_none()
        return first_ms is not None and self.clock.now_ms() - int(first_ms) >= _period_ms(keep_ms)

    def _due(self, connection: Connection, unit: Unit | None, keep_ms: int | None) -> bool:
        """Whether a unit is missing, or takes in no more."""
        if unit is None:
            return True
        table = units.table_of(connection, unit)
        if connection.execute(select(table.c.id).limit(1)).first() is None:
            return False
        return self.clock.now_ms() - unit.begins_ms >= _period_ms(keep_ms) or self._full(connection, unit, table)

    def _full(self, connection: Connection, unit: Unit, table: Table) -> bool:
        if connection.dialect.name != "sqlite":
            return False
        some = select(table.c.id, func.length(table.c.body).label("bytes")).order_by(table.c.id.desc()).limit(20)
        rows = connection.execute(some).fetchall()
        most = sum(row.bytes for row in rows) / len(rows) * (rows[0].id - unit.first_id + 1)
        return most > self.unit_bytes and len(units.all_of(connection, unit.family)) < MOST_UNITS

    def _divide_rollups(self, keeps: dict[str, Keep]) -> None:
        """Once; further units are made where they are written."""
        limited = any(
            _of(rollup.name, level, keep) is not None for keep in keeps.values() for level in range(len(SPAN_MS))
        )
        with self.stores.telemetry.read() as connection:
            known = any(unit.ends_ms is not None for unit in units.all_of(connection, rollup.name))
        if limited and not known:
            with self.stores.telemetry.write() as connection:
                units.divide(connection, rollup.name, self.clock.now_ms())

    # --- dropping --------------------------------------------------------------------------------------

    def _over(self, family: str, keeps: dict[str, Keep], now_ms: int) -> list[Unit]:
        """Closed units whose time has passed, oldest first."""
        store = self.stores.journal if family == batch.name else self.stores.telemetry
        with store.read() as connection:
            known = units.all_of(connection, family)
        closed = [unit for unit in known if unit.number >= BASE and not units.gone(unit)]
        over = [unit for unit in closed if _is_over(unit, keeps, now_ms)]
        return [unit for unit in over if self._put_off.get((family, unit.number), 0) <= now_ms]

    def _try(self, unit: Unit, keeps: dict[str, Keep], now_ms: int) -> bool:
        try:
            dropped = {"batch": self._batches, "chunk": self._chunks, "rollup": self._rollups}[unit.family](unit, keeps)
        except OperationalError as error:
            log.info("retention.put_off", unit=units.name_of(unit), error=str(error.orig).splitlines()[0])
            dropped = False
        if not dropped:
            self._put_off[unit.family, unit.number] = now_ms + PUT_OFF_MS
            return False
        self._put_off.pop((unit.family, unit.number), None)
        log.info("retention.dropped", unit=units.name_of(unit), kept_as=unit.kept_as, until_ms=unit.ends_ms)
        return True

    def _batches(self, unit: Unit, keeps: dict[str, Keep]) -> bool:
        with self.stores.journal.read() as connection:
            low, high = connection.execute(_only(unit, connection, "min(id), max(id)")).one()
            gateways = sorted(connection.execute(_only(unit, connection, "DISTINCT gateway")).scalars())
        if low is not None and not self._followed(high):
            return False
        cited: set[int] = set()
        for gateway in gateways:
            cited |= {id_ for id_ in self.evidence.of_gateway(gateway) if low <= id_ <= high}
        still = self._read_from(low, high) if low is not None else set()
        past = self._past(unit, keeps, still - cited)
        if past:
            self._let_go(past, keeps, unit)
        with self.stores.journal.write() as connection:
            _in_turn(connection, self.stores.journal)
            if cited:
                units.move(connection, unit, cited, units.evidence(connection, unit.family))
            carried = still - cited - past.keys()
            if carried:
                opened = units.opened(connection, unit.family)
                units.move(connection, unit, carried, opened.get(unit.kept_as, opened[""]))
            units.drop(connection, unit)
        return True

    def _followed(self, newest: int) -> bool:
        """Whether all who follow the journal have come so far."""
        with self.stores.business.read() as business, self.stores.telemetry.read() as telemetry:
            read = cursors(business, telemetry)
        return min(read.projected, read.reconciled) >= newest

    def _read_from(self, low: int, high: int) -> set[int]:
        """Batches that readings come from, or will once they can be read."""
        sealed = select(history.c.batch_id).where(history.c.batch_id.between(low, high), history.c.chunk.is_(None))
        unread = select(quarantine.c.batch_id).where(quarantine.c.batch_id.between(low, high))
        with self.stores.telemetry.read() as connection:
            return {*connection.execute(sealed).scalars(), *connection.execute(unread).scalars()}

    def _past(self, unit: Unit, keeps: dict[str, Keep], ids: set[int]) -> dict[int, str]:
        """Those whose readings are not kept any longer either, and whose they are."""
        keep_ms = _of(chunk.name, 0, keeps.get(unit.kept_as, keeps[""]))
        found: dict[int, str] = {}
        if keep_ms is None or unit.number == BASE:
            return found
        before_ms = self.clock.now_ms() - keep_ms
        with self.stores.journal.read() as connection:
            table = units.table_of(connection, unit)
            for some in _portions(sorted(ids)):
                query = select(table.c.id, table.c.gateway)
                rows = connection.execute(query.where(table.c.id.in_(some), table.c.received_ms < before_ms))
                found |= {row.id: row.gateway for row in rows}
        return found

    def _let_go(self, ids: dict[int, str], keeps: dict[str, Keep], unit: Unit) -> None:
        keep_ms = _of(chunk.name, 0, keeps.get(unit.kept_as, keeps[""])) or 0
        with self.stores.telemetry.write() as connection:
            kept.tell(connection, kept.READINGS, set(ids.values()), self.clock.now_ms() - keep_ms)
            for some in _portions(sorted(ids)):
                mine = (history.c.batch_id.in_(some), history.c.chunk.is_(None))
                connection.execute(update(history).where(*mine).values(chunk=0))

    def _chunks(self, unit: Unit, _keeps: dict[str, Keep]) -> bool:
        with self.stores.telemetry.read() as connection:
            if self._not_rolled(connection, unit):
                return False
            gateways = list(connection.execute(_only(unit, connection, "DISTINCT gateway")).scalars())
        self._drop_told(unit, kept.READINGS, gateways, unit.ends_ms or 0)
        return True

    def _not_rolled(self, connection: Connection, unit: Unit) -> bool:
        """Whether it holds a chunk that has a place in time and is in no rollup."""
        one = units.table_of(connection, unit)
        same = (rolled.c.gateway == one.c.gateway, rolled.c.epoch == one.c.epoch, rolled.c.boot == one.c.boot)
        late = or_(rolled.c.chunk.is_(None), rolled.c.chunk < one.c.id)
        boots = (boot.c.gateway == one.c.gateway, boot.c.epoch == one.c.epoch, boot.c.boot == one.c.boot)
        anchored = (anchor.c.gateway == one.c.gateway, anchor.c.epoch == one.c.epoch, anchor.c.boot == one.c.boot)
        placed = or_(
            select(anchor.c.boot).where(*anchored).exists(),
            select(boot.c.boot).where(*boots, boot.c.wall_ms.is_not(None)).exists(),
        )
        query = select(one.c.id).outerjoin(rolled, same[0] & same[1] & same[2])
        bounds = (one.c.id < unit.first_id,) if unit.number == BASE else ()
        return connection.execute(query.where(late, placed, *bounds).limit(1)).first() is not None

    def _rollups(self, unit: Unit, _keeps: dict[str, Keep]) -> bool:
        with self.stores.telemetry.read() as connection:
            query = _only(unit, connection, "DISTINCT gateway")
            gateways = list(connection.execute(query).scalars())
        self._drop_told(unit, kept.LEVELS[unit.level], gateways, unit.ends_ms or 0)
        return True

    def _drop_told(self, unit: Unit, what: str, gateways: Iterable[str], until_ms: int) -> None:
        levels = kept.LEVELS if unit.family == rollup.name and unit.number == BASE else (what,)
        with self.stores.telemetry.write() as connection:
            for one in levels:
                kept.tell(connection, one, gateways, until_ms)
            units.drop(connection, unit)


def _of(family: str, level: int, keep: Keep) -> int | None:
    if family == batch.name:
        return keep.raw_ms
    if family == chunk.name:
        return keep.readings_ms
    return (keep.minutes_ms, keep.hours_ms, keep.days_ms, keep.days_ms)[level]


def _is_over(unit: Unit, keeps: dict[str, Keep], now_ms: int) -> bool:
    """Unit 0 holds everybody's: the longest time counts."""
    if unit.number == BASE:
        levels = range(len(SPAN_MS)) if unit.family == rollup.name else range(1)
        times = [_of(unit.family, level, keep) for keep in keeps.values() for level in levels]
    else:
        times = [_of(unit.family, unit.level, keeps.get(unit.kept_as, keeps[""]))]
    limited = [time for time in times if time is not None]
    if len(limited) < len(times) or unit.ends_ms is None:
        return False
    span_ms = SPAN_MS[unit.level] if unit.family == rollup.name else 0
    return now_ms >= unit.ends_ms + span_ms + max(limited)


def _period_ms(keep_ms: int | None) -> int:
    return UNLIMITED_MS if keep_ms is None else max(DAY_MS, keep_ms // SHARE)


def _only(unit: Unit, connection: Connection, what: str) -> Any:
    only = "ONLY " if unit.number == BASE and connection.dialect.name != "sqlite" else ""
    return text(f'SELECT {what} FROM {only}"{units.table_of(connection, unit).name}"')


def _in_turn(connection: Connection, store: Store) -> None:
    """Not between the numbering and the commit of those who append to the journal."""
    if store.name == "journal":
        in_order(store, connection)


def _portions(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)]
