"""The home page: every gateway, how it stands and why."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from flask import Response
from msgspec import Meta

from control_plane.api.binding import Permission, query_of
from control_plane.api.broadcast import Broadcaster
from control_plane.clock import Clock
from control_plane.fleet.presence import Standing, Status
from control_plane.fleet.rights import Caller
from control_plane.fleet.search import FleetSearch, Order, Wanted
from control_plane.fleet.status import Way
from control_plane.web.render import Renderer
from control_plane.web.streams import stream
from control_plane.web.visit import PageRoute, Visit

ROWS = 200
OLD_MS = 60_000
"""The worker looks several times a second."""


class FleetQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to show, as it stands in the address."""

    status: Literal["online", "late", "offline", "never", "retired", ""] = ""
    configuration: Literal["in_force", "pending", "under_way", "refused", "drifted", "local", ""] = ""
    q: str = ""
    """Part of name, id or asset."""
    order: Order = "name"
    falling: bool = False
    page: Annotated[int, Meta(ge=1, le=1_000_000)] = 1


class Shown(NamedTuple):
    """What of the fleet is on the page."""

    rows: list[Standing]
    page: int
    pages: int
    total: int
    counts: Counter[Status]
    fleet_size: int
    looked_ms: int | None
    """When the worker last looked, if that was too long ago; the rows may say what was true then."""


class FleetPages:
    def __init__(self, *, search: FleetSearch, clock: Clock, renderer: Renderer, broadcaster: Broadcaster) -> None:
        self._search = search
        self._clock = clock
        self._renderer = renderer
        self._broadcaster = broadcaster

    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute(method="GET", path="/", view=self.show, permission=Permission.VIEWER),
            PageRoute(method="GET", path="/live/fleet", view=self.follow, permission=Permission.VIEWER),
        )

    def show(self, visit: Visit) -> Response:
        query = query_of(visit.request, FleetQuery)
        facts = self._facts(query, visit.viewer, self._clock.now_ms())
        return self._renderer.page(visit, "fleet.html", **facts, query=query)

    def follow(self, visit: Visit) -> Response:
        query = query_of(visit.request, FleetQuery)

        def render(now_ms: int) -> str:
            facts = self._facts(query, visit.viewer, now_ms)
            return self._renderer.fragment(visit.later(now_ms), "fleet_live.html", **facts, query=query)

        subscription = self._broadcaster.subscribe("fleet", cursor=self._search.cursor, look=self._clock.now_ms)
        return stream(self._broadcaster, subscription, visit, key=query, render=render)

    def _facts(self, query: FleetQuery, caller: Caller, now_ms: int) -> dict[str, Any]:
        shown = self.shown(query, caller, now_ms)
        known = {"statuses": list(Status), "ways": list(Way), "now_ms": now_ms}
        return shown._asdict() | known

    def shown(self, query: FleetQuery, caller: Caller, now_ms: int) -> Shown:
        wanted = Wanted(
            statuses=frozenset([Status(query.status)] if query.status else []),
            ways=frozenset([Way(query.configuration)] if query.configuration else []),
            text=query.q.strip(),
        )
        counts = self._search.counts(caller, wanted)
        narrowed = wanted.text or wanted.ways
        everyone = self._search.counts(caller, Wanted()) if narrowed else counts
        many = sum(counts[status] for status in wanted.statuses) if wanted.statuses else counts.total()
        pages = max(1, -(-many // ROWS))
        page = min(query.page, pages)
        found = self._search.rows(
            caller, wanted, order=query.order, falling=query.falling, skip=(page - 1) * ROWS, limit=ROWS
        )
        looked_ms = self._search.looked_ms()
        return Shown(
            rows=[one.standing for one in found],
            page=page,
            pages=pages,
            total=counts.total(),
            counts=counts,
            fleet_size=everyone.total(),
            looked_ms=looked_ms if looked_ms is not None and now_ms - looked_ms > OLD_MS else None,
        )
