"""Reading and writing of layers, groups and what is wanted; every function inside the caller's transaction.

A layer is never changed: each save is a further version, the newest is in force.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection, and_, func, select

from control_plane.fleet.edits import Edits
from control_plane.fleet.render import Layer
from control_plane.store.tables import (
    config_change,
    config_desired,
    config_layer,
    gateway,
    gateway_group,
    gateway_group_member,
)
from control_plane.store.upsert import keep_first

CHUNK = 500
COUNTER = "config"
FLEET = ("fleet", "")


class Key(NamedTuple):
    """Which layer: ("fleet", ""), ("group", slug) or ("gateway", id)."""

    kind: str
    target: str

    @property
    def name(self) -> str:
        """As provenance says it."""
        return f"group/{self.target}" if self.kind == "group" else self.kind


class Version(NamedTuple):
    """0 is the layer nobody has saved yet."""

    version: int
    body: Mapping[str, Any]
    saved_ms: int = 0
    saved_by: str = ""


NEVER = Version(0, {})


class Group(NamedTuple):
    slug: str
    name: str
    priority: int
    members: frozenset[str]

    @property
    def body(self) -> dict[str, Any]:
        """What people edit of it."""
        return {"name": self.name, "priority": self.priority, "members": sorted(self.members)}


class Wanted(NamedTuple):
    generation: int
    hash: str


@dataclass(slots=True)
class Snapshot:
    """What rendering some gateways needs, as of one moment."""

    change: int
    gateways: list[str]
    layers: dict[Key, Version] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    wanted: dict[str, Wanted] = field(default_factory=dict)

    def stack(self, gateway_id: str) -> list[tuple[Key, Version]]:
        """The layers of one gateway that were ever saved, lowest first."""
        mine = [group for group in self.groups.values() if gateway_id in group.members]
        keys = [Key(*FLEET)]
        keys += [Key("group", group.slug) for group in sorted(mine, key=lambda g: (g.priority, g.slug))]
        keys.append(Key("gateway", gateway_id))
        return [(key, self.layers[key]) for key in keys if key in self.layers]


def named(stack: Sequence[tuple[Key, Version]]) -> list[Layer]:
    return [Layer(key.name, version.body) for key, version in stack]


def current(connection: Connection, key: Key) -> Version:
    """The layer in force; `NEVER` before the first save."""
    query = (
        select(config_layer)
        .where(config_layer.c.kind == key.kind, config_layer.c.target == key.target)
        .order_by(config_layer.c.version.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return _version(row) if row is not None else NEVER


def at(connection: Connection, key: Key, version: int) -> Version | None:
    """An older version, None if there was none of that number."""
    query = select(config_layer).where(
        config_layer.c.kind == key.kind, config_layer.c.target == key.target, config_layer.c.version == version
    )
    row = connection.execute(query).one_or_none()
    return _version(row) if row is not None else None


def snapshot(connection: Connection, gateways: Sequence[str]) -> Snapshot:
    """Everything that rendering `gateways` takes."""
    found = Snapshot(_change(connection), list(gateways), groups=groups(connection))
    newest = (
        select(config_layer.c.kind, config_layer.c.target, func.max(config_layer.c.version).label("version"))
        .group_by(config_layer.c.kind, config_layer.c.target)
        .subquery()
    )
    same = and_(
        config_layer.c.kind == newest.c.kind,
        config_layer.c.target == newest.c.target,
        config_layer.c.version == newest.c.version,
    )
    every = select(config_layer).join(newest, same)
    for row in connection.execute(every.where(config_layer.c.kind != "gateway")):
        found.layers[Key(row.kind, row.target)] = _version(row)
    for some in _chunks(gateways):
        own = every.where(config_layer.c.kind == "gateway", config_layer.c.target.in_(some))
        for row in connection.execute(own):
            found.layers[Key(row.kind, row.target)] = _version(row)
        for row in connection.execute(select(config_desired).where(config_desired.c.gateway.in_(some))):
            found.wanted[row.gateway] = Wanted(row.generation, row.hash)
    return found


def groups(connection: Connection) -> dict[str, Group]:
    members: dict[str, set[str]] = {}
    for row in connection.execute(select(gateway_group_member)):
        members.setdefault(row.slug, set()).add(row.gateway)
    rows = connection.execute(select(gateway_group).order_by(gateway_group.c.slug))
    return {row.slug: Group(row.slug, row.name, row.priority, frozenset(members.get(row.slug, ()))) for row in rows}


def group_version(connection: Connection, slug: str) -> int:
    """0: there is no such group."""
    query = select(gateway_group.c.version).where(gateway_group.c.slug == slug)
    return int(connection.execute(query).scalar_one_or_none() or 0)


def write_group(connection: Connection, group: Group, *, by: str, now_ms: int, count: bool = True) -> None:
    """As the next version, whoever wrote the last one. `count`: those who join or leave get a new version too."""
    edits, before = Edits("group"), groups(connection).get(group.slug)
    version = group_version(connection, group.slug)
    if before is None:
        version = edits.next_version(connection, group.slug) - 1
        row = {"slug": group.slug, "name": "", "priority": 0, "created_ms": now_ms}
        connection.execute(gateway_group.insert(), row)
    else:
        edits.record(connection, group.slug, version, before.body, by="", now_ms=now_ms)
    mine = gateway_group.c.slug == group.slug
    values = {"name": group.name, "priority": group.priority, "version": version + 1}
    connection.execute(gateway_group.update().where(mine).values(values))
    connection.execute(gateway_group_member.delete().where(gateway_group_member.c.slug == group.slug))
    members = [{"slug": group.slug, "gateway": member} for member in sorted(group.members)]
    if members:
        connection.execute(gateway_group_member.insert(), members)
    edits.record(connection, group.slug, version + 1, group.body, by=by, now_ms=now_ms)
    for some in _chunks(sorted(group.members ^ (before.members if before else frozenset())) if count else []):
        connection.execute(gateway.update().where(gateway.c.id.in_(some)).values(version=gateway.c.version + 1))


def forget_group(connection: Connection, slug: str, *, by: str, now_ms: int) -> None:
    edits, before = Edits("group"), groups(connection)[slug]
    version = group_version(connection, slug)
    edits.record(connection, slug, version, before.body, by="", now_ms=now_ms)
    edits.record(connection, slug, version + 1, None, by=by, now_ms=now_ms)
    for table in (gateway_group_member, gateway_group):
        connection.execute(table.delete().where(table.c.slug == slug))


def registered(connection: Connection) -> list[str]:
    """Every gateway that was not retired."""
    return list(
        connection.execute(select(gateway.c.id).where(gateway.c.retired_ms.is_(None)).order_by(gateway.c.id)).scalars()
    )


def _change(connection: Connection) -> int:
    found = connection.execute(select(config_change.c.last).where(config_change.c.name == COUNTER)).scalar_one_or_none()
    return int(found or 0)


def count_change(connection: Connection, after: int) -> int | None:
    """The number of this save, if nothing was saved since `after`; None otherwise. Later ones wait for this one."""
    keep_first(connection, config_change, {"name": COUNTER, "last": 0})
    changed = connection.execute(
        config_change.update()
        .where(config_change.c.name == COUNTER, config_change.c.last == after)
        .values(last=after + 1)
    )
    return after + 1 if changed.rowcount == 1 else None


def write_layer(connection: Connection, key: Key, version: Version) -> None:
    row = {
        "kind": key.kind,
        "target": key.target,
        "version": version.version,
        "body": msgspec.json.encode(version.body).decode(),
        "saved_ms": version.saved_ms,
        "saved_by": version.saved_by,
    }
    connection.execute(config_layer.insert(), row)


def _version(row: Any) -> Version:
    return Version(row.version, msgspec.json.decode(row.body), row.saved_ms, row.saved_by)


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), CHUNK):
        yield names[start : start + CHUNK]
