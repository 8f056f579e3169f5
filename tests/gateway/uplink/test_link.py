from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from gateway.backoff import Backoff
from gateway.buffer.buffer import SealedBatch
from gateway.buffer.disk import DiskBuffer
from gateway.clock import SystemClock
from gateway.uplink.anchors import Anchors
from gateway.uplink.greeting import Dismissed
from gateway.uplink.link import Link
from gateway.uplink.spending import Spending
from protos import columns
from protos.columns import Dictionary, dictionary_id
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.config import UplinkSection
from tests.gateway.buffer.boxes import Box, batches, gaps, seal
from tests.gateway.uplink.hand_written import by_hand
from tests.gateway.uplink.plane import Plane, until


class Door:
    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.connections = self.failures = 0

    async def before_connecting(self) -> tuple[str, grpc.ChannelCredentials]:
        return f"127.0.0.1:{self.plane.port}", grpc.local_channel_credentials()

    def connected(self) -> None:
        self.connections += 1

    def failed(self) -> None:
        self.failures += 1


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path / "buffer")
    await box.open()
    yield box
    await box.buffer.close()


def made(buffer: DiskBuffer, plane: Plane, **settings: object) -> Link:
    """With an anchor from the server at each Welcome."""
    clock = SystemClock()

    def record(anchor: pb.Anchor) -> None:
        buffer.event(pb.EVENT_ANCHOR, anchor.SerializeToString())

    link = Link(
        buffer=buffer,
        clock=clock,
        settings=UplinkSection(**{"ack_timeout_s": 0.6, **settings}),  # type: ignore[arg-type]
        endpoint=Door(plane),
        set_batch_interval=lambda seconds: setattr(buffer, "batch_interval_s", seconds),
        anchors=Anchors(clock=clock, boot=1, record=record, kernel=lambda: None),
        version=lambda: "test",
        configuration=by_hand(buffer._folder / "desired", clock),
        spending=Spending(buffer._folder / "uplink-day.json", clock=clock),
    )
    link._backoff = Backoff(base_s=0.05, cap_s=0.3)  # a third attempt may otherwise be a dozen seconds away
    return link


@asynccontextmanager
async def linked(buffer: DiskBuffer, plane: Plane, **settings: object) -> AsyncIterator[Link]:
    """The uplink running."""
    link = made(buffer, plane, **settings)
    running = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def waiting(buffer: DiskBuffer) -> int:
    return len(await batches(buffer))


async def test_every_batch_arrives_declared_and_is_acknowledged(box: Box) -> None:
    await seal(box, 5)
    plane = Plane()
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: sorted(plane.telemetry()) == [1, 2, 3, 4, 5])
        await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 5)
        assert [d.schema for d in plane.declares][:1] == [1]
    assert await waiting(box.buffer) == 0
    (hello,) = plane.hellos
    held = {state.lane: [(r.first, r.last) for r in state.held] for state in hello.lanes}
    assert held[pb.TELEMETRY] == [(1, 5)]
    assert (hello.opens, len(hello.run_id), len(hello.boot_id)) == (1, 16, 16)


async def test_what_welcome_says_is_held_is_not_sent_again(box: Box) -> None:
    await seal(box, 5)
    lane = wire.LaneReceived(lane=pb.TELEMETRY, acked=2, above=[pb.Range(first=4, last=4)], max_seen=4)
    plane = Plane(welcome=wire.Welcome(session=7, lanes=[lane], schema=1))
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(plane.telemetry()) >= 2)
    assert plane.telemetry() == [5, 3]


async def test_no_more_than_the_window_is_on_the_way_and_a_slot_of_it_is_kept_for_what_is_urgent(box: Box) -> None:
    await seal(box, 9)
    plane = Plane(acks=False)
    async with plane.serving(), linked(box.buffer, plane, window=6, ack_timeout_s=30):
        await until(lambda: plane.telemetry() == [9, 1, 2])  # the backlog begins carefully
        await seal(box, 4)  # and the anchor with the first
        await until(lambda: len(plane.batches) == 5)
        await asyncio.sleep(0.2)
        assert plane.telemetry() == [9, 1, 2, 10]
        box.buffer.event(pb.EVENT_FIELD_ACT, b"delivered")
        await box.buffer._seal_urgent()
        await until(lambda: len(plane.batches) == 6)
        await asyncio.sleep(0.2)
        assert [batch.lane for batch in plane.batches].count(pb.URGENT) == 2
        assert len(plane.batches) == 6


