"""Every version of what people edit, and the check that an edit is based on the one in force.

Versions count from 1 and are never used twice, not even after a deletion; 0 is what nobody has made yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from control_plane.errors import ComboioError
from control_plane.fleet.render import Difference, differences
from control_plane.store.tables import registry_edit
from control_plane.store.upsert import keep_first

Body = Mapping[str, Any]


class Outdated(ComboioError):  # noqa: N818 - named for what the edit is
    """Somebody edited it meanwhile; nothing was changed."""

    def __init__(self, name: str, *, version: int, current: Body | None, changed: list[Difference]) -> None:
        now = f"{name} is at version {version} now." if version else f"There is no {name}."
        super().__init__(now)
        self.version = version
        self.current = current
        self.changed = changed


class Edits:
    """Of one kind of thing; every call inside the caller's transaction."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def check(self, connection: Connection, name: str, *, expected: int, version: int, current: Body | None) -> None:
        """Raises Outdated unless `expected` is the version in force (0: there is none)."""
        if expected == version:
            return
        before = self.past(connection, name, expected)
        changed = differences(before, current) if before is not None and current is not None else []
        raise Outdated(f"{self._kind} {name}", version=version, current=current, changed=list(changed))

    def past(self, connection: Connection, name: str, version: int) -> Body | None:
        query = select(registry_edit.c.body).where(
            registry_edit.c.kind == self._kind, registry_edit.c.id == name, registry_edit.c.version == version
        )
        body = connection.execute(query).scalar_one_or_none()
        return None if body is None else msgspec.json.decode(body, type=dict[str, Any])

    def next_version(self, connection: Connection, name: str) -> int:
        """The first one of something new: above those it had before it was deleted."""
        query = select(func.max(registry_edit.c.version)).where(
            registry_edit.c.kind == self._kind, registry_edit.c.id == name
        )
        return int(connection.execute(query).scalar() or 0) + 1

    def record(
        self, connection: Connection, name: str, version: int, body: Body | None, *, by: str, now_ms: int
    ) -> None:
        """`body` None: deleted. A version that was recorded stays as it is."""
        row = {
            "kind": self._kind,
            "id": name,
            "version": version,
            "body": None if body is None else msgspec.json.encode(body).decode(),
            "edited_ms": now_ms,
            "edited_by": by,
        }
        keep_first(connection, registry_edit, row)
