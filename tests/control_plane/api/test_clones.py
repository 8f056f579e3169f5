"""Releasing a gateway of which two boxes were seen to live."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy import insert

from control_plane.fleet.accounts import Accounts, Role
from control_plane.fleet.clones import Clones
from control_plane.fleet.presence import Fleet, Status, Why
from control_plane.store.engine import Stores
from control_plane.store.tables import clone, gateway
from tests.control_plane.api.editing import Api
from tests.control_plane.conftest import TurnedClock

TRUCK = "gw-truck17aaaa"


@pytest.fixture
def suspected(stores: Stores) -> str:
    """The address at which it is released."""
    with stores.business.write() as connection:
        facts = {"name": "truck", "hardware": "", "serial": "", "signing_key": b"", "created_ms": 1}
        connection.execute(insert(gateway), {"id": TRUCK, **facts})
    with stores.journal.write() as connection:
        connection.execute(insert(clone), {"gateway": TRUCK, "since_ms": 77, "why": "two machines", "hello_id": 1})
    return f"/gateways/{TRUCK}/clone/release"


def test_an_admin_releases_the_suspicion_that_stands_and_only_once(
    admin: Api, stores: Stores, clock: TurnedClock, suspected: str
) -> None:
    clones = Clones(stores=stores, clock=clock)
    assert clones.released(TRUCK) is None
    admin.do("POST", suspected, expect=204)
    assert clones.released(TRUCK) == 77
    assert "released already" in admin.do("POST", suspected, expect=409)["detail"]
    with stores.journal.write() as connection:
        connection.execute(clone.update().values(since_ms=88))  # found again
    admin.do("POST", suspected, expect=204)
    assert clones.released(TRUCK) == 88
    with stores.journal.write() as connection:
        connection.execute(clone.update().values(released_ms=99))
    assert "nothing to release" in admin.do("POST", suspected, expect=409)["detail"]
    admin.do("POST", "/gateways/gw-x/clone/release", expect=404)


def test_nobody_else_does(app: Flask, accounts: Accounts, suspected: str) -> None:
    operator = Api(app.test_client(), accounts.create_token(name="op", role=Role.OPERATOR).token)
    operator.do("POST", suspected, expect=403)


def test_the_fleet_shows_why_nothing_comes(stores: Stores, clock: TurnedClock, suspected: str) -> None:
    fleet = Fleet(stores=stores, clock=clock)
    before = fleet.cursor()
    (one,) = fleet.all()
    assert (one.status, one.why, one.paused_ms) == (Status.OFFLINE, Why.CLONE, 77)
    with stores.journal.write() as connection:
        connection.execute(clone.update().values(released_ms=99))
    (one,) = fleet.all()
    assert (one.why, one.paused_ms) == (Why.NEVER, None)
    assert fleet.cursor() != before
