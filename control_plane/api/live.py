"""GET /live: what happens, as server-sent events.

A reader first hears how things stand (gateways, newest values), or, with Last-Event-ID, what it missed; then what
happens. Messages of the first part carry no id, so that whoever breaks off within it begins it again. Every event and
every delivery's attempt recorded after the id is told at least once; of gateways' states and values only the newest is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta
from sqlalchemy import select

from control_plane.api.binding import EventStream, Permission, Route
from control_plane.api.broadcast import Behind, Broadcaster, Seen, event
from control_plane.api.deliveries import DeliveryItem
from control_plane.api.events import EventItem
from control_plane.api.feed import (
    AT_ONCE,
    OVERLAP_ATTEMPTS,
    OVERLAP_MS,
    Feed,
    GatewayState,
    Item,
    Kind,
    Mark,
    NewestValues,
    Sources,
    Tail,
    Wanted,
    delivery_key,
    gateway_of,
    state_of,
)
from control_plane.api.problems import FieldProblem, Problem
from control_plane.clock import Clock
from control_plane.errors import NotFound
from control_plane.fleet.presence import Fleet
from control_plane.fleet.rights import Area, Caller, Role
from control_plane.store.engine import Stores
from control_plane.store.tables import gateway

T = TypeVar("T")
AREAS: dict[Kind, Area] = {
    "gateway": Area.FLEET,
    "values": Area.DATA,
    "event": Area.EVENTS,
    "delivery": Area.DELIVERIES,
}


class LiveQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gateway: Annotated[list[str], Meta(max_length=100)] = []
    """Only of these; all that the caller sees when left out."""
    kind: Annotated[list[Kind], Meta(max_length=8)] = []
    """Only these; all that the caller may read when left out."""


class Reader(NamedTuple):
    """What somebody is to be told."""

    caller: Caller
    kinds: frozenset[Kind]
    gateways: frozenset[str]
    """Empty: all that the caller sees."""

    def hears(self, kind: Kind, gateway_id: str) -> bool:
        asked = not self.gateways or gateway_id in self.gateways
        return kind in self.kinds and asked and self.caller.sees(gateway_id)


class LiveRoutes:
    def __init__(self, *, stores: Stores, clock: Clock, broadcaster: Broadcaster) -> None:
        self._sources = Sources(stores=stores, fleet=Fleet(stores=stores, clock=clock))
        self._broadcaster = broadcaster
        self._wanted = Wanted()

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/live",
                view=self.follow,
                permission=Permission.VIEWER,
                summary="What happens, as it happens; for at most a quarter of an hour, then to be resumed",
                problems=(404, 503),
                messages={
                    "gateway": GatewayState,
                    "values": NewestValues,
                    "event": EventItem,
                    "delivery": DeliveryItem,
                },
            ),
        )

    def follow(self, query: LiveQuery, caller: Caller, last_event_id: str, still: Callable[[], bool]) -> EventStream:
        before = _mark(last_event_id)
        reader = Reader(caller, _kinds(query, caller), frozenset(query.gateway))
        self._check_known(reader)
        feed = Feed(self._sources, wanted=self._wanted)  # it is the topic's only if there is none yet
        subscription = self._broadcaster.subscribe("feed", cursor=object, look=feed.look)
        story = Story(self._sources, reader, before)
        frames = self._broadcaster.messages(subscription, news=story.news, still=still, ping=story.ping)

        self._wanted.more(reader.gateways)
        leaving = ExitStack()
        leaving.callback(self._wanted.fewer, reader.gateways)
        leaving.callback(subscription.close)
        return EventStream(frames, leaving.close)

    def _check_known(self, reader: Reader) -> None:
        if not reader.gateways:
            return
        query = select(gateway.c.id).where(gateway.c.id.in_(sorted(reader.gateways)))
        with self._sources.stores.business.read() as connection:
            known = set(connection.execute(query).scalars())
        for one in sorted(reader.gateways):
            if one not in known or not reader.caller.sees(one):
                raise NotFound(f"There is no gateway {one}.")


def _kinds(query: LiveQuery, caller: Caller) -> frozenset[Kind]:
    why_not = {kind: caller.lacks(Role.VIEWER, area, "read") for kind, area in AREAS.items()}
    for kind in query.kind:
        if (why := why_not[kind]) is not None:
            raise Problem(403, why)
    kinds = frozenset(query.kind) or frozenset(kind for kind, why in why_not.items() if why is None)
    if not kinds:
        raise Problem(403, why_not["gateway"] or "")
    return kinds


def _mark(text: str) -> Mark | None:
    mark = Mark.read(text)
    if text and mark is None:
        wrong = FieldProblem("Last-Event-ID", "not an id of this stream; leave it out to begin anew")
        raise Problem(422, "The stream can't go on from there.", errors=[wrong])
    return mark


class Story:
    """What one reader is told, in order."""

    def __init__(self, sources: Sources, reader: Reader, before: Mark | None) -> None:
        self._sources = sources
        self._reader = reader
        self._before = before
        self._told: int | None = None
        self._mark: Mark | None = before
        self._caught: set[tuple[object, ...]] = set()

    def news(self, seen: Seen) -> Iterator[bytes]:
        tail: Tail = seen.value
        if self._told is None:
            yield from self._begin(tail)
            self._told = tail.last
            self._mark = tail.mark
            yield event("", mark=str(tail.mark))
        elif tail.items and self._told < tail.items[0].number - 1:
            raise Behind
        told = self._told
        for item in islice(tail.items, max(0, told - (tail.last - len(tail.items))), None):
            self._told, self._mark = item.number, item.mark
            if self._reader.hears(item.kind, item.gateway) and (item.kind, *item.key) not in self._caught:
                yield _message(item)

    def ping(self) -> bytes:
        """Keeps the connection, and tells an id even to a reader of what never happens."""
        return b": still here\n" + (event("", mark=str(self._mark)) if self._mark is not None else b"\n")

    def _begin(self, tail: Tail) -> Iterator[bytes]:
        reader, before = self._reader, self._before
        for one in tail.standings:
            if reader.hears("gateway", one.id):
                yield _told("gateway", msgspec.json.encode(state_of(one)))
        if "values" in reader.kinds:
            since_ms = 0 if before is None else before.values_ms - OVERLAP_MS
            for gateway_id, at_ms in self._sources.updated(since_ms=since_ms).items():
                if reader.hears("values", gateway_id):
                    self._caught.add(("values", gateway_id, at_ms))
                    yield _told("values", self._sources.values(gateway_id))
        if before is not None:
            yield from self._missed_events(before, tail)
            yield from self._missed_deliveries(before, tail)

    def _missed_events(self, before: Mark, tail: Tail) -> Iterator[bytes]:
        if "event" not in self._reader.kinds:
            return
        for some in _portions(self._sources.recorded(before.event_ms - OVERLAP_MS)):
            mine = [row for row in some if self._reader.hears("event", gateway_of(row.subject))]
            bodies = self._sources.events.some([row.id for row in mine])
            for row in mine:
                if row.recorded_ms >= tail.mark.event_ms - OVERLAP_MS:
                    self._caught.add(("event", row.id))
                yield _told("event", msgspec.json.encode(bodies[row.id]))

    def _missed_deliveries(self, before: Mark, tail: Tail) -> Iterator[bytes]:
        """As each stands now, once: not every attempt by itself."""
        after, told = before.attempt - OVERLAP_ATTEMPTS, set[tuple[str, str]]()
        while "delivery" in self._reader.kinds and (rows := self._sources.tried(after=after)):
            after = rows[-1].id
            names = {(row.dest, row.event_id) for row in rows} - told
            told = names | (told if len(told) < AT_ONCE * 10 else set())
            for one in self._sources.deliveries.some(names):
                if self._reader.hears("delivery", gateway_of(one.key)):
                    yield _told("delivery", msgspec.json.encode(one))
                    if after >= tail.mark.attempt:
                        self._caught.add(("delivery", *delivery_key(one)))


def _portions(rows: Iterable[T]) -> Iterator[list[T]]:
    left = iter(rows)
    while some := list(islice(left, AT_ONCE)):
        yield some


def _told(kind: Kind, body: bytes) -> bytes:
    return event(body.decode(), name=kind)


def _message(item: Item) -> bytes:
    return event(item.body.decode(), name=item.kind, mark=str(item.mark))
