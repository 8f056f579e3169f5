"""The uplink by ways that are chosen, counted and limited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.simulators.link import LinkProxy
from gateway.uplink.tunnel import tunnel
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import Via
from tests.gateway.buffer.boxes import Box, seal
from tests.gateway.uplink.plane import Plane, until
from tests.gateway.uplink.test_link import linked


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path / "buffer")
    await box.open()
    yield box
    await box.buffer.close()


def acked(box: Box) -> int:
    return len(box.buffer._store.lanes[pb.TELEMETRY].acked)


async def test_by_an_address_of_the_box_everything_arrives_and_its_bytes_are_remembered(box: Box) -> None:
    await seal(box, 3)
    plane, mobile = Plane(), Via(id="mobile", source="127.0.0.1", daily_mb=1)
    async with plane.serving(), linked(box.buffer, plane, via=(mobile,)) as link:
        await until(lambda: acked(box) == 3)
        await until(lambda: link.health.day_bytes > 300)
        assert (link.health.via, link.health.day_limit_bytes) == ("mobile", 1_000_000)
    kept = msgspec.json.decode((box.folder / "uplink-day.json").read_bytes())
    assert kept["bytes"]["mobile"] >= link.health.day_bytes


async def test_by_a_roaming_link_only_what_is_urgent_goes(box: Box) -> None:
    await seal(box, 2)
    plane, abroad = Plane(), Via(id="abroad", policy="roaming")
    async with plane.serving(), linked(box.buffer, plane, via=(abroad,)) as link:
        await until(lambda: link.health.connected)
        box.buffer.event(pb.EVENT_FIELD_ACT, b"delivered")
        await box.buffer._seal_urgent()
        await until(lambda: [batch.lane for batch in plane.batches] == [pb.URGENT])
        await asyncio.sleep(0.2)
        assert plane.telemetry() == []
        assert link.health.held_back == "abroad is roaming"


async def test_once_the_days_bytes_are_used_up_telemetry_waits_and_alarms_go_on(box: Box) -> None:
    plane, scarce = Plane(), Via(id="scarce", daily_mb=0.02)
    async with plane.serving(), linked(box.buffer, plane, via=(scarce,)) as link:
        for _ in range(400):
            await seal(box, 1)
            await asyncio.sleep(0.002)
            if "used up" in link.health.held_back:
                break
        await until(lambda: "used up" in link.health.held_back)
        await asyncio.sleep(0.2)
        before = len(plane.telemetry())
        await seal(box, 3)
        box.buffer.event(pb.EVENT_FIELD_ACT, b"door forced")
        await box.buffer._seal_urgent()
        await until(lambda: plane.batches[-1].lane == pb.URGENT)
        await asyncio.sleep(0.1)
        assert len(plane.telemetry()) == before
    async with plane.serving(), linked(box.buffer, plane, via=(scarce,)) as again:  # a restart gives nothing back
        await until(lambda: again.health.connected)
        assert "used up" in again.health.held_back


async def test_a_way_that_leads_nowhere_is_left_for_the_next_and_the_reason_is_told(box: Box) -> None:
    await seal(box, 2)
    plane = Plane()
    dead, good = Via(id="dead", interface="nosuch0"), Via(id="good")
    lost = Via(id="lost", source="192.0.2.1")  # no address of this box
    async with plane.serving(), linked(box.buffer, plane, via=(lost, dead, good)) as link:
        await until(lambda: acked(box) == 2)
        assert link.health.via == "good"
        assert link.health.last_error


async def test_a_better_way_that_is_back_is_taken_again_without_loss(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.uplink.link.LOOK_FOR_BETTER_S", 0.05)
    monkeypatch.setattr("gateway.uplink.ways.REST_MS", 100)
    await seal(box, 2)
    plane, absent = Plane(), {"lan"}
    vias = (Via(id="lan"), Via(id="lte"))
    async with plane.serving(), linked(box.buffer, plane, via=vias) as link:
        link._ways._present = lambda via: via.id not in absent
        await until(lambda: link.health.connected and link.health.via == "lte")
        absent.clear()
        await until(lambda: link.health.connected and link.health.via == "lan")
        assert link.health.last_error == "lan can be reached again; leaving lte"
        await seal(box, 2)
        await until(lambda: acked(box) == 4)
    assert sorted(plane.telemetry()) == [1, 2, 3, 4]


async def test_a_tunnel_counts_both_ways_and_ends_what_it_carries() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        await writer.drain()
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sizes: list[int] = []
    async with tunnel(address, Via(id="any"), carried=sizes.append, unreachable=lambda _: None) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        assert await reader.read(100) == b"hello"
        assert sizes == [5, 5]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()
    server.close()
    await server.wait_closed()


async def test_a_black_holed_way_costs_one_patience_and_nothing_is_lost(box: Box) -> None:
    plane = Plane()
    async with plane.serving():
        link_down = LinkProxy(to=("127.0.0.1", plane.port))
        await link_down.start()
        behind = Plane(port=link_down.port)
        async with linked(box.buffer, behind, window=4) as link:
            await seal(box, 2)
            await until(lambda: acked(box) == 2)
            link_down.black_hole()
            await seal(box, 2)
            began = asyncio.get_running_loop().time()
            await until(lambda: not link.health.connected)
            assert asyncio.get_running_loop().time() - began < 2.0
            assert "the link is dead" in link.health.last_error
            await link_down.restore()
            await until(lambda: acked(box) == 4)
        await link_down.close()
