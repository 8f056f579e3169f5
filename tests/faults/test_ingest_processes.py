"""Two ingest processes on one port under a simulated fleet: killed in turn, with a slow disk, and when gateways go."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select

from control_plane.clock import SystemClock
from control_plane.fleet.authority import Authority
from control_plane.fleet.enrolment import Enrolment
from control_plane.simulators.fleet import Fleet, Plan, balance
from control_plane.simulators.fleet_members import local
from control_plane.store.engine import Stores
from control_plane.store.tables import batch, presence
from tests.control import Up, running
from tests.faults.storage import shim

GATEWAYS = 24
PATIENCE_S = 90.0
SLOW_MS = 1500
HERE = Path(__file__).parent


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@contextmanager
def at_work(up: Up, folder: Path, *, interval_s: float = 0.3) -> Iterator[Fleet]:
    """A fleet in a thread of its own, measuring until the block ends and then until everything is answered."""
    members, ca = local(GATEWAYS, data_dir=up.data_dir, database=up.database, folder=folder, name="load")
    host, _, port = str(up.announced["grpc"]).rpartition(":")
    plan = Plan(seconds=600, settle_s=PATIENCE_S, batch_s=1, interval_s=interval_s)
    fleet = Fleet(members, plan=plan, address=(host, int(port)), ca=ca)
    thread = threading.Thread(target=fleet.run, name="fleet")
    thread.start()
    try:
        yield fleet
    finally:
        fleet.stop()
        thread.join()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("two") / "control"
    folder.mkdir()
    (folder / "control.toml").write_text("[ingest]\nprocesses = 2\n")
    with running(folder) as up:
        yield up


def servers(up: Up) -> set[str]:
    """The processes that gateways are connected to."""
    with Stores(up.database) as stores, stores.journal.read() as connection:
        return set(connection.execute(select(presence.c.server).where(presence.c.left_ms.is_(None))).scalars())


def journalled(up: Up) -> int:
    """Batches, each once: (gateway, epoch, lane, seq) is unique."""
    with Stores(up.database) as stores, stores.journal.read() as connection:
        return len(connection.execute(select(batch.c.id)).all())


def test_a_killed_ingest_process_costs_no_acknowledged_batch_and_its_gateways_come_back(
    two: Up, tmp_path: Path
) -> None:
    there = journalled(two)
    with at_work(two, tmp_path) as fleet:
        until(lambda: fleet.tally.acked > GATEWAYS, "nothing was acknowledged")
        assert len(servers(two)) == 2
        for role in ("ingest-2", "ingest"):
            before, acked = two.pids()[role], fleet.tally.acked
            os.kill(before, signal.SIGKILL)
            until(lambda role=role, before=before: two.pids()[role] != before, f"{role} was not started again")  # type: ignore[misc]
            until(lambda acked=acked: fleet.tally.acked > acked + 5 * GATEWAYS, "gateways did not come back")  # type: ignore[misc]
    found = balance(fleet)
    assert found["balanced"], found
    assert fleet.story.connections > GATEWAYS, "the kills cut nobody off"
    assert journalled(two) - there == found["acknowledged"] == found["made"]


def test_gateways_that_are_revoked_lose_their_streams_in_every_process(two: Up, tmp_path: Path) -> None:
    with at_work(two, tmp_path) as fleet:
        until(lambda: fleet.tally.acked > GATEWAYS, "nothing was acknowledged")
        assert len(servers(two)) == 2
        with Stores(two.database) as stores:
            enrolment = Enrolment(stores=stores, authority=Authority.open(two.data_dir), clock=SystemClock())
            for box in fleet.boxes[1:]:
                enrolment.revoke(box.gateway)
        until(lambda: fleet.story.goodbyes.get("revoked", 0) >= GATEWAYS - 1, "a revoked stream went on")
        acked = [box.tally.acked for box in fleet.boxes]
        until(lambda: fleet.boxes[0].tally.acked > acked[0] + 5, "the gateway that was not revoked was cut off")
        assert [box.tally.acked for box in fleet.boxes[1:]] == acked[1:], "a revoked gateway was let in again"
        for box in fleet.boxes[1:]:
            box.suspended = True  # nobody will answer it


def test_a_disk_that_takes_seconds_delays_acks_and_ends_no_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = shim.compiler()
    if compiler is None:
        if os.environ.get("CI"):
            pytest.fail("there is no C compiler and CI is set")
        pytest.skip("there is no C compiler (apt-get install gcc libc6-dev)")
    library, switch = tmp_path / "slow.so", tmp_path / "slow"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(HERE / "slow_disk.c"), "-ldl"], check=True)
    with ExitStack() as stack:
        with monkeypatch.context() as only_for_the_server:
            only_for_the_server.setenv("LD_PRELOAD", str(library))
            only_for_the_server.setenv("SLOW_DISK_SWITCH", str(switch))
            only_for_the_server.setenv("SLOW_DISK_MS", str(SLOW_MS))
            up = stack.enter_context(running(tmp_path / "control"))
        with at_work(up, tmp_path) as fleet:
            until(lambda: fleet.tally.acked > GATEWAYS, "nothing was acknowledged")
            connections = fleet.story.connections
            switch.touch()
            began, acked = time.monotonic(), fleet.tally.acked
            until(lambda: fleet.tally.acked > acked + 10 * GATEWAYS, "nothing was acknowledged on a slow disk")
            assert time.monotonic() - began > SLOW_MS / 1000, "the disk was not slow"
            switch.unlink()
        found = balance(fleet)
        assert found["balanced"], found
        assert (fleet.story.connections, fleet.story.goodbyes) == (connections, {})
        assert journalled(up) == found["acknowledged"] == found["made"]
