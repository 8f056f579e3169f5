"""A box without a battery clock: 1970 until the network says otherwise, then decades at once, and backwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.buffer.disk import DiskBuffer
from gateway.errors import Retryable
from gateway.identity import keeper as keeping
from gateway.identity.identity import Identity
from gateway.identity.keeper import DOUBT_AFTER, DOUBT_AGAIN_MS, Keeper
from gateway.uplink.anchors import AGAIN_AFTER_MS, Anchors
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges
from tests.faults.daemons import enrolled
from tests.gateway.buffer.boxes import Box, TurnedClock, batches, values

TRUE_MS = 1_795_000_000_000
YEAR_MS = 365 * 86_400_000


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock(mono=60_000, wall=60_000)


def anchored(clock: TurnedClock, kernel: list[int | None]) -> tuple[Anchors, list[pb.Anchor]]:
    made: list[pb.Anchor] = []
    return Anchors(clock=clock, boot=1, record=made.append, kernel=lambda: kernel[0]), made


def test_a_clock_at_1970_is_never_an_anchor(clock: TurnedClock) -> None:
    anchors, made = anchored(clock, [None])
    anchors.from_kernel()
    assert made == []
    asked = clock.mono
    clock.mono += 300
    anchors.from_server(asked_mono_ms=asked, server_ms=TRUE_MS)
    (anchor,) = made
    assert (anchor.source, anchor.mono_ms) == (pb.CLOCK_SERVER, clock.mono)
    assert abs(anchor.wall_ms - TRUE_MS) <= anchor.err_ms <= 151


def test_the_kernel_once_synchronised_makes_the_anchor_more_exact_only_where_they_disagree(clock: TurnedClock) -> None:
    kernel: list[int | None] = [None]
    anchors, made = anchored(clock, kernel)
    anchors.from_server(asked_mono_ms=clock.mono - 200, server_ms=TRUE_MS)
    kernel[0] = 5
    clock.wall = TRUE_MS + 50
    anchors.from_kernel()
    assert len(made) == 1
    clock.wall = TRUE_MS + 5_000
    anchors.from_kernel()
    assert [anchor.source for anchor in made] == [pb.CLOCK_SERVER, pb.CLOCK_NTP]
    assert made[1].wall_ms == TRUE_MS + 5_000


def test_an_anchor_is_repeated_hourly_by_the_monotonic_clock_whatever_the_wall_does(clock: TurnedClock) -> None:
    anchors, made = anchored(clock, [None])
    anchors.from_server(asked_mono_ms=clock.mono, server_ms=TRUE_MS)
    clock.wall += YEAR_MS
    clock.mono += AGAIN_AFTER_MS - 1
    anchors.from_server(asked_mono_ms=clock.mono, server_ms=TRUE_MS + AGAIN_AFTER_MS - 1)
    assert len(made) == 1
    clock.mono += 1
    anchors.from_server(asked_mono_ms=clock.mono, server_ms=TRUE_MS + AGAIN_AFTER_MS)
    assert len(made) == 2


async def test_readings_of_1970_are_kept_in_their_order_when_the_clock_leaps_and_falls_back(
    tmp_path: Path, clock: TurnedClock
) -> None:
    box = Box(tmp_path / "buffer", clock=clock)
    buffer = await box.open()
    for n, wall in enumerate((60_000, TRUE_MS, 0, TRUE_MS + YEAR_MS)):
        clock.wall = wall
        box.row(n)
        await buffer.seal()
        await buffer.tidy()
    assert await values(buffer) == [0.0, 0.1, 0.2, 0.3]
    times = [batch.complete_mono_ms for batch in await batches(buffer)]
    assert times == sorted(times)
    await buffer.close()


async def test_what_was_acknowledged_in_1970_may_go_but_what_was_not_stays(tmp_path: Path, clock: TurnedClock) -> None:
    box = Box(tmp_path / "buffer", clock=clock)
    buffer: DiskBuffer = await box.open()
    for n in range(3):
        box.row(n)
        await buffer.seal()
    await buffer.ack(pb.TELEMETRY, Ranges([(1, 2)]))
    clock.wall = TRUE_MS
    await buffer.tidy()
    (_, telemetry) = await buffer.views()
    assert telemetry.held == Ranges([(3, 3)])
    assert telemetry.next_seq == 4
    await buffer.close()


async def test_a_certificate_that_ran_out_unseen_by_a_clock_at_1970_is_renewed_after_refusals(
    tmp_path: Path, clock: TurnedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    enrolled(home, begin=datetime.fromtimestamp(TRUE_MS / 1000, UTC) - timedelta(days=400))
    asked: list[Identity] = []

    def refuse(identity: Identity) -> None:
        asked.append(identity)
        raise Retryable("the listener can't be reached")

    monkeypatch.setattr(keeping, "renew", refuse)
    keeper = Keeper(home, clock=clock)
    for _ in range(DOUBT_AFTER):
        await keeper.before_connecting()
        keeper.failed()
    assert asked == []
    await keeper.before_connecting()
    assert len(asked) == 1
    keeper.failed()
    await keeper.before_connecting()
    assert len(asked) == 1
    clock.mono += DOUBT_AGAIN_MS
    await keeper.before_connecting()
    assert len(asked) == 2


async def test_a_right_clock_asks_at_two_thirds_of_the_life_and_again_after_a_minute(
    tmp_path: Path, clock: TurnedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    begin = datetime.fromtimestamp(TRUE_MS / 1000, UTC)
    enrolled(home, begin=begin)
    asked: list[int] = []

    def refuse(_: Identity) -> None:
        asked.append(clock.mono)
        raise Retryable("the listener can't be reached")

    monkeypatch.setattr(keeping, "renew", refuse)
    keeper = Keeper(home, clock=clock)
    clock.wall = TRUE_MS + 119 * 86_400_000
    await keeper.before_connecting()
    assert asked == []
    clock.wall = TRUE_MS + 121 * 86_400_000
    for after_ms in (0, 59_999, 1):
        clock.mono += after_ms
        await keeper.before_connecting()
    assert len(asked) == 2
