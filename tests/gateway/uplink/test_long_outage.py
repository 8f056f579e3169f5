from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from gateway.buffer.disk import DiskBuffer
from gateway.errors import Retryable
from gateway.uplink.anchors import Anchors
from gateway.uplink.link import LONG_AWAY_S, Link
from gateway.uplink.spending import Spending
from protos.config import BufferSection, UplinkSection
from tests.gateway.buffer.boxes import COOLING, TurnedClock
from tests.gateway.uplink.hand_written import by_hand


class Nowhere:
    """An endpoint that fails; each attempt turns the clock, the last ends the story."""

    def __init__(self, clock: TurnedClock, *, attempts: int, each_ms: int) -> None:
        self._clock = clock
        self._attempts = attempts
        self._each_ms = each_ms

    async def before_connecting(self) -> tuple[str, grpc.ChannelCredentials]:
        self._attempts -= 1
        if not self._attempts:
            raise EndOfStoryError
        self._clock.mono += self._each_ms
        raise Retryable("nobody answers")

    def connected(self) -> None:
        raise AssertionError

    def failed(self) -> None:
        pass


class EndOfStoryError(Exception):
    pass


async def test_after_ten_minutes_away_batches_become_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_seconds: float) -> None:
        pass

    clock = TurnedClock()
    buffer = DiskBuffer(tmp_path, clock=clock, settings=BufferSection(), batch_interval_s=10)
    await buffer.open([COOLING])
    told: list[float] = []
    link = Link(
        buffer=buffer,
        clock=clock,
        settings=UplinkSection(),
        endpoint=Nowhere(clock, attempts=5, each_ms=200_000),
        set_batch_interval=told.append,
        anchors=Anchors(clock=clock, boot=1, record=lambda _: None, kernel=lambda: None),
        version=lambda: "test",
        configuration=by_hand(tmp_path / "desired", clock),
        spending=Spending(tmp_path / "uplink-day.json", clock=clock),
    )
    monkeypatch.setattr("gateway.uplink.link.asyncio.sleep", at_once)
    with pytest.raises(EndOfStoryError):
        await link.run()
    assert told == [10.0, 10.0, LONG_AWAY_S, LONG_AWAY_S]
    monkeypatch.undo()
    await buffer.close()
