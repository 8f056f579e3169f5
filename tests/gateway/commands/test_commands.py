"""What a command becomes: once, in time, read back, and said as it is, wherever the gateway was stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from firmware_configs.budget import Request
from gateway.commands import book as books
from gateway.commands.book import Book, Entry
from gateway.errors import Rejected
from gateway.sensors.modbus_bus import ModbusBus
from gateway.sensors.modbus_frames import ReadFailed
from gateway.sensors.modbus_writes import Write as Request_
from gateway.simulators.faults import Fault
from gateway.simulators.modbus_written import Misbehaviour
from protos import config
from protos.commands import Write
from tests.gateway.commands.rig import Plant, plant, said, state
from tests.gateway.sensors.rig import until


def misbehaves(here: Plant, **how: Any) -> None:
    here.device._units[1].writes.tell(Misbehaviour(**how))


async def test_a_command_is_written_read_back_and_told(tmp_path: Path) -> None:
    async with plant(tmp_path) as here, here.running():
        result = await here.asked(here.command("setpoint", -4.5, expect=0))
        assert (state(result), result.text) == ("DONE", "done")
        assert (said(result).before, said(result).holds) == (0.0, -4.5)
        assert [(one.function, one.address, one.words) for one in here.written] == [(6, 0, (0x10000 - 45,))]


@pytest.mark.parametrize(
    ("quantity", "value", "function", "holds"),
    [
        ("energy_limit", 21.3, 16, 21.299999237060547),
        ("mode", "defrost", 6, 2),
        ("fan_always", True, 22, True),
        ("room_name", "dock 4", 16, "dock 4"),
        ("high_limit", 8.25, 23, 8.25),
        ("light", True, 5, True),
        ("night_mode", True, 15, True),
    ],
)
async def test_each_kind_of_register_by_its_function(
    tmp_path: Path, quantity: str, value: Any, function: int, holds: Any
) -> None:
    async with plant(tmp_path) as here, here.running():
        result = await here.asked(here.command(quantity, value))
        assert (state(result), said(result).holds) == ("DONE", holds), result.text
        assert [one.function for one in here.written] == [function]


async def test_a_part_of_a_register_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    async with plant(tmp_path) as here, here.running():
        here.device._units[1].writes._kept[("holding", 5)] = [(0.0, 0b10000)]  # the buzzer is on
        assert state(await here.asked(here.command("fan_always", True))) == "DONE"
        assert here.device._units[1].read(3, 5, 1, 10.0).words == [0b11000]  # type: ignore[union-attr]


async def test_the_same_id_again_is_told_the_same_and_writes_nothing(tmp_path: Path) -> None:
    async with plant(tmp_path) as here:
        command = here.command("setpoint", 2)
        async with here.running():
            first = await here.asked(command)
            assert await here.asked(command) == first
        async with here.running():
            assert await here.asked(command) == first
        assert state(first) == "DONE"
        assert len(here.written) == 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"quantity": "setpoint", "value": 31}, "31 is above 30, the most it may be set to"),
        ({"quantity": "setpoint", "value": 2.25}, "more decimals than the 1 the device keeps"),
        ({"quantity": "differential", "value": 1}, "does not say that differential may be written"),
        ({"quantity": "light", "value": True}, "allow_write lacks 'light'"),
        ({"quantity": "nothing", "value": 1}, "has no nothing"),
        ({"quantity": "setpoint", "value": 1, "sensor": "freezer"}, "there is no sensor freezer"),
        ({"quantity": "setpoint", "value": 1, "expected_generation": 6}, "meant for configuration 6, and 7 runs here"),
        ({"quantity": "setpoint", "value": 1, "expect": 5}, "setpoint is 0, not 5; nothing was written"),
        ({"quantity": "mode", "value": "heat"}, "'heat' is none of off, cooling, defrost"),
    ],
)
async def test_refusals_have_words_and_write_nothing(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    async with plant(tmp_path, allowed=("setpoint", "mode")) as here, here.running():
        result = await here.asked(here.command(**more))
        assert state(result) == "FAILED"
        assert words in result.text
        assert not here.written


async def test_nothing_may_be_written_unless_the_configuration_says_so(tmp_path: Path) -> None:
    async with plant(tmp_path, allowed=()) as here, here.running():
        assert "allow_write" in (await here.asked(here.command("setpoint", 1))).text


async def test_what_nobody_signed_or_nobody_understands_is_answered_and_not_taken(tmp_path: Path) -> None:
    async with plant(tmp_path) as here, here.running() as commands:
        forged = here.command("setpoint", 1)
        forged.ttl_ms += 1
        unknown, garbled = here.command("setpoint", 1, name="dance"), here.command("setpoint", 1, arguments=b"{")
        endless = here.command("setpoint", 1, ttl_ms=86_400_001)
        answers = [commands.commanded(one) for one in (forged, unknown, garbled, endless)]
        assert [state(answer) for answer in answers if answer] == ["FAILED", "UNSUPPORTED", "FAILED", "FAILED"]
        words = [answer.text for answer in answers if answer]
        assert "not signed by the key" in words[0]
        assert "does not know the command 'dance'" in words[1]
        assert "can't be read" in words[2]
        assert not here.told.events
        assert not here.written


async def test_a_command_whose_time_is_over_is_not_written(tmp_path: Path) -> None:
    async with plant(tmp_path) as here:
        async with here.running(bus=False) as commands:  # the bus has no time for it
            assert commands.commanded(here.command("setpoint", 1, ttl_ms=5000)) is None
            await until(lambda: here.bus._commands)
            here.clock.mono += 5000
            bus = asyncio.create_task(here.bus.run())
            await until(lambda: here.told.events)
            bus.cancel()
            await asyncio.gather(bus, return_exceptions=True)
        assert [state(result) for result in here.told.results()] == ["EXPIRED"]
        async with here.running():
            assert state(await here.asked(here.command("setpoint", 1, ttl_ms=0))) == "EXPIRED"
        assert not here.written


async def test_a_device_that_does_otherwise_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.commands.write.LOOKS_FOR_S", 0.6)
    async with plant(tmp_path) as here, here.running():
        misbehaves(here, write="ignore")
        result = await here.asked(here.command("setpoint", 3))
        assert (state(result), result.text) == ("FAILED", "the device answered the write and holds 0, not 3")
        misbehaves(here, write="instead", value=20)
        result = await here.asked(here.command("setpoint", 3))
        assert (state(result), said(result).holds) == ("FAILED", 2.0)
        assert len(here.written) == 2


async def test_a_device_that_needs_a_moment_is_given_it(tmp_path: Path) -> None:
    async with plant(tmp_path) as here, here.running():
        misbehaves(here, write="late", delay_s=0.5)
        assert state(await here.asked(here.command("setpoint", 3))) == "DONE"


async def test_a_device_that_refuses_was_not_changed(tmp_path: Path) -> None:
    async with plant(tmp_path) as here, here.running():
        here.device.faults.add(Fault(fault="exception", code=3, times=1))
        result = await here.asked(here.command("setpoint", 3))
        assert state(result) == "FAILED"
        assert "exception 3 (illegal data value); nothing was written" in result.text


@pytest.mark.parametrize("code", [4, 5, 11])
async def test_an_exception_after_which_it_may_have_acted_is_no_refusal(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.commands.write.LOOKS_FOR_S", 0.1)
    async with plant(tmp_path) as here, here.running():
        here.device.faults.add(Fault(fault="exception", code=code, times=1))
        result = await here.asked(here.command("setpoint", 3))
        assert (state(result), said(result).holds) == ("UNCERTAIN", 0.0)


async def test_an_answer_that_is_lost_is_found_by_reading_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.commands.write.LOOKS_FOR_S", 0.6)
    async with plant(tmp_path) as here, here.running():
        here.device.faults.add(Fault(fault="drop", times=1))
        result = await here.asked(here.command("setpoint", 3))
        assert state(result) == "DONE"
        assert result.text.startswith("done; found by reading it back (")
        here.device.faults.add(Fault(fault="drop", times=1))
        misbehaves(here, write="ignore")
        result = await here.asked(here.command("setpoint", 4))
        assert (state(result), said(result).holds) == ("UNCERTAIN", 3.0)
        here.device.faults.add(Fault(fault="drop"))
        result = await here.asked(here.command("setpoint", 5))
        assert state(result) == "UNCERTAIN"
        assert "could not be read back" in result.text
        assert len(here.written) == 3


@pytest.mark.parametrize(("heard", "becomes", "holds"), [(True, "DONE", 3.0), (False, "UNCERTAIN", 0.0)])
async def test_killed_between_write_and_result_the_next_start_reads_and_says_what_is_true(
    tmp_path: Path, heard: bool, becomes: str, holds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.commands.write.LOOKS_FOR_S", 0.3)
    async with plant(tmp_path) as here:
        here.device.faults.add(Fault(fault="drop"))
        if not heard:
            misbehaves(here, write="ignore")
        command = here.command("setpoint", 3)
        async with here.running() as commands:
            commands.commanded(command)
            await until(lambda: here.written)
        assert not here.told.events
        here.device.faults.clear()
        here.clock.boot = b"c" * 16  # whether or not the box was started anew
        async with here.running():
            await until(lambda: here.told.events)
        (result,) = here.told.results()
        assert (state(result), said(result).holds) == (becomes, holds)
        assert ("found after a restart" if heard else "stopped while it was written") in result.text
        assert len(here.written) == 1


async def test_killed_between_receipt_and_write_it_is_written_once_while_its_time_lasts(tmp_path: Path) -> None:
    async with plant(tmp_path) as here:
        async with here.running(bus=False) as commands:
            commands.commanded(here.command("setpoint", 3))
            await until(lambda: here.bus._commands)
        async with here.running():
            await until(lambda: here.told.events)
        assert [state(result) for result in here.told.results()] == ["DONE"]
        assert len(here.written) == 1


async def test_a_reboot_ends_what_was_not_begun(tmp_path: Path) -> None:
    async with plant(tmp_path) as here:
        async with here.running(bus=False) as commands:
            commands.commanded(here.command("setpoint", 3))
            await until(lambda: here.bus._commands)
        here.clock.boot, here.clock.mono = b"c" * 16, 1
        async with here.running():
            await until(lambda: here.told.events)
        assert [state(result) for result in here.told.results()] == ["EXPIRED"]
        assert not here.written


async def test_a_result_is_told_until_it_is_durable(tmp_path: Path) -> None:
    async with plant(tmp_path) as here:
        here.told.durably.clear()
        async with here.running():
            await here.asked(here.command("setpoint", 3))
        here.told.durably.set()
        async with here.running():
            await until(lambda: len(here.told.events) == 2)
            await until(lambda: not here.commands._book.unfinished())
        async with here.running():
            assert not here.commands._book.unfinished()
        assert here.told.events[0] == here.told.events[1]
        assert len(here.written) == 1


async def test_what_was_forgotten_is_a_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "KEPT", 2)
    async with plant(tmp_path) as here, here.running():
        some = [here.command("setpoint", value) for value in (1, 2, 3, 4)]
        for one in some:
            assert state(await here.asked(one)) == "DONE"
            await until(lambda: not here.commands._under_way)
        again = await here.asked(some[0])
        assert state(again) == "FAILED"
        assert "has forgotten what became of commands as old" in again.text
        assert len(here.written) == 4


async def test_somebody_beside_the_box_may_write_by_the_same_rules(tmp_path: Path) -> None:
    async with plant(tmp_path, allowed=("setpoint",)) as here, here.running() as commands:
        result = await commands.at_box(Write(sensor="cooling", quantity="setpoint", value=6))
        assert (state(result), said(result).holds, said(result).at_box) == ("DONE", 6.0, True)
        assert "allow_write" in (await commands.at_box(Write(sensor="cooling", quantity="light", value=True))).text
        await until(lambda: len(here.told.events) == 2)


async def test_a_damaged_book_is_set_aside_and_commands_go_on(tmp_path: Path) -> None:
    (tmp_path / "book.db").write_bytes(b"not a database" * 100)
    async with plant(tmp_path) as here, here.running():
        assert state(await here.asked(here.command("setpoint", 3))) == "DONE"
    assert (tmp_path / "book.damaged").exists()


def test_a_disk_that_takes_no_book_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "commands").touch()  # nothing can be made below it
    book = Book(tmp_path / "commands" / "book.db")
    with pytest.raises(OSError, match="commands"):
        book.unfinished()
    (tmp_path / "commands").unlink()
    assert book.unfinished() == []
    book.close()


def test_the_book_forgets_only_what_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "KEPT", 1)
    book = Book(tmp_path / "book.db")
    for number in range(1, 6):
        assert book.take(Entry(f"cmd-{number}", number, b"", b"", 0), wall_ms=number) is None
        book.end(f"cmd-{number}", b"r")
        if number != 1:
            book.told(f"cmd-{number}")
    assert [entry.id for entry in book.unfinished()] == ["cmd-1"]
    assert book.find("cmd-2") is None
    with pytest.raises(Rejected, match="forgotten"):
        book.take(Entry("cmd-2", 2, b"", b"", 0), wall_ms=9)
    known = book.take(Entry("cmd-1", 1, b"", b"", 0), wall_ms=9)
    assert known is not None
    assert (known.state, known.result) == ("ended", b"r")
    book.close()


# --- the bus ---------------------------------------------------------------------------------------------


class Recorded:
    """A link that notes what it was asked; the first read waits until it may."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may = asyncio.Event()

    async def read(self, unit: int, request: Request) -> Sequence[int]:
        del unit
        self.asked.append(f"read {request.address}")
        await self.may.wait()
        return [0] * request.length

    async def write(self, unit: int, write: Request_) -> Sequence[int]:
        del unit
        self.asked.append(f"write {write.address}")
        return ()

    async def identify(self, unit: int) -> Mapping[str, str]:
        del unit
        return {}


