"""The page table: one line per subject; what is not here is not shown."""

from __future__ import annotations

from pathlib import Path

from flask import Response, send_from_directory

from control_plane.api.binding import Permission
from control_plane.api.deliveries import Deliveries
from control_plane.api.events import Events
from control_plane.api.readings import ReadingsRoutes
from control_plane.api.routes import Parts, configuration, gateways
from control_plane.errors import NotFound
from control_plane.fleet.browser_sessions import BrowserSessions
from control_plane.fleet.clones import Clones
from control_plane.fleet.commands import Commands
from control_plane.fleet.presence import Fleet
from control_plane.fleet.search import FleetSearch
from control_plane.projections.balances import Balances
from control_plane.retention.policies import Policies
from control_plane.web.app import Pages
from control_plane.web.charts import ChartData
from control_plane.web.commands import DeviceCommands
from control_plane.web.configuration import configuration_view
from control_plane.web.enrol import EnrolPages
from control_plane.web.events import EventPages
from control_plane.web.fleet import FleetPages
from control_plane.web.gateway import ConfigView, GatewayPages
from control_plane.web.login import Login
from control_plane.web.render import STATIC, Renderer
from control_plane.web.sensor import SensorPages
from control_plane.web.visit import PageRoute, Visit

YEAR_S = 365 * 86_400


def pages(parts: Parts, *, config_view: ConfigView | None = None) -> Pages:
    """`config_view`: what a gateway's configuration panel shows; left out, what the registry knows."""
    config_view = config_view or configuration_view(configuration(parts))
    renderer = Renderer()
    sessions = BrowserSessions(store=parts.stores.business, clock=parts.clock)
    routes = page_routes(parts, sessions=sessions, renderer=renderer, config_view=config_view)
    return Pages(routes, sessions=sessions, renderer=renderer, clock=parts.clock)


def page_routes(
    parts: Parts,
    *,
    sessions: BrowserSessions,
    renderer: Renderer,
    config_view: ConfigView | None,
) -> tuple[PageRoute, ...]:
    stores, clock, web = parts.stores, parts.clock, parts.settings.web
    fleet = Fleet(stores=stores, clock=clock)
    search = FleetSearch(telemetry=stores.telemetry, clock=clock)
    events = Events(store=stores.business)
    readings = ReadingsRoutes(telemetry=stores.telemetry, reader=parts.reader, clock=clock)
    return (
        *StaticFiles(STATIC, renderer).routes(),
        *Login(
            accounts=parts.accounts, sessions=sessions, renderer=renderer, failures_per_minute=web.logins_per_minute
        ).routes(),
        *FleetPages(search=search, clock=clock, renderer=renderer, broadcaster=parts.broadcaster).routes(),
        *GatewayPages(
            fleet=fleet,
            telemetry=stores.telemetry,
            balances=Balances(journal=stores.journal, telemetry=stores.telemetry),
            events=events,
            enrolment=parts.enrolment,
            clones=Clones(stores=stores, clock=clock),
            policies=Policies(business=stores.business, defaults=parts.settings.retention),
            clock=clock,
            renderer=renderer,
            broadcaster=parts.broadcaster,
            config_view=config_view,
        ).routes(),
        *SensorPages(
            fleet=fleet,
            telemetry=stores.telemetry,
            commands=DeviceCommands(commands=Commands(stores=stores, clock=clock)),
            renderer=renderer,
        ).routes(),
        *ChartData(readings=readings).routes(),
        *EventPages(events=events, deliveries=Deliveries(store=stores.business), renderer=renderer).routes(),
        *EnrolPages(
            join_tokens=parts.enrolment.join_tokens,
            gateways=gateways(parts),
            settings=parts.settings,
            renderer=renderer,
        ).routes(),
    )


class StaticFiles:
    """Scripts, styles, the icon: public, and kept by browsers for as long as their address stays."""

    def __init__(self, folder: Path, renderer: Renderer) -> None:
        self._folder = folder
        self._renderer = renderer

    def routes(self) -> tuple[PageRoute, ...]:
        public = Permission.PUBLIC
        return (
            PageRoute(method="GET", path="/static/<path:name>", view=self.file, permission=public),
            PageRoute(method="GET", path="/favicon.ico", view=self.icon, permission=public),
        )

    def file(self, visit: Visit, name: str) -> Response:
        if not self._renderer.known(name):
            raise NotFound(visit.words.text("There is no file %(name)s.", name=name))
        response = send_from_directory(self._folder, name, max_age=YEAR_S)
        response.headers["Cache-Control"] = f"public, max-age={YEAR_S}, immutable"
        return response

    def icon(self, visit: Visit) -> Response:
        return self.file(visit, "favicon.svg")
