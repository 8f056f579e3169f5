"""The power fails: what was taken is safe in time, nothing is promised after it, and the box goes on by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.buffer.disk import DiskBuffer
from gateway.errors import Rejected
from gateway.power import PowerFail
from gateway.reading import Row
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from tests.gateway.buffer.boxes import Box, batches, plain, values


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Box]:
    box = Box(tmp_path / "buffer", settings=BufferSection(sync_every_s=30))
    await box.open()
    yield box
    box.buffer.resume()
    await box.buffer.close()


@asynccontextmanager
async def running(box: Box, fail_input: str = "") -> AsyncIterator[PowerFail]:
    power = PowerFail(buffer=box.buffer, clock=box.clock, fail_input=lambda: fail_input)
    async with power.listening():
        tasks = [asyncio.create_task(box.buffer.run()), asyncio.create_task(power.run())]
        await asyncio.sleep(0)
        try:
            yield power
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.005)


async def said(buffer: DiskBuffer) -> list[str]:
    found = []
    for batch in await batches(buffer, pb.URGENT):
        body = pb.Body.FromString(await plain(buffer, batch))
        found += [event.detail.decode() for event in body.events if event.kind == pb.EVENT_INTEGRITY]
    return found


async def test_on_sigpwr_what_was_taken_is_durable_and_the_failure_is_told_at_the_next_start(box: Box) -> None:
    async with running(box) as power:
        box.row(7)
        os.kill(os.getpid(), signal.SIGPWR)
        await until(lambda: power.took_ms is not None)
        assert box.buffer._synced_ticket == 1
    await box.kill()
    buffer = await box.open()
    assert await values(buffer) == [0.7]
    assert any(text.startswith("power failed at 2023-") for text in await said(buffer))


async def test_nothing_is_written_or_confirmed_after_it(box: Box) -> None:
    async with running(box) as power:
        os.kill(os.getpid(), signal.SIGPWR)
        await until(lambda: power.took_ms is not None)
        end = box.buffer._tail.end
        box.clock.mono += 1000
        receipt = asyncio.create_task(box.buffer.append(box.ids[0], Row(box.clock.mono, (1, 1))).durable())
        with pytest.raises(Rejected, match="the power is failing"):
            box.buffer.event(pb.EVENT_FIELD_ACT, b"delivered")
        await asyncio.sleep(0.4)
        assert box.buffer._tail.end == end
        assert not receipt.done()
        box.buffer.resume()
        await asyncio.wait_for(receipt, 10)


async def test_a_fifo_tells_of_failure_and_return(box: Box, tmp_path: Path) -> None:
    fifo = tmp_path / "power"
    os.mkfifo(fifo)
    line = os.open(fifo, os.O_RDWR)
    async with running(box, str(fifo)) as power:
        os.write(line, b"1\n")
        await until(lambda: power.took_ms is not None)
        assert not box.buffer._power.is_set()
        os.write(line, b"0\n")
        await until(box.buffer._power.is_set)
        await until(lambda: box.buffer._urgent.empty)
        assert [text.partition(" at ")[0] for text in await said(box.buffer)] == ["power failed", "power failed"]
        assert "went on after" in (await said(box.buffer))[1]
        power.took_ms = None
        os.write(line, b"1")
        await until(lambda: power.took_ms is not None)
    os.close(line)


async def test_a_file_that_reads_one_is_a_failure_once(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.power.HOLD_S", 0.1)
    value = tmp_path / "value"
    value.write_text("0\n")
    async with running(box, str(value)) as power:
        value.write_text("1\n")
        await until(lambda: power.took_ms is not None)
        power.took_ms = None
        await until(box.buffer._power.is_set)  # still 1: the box runs on something
        await asyncio.sleep(0.2)
        assert power.took_ms is None
        value.write_text("0\n")
        await asyncio.sleep(0.1)
        value.write_text("1\n")
        await until(lambda: power.took_ms is not None)


async def test_an_input_that_cannot_be_read_is_an_error_of_its_own(box: Box, tmp_path: Path) -> None:
    power = PowerFail(buffer=box.buffer, clock=box.clock, fail_input=lambda: str(tmp_path / "none"))
    with pytest.raises(ExceptionGroup) as raised:
        await power.run()
    assert raised.group_contains(FileNotFoundError)
    assert box.buffer._power.is_set()


async def test_it_is_safe_in_time(box: Box) -> None:
    async with running(box):
        for n in range(200):
            box.row(n, after_ms=10)
        began = time.monotonic()
        await box.buffer.secure()
        assert time.monotonic() - began < 2.0  # 0.05 on a machine that has nothing else to do
