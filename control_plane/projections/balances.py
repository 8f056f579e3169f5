"""Reading the loss ledger: one line per group and hour, with its sensor's name and the hour's wall time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, tuple_, union

from control_plane.projections.ledger import unpack
from control_plane.projections.walltime import WallTime, load_all
from control_plane.store.engine import Store
from control_plane.store.tables import declare, loss, received
from protos.comboio.v1 import batch_pb2 as pb
from protos.gaps import reason_word
from protos.hours import HOUR_MS

HOURS_AT_ONCE = 200
MOST_BOOTS = 500
"""Of those that lie in the stretch which is asked for."""
FAR_FUTURE_MS = 1 << 52
Key: TypeAlias = tuple[int, int, int, int]
"""Epoch, boot, hour, group."""
Hour: TypeAlias = tuple[int, int, int]


class Lost(NamedTuple):
    """`unknown`: besides `rows`, some were lost that nobody could count."""

    reason: str
    rows: int
    unknown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`sensor` is empty where nobody knows whose rows they were. `from_ms` is None while the hour can't be placed."""

    key: Key
    sensor: str
    period_ms: int
    from_ms: int | None
    to_ms: int | None
    received: int
    lost: list[Lost] = field(default_factory=list)


class Within(NamedTuple):
    """Hours of one boot."""

    epoch: int
    boot: int
    first: int
    last: int


class Group(NamedTuple):
    sensor: str
    period_ms: int
    quantities: frozenset[str]


class Balances:
    """Thread-safe as far as the stores are."""

    def __init__(self, *, journal: Store, telemetry: Store) -> None:
        self._journal = journal
        self._telemetry = telemetry

    def lines(
        self,
        gateway: str,
        *,
        sensor: str | None = None,
        from_ms: int | None = None,
        to_ms: int | None = None,
        after: Key | None = None,
        limit: int,
    ) -> list[Line]:
        """At most `limit` lines above `after`, by epoch, boot, hour and group. `sensor` may be sensor/quantity.

        What concerns every sensor is told with each. With a time, hours that can't be placed are left out.
        """
        groups = self.groups(gateway)
        found: list[Line] = []
        with self._telemetry.read() as connection:
            walls = load_all(connection, gateway)
            timed = from_ms is not None or to_ms is not None
            within = _hours_within(walls, from_ms or 0, FAR_FUTURE_MS if to_ms is None else to_ms) if timed else None
            for line in _lines(connection, gateway, groups, walls, after, within):
                if _asked(line, groups, sensor) and _within(line, from_ms, to_ms):
                    found.append(line)
                    if len(found) == limit:
                        break
        return found

    def groups(self, gateway: str) -> dict[tuple[int, int], Group]:
        """(epoch, group) → what it is: the newest declaration of an epoch has all of its groups."""
        newest = select(declare.c.epoch, func.max(declare.c.schema)).where(declare.c.gateway == gateway)
        query = select(declare.c.epoch, declare.c.body).where(
            declare.c.gateway == gateway,
            tuple_(declare.c.epoch, declare.c.schema).in_(newest.group_by(declare.c.epoch)),
        )
        with self._journal.read() as connection:
            bodies = connection.execute(query).all()
        return {
            (epoch, group.id): Group(group.sensor, group.period_ms, frozenset(one.name for one in group.series))
            for epoch, body in bodies
            for group in pb.Declare.FromString(body).groups
        }


def _lines(
    connection: Connection,
    gateway: str,
    groups: dict[tuple[int, int], Group],
    walls: dict[tuple[int, int], WallTime],
    after: Key | None,
    within: Sequence[Within] | None,
) -> Iterator[Line]:
    if within is not None and not within:
        return
    begin: Hour = after[:3] if after is not None else (0, 0, 0)
    including = True
    while hours := _hours(connection, gateway, begin, within, including=including):
        rows, lost = _rows(connection, gateway, hours), _lost(connection, gateway, hours)
        for key in sorted({*rows, *lost}):
            if after is not None and key <= after:
                continue
            epoch, boot, hour, number = key
            group = groups.get((epoch, number), Group("", 0, frozenset()))
            wall = walls.get((epoch, boot))
            yield Line(
                key=key,
                sensor=group.sensor,
                period_ms=group.period_ms,
                from_ms=wall.wall(hour * HOUR_MS) if wall else None,
                to_ms=wall.wall((hour + 1) * HOUR_MS) if wall else None,
                received=rows.get(key, 0),
                lost=lost.get(key, []),
            )
        begin, including = hours[-1], False


