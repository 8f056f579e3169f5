"""Who is connected and what they said last, over real streams into real stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Row

from control_plane.ingest import session as module
from control_plane.journal.sql import SqlJournal
from control_plane.store.tables import presence
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.ingest.conftest import Plane, hello
from tests.control_plane.sealing import GATEWAY, batch

RUNNING = wire.RunningConfig(generation=3, pushed_hash=b"p" * 32, phase=wire.CONFIG_APPLIED)


def said() -> wire.Hello:
    greeting = hello()
    greeting.version = "1.2.3"
    greeting.running.CopyFrom(wire.RunningConfig(local_management=True, local_hash=b"l" * 32))
    return greeting


async def found(plane: Plane, true: Callable[[Row[Any]], object]) -> Row[Any]:
    """The gateway's row, once it is as wanted."""
    async with asyncio.timeout(10):
        while not ((rows := plane.rows(presence)) and true(rows[0])):
            await asyncio.sleep(0.01)
    return rows[0]


async def test_a_hello_says_who_is_here_with_which_version_and_configuration(plane: Plane) -> None:
    async with plane.box() as box:
        await box.greet(said())
        row = await found(plane, lambda _: True)
        assert (row.gateway, row.session, row.left_ms, row.version) == (GATEWAY, 1, None, "1.2.3")
        assert row.heard_ms == row.connected_ms > 1_700_000_000_000
        assert wire.RunningConfig.FromString(row.running).local_management


async def test_a_heartbeat_is_kept_as_it_came(plane: Plane) -> None:
    beat = wire.Heartbeat(backlog=wire.Backlog(batches=7, bytes=900), sensors_silent=2, running=RUNNING)
    async with plane.box() as box:
        await box.greet(said())
        await box.say(heartbeat=beat)
        row = await found(plane, lambda row: row.heartbeat)
        assert wire.Heartbeat.FromString(row.heartbeat) == beat
        assert wire.RunningConfig.FromString(row.running) == RUNNING


async def test_a_stream_that_breaks_is_left_and_what_was_said_stays(plane: Plane) -> None:
    async with plane.box() as box:
        await box.greet(said())
        await box.say(heartbeat=wire.Heartbeat(sensors_silent=1))
        await found(plane, lambda row: row.heartbeat)
    row = await found(plane, lambda row: row.left_ms)
    assert row.left_ms >= row.heard_ms
    assert row.why
    assert wire.Heartbeat.FromString(row.heartbeat).sensors_silent == 1
    async with plane.box() as box:
        await box.greet(said())
        again = await found(plane, lambda row: row.session == 2)
        assert (again.left_ms, again.why) == (None, None)
        assert wire.Heartbeat.FromString(again.heartbeat).sensors_silent == 1


async def test_a_goodbye_is_why_it_left(plane: Plane) -> None:
    async with plane.box() as box:
        await box.greet(said())
        await box.say(hello=said())
        await box.goodbye()
    row = await found(plane, lambda row: row.left_ms)
    assert row.why == "Hello comes once, as the first message"


async def test_the_end_of_a_displaced_stream_does_not_close_the_newer_one(plane: Plane) -> None:
    credentials = plane.credentials(GATEWAY)
    async with plane.box(credentials=credentials) as older:
        await older.greet(said())
        async with plane.box(credentials=credentials) as newer:
            await newer.greet(said())
            await older.goodbye()
            await newer.say(heartbeat=wire.Heartbeat(sensors_silent=5))
            row = await found(plane, lambda row: row.heartbeat)
            assert (row.session, row.left_ms) == (2, None)


async def test_batches_note_that_the_gateway_was_heard_but_not_each_of_them(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with plane.ready_box() as box:
        await box.send(batch(1, 10))
        await box.acked(1)
        first = await found(plane, lambda _: True)
        await box.send(*(batch(seq, 10) for seq in range(2, 30)))
        await box.acked(29)
        assert plane.rows(presence)[0].heard_ms == first.heard_ms
        monkeypatch.setattr(module, "HEARD_EVERY_MS", 0)
        await asyncio.sleep(0.002)
        await box.send(batch(30, 10))
        await found(plane, lambda row: row.heard_ms > first.heard_ms)


async def test_a_start_of_the_only_server_closes_what_a_kill_left_open(plane: Plane) -> None:
    journal = SqlJournal(plane.stores.journal)
    journal.open_session(GATEWAY, said(), now_ms=1000)
    journal.everyone_left(now_ms=9000, why="this server was not running")
    (row,) = plane.rows(presence)
    assert (row.left_ms, row.why) == (9000, "this server was not running")


async def test_a_start_leaves_alone_who_is_with_another_process(plane: Plane) -> None:
    one, other = (SqlJournal(plane.stores.journal, server=name) for name in ("host 1", "host 2"))
    one.open_session(GATEWAY, said(), now_ms=1000)
    other.everyone_left(now_ms=9000, why="this server was not running")
    assert plane.rows(presence)[0].left_ms is None
    one.everyone_left(now_ms=9000, why="this server was not running")
    assert plane.rows(presence)[0].left_ms == 9000


async def test_a_server_that_stops_says_goodbye_and_notes_it(plane: Plane) -> None:
    async with plane.box() as box:
        await box.greet(said())
        plane.stop.set()
        await box.goodbye()
    row = await found(plane, lambda row: row.left_ms)
    assert row.why == "this server is restarting"
