"""From when on there is something of a gateway, where retention has dropped what was before."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from control_plane.projections.rollup import HOUR_MS
from control_plane.store.tables import kept
from control_plane.store.upsert import insert

READINGS = "readings"
LEVELS = ("1m", "1h", "6h", "1d")
"""Rollups, by level."""
AT_ONCE = 500


def tell(connection: Connection, what: str, gateways: Iterable[str], from_ms: int) -> None:
    """Nothing is said twice: the latest moment stands."""
    fresh = insert(connection, kept)
    later = fresh.excluded.from_ms > kept.c.from_ms
    upsert = fresh.on_conflict_do_update(
        index_elements=["gateway", "what"], set_={"from_ms": fresh.excluded.from_ms}, where=later
    )
    rows = [{"gateway": gateway, "what": what, "from_ms": from_ms} for gateway in sorted(gateways)]
    for start in range(0, len(rows), AT_ONCE):
        connection.execute(upsert, rows[start : start + AT_ONCE])


def since(connection: Connection, gateway: str) -> dict[str, int]:
    """What → wall ms before which only what came late is still there."""
    query = select(kept.c.what, kept.c.from_ms).where(kept.c.gateway == gateway)
    return {row.what: row.from_ms for row in connection.execute(query)}


def whole_from_ms(connection: Connection, gateway: str) -> int:
    """The hour from which on all that is known of it is still there; before it nothing may be made anew of readings."""
    return -(-since(connection, gateway).get(READINGS, 0) // HOUR_MS) * HOUR_MS
