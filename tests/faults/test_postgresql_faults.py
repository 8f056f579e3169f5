"""PostgreSQL that is killed in the middle of commits, restarted under load, and held up by a forgotten reader."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from control_plane.store.engine import Stores
from control_plane.store.leases import leases_of
from control_plane.store.tables import STORES, gap, integrity
from control_plane.worker import Duty, Loop, threaded, work
from tests.effort import tries
from tests.faults.cards import Card, Fleet
from tests.faults.far_end import GATEWAY, FarEnd, far_end
from tests.gateway.uplink.plane import until
from tests.postgresql import Mortal, binaries, mortal

PATIENCE_S = 90.0


@pytest.fixture
def server() -> Iterator[Mortal]:
    found = binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed")
    with mortal(found) as started:
        yield started


@contextlib.asynccontextmanager
async def projecting(stores: Stores, fleet: Fleet) -> AsyncIterator[None]:
    """As the worker does it: under a lease, with a projector made anew whenever that was lost."""

    def loops(held: Stores) -> list[Loop]:
        fleet.stores = held
        fleet.restart_worker()
        return [Loop("projections", threaded(fleet.projector.step))]

    stop = threading.Event()
    leases = leases_of(stores, holder="worker/test/1/one")
    duties = [Duty("projections", loops)]
    task = asyncio.create_task(work([], duties=duties, leases=leases, stop=stop, ready=lambda: None))
    try:
        yield
    finally:
        stop.set()
        await task
        fleet.stores = stores


@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["killed", "restarted"])
async def test_nothing_acknowledged_is_lost_and_nothing_comes_twice(server: Mortal, tmp_path: Path, how: str) -> None:
    rng = random.Random(7)
    with Stores(server.cluster.new_database()) as stores:
        stores.migrate()
        fleet = Fleet(stores)
        card = await Card(fleet, tmp_path / "card").open()
        over = asyncio.Event()

        async def produce() -> None:
            while not over.is_set():
                await card.sealed(1)
                await asyncio.sleep(0.01)

        async with far_end(stores, tmp_path) as plane, projecting(stores, fleet), card.linked(plane) as link:
            await until(lambda: link.health.connected, within_s=PATIENCE_S)
            producing = asyncio.create_task(produce())
            for _ in range(tries(2)):
                await until(partial(_more, plane, plane.journal.commits + 3), within_s=PATIENCE_S)
                await asyncio.sleep(rng.uniform(0.0, 0.05))  # somewhere in a commit
                await asyncio.to_thread(server.kill if how == "killed" else server.stop)
                await asyncio.sleep(rng.uniform(0.0, 0.3))
                await asyncio.to_thread(server.start)
            over.set()
            await producing
            async with asyncio.timeout(PATIENCE_S):
                while await card.waiting():
                    await asyncio.sleep(0.05)
            want = fleet.once(*range(1, fleet.produced + 1))
            await until(lambda: _arrived(stores) == want, within_s=PATIENCE_S)
        await card.close()
        assert fleet.produced > 20
        with stores.telemetry.read() as connection:
            assert connection.execute(select(gap)).all() == []
            assert connection.execute(select(integrity)).all() == []


def _more(plane: FarEnd, commits: int) -> bool:
    return plane.journal.commits > commits


def _arrived(stores: Stores) -> object:
    """What the worker projected; not by this test's own hand."""
    with contextlib.suppress(SQLAlchemyError):
        looking = Fleet(stores)
        looking.projector.step = lambda: False  # type: ignore[method-assign]
        return looking.arrived(GATEWAY)
    return None


async def test_a_reader_that_forgets_to_end_holds_nobody_up(server: Mortal, tmp_path: Path) -> None:
    with Stores(server.cluster.new_database()) as stores:
        stores.migrate()
        fleet = Fleet(stores)
        card = await Card(fleet, tmp_path / "card").open()
        with contextlib.ExitStack() as forgotten:
            for store in stores.all():
                connection = forgotten.enter_context(store.read(snapshot=True))
                for table in STORES[store.name].sorted_tables:
                    connection.execute(select(table).limit(1)).all()
            async with far_end(stores, tmp_path) as plane:
                await card.sealed(5)
                await card.online(plane)
            async with projecting(stores, fleet):
                want = fleet.once(*range(1, 6))
                await until(lambda: _arrived(stores) == want, within_s=PATIENCE_S)
        await card.close()