async def test_after_an_outage_the_newest_goes_first_and_what_is_new_overtakes_the_backlog(box: Box) -> None:
    await seal(box, 40)
    plane = Plane(acks=False)
    async with plane.serving(), linked(box.buffer, plane, ack_timeout_s=30):
        await until(lambda: len(plane.telemetry()) == 3)
        assert plane.telemetry() == [40, 1, 2]
        await seal(box, 1)
        await until(lambda: plane.telemetry()[-1] == 41)
        plane.acks = True
        await plane.acknowledge()
        await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 41)
    backlog = [seq for seq in plane.telemetry() if seq < 40]
    assert backlog == list(range(1, 40))
    assert len(plane.telemetry()) == 41


async def test_a_server_may_hold_the_backlog_back_for_a_moment_or_ask_for_the_oldest_first(box: Box) -> None:
    await seal(box, 5)
    plane = Plane(welcome=wire.Welcome(session=1, pace=wire.Pace(pause_ms=600)))
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: plane.telemetry() == [5])
        await asyncio.sleep(0.2)
        assert plane.telemetry() == [5]
        await until(lambda: plane.telemetry() == [5, 1, 2, 3, 4])
        await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 5)
    await seal(box, 5)
    plane = Plane(welcome=wire.Welcome(session=2, pace=wire.Pace(oldest_first=True)), received=plane.received)
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: plane.telemetry() == [6, 7, 8, 9, 10])


async def test_a_link_without_acknowledgement_is_given_up_and_nothing_is_lost(box: Box) -> None:
    await seal(box, 3)
    plane = Plane(acks=False)
    async with plane.serving(), linked(box.buffer, plane) as link:
        await until(lambda: len(plane.hellos) >= 2)
        assert "no acknowledgement" in link.health.last_error
        plane.acks = True
        await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 3)
    assert plane.telemetry().count(1) >= 2


async def test_a_server_that_comes_back_gets_what_waited(box: Box) -> None:
    await seal(box, 2)
    plane = Plane()
    async with plane.serving():
        pass
    async with linked(box.buffer, plane) as link:
        await until(lambda: link.health.last_error)
        async with plane.serving():
            await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 2, within_s=20)


async def test_an_ordered_epoch_is_begun_and_said_in_the_next_hello(box: Box) -> None:
    await seal(box, 3)
    plane = Plane(orders=1)
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: sorted(plane.telemetry()) == [1, 2, 3])
    before, after = plane.hellos
    assert (before.predecessor_epoch, before.last_session, list(before.moved)) == (0, 0, [])
    assert (after.predecessor_epoch, after.run_id, after.opens) == (before.epoch, before.run_id, before.opens)
    moved = {said.lane: [(r.first, r.last) for r in said.seqs] for said in after.moved}
    assert moved == {pb.TELEMETRY: [(1, 3)], pb.URGENT: []}
    assert {batch.epoch for batch in plane.batches} == {declare.epoch for declare in plane.declares} == {after.epoch}
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(plane.hellos) == 3)
    assert (plane.hellos[2].predecessor_epoch, plane.hellos[2].last_session) == (before.epoch, 1)


async def test_a_box_that_is_suspected_says_so_keeps_all_and_goes_on_when_it_is_released(box: Box) -> None:
    await seal(box, 2)
    plane = Plane(refuses=[wire.Goodbye(reason=wire.GOODBYE_CLONE_SUSPECTED, text="two boxes", return_after_ms=400)])
    async with plane.serving(), linked(box.buffer, plane) as link:
        await until(lambda: link.health.paused)
        assert "two boxes" in link.health.last_error
        await until(lambda: sorted(plane.telemetry()) == [1, 2])
        assert not link.health.paused


async def test_a_rejected_batch_is_set_aside_with_its_gap_and_the_rest_goes_on(box: Box) -> None:
    await seal(box, 3)
    plane = Plane(rejects={2})
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 3)
        await until(lambda: plane.batches and plane.batches[-1].lane == pb.URGENT)
    lost = [gap for gap in await gaps(box.buffer) if gap.reason == pb.GAP_REJECTED]
    lost += [
        gap
        for batch in plane.batches
        if batch.lane == pb.URGENT
        for gap in await _gaps_of(box, batch)
        if gap.reason == pb.GAP_REJECTED
    ]
    assert [(r.first, r.last) for r in lost[0].seqs] == [(2, 2)]


