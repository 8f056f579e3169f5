from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from control_plane.api.app import create_app
from control_plane.api.prometheus.routes import PrometheusApi
from control_plane.fleet.accounts import Accounts, Role
from control_plane.settings import WebSection
from control_plane.store.engine import Stores
from tests.control_plane.api.prometheus.plant import Grafana, grow
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.projections.conftest import Road


@pytest.fixture
def road(stores: Stores, clock: TurnedClock) -> Road:
    return Road(stores, clock)


@pytest.fixture
def plant(road: Road) -> Road:
    """Two hours, not sealed."""
    grow(road, hours=2)
    return road


@pytest.fixture
def days(road: Road) -> Road:
    """Two days, sealed and rolled up but for the last hours."""
    grow(road, hours=46)
    road.seal()
    return road


@pytest.fixture
def app(road: Road, accounts: Accounts, clock: TurnedClock) -> Flask:
    made = PrometheusApi(telemetry=road.stores.telemetry, reader=road.reader(), accounts=accounts, clock=clock)
    return create_app((), accounts=accounts, web=WebSection(), mounts=[made.mount])


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def grafana(client: FlaskClient, accounts: Accounts) -> Grafana:
    return Grafana(client, accounts.create_token(name="grafana", role=Role.VIEWER).token)
