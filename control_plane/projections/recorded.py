"""Whether a stretch of time was recorded as a whole: what came, what came late or twice, what is lost, what is unknown.

Counts are those of the loss ledger, by the hours of a boot's clock that the stretch touches, so that the gateway's own
ledger says the same. Only what is late or came twice is counted to the row, from the readings themselves.

Invariant: complete is said only when nothing speaks against it. Every gap that touches the stretch, every loss of its
hours, everything that could lie in it and can't be placed in time, and every moment of which it is not known yet
whether all is here, is named in `missing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Row, and_, func, literal, select

from control_plane.errors import Rejected
from control_plane.projections.balances import Balances, Group, Line, Lost
from control_plane.projections.decode import decode_many
from control_plane.projections.kept import READINGS, since
from control_plane.projections.lost import PlacedGap, placed_gaps
from control_plane.projections.reading import HistoryReader, Key, Piece, Walls, columns_of
from control_plane.projections.walltime import load_all
from control_plane.store.engine import Store
from control_plane.store.tables import batch, boot, condition, gap, history, known, loss, repeat, series
from protos.comboio.v1 import batch_pb2 as pb
from protos.gaps import reason_word
from protos.hours import HOUR_MS

LATE_MS = 900_000
MOST_LINES = 200_000
MOST_LOOKED_AT = 5_000_000
LONGEST_LOOKED_AT_MS = 7 * 24 * HOUR_MS
"""Up to so many rows, and so long a time, is told how many were late or came twice."""
MOST_REPEATS = 2_000
AT_ONCE = 500
NOT_YET, NO_CLOCK, NOTHING, SILENT = "not_here_yet", "clock_unknown", "nothing_read", "silent"
"""What is missing without a gap record that says why."""


@dataclass(frozen=True, slots=True)
class Missing:
    """`sensor` is empty where it concerns all; times are None where nobody knows when it was."""

    reason: str
    sensor: str
    from_ms: int | None
    to_ms: int | None
    rows: int
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorAccount:
    """In rows: a row is one read, of all its quantities.

    `late` and `repeated` are None where they were too many to count, or are not kept any more.
    `expected` is what its gateway accounts for. `by_period` is what its period would have given; report policies make
    it less, and several groups of a sensor more.
    """

    sensor: str
    period_ms: int
    by_period: int | None
    expected: int
    received: int
    late: int | None
    repeated: int | None
    lost: Sequence[Lost]


@dataclass(frozen=True, slots=True)
class Account:
    sensors: Sequence[SensorAccount]
    missing: Sequence[Missing]

    @property
    def complete(self) -> bool:
        return not self.missing


@dataclass(frozen=True, slots=True)
class Trip:
    """What is asked for. `sensor` may be sensor/quantity."""

    gateway: str
    sensor: str | None
    from_ms: int
    to_ms: int

    def touches(self, one: PlacedGap) -> bool:
        return one.to_ms > self.from_ms and one.from_ms < self.to_ms


class Recorded:
    """Thread-safe as far as the stores are."""

    def __init__(self, *, journal: Store, telemetry: Store, reader: HistoryReader, balances: Balances) -> None:
        self._journal = journal
        self._telemetry = telemetry
        self._reader = reader
        self._balances = balances

    def of(self, trip: Trip, *, complete_to_ms: int | None) -> Account:
        """`complete_to_ms`: before it nothing is on its way any more."""
        lines = self._balances.lines(
            trip.gateway, sensor=trip.sensor, from_ms=trip.from_ms, to_ms=trip.to_ms, limit=MOST_LINES
        )
        if len(lines) == MOST_LINES:
            raise Rejected(
                f"The ledger has more than {MOST_LINES} lines of that stretch: ask for less of it, or one sensor."
            )
        begin = min([trip.from_ms, *(line.from_ms for line in lines if line.from_ms is not None)])
        end = max([trip.to_ms, *(line.to_ms for line in lines if line.to_ms is not None)])
        name = trip.sensor.partition("/")[0] if trip.sensor is not None else None
        with self._telemetry.read() as connection:
            gaps = placed_gaps(connection, trip.gateway, from_ms=begin, to_ms=end, sensor=name)
            unplaced = [*_silent(connection, trip, name), *_unplaced(connection, trip)]
        told = list(_told(lines, gaps, trip))
        here = [one for one in gaps if trip.touches(one)]
        missing = [
            Missing(g.reason, g.sensor, max(g.from_ms, trip.from_ms), min(g.to_ms, trip.to_ms), g.count, g.count_exact)
            for g in here
        ]
        missing += [_in_its_hour(line, lost) for line, lost, placed in told if not placed]
        missing += [*unplaced, *_not_yet(trip, complete_to_ms)]
        rows = self._within(trip, lines)
        if not any(line.received for line in lines) or (rows is not None and not rows):
            missing.append(Missing(NOTHING, trip.sensor or "", trip.from_ms, trip.to_ms, 0, exact=False))
        return Account(self._sensors(trip, lines, [(line, lost) for line, lost, _ in told], rows), missing)

    # --- counts ----------------------------------------------------------------------------------------

    def _within(self, trip: Trip, lines: Sequence[Line]) -> Counter[str] | None:
        """Sensor → rows of the stretch itself; None where they are too many to look at, or not kept any more."""
        if sum(one.received for one in lines) > MOST_LOOKED_AT or trip.to_ms - trip.from_ms > LONGEST_LOOKED_AT_MS:
            return None
        with self._telemetry.read() as connection:
            if trip.from_ms < since(connection, trip.gateway).get(READINGS, 0):
                return None
        keys = self._keys(trip)
        return +_rows(self._reader.pieces(trip.gateway, keys, from_ms=trip.from_ms, to_ms=trip.to_ms), keys, trip)

    def _keys(self, trip: Trip) -> set[Key]:
        return _one_of_each_group(self._balances.groups(trip.gateway), trip.sensor)

    def _sensors(
        self, trip: Trip, lines: Sequence[Line], lost: Sequence[tuple[Line, Lost]], rows: Counter[str] | None
    ) -> Sequence[SensorAccount]:
        received: Counter[str] = Counter()
        periods: dict[str, int] = {}
        for line in lines:
            received[line.sensor] += line.received
            periods[line.sensor] = min(line.period_ms, periods.get(line.sensor, line.period_ms))
        keys = self._keys(trip)
        late = self._late(trip, keys, rows) if rows is not None else None
        repeated = self._repeated(trip, keys) if rows is not None else None
        found = []
        for name in sorted(received, key=lambda name: (not name, name)):
            mine = _added([one for line, one in lost if line.sensor == name])
            period_ms = periods[name]
            found.append(
                SensorAccount(
                    sensor=name,
                    period_ms=period_ms,
                    by_period=(trip.to_ms - trip.from_ms) // period_ms if period_ms else None,
                    expected=received[name] + sum(one.rows for one in mine),
                    received=received[name],
                    late=None if late is None else late[name],
                    repeated=None if repeated is None else repeated[name],
                    lost=mine,
                )
            )
        return found

    def _late(self, trip: Trip, keys: Collection[Key], rows: Counter[str]) -> Counter[str]:
        """Rows that were not here yet LATE_MS after the hour was over in which they were read."""
        late = rows.copy()
        for start in range(trip.from_ms, trip.to_ms, HOUR_MS):
            hour = Trip(trip.gateway, None, start, min(start + HOUR_MS, trip.to_ms))
            here = self._reader.pieces(
                trip.gateway, keys, from_ms=hour.from_ms, to_ms=hour.to_ms, as_of_ms=hour.to_ms + LATE_MS
            )
            late.subtract(_rows(here, keys, hour))
        return +late

    def _repeated(self, trip: Trip, keys: Collection[Key]) -> Counter[str] | None:
        """Rows that came again, as often as they did. None: too many batches to look at, or some not kept any more."""
        with self._telemetry.read() as connection:
            walls = load_all(connection, trip.gateway)
            near = {row.batch_id: row for row in _batches(connection, trip, walls)}
        times = self._again(sorted(near))
        if len(times) > MOST_REPEATS:
            return None
        found: Counter[str] = Counter()
        gone = set(times)
        for body in self._reader.bodies(trip.gateway, list(times)):
            gone.discard(body.id)
            row = near[body.id]
            origin = (row.epoch, row.boot)
            table = self._reader.table(trip.gateway, row.epoch, row.schema)
            bulk = decode_many(table, [body.body], [body.readings])
            for sensor, count in _rows([Piece(origin, walls[origin], table, bulk, None)], keys, trip).items():
                found[sensor] += count * times[body.id]
        return None if gone else found

    def _again(self, ids: Sequence[int]) -> Counter[int]:
        """Batch → how often it came beside the first time, under the same name or, in a new epoch, another."""
        r, k = repeat.c, known.c
        same = (batch.c.gateway == r.gateway, batch.c.epoch == r.epoch, batch.c.lane == r.lane, batch.c.seq == r.seq)
        other = (batch.c.gateway == k.gateway, batch.c.epoch == k.of_epoch, batch.c.lane == k.lane)
        queries = (
            select(batch.c.id, r.times).join_from(batch, repeat, and_(*same)),
            select(batch.c.id, literal(1)).join_from(batch, known, and_(*other, batch.c.seq == k.of_seq)),
        )
        found: Counter[int] = Counter()
        with self._journal.read() as connection:
            for start in range(0, len(ids), AT_ONCE):
                for query in queries:
                    for id_, times in connection.execute(query.where(batch.c.id.in_(ids[start : start + AT_ONCE]))):
                        found[id_] += times
        return found


def _batches(connection: Connection, trip: Trip, walls: Walls) -> Iterator[Row[int, int, int, int]]:
    """Those that may hold rows of the stretch."""
    c = history.c
    query = select(c.batch_id, c.epoch, c.boot, c.schema).where(c.gateway == trip.gateway)
    for (epoch, number), wall in walls.items():
        begin, end = wall.mono_span(trip.from_ms, trip.to_ms)
        within = (c.epoch == epoch, c.boot == number, c.last_mono_ms >= begin, c.first_mono_ms <= end)
        yield from connection.execute(query.where(*within))


def _one_of_each_group(groups: Mapping[tuple[int, int], Group], sensor: str | None) -> set[Key]:
    """Whatever quantity of a group: all of them have the same rows."""
    wanted, _, quantity = (sensor or "").partition("/")
    return {
        (group.sensor, quantity or min(group.quantities))
        for group in groups.values()
        if group.quantities and wanted in {"", group.sensor} and (not quantity or quantity in group.quantities)
    }


def _rows(pieces: Iterable[Piece], keys: Collection[Key], trip: Trip) -> Counter[str]:
    """Sensor → rows within."""
    found: Counter[str] = Counter()
    for piece in pieces:
        walls = piece.wall.to_wall(piece.bulk.times)
        inside = (walls >= trip.from_ms) & (walls < trip.to_ms)
        if piece.here is not None:
            inside &= piece.here
        for column in columns_of(piece, keys):
            found[column.key[0]] += int(inside[column.rows].sum())
    return found


def _added(some: Iterable[Lost]) -> list[Lost]:
    found: dict[str, Lost] = {}
    for one in some:
        before = found.get(one.reason, Lost(one.reason, 0, unknown=False))
        found[one.reason] = Lost(one.reason, before.rows + one.rows, before.unknown or one.unknown)
    return list(found.values())


# --- what speaks against it ------------------------------------------------------------------------------


def _told(lines: Iterable[Line], gaps: Iterable[PlacedGap], trip: Trip) -> Iterator[tuple[Line, Lost, bool]]:
    """Losses of the hours touched, and whether gap records say where in the hour they lie.

    One that lies in an hour the stretch only touches, and before or after the stretch, is left out.
    """
    by_reason: dict[tuple[str, str], list[PlacedGap]] = {}
    for one in gaps:
        by_reason.setdefault((one.reason, one.sensor), []).append(one)
    for line in lines:
        assert line.from_ms is not None
        assert line.to_ms is not None
        for lost in line.lost:
            told = [*by_reason.get((lost.reason, line.sensor), ()), *by_reason.get((lost.reason, ""), ())]
            near = [one for one in told if one.to_ms > line.from_ms and one.from_ms < line.to_ms]
            if any(trip.touches(one) for one in near):
                yield line, lost, True
            elif not _explained(lost, near, line):
                yield line, lost, False


def _explained(lost: Lost, near: Sequence[PlacedGap], line: Line) -> bool:
    """Whether these records are all that was lost in that hour."""
    assert line.from_ms is not None
    assert line.to_ms is not None
    if not near or min(one.from_ms for one in near) < line.from_ms or max(one.to_ms for one in near) > line.to_ms:
        return False
    unknown = not all(one.count_exact for one in near)
    return (sum(one.count for one in near), unknown) == (lost.rows, lost.unknown)


def _in_its_hour(line: Line, lost: Lost) -> Missing:
    return Missing(lost.reason, line.sensor, line.from_ms, line.to_ms, lost.rows, not lost.unknown)


def _not_yet(trip: Trip, complete_to_ms: int | None) -> Iterator[Missing]:
    if complete_to_ms is None or complete_to_ms < trip.to_ms:
        begin = trip.from_ms if complete_to_ms is None else max(trip.from_ms, complete_to_ms)
        yield Missing(NOT_YET, "", begin, trip.to_ms, 0, exact=False)


def _silent(connection: Connection, trip: Trip, sensor: str | None) -> Iterator[Missing]:
    """A sensor that says nothing by itself, as a beacon out of reach, leaves no gap record: its gateway says so.

    Silence is told from the last reading on: of the stretch it takes more than two periods, or nothing is missing.
    """
    c = condition.c
    kinds = (pb.EVENT_SENSOR_SILENT, pb.EVENT_SENSOR_RECOVERED)
    query = select(c.sensor, c.kind, c.epoch, c.boot, c.since_mono_ms).where(
        c.gateway == trip.gateway, c.kind.in_(kinds), *([c.sensor == sensor] if sensor is not None else [])
    )
    longest = select(series.c.sensor, func.max(series.c.period_ms)).where(series.c.gateway == trip.gateway)
    periods = dict(connection.execute(longest.group_by(series.c.sensor)).all())
    walls = load_all(connection, trip.gateway)
    said: dict[str, list[tuple[int, int]]] = {}
    for row in connection.execute(query):
        if (wall := walls.get((row.epoch, row.boot))) is not None:
            said.setdefault(row.sensor, []).append((wall.wall(row.since_mono_ms), row.kind))
    for name, changes in sorted(said.items()):
        ordered = sorted(changes)
        for (since_ms, kind), (until_ms, _) in zip(ordered, [*ordered[1:], (trip.to_ms, 0)], strict=True):
            begin, end = max(since_ms, trip.from_ms), min(until_ms, trip.to_ms)
            if kind == pb.EVENT_SENSOR_SILENT and end - begin > 2 * periods.get(name, 0):
                yield Missing(SILENT, name, begin, end, 0, exact=False)


def _unplaced(connection: Connection, trip: Trip) -> Iterator[Missing]:
    """What may lie in the stretch, as nobody knows when it was: boots without a clock, and losses without a time.

    What was told before the stretch began can't.
    """
    boots = select(boot.c.boot).where(boot.c.gateway == trip.gateway, boot.c.anchored == 0, boot.c.wall_ms.is_(None))
    if connection.execute(boots.limit(1)).first() is not None:
        yield Missing(NO_CLOCK, "", None, None, 0, exact=False)
    lost = select(loss.c.reason, func.sum(loss.c.rows).label("sum")).where(
        loss.c.gateway == trip.gateway, loss.c.boot == 0
    )
    for reason, rows in connection.execute(lost.group_by(loss.c.reason)).all():
        told = select(gap.c.id).where(
            gap.c.gateway == trip.gateway,
            gap.c.reason == reason,
            gap.c.from_boot == 0,
            gap.c.recorded_ms >= trip.from_ms,
        )
        if connection.execute(told.limit(1)).first() is not None:
            yield Missing(reason_word(reason), "", None, None, int(rows), exact=False)
