from __future__ import annotations

import asyncio
import random

import pytest

from gateway.backoff import Backoff
from gateway.uplink.anchors import AGAIN_AFTER_MS, Anchors
from protos.comboio.v1 import batch_pb2 as pb
from tests.gateway.buffer.boxes import TurnedClock


def anchors(clock: TurnedClock, kernel: int | None = None) -> tuple[Anchors, list[pb.Anchor]]:
    made: list[pb.Anchor] = []
    return Anchors(clock=clock, boot=3, record=made.append, kernel=lambda: kernel), made


def test_without_ntp_the_servers_time_is_taken_with_half_the_round_trip_as_error() -> None:
    clock = TurnedClock(mono=10_400, wall=0)  # an RTC at 1970
    keeper, made = anchors(clock)
    keeper.from_server(asked_mono_ms=10_000, server_ms=1_800_000_000_000)
    (one,) = made
    assert (one.boot, one.mono_ms, one.wall_ms) == (3, 10_400, 1_800_000_000_200)
    assert (one.err_ms, one.source) == (201, pb.CLOCK_SERVER)


def test_a_synchronised_kernel_clock_is_better_than_the_server() -> None:
    clock = TurnedClock(mono=10_000, wall=1_800_000_000_000)
    keeper, made = anchors(clock, kernel=5)
    keeper.from_server(asked_mono_ms=9_000, server_ms=1_700_000_000_000)
    (one,) = made
    assert (one.wall_ms, one.err_ms, one.source) == (1_800_000_000_000, 5, pb.CLOCK_NTP)


def test_a_new_anchor_is_made_only_hourly_or_when_the_last_one_is_wrong() -> None:
    clock = TurnedClock(mono=0, wall=1_000_000)
    keeper, made = anchors(clock, kernel=10)
    keeper.from_kernel()
    clock.mono, clock.wall = 60_000, 1_060_015  # 15 ms off, both errors together allow 20
    keeper.from_kernel()
    assert len(made) == 1
    clock.wall += 10
    keeper.from_kernel()
    assert len(made) == 2
    clock.mono, clock.wall = clock.mono + AGAIN_AFTER_MS, clock.wall + AGAIN_AFTER_MS
    keeper.from_kernel()
    assert len(made) == 3


def test_an_unsynchronised_kernel_makes_no_anchor() -> None:
    keeper, made = anchors(TurnedClock())
    keeper.from_kernel()
    assert made == []


def test_backoff_stays_within_its_bounds_and_spreads_even_the_first_retry() -> None:
    first = {round(Backoff(rng=random.Random(seed)).next_s(), 3) for seed in range(50)}
    assert len(first) > 40
    backoff = Backoff(base_s=0.5, cap_s=60.0, rng=random.Random(1))
    delays = [backoff.next_s() for _ in range(200)]
    assert min(delays) >= 0.5
    assert max(delays) == 60.0
    backoff.reset()
    assert backoff.next_s() <= 1.5


async def test_a_boot_without_a_link_is_placed_as_soon_as_the_kernel_vouches(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, kernel = TurnedClock(mono=10_000, wall=1_800_000_000_000), [None, None, 4]
    made: list[pb.Anchor] = []
    looks = iter([*kernel, asyncio.CancelledError()])

    def look() -> int | None:
        found = next(looks)
        if isinstance(found, BaseException):
            raise found
        return found

    async def at_once(_: float) -> None:
        clock.mono += 10_000
        clock.wall += 10_000

    monkeypatch.setattr("gateway.uplink.anchors.asyncio.sleep", at_once)
    with pytest.raises(asyncio.CancelledError):
        await Anchors(clock=clock, boot=3, record=made.append, kernel=look).run()
    assert [(one.mono_ms, one.source) for one in made] == [(30_000, pb.CLOCK_NTP)]
