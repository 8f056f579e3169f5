"""relay.*: business events inserted durably with their outbox rows, and delivered to a signed webhook.

The far side is the ERP stand-in as shipped, in a process of its own: it verifies each signature and keeps every effect,
and what it kept is checked afterwards: one effect per event, each key in order. SQLite, synchronous=FULL; both figures
include every commit. The relay has no other load: `inflight` and the outcome of each event are durable before the next.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from benchmarks.figures import Figure
from control_plane.clock import SystemClock
from control_plane.reconcile.versions import Wanted, settle
from control_plane.relay.connectors.webhook import WebhookConnector, WebhookDestination
from control_plane.relay.deliver import Deliverer
from control_plane.store.engine import Store, Stores

EVENTS = 4_000
KEYS = 200
PER_COMMIT = 50
CONCURRENCY = 32
RUNS = 3
TYPE = "comboio.cold_chain.excursion.closed.v1"


def figures() -> Iterator[Figure]:
    inserted, delivered, violations = [], [], 0
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder, far_side(Path(folder)) as (url, secret_file):
            destination = WebhookDestination(
                name="sink",
                url=f"{url}/webhook",
                secret_file=str(secret_file),
                allow_private=True,
                concurrency=CONCURRENCY,
            )
            with Stores(f"sqlite:///{folder}/database") as stores:
                stores.migrate()
                inserted.append(EVENTS / insert(stores.business, destination))
                delivered.append(EVENTS / asyncio.run(deliver(stores.business, destination)))
            violations += disorder(httpx.get(f"{url}/received", trust_env=False, timeout=60).json())
    yield Figure("relay.outbox", statistics.median(inserted), "events/s", f"SQLite, {PER_COMMIT} per commit")
    remark = f"SQLite, {KEYS} keys, {CONCURRENCY} at once, {violations} order violations, stand-in on the same machine"
    yield Figure("relay.webhook", statistics.median(delivered), "events/s", remark)


def insert(store: Store, destination: WebhookDestination) -> float:
    """Seconds for EVENTS events over KEYS keys, through the reconciler's own way of settling."""
    now_ms = SystemClock().now_ms()
    started = time.perf_counter()
    for first in range(0, EVENTS, PER_COMMIT):
        some = [wanted(number, now_ms) for number in range(first, first + PER_COMMIT)]
        with store.write() as connection:
            settle(connection, wanted=some, standing=[], destinations=[destination], now_ms=now_ms)
    return time.perf_counter() - started


def wanted(number: int, now_ms: int) -> Wanted:
    subject = f"gw-7kq2m9xw4t/box-{number % KEYS:03d}/temperature"
    data = {
        "rule": "cold-chain", "side": "high", "low": 2.0, "high": 8.0, "unit": "Cel", "number": number,
        "opened_at": "2026-11-22T10:00:00.000Z", "closed_at": "2026-11-22T10:20:00.000Z", "duration_s": 1200.0,
        "peak": 11.4, "degree_minutes": 31.125, "observations": 1200, "coverage_pct": 99.9, "max_gap_s": 0.0,
    }  # fmt: skip
    return Wanted(f"{number:036d}", TYPE, subject, now_ms + number, now_ms + number, data, final=True)


async def deliver(store: Store, destination: WebhookDestination) -> float:
    """Seconds until nothing is due any more. Raises ValueError if that is not everything."""
    connector = WebhookConnector(destination)
    relay = Deliverer(store=store, destination=destination, connector=connector, clock=SystemClock())
    started = time.perf_counter()
    try:
        while await relay.step():
            pass
        took = time.perf_counter() - started
    finally:
        await relay.close()
        await connector.close()
    if relay.delivered != EVENTS or relay.attempts != EVENTS:
        raise ValueError(f"{relay.delivered} of {EVENTS} delivered in {relay.attempts} attempts")
    return took


def disorder(received: dict[str, object]) -> int:
    """Effects out of their key's order. Raises ValueError for a missing, doubled or altered one."""
    effects = received["effects"]
    assert isinstance(effects, list)
    if len(effects) != EVENTS or received["repeated"] or received["conflicts"] or received["refused"]:
        raise ValueError(f"{len(effects)} effects, {received['repeated']}, {received['conflicts']}")
    last: dict[str, int] = {}
    violations = 0
    for effect in effects:
        violations += effect["data"]["number"] <= last.get(effect["subject"], -1)
        last[effect["subject"]] = effect["data"]["number"]
    return violations


@contextmanager
def far_side(folder: Path) -> Iterator[tuple[str, Path]]:
    secret_file = folder / "sink.secret"
    command = [sys.executable, "-m", "control_plane", "simulate", "erp", "--secret-file", str(secret_file), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"], secret_file
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
