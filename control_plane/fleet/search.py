"""Looks into the index of the fleet: any filter, any order, some hundred rows at a time.

What the passing of time changes is computed here, in SQL, from the instants that the index keeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import (
    JSON,
    ColumnElement,
    Integer,
    Select,
    Text,
    and_,
    case,
    cast,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)

from control_plane.clock import Clock
from control_plane.fleet.index import CHANGED, LOOKED
from control_plane.fleet.presence import (
    BEHIND_BATCHES,
    BEHIND_MS,
    BLINK_MS,
    GONE_MS,
    NO_DATA_MS,
    NO_DATA_PERIODS,
    QUIET_MS,
    Presence,
    Standing,
    Status,
    judged,
)
from control_plane.fleet.rights import Caller
from control_plane.fleet.status import WAYS, Way
from control_plane.store.engine import Store
from control_plane.store.tables import cursor, gateway_index, state

DAY_MS = 86_400_000
RANKS = (Status.OFFLINE, Status.LATE, Status.ONLINE, Status.NEVER, Status.RETIRED)
"""What needs somebody first."""
Order = Literal[
    "name",
    "id",
    "asset",
    "status",
    "data",
    "heard",
    "readings",
    "backlog",
    "backlog_age",
    "clock_error",
    "configuration",
    "certificate",
    "version",
    "hardware",
    "silent",
    "created",
]
IX = gateway_index.c


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for; what is left out is not looked at."""

    statuses: frozenset[Status] = frozenset()
    ways: frozenset[Way] = frozenset()
    group: str | None = None
    asset: str | None = None
    """On this asset or a part of it."""
    text: str = ""
    """Part of name, id or asset, in any case."""
    retired: bool | None = None
    certificate_days: int | None = None
    """Its certificate ends within so many."""
    backlog: int | None = None
    """So many batches at least."""
    clock_err_ms: int | None = None
    """At least."""
    silent: int | None = None
    """So many silent sensors at least."""
    quiet_s: int | None = None
    """No data for so long."""
    version: str | None = None


class Key(NamedTuple):
    """Where a row stands: `value` in the order, then the gateway's id."""

    value: str | int | None
    gateway: str


class Found(NamedTuple):
    standing: Standing
    groups: tuple[str, ...]
    key: Key


class FleetSearch:
    """Reads; synchronous, thread-safe."""

    def __init__(self, *, telemetry: Store, clock: Clock) -> None:
        self._telemetry = telemetry
        self._clock = clock

    def rows(
        self,
        caller: Caller,
        wanted: Wanted,
        *,
        order: Order = "name",
        falling: bool = False,
        after: Key | None = None,
        skip: int = 0,
        limit: int,
    ) -> list[Found]:
        """In `order`, what has no value last, then by id; above `after`."""
        now_ms = self._clock.now_ms()
        value = _orders(now_ms)[order]
        query = _whole(value.label("sort_value")).where(*self._which(caller, wanted, now_ms))
        if after is not None:
            query = query.where(_above(value, after, falling=falling))
        ranked = value.desc() if falling else value.asc()
        ordered = query.order_by(value.is_(None), ranked, IX.gateway)
        with self._telemetry.read() as connection:
            rows = connection.execute(ordered.limit(limit).offset(skip)).all()
        return [_found(row, now_ms) for row in rows]

    def some(self, gateways: Sequence[str]) -> dict[str, Found]:
        """By id; who is not in the index yet is not in the answer."""
        query = _whole(literal(None).label("sort_value")).where(IX.gateway.in_(gateways))
        now_ms = self._clock.now_ms()
        with self._telemetry.read() as connection:
            return {row.gateway: _found(row, now_ms) for row in connection.execute(query)}

    def counts(self, caller: Caller, wanted: Wanted) -> Counter[Status]:
        """How many there are of each status, whatever status is wanted."""
        now_ms = self._clock.now_ms()
        rank = _rank(now_ms).label("rank")
        anyhow = msgspec.structs.replace(wanted, statuses=frozenset())
        query = select(rank, func.count()).select_from(_joined()).where(*self._which(caller, anyhow, now_ms))
        with self._telemetry.read() as connection:
            return Counter({RANKS[number]: many for number, many in connection.execute(query.group_by(rank))})

    def _which(self, caller: Caller, wanted: Wanted, now_ms: int) -> list[ColumnElement[bool]]:
        return [*_within(caller, sqlite=self._telemetry.sqlite), *_conditions(wanted, now_ms)]

    def cursor(self) -> tuple[object, ...]:
        """Changes whenever a row may have, but for the mere passing of time."""
        changed = select(cursor.c.position).where(cursor.c.name == CHANGED)
        with self._telemetry.read() as connection:
            data = connection.execute(select(func.max(state.c.updated_ms))).scalar()
            return connection.execute(changed).scalar(), data

    def looked_ms(self) -> int | None:
        """When the index was last known to be right; None while there is none."""
        with self._telemetry.read() as connection:
            return connection.execute(select(cursor.c.position).where(cursor.c.name == LOOKED)).scalar()


