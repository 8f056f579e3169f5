"""fleet.list_p99: the fleet through the REST application, 10 000 gateways with 100 sensors each.

Every filter and every order that `GET /gateways` has, in turn, pages of 100 deep in the list among them, as an
administrator and as somebody who was given half of the fleet; between two requests as many gateways say something new
as do in a second, and the worker's index takes it in. Both databases; PostgreSQL where it is installed.

    python -m benchmarks.fleet_list
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import get_args

import numpy as np
from flask.testing import FlaskClient
from sqlalchemy import insert, update

from benchmarks.figures import Figure
from benchmarks.web import GATEWAYS, HEARD_PER_S, fill
from control_plane.api.broadcast import Lifetime
from control_plane.clock import SystemClock
from control_plane.fleet.accounts import Accounts
from control_plane.fleet.index import FleetIndex
from control_plane.fleet.rights import Role
from control_plane.fleet.search import Order
from control_plane.projections.state import ROW, pack
from control_plane.settings import Settings
from control_plane.store.engine import Stores
from control_plane.store.tables import gateway_group, gateway_group_member, presence, state
from control_plane.wiring import create_web
from protos.comboio.v1 import link_pb2 as wire
from tests.postgresql import binaries, cluster

SENSORS = 100
ROUNDS = 4
FILTERS = (
    "status=online",
    "status=late&status=offline",
    "configuration=drifted",
    "group=half",
    "q=truck+gw-000000042",
    "certificate_days=30",
    "backlog=10",
    "clock_err_ms=100",
    "quiet_s=600",
    "version=0.1.0&retired=false",
    "asset=truck-gw-0000004242",
)


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        yield from _of("sqlite", f"sqlite:///{folder}", folder)
    found = binaries()
    if found is None:
        sys.stderr.write("fleet.list_p99.postgresql: PostgreSQL is not installed (apt-get install postgresql)\n")
        return
    with ExitStack() as stack:
        server = stack.enter_context(cluster(found))
        server.run("CREATE DATABASE fleet")
        yield from _of("postgresql", server.url("fleet"), stack.enter_context(tempfile.TemporaryDirectory()))


def _of(kind: str, url: str, folder: str) -> Iterator[Figure]:
    with Stores(url) as stores:
        stores.migrate()
        fill(stores)
        _more(stores)
        index = FleetIndex(stores=stores, clock=SystemClock())
        index.step()
        accounts = Accounts(store=stores.business, clock=SystemClock())
        whole = accounts.create_token(name="all", role=Role.VIEWER).token
        half = accounts.create_token(name="half", role=Role.VIEWER, groups=frozenset({"half"})).token
        settings = Settings(data_dir=folder, database=url) if kind == "postgresql" else Settings(data_dir=folder)
        client = create_web(settings, lifetime=Lifetime()).test_client()
        took, spent, brought = [], [], []
        for number in range(ROUNDS):
            for place, path in enumerate(_paths()):
                brought.append(_said(stores, index, number * 1000 + place))
                for token in (whole, half):
                    began, worked = time.perf_counter(), time.process_time()
                    _asked(client, path, token)
                    took.append((time.perf_counter() - began) * 1000)
                    spent.append((time.process_time() - worked) * 1000)
    took.sort()
    spent.sort()
    p99 = int(0.99 * len(took))
    remark = (
        f"{GATEWAYS} gateways x {SENSORS} sensors, {len(took)} requests of 100 rows, every order and filter, whole and "
        f"half of the fleet; median {took[len(took) // 2]:.0f} ms; CPU of this process p99 {spent[p99]:.0f}, median "
        f"{spent[len(spent) // 2]:.0f} ms; the index takes in a second's {HEARD_PER_S} heartbeats in "
        f"{1000 * sorted(brought)[len(brought) // 2]:.0f} ms of CPU"
    )
    yield Figure(f"fleet.list_p99.{kind}", took[p99], "ms", remark)


def _more(stores: Stores) -> None:
    """What a listing must not read: the values of a hundred sensors; and what makes rows differ."""
    rows = np.zeros(SENSORS, ROW)
    rows["series"] = np.arange(SENSORS)
    with stores.telemetry.write() as connection:
        connection.execute(update(state).values(body=pack(rows)))
    half = [{"slug": "half", "gateway": f"gw-{number:010d}"} for number in range(0, GATEWAYS, 2)]
    with stores.business.write() as connection:
        made = {"slug": "half", "name": "half", "priority": 1, "created_ms": 0}
        connection.execute(insert(gateway_group).values(made))
        connection.execute(insert(gateway_group_member), half)


def _said(stores: Stores, index: FleetIndex, number: int) -> float:
    """A second's heartbeats; CPU seconds of taking them in."""
    beat = wire.Heartbeat(backlog=wire.Backlog(batches=number % 60, bytes=number), clock=wire.ClockState(err_ms=number))
    ids = [f"gw-{(number * HEARD_PER_S + one) % GATEWAYS:010d}" for one in range(HEARD_PER_S)]
    with stores.journal.write() as connection:
        news = {"heard_ms": SystemClock().now_ms(), "heartbeat": beat.SerializeToString()}
        connection.execute(update(presence).where(presence.c.gateway.in_(ids)).values(news))
    worked = time.process_time()
    index.step()
    return time.process_time() - worked


def _paths() -> Iterator[str]:
    for order in get_args(Order):
        yield f"/api/v1/gateways?sort={order}"
        yield f"/api/v1/gateways?sort={order}&falling=true&status=online&status=late"
    for filtered in FILTERS:
        yield f"/api/v1/gateways?{filtered}"


def _asked(client: FlaskClient, path: str, token: str) -> None:
    """One page, and where there is a further one that too is asked for, at its own price, in its own turn."""
    answer = client.get(path, headers={"Authorization": f"Bearer {token}"})
    if answer.status_code != 200:
        raise ValueError(f"{path}: status {answer.status_code}")


if __name__ == "__main__":
    for figure in figures():
        sys.stdout.write(f"{figure}\n")
