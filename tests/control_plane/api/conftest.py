from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from control_plane.api.app import create_app
from control_plane.api.binding import Route
from control_plane.api.broadcast import Broadcaster, Lifetime
from control_plane.api.routes import Parts, routes
from control_plane.fleet.accounts import Accounts, Role
from control_plane.fleet.authority import Authority
from control_plane.fleet.enrolment import Enrolment
from control_plane.projections.reading import HistoryReader
from control_plane.settings import Settings, WebSection
from control_plane.store.engine import Stores
from tests.control_plane.api.editing import Api
from tests.control_plane.conftest import TurnedClock

WEB = WebSection(max_request_bytes=1024, logins_per_minute=3, streams=2)


@pytest.fixture
def lifetime() -> Lifetime:
    return Lifetime()


@pytest.fixture
def broadcaster(lifetime: Lifetime, last_look: None) -> Broadcaster:
    return Broadcaster(limit=WEB.streams, lifetime=lifetime)


@pytest.fixture
def table(
    stores: Stores,
    clock: TurnedClock,
    authority: Authority,
    accounts: Accounts,
    enrolment: Enrolment,
    tmp_path: Path,
    broadcaster: Broadcaster,
) -> tuple[Route, ...]:
    settings = Settings(data_dir=str(tmp_path), grpc="127.0.0.1:8444", identity="127.0.0.1:8445", web=WEB)
    parts = Parts(
        settings=settings,
        stores=stores,
        clock=clock,
        authority=authority,
        accounts=accounts,
        enrolment=enrolment,
        reader=HistoryReader(journal=stores.journal, telemetry=stores.telemetry),
        broadcaster=broadcaster,
    )
    return routes(parts)


@pytest.fixture
def app(table: tuple[Route, ...], accounts: Accounts, stores: Stores) -> Flask:
    return create_app(table, accounts=accounts, web=WEB, shared=stores.business)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def bearer(accounts: Accounts) -> dict[str, dict[str, str]]:
    """Headers per role."""
    return {
        role.word: {"Authorization": f"Bearer {accounts.create_token(name='test', role=role).token}"} for role in Role
    }


@pytest.fixture
def admin(client: FlaskClient, accounts: Accounts) -> Api:
    return Api(client, accounts.create_token(name="root", role=Role.ADMIN).token)
