"""What happens, from the stores, for everybody who follows: gateways' states, newest values, events, deliveries.

One look is one round over the sources, taken by the broadcaster's one thread. What it finds is numbered and kept for a
while, so that a follower which is slower than the looks misses nothing; one that is slower than KEPT is let go and
resumes from the stores.

Nothing recorded is passed over: a source is read again from a little before where the last look ended, since commits
may come in another order than times and numbers were given, and what was told already is left out.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import func, select, tuple_

from control_plane.api.deliveries import Deliveries, DeliveryItem
from control_plane.api.events import Events
from control_plane.api.paging import moment
from control_plane.api.readings import QUALITY
from control_plane.fleet.presence import Fleet, Standing
from control_plane.projections.latest import LatestValue, latest_values
from control_plane.store.engine import Stores
from control_plane.store.tables import attempt, event, state
from protos.comboio.v1 import batch_pb2 as pb

Kind = Literal["gateway", "values", "event", "delivery"]
KEPT = 5_000
AT_ONCE = 500
"""Of events and deliveries; further ones come with the next look."""
VALUES_AT_ONCE = 200
"""Gateways whose values one look reads; those somebody named come first, then those told longest ago."""
OVERLAP_MS = 10_000
OVERLAP_ATTEMPTS = 50
STANDINGS_EVERY_S = 2.0
STANDINGS_ANYWAY_S = 5.0
"""Statuses change by the mere passing of time."""


class GatewayState(msgspec.Struct, frozen=True, kw_only=True):
    """How a gateway stands. `why` is what the status rests on; `configuration`: how far from what is wanted of it."""

    gateway: str
    name: str
    asset: str | None
    status: str
    why: str
    configuration: str | None


class NewestValue(msgspec.Struct, frozen=True, kw_only=True):
    """`value` is null for text and for what could not be read; `time` while the boot's clock has no anchor."""

    sensor: str
    quantity: str
    unit: str
    value: float | None
    quality: str
    time: datetime | None


class NewestValues(msgspec.Struct, frozen=True, kw_only=True):
    """The newest value of every series of a gateway that has one."""

    gateway: str
    values: list[NewestValue]


class Mark(NamedTuple):
    """Up to where everything was told. As text it is the `id` of messages."""

    event_ms: int
    attempt: int
    values_ms: int

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @classmethod
    def read(cls, text: str) -> Mark | None:
        parts = text.split(".")
        fits = len(parts) == len(cls._fields) and all(part.isascii() and part.isdigit() for part in parts)
        numbers = [int(part) for part in parts if len(part) < 19] if fits else []
        return cls(*numbers) if len(numbers) == len(cls._fields) else None


class Item(NamedTuple):
    """One message. `key` tells the same thing told twice."""

    number: int
    kind: Kind
    gateway: str
    key: tuple[object, ...]
    mark: Mark
    body: bytes


class Tail(NamedTuple):
    """What is kept of the newest messages, by number without a hole, and how all gateways stand."""

    items: tuple[Item, ...]
    last: int
    mark: Mark
    standings: tuple[Standing, ...]


