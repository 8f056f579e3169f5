"""What gateways and sensors are mounted on: vehicles, compartments, warehouses, as a tree of slug paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, delete, insert, select, update

from control_plane.clock import Clock
from control_plane.errors import Conflict, NotFound, Rejected
from control_plane.fleet.edits import Edits
from control_plane.store.engine import Store
from control_plane.store.tables import asset, gateway, sensor_note

EDITS = Edits("asset")
PORTION = 500


class AssetFields(NamedTuple):
    kind: str
    name: str
    attrs: dict[str, str]


class Sight(NamedTuple):
    """The assets somebody may see, by what is mounted on them; None: all."""

    mounted: frozenset[str] | None = None

    def edits(self, asset_id: str) -> bool:
        """Whether something of theirs is mounted on it or on what it is a part of."""
        return self.mounted is None or any(one in self.mounted for one in upwards(asset_id))

    def sees(self, asset_id: str) -> bool:
        """What it may edit, and the way up from there."""
        mounted = self.mounted
        return self.edits(asset_id) or (mounted is not None and any(m.startswith(asset_id + "/") for m in mounted))


class Assets:
    """Synchronous and thread-safe."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def sight(self, gateways: frozenset[str] | None) -> Sight:
        if gateways is None:
            return Sight()
        ids = sorted(gateways)
        with self._store.read() as connection:
            mounts = (
                select(gateway.c.asset).where(gateway.c.id.in_(ids), gateway.c.asset.is_not(None)),
                select(sensor_note.c.asset).where(sensor_note.c.gateway.in_(ids), sensor_note.c.asset.is_not(None)),
            )
            return Sight(frozenset(name for query in mounts for name in connection.execute(query).scalars()))

    def listed(
        self, *, after: str, limit: int, kind: str | None, under: str | None, sight: Sight
    ) -> Sequence[Row[Any]]:
        """Rows by id above `after`, at most `limit`."""
        chosen = select(asset)
        if kind is not None:
            chosen = chosen.where(asset.c.kind == kind)
        if under is not None:
            chosen = chosen.where(asset.c.id.startswith(under + "/", autoescape=True))
        found: list[Row[Any]] = []
        with self._store.read() as connection:
            while len(found) < limit:
                portion = connection.execute(
                    chosen.where(asset.c.id > after).order_by(asset.c.id).limit(max(limit, PORTION))
                ).all()
                found += [row for row in portion if sight.sees(row.id)]
                if len(portion) < max(limit, PORTION):
                    break
                after = portion[-1].id
        return found[:limit]

    def get(self, asset_id: str) -> Row[Any]:
        with self._store.read() as connection:
            return _known(connection, asset_id)

    def save(self, asset_id: str, fields: AssetFields, *, expected: int, by: str) -> Row[Any]:
        """Make (`expected` 0) or replace. Raises Outdated, Rejected (no parent)."""
        now = self._clock.now_ms()
        with self._store.write() as connection:
            before = _row(connection, asset_id, lock=True)
            EDITS.check(
                connection,
                asset_id,
                expected=expected,
                version=before.version if before else 0,
                current=body_of(before) if before else None,
            )
            values = {"kind": fields.kind, "name": fields.name, "attrs": msgspec.json.encode(fields.attrs).decode()}
            if before is None:
                parent = parent_of(asset_id)
                if parent is not None and _row(connection, parent) is None:
                    raise Rejected(f"{asset_id} would be a part of {parent}, which there is not. Make that first.")
                version = EDITS.next_version(connection, asset_id)
                connection.execute(insert(asset).values(id=asset_id, created_ms=now, version=version, **values))
            else:
                version = before.version + 1
                connection.execute(update(asset).where(asset.c.id == asset_id).values(version=version, **values))
            EDITS.record(connection, asset_id, version, fields._asdict(), by=by, now_ms=now)
            return _known(connection, asset_id)

    def delete(self, asset_id: str, *, expected: int, by: str) -> None:
        """Raises NotFound, Outdated, Conflict (it has parts, or something is mounted on it)."""
        with self._store.write() as connection:
            before = _known(connection, asset_id, lock=True)
            EDITS.check(connection, asset_id, expected=expected, version=before.version, current=body_of(before))
            if holder := _holder(connection, asset_id):
                raise Conflict(f"{asset_id} still has {holder}.")
            connection.execute(delete(asset).where(asset.c.id == asset_id))
            EDITS.record(connection, asset_id, before.version + 1, None, by=by, now_ms=self._clock.now_ms())


def check_exists(connection: Connection, asset_id: str | None) -> None:
    """Raises Rejected."""
    if asset_id is not None and _row(connection, asset_id) is None:
        raise Rejected(f"There is no asset {asset_id}. Make it first.")


def parent_of(asset_id: str) -> str | None:
    return asset_id.rpartition("/")[0] or None


def upwards(asset_id: str) -> list[str]:
    """The asset and all it is a part of."""
    parts = asset_id.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def body_of(row: Row[Any]) -> dict[str, Any]:
    return {"kind": row.kind, "name": row.name, "attrs": msgspec.json.decode(row.attrs)}


def _known(connection: Connection, asset_id: str, *, lock: bool = False) -> Row[Any]:
    row = _row(connection, asset_id, lock=lock)
    if row is None:
        raise NotFound(f"There is no asset {asset_id}.")
    return row


def _row(connection: Connection, asset_id: str, *, lock: bool = False) -> Row[Any] | None:
    query = select(asset).where(asset.c.id == asset_id)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()


def _holder(connection: Connection, asset_id: str) -> str | None:
    part = select(asset.c.id).where(asset.c.id.startswith(asset_id + "/", autoescape=True)).limit(1)
    if (found := connection.execute(part).scalar()) is not None:
        return f"the part {found}"
    box = select(gateway.c.id).where(gateway.c.asset == asset_id, gateway.c.retired_ms.is_(None)).limit(1)
    if (found := connection.execute(box).scalar()) is not None:
        return f"gateway {found} mounted on it"
    note = select(sensor_note.c.gateway, sensor_note.c.sensor).where(sensor_note.c.asset == asset_id).limit(1)
    if (sensor := connection.execute(note).first()) is not None:
        return f"sensor {sensor.gateway}/{sensor.sensor} mounted on it"
    return None
