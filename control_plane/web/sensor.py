"""One sensor: its quantities over time, and setting those that may be set."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
from flask import Response, redirect

from control_plane.api.binding import Permission, query_of
from control_plane.errors import NotFound
from control_plane.fleet.presence import Fleet, Standing
from control_plane.projections.latest import LatestValue, latest_values
from control_plane.store.engine import Store
from control_plane.web import sentences
from control_plane.web.commands import DeviceCommands, under_way
from control_plane.web.render import Renderer
from control_plane.web.visit import PageRoute, Visit, path_of
from control_plane.web.words import Words

RANGES = ("15m", "1h", "6h", "24h", "7d", "30d", "90d")
RANGE = re.compile(r"(\d{1,3})([mhd])")
SECONDS = {"m": 60, "h": 3600, "d": 86_400}


class SensorQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A stretch that ends now, or a fixed one."""

    range: str = "1h"
    from_: datetime | None = None
    to: datetime | None = None


class SensorPages:
    def __init__(self, *, fleet: Fleet, telemetry: Store, commands: DeviceCommands, renderer: Renderer) -> None:
        self._fleet = fleet
        self._commands = commands
        self._telemetry = telemetry
        self._renderer = renderer

    def routes(self) -> tuple[PageRoute, ...]:
        path = "/gateways/<gateway_id>/sensors/<path:sensor>"
        last = "/gateways/<gateway_id>/commands/<path:sensor>"
        return (
            PageRoute(method="GET", path=path, view=self.show, permission=Permission.VIEWER),
            PageRoute(method="POST", path=path, view=self.set, permission=Permission.OPERATOR),
            PageRoute(method="GET", path=last, view=self.last, permission=Permission.VIEWER),
        )

    def set(self, visit: Visit, gateway_id: str, sensor: str) -> Response:
        """Write one value to the device."""
        one, values = self._found(visit, gateway_id, sensor)
        problem = self._commands.ask(visit, gateway_id, sensor, values)
        if problem:
            return self._page(visit, one, sensor, values, SensorQuery(), problem=problem)
        return redirect(path_of("gateways", gateway_id, "sensors", sensor) + "#commands", 303)  # type: ignore[return-value]

    def last(self, visit: Visit, gateway_id: str, sensor: str) -> Response:
        """The list of last commands, asked for again while one is under way."""
        one, _ = self._found(visit, gateway_id, sensor)
        last = self._commands.last(visit, gateway_id, sensor)
        return self._renderer.page(
            visit, "sensor_commands.html", one=one, sensor=sensor, last=last, waiting=under_way(last)
        )

    def show(self, visit: Visit, gateway_id: str, sensor: str) -> Response:
        query = query_of(visit.request, SensorQuery)
        one, values = self._found(visit, gateway_id, sensor)
        return self._page(visit, one, sensor, values, query)

    def _found(self, visit: Visit, gateway_id: str, sensor: str) -> tuple[Standing, list[LatestValue]]:
        visit.see(gateway_id)
        one = self._fleet.one(gateway_id)
        if one is None:
            raise NotFound(visit.words.text("There is no gateway %(id)s.", id=gateway_id))
        with self._telemetry.read() as connection:
            values = [value for value in latest_values(connection, gateway_id) if value.sensor == sensor]
        if not values:
            raise NotFound(visit.words.text("This gateway has declared no sensor %(name)s.", name=sensor))
        return one, values

    def _page(
        self,
        visit: Visit,
        one: Standing,
        sensor: str,
        values: list[LatestValue],
        query: SensorQuery,
        *,
        problem: str = "",
    ) -> Response:
        last = self._commands.last(visit, one.id, sensor)
        chosen = query.range if query.range in RANGES else "1h"
        return self._renderer.page(
            visit,
            "sensor.html",
            status=422 if problem else 200,
            problem=problem,
            forms=self._commands.forms(visit, values),
            last=last,
            waiting=under_way(last),
            one=one,
            sensor=sensor,
            values=values,
            ranges=[(name, range_words(visit.words, name)) for name in RANGES],
            chosen="" if query.from_ else chosen,
            fixed=(query.from_, query.to) if query.from_ and query.to else None,
            span_s=seconds(chosen),
            chart_words=chart_words(visit.words),
            now_ms=visit.now_ms,
        )


def seconds(name: str) -> int:
    number, letter = RANGE.fullmatch(name).groups()  # type: ignore[union-attr]
    return int(number) * SECONDS[letter]


def range_words(words: Words, name: str) -> str:
    number, letter = int(name[:-1]), name[-1]
    if letter == "d":
        return words.plural("%(n)s day", "%(n)s days", number)
    return f"{number} h" if letter == "h" else f"{number} min"


def chart_words(words: Words) -> dict[str, Any]:
    """What the chart's script says, in the visitor's language."""
    _ = words.text
    return {
        "coverage": _("Coverage"),
        "clock": _("clock error"),
        "each": _("each point"),
        "raw": _("every reading"),
        "lost": _("Lost"),
        "min": _("lowest"),
        "max": _("highest"),
        "mean": _("mean"),
        "value": _("value"),
        "time": _("time"),
        "count": _("readings"),
        "quality": _("quality"),
        "nothing": _("Nothing was measured in this stretch. Choose a longer one."),
        "failed": _("The readings could not be loaded. They are tried again in a moment."),
        "ended": _("Your session has ended. Sign in again."),
        "reasons": sentences.gap_reasons(words),
        "good": _("good"),
        "qualities": {
            "uncertain": _("uncertain"),
            "bad_comm": _("the device did not answer"),
            "bad_sensor": _("the device reports a fault of its sensor"),
            "out_of_range": _("outside what the sensor can measure"),
            "stale": _("an old value, repeated"),
            "substituted": _("a substitute, not measured"),
        },
    }
