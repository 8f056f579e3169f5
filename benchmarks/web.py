"""web.*: what the first page costs a browser, and the server of a large fleet.

`web.js`: every script the fleet page names, as gzip makes it. `web.fleet_p99`: the fleet page of
10 000 gateways, from the request to its last byte, in process, on SQLite, each with presence and certificate. Between
two requests as many gateways say something new as do in a second.
"""

from __future__ import annotations

import gzip
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from flask.testing import FlaskClient
from sqlalchemy import insert, update

from benchmarks.figures import Figure
from control_plane.api.broadcast import Lifetime
from control_plane.clock import SystemClock
from control_plane.fleet.browser_sessions import BrowserSessions
from control_plane.fleet.index import FleetIndex
from control_plane.settings import Settings
from control_plane.store.engine import Stores
from control_plane.store.tables import certificate, gateway, presence, state, user
from control_plane.wiring import create_web
from protos.comboio.v1 import link_pb2 as wire

GATEWAYS = 10_000
REQUESTS = 100
HEARD_PER_S = GATEWAYS // 30
DAY_MS = 86_400_000


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        with Stores(f"sqlite:///{folder}") as stores:
            stores.migrate()
            fill(stores)
            FleetIndex(stores=stores, clock=SystemClock()).step()
            secret = BrowserSessions(store=stores.business, clock=SystemClock()).begin("admin").secret
        client = create_web(Settings(data_dir=folder), lifetime=Lifetime()).test_client()
        client.set_cookie("comboio_session", secret)
        scripts, size = script_bytes(client, client.get("/").text)
        yield Figure("web.js", size / 1000, "KB gz", " + ".join(scripts))
        with Stores(f"sqlite:///{folder}") as stores:
            index = FleetIndex(stores=stores, clock=SystemClock())
            index.step()
            took = sorted(looked(client, stores, index, number) for number in range(REQUESTS))
        remark = f"{GATEWAYS} gateways, {REQUESTS} requests one after another, 200 rows a page"
        yield Figure("web.fleet_p99", took[int(0.99 * REQUESTS)] * 1000, "ms", remark)


def script_bytes(client: FlaskClient, page: str) -> tuple[list[str], int]:
    """The scripts a page names, and their bytes at gzip's level 9. Raises ValueError when they were not built."""
    addresses = re.findall(r'<script[^>]* src="([^"]+)"', page)
    names = [Path(address.partition("?")[0]).name for address in addresses]
    if "htmx.min.js" not in names:
        raise ValueError("the pages' scripts are not there: run make setup")
    return names, sum(len(gzip.compress(client.get(address).data, 9)) for address in addresses)


def looked(client: FlaskClient, stores: Stores, index: FleetIndex, number: int) -> float:
    """Seconds of one look at the fleet, after a second's worth of heartbeats that the worker took in."""
    beat = wire.Heartbeat(backlog=wire.Backlog(batches=1, bytes=50_000 + number), clock=wire.ClockState(err_ms=12))
    some = presence.c.gateway.in_([f"gw-{(number * HEARD_PER_S + one) % GATEWAYS:010d}" for one in range(HEARD_PER_S)])
    with stores.journal.write() as connection:
        news = {"heard_ms": SystemClock().now_ms(), "heartbeat": beat.SerializeToString()}
        connection.execute(update(presence).where(some).values(news))
    index.step()
    return seconds(client, f"/?page={1 + number % 50}")


def seconds(client: FlaskClient, path: str) -> float:
    started = time.perf_counter()
    answer = client.get(path)
    took = time.perf_counter() - started
    if answer.status_code != 200 or answer.text.count('<tr id="row-') != 200:
        raise ValueError(f"{path}: status {answer.status_code}, or not 200 rows")
    return took


def fill(stores: Stores) -> None:
    now = SystemClock().now_ms()
    ids = [f"gw-{number:010d}" for number in range(GATEWAYS)]
    beat = wire.Heartbeat(backlog=wire.Backlog(batches=1, bytes=50_000), clock=wire.ClockState(err_ms=12))
    said = {"connected_ms": now, "heard_ms": now, "version": "0.1.0", "heartbeat": beat.SerializeToString()}
    known = {"hardware": "box", "serial": "1", "signing_key": b"", "created_ms": now}
    with stores.business.write() as connection:
        row = {"name": "admin", "password_hash": "", "role": "admin", "created_ms": now}
        connection.execute(insert(user).values(row))
        rows = [{"id": one, "name": f"truck {one}", "asset": f"truck-{one}", **known} for one in ids]
        connection.execute(insert(gateway), rows)
        issued = [{"serial": one, "gateway": one, "not_after_ms": now + 90 * DAY_MS, "issued_ms": now} for one in ids]
        connection.execute(insert(certificate), issued)
    with stores.journal.write() as connection:
        connection.execute(insert(presence), [{"gateway": one, "session": 1, **said} for one in ids])
    with stores.telemetry.write() as connection:
        held = {"epoch": 1, "updated_ms": now, "readings": 5, "body": b"\0\0\0\0"}
        connection.execute(insert(state), [{"gateway": one, **held} for one in ids])