def _joined() -> Any:
    return gateway_index.outerjoin(state, state.c.gateway == IX.gateway)


def _whole(*more: ColumnElement[Any]) -> Select[Any]:
    return select(gateway_index, state.c.updated_ms, state.c.readings, *more).select_from(_joined())


# --- what the passing of time changes ------------------------------------------------------------------------


def _rank(now_ms: int) -> ColumnElement[int]:
    """Place in RANKS: `presence.judged`, in SQL."""
    rank = {status: place for place, status in enumerate(RANKS)}
    quiet_ms = now_ms - IX.heard_ms
    no_data_ms = case(
        (IX.expected_ms * NO_DATA_PERIODS > NO_DATA_MS, IX.expected_ms * NO_DATA_PERIODS), else_=NO_DATA_MS
    )
    since_ms = case((state.c.updated_ms > IX.connected_ms, state.c.updated_ms), else_=IX.connected_ms)
    behind = and_(
        IX.backlog_batches > 0,
        or_(
            now_ms - IX.backlog_oldest_ms > BEHIND_MS,
            and_(IX.backlog_oldest_ms.is_(None), IX.backlog_batches >= BEHIND_BATCHES),
        ),
    )
    return case(
        (IX.retired_ms.is_not(None), rank[Status.RETIRED]),
        (IX.paused_ms.is_not(None), rank[Status.OFFLINE]),
        (IX.connected_ms.is_(None), rank[Status.NEVER]),
        (now_ms - IX.left_ms < BLINK_MS, rank[Status.LATE]),
        (IX.left_ms.is_not(None), rank[Status.OFFLINE]),
        (quiet_ms >= GONE_MS, rank[Status.OFFLINE]),
        (quiet_ms > QUIET_MS, rank[Status.LATE]),
        (behind, rank[Status.LATE]),
        (now_ms - since_ms > no_data_ms, rank[Status.LATE]),
        else_=rank[Status.ONLINE],
    )


def _orders(now_ms: int) -> dict[Order, ColumnElement[Any]]:
    """What each order compares; instants are turned so that the worst is the greatest where that is an age."""
    return {
        "name": case((IX.retired_ms.is_(None), literal("0")), else_=literal("1")).concat(IX.words),
        "id": IX.gateway,
        "asset": IX.asset,
        "status": cast(_rank(now_ms), Integer),
        "data": state.c.updated_ms,
        "heard": IX.heard_ms,
        "readings": state.c.readings,
        "backlog": IX.backlog_batches,
        "backlog_age": -IX.backlog_oldest_ms,
        "clock_error": IX.clock_err_ms,
        "configuration": IX.configuration,
        "certificate": IX.certificate_ms,
        "version": IX.version,
        "hardware": IX.hardware,
        "silent": IX.sensors_silent,
        "created": IX.created_ms,
    }


def texts(order: Order) -> bool:
    """Whether the order compares words, not numbers."""
    return order in {"name", "id", "asset", "configuration", "version", "hardware"}