async def _gaps_of(box: Box, batch: pb.Batch) -> list[pb.Gap]:
    schemas = {d.schema: columns.Schema.from_declare(d) for d in await box.buffer.schemas()}
    body = columns.unpack(batch.codec, batch.body, body_len=batch.body_len)
    events = columns.decode(schemas[batch.schema], body, count=batch.count).events
    return [pb.Gap.FromString(event.detail) for _, event in events if event.kind == pb.EVENT_GAP]


async def test_a_missing_schema_is_declared_again_and_the_batch_sent_again(box: Box) -> None:
    await seal(box, 1)
    plane = Plane(welcome=wire.Welcome(session=1, schema=1), asks_for_schema=1)
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 1)
    assert [d.schema for d in plane.declares] == [1]


async def test_goodbye_says_when_to_come_back(box: Box) -> None:
    bye = wire.Goodbye(reason=wire.GOODBYE_DRAINING, text="restarting", return_after_ms=1500)
    plane = Plane(says=[wire.Downlink(goodbye=bye)])
    async with plane.serving(), linked(box.buffer, plane) as link:
        await until(lambda: "restarting" in link.health.last_error)
        left = asyncio.get_running_loop().time()
        await until(lambda: len(plane.hellos) == 2)
        assert asyncio.get_running_loop().time() - left >= 1.4


async def test_gateways_sent_away_together_do_not_come_back_together(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def noted(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) % 2 == 0:
            raise EndOfStoryError

    monkeypatch.setattr("gateway.uplink.link.asyncio.sleep", noted)
    for _ in range(30):
        link = made(box.buffer, Plane())
        link._backoff = Backoff()
        monkeypatch.setattr(link, "_connection", _sent_away)
        with pytest.raises(EndOfStoryError):
            await link.run()
    knocks, returns = waits[::2], waits[1::2]
    assert len({round(one, 2) for one in knocks}) > 10
    assert len({round(one, 1) for one in returns}) > 5
    assert min(returns) >= 1.5  # no earlier than told


async def _sent_away() -> None:
    raise Dismissed("restarting", after_s=1.0)


class EndOfStoryError(Exception):
    pass


async def test_commands_and_offers_of_later_versions_are_refused_in_words(box: Box) -> None:
    command = wire.Downlink(command=wire.Command(id="c1", name="reboot"))
    offer = wire.Downlink(config_offer=wire.ConfigOffer(generation=4, hash=b"h"))
    plane = Plane(says=[command, offer])
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(plane.others) == 3)
    said = {other.WhichOneof("msg"): other for other in plane.others}
    result, status = said["command_result"].command_result, said["config_status"].config_status
    assert b'"config_version":1' in said["effective_config"].effective_config.body
    assert (result.id, result.state) == ("c1", wire.COMMAND_UNSUPPORTED)
    assert "reboot" in result.text
    assert (status.generation, status.phase) == (4, wire.CONFIG_REJECTED)


async def test_on_silence_a_heartbeat_says_how_far_both_lanes_are_complete(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.uplink.link.HEARTBEAT_EVERY_S", 0.2)
    loops = asyncio.create_task(box.buffer.run())
    plane = Plane()
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(plane.heartbeats) >= 2)
    loops.cancel()
    await asyncio.gather(loops, return_exceptions=True)
    said = plane.heartbeats[-1].lanes
    assert {one.lane for one in said} == {pb.URGENT, pb.TELEMETRY}
    assert all(one.complete_to.boot == 1 for one in said)


async def test_the_servers_pace_wins_while_connected(box: Box) -> None:
    plane = Plane(welcome=wire.Welcome(session=1, pace=wire.Pace(batch_interval_ms=2500, window=3)))
    async with plane.serving(), linked(box.buffer, plane) as link:
        await until(lambda: link.health.connected)
        assert box.buffer.batch_interval_s == 2.5
    bye = wire.Downlink(goodbye=wire.Goodbye(text="later", return_after_ms=60_000))
    plane.says.append(bye)
    async with plane.serving(), linked(box.buffer, plane) as link:
        await until(lambda: "later" in link.health.last_error)
        await until(lambda: box.buffer.batch_interval_s == 10.0)


