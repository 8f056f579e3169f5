"""Keeps the table that a fleet is filtered and sorted by: one row per gateway of what the three stores say of it.

What changes by the passing of time (late, offline, days of a certificate) is not in it: only the instants which that
follows from. When data came is joined from `state`, so that it can't lag behind it.

Each step looks at what was said since the step before, as the journal dates it, less OVERLAP_MS for clocks of other
machines; a change of the registry, and every WHOLE_MS, the whole fleet. Only rows that differ are written. A reader
sees how far it is by `LOOKED`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select

from control_plane.clock import Clock
from control_plane.fleet.presence import Fleet, Standing
from control_plane.store.engine import Stores
from control_plane.store.tables import (
    certificate,
    clone,
    config_desired,
    config_offer,
    config_status,
    cursor,
    gateway,
    gateway_group_member,
    gateway_index,
    presence,
    registry_edit,
    series,
    state,
)
from control_plane.store.upsert import upsert

CHANGED, LOOKED = "gateway_index", "gateway_index.looked"
"""Positions: how many times rows were written; when it was last known to be right, in ms since 1970."""
AT_ONCE = 500
Values = tuple[Any, ...]
OVERLAP_MS = 10_000
WHOLE_MS = 60_000
SAY_MS = 10_000


class FleetIndex:
    """A loop of the worker."""

    def __init__(self, *, stores: Stores, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock
        self._fleet = Fleet(stores=stores, clock=clock)
        self._registered: object = None
        self._seen: set[Values] = set()
        self._since_ms = self._told = self._whole_ms = self._said_ms = 0

    def step(self) -> bool:
        """Bring the index up to date. Never more to do at once."""
        now_ms = self._clock.now_ms()
        registered, told = self._registry_stands(), self._newest_told()
        whole = registered != self._registered or not 0 <= now_ms - self._whole_ms < WHOLE_MS
        ids = self._everyone() if whole else self._heard_of()
        wrote = False
        try:
            for first in range(0, len(ids), AT_ONCE):
                wrote = self._bring(ids[first : first + AT_ONCE]) or wrote
        except BaseException:
            self._whole_ms = 0  # what was seen was not written: everything is looked at again
            raise
        self._since_ms, self._told = now_ms - OVERLAP_MS, told
        if whole:
            self._registered, self._whole_ms = registered, now_ms
        if wrote or not 0 <= now_ms - self._said_ms < SAY_MS:
            self._say(now_ms, wrote=wrote)
        return False

    # --- what has changed --------------------------------------------------------------------------------

    def _registry_stands(self) -> object:
        """Differs when people, enrolment or a save of the configuration changed anything."""
        edited = select(func.count(), func.max(registry_edit.c.edited_ms)).select_from(registry_edit)
        known = select(
            func.count(), func.sum(gateway.c.version), func.max(gateway.c.enrolled_ms), func.count(gateway.c.retired_ms)
        ).select_from(gateway)
        issued = select(func.count(), func.count(certificate.c.revoked_ms)).select_from(certificate)
        members = select(func.count()).select_from(gateway_group_member)
        wanted = select(func.max(config_desired.c.change), func.count()).select_from(config_desired)
        with self._stores.business.read() as connection:
            return tuple(tuple(connection.execute(one).one()) for one in (edited, known, issued, members, wanted))

    def _newest_told(self) -> int:
        with self._stores.journal.read() as connection:
            return connection.execute(select(func.max(config_status.c.id))).scalar() or 0

    def _everyone(self) -> list[str]:
        with self._stores.business.read() as connection:
            return list(connection.execute(select(gateway.c.id).order_by(gateway.c.id)).scalars())

    def _heard_of(self) -> list[str]:
        """Whom the journal says anything new of."""
        since = self._since_ms
        told = select(config_status.c.gateway).where(config_status.c.id > self._told)
        with self._stores.journal.read() as connection:
            found = set(connection.execute(told).scalars())
            seen = {tuple(row) for query in _news(since) for row in connection.execute(query)}
        found |= {row[0] for row in seen - self._seen}
        self._seen = seen
        return sorted(found)

    # --- writing -----------------------------------------------------------------------------------------

    def _bring(self, ids: Sequence[str]) -> bool:
        standings = self._fleet.some(ids)
        with self._stores.business.read() as connection:
            groups = _groups(connection, ids)
        with self._stores.telemetry.read() as connection:
            expected = _expected(connection, ids)
            kept = connection.execute(select(gateway_index).where(gateway_index.c.gateway.in_(ids))).all()
        before = {row.gateway: tuple(row) for row in kept}
        rows = [_row(one, groups.get(one.id, ()), expected.get(one.id)) for one in standings]
        changed = [row for row in rows if tuple(row.values()) != before.get(row["gateway"])]
        if changed:
            with self._stores.telemetry.write() as connection:
                upsert(connection, gateway_index, changed)
        return bool(changed)

    def _say(self, now_ms: int, *, wrote: bool) -> None:
        with self._stores.telemetry.write() as connection:
            before = connection.execute(select(cursor.c.position).where(cursor.c.name == CHANGED)).scalar() or 0
            rows = [{"name": CHANGED, "position": before + wrote}, {"name": LOOKED, "position": now_ms}]
            upsert(connection, cursor, rows)
        self._said_ms = now_ms


def _news(since_ms: int) -> tuple[Select[Any], ...]:
    """What the journal dates since then: the gateway, and what tells one word of it from the next."""
    said = presence.c
    return (
        select(said.gateway, said.session, said.connected_ms, said.heard_ms, said.left_ms).where(
            or_(said.heard_ms >= since_ms, said.connected_ms >= since_ms, said.left_ms >= since_ms)
        ),
        select(config_offer.c.gateway, config_offer.c.generation, config_offer.c.offered_ms).where(
            config_offer.c.offered_ms >= since_ms
        ),
        select(clone.c.gateway, clone.c.since_ms, clone.c.released_ms).where(
            or_(clone.c.since_ms >= since_ms, clone.c.released_ms >= since_ms)
        ),
    )


def _groups(connection: Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    member = gateway_group_member.c
    query = select(member.gateway, member.slug).where(member.gateway.in_(ids)).order_by(member.slug)
    found: dict[str, list[str]] = {}
    for gateway_id, slug in connection.execute(query):
        found.setdefault(gateway_id, []).append(slug)
    return found


def _expected(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    """The shortest period that each declares."""
    mine = (series.c.gateway == state.c.gateway) & (series.c.epoch == state.c.epoch)
    query = select(state.c.gateway, func.min(series.c.period_ms)).join(series, mine)
    chosen = query.where(state.c.gateway.in_(ids), series.c.period_ms > 0).group_by(state.c.gateway)
    return {row[0]: row[1] for row in connection.execute(chosen)}


def _row(one: Standing, groups: Sequence[str], expected_ms: int | None) -> dict[str, Any]:
    """In the order of the table's columns."""
    said = one.presence
    running = None if said is None else said.running
    return {
        "gateway": one.id,
        "name": one.name,
        "asset": one.asset,
        "hardware": one.hardware,
        "serial": one.serial,
        "groups": "".join(f" {slug} " for slug in groups),
        "words": "\n".join(_words(one)),
        "created_ms": one.created_ms,
        "retired_ms": one.retired_ms,
        "certificate_ms": one.certificate_expires_ms,
        "configuration": one.configuration,
        "generation": None if running is None else running.generation,
        "paused_ms": one.paused_ms,
        "expected_ms": expected_ms,
        "connected_ms": None if said is None else said.connected_ms,
        "heard_ms": None if said is None else said.heard_ms,
        "left_ms": None if said is None else said.left_ms,
        "left_why": None if said is None else said.left_why,
        "version": None if said is None else said.version,
        "backlog_batches": None if said is None else said.backlog_batches,
        "backlog_bytes": None if said is None else said.backlog_bytes,
        "backlog_oldest_ms": None if said is None else said.backlog_oldest_ms,
        "clock_source": None if said is None else said.clock_source,
        "clock_err_ms": None if said is None else said.clock_err_ms,
        "sensors_silent": None if said is None else said.sensors_silent,
        "paced": None if said is None else said.paced,
    }


def _words(one: Standing) -> Iterator[str]:
    yield one.name.lower()
    yield one.id
    if one.asset:
        yield one.asset.lower()
