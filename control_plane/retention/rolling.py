"""Where rollups are written: units by level, by whose retention holds, and by the time they are of."""

from __future__ import annotations

from sqlalchemy import Connection, Table, delete

from control_plane.retention.policies import DAY_MS, Keep, Policies
from control_plane.store import units
from control_plane.store.tables import rollup
from control_plane.store.units import BASE, Unit

LEAST_MS = (DAY_MS, 31 * DAY_MS, 366 * DAY_MS, 366 * DAY_MS)
"""A unit takes in rollups of at least so much time, by level: a row covers an hour, a day or a month."""
SHARE = 12


class Places:
    """The `Place` of a Roller. Calls `policies` once per row, which remembers."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    def __call__(self, connection: Connection, gateway: str, level: int, start_ms: int) -> Table:
        known = units.all_of(connection, rollup.name)
        if not any(unit.ends_ms is not None for unit in known):
            return rollup
        kept_as = self._policies.kept_as(gateway)
        there = [unit for unit in known if unit.number == BASE or _holds(unit, level, start_ms)]
        mine = next((unit for unit in there if unit.number != BASE and unit.kept_as == kept_as), None)
        for other in there:
            if other != mine:
                _take_out(connection, other, gateway, level, start_ms)
        if mine is None:
            begins_ms, ends_ms = _bounds(level, start_ms, self._policies.keeps().get(kept_as))
            mine = units.add(
                connection, rollup.name, kept_as=kept_as, level=level, begins_ms=begins_ms, ends_ms=ends_ms
            )
        return units.table_of(connection, mine)


def _holds(unit: Unit, level: int, start_ms: int) -> bool:
    return unit.level == level and unit.begins_ms <= start_ms < (unit.ends_ms or 0)


def _take_out(connection: Connection, unit: Unit, gateway: str, level: int, start_ms: int) -> None:
    """The row stands where it is written now: one of a gateway that has changed its group, or from before."""
    table = units.table_of(connection, unit)
    mine = (table.c.gateway == gateway, table.c.level == level, table.c.start_ms == start_ms)
    connection.execute(delete(table).where(*mine))


def _bounds(level: int, start_ms: int, keep: Keep | None) -> tuple[int, int]:
    keep_ms = None if keep is None else (keep.minutes_ms, keep.hours_ms, keep.days_ms, keep.days_ms)[level]
    span_ms = max(LEAST_MS[level], (keep_ms or 0) // SHARE)
    begins_ms = start_ms // span_ms * span_ms
    return begins_ms, begins_ms + span_ms
