"""Gap records placed in wall time."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from control_plane.projections.walltime import load_all
from control_plane.store.tables import gap
from protos.gaps import reason_word


@dataclass(frozen=True, slots=True)
class PlacedGap:
    """Open at both ends: what lay after `from_ms` and before `to_ms`. An empty `sensor` means all of the gateway's."""

    id: str
    sensor: str
    from_ms: int
    to_ms: int
    count: int
    count_exact: bool
    reason: str


def placed_gaps(
    connection: Connection, gateway: str, *, from_ms: int, to_ms: int, sensor: str | None = None
) -> list[PlacedGap]:
    """Those that touch the stretch, oldest first; with `sensor` its own and those of the whole gateway.

    What can't be placed in time yet (a boot without anchors, an end still open) is left out.
    """
    walls = load_all(connection, gateway)
    query = select(gap).where(gap.c.gateway == gateway, gap.c.joined_to.is_(None))
    if sensor is not None:
        query = query.where(gap.c.sensor.in_((sensor, "")))
    found = []
    for one in connection.execute(query):
        begin, end = walls.get((one.epoch, one.from_boot)), walls.get((one.epoch, one.to_boot))
        if not begin or not end or not one.to_mono_ms:
            continue
        first, last = begin.wall(one.from_mono_ms), end.wall(one.to_mono_ms)
        if last > from_ms and first < to_ms:
            row = one._mapping  # noqa: SLF001 - a row is also a tuple, with a count of its own
            found.append(
                PlacedGap(one.id, one.sensor, first, last, row["count"], one.count_exact, reason_word(one.reason))
            )
    return sorted(found, key=lambda g: g.from_ms)
