"""Which batches an event rests on: those that hold the readings it was decided by, or the words it tells of.

A batch is named by its id in the journal. It is there as it came, in whatever unit, or it is not there any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Row, func, or_, select

from control_plane.projections.reading import HistoryReader, series_of
from control_plane.projections.walltime import WallTime, load_all
from control_plane.reconcile.episodes import ALARM_TYPES, GAP_TYPES, SILENCE_TYPES, entity_id
from control_plane.store.engine import Stores
from control_plane.store.tables import condition, event, gap, history

Walls = dict[tuple[int, int], WallTime]


class _Boot(NamedTuple):
    epoch: int
    boot: int
    wall: WallTime
    first_ms: int
    last_ms: int


class Evidence:
    """Synchronous. Memory: one gateway's records and the ids of what is cited."""

    def __init__(self, *, stores: Stores, reader: HistoryReader) -> None:
        self._stores = stores
        self._reader = reader

    def of_gateway(self, gateway: str) -> set[int]:
        """What final events of it rest on, and those that are not final yet but stand."""
        of_it = or_(event.c.subject == gateway, event.c.subject.startswith(gateway + "/", autoescape=True))
        query = select(event).where(of_it, or_(event.c.finality == "final", event.c.current))
        with self._stores.business.read() as connection:
            events = connection.execute(query).fetchall()
        return self._batches(gateway, events)

    def of(self, row: Row[Any]) -> list[int]:
        """What one event rests on, oldest first."""
        return sorted(self._batches(str(row.subject).partition("/")[0], [row]))

    def _batches(self, gateway: str, events: Sequence[Row[Any]]) -> set[int]:
        if not events:
            return set()
        with self._stores.telemetry.read() as connection:
            walls = load_all(connection, gateway)
        told = [one for one in events if one.type in (*GAP_TYPES, *ALARM_TYPES, *SILENCE_TYPES)]
        found = self._told(gateway, told, walls) if told else set()
        boots = self._boots(gateway, walls)
        for one in events:
            if one.type not in (*GAP_TYPES, *ALARM_TYPES, *SILENCE_TYPES):
                found |= self._measured(gateway, one, boots)
        return found

    # --- readings --------------------------------------------------------------------------------------

    def _measured(self, gateway: str, one: Row[Any], boots: Sequence[_Boot]) -> set[int]:
        """Batches with readings of its series, from when it began until it was decided."""
        key = tuple(str(one.subject).split("/")[1:3])
        if len(key) != len(("sensor", "quantity")):
            return set()
        from_ms, to_ms = _opened_ms(one), max(one.time_ms, one.decided_ms)
        found: set[int] = set()
        for epoch, boot, wall, first_ms, last_ms in boots:
            if first_ms > to_ms or last_ms < from_ms:
                continue
            low, high = wall.mono_span(from_ms, to_ms + 1)
            query = select(history.c.batch_id, history.c.schema, history.c.groups).where(
                history.c.gateway == gateway,
                history.c.epoch == epoch,
                history.c.boot == boot,
                history.c.last_mono_ms >= low,
                history.c.first_mono_ms <= high,
            )
            with self._stores.telemetry.read() as connection:
                rows = connection.execute(query).fetchall()
            wanted = {schema: self._groups(gateway, epoch, schema, key) for schema in {row.schema for row in rows}}
            for row in rows:
                if wanted[row.schema] & set(np.frombuffer(row.groups, "<u4").tolist()):
                    found.add(row.batch_id)
        return found

    def _boots(self, gateway: str, walls: Walls) -> list[_Boot]:
        """Where each boot with readings lies in wall time."""
        ends = (func.min(history.c.first_mono_ms), func.max(history.c.last_mono_ms))
        query = select(history.c.epoch, history.c.boot, *ends).where(history.c.gateway == gateway)
        with self._stores.telemetry.read() as connection:
            rows = connection.execute(query.group_by(history.c.epoch, history.c.boot)).fetchall()
        return [
            _Boot(epoch, boot, wall, *wall.wall_span(first, last))
            for epoch, boot, first, last in rows
            if (wall := walls.get((epoch, boot)))
        ]

    def _groups(self, gateway: str, epoch: int, schema: int, key: tuple[str, ...]) -> set[int]:
        """Ids of the groups that hold the series, by that declaration."""
        table = self._reader.table(gateway, epoch, schema)
        if not series_of(table, [(key[0], key[1])]):
            return set()
        return {
            number
            for number, group in table.schema.groups.items()
            if group.sensor == key[0] and any(spec.name == key[1] for spec in group.columns)
        }

    # --- what gateways said of themselves --------------------------------------------------------------

    def _told(self, gateway: str, events: Sequence[Row[Any]], walls: Walls) -> set[int]:
        """The batches that the records came in."""
        by_entity: dict[str, list[Row[Any]]] = {}
        for one in events:
            by_entity.setdefault(one.entity_id, []).append(one)
        with self._stores.telemetry.read() as connection:
            gaps = connection.execute(select(gap.c.id, gap.c.joined_to).where(gap.c.gateway == gateway)).fetchall()
            said = connection.execute(select(condition).where(condition.c.gateway == gateway)).fetchall()
        ids = [row.id for row in gaps if {entity_id(row.id), entity_id(row.joined_to or "")} & by_entity.keys()]
        by_key: dict[tuple[str, str, str], list[Row[Any]]] = {}
        for row in said:
            by_key.setdefault((row.sensor, row.quantity, row.name), []).append(row)
        for rows in by_key.values():
            begun = [one for row in rows for one in by_entity.get(entity_id(row.id), ())]
            ids += [row.id for row in rows if entity_id(row.id) in by_entity or _within(row, begun, walls)]
        return set(_batch_ids(ids))


def _within(row: Row[Any], events: Iterable[Row[Any]], walls: Walls) -> bool:
    """Said while the episode lasted, both ends included."""
    wall = walls.get((row.epoch, row.boot))
    at_ms = wall.wall(row.since_mono_ms) if wall else None
    return at_ms is not None and any(_opened_ms(one) <= at_ms <= one.time_ms for one in events)


def _opened_ms(one: Row[Any]) -> int:
    said = json.loads(one.data).get("opened_at")
    return one.time_ms if said is None else round(datetime.fromisoformat(said).timestamp() * 1000)


def _batch_ids(records: Iterable[str]) -> Iterator[int]:
    """Of records named after the batch they came in; those that the server made have none."""
    for name in records:
        first, _, second = name.partition("-")
        number = second if first == "undecodable" else first
        if number.isdecimal():
            yield int(number)
