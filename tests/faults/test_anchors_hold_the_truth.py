"""Whatever the clocks of a box do, every instant's error covers the truth: anchors as made, mapping as used."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from control_plane.projections.walltime import Anchored, WallTime
from gateway.uplink.anchors import Anchors
from gateway.uplink.hardware_clock import HardwareClock
from protos.comboio.v1 import batch_pb2 as pb

TRUE_MS = 1_795_000_000_000
HOUR_MS = 3_600_000
NTP_ERR_MS = 8


@dataclass
class World:
    """The truth, and what a box sees of it: a boot clock that drifts, a system clock, a battery clock."""

    folder: Path
    drift: float = 0.0
    true_ms: int = TRUE_MS
    booted_ms: int = TRUE_MS
    system_off_ms: int = 0
    ntp: bool = False
    battery: Callable[[int], int | None] = lambda true_ms: true_ms
    made: list[pb.Anchor] = field(default_factory=list)
    seen: list[tuple[int, int]] = field(default_factory=list)

    def boot_id(self) -> bytes:
        return b"b" * 16

    def mono_ms(self) -> int:
        return round((self.true_ms - self.booted_ms) * (1 + self.drift))

    def wall_ms(self) -> int:
        return self.true_ms + self.system_off_ms

    def boot(self) -> Anchors:
        self.booted_ms, self.made, self.seen = self.true_ms, [], []

        def shown() -> int | None:
            told = self.battery(self.true_ms)
            return None if told is None else told // 1000 * 1000 + 500

        hardware = HardwareClock(self.folder / "hardware-clock.json", shown=shown)
        kernel = lambda: NTP_ERR_MS if self.ntp else None  # noqa: E731
        anchors = Anchors(clock=self, boot=1, record=self.made.append, kernel=kernel, hardware=hardware)
        self.hardware = hardware
        return anchors

    def live(self, anchors: Anchors, for_ms: int, *, step_ms: int = 10_000) -> None:
        """As `Anchors.run` does, every ten seconds; each look is an instant whose truth is known."""
        for _ in range(for_ms // step_ms):
            self.true_ms += step_ms
            anchors.from_kernel()
            anchors.from_hardware()
            self.hardware.save()
            self.seen.append((self.mono_ms(), self.true_ms))

    def check(self) -> None:
        assert self.made
        wall = WallTime([Anchored(one.mono_ms, one.wall_ms, one.err_ms) for one in self.made])
        mono = np.array([mono for mono, _ in self.seen], np.int64)
        truth = np.array([true for _, true in self.seen], np.int64)
        off = np.abs(wall.to_wall(mono) - truth) - wall.errors_ms(mono)
        assert off.max() <= 0, f"off by {off.max()} ms more than its error at {int(mono[off.argmax()])}"


@pytest.mark.parametrize("drift", [-90e-6, 0.0, 90e-6])
@pytest.mark.parametrize("jump_ms", [-86_400_000, -5000, 5000, 3 * 86_400_000])
def test_a_system_clock_that_jumps(tmp_path: Path, drift: float, jump_ms: int) -> None:
    """By NTP, which only vouches for it afterwards."""
    world = World(tmp_path, drift=drift, system_off_ms=-jump_ms, battery=lambda _: None)
    anchors = world.boot()
    world.live(anchors, HOUR_MS)
    anchors.from_server(asked_mono_ms=world.mono_ms(), server_ms=world.true_ms)
    world.live(anchors, HOUR_MS)
    world.system_off_ms, world.ntp = 0, True
    world.live(anchors, 5 * HOUR_MS)
    world.check()


@pytest.mark.parametrize("stepped", [True, False])
def test_a_leap_second_stepped_or_smeared(tmp_path: Path, stepped: bool) -> None:
    """23:59:60 is counted by no POSIX clock: stepped, a second comes twice; smeared, a day is a second longer."""
    world = World(tmp_path, ntp=True, battery=lambda _: None)
    anchors = world.boot()
    leap_ms = TRUE_MS + 30 * HOUR_MS
    for _ in range(60 * 360):
        world.true_ms += 10_000
        past = world.true_ms - leap_ms
        smeared = min(1.0, max(0.0, (past + 12 * HOUR_MS) / (24 * HOUR_MS)))
        world.system_off_ms = -round(1000 * (smeared if not stepped else float(past >= 0)))
        anchors.from_kernel()
        world.seen.append((world.mono_ms(), world.wall_ms()))
    world.check()


def test_the_battery_clock_speaks_until_somebody_better_does(tmp_path: Path) -> None:
    chance = random.Random(4)
    world = World(tmp_path, drift=50e-6, ntp=True)
    world.live(world.boot(), 2 * HOUR_MS)
    for _ in range(40):
        drift, since = chance.uniform(-95e-6, 95e-6), world.true_ms
        world.battery = lambda true_ms, drift=drift, since=since: true_ms + round((true_ms - since) * drift)  # type: ignore[misc]
        world.true_ms += chance.choice((0, chance.randrange(300_000), chance.randrange(300 * 24 * HOUR_MS)))
        world.ntp = False
        anchors = world.boot()
        world.live(anchors, HOUR_MS)
        assert [one.source for one in world.made] == [pb.CLOCK_RTC]
        assert world.made[0].err_ms >= 1000
        world.check()
        world.ntp = True
        world.live(anchors, HOUR_MS)
        assert [one.source for one in world.made][:2] == [pb.CLOCK_RTC, pb.CLOCK_NTP]
        world.check()


def test_a_battery_clock_that_was_wrong_and_is_set_right_meanwhile_is_within_its_error(tmp_path: Path) -> None:
    world = World(tmp_path, ntp=True, battery=lambda true_ms: true_ms + 7_200_000)
    world.live(world.boot(), HOUR_MS)
    for ahead_ms in (7_200_000, 0):
        world.battery = lambda true_ms, ahead_ms=ahead_ms: true_ms + ahead_ms  # type: ignore[misc]
        world.ntp = False
        world.live(world.boot(), HOUR_MS)
        assert world.made[0].source == pb.CLOCK_RTC
        world.check()


@pytest.mark.parametrize("battery", [lambda true_ms: true_ms - TRUE_MS, lambda _: None])
def test_a_battery_clock_at_1970_or_none_says_nothing(tmp_path: Path, battery: Callable[[int], int | None]) -> None:
    world = World(tmp_path, ntp=True)
    world.live(world.boot(), HOUR_MS)
    world.battery, world.ntp = battery, False
    world.live(world.boot(), HOUR_MS)
    assert world.made == []


def test_a_battery_clock_that_nobody_ever_vouched_for_says_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.live(world.boot(), HOUR_MS)
    assert world.made == []
    (tmp_path / "hardware-clock.json").write_text("{")
    world.live(world.boot(), HOUR_MS)
    assert world.made == []
