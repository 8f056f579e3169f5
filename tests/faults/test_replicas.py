"""Several workers on one PostgreSQL: frozen beyond its lease, killed, and always each batch projected once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from control_plane.clock import SystemClock
from control_plane.fleet.departed import PREFIX, WHY, Departed
from control_plane.journal.journal import PresenceEntry
from control_plane.journal.sql import SqlJournal
from control_plane.lifeline import command
from control_plane.store.engine import Stores
from control_plane.store.leases import Alive
from control_plane.store.tables import lease, presence, quarantine, state
from tests.control import PROGRAM, ROOT
from tests.control_plane.conftest import TurnedClock
from tests.control_plane.projections.conftest import Road
from tests.control_plane.sealing import GATEWAY, batch, hello
from tests.effort import tries
from tests.postgresql import Cluster

PATIENCE_S = 100.0


def until(true: Callable[[], object], what: str) -> float:
    """Seconds it took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < PATIENCE_S, what
        time.sleep(0.05)
    return time.monotonic() - begun


@contextmanager
def worker(data: Path, database: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command(*PROGRAM, "worker", "--data-dir", str(data), "--database", database), cwd=ROOT, stderr=errors
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(30)


class Load:
    """Batches written to the journal, and what the projections made of them."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.road = Road(stores, TurnedClock())
        self.road.declare()
        self.sent = 0

    def more(self, count: int = 20) -> None:
        first = self.sent + 1
        self.road.arrive(*(batch(seq, seq, at_ms=1000 * seq) for seq in range(first, first + count)))
        self.sent += count

    def projected(self) -> int:
        with self.stores.telemetry.read() as connection:
            return connection.execute(select(state.c.readings)).scalar_one_or_none() or 0

    def holder(self, name: str = "projections") -> int:
        """The pid of who has the lease."""
        with self.stores.business.read() as connection:
            found = connection.execute(select(lease.c.holder).where(lease.c.name == name)).scalar_one_or_none()
        return int(found.split("/")[2]) if found else 0


def _lost(log: Path) -> bool:
    return "lease.lost" in log.read_text()


@pytest.mark.timeout(600)
def test_a_frozen_worker_is_replaced_and_does_not_write_when_it_wakes_up_and_a_killed_one_is_replaced_too(
    postgresql: Cluster, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    database = postgresql.new_database()
    with Stores(database) as stores:
        stores.migrate()
        load = Load(stores)
        logs = [tmp_path / "a.log", tmp_path / "b.log"]
        with worker(tmp_path, database, logs[0]) as a, worker(tmp_path, database, logs[1]) as b:
            log_of = {a.pid: logs[0], b.pid: logs[1]}
            load.more()
            until(lambda: load.projected() == load.sent, "nobody projects")
            for _ in range(tries(1)):
                frozen = load.holder()
                os.kill(frozen, signal.SIGSTOP)
                load.more()
                took_s = until(lambda: load.projected() == load.sent, "nobody took over from the frozen one")
                record_property("takeover_s", round(took_s, 1))
                assert load.holder() in log_of.keys() - {frozen}
                os.kill(frozen, signal.SIGCONT)
                load.more()
                told = log_of[frozen]
                until(partial(_lost, told), "the one that woke up did not notice")
                until(lambda: load.projected() == load.sent, "projections stopped")
            killed = load.holder()
            os.kill(killed, signal.SIGKILL)
            load.more()
            until(lambda: load.projected() == load.sent, "nobody took over from the killed one")
        assert load.projected() == load.sent
        with stores.telemetry.read() as connection:
            assert connection.execute(select(quarantine)).all() == []
        assert load.road.lane()[0] == load.sent


def test_gateways_of_an_ingest_that_was_killed_are_offline_until_another_one_has_them(stores: Stores) -> None:
    if stores.business.sqlite:
        pytest.skip("several ingests share PostgreSQL only")
    now_ms = SystemClock().now_ms()
    one, other = "one", "other"
    first, second = SqlJournal(stores.journal, server=one), SqlJournal(stores.journal, server=other)
    alive = Alive(stores.business)
    for name in (one, other):
        alive.say(PREFIX + name)
    moved, stayed = "gw-moved", "gw-stayed"
    old = first.open_session(moved, hello(), now_ms=now_ms)
    first.open_session(stayed, hello(), now_ms=now_ms)
    second.open_session(GATEWAY, hello(), now_ms=now_ms)
    second.open_session(moved, hello(), now_ms=now_ms)
    # The one it left is fenced off: what it still says of it is not written.
    said = PresenceEntry(moved, old.session, now_ms, left_ms=now_ms, why="the connection broke")
    assert first.commit([said]).fenced == {(moved, old.session)}

    departed = Departed(stores)
    departed.step()
    assert open_ones(stores) == {moved, stayed, GATEWAY}
    with stores.business.write() as connection:  # it is dead, and nobody heard of it for a while
        connection.execute(lease.update().where(lease.c.name == PREFIX + one).values(until_ms=now_ms + 1000 - 12_000))
    departed.step()
    assert open_ones(stores) == {moved, GATEWAY}
    with stores.journal.read() as connection:
        assert connection.execute(select(presence.c.why).where(presence.c.gateway == stayed)).scalar_one() == WHY
    second.open_session(stayed, hello(), now_ms=now_ms)
    departed.step()
    assert open_ones(stores) == {moved, stayed, GATEWAY}
    first.everyone_left(now_ms=now_ms, why="this server was not running")  # it starts again: none of these is its own
    assert open_ones(stores) == {moved, stayed, GATEWAY}


def open_ones(stores: Stores) -> set[str]:
    with stores.journal.read() as connection:
        return set(connection.execute(select(presence.c.gateway).where(presence.c.left_ms.is_(None))).scalars())