class Poll:
    unit, every_s = 1, 1000.0

    async def poll(self, link: Any) -> None:
        for address in (1, 2, 3):
            await link.read(1, Request("holding", address, 1))

    def withheld(self) -> None: ...

    def late(self, skipped: int) -> None: ...


async def test_a_command_goes_between_two_requests_of_a_poll() -> None:
    link = Recorded()
    bus = ModbusBus(options=config.TcpBus(id="b", host="h"), link=link)
    write = Request_(function=6, address=9, values=(1,))
    with bus.joined(Poll()):
        task = asyncio.create_task(bus.run())
        await until(lambda: link.asked)
        asked = asyncio.create_task(bus.command(lambda one: one.write(1, write)))
        await until(lambda: bus._commands)
        link.may.set()
        await asked
        await until(lambda: len(link.asked) == 4)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert link.asked == ["read 1", "write 9", "read 2", "read 3"]


async def test_a_command_the_bus_never_came_to_is_never_run() -> None:
    link = Recorded()
    bus = ModbusBus(options=config.TcpBus(id="b", host="h"), link=link)
    write = Request_(function=6, address=9, values=(1,))
    with pytest.raises(ReadFailed, match="did not come to it") as failed:
        await bus.command(lambda one: one.write(1, write), within_s=0.01)
    assert failed.value.cause == "unreachable"
    task = asyncio.create_task(bus.run())
    await bus.command(lambda one: one.write(1, Request_(function=6, address=8, values=(1,))))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert link.asked == ["write 8"]


async def test_a_bus_that_is_stopped_says_so_to_whom_it_served() -> None:
    link = Recorded()
    bus = ModbusBus(options=config.TcpBus(id="b", host="h"), link=link)
    task = asyncio.create_task(bus.run())
    asked = asyncio.create_task(bus.command(lambda one: one.read(1, Request("holding", 1, 1))))
    await until(lambda: link.asked)
    task.cancel()
    with pytest.raises(ReadFailed, match="was stopped on the way") as failed:
        await asked
    assert failed.value.cause == "closed"
    await asyncio.gather(task, return_exceptions=True)
