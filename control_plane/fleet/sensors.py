"""Sensors as people know them: what gateways declared, what configurations order, and what was written down.

One that never delivered is there if it is configured; one that was taken out of the configuration stays as long as its
series do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select, update

from control_plane.clock import Clock
from control_plane.errors import NotFound
from control_plane.fleet import assets
from control_plane.fleet.edits import Edits
from control_plane.fleet.rights import Caller
from control_plane.store.engine import Stores
from control_plane.store.tables import config_desired, config_document, gateway, sensor_note, series

EDITS = Edits("sensor")
PORTION = 100


class Declared(NamedTuple):
    key: str
    quantity: str
    unit: str
    period_ms: int


class Sensor(NamedTuple):
    """`configured` None: what is wanted of the gateway is not known here. `ordered`: its part of the configuration."""

    gateway: str
    sensor: str
    name: str
    asset: str | None
    notes: str
    version: int
    declared: tuple[Declared, ...]
    configured: bool | None
    ordered: Mapping[str, Any]

    @property
    def body(self) -> dict[str, Any]:
        """What people edit of it."""
        return {"name": self.name, "asset": self.asset, "notes": self.notes}


class Sensors:
    """Synchronous and thread-safe."""

    def __init__(self, *, stores: Stores, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock

    def listed(
        self, caller: Caller, *, after: tuple[str, str], limit: int, only: str | None, asset: str | None
    ) -> list[Sensor]:
        """By gateway and id above `after`, at most `limit`; `only`: of one gateway; `asset`: on it or a part of it."""
        found: list[Sensor] = []
        for ids in self._gateways(caller, after[0], only):
            found += [one for one in self._of(ids) if (one.gateway, one.sensor) > after and _on(one, asset)]
            if len(found) >= limit:
                break
        return found[:limit]

    def get(self, gateway_id: str, sensor: str) -> Sensor:
        found = next((one for one in self._of([gateway_id]) if one.sensor == sensor), None)
        if found is None:
            raise NotFound(f"Gateway {gateway_id} has no sensor {sensor}, neither declared nor configured.")
        return found

    def change(self, gateway_id: str, sensor: str, changed: Mapping[str, Any], *, expected: int, by: str) -> Sensor:
        """`changed`: any of name, asset, notes. Raises NotFound, Outdated, Rejected."""
        known, now = self.get(gateway_id, sensor), self._clock.now_ms()
        name, mine = f"{gateway_id}/{sensor}", (sensor_note.c.gateway == gateway_id, sensor_note.c.sensor == sensor)
        with self._stores.business.write() as connection:
            row = connection.execute(select(sensor_note).where(*mine).with_for_update()).one_or_none()
            before = known._replace(name="", asset=_ordered_asset(known.ordered), notes="", version=0)
            if row is not None:
                before = known._replace(name=row.name, asset=row.asset, notes=row.notes, version=row.version)
            EDITS.check(connection, name, expected=expected, version=before.version, current=before.body)
            after = {**before.body, **changed}
            if after["asset"] != before.asset:
                assets.check_exists(connection, after["asset"])
            values = {**after, "version": before.version + 1}
            if row is None:
                EDITS.record(connection, name, 0, before.body, by="", now_ms=now)
                connection.execute(insert(sensor_note).values(gateway=gateway_id, sensor=sensor, **values))
            else:
                connection.execute(update(sensor_note).where(*mine).values(values))
            EDITS.record(connection, name, before.version + 1, after, by=by, now_ms=now)
        return self.get(gateway_id, sensor)

    def _gateways(self, caller: Caller, first: str, only: str | None) -> Iterator[Sequence[str]]:
        """Ids from `first` on, some at a time."""
        query = select(gateway.c.id).where(*caller.within(gateway.c.id)).order_by(gateway.c.id).limit(PORTION)
        if only is not None:
            query = query.where(gateway.c.id == only)
        condition = gateway.c.id >= first
        while True:
            with self._stores.business.read() as connection:
                ids = connection.execute(query.where(condition)).scalars().all()
            yield ids
            if len(ids) < PORTION:
                return
            condition = gateway.c.id > ids[-1]

    def _of(self, ids: Sequence[str]) -> list[Sensor]:
        with self._stores.telemetry.read() as connection:
            declared = _declared(connection, ids)
        with self._stores.business.read() as connection:
            ordered = _ordered(connection, ids)
            noted = connection.execute(select(sensor_note).where(sensor_note.c.gateway.in_(ids))).all()
        notes = {(row.gateway, row.sensor): row for row in noted}
        wanted = {(one, sensor) for one, mine in ordered.items() for sensor in mine}
        keys = sorted(declared.keys() | wanted | notes.keys())
        return [_sensor(key, declared.get(key, ()), ordered.get(key[0]), notes.get(key)) for key in keys]


def _sensor(
    key: tuple[str, str], declared: tuple[Declared, ...], ordered: Mapping[str, Any] | None, note: Any
) -> Sensor:
    part = (ordered or {}).get(key[1], {})
    return Sensor(
        gateway=key[0],
        sensor=key[1],
        name=note.name if note is not None else "",
        asset=note.asset if note is not None else _ordered_asset(part),
        notes=note.notes if note is not None else "",
        version=note.version if note is not None else 0,
        declared=declared,
        configured=None if ordered is None else key[1] in ordered,
        ordered=part,
    )


def _ordered_asset(part: Mapping[str, Any]) -> str | None:
    found = part.get("asset")
    return found if isinstance(found, str) and found else None


def _on(one: Sensor, asset: str | None) -> bool:
    return asset is None or one.asset == asset or (one.asset or "").startswith(asset + "/")


def _declared(connection: Connection, ids: Sequence[str]) -> dict[tuple[str, str], tuple[Declared, ...]]:
    query = select(series).where(series.c.gateway.in_(ids), series.c.sensor != "").order_by(series.c.key)
    found: dict[tuple[str, str], tuple[Declared, ...]] = {}
    for row in connection.execute(query):
        one = Declared(row.key, row.name, row.unit, row.period_ms)
        found[row.gateway, row.sensor] = (*found.get((row.gateway, row.sensor), ()), one)
    return found


def _ordered(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Per gateway with a wanted document its sensors by id."""
    query = (
        select(config_desired.c.gateway, config_document.c.body)
        .join(config_document, config_document.c.hash == config_desired.c.hash)
        .where(config_desired.c.gateway.in_(ids))
    )
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in connection.execute(query):
        parts = json.loads(row.body).get("sensor", [])
        found[row.gateway] = {str(part["id"]): part for part in parts if isinstance(part, dict) and "id" in part}
    return found