async def test_the_first_heartbeat_and_hello_say_backlog_clock_and_configuration(box: Box) -> None:
    await seal(box, 3)
    await box.buffer.tidy()
    plane = Plane(acks=False)
    async with plane.serving(), linked(box.buffer, plane, ack_timeout_s=30):
        await until(lambda: plane.heartbeats)
    (beat,) = plane.heartbeats
    held = [batch for lane in (pb.URGENT, pb.TELEMETRY) for batch in await batches(box.buffer, lane)]
    assert beat.backlog.batches == 3
    assert beat.backlog.bytes == sum(len(b.body) for b in held if b.lane == pb.TELEMETRY)
    assert beat.backlog.oldest_wall_ms == box.clock.wall
    assert beat.running.local_management
    assert plane.hellos[0].running == beat.running
    assert plane.hellos[0].version == "test"
    assert beat.clock.source == pb.CLOCK_SERVER


async def test_while_batches_flow_the_facts_they_do_not_carry_come_too(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.uplink.link.HEARTBEAT_EVERY_S", 0.05)
    monkeypatch.setattr("gateway.uplink.link.FACTS_EVERY_S", 0.3)
    plane = Plane()
    async with plane.serving(), linked(box.buffer, plane):
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < 1.0:
            await seal(box, 1)
            await asyncio.sleep(0.01)
        assert 2 <= len(plane.heartbeats) <= 6


async def test_a_dictionary_that_comes_is_stored_used_from_the_next_batch_on_and_named_in_hello(box: Box) -> None:
    await seal_pattern(box)
    said = pattern_dictionary(await batches(box.buffer))
    plane = Plane(says=[wire.Downlink(dictionary=said)])
    async with plane.serving(), linked(box.buffer, plane):
        await until(box.buffer.dictionaries)
        await seal_pattern(box)
        await until(lambda: 2 in plane.telemetry())
    name = dictionary_id(said.sha256)
    assert [b.dictionary for b in plane.batches if b.lane == pb.TELEMETRY] == [0, name]
    assert not any(batch.dictionary for batch in plane.batches if batch.lane == pb.URGENT)
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(plane.hellos) == 2)
    assert [list(hello.dictionaries) for hello in plane.hellos] == [[], [name]]
    assert pb.CODEC_ZSTD_DICT in plane.hellos[0].codecs


async def test_a_dictionary_that_is_not_what_its_name_says_is_refused_and_all_goes_on(box: Box) -> None:
    await seal(box, 2)
    said = wire.Dictionary(sha256=b"x" * 32, data=b"something else")
    plane = Plane(says=[wire.Downlink(dictionary=said)])
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 2)
    assert (box.buffer.dictionaries(), len(plane.hellos)) == ([], 1)


async def test_a_server_restored_without_a_dictionary_gets_it_back_and_then_the_batches(box: Box) -> None:
    await seal_pattern(box)
    said = pattern_dictionary(await batches(box.buffer))
    name = dictionary_id(said.sha256)
    await box.buffer.learn(Dictionary(said.data), schema=2)
    await seal_pattern(box)
    await seal_pattern(box)
    plane = Plane(lacks={name})
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 3)
    assert plane.dictionaries == [wire.Dictionary(sha256=said.sha256, data=said.data, schema=2)]
    assert plane.telemetry().count(3) == 2, "the newest goes first, and again once the dictionary is there"


async def test_a_dictionary_that_neither_side_has_costs_only_the_batches_that_name_it(box: Box) -> None:
    await seal_pattern(box)
    said = pattern_dictionary(await batches(box.buffer))
    name = dictionary_id(said.sha256)
    await box.buffer.learn(Dictionary(said.data), schema=2)
    await seal_pattern(box)
    await seal(box, 1)
    box.buffer._store._db.execute("DELETE FROM dictionary")
    plane = Plane(lacks={name})
    async with plane.serving(), linked(box.buffer, plane):
        await until(lambda: len(box.buffer._store.lanes[pb.TELEMETRY].acked) == 3)
        await until(lambda: any(batch.lane == pb.URGENT for batch in plane.batches))
    lost = [gap for batch in plane.batches if batch.lane == pb.URGENT for gap in await _gaps_of(box, batch)]
    assert [(r.first, r.last) for gap in lost if gap.reason == pb.GAP_UNREADABLE for r in gap.seqs] == [(2, 2)]
    assert not plane.dictionaries


async def seal_pattern(box: Box) -> None:
    """The same hundred values, which no packer can shrink unless it has seen them before."""
    noise = random.Random(7)
    for _ in range(100):
        box.row(noise.randrange(30_000))
    await box.buffer.seal()


def pattern_dictionary(held: Sequence[SealedBatch]) -> wire.Dictionary:
    newest = held[-1]
    made = Dictionary(columns.unpack(newest.codec, newest.body, body_len=newest.body_len))
    return wire.Dictionary(sha256=made.sha256, data=made.data, schema=2)
