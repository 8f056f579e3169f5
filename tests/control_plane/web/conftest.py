from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from control_plane.api.app import create_app
from control_plane.api.broadcast import Broadcaster, Lifetime
from control_plane.api.routes import Parts, routes
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.authority import Authority
from control_plane.fleet.browser_sessions import BrowserSessions
from control_plane.fleet.enrolment import Enrolment
from control_plane.fleet.index import FleetIndex
from control_plane.projections.reading import HistoryReader
from control_plane.settings import Settings, WebSection
from control_plane.store.engine import Stores
from control_plane.web.app import SESSION
from control_plane.web.pages import pages
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.web.browsing import Browser
from tests.control_plane.web.seeding import Seeds

WEB = WebSection(max_request_bytes=4096, logins_per_minute=3, streams=2)


@pytest.fixture
def parts(
    stores: Stores,
    clock: TurnedClock,
    authority: Authority,
    accounts: Accounts,
    enrolment: Enrolment,
    tmp_path: Path,
    lifetime: Lifetime,
    last_look: None,
) -> Parts:
    return Parts(
        settings=Settings(data_dir=str(tmp_path), web=WEB),
        stores=stores,
        clock=clock,
        authority=authority,
        accounts=accounts,
        enrolment=enrolment,
        reader=HistoryReader(journal=stores.journal, telemetry=stores.telemetry),
        broadcaster=Broadcaster(limit=WEB.streams, lifetime=lifetime),
    )


@pytest.fixture
def lifetime() -> Lifetime:
    return Lifetime()


@pytest.fixture
def app(parts: Parts) -> Flask:
    mount = pages(parts).mount
    made = create_app(routes(parts), accounts=parts.accounts, web=WEB, mounts=[mount])
    index = FleetIndex(stores=parts.stores, clock=parts.clock)

    @made.before_request
    def the_worker_keeps_up() -> None:
        index.step()

    return made


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def anybody(client: FlaskClient) -> Browser:
    """Not signed in."""
    return Browser(client)


@pytest.fixture
def sessions(parts: Parts) -> BrowserSessions:
    return BrowserSessions(store=parts.stores.business, clock=parts.clock)


@pytest.fixture
def admin(app: Flask, accounts: Accounts, sessions: BrowserSessions) -> Browser:
    accounts.ensure_admin()
    client = app.test_client()
    client.set_cookie(SESSION, sessions.begin("admin").secret)
    return Browser(client)


@pytest.fixture
def seeds(stores: Stores, clock: TurnedClock) -> Seeds:
    made = Seeds(stores, clock)
    made.fill()
    made.connect()
    return made
