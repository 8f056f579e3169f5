"""Our link against servers that are not ours, and their clients against our simulated devices: every value compared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import pytest

from firmware_configs.budget import Request
from firmware_configs.loader import Profiles
from firmware_configs.schema import Block, Limits, ModbusProfile, RegisterFunction, Source
from gateway.clock import SystemClock
from gateway.sensors.modbus_frames import FUNCTION_CODES, ReadFailed
from gateway.sensors.modbus_link import ModbusLink
from gateway.sensors.modbus_writes import Write
from gateway.simulators.counting import counting
from gateway.simulators.modbus_device import ModbusDevice
from gateway.simulators.modbus_unit import SimulatedUnit
from gateway.simulators.read_log import ReadLog
from protos import config
from tests.gateway.interop.peer import BAUD, holds
from tests.servers import require

PEER = Path(__file__).with_name("peer.py")
STACKS = ("libmodbus-tcp", "libmodbus-rtu", "pymodbustcp")
BIT_TABLES: tuple[RegisterFunction, ...] = ("coil", "discrete")
WORD_TABLES: tuple[RegisterFunction, ...] = ("holding", "input")
READS = [
    *(Request(table, 0, count) for table in BIT_TABLES for count in (1, 7, 8, 9, 16, 17, 1999, 2000)),
    *(Request(table, at, count) for table in WORD_TABLES for at in (0, 475) for count in (1, 2, 125)),
]


def needs(stack: str) -> None:
    if stack.startswith("libmodbus") and find_library("modbus") is None:
        if os.environ.get("CI"):
            pytest.fail("libmodbus is not installed and CI is set")
        pytest.skip("libmodbus is not installed (apt-get install libmodbus5)")
    if stack.endswith("rtu"):
        require("socat", "socat")


@asynccontextmanager
async def line(folder: Path) -> AsyncIterator[tuple[str, str]]:
    """Two ends of a serial line."""
    ends = folder / "one", folder / "other"
    socat = await asyncio.create_subprocess_exec(
        require("socat", "socat"), *(f"pty,raw,echo=0,link={end}" for end in ends)
    )
    try:
        deadline = time.monotonic() + 10
        while not all(end.is_symlink() for end in ends):
            assert time.monotonic() < deadline, "socat made no line"
            await asyncio.sleep(0.01)
        yield str(ends[0]), str(ends[1])
    finally:
        socat.terminate()
        await socat.wait()


@asynccontextmanager
async def served(stack: str, folder: Path, *, timeout_s: float = 5.0) -> AsyncIterator[ModbusLink]:
    """Our link to a server of that stack."""
    needs(stack)
    if not stack.endswith("rtu"):
        async with program("serve", stack) as port:
            link = ModbusLink(options=config.TcpBus(id="b", host="127.0.0.1", port=port, timeout_s=timeout_s))
            yield link
            link.close()
        return
    async with line(folder) as (theirs, ours), program("serve", stack, theirs):
        link = ModbusLink(options=config.RtuBus(id="b", port=ours, baud=BAUD, parity="none", timeout_s=timeout_s))
        yield link
        link.close()


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[int]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, str(PEER), *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert running.stdout is not None
        said = await running.stdout.readline()
        yield int(json.loads(said)["port"])
    finally:
        running.kill()
        await running.communicate()


def shown(request: Request) -> list[int]:
    code = FUNCTION_CODES[request.function]
    return [holds(code, address) for address in range(request.address, request.address + request.length)]


@pytest.mark.parametrize("stack", STACKS)
async def test_every_table_is_read_as_the_other_stack_holds_it(stack: str, tmp_path: Path) -> None:
    async with served(stack, tmp_path) as link:
        for request in READS:
            assert list(await link.read(1, request)) == shown(request), request
        with pytest.raises(ReadFailed, match="exception 2") as refused:
            await link.read(1, Request("holding", 65_500 if stack != "pymodbustcp" else 65_535, 10))
        assert refused.value.code == 2


@pytest.mark.parametrize("stack", STACKS)
async def test_every_write_is_found_there_and_nothing_else_changed(stack: str, tmp_path: Path) -> None:
    coils = [holds(1, address) for address in range(100)]
    words = [holds(3, address) for address in range(125)]
    async with served(stack, tmp_path) as link:
        for bit in (1, 0, 1):
            await link.write(1, Write(function=5, address=3, values=(bit,)))
            coils[3] = bit
        await link.write(1, Write(function=6, address=4, values=(0xBEEF,)))
        words[4] = 0xBEEF
        bits = tuple(address % 3 == 0 for address in range(37))
        await link.write(1, Write(function=15, address=20, values=tuple(map(int, bits))))
        coils[20:57] = map(int, bits)
        some = tuple(range(65_535, 65_435, -1))
        await link.write(1, Write(function=16, address=10, values=some))
        words[10:110] = some
        if stack != "pymodbustcp":
            await link.write(1, Write(function=22, address=4, values=(0x00FF, 0x1200)))
            words[4] = 0x12EF
        back = Write(function=23, address=120, values=(1, 2, 3), read=Request("holding", 118, 6))
        words[120:123] = 1, 2, 3
        assert list(await link.write(1, back)) == words[118:124]
        assert list(await link.read(1, Request("coil", 0, 100))) == coils
        assert list(await link.read(1, Request("holding", 0, 125))) == words
        with pytest.raises(ReadFailed) as refused:
            await link.write(1, Write(function=16, address=65_534, values=(1, 2, 3)))
        assert refused.value.cause == "exception"


async def test_another_stack_says_what_it_is(tmp_path: Path) -> None:
    async with served("pymodbustcp", tmp_path) as link:
        said = await link.identify(1)
    assert said["vendor_name"] == "Acme"
    assert (said["product_code"], said["revision"], said["model_name"]) == ("PM-1", "1.2", "M")
    assert said.get("object_128") == "x"


async def test_a_stack_without_identification_says_so(tmp_path: Path) -> None:
    async with served("libmodbus-tcp", tmp_path) as link:
        with pytest.raises(ReadFailed, match="exception 1") as refused:
            await link.identify(1)
        assert refused.value.code == 1


async def test_a_stack_that_ignores_loopbacks_is_read_again_after_a_missing_answer(tmp_path: Path) -> None:
    async with served("libmodbus-rtu", tmp_path, timeout_s=0.5) as link:
        assert list(await link.read(1, READS[-1])) == shown(READS[-1])
        link._hearing.doubted.add(1)
        deadline = time.monotonic() + 20
        while link._hearing.doubted:
            assert time.monotonic() < deadline, "it is never trusted again"
            with contextlib.suppress(ReadFailed):
                assert list(await link.read(1, READS[-1])) == shown(READS[-1])


def everything() -> ModbusProfile:
    """A device that has all four tables, 200 addresses each."""
    kinds = {"coil": "bool", "discrete": "bool", "holding": "u16", "input": "u16"}
    blocks = tuple(
        Block(quantity=f"{table}{{}}", count=200, function=table, address=0, type=kind, source="test")  # type: ignore[arg-type]
        for table, kind in kinds.items()
    )
    source = Source(id="test", title="made up")
    return ModbusProfile(
        vendor="x", model="y", version=1, description="all tables", sources=(source,), limits=Limits(), block=blocks
    )


@pytest.mark.parametrize("stack", STACKS)
async def test_their_clients_read_our_simulated_devices(stack: str, tmp_path: Path) -> None:
    needs(stack)
    unit = SimulatedUnit(unit=1, profile=everything())
    device = ModbusDevice(units={1: unit}, log=ReadLog(path=None, clock=SystemClock()), clock=SystemClock())
    asked: list[list[Any]] = [[1, 0, 1], [1, 5, 19], [2, 0, 200], [3, 0, 1], [3, 10, 125], [4, 75, 125], [3, 190, 20]]
    where = device.start_serial() if stack.endswith("rtu") else str(await device.start())
    try:
        found = await answers(stack, where, asked)
    finally:
        await device.close()
    assert "address" in found.pop().lower()
    reads: dict[tuple[int, int], int] = {}
    for (function, address, count), values in zip(asked, found, strict=False):
        expected = []
        for at in range(address, address + count):
            k = reads[function, at] = reads.get((function, at), 0) + 1
            word = counting(unit=1, address=at, k=k)
            expected.append(word & 1 if function <= 2 else word)
        assert values == expected, (function, address, count)


async def answers(stack: str, where: str, asked: list[list[Any]]) -> list[Any]:
    asking = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PEER),
        *("ask", stack, where),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asking.communicate(json.dumps(asked).encode())
    return list(json.loads(said))


@pytest.mark.parametrize("stack", STACKS)
async def test_their_clients_write_to_our_simulated_devices(stack: str, tmp_path: Path) -> None:
    needs(stack)
    unit = SimulatedUnit(unit=1, profile=Profiles().modbus("comboio-controller@1"), signals={})
    device = ModbusDevice(units={1: unit}, log=ReadLog(path=None, clock=SystemClock()), clock=SystemClock())
    asked: list[list[Any]] = [
        [5, 0, 1],
        [15, 0, [1, 1]],
        [6, 0, 57],
        [16, 2, [1, 2]],
        [1, 0, 2],
        [3, 0, 1],
        [3, 2, 2],
        [6, 1, 5],
    ]
    asked = [asked[0], *asked[2:]] if stack == "pymodbustcp" else asked
    where = device.start_serial() if stack.endswith("rtu") else str(await device.start())
    try:
        found = await answers(stack, where, asked)
    finally:
        await device.close()
    told = {(function, address): values for (function, address, _), values in zip(asked, found, strict=True)}
    assert told[1, 0] == ([1, 0] if stack == "pymodbustcp" else [1, 1])
    assert (told[3, 0], told[3, 2]) == ([57], [1, 2])
    assert "address" in str(told[6, 1]).lower(), "its profile does not let it be written"


async def test_a_simulated_device_on_a_port_that_is_given_is_read_at_the_other_end(tmp_path: Path) -> None:
    unit = SimulatedUnit(unit=1, profile=everything())
    device = ModbusDevice(units={1: unit}, log=ReadLog(path=None, clock=SystemClock()), clock=SystemClock())
    async with line(tmp_path) as (theirs, ours):
        device.start_serial(Path(theirs), kind="ascii")
        bus = config.AsciiBus(id="b", port=ours, baud=BAUD, parity="none", data_bits=8, timeout_s=5.0)
        link = ModbusLink(options=bus)
        try:
            values = await link.read(1, Request("input", 10, 100))
        finally:
            link.close()
            await device.close()
    assert list(values) == [counting(unit=1, address=at, k=1) for at in range(10, 110)]
