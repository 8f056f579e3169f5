"""Days of polls over a bad line in seconds: the clock jumps over every wait. Nothing wrong, and nothing that grows.

20 minutes ordinarily, `COMBOIO_EFFORT` times as long on request: 216 makes 72 hours.
"""

from __future__ import annotations

import asyncio
import gc
import random
import selectors
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from firmware_configs.loader import Profiles
from gateway.reading import Lost, Row
from gateway.sensors import modbus_connection, modbus_hearing, modbus_link
from gateway.sensors.modbus import ModbusSensor
from gateway.sensors.modbus_bus import ModbusBus
from gateway.sensors.modbus_connection import Connection
from gateway.sensors.modbus_poll import SharedPoll
from gateway.simulators.counting import counting
from gateway.simulators.modbus_framing import Framing, Request
from gateway.simulators.modbus_line import Line
from protos import config
from tests.effort import tries
from tests.gateway.sensors.modbus_ends import SERIAL
from tests.gateway.sensors.modbus_peer import NOT_TOLD, ONLY_TCP, WAYS, Peer, peered

LONG_S = 20 * 60
EVERY_S = 1.0
LINGER_S, LONGEST_S = 0.0002, 5.0
"""Real time in which what is on its way arrives before the clock jumps."""
REQUESTS = 10
"""Of one poll, at most."""
MORE_OBJECTS, MORE_BYTES = 3000, 12_000_000


class _Jumping(selectors.EpollSelector):
    """Waits for nobody: where nothing is ready, the wait is over at once."""

    ahead_s = 0.0
    on_its_way: Callable[[], bool] = staticmethod(lambda: False)
    """Whether the system has yet to hand something over: a busy one takes a while, and that is no silence."""

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or not timeout:
            return ready
        patience = time.monotonic() + LONGEST_S
        while self.on_its_way() and time.monotonic() < patience:
            if ready := super().select(LINGER_S):
                return ready
        self.ahead_s += timeout
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return time.monotonic() + self.jumping.ahead_s


class _Clock:
    """The loop's time for everybody."""

    def __init__(self, loop: _Loop) -> None:
        self.monotonic = loop.time

    def mono_ms(self) -> int:
        return round(self.monotonic() * 1000)

    def wall_ms(self) -> int:
        return self.mono_ms()


@dataclass(slots=True)
class _Flight:
    """What was sent and not taken yet, either way."""

    connection: Connection
    peer: Peer
    questions: int = 0
    answers: int = 0

    def __post_init__(self) -> None:
        hooks, answer, connected = self.connection.on_bytes, self.peer.answer, self.connection.hearing.connected

        def on_bytes(sending: bool, data: bytes) -> bytes:
            if sending:
                self.questions += 1
            else:
                self.answers -= len(data)
            return hooks(sending, data)

        def answering(request: Request, framing: Framing, line: Line) -> None:
            self.questions -= 1
            answer(request, framing, _Counted(line, self))

        def afresh() -> None:
            self.questions = self.answers = 0
            connected()

        self.connection.on_bytes = on_bytes  # type: ignore[method-assign]
        self.connection.hearing.connected = afresh  # type: ignore[method-assign]
        self.peer.answer = answering  # type: ignore[method-assign]

    def __bool__(self) -> bool:
        return self.connection.client is not None and (self.questions > 0 or self.answers > 0)


@dataclass(slots=True)
class _Counted:
    """A line that tells how many bytes go out on it."""

    line: Line
    flight: _Flight

    def send(self, data: bytes) -> None:
        self.flight.answers += len(data)
        self.line.send(data)

    def trickle(self, data: bytes, every_s: float) -> None:
        loop = asyncio.get_running_loop()
        for n in range(len(data)):
            loop.call_later(n * every_s, self.send, data[n : n + 1])

    def reset(self) -> None:
        self.line.reset()


