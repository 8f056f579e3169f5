from __future__ import annotations

import asyncio
import json
import time

import pytest

from gateway.clock import SystemClock
from gateway.errors import Retryable
from gateway.simulators.gpsd import SimulatedGpsd
from gateway.uplink import gps
from gateway.uplink.anchors import Anchors
from gateway.uplink.gps import Gpsd
from protos.comboio.v1 import batch_pb2 as pb

AHEAD_MS = 40 * 86_400_000
CLOCK = SystemClock()


def true_ms() -> int:
    """This machine's clock is wrong by forty days, says the receiver."""
    return time.time_ns() // 1_000_000 + AHEAD_MS


async def listening(simulated: SimulatedGpsd, made: list[pb.Anchor], *, until: int = 1) -> None:
    """Run the product's side until so many anchors were made."""
    anchors = Anchors(clock=CLOCK, boot=1, record=made.append, kernel=lambda: None)
    await simulated.start()
    gpsd = Gpsd(f"127.0.0.1:{simulated.port}", clock=CLOCK, offer=anchors.from_gps)
    running = asyncio.create_task(gpsd.run())
    try:
        async with asyncio.timeout(8):
            while len(made) < until:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await simulated.close()


@pytest.mark.parametrize(("latency_s", "ept_s"), [(0.0, 0.005), (0.08, None)])
async def test_the_truth_lies_within_the_error_of_a_satellite_anchor(latency_s: float, ept_s: float | None) -> None:
    made: list[pb.Anchor] = []
    simulated = SimulatedGpsd(wall_ms=true_ms, every_s=0.1, latency_s=latency_s, ept_s=ept_s)
    await listening(simulated, made)
    offset_ms = true_ms() - CLOCK.mono_ms()
    assert made[0].source == pb.CLOCK_GPS
    assert abs(made[0].wall_ms - made[0].mono_ms - offset_ms) <= made[0].err_ms + 2


async def test_without_a_fix_it_says_nothing() -> None:
    made: list[pb.Anchor] = []
    simulated = SimulatedGpsd(wall_ms=true_ms, every_s=0.02, latency_s=0.0)
    await simulated.command("mode 1")

    async def later() -> None:
        await asyncio.sleep(0.15)
        assert made == []
        await simulated.command("mode 2")

    await asyncio.gather(listening(simulated, made), later())
    with pytest.raises(ValueError, match="say mode"):
        await simulated.command("mode 9")


async def test_ntp_that_is_surer_is_not_replaced() -> None:
    made: list[pb.Anchor] = []
    anchors = Anchors(clock=CLOCK, boot=1, record=made.append, kernel=lambda: 5)
    anchors.from_gps(CLOCK.mono_ms(), true_ms(), 50)
    assert made == []


async def test_nobody_there_is_tried_again_and_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Retryable, match="gpsd at 127"):
        await Gpsd("127.0.0.1:1", clock=CLOCK, offer=lambda *_: None).run()
    monkeypatch.setattr(gps, "SILENT_S", 0.1)
    simulated = SimulatedGpsd(every_s=9.0, latency_s=9.0)
    await simulated.start()
    with pytest.raises(Retryable, match="gpsd"):
        await Gpsd(f"127.0.0.1:{simulated.port}", clock=CLOCK, offer=lambda *_: None).run()
    await simulated.close()


@pytest.mark.parametrize(
    "said",
    [
        b"nonsense",
        b"[]",
        b"5",
        {"class": "SKY"},
        {"class": "TPV"},
        {"class": "TPV", "mode": 3},
        {"class": "TPV", "mode": 1, "time": "2026-11-23T10:00:00Z"},
        {"class": "TPV", "mode": 3, "time": "2026-11-23T10:00:00"},
        {"class": "TPV", "mode": 3, "time": 7},
        {"class": "TPV", "mode": 3, "time": "2026-11-23T10:00:00Z", "ept": "much"},
        {"class": "TPV", "mode": 3, "time": "2026-11-23T10:00:00Z", "ept": 1e300},
        {"class": "TPV", "mode": None, "time": "2026-11-23T10:00:00Z"},
    ],
)
def test_what_can_not_be_used_is_passed_over(said: bytes | dict[str, object]) -> None:
    line = said if isinstance(said, bytes) else json.dumps(said).encode()
    assert gps._fix(line) is None