def _hours_within(walls: Mapping[tuple[int, int], WallTime], from_ms: int, to_ms: int) -> list[Within]:
    """Where hours of that stretch can be: a boot is over when the next one of its epoch begins."""
    found = []
    begins = sorted((epoch, wall.wall(0), boot) for (epoch, boot), wall in walls.items())
    for (epoch, _, boot), following in zip_longest(begins, begins[1:]):
        first, last = (mono_ms // HOUR_MS for mono_ms in walls[epoch, boot].mono_span(from_ms, to_ms))
        over = following is not None and following[0] == epoch and following[1] + HOUR_MS < from_ms
        if last >= 0 and not over:
            found.append(Within(epoch, boot, max(0, first), last))
    return found


def _hours(
    connection: Connection, gateway: str, begin: Hour, within: Sequence[Within] | None, *, including: bool
) -> list[Hour]:
    parts = []
    for table in (received, loss):
        hour = tuple_(table.c.epoch, table.c.boot, table.c.hour)
        above = hour >= begin if including else hour > begin
        chosen = select(table.c.epoch, table.c.boot, table.c.hour).where(table.c.gateway == gateway, above)
        if within is not None:
            chosen = chosen.where(or_(*(_inside(table, one) for one in within[:MOST_BOOTS])))
        parts.append(chosen.distinct().order_by(*chosen.selected_columns).limit(HOURS_AT_ONCE).subquery().select())
    both = union(*parts).subquery()
    query = select(both).order_by(*both.c).limit(HOURS_AT_ONCE)
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def _inside(table: Any, one: Within) -> ColumnElement[bool]:
    return and_(table.c.epoch == one.epoch, table.c.boot == one.boot, table.c.hour.between(one.first, one.last))


def _span(table: Any, gateway: str, hours: list[Hour]) -> Any:
    hour = tuple_(table.c.epoch, table.c.boot, table.c.hour)
    return select(table).where(table.c.gateway == gateway, hour >= hours[0], hour <= hours[-1])


def _rows(connection: Connection, gateway: str, hours: list[Hour]) -> dict[Key, int]:
    return {
        (row.epoch, row.boot, row.hour, group): count
        for row in connection.execute(_span(received, gateway, hours))
        for group, count in unpack(row.body).items()
    }


def _lost(connection: Connection, gateway: str, hours: list[Hour]) -> dict[Key, list[Lost]]:
    found: dict[Key, list[Lost]] = {}
    for row in connection.execute(_span(loss, gateway, hours).order_by(loss.c.reason)):
        said = Lost(reason_word(row.reason), row._mapping["rows"], bool(row.unknown))  # noqa: SLF001
        found.setdefault((row.epoch, row.boot, row.hour, row.group_id), []).append(said)
    return found


def _asked(line: Line, groups: dict[tuple[int, int], Group], sensor: str | None) -> bool:
    if sensor is None or not line.key[3]:
        return True
    wanted, _, quantity = sensor.partition("/")
    group = groups.get((line.key[0], line.key[3]))
    return group is not None and group.sensor == wanted and (not quantity or quantity in group.quantities)


def _within(line: Line, from_ms: int | None, to_ms: int | None) -> bool:
    if from_ms is None and to_ms is None:
        return True
    if line.from_ms is None or line.to_ms is None:
        return False
    return (from_ms is None or line.to_ms > from_ms) and (to_ms is None or line.from_ms < to_ms)


class Sum(NamedTuple):
    """One sensor over a stretch of time."""

    sensor: str
    received: int
    lost: list[Lost]


def summed(lines: Sequence[Line]) -> list[Sum]:
    """By sensor; what nobody knows whose it was stands last, under no name."""
    received: Counter[str] = Counter()
    lost: dict[str, dict[str, Lost]] = {}
    for line in lines:
        received[line.sensor] += line.received
        mine = lost.setdefault(line.sensor, {})
        for one in line.lost:
            before = mine.get(one.reason, Lost(one.reason, 0, unknown=False))
            mine[one.reason] = Lost(one.reason, before.rows + one.rows, before.unknown or one.unknown)
    names = sorted(received, key=lambda name: (not name, name))
    return [Sum(name, received[name], list(lost[name].values())) for name in names]