@dataclass(slots=True)
class _Judge:
    """Takes rows, keeps none."""

    peer: Peer
    rows: int = 0
    lost_reads: int = 0
    last: int = 0

    def row(self, group: int, row: Row) -> None:
        """Refusals make several requests of one: each value is of a read of its own, and of this very poll."""
        assert group == 0
        before = self.last
        for n, value in enumerate(row.values):
            if value is None:
                continue  # refused too often
            assert isinstance(value, int)
            k = (value - counting(unit=1, address=n, k=0)) % 65536
            assert (self.peer.asked - k) % 65536 < REQUESTS, "a wrong value, or an older answer"
            assert k != before, "an answer twice"
            self.last = k
        self.rows += 1

    def lost(self, group: int, lost: Lost) -> None:
        assert group == 0
        self.lost_reads += lost.reads


def _held() -> Mapping[str, int]:
    gc.collect()
    process = psutil.Process()
    return {
        "objects": len(gc.get_objects()),
        "bytes": process.memory_info().rss,
        "files": process.num_fds(),
        "tasks": len(asyncio.all_tasks()),
    }


async def _bad_days(
    kind: str, folder: Path, clock: _Clock, jumping: _Jumping, long_s: float
) -> tuple[_Judge, list[Mapping[str, int]]]:
    noise = random.Random(72)
    ways = [way for way in WAYS if way not in ONLY_TCP | NOT_TOLD or kind not in SERIAL]
    held = []
    async with peered(kind, folder, timeout_s=0.2) as (peer, link):
        judge = _Judge(peer)
        flight = _Flight(link._connection, peer)
        jumping.on_its_way = lambda: bool(flight)
        bus = ModbusBus(options=config.TcpBus(id="b", host="unused"), link=link)
        wanted = config.ModbusSensor(id="s", bus="b", profile="comboio-counter-10@1", every_s=EVERY_S)
        profile = Profiles().modbus(wanted.profile)
        poll = SharedPoll(unit=1, every_s=EVERY_S, profile=profile, bus=bus, clock=clock, name="s")  # type: ignore[arg-type]
        sensor = ModbusSensor(options=wanted, poll=poll, clock=clock)  # type: ignore[arg-type]
        running = [asyncio.create_task(bus.run()), asyncio.create_task(sensor.run(judge))]  # type: ignore[arg-type]
        began_s = clock.monotonic()
        for part in (0.2, 0.6, 1.0):
            while clock.monotonic() < began_s + part * long_s and not any(task.done() for task in running):
                _spoil(peer, noise, ways)
                await asyncio.sleep(EVERY_S)
            held.append(_held())
        for task in running:
            task.cancel()
        ended = await asyncio.gather(*running, return_exceptions=True)
    assert [type(end) for end in ended] == [asyncio.CancelledError] * 2, ended
    return judge, held


def _spoil(peer: Peer, noise: random.Random, ways: list[str]) -> None:
    """One answer in five, and now and then a while of silence."""
    if not peer.script and noise.random() < 0.2:
        peer.script.append(noise.choice(ways))
        if noise.random() < 0.02:
            peer.script += ["silent"] * 20


@pytest.mark.parametrize("kind", ["tcp", "rtu"])
def test_nothing_grows_over_days_of_a_bad_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = _Loop()
    clock = _Clock(loop)
    for module in (modbus_connection, modbus_hearing, modbus_link):
        monkeypatch.setattr(module, "time", clock)
    long_s = tries(LONG_S)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        judge, (early, _, late) = runner.run(_bad_days(kind, tmp_path, clock, loop.jumping, long_s))
    polls = long_s / EVERY_S
    print(f"{kind}: {polls:.0f} polls, {judge.rows} rows, {judge.lost_reads} reads lost, {early} → {late}")
    assert judge.rows >= 0.2 * polls, (judge, polls)
    assert judge.lost_reads >= 0.02 * polls
    assert late["objects"] - early["objects"] < MORE_OBJECTS, (early, late)
    assert late["bytes"] - early["bytes"] < MORE_BYTES, (early, late)
    assert late["tasks"] == early["tasks"]
    assert abs(late["files"] - early["files"]) <= 2