class Sources:
    """Reads of one's own, for those who resume or begin; and what a look reads."""

    def __init__(self, *, stores: Stores, fleet: Fleet) -> None:
        self.stores = stores
        self.fleet = fleet
        self.events = Events(store=stores.business)
        self.deliveries = Deliveries(store=stores.business)

    def newest(self) -> Mark:
        with self.stores.business.read() as connection:
            event_ms = connection.execute(select(func.max(event.c.recorded_ms))).scalar() or 0
            tried = connection.execute(select(func.max(attempt.c.id))).scalar() or 0
        with self.stores.telemetry.read() as connection:
            values_ms = connection.execute(select(func.max(state.c.updated_ms))).scalar() or 0
        return Mark(event_ms, tried, values_ms)

    def updated(self, *, since_ms: int = 0) -> dict[str, int]:
        """Gateway → when its values were projected."""
        query = select(state.c.gateway, state.c.updated_ms).where(state.c.updated_ms >= since_ms)
        with self.stores.telemetry.read() as connection:
            return {row.gateway: row.updated_ms for row in connection.execute(query)}

    def values(self, gateway_id: str) -> bytes:
        with self.stores.telemetry.read() as connection:
            found = latest_values(connection, gateway_id)
        told = NewestValues(gateway=gateway_id, values=[_value(one) for one in found if one.came])
        return msgspec.json.encode(told)

    def recorded(self, since_ms: int) -> Iterator[Any]:
        """Events recorded then or later, in that order: (recorded_ms, id, subject)."""
        columns, after = (event.c.recorded_ms, event.c.id, event.c.subject), (since_ms, "")
        order = (event.c.recorded_ms, event.c.id)
        while True:
            chosen = select(*columns).where(tuple_(*order) > after).order_by(*order).limit(AT_ONCE)
            with self.stores.business.read() as connection:
                rows = connection.execute(chosen).all()
            yield from rows
            if len(rows) < AT_ONCE:
                return
            after = (rows[-1].recorded_ms, rows[-1].id)

    def tried(self, *, after: int, also: Iterable[int] = (), limit: int = AT_ONCE) -> Sequence[Any]:
        """Attempts by number above `after`, and those of `also`: (id, dest, event_id, outcome)."""
        columns = select(attempt.c.id, attempt.c.dest, attempt.c.event_id, attempt.c.outcome)
        with self.stores.business.read() as connection:
            again = connection.execute(columns.where(attempt.c.id.in_(sorted(also)), attempt.c.id <= after)).all()
            fresh = connection.execute(columns.where(attempt.c.id > after).order_by(attempt.c.id).limit(limit)).all()
        return [*again, *fresh]


def gateway_of(subject: str) -> str:
    return subject.partition("/")[0]


def delivery_key(one: DeliveryItem) -> tuple[object, ...]:
    tries = one.attempts
    return one.id, one.state, len(tries), tries[-1].outcome if tries else None


def state_of(one: Standing) -> GatewayState:
    return GatewayState(
        gateway=one.id,
        name=one.name,
        asset=one.asset,
        status=one.status.value,
        why=one.why.value,
        configuration=one.configuration,
    )


def _value(one: LatestValue) -> NewestValue:
    return NewestValue(
        sensor=one.sensor,
        quantity=one.quantity,
        unit=one.unit,
        value=one.value,
        quality=QUALITY.get(pb.Quality.ValueType(one.quality), str(one.quality)),
        time=moment(one.at_ms),
    )


