"""Duties: done by one worker at a time, and begun anew by whoever takes over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import func, select, update

from control_plane import worker as module
from control_plane.journal.journal import BatchEntry, LaneMark
from control_plane.journal.sql import SqlJournal
from control_plane.store.engine import Stores
from control_plane.store.leases import leases_of
from control_plane.store.tables import PROJECTED, cursor, lease
from control_plane.store.upsert import upsert
from control_plane.worker import LOOK_EVERY_S, MANY_WAITING, Behind, Duty, Loop, threaded, work
from protos.comboio.v1 import batch_pb2 as pb
from tests.control_plane.sealing import EPOCH, GATEWAY, batch, hello
from tests.gateway.uplink.plane import until

PATIENCE_S = 60.0


class Counting:
    """A duty that keeps its count in memory, as projections do, and writes each number once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.builds = self.steps = 0
        self.stop = threading.Event()

    def loops(self, held: Stores) -> list[Loop]:
        self.builds += 1
        with held.telemetry.read() as connection:
            position = [connection.execute(select(func.max(cursor.c.position))).scalar_one() or 0]

        def step() -> bool:
            self.steps += 1
            position[0] += 1
            row = {"name": f"{position[0]:08}/{self.name}", "position": position[0]}
            with held.telemetry.write() as connection:
                upsert(connection, cursor, [row])
            return False

        return [Loop("counting", threaded(step), idle_s=0.02)]

    @asynccontextmanager
    async def working(self, stores: Stores) -> AsyncIterator[asyncio.Task[None]]:
        leases = leases_of(stores, holder=self.name, life_s=1.5)
        duties = [Duty("counting", self.loops)]
        task = asyncio.create_task(work([], duties=duties, leases=leases, stop=self.stop, ready=lambda: None))
        try:
            yield task
        finally:
            self.stop.set()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_EVERY_S", 0.1)
    monkeypatch.setattr(module, "RENEW_S", 0.2)


def numbers(stores: Stores) -> list[int]:
    with stores.telemetry.read() as connection:
        return list(connection.execute(select(cursor.c.position).order_by(cursor.c.position)).scalars())


@pytest.mark.usefixtures("quick")
async def test_the_second_worker_waits_and_goes_on_where_the_first_one_ended(stores: Stores) -> None:
    one, other = Counting("one"), Counting("other")
    async with one.working(stores):
        await until(lambda: one.steps > 3, within_s=PATIENCE_S)
        async with other.working(stores):
            await until(lambda: one.steps > 8, within_s=PATIENCE_S)
            assert other.builds == 0
            one.stop.set()
            await until(lambda: other.steps > 3, within_s=PATIENCE_S)
    found = numbers(stores)
    assert found == list(range(1, len(found) + 1))  # none twice, none left out


@pytest.mark.usefixtures("quick")
async def test_whoever_lost_the_lease_writes_nothing_more_and_begins_anew_when_it_is_back(stores: Stores) -> None:
    if stores.business.sqlite:
        pytest.skip("a file's lock can't be lost")
    one = Counting("one")
    async with one.working(stores):
        await until(lambda: one.steps > 3, within_s=PATIENCE_S)
        with stores.business.write() as connection:  # as if another one had taken over and was killed
            connection.execute(update(lease).values(fence=lease.c.fence + 1, until_ms=0))
        await until(lambda: one.builds == 2, within_s=PATIENCE_S)
        steps = one.steps
        await until(lambda: one.steps > steps + 3, within_s=PATIENCE_S)
    found = numbers(stores)
    assert found == list(range(1, len(found) + 1))


@pytest.mark.usefixtures("quick")
async def test_a_database_that_does_not_answer_for_a_while_costs_nothing(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Counting("one")
    leases: Any = leases_of(stores, holder="one")
    broken = [True]

    class Unsteady:
        def __getattr__(self, name: str) -> Any:
            return getattr(leases, name)

        def renew(self, held: Any) -> bool:
            if broken[0]:
                raise ConnectionError("no route to host")
            return bool(leases.renew(held))

    duties = [Duty("counting", one.loops)]
    task = asyncio.create_task(work([], duties=duties, leases=Unsteady(), stop=one.stop, ready=lambda: None))
    await until(lambda: one.steps > 20, within_s=PATIENCE_S)
    broken[0] = False
    await until(lambda: one.steps > 30, within_s=PATIENCE_S)
    one.stop.set()
    await task
    assert one.builds == 1


def test_sealing_steps_back_while_many_batches_wait_to_be_projected(stores: Stores) -> None:
    now_s, fleet = [0.0], SqlJournal(stores.journal)
    behind = Behind(journal=stores.journal, telemetry=stores.telemetry, monotonic_s=lambda: now_s[0])
    step = behind.looking(lambda: False)
    session = fleet.open_session(GATEWAY, hello(), now_ms=1).session
    mark = LaneMark(GATEWAY, EPOCH, pb.TELEMETRY, 1, (), 1)
    waiting = MANY_WAITING + 1
    fleet.commit([BatchEntry(GATEWAY, session, batch(seq + 1, 7), 1, mark) for seq in range(waiting)])
    step()
    assert behind()
    with stores.telemetry.write() as connection:
        upsert(connection, cursor, [{"name": PROJECTED, "position": waiting}])
    step()
    assert behind(), "it looks now and then only"
    now_s[0] += LOOK_EVERY_S
    step()
    assert not behind()
