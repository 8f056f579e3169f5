"""Certificates that change, streams that can't hear their end, and gateways that send too much; over the real wire."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from control_plane.clock import SystemClock
from control_plane.ingest import service, session
from control_plane.ingest.quota import Quota
from control_plane.ingest.service import LinkService
from control_plane.ingest.session import Goodbye
from control_plane.store.tables import batch as batches
from control_plane.store.tables import presence
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.ingest.conftest import Plane, hello
from tests.control_plane.sealing import GATEWAY, OTHER, batch

PATIENCE_S = 20.0


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.01)


def served(address: str) -> str:
    """The certificate that a new connection is shown."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection((host, int(port)), timeout=10) as raw, context.wrap_socket(raw) as shown:
        certificate = shown.getpeercert(binary_form=True)
    assert certificate is not None
    return ssl.DER_cert_to_PEM_cert(certificate).strip()


async def test_a_renewed_certificate_is_served_without_a_restart_and_open_streams_go_on(plane: Plane) -> None:
    before = await asyncio.to_thread(served, plane.address)
    async with plane.ready_box() as box:
        (plane.authority.folder / "server.pem").unlink()
        renewed = plane.authority.server_identity((), now_ms=SystemClock().now_ms())
        await asyncio.to_thread(plane.door.look)
        after = await asyncio.to_thread(served, plane.address)
        assert after != before
        assert after.encode() in renewed.chain_pem
        await box.send(batch(1, 10))
        await box.acked(1)
    async with plane.ready_box(gateway=OTHER) as box:
        await box.send(batch(1, 10))
        await box.acked(1)


async def test_a_certificate_that_cannot_be_read_leaves_the_one_before(plane: Plane) -> None:
    before = await asyncio.to_thread(served, plane.address)
    (plane.authority.folder / "server.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nhalf")
    with pytest.raises(ValueError, match=r"."):
        plane.door.look()
    assert await asyncio.to_thread(served, plane.address) == before


class Deaf:
    """A gateway's end of a stream that reads nothing and says nothing."""

    async def write(self, _message: bytes) -> None:
        await asyncio.Event().wait()

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_gateway_that_reads_nothing_cannot_keep_a_stream_that_was_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "GOODBYE_WITHIN_S", 0.01)
    anything, deaf = cast("Any", None), Deaf()
    link = LinkService(
        journal=anything, writer=anything, clock=anything, limits=anything, pace=anything, admit=lambda *_: None
    )
    start: Any = SimpleNamespace(session=1, schemas=(), lanes={}, dictionaries=())
    stream = session.Session(
        gateway=GATEWAY,
        hello=hello(),
        start=start,
        limits=wire.Limits(),
        writer=anything,
        clock=SystemClock(),
        crc_seen={},
    )

    async def send(message: wire.Downlink) -> None:
        await deaf.write(message.SerializeToString())

    talking = asyncio.create_task(link._converse(stream, cast("Any", deaf), send))
    stream.tell(wire.Downlink(pace=wire.Pace(window=1)))  # never arrives
    await asyncio.sleep(0)
    stream.end(Goodbye(wire.GOODBYE_REVOKED, "this gateway's certificate was revoked"))
    async with asyncio.timeout(PATIENCE_S):
        await talking


async def test_a_gateway_over_its_quota_is_told_to_slow_down_loses_nothing_and_is_seen(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HELD_MOST_S", 0.01)
    now_s = [0.0]
    quota = Quota(batches_per_s=1, bytes_per_day=0, monotonic_s=lambda: now_s[0])
    monkeypatch.setattr(plane.link, "_take", quota.take)
    async with plane.ready_box() as box:
        await box.send(*(batch(seq, 10) for seq in range(1, 71)))
        paced: list[int] = []
        cum = 0
        while cum < 70 or not paced:
            answer = await box.hear()
            if answer.WhichOneof("msg") == "pace":
                paced.append(answer.pace.window)
            else:
                cum = max([cum, *(lane.acked for lane in answer.ack.lanes)])
        assert paced == [1]
        await until(lambda: plane.rows(presence)[0].paced == "sends more than 1 batches a second")
        now_s[0] += 3600
        await box.send(batch(71, 10))
        while (answer := await box.hear()).WhichOneof("msg") != "pace":
            assert answer.WhichOneof("msg") == "ack"
        assert answer.pace.window > 1
        await until(lambda: plane.rows(presence)[0].paced == "")
    assert len(plane.rows(batches)) == 71


async def test_who_comes_out_of_turn_is_told_when_to_come_back(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane.link, "_turn", lambda _gateway: 7.5)
    async with plane.box() as box:
        await box.say(hello=hello())
        goodbye = await box.goodbye()
    assert (goodbye.reason, goodbye.return_after_ms) == (wire.GOODBYE_DRAINING, 7500)
    assert not plane.rows(presence)


async def test_who_comes_while_too_many_wait_for_the_disk_is_sent_away_for_a_moment(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as busy:
        busy.setattr(service, "MOST_OPENING", 0)
        async with plane.box() as box:
            await box.say(hello=hello())
            goodbye = await box.goodbye()
    assert (goodbye.reason, goodbye.return_after_ms) == (wire.GOODBYE_DRAINING, 3000)
    async with plane.ready_box() as box:
        await box.send(batch(1, 10))
        await box.acked(1)