def _above(value: ColumnElement[Any], after: Key, *, falling: bool) -> ColumnElement[bool]:
    if after.value is None:
        return and_(value.is_(None), IX.gateway > after.gateway)
    further = value < after.value if falling else value > after.value
    return or_(value.is_(None), further, and_(value == after.value, IX.gateway > after.gateway))


# --- filters -------------------------------------------------------------------------------------------------


def _within(caller: Caller, *, sqlite: bool) -> list[ColumnElement[bool]]:
    """`caller.within`, with all ids in one parameter: a part of a fleet may be thousands."""
    if caller.gateways is None:
        return []
    listed = msgspec.json.encode(sorted(caller.gateways)).decode()
    each = func.json_each(listed) if sqlite else func.json_array_elements_text(cast(literal(listed, Text), JSON))
    return [IX.gateway.in_(select(each.table_valued("value").c.value))]


def _conditions(wanted: Wanted, now_ms: int) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.statuses:
        found.append(_rank(now_ms).in_([RANKS.index(one) for one in wanted.statuses]))
    if wanted.ways:
        found.append(IX.configuration.in_([state for state, way in WAYS.items() if way in wanted.ways]))
    if wanted.group is not None:
        found.append(IX.groups.contains(f" {wanted.group} ", autoescape=True))
    if wanted.asset is not None:
        found.append(or_(IX.asset == wanted.asset, IX.asset.startswith(wanted.asset + "/", autoescape=True)))
    if wanted.text:
        found.append(IX.words.contains(wanted.text.lower(), autoescape=True))
    if wanted.retired is not None:
        found.append(IX.retired_ms.is_not(None) if wanted.retired else IX.retired_ms.is_(None))
    if wanted.version is not None:
        found.append(IX.version == wanted.version)
    return [*found, *_at_least(wanted, now_ms)]


def _at_least(wanted: Wanted, now_ms: int) -> list[ColumnElement[bool]]:
    def unless(number: int | None, condition: Any) -> ColumnElement[bool]:
        return true() if number is None else condition(number)

    return [
        unless(
            wanted.certificate_days,
            lambda days: and_(IX.certificate_ms < now_ms + days * DAY_MS, IX.retired_ms.is_(None)),
        ),
        unless(wanted.backlog, lambda batches: IX.backlog_batches >= batches),
        unless(wanted.clock_err_ms, lambda err_ms: IX.clock_err_ms >= err_ms),
        unless(wanted.silent, lambda sensors: IX.sensors_silent >= sensors),
        unless(
            wanted.quiet_s,
            lambda quiet_s: or_(state.c.updated_ms.is_(None), not_(state.c.updated_ms > now_ms - quiet_s * 1000)),
        ),
    ]


# --- rows ----------------------------------------------------------------------------------------------------


def _found(row: Any, now_ms: int) -> Found:
    said = _said(row)
    status, why = judged(row.retired_ms, row.paused_ms, said, row.updated_ms, row.expected_ms, now_ms)
    standing = Standing(
        id=row.gateway,
        name=row.name,
        asset=row.asset,
        hardware=row.hardware,
        serial=row.serial,
        created_ms=row.created_ms,
        retired_ms=row.retired_ms,
        certificate_expires_ms=row.certificate_ms,
        presence=said,
        data_ms=row.updated_ms,
        readings=row.readings or 0,
        paused_ms=row.paused_ms,
        status=status,
        why=why,
        configuration=row.configuration,
    )
    return Found(standing, tuple(row.groups.split()), Key(row.sort_value, row.gateway))


def _said(row: Any) -> Presence | None:
    """What the index keeps of it: without the configuration's hashes."""
    if row.connected_ms is None:
        return None
    return Presence(
        connected_ms=row.connected_ms,
        heard_ms=row.heard_ms,
        left_ms=row.left_ms,
        left_why=row.left_why,
        version=row.version,
        backlog_batches=row.backlog_batches,
        backlog_bytes=row.backlog_bytes,
        backlog_oldest_ms=row.backlog_oldest_ms,
        clock_source=row.clock_source,
        clock_err_ms=row.clock_err_ms,
        sensors_silent=row.sensors_silent,
        paced=row.paced or "",
    )
