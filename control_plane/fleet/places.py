"""Where things happen: named circles and polygons. They belong to the whole fleet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, Row, delete, insert, select, update

from control_plane.clock import Clock
from control_plane.errors import NotFound
from control_plane.fleet.edits import Edits
from control_plane.store.engine import Store
from control_plane.store.tables import place

EDITS = Edits("place")


class PlaceFields(NamedTuple):
    """`shape`: {"circle": …} or {"polygon": …} as plain data, already checked."""

    name: str
    shape: dict[str, Any]
    attrs: dict[str, str]


class Places:
    """Synchronous and thread-safe."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def listed(self, *, after: str, limit: int) -> Sequence[Row[Any]]:
        query = select(place).where(place.c.slug > after).order_by(place.c.slug).limit(limit)
        with self._store.read() as connection:
            return connection.execute(query).all()

    def get(self, slug: str) -> Row[Any]:
        with self._store.read() as connection:
            return _known(connection, slug)

    def save(self, slug: str, fields: PlaceFields, *, expected: int, by: str) -> Row[Any]:
        """Make (`expected` 0) or replace. Raises Outdated."""
        now = self._clock.now_ms()
        values = {
            "name": fields.name,
            "shape": msgspec.json.encode(fields.shape).decode(),
            "attrs": msgspec.json.encode(fields.attrs).decode(),
        }
        with self._store.write() as connection:
            before = _row(connection, slug, lock=True)
            EDITS.check(
                connection,
                slug,
                expected=expected,
                version=before.version if before else 0,
                current=body_of(before) if before else None,
            )
            if before is None:
                version = EDITS.next_version(connection, slug)
                connection.execute(insert(place).values(slug=slug, created_ms=now, version=version, **values))
            else:
                version = before.version + 1
                connection.execute(update(place).where(place.c.slug == slug).values(version=version, **values))
            after = _known(connection, slug)
            EDITS.record(connection, slug, version, body_of(after), by=by, now_ms=now)
            return after

    def delete(self, slug: str, *, expected: int, by: str) -> None:
        """Raises NotFound, Outdated."""
        with self._store.write() as connection:
            before = _known(connection, slug, lock=True)
            EDITS.check(connection, slug, expected=expected, version=before.version, current=body_of(before))
            connection.execute(delete(place).where(place.c.slug == slug))
            EDITS.record(connection, slug, before.version + 1, None, by=by, now_ms=self._clock.now_ms())


def body_of(row: Row[Any]) -> dict[str, Any]:
    shape = msgspec.json.decode(row.shape, type=dict[str, Any])
    return {"name": row.name, **shape, "attrs": msgspec.json.decode(row.attrs)}


def _known(connection: Connection, slug: str, *, lock: bool = False) -> Row[Any]:
    row = _row(connection, slug, lock=lock)
    if row is None:
        raise NotFound(f"There is no place {slug}.")
    return row


def _row(connection: Connection, slug: str, *, lock: bool = False) -> Row[Any] | None:
    query = select(place).where(place.c.slug == slug)
    return connection.execute(query.with_for_update() if lock else query).one_or_none()
