"""Storages that are put back, copied and damaged, a server that is restored: each reading arrives once, or in a gap.

Real buffers and a real ingest over mutual TLS; values are compared in history.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from control_plane.clock import SystemClock
from control_plane.errors import Conflict
from control_plane.fleet.clones import Clones
from control_plane.ingest import service
from control_plane.store.engine import Stores
from control_plane.store.tables import clone, gateway, hello, known
from protos.comboio.v1 import batch_pb2 as pb
from tests.faults.cards import Card, Fleet
from tests.faults.far_end import GATEWAY, FarEnd, far_end
from tests.gateway.uplink.plane import until

SECOND = "gw-bbbbbbbbbb"


@pytest.fixture
async def plane(stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FarEnd]:
    monkeypatch.setattr(service, "CLONE_RETURN_MS", 50)
    async with far_end(stores, tmp_path) as end:
        yield end


@pytest.fixture
def fleet(stores: Stores) -> Fleet:
    return Fleet(stores)


def count(stores: Stores, table: Any) -> int:
    with stores.journal.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


async def test_an_image_of_last_week_put_back(fleet: Fleet, plane: FarEnd, stores: Stores, tmp_path: Path) -> None:
    card = await Card(fleet, tmp_path / "card").open()
    await card.sealed(3)
    await card.online(plane)
    await card.sealed(3)
    await card.unsealed()
    image = card.image("image")
    await card.sealed(3)
    await card.online(plane)  # what waited when the image was taken is delivered by the first life
    await card.close()
    epoch = card.buffer.opening.epoch

    await image.open()
    await image.sealed(3)
    waited = await image.waiting()
    await image.online(plane)
    assert image.buffer.opening.epoch != epoch
    assert waited > 3
    assert count(stores, known) >= 3  # they came again, and are stored once
    await image.sealed(2)
    await image.online(plane)
    await image.close()

    assert fleet.arrived(GATEWAY) == fleet.once(*range(1, fleet.produced + 1))
    assert fleet.gaps() == []
    assert fleet.alerts() == ["epoch"]


async def test_a_store_put_back_twice(fleet: Fleet, plane: FarEnd, tmp_path: Path) -> None:
    card = await Card(fleet, tmp_path / "card").open()
    await card.sealed(2)
    await card.online(plane)
    await card.sealed(4)
    images = [card.image("first"), card.image("second")]
    await card.close()
    for _ in range(2):
        await card.open()
        await card.online(plane)
        await card.close()
    for image in images:
        await image.open()
        await image.sealed(2)
        await image.online(plane)
        await image.close()
    assert len({card.buffer.opening.epoch, *(one.buffer.opening.epoch for one in images)}) == 3
    assert fleet.arrived(GATEWAY) == fleet.once(*range(1, fleet.produced + 1))
    assert fleet.gaps() == []


async def test_a_store_put_back_and_started_often_before_it_comes_back(
    fleet: Fleet, plane: FarEnd, tmp_path: Path
) -> None:
    """Its opens and numbers are above what the server knows: only the sessions tell."""
    card = await Card(fleet, tmp_path / "card").open()
    await card.sealed(2)
    await card.online(plane)
    image = card.image("image")
    await card.sealed(1)
    await card.online(plane)
    await card.close()
    for _ in range(3):
        await image.open()
        await image.sealed(2)
        await image.close()
    await image.open()
    await image.online(plane)
    await image.close()
    assert fleet.arrived(GATEWAY) == fleet.once(*range(1, fleet.produced + 1))
    assert fleet.alerts() == ["epoch"]


async def test_two_boxes_from_one_image(fleet: Fleet, plane: FarEnd, stores: Stores, tmp_path: Path) -> None:
    clones = Clones(stores=stores, clock=SystemClock())
    plane.released.append(clones.released)
    with stores.business.write() as connection:
        facts = {"name": "", "hardware": "", "serial": "", "signing_key": b"", "created_ms": 1}
        connection.execute(insert(gateway), {"id": GATEWAY, **facts})
    with pytest.raises(Conflict):
        clones.release(GATEWAY, by="ana")
    first = await Card(fleet, tmp_path / "first").open()
    await first.sealed(2)
    await first.online(plane)
    second = first.image("second")
    await first.close()
    await first.open()
    await first.close()
    await first.open()
    await second.open()
    mine = await first.sealed(2)
    theirs = await second.sealed(3)
    async with first.linked(plane) as one, second.linked(plane) as other:
        await until(lambda: one.health.paused and other.health.paused, within_s=20)
        more = await first.sealed(1)
        hellos = count(stores, hello)
        await until(lambda: "two boxes" in one.health.last_error, within_s=20)
    assert await first.waiting() > 0
    assert "clone" in fleet.alerts()

    clones.release(GATEWAY, by="ana")
    with pytest.raises(Conflict):
        clones.release(GATEWAY, by="ana")
    await first.online(plane)
    assert count(stores, hello) > hellos
    await second.online(plane.of(SECOND))  # the second box has an identity of its own now
    await first.close()
    await second.close()
    assert set(mine + more) <= fleet.arrived(GATEWAY).keys()
    assert set(theirs) <= fleet.arrived(SECOND).keys() | fleet.arrived(GATEWAY).keys()
    assert set(fleet.arrived(GATEWAY).values()) == {1}
    assert set(fleet.arrived(SECOND).values()) == {1}


async def test_two_boxes_that_both_live_on_are_paused_again(
    fleet: Fleet, plane: FarEnd, stores: Stores, tmp_path: Path
) -> None:
    clones = Clones(stores=stores, clock=SystemClock())
    plane.released.append(clones.released)
    with stores.business.write() as connection:
        facts = {"name": "", "hardware": "", "serial": "", "signing_key": b"", "created_ms": 1}
        connection.execute(insert(gateway), {"id": GATEWAY, **facts})
    first = await Card(fleet, tmp_path / "first").open()
    second = first.image("second")
    await first.close()
    await first.open()
    await second.open()  # two machines open the same store for the same time
    async with first.linked(plane) as one, second.linked(plane) as other:
        await until(lambda: one.health.paused and other.health.paused, within_s=20)
        since = suspected(stores)
        clones.release(GATEWAY, by="ana")
        await until(lambda: suspected(stores) > since, within_s=20)
        await until(lambda: one.health.paused and other.health.paused, within_s=20)
    await first.close()
    await second.close()
    assert fleet.alerts().count("clone") == 1  # of which one is read at a time: the newest


def suspected(stores: Stores) -> int:
    with stores.journal.read() as connection:
        return int(connection.execute(select(clone.c.since_ms)).scalar_one())


async def test_a_damaged_page_that_cost_batches(fleet: Fleet, plane: FarEnd, tmp_path: Path) -> None:
    card = await Card(fleet, tmp_path / "card").open()
    await card.sealed(4)
    await card.close()
    with sqlite3.connect(card.folder / "sealed.db") as db:  # as salvage leaves it when it can't read two rows
        db.execute("DELETE FROM batch WHERE lane = ? AND seq BETWEEN 2 AND 3", (pb.TELEMETRY,))
    db.close()
    await card.open()
    await card.online(plane)
    await card.close()
    assert fleet.arrived(GATEWAY) == fleet.once(1, 4)
    assert fleet.gaps() == [("GAP_VANISHED", [(2, 3)])]
    assert fleet.alerts() == ["vanished"]