class Wanted:
    """The gateways that followers named, by how many of them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def more(self, gateways: Iterable[str]) -> None:
        with self._lock:
            self._counts.update(gateways)

    def fewer(self, gateways: Iterable[str]) -> None:
        with self._lock:
            self._counts.subtract(gateways)
            self._counts = +self._counts

    def has(self, gateway_id: str) -> bool:
        return gateway_id in self._counts


class Feed:
    """`look` is the broadcaster's; one thread."""

    def __init__(self, sources: Sources, *, wanted: Wanted) -> None:
        self._sources = sources
        self._wanted = wanted
        self._kept: deque[Item] = deque(maxlen=KEPT)
        self._number = 0
        self._mark: Mark | None = None
        self._events: dict[str, int] = {}
        self._tried: dict[int, str | None] = {}
        self._updated: dict[str, int] = {}
        self._told_s: dict[str, float] = {}
        self._states: dict[str, GatewayState] = {}
        self._standings: tuple[Standing, ...] = ()
        self._stood_s = float("-inf")
        self._stood_at: object = None

    def look(self) -> Tail:
        if self._mark is None:
            self._begin()
        self._look_at_gateways()
        self._look_at_values()
        self._look_at_events()
        self._look_at_deliveries()
        assert self._mark is not None
        return Tail(tuple(self._kept), self._number, self._mark, self._standings)

    def _begin(self) -> None:
        """What is there already is no news."""
        mark = self._sources.newest()
        self._events = {row.id: row.recorded_ms for row in self._sources.recorded(mark.event_ms - OVERLAP_MS)}
        self._tried = {row.id: row.outcome for row in self._sources.tried(after=mark.attempt - OVERLAP_ATTEMPTS)}
        self._updated = self._sources.updated()
        self._standings = tuple(self._sources.fleet.all())
        self._states = {one.id: state_of(one) for one in self._standings}
        self._mark = mark

    def _tell(self, kind: Kind, gateway: str, key: tuple[object, ...], body: bytes, **moved: int) -> None:
        assert self._mark is not None
        self._mark = self._mark._replace(**moved)
        self._number += 1
        self._kept.append(Item(self._number, kind, gateway, key, self._mark, body))

    def _look_at_gateways(self) -> None:
        now_s = time.monotonic()
        if now_s - self._stood_s < STANDINGS_EVERY_S:
            return
        cursor = self._sources.fleet.cursor()
        if cursor == self._stood_at and now_s - self._stood_s < STANDINGS_ANYWAY_S:
            return
        self._stood_at, self._stood_s = cursor, now_s
        self._standings = tuple(self._sources.fleet.all())
        states = {one.id: state_of(one) for one in self._standings}
        for one, said in states.items():
            if said != self._states.get(one):
                self._tell("gateway", one, (one, said), msgspec.json.encode(said))
        self._states = states

    def _look_at_values(self) -> None:
        updated = self._sources.updated()
        changed = [one for one, at_ms in updated.items() if at_ms != self._updated.get(one)]
        changed.sort(key=lambda one: (not self._wanted.has(one), self._told_s.get(one, 0.0)))
        for one in changed[:VALUES_AT_ONCE]:
            self._told_s[one] = time.monotonic()
            self._updated[one] = updated[one]
            # Marked by the oldest still untold, or who resumes would miss it.
            behind = changed[VALUES_AT_ONCE:]
            upto_ms = min([updated[other] for other in behind] or [updated[one]])
            self._tell("values", one, (one, updated[one]), self._sources.values(one), values_ms=upto_ms)

    def _look_at_events(self) -> None:
        assert self._mark is not None
        since_ms = self._mark.event_ms - OVERLAP_MS
        self._events = {one: at_ms for one, at_ms in self._events.items() if at_ms >= since_ms}
        fresh = (row for row in self._sources.recorded(since_ms) if row.id not in self._events)
        news = list(islice(fresh, AT_ONCE))
        self._events |= {row.id: row.recorded_ms for row in news}
        bodies = self._sources.events.some([row.id for row in news])
        for row in news:
            gateway, at_ms = gateway_of(row.subject), max(self._mark.event_ms, row.recorded_ms)
            self._tell("event", gateway, (row.id,), msgspec.json.encode(bodies[row.id]), event_ms=at_ms)

    def _look_at_deliveries(self) -> None:
        assert self._mark is not None
        upto = max(self._tried, default=self._mark.attempt)
        running = [one for one, outcome in self._tried.items() if outcome is None]
        rows = self._sources.tried(after=upto - OVERLAP_ATTEMPTS, also=running)
        news = [row for row in rows if row.id not in self._tried or self._tried[row.id] != row.outcome]
        self._tried |= {row.id: row.outcome for row in news}
        upto = max(self._tried, default=upto)
        self._tried = {
            one: outcome
            for one, outcome in self._tried.items()
            if one > upto - 2 * OVERLAP_ATTEMPTS or (outcome is None and one > upto - KEPT)
        }
        # Whoever resumes must hear what becomes of those still running.
        mark = min([one for one, outcome in self._tried.items() if outcome is None] or [upto + 1]) - 1
        for one in self._sources.deliveries.some({(row.dest, row.event_id) for row in news}):
            self._tell("delivery", gateway_of(one.key), delivery_key(one), msgspec.json.encode(one), attempt=mark)
