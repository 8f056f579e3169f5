from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from sqlalchemy import func, select

from control_plane.api.auth import whole_fleet
from control_plane.api.binding import Permission, Route
from control_plane.api.fields import Reason
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.api.problems import Problem
from control_plane.api.subjects import within
from control_plane.clock import Clock
from control_plane.errors import Conflict, Misconfigured, NotFound
from control_plane.fleet.rights import Caller
from control_plane.relay import acts
from control_plane.relay.acts import EVERY_KEY, Act
from control_plane.relay.destinations import read_destinations
from control_plane.settings import Destination
from control_plane.store.engine import Store
from control_plane.store.tables import OPEN_ROW, outbox, relay_health

Standing = Literal["ok", "retrying", "paused", "attention", "removed", "away", "maintenance", "shadow"]


class DestinationItem(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    host: str | None
    finality: str | None
    event_types: list[str]
    state: Standing
    """paused: its credentials or address are refused, or its file says so; attention: some deliveries are parked;
    removed: its file is; away: it fails too often and is left alone for a while; shadow: nothing is sent to it."""
    kind: str | None
    """How events travel to it."""
    until: datetime | None
    """When it will be tried again, where it is left alone."""
    why: str | None
    at_once: int | None
    """Deliveries under way at most, as it bears now."""
    open: dict[str, int]
    """Deliveries that are not done, by state."""
    oldest_open: datetime | None
    last_error: str | None


Items = list[DestinationItem]


class ResumeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    parked: bool = False
    """Offer what was parked again, too."""


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    since: datetime
    """Everything that was posted to this destination since then, under the same ids."""
    types: list[str] = []
    """Exact event types; empty = all."""
    reason: Reason
    dry_run: bool = False
    """Only count."""


class CutoverRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    keys: list[Annotated[str, msgspec.Meta(min_length=1, max_length=200)]] = []
    """Subjects whose events are delivered from now on."""
    all: bool = False
    reason: Reason


class CutOver(msgspec.Struct, frozen=True):
    keys: list[str]


class Resumed(msgspec.Struct, frozen=True):
    deliveries: int
    """That are due now."""


class DestinationRoutes:
    def __init__(self, *, store: Store, folder: Path, clock: Clock) -> None:
        self._store = store
        self._folder = folder
        self._clock = clock

    def routes(self) -> tuple[Route, ...]:
        one = "/destinations/{name}"
        return (
            Route(
                method="GET",
                path="/destinations",
                view=self.list,
                permission=Permission.VIEWER,
                summary="Where events are delivered, and how that goes",
                problems=(503,),
            ),
            Route(
                method="GET",
                path=one,
                view=self.get,
                permission=Permission.VIEWER,
                summary="One destination",
                problems=(503,),
            ),
            Route(
                method="POST",
                path=one + "/resume",
                view=self.resume,
                permission=Permission.OPERATOR,
                summary="Try what waits there now, not when its pause is over; needs the whole fleet",
            ),
            Route(
                method="POST",
                path=one + "/replay",
                view=self.replay,
                permission=Permission.OPERATOR,
                summary="Offer all again since a moment; what can be asked about is asked first; needs the whole fleet",
            ),
            Route(
                method="POST",
                path=one + "/cutover",
                view=self.cut_over,
                permission=Permission.OPERATOR,
                summary="Deliver keys of a destination in shadow mode from now on; needs the whole fleet",
            ),
        )

    def list(self, query: PageQuery, caller: Caller) -> Page[DestinationItem]:
        (after,) = query.after(str) or ("",)
        found = [item for item in self._items(caller) if item.name > after][: query.limit + 1]
        return page(found, limit=query.limit, item=lambda item: item, key=lambda item: (item.name,))

    def get(self, name: str, caller: Caller) -> DestinationItem:
        found = next((item for item in self._items(caller) if item.name == name), None)
        if found is None:
            raise NotFound(f"There is no destination {name}.")
        return found

    def resume(self, name: str, body: ResumeRequest, caller: Caller) -> Resumed:
        whole_fleet(caller)
        self.get(name, caller)
        act = Act(name, caller.name, "asked for", self._clock.now_ms())
        return Resumed(acts.resume(self._store, act, parked=body.parked))

    def replay(self, name: str, body: ReplayRequest, caller: Caller) -> Resumed:
        whole_fleet(caller)
        self.get(name, caller)
        act = Act(name, caller.name, body.reason, self._clock.now_ms())
        since_ms = round(body.since.timestamp() * 1000)
        return Resumed(acts.replay_since(self._store, act, since_ms=since_ms, types=body.types, dry_run=body.dry_run))

    def cut_over(self, name: str, body: CutoverRequest, caller: Caller) -> CutOver:
        whole_fleet(caller)
        if self.get(name, caller).state != "shadow":
            raise Conflict(f"{name} is not in shadow mode; all of its keys are delivered.")
        if body.all == bool(body.keys):
            raise Problem(422, "Say which keys, or all.")
        keys = [EVERY_KEY] if body.all else body.keys
        acts.cut_over(self._store, Act(name, caller.name, body.reason, self._clock.now_ms()), keys)
        return CutOver(keys)

    def _items(self, caller: Caller) -> Items:
        try:
            targets = {target.name: target for target in read_destinations(self._folder)}
        except Misconfigured as error:
            raise Problem(503, f"A destination's file can't be used: {error}") from None
        query = (
            select(
                outbox.c.dest,
                outbox.c.state,
                outbox.c.last_class,
                func.count().label("rows"),
                func.min(outbox.c.created_ms).label("oldest_ms"),
                func.max(outbox.c.last_error).label("error"),
            )
            .where(OPEN_ROW, *within(caller, self._store, outbox.c.key))
            .group_by(outbox.c.dest, outbox.c.state, outbox.c.last_class)
        )
        with self._store.read() as connection:
            rows = connection.execute(query).all()
            health = {row.dest: row for row in connection.execute(select(relay_health))}
        names = sorted(targets.keys() | {row.dest for row in rows})
        return [
            _item(name, targets.get(name), [row for row in rows if row.dest == name], health.get(name))
            for name in names
        ]


def _item(name: str, target: Destination | None, rows: list[Any], health: Any) -> DestinationItem:
    waiting: dict[str, int] = {}
    for row in rows:
        waiting[row.state] = waiting.get(row.state, 0) + row.rows
    oldest_ms = min((row.oldest_ms for row in rows), default=None)
    return DestinationItem(
        name=name,
        host=None if target is None else target.host,
        finality=None if target is None else target.finality,
        event_types=[] if target is None else list(target.event_types),
        kind=None if target is None else target.kind,
        state=_standing(target, rows, health),
        until=None if health is None else moment(health.until_ms),
        why=(health.why or None) if health is not None else None,
        at_once=None if health is None else health.at_once,
        open=waiting,
        oldest_open=moment(oldest_ms),
        last_error=next((row.error for row in rows if row.error), None),
    )


def _standing(target: Destination | None, rows: list[Any], health: Any) -> Standing:
    states = {row.state for row in rows}
    if target is None:
        return "removed"
    if target.mode != "live":
        return target.mode
    if health is not None and health.state in {"open", "half_open"}:
        return "away"
    if health is not None and health.state == "maintenance":
        return "maintenance"
    if any(row.state == "retry" and row.last_class == "AUTH" for row in rows):
        return "paused"
    if states & {"parked", "dead"}:
        return "attention"
    return "retrying" if states & {"retry", "unknown"} else "ok"
