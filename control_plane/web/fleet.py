"""The home page: every gateway, how it stands and why."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, Literal, NamedTuple

import msgspec
from flask import Response

from control_plane.api.binding import Permission, query_of
from control_plane.clock import Clock
from control_plane.fleet.presence import Fleet, Standing, Status
from control_plane.web.live import Broadcaster
from control_plane.web.render import Renderer
from control_plane.web.streams import stream
from control_plane.web.visit import PageRoute, Visit

ROWS = 200
SAME_MS = 500


class FleetQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to show, as it stands in the address."""

    status: Literal["online", "late", "offline", "never", "retired", ""] = ""
    q: str = ""
    """Part of name, id or asset."""
    page: int = 1


class Seen(NamedTuple):
    """One look at the fleet."""

    now_ms: int
    standings: list[Standing]


class FleetPages:
    def __init__(self, *, fleet: Fleet, clock: Clock, renderer: Renderer, broadcaster: Broadcaster) -> None:
        self._fleet = fleet
        self._clock = clock
        self._renderer = renderer
        self._broadcaster = broadcaster
        self._looking = threading.Lock()
        self._seen: Seen | None = None

    def routes(self) -> tuple[PageRoute, ...]:
        return (
            PageRoute(method="GET", path="/", view=self.show, permission=Permission.VIEWER),
            PageRoute(method="GET", path="/live/fleet", view=self.follow, permission=Permission.VIEWER),
        )

    def show(self, visit: Visit) -> Response:
        query = query_of(visit.request, FleetQuery)
        return self._renderer.page(visit, "fleet.html", **_shown(self._look(), query), query=query)

    def follow(self, visit: Visit) -> Response:
        query = query_of(visit.request, FleetQuery)

        def render(seen: Seen) -> str:
            then = visit.later(seen.now_ms)
            return self._renderer.fragment(then, "fleet_live.html", **_shown(seen, query), query=query)

        subscription = self._broadcaster.subscribe("fleet", cursor=self._fleet.cursor, look=self._look)
        return stream(self._broadcaster, subscription, visit, key=query, render=render)

    def _look(self) -> Seen:
        """At most SAME_MS old: whoever asks while another looks gets what that one sees."""
        with self._looking:
            now_ms = self._clock.now_ms()
            if self._seen is None or not 0 <= now_ms - self._seen.now_ms < SAME_MS:
                self._seen = Seen(now_ms, self._fleet.all())
            return self._seen


def _shown(seen: Seen, query: FleetQuery) -> dict[str, Any]:
    found = [one for one in seen.standings if _matches(one, query.q.strip().lower())]
    kept = [one for one in found if not query.status or one.status == query.status]
    pages = max(1, -(-len(kept) // ROWS))
    page = min(max(1, query.page), pages)
    return {
        "rows": kept[(page - 1) * ROWS : page * ROWS],
        "page": page,
        "pages": pages,
        "total": len(found),
        "counts": Counter(one.status for one in found),
        "statuses": list(Status),
        "fleet_size": len(seen.standings),
        "now_ms": seen.now_ms,
    }


def _matches(one: Standing, text: str) -> bool:
    return not text or any(text in part.lower() for part in (one.name, one.id, one.asset or ""))
