"""One gateway: how it stands, what its sensors say, what was lost, what it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from flask import Response, redirect

from control_plane.api.binding import Permission
from control_plane.api.broadcast import Broadcaster
from control_plane.api.events import EventQuery, Events
from control_plane.clock import Clock
from control_plane.errors import Conflict, NotFound
from control_plane.fleet.clones import Clones
from control_plane.fleet.enrolment import Enrolment
from control_plane.fleet.presence import Fleet, Standing
from control_plane.projections.balances import Balances, Sum, summed
from control_plane.projections.kept import READINGS, since
from control_plane.projections.latest import LatestValue, latest_values
from control_plane.projections.lost import PlacedGap, placed_gaps
from control_plane.retention.policies import Keep, Policies
from control_plane.store.engine import Store
from control_plane.web.render import Renderer
from control_plane.web.streams import stream
from control_plane.web.visit import PageRoute, Visit, path_of

DAY_MS = 86_400_000
GAPS_SHOWN = 20
EVENTS_SHOWN = 8
LINES_SUMMED = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One leaf that is wanted otherwise than it runs; None: not there on that side."""

    pointer: str
    desired: str | None
    running: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigPanel:
    """What is wanted of a gateway's configuration, as the gateway page shows it. `sentence` is shown as it is."""

    state: str
    sentence: str
    desired_generation: int
    desired_hash: bytes
    differences: tuple[Difference, ...] = ()


ConfigView = Callable[[str], ConfigPanel | None]
"""Gateway id → its panel; None where its configuration is not managed from here."""


class Seen(NamedTuple):
    """One look at a gateway; `standing` is None once it is gone from the registry."""

    now_ms: int
    standing: Standing | None
    values: list[LatestValue]
    gaps: list[PlacedGap]
    sums: list[Sum]
    panel: ConfigPanel | None
    keep: Keep
    keep_group: str
    """Whose retention holds; empty: the server's setting."""
    gone_ms: int | None
    """Readings that came before are not kept any more."""


class GatewayPages:
    def __init__(
        self,
        *,
        fleet: Fleet,
        telemetry: Store,
        balances: Balances,
        events: Events,
        enrolment: Enrolment,
        clones: Clones,
        policies: Policies,
        clock: Clock,
        renderer: Renderer,
        broadcaster: Broadcaster,
        config_view: ConfigView | None = None,
    ) -> None:
        self._fleet = fleet
        self._telemetry = telemetry
        self._balances = balances
        self._events = events
        self._enrolment = enrolment
        self._clones = clones
        self._policies = policies
        self._clock = clock
        self._renderer = renderer
        self._broadcaster = broadcaster
        self._config_view = config_view

    def routes(self) -> tuple[PageRoute, ...]:
        viewer, admin = Permission.VIEWER, Permission.ADMIN
        return (
            PageRoute(method="GET", path="/gateways/<gateway_id>", view=self.show, permission=viewer),
            PageRoute(method="GET", path="/live/gateways/<gateway_id>", view=self.follow, permission=viewer),
            PageRoute(method="POST", path="/gateways/<gateway_id>/retire", view=self.retire, permission=admin),
            PageRoute(method="POST", path="/gateways/<gateway_id>/release", view=self.release, permission=admin),
        )

    def show(self, visit: Visit, gateway_id: str) -> Response:
        visit.see(gateway_id)
        seen = self._look(gateway_id)
        if seen.standing is None:
            raise NotFound(visit.words.text("There is no gateway %(id)s.", id=gateway_id))
        events = self._events.list(EventQuery(gateway=gateway_id, current=True, limit=EVENTS_SHOWN), visit.viewer).items
        return self._renderer.page(visit, "gateway.html", **_shown(seen), events=events)

    def follow(self, visit: Visit, gateway_id: str) -> Response:
        visit.see(gateway_id)
        if self._fleet.one(gateway_id) is None:
            raise NotFound(visit.words.text("There is no gateway %(id)s.", id=gateway_id))

        def render(seen: Seen) -> str:
            if seen.standing is None:
                return ""
            return self._renderer.fragment(visit.later(seen.now_ms), "gateway_live.html", **_shown(seen))

        subscription = self._broadcaster.subscribe(
            f"gateway {gateway_id}", cursor=self._fleet.cursor, look=lambda: self._look(gateway_id)
        )
        return stream(self._broadcaster, subscription, visit, key=gateway_id, render=render)

    def retire(self, visit: Visit, gateway_id: str) -> Response:
        visit.see(gateway_id)
        self._enrolment.revoke(gateway_id)
        return redirect(path_of("gateways", gateway_id), 303)  # type: ignore[return-value]

    def release(self, visit: Visit, gateway_id: str) -> Response:
        visit.see(gateway_id)
        with contextlib.suppress(Conflict):  # it is released already: that is what was asked for
            self._clones.release(gateway_id, by=visit.viewer.name)
        return redirect(path_of("gateways", gateway_id), 303)  # type: ignore[return-value]

    def _look(self, gateway_id: str) -> Seen:
        now_ms = self._clock.now_ms()
        standing = self._fleet.one(gateway_id)
        with self._telemetry.read() as connection:
            values = latest_values(connection, gateway_id)
            gaps = placed_gaps(connection, gateway_id, from_ms=now_ms - DAY_MS, to_ms=now_ms)
            gone_ms = since(connection, gateway_id).get(READINGS)
        lines = self._balances.lines(gateway_id, from_ms=now_ms - DAY_MS, to_ms=now_ms, limit=LINES_SUMMED)
        panel = self._config_view(gateway_id) if self._config_view is not None else None
        group, keep = self._policies.of(gateway_id)
        return Seen(now_ms, standing, values, gaps, summed(lines), panel, keep, group, gone_ms)


def _shown(seen: Seen) -> dict[str, Any]:
    sensors = [(name, list(some)) for name, some in groupby(seen.values, key=lambda one: one.sensor)]
    return {
        "one": seen.standing,
        "sensors": sensors,
        "gaps": list(reversed(seen.gaps))[:GAPS_SHOWN],
        "more_gaps": max(0, len(seen.gaps) - GAPS_SHOWN),
        "sums": seen.sums,
        "panel": seen.panel,
        "keep": seen.keep,
        "keep_group": seen.keep_group,
        "gone_ms": seen.gone_ms,
        "now_ms": seen.now_ms,
    }
