"""The latest value of every series of a gateway, with its age and whether it can be trusted."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from control_plane.projections.state import unpack
from control_plane.projections.walltime import WallTime, load_all
from control_plane.store.tables import series, state

SILENT_PERIODS = 3
SILENT_AT_LEAST_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LatestValue:
    """One series: `came` says whether it has any reading.

    `value` is None for text and for what could not be read; `at_ms` also while the boot's clock has no anchor.
    """

    key: str
    sensor: str
    quantity: str
    unit: str
    type: int
    period_ms: int
    attrs: dict[str, str]
    value: float | None
    quality: int
    at_ms: int | None
    came: bool

    def silent(self, now_ms: int) -> bool:
        """Nothing for three periods, and for a minute at least."""
        limit_ms = max(SILENT_PERIODS * self.period_ms, SILENT_AT_LEAST_MS)
        return self.at_ms is not None and now_ms - self.at_ms > limit_ms


def latest_values(connection: Connection, gateway: str) -> list[LatestValue]:
    """By sensor and quantity; a series not seen in the store's present epoch has no value."""
    kept = connection.execute(select(state).where(state.c.gateway == gateway)).one_or_none()
    rows = {} if kept is None else {int(row["series"]): row for row in unpack(kept.body)}
    epoch = None if kept is None else kept.epoch
    walls = load_all(connection, gateway)
    declared = select(series).where(series.c.gateway == gateway).order_by(series.c.sensor, series.c.name)
    return [
        _latest(one, rows.get(one.series_id) if one.epoch == epoch else None, epoch, walls)
        for one in connection.execute(declared)
    ]


def _latest(declared: Any, row: Any, epoch: int | None, walls: dict[tuple[int, int], WallTime]) -> LatestValue:
    at_ms, value, quality = None, None, 0
    if row is not None and epoch is not None:
        number, quality = float(row["value"]), int(row["quality"])
        value = number if math.isfinite(number) else None
        wall = walls.get((epoch, int(row["boot"])))
        at_ms = wall.wall(int(row["mono_ms"])) if wall else None
    return LatestValue(
        key=declared.key,
        sensor=declared.sensor,
        quantity=declared.name,
        unit=declared.unit,
        type=declared.type,
        period_ms=declared.period_ms,
        attrs=json.loads(declared.attrs),
        value=value,
        quality=quality,
        at_ms=at_ms,
        came=row is not None,
    )
