"""How long what is kept, and by whose word: the server's setting, or a group of gateways of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from control_plane.errors import Conflict, NotFound
from control_plane.fleet.edits import Edits
from control_plane.settings import RetentionSection
from control_plane.store.engine import Store
from control_plane.store.tables import gateway_group, gateway_group_member, retention

MOST_GROUPS = 8
"""With a retention of their own: each has tables of its own, and every look at history goes over all of them."""
FRESH_S = 5.0
DAY_MS = 86_400_000
MOST_DAYS = 36_500
EDITS = Edits("retention")
log = structlog.get_logger("control_plane.retention")


class Own(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Of a group, in days; 0 = for ever, null: as the server's setting says."""

    raw_days: float | None = None
    readings_days: float | None = None
    minutes_days: float | None = None
    hours_days: float | None = None
    days_days: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            days = getattr(self, name)
            if days is not None and days != 0 and not 1 <= days <= MOST_DAYS:
                raise ValueError(f"{name}: {MOST_DAYS} days at most, 1 at least, or 0 for ever")


class Keep(NamedTuple):
    """In ms; None: for ever."""

    raw_ms: int | None
    readings_ms: int | None
    minutes_ms: int | None
    hours_ms: int | None
    days_ms: int | None


def keep_of(defaults: RetentionSection, own: Own | None = None) -> Keep:
    days = [getattr(own, name, None) for name in defaults.__struct_fields__]
    usual = [getattr(defaults, name) for name in defaults.__struct_fields__]
    chosen = [other if mine is None else mine for mine, other in zip(days, usual, strict=True)]
    return Keep(*(round(some * DAY_MS) if some else None for some in chosen))


class Policies:
    """Which gateway's data are kept how long. Threads may share it; what it knows is at most FRESH_S old."""

    def __init__(
        self, *, business: Store, defaults: RetentionSection, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._business = business
        self._defaults = defaults
        self._now_s = monotonic_s
        self._looked_s: float | None = None
        self._members: dict[str, str] = {}

    def keeps(self) -> dict[str, Keep]:
        """By slug; empty: of all others."""
        with self._business.read() as connection:
            own = {slug: body for slug, (body, _) in load(connection).items()}
        return {"": keep_of(self._defaults)} | {slug: keep_of(self._defaults, body) for slug, body in own.items()}

    def kept_as(self, gateway: str) -> str:
        """The group whose word counts: of several the one of the highest priority, then the later slug."""
        now_s = self._now_s()
        if self._looked_s is None or now_s - self._looked_s > FRESH_S:
            self._looked_s = now_s
            try:
                with self._business.read() as connection:
                    self._members = _members(connection)
            except SQLAlchemyError as error:  # what was known serves: where it is kept is no reason not to
                log.warning("retention.unknown", error=str(error).splitlines()[0])
        return self._members.get(gateway, "")

    def of(self, gateway: str) -> tuple[str, Keep]:
        """Whose word counts (empty: the server's setting), and what it is."""
        group, keeps = self.kept_as(gateway), self.keeps()
        return (group, keeps[group]) if group in keeps else ("", keeps[""])


def load(connection: Connection) -> dict[str, tuple[Own, int]]:
    """Slug → (what it says, version), of groups that are there."""
    query = select(retention).join(gateway_group, gateway_group.c.slug == retention.c.slug)
    rows = connection.execute(query.order_by(retention.c.slug).limit(MOST_GROUPS)).all()
    return {row.slug: (msgspec.json.decode(row.body, type=Own), row.version) for row in rows}


def _members(connection: Connection) -> dict[str, str]:
    known = list(load(connection))
    if not known:
        return {}
    member = gateway_group_member
    query = select(member.c.gateway, member.c.slug).join(gateway_group, gateway_group.c.slug == member.c.slug)
    chosen = query.where(member.c.slug.in_(known)).order_by(gateway_group.c.priority, member.c.slug)
    return {row.gateway: row.slug for row in connection.execute(chosen)}  # the last one wins


def save(connection: Connection, slug: str, own: Own, *, expected: int, by: str, now_ms: int) -> int:
    """The new version. Raises NotFound, Outdated, Conflict."""
    if connection.execute(select(gateway_group.c.slug).where(gateway_group.c.slug == slug)).first() is None:
        raise NotFound(f"There is no group {slug}.")
    known = load(connection)
    before, version = _stored(connection, slug)
    EDITS.check(connection, slug, expected=expected, version=version, current=before)
    if before is None and len(known) >= MOST_GROUPS:
        raise Conflict(f"{MOST_GROUPS} groups have a retention of their own: {', '.join(known)}. No more can have one.")
    number = version + 1 if before is not None else EDITS.next_version(connection, slug)
    body = msgspec.json.encode(own).decode()
    connection.execute(retention.delete().where(retention.c.slug == slug))
    connection.execute(retention.insert(), {"slug": slug, "body": body, "version": number})
    EDITS.record(connection, slug, number, msgspec.to_builtins(own), by=by, now_ms=now_ms)
    return number


def forget(connection: Connection, slug: str, *, expected: int, by: str, now_ms: int) -> None:
    """Its gateways' data are kept as the server's setting says. Raises NotFound, Outdated."""
    before, version = _stored(connection, slug)
    if before is None:
        raise NotFound(f"The group {slug} has no retention of its own.")
    EDITS.check(connection, slug, expected=expected, version=version, current=before)
    connection.execute(retention.delete().where(retention.c.slug == slug))
    EDITS.record(connection, slug, version + 1, None, by=by, now_ms=now_ms)


def _stored(connection: Connection, slug: str) -> tuple[dict[str, Any] | None, int]:
    row = connection.execute(select(retention).where(retention.c.slug == slug)).one_or_none()
    return (None, 0) if row is None else (msgspec.json.decode(row.body, type=dict[str, Any]), row.version)
