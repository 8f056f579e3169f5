"""Gateways' streams over real mutual TLS, into real stores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from control_plane.fleet.authority import Authority
from control_plane.ingest import service
from control_plane.store.tables import batch as batches
from control_plane.store.tables import conflict, heartbeat, lane, reject
from control_plane.store.tables import declare as declares
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.ingest.conftest import Box, Plane
from tests.control_plane.sealing import EPOCH, GATEWAY, OTHER, batch, declare, hello, urgent


def stored(plane: Plane) -> list[tuple[str, int, int]]:
    return sorted((row.gateway, row.lane, row.seq) for row in plane.rows(batches))


def damaged(seq: int) -> pb.Batch:
    made = batch(seq, 10, 20)
    made.crc32 ^= 1
    return made


async def test_welcome_says_limits_and_that_nothing_is_held(plane: Plane) -> None:
    async with plane.box() as box:
        welcome = await box.greet()
        assert (welcome.session, list(welcome.lanes), welcome.schema) == (1, [], 0)
        assert welcome.limits.max_body_bytes == 4096
        assert welcome.server_ms > 1_700_000_000_000


async def test_a_batch_is_acknowledged_and_kept_under_its_gateway(plane: Plane) -> None:
    async with plane.ready_box() as box:
        await box.send(batch(1, 10, 20), batch(2, 30))
        await box.acked(2)
    assert stored(plane) == [(GATEWAY, 0, 1), (GATEWAY, 0, 2)]


async def test_a_reconnect_resumes_from_the_servers_word(plane: Plane) -> None:
    async with plane.ready_box() as box:
        await box.send(batch(1, 10), batch(2, 20), batch(5, 50), urgent(1))
        await box.acked(2, (5, 5))
    async with plane.box() as box:
        welcome = await box.greet()
        held = {said.lane: said for said in welcome.lanes}
        assert (held[pb.TELEMETRY].acked, held[pb.TELEMETRY].max_seen) == (2, 5)
        assert [(r.first, r.last) for r in held[pb.TELEMETRY].above] == [(5, 5)]
        assert held[pb.URGENT].acked == 1
        assert welcome.schema == 1
        await box.send(batch(4, 40), batch(3, 30))
        await box.acked(5)


async def test_duplicates_are_acknowledged_and_stored_once(plane: Plane) -> None:
    async with plane.ready_box() as box:
        await box.send(batch(1, 10), batch(1, 10))
        await box.acked(1)
    async with plane.box() as box:
        await box.greet()
        await box.send(batch(1, 10))
        await box.acked(1)
    assert stored(plane) == [(GATEWAY, 0, 1)]
    assert plane.rows(conflict) == []


async def test_a_gap_in_seqs_is_no_error(plane: Plane) -> None:
    async with plane.ready_box() as box:
        await box.send(batch(9, 90), batch(10, 100), batch(3, 30))
        await box.acked(0, (3, 3), (9, 10))


async def test_the_same_key_with_other_content_is_acknowledged_and_both_are_kept(plane: Plane) -> None:
    async with plane.ready_box() as box:
        await box.send(batch(1, 10))
        await box.acked(1)
        await box.send(batch(1, 11))
        await box.acked(1)
    (kept,) = plane.rows(conflict)
    assert pb.Batch.FromString(kept.body) == batch(1, 11)
    assert stored(plane) == [(GATEWAY, 0, 1)]


async def test_an_unknown_schema_is_asked_for_and_then_accepted(plane: Plane) -> None:
    async with plane.box() as box:
        await box.greet()
        await box.send(batch(1, 10))
        answer = await box.hear()
        assert answer.ack.need_schema
        assert list(answer.ack.lanes) == []
        assert stored(plane) == []
        await box.send(batch(1, 10), said=declare())
        await box.acked(1)
    assert [(row.gateway, row.schema) for row in plane.rows(declares)] == [(GATEWAY, 1)]


async def test_a_wrong_crc_ends_the_stream_once_and_is_rejected_the_second_time(plane: Plane) -> None:
    async with plane.ready_box() as box:
        await box.send(batch(1, 10), damaged(2))
        goodbye = await box.goodbye()
        assert (goodbye.reason, "crc" in goodbye.text) == (wire.GOODBYE_PROTOCOL, True)
    assert plane.rows(reject) == []
    async with plane.ready_box() as box:
        await box.send(damaged(2), batch(3, 30))
        answers = [await box.hear()]
        while answers[-1].WhichOneof("msg") != "reject":
            answers.append(await box.hear())
        assert answers[-1].reject == wire.Reject(epoch=EPOCH, seq=2, code=wire.REJECT_CRC, reason="crc wrong twice")
    assert [(row.seq, row.code) for row in plane.rows(reject)] == [(2, wire.REJECT_CRC)]
    async with plane.box() as box:
        assert [said.acked for said in (await box.greet()).lanes] == [3]


async def test_a_crc_that_is_right_the_second_time_is_accepted(plane: Plane) -> None:
    async with plane.ready_box() as box:
        await box.send(damaged(1))
        assert (await box.goodbye()).reason == wire.GOODBYE_PROTOCOL
    async with plane.ready_box() as box:
        await box.send(batch(1, 10, 20))
        await box.acked(1)
    assert plane.rows(reject) == []


def oversized() -> pb.Batch:
    made = batch(1, 10)
    made.body_len = 4097
    return made


def crowded() -> pb.Batch:
    made = batch(1, 10)
    made.count = 2_000_001
    return made


@pytest.mark.parametrize("make", [oversized, crowded])
async def test_what_is_over_a_limit_is_rejected_and_the_stream_goes_on(
    plane: Plane, make: Callable[[], pb.Batch]
) -> None:
    async with plane.ready_box() as box:
        await box.send(make())
        while (answer := await box.hear()).WhichOneof("msg") != "reject":
            pass
        assert (answer.reject.seq, answer.reject.code) == (1, wire.REJECT_OVER_LIMIT)
        await box.send(batch(2, 20))
        await box.acked(2)
    assert [row.code for row in plane.rows(reject)] == [wire.REJECT_OVER_LIMIT]


BREACHES: dict[str, tuple[str, wire.Uplink]] = {
    "wrong epoch": ("epoch", wire.Uplink(batch=batch(1, 10, epoch=5))),
    "declare of another epoch": ("epoch", wire.Uplink(declare=declare(epoch=5))),
    "seq 0": ("seq 0", wire.Uplink(batch=batch(0, 10))),
    "a seq no store has come to": ("out of range", wire.Uplink(batch=batch((1 << 64) - 1, 10))),
    "completeness no clock has come to": ("out of range", wire.Uplink(batch=batch(1, complete=(1, (1 << 64) - 1)))),
    "a second Hello": ("Hello comes once", wire.Uplink(hello=hello())),
    "nothing": ("without content", wire.Uplink()),
    "a lane that does not exist": ("lane 7", wire.Uplink(batch=batch(1, 10, lane=7))),  # type: ignore[arg-type]
    "an impossible heartbeat": ("out of range", wire.Uplink(heartbeat={"lanes": [{"seq": (1 << 64) - 1}]})),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("breach", sorted(BREACHES))
async def test_a_breach_of_the_protocol_ends_its_own_stream_only(plane: Plane, breach: str) -> None:
    text, message = BREACHES[breach]
    async with plane.ready_box(gateway=OTHER) as other, plane.ready_box() as box:
        await box.call.write(message.SerializeToString())
        goodbye = await box.goodbye()
        assert goodbye.reason == wire.GOODBYE_PROTOCOL
        assert text in goodbye.text
        await other.send(batch(1, 10))
        await other.acked(1)
    assert stored(plane) == [(OTHER, 0, 1)]


async def test_garbage_bytes_end_the_stream_with_a_sentence(plane: Plane) -> None:
    async with plane.ready_box() as box:
        await box.call.write(b"\xff" * 100)
        assert (await box.goodbye()).text == "a message that is not an Uplink"
    async with plane.box() as box:
        await box.call.write(b"\xff" * 100)
        assert (await box.goodbye()).text == "a message that is not an Uplink"


def moved(*ends: int, of: int = 5) -> wire.Hello:
    """Of an epoch to which these seqs of another one came along."""
    said = hello()
    said.predecessor_epoch = of
    seqs = [pb.Range(first=first, last=last) for first, last in zip(ends[::2], ends[1::2], strict=True)]
    said.moved.add(lane=pb.TELEMETRY, seqs=seqs)
    return said


NO_HELLO: dict[str, tuple[str, wire.Uplink]] = {
    "a batch first": ("the first message must be Hello", wire.Uplink(batch=batch(1, 10))),
    "another protocol": ("protocol 2 is not spoken here", wire.Uplink(hello=wire.Hello(protocol=2))),
    "no run id": ("16 bytes", wire.Uplink(hello=hello(run_id=b""))),
    "impossible counts": ("further than any store", wire.Uplink(hello=hello(telemetry=(1 << 64) - 1))),
    "what moved from nowhere": ("the epoch before", wire.Uplink(hello=moved(1, 2, of=0))),
    "what moved from itself": ("the epoch before", wire.Uplink(hello=moved(1, 2, of=EPOCH))),
    "what moved twice": ("the epoch before", wire.Uplink(hello=moved(1, 3, 2, 5))),
    "what moved backwards": ("the epoch before", wire.Uplink(hello=moved(3, 1))),
    "what moved from 0": ("the epoch before", wire.Uplink(hello=moved(0, 1))),
    "impossible opens": ("further than any store", wire.Uplink(hello=hello(opens=(1 << 64) - 1))),
}


@pytest.mark.parametrize("kind", sorted(NO_HELLO))
async def test_without_a_proper_hello_there_is_no_session(plane: Plane, kind: str) -> None:
    text, message = NO_HELLO[kind]
    async with plane.box() as box:
        await box.call.write(message.SerializeToString())
        goodbye = await box.goodbye()
        assert goodbye.reason == wire.GOODBYE_PROTOCOL
        assert text in goodbye.text
    assert plane.rows(lane) == []


async def test_a_stream_that_ends_before_hello_disturbs_nobody(plane: Plane) -> None:
    async with plane.box() as box:
        await box.call.done_writing()
        assert (await box.goodbye()).text == "the stream ended before Hello"
    async with plane.ready_box() as box:
        await box.send(batch(1, 10))
        await box.acked(1)


async def test_the_newest_hello_fences_the_older_stream(plane: Plane) -> None:
    async with plane.ready_box() as old, plane.ready_box() as new:
        assert (await old.goodbye()).reason == wire.GOODBYE_FENCED
        await new.send(batch(1, 10))
        await new.acked(1)


async def test_of_a_store_that_must_begin_anew_nothing_is_taken(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "CLOSE_WITHIN_S", 0.3)
    async with plane.ready_box(hello(opens=5, telemetry=9)) as live:
        await live.send(batch(1, 10))
        await live.acked(1)
        async with plane.box() as box:
            welcome = await box.greet(hello(opens=3, telemetry=9, run_id=b"s" * 16))
            assert welcome.new_epoch
            assert [(said.acked, said.max_seen) for said in welcome.lanes] == [(1, 1)]
            await box.send(batch(2, 20), said=declare())
            assert await box.status() is grpc.StatusCode.OK
        assert (await live.goodbye()).reason == wire.GOODBYE_FENCED
    assert stored(plane) == [(GATEWAY, 0, 1)]


async def test_of_two_boxes_nothing_is_taken_and_the_one_that_is_connected_goes_too(plane: Plane) -> None:
    async with plane.ready_box(hello(opens=3)) as live:
        other = hello(opens=3, run_id=b"s" * 16)
        other.boot_id = b"c" * 16
        async with plane.box() as box:
            await box.say(hello=other)
            goodbye = await box.goodbye()
            assert (goodbye.reason, goodbye.return_after_ms) == (wire.GOODBYE_CLONE_SUSPECTED, 60_000)
            assert "administrator" in goodbye.text
        assert (await live.goodbye()).reason == wire.GOODBYE_CLONE_SUSPECTED
    async with plane.box() as box:
        await box.say(hello=hello(opens=3))
        assert (await box.goodbye()).reason == wire.GOODBYE_CLONE_SUSPECTED


async def test_heartbeats_are_kept_and_need_no_ack(plane: Plane) -> None:
    said = wire.LaneComplete(seq=1, complete_to=wire.CompleteTo(boot=1, mono_ms=9000))
    async with plane.ready_box() as box:
        await box.send(batch(1, 10))
        await box.say(heartbeat=wire.Heartbeat(lanes=[said]))
        await box.send(batch(2, 20))
        await box.acked(2)
    assert [(row.seq, row.complete_mono_ms) for row in plane.rows(heartbeat)] == [(1, 9000)]


async def test_a_revoked_certificate_ends_the_open_stream_and_opens_no_other(plane: Plane) -> None:
    credentials = plane.credentials(GATEWAY)
    async with plane.ready_box(gateway=OTHER) as other:
        async with plane.box(credentials=credentials) as box:
            await box.greet()
            plane.revoked.add(plane.serials[GATEWAY])
            assert (await box.goodbye()).reason == wire.GOODBYE_REVOKED
        async with plane.box(credentials=credentials) as box:
            assert await box.status() is grpc.StatusCode.PERMISSION_DENIED
        async with plane.box() as renewed:  # another certificate of the same gateway
            await renewed.greet()
        await other.send(batch(1, 10))
        await other.acked(1)


async def test_a_certificate_of_another_authority_is_refused(plane: Plane, tmp_path: Path) -> None:
    stranger = Authority.open(tmp_path / "stranger")
    async with plane.box(credentials=plane.credentials(GATEWAY, stranger)) as box:
        assert await box.status() is grpc.StatusCode.UNAVAILABLE


async def test_without_a_certificate_nobody_comes_in(plane: Plane) -> None:
    bare = grpc.ssl_channel_credentials(root_certificates=plane.authority.ca_pem)
    async with plane.box(credentials=bare) as box:
        assert await box.status() is grpc.StatusCode.UNAVAILABLE


async def test_a_full_disk_acknowledges_nobody_and_recovers(plane: Plane) -> None:
    async with plane.ready_box() as box, plane.ready_box(gateway=OTHER) as other:
        await box.send(batch(1, 10))
        await box.acked(1)
        with plane.full_disk():
            many = [batch(seq, *range(500)) for seq in range(2, 60)]
            await _swamped(box, many)
            await _swamped(other, [batch(seq, *range(500)) for seq in range(1, 60)])
            durable = stored(plane)
    async with plane.box() as box:
        welcome = await box.greet()
        assert durable == stored(plane)
        assert max(seq for gateway, _, seq in durable if gateway == GATEWAY) == welcome.lanes[0].acked
        await box.send(*many)
        await box.acked(59)
    assert len(plane.rows(batches)) == 59 + sum(gateway == OTHER for gateway, _, _ in durable)


async def _swamped(box: Box, many: list[pb.Batch]) -> None:
    """Send until the server gives up."""

    async def send() -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it has hung up
            await box.send(*many)

    sending = asyncio.create_task(send())
    goodbye = await box.goodbye()
    assert goodbye.reason == wire.GOODBYE_STORAGE
    assert goodbye.return_after_ms > 0
    await sending


async def test_stopping_says_goodbye_and_keeps_what_came(plane: Plane) -> None:
    async with plane.ready_box() as box:
        await box.send(batch(1, 10))
        await box.acked(1)
        plane.stop.set()
        goodbye = await box.goodbye()
        assert (goodbye.reason, goodbye.return_after_ms > 0) == (wire.GOODBYE_DRAINING, True)
    assert stored(plane) == [(GATEWAY, 0, 1)]
