from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import func, select

from control_plane.api.auth import whole_fleet
from control_plane.api.binding import Permission, Route
from control_plane.api.paging import Page, PageQuery, moment, page
from control_plane.api.problems import Problem
from control_plane.api.subjects import within
from control_plane.clock import Clock
from control_plane.errors import Misconfigured, NotFound
from control_plane.fleet.rights import Caller
from control_plane.relay.books import resume
from control_plane.relay.destinations import read_destinations
from control_plane.settings import Destination
from control_plane.store.engine import Store
from control_plane.store.tables import OPEN_ROW, outbox

Standing = Literal["ok", "retrying", "paused", "attention", "removed"]


class DestinationItem(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    host: str | None
    finality: str | None
    event_types: list[str]
    state: Standing
    """paused: its credentials or address are refused; attention: some deliveries are parked; removed: its file is."""
    open: dict[str, int]
    """Deliveries that are not done, by state."""
    oldest_open: datetime | None
    last_error: str | None


Items = list[DestinationItem]


class ResumeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    parked: bool = False
    """Offer what was parked again, too."""


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
        return Resumed(resume(self._store, name, parked=body.parked, now_ms=self._clock.now_ms()))

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
        names = sorted(targets.keys() | {row.dest for row in rows})
        return [_item(name, targets.get(name), [row for row in rows if row.dest == name]) for name in names]


def _item(name: str, target: Destination | None, rows: list[Any]) -> DestinationItem:
    waiting: dict[str, int] = {}
    for row in rows:
        waiting[row.state] = waiting.get(row.state, 0) + row.rows
    oldest_ms = min((row.oldest_ms for row in rows), default=None)
    return DestinationItem(
        name=name,
        host=None if target is None else target.host,
        finality=None if target is None else target.finality,
        event_types=[] if target is None else list(target.event_types),
        state=_standing(target, rows),
        open=waiting,
        oldest_open=moment(oldest_ms),
        last_error=next((row.error for row in rows if row.error), None),
    )


def _standing(target: Destination | None, rows: list[Any]) -> Standing:
    states = {row.state for row in rows}
    if target is None:
        return "removed"
    if any(row.state == "retry" and row.last_class == "AUTH" for row in rows):
        return "paused"
    if states & {"parked", "dead"}:
        return "attention"
    return "retrying" if states & {"retry", "unknown"} else "ok"
