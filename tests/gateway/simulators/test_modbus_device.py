"""Simulated devices, asked by an unmodified pymodbus client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusIOException

from firmware_configs.loader import Profiles
from gateway.simulators.counting import counting
from gateway.simulators.faults import Fault, Faults
from gateway.simulators.modbus_device import ModbusDevice
from gateway.simulators.modbus_unit import SimulatedUnit
from gateway.simulators.read_log import ReadLog
from gateway.simulators.signals import constant
from tests.gateway.buffer.boxes import TurnedClock
from tests.gateway.sensors.rig import device, started


@asynccontextmanager
async def client_of(simulated: ModbusDevice) -> AsyncIterator[AsyncModbusTcpClient]:
    client = AsyncModbusTcpClient("127.0.0.1", port=simulated.port, timeout=0.3, retries=0, reconnect_delay=0)
    assert await client.connect()
    try:
        yield client
    finally:
        client.close()


def lines(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


async def test_the_nth_read_of_a_register_gives_its_number() -> None:
    async with started(device(units=[3, 4])) as simulated, client_of(simulated) as client:
        for k in (1, 2, 3):
            response = await client.read_holding_registers(10, count=5, device_id=4)
            assert list(response.registers) == [counting(unit=4, address=10 + n, k=k) for n in range(5)]
        other = await client.read_holding_registers(10, count=1, device_id=3)
        assert list(other.registers) == [counting(unit=3, address=10, k=1)]


def test_the_formula_is_the_published_one() -> None:
    assert counting(unit=2, address=5, k=7) == (7 + 997 * 2 + 31 * 5) % 65536
    assert counting(unit=247, address=99, k=70_000) == (70_000 + 997 * 247 + 31 * 99) % 65536


async def test_the_log_holds_every_read_before_its_answer_leaves(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    async with started(device(log=log)) as simulated, client_of(simulated) as client:
        for n in range(1, 4):
            await client.read_holding_registers(0, count=2)
            assert len(lines(log)) == n
        await client.read_holding_registers(1, count=2)
    first, *_, last = lines(log)
    assert {key: first[key] for key in ("unit", "function", "address", "count", "k")} == {
        "unit": 1,
        "function": 3,
        "address": 0,
        "count": 2,
        "k": 1,
    }
    assert abs(int(str(first["mono_ms"])) - int(str(last["mono_ms"]))) < 10_000
    assert (last["k"], last["ks"]) == (4, [4, 1])


async def test_the_log_of_signals_holds_the_words_answered(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    simulated = device(profile="xy-md02@1", signals={"temperature": constant(-20.5)}, log=log)
    async with started(simulated), client_of(simulated) as client:
        response = await client.read_input_registers(1, count=2)
        assert list(response.registers) == [0xFF33, 0]
    assert lines(log)[0]["raw"] == [0xFF33, 0]


async def test_a_spoilt_answer_is_logged_as_such(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    async with started(device(log=log)) as simulated, client_of(simulated) as client:
        simulated.faults.add(Fault(fault="drop", times=1))
        with pytest.raises(ModbusIOException):
            await client.read_holding_registers(0, count=1)
        response = await client.read_holding_registers(0, count=1)
        assert list(response.registers) == [counting(unit=1, address=0, k=2)]
    assert [(entry["k"], entry.get("fault")) for entry in lines(log)] == [(1, "drop"), (2, None)]


@pytest.mark.parametrize(
    ("address", "count", "code"),
    [(99, 2, 2), (100, 1, 2), (65535, 1, 2)],
)
async def test_reading_what_no_register_owns_is_refused(address: int, count: int, code: int) -> None:
    async with started(device()) as simulated, client_of(simulated) as client:
        response = await client.read_holding_registers(address, count=count)
        assert response.isError()
        assert response.exception_code == code


async def test_tables_of_the_profile_are_told_apart() -> None:
    async with started(device(profile="xy-md02@1", signals={})) as simulated, client_of(simulated) as client:
        assert (await client.read_holding_registers(1, count=1)).exception_code == 2
        assert not (await client.read_input_registers(1, count=1)).isError()


async def test_writing_is_an_illegal_function() -> None:
    async with started(device()) as simulated, client_of(simulated) as client:
        assert (await client.write_register(0, 1)).exception_code == 1


async def test_holes_a_profile_allows_read_as_zero() -> None:
    signals = {"voltage": constant(1.0)}
    async with (
        started(device(profile="eastron-sdm120@1", signals=signals)) as simulated,
        client_of(simulated) as client,
    ):
        response = await client.read_input_registers(0, count=6)
        assert list(response.registers) == [0x3F80, 0, 0, 0, 0, 0]
        assert (await client.read_input_registers(40, count=2)).exception_code == 2


async def test_a_unit_that_is_not_there_stays_silent() -> None:
    async with started(device()) as simulated, client_of(simulated) as client:
        with pytest.raises(ModbusIOException):
            await client.read_holding_registers(0, count=1, device_id=9)


async def test_a_fault_for_one_unit_leaves_the_other_alone() -> None:
    async with started(device(units=[1, 2])) as simulated, client_of(simulated) as client:
        simulated.faults.add(Fault(fault="exception", unit=2, code=6))
        assert (await client.read_holding_registers(0, count=1, device_id=2)).exception_code == 6
        assert not (await client.read_holding_registers(0, count=1, device_id=1)).isError()


async def test_bytes_that_are_not_modbus_end_the_connection() -> None:
    async with started(device()) as simulated:
        reader, writer = await asyncio.open_connection("127.0.0.1", simulated.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await asyncio.wait_for(_rest(reader), 5) == b""
        writer.close()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_faults_are_set_by_one_line_each() -> None:
    faults = Faults()
    assert await faults.command('{"fault": "drop", "unit": 3, "times": 2}') == "ok"
    assert json.loads(await faults.command("status")) == [{"fault": "drop", "unit": 3, "times": 2}]
    assert faults.take(1) is None
    assert [faults.take(3) is not None for _ in range(3)] == [True, True, False]
    await faults.command('{"fault": "reset"}')
    assert await faults.command("clear") == "ok"
    assert faults.take(3) is None


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"fault": "dorp"}', "fault"),
        ('{"fault": "drop", "units": 1}', "did you mean unit"),
        ("drop", "a fault is a JSON object, or clear, or status"),
        ("[1]", "expected object|expected Fault"),
    ],
)
async def test_a_mistaken_fault_is_refused_with_a_sentence(line: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        await Faults().command(line)


async def test_a_signal_can_be_held_at_a_value_for_a_while() -> None:
    clock = TurnedClock()
    unit = SimulatedUnit(unit=1, profile=Profiles().modbus("xy-md02@1"), signals={"temperature": constant(4.0)})
    simulated = ModbusDevice(units={1: unit}, log=ReadLog(path=None, clock=clock), clock=clock)
    assert await simulated.command('{"hold": "temperature", "value": 12.5, "for_s": 20}') == "ok"
    shown = []
    for seconds in (0, 19, 2):
        clock.mono += seconds * 1000
        answer = unit.read(4, 1, 1, simulated._now_s())
        assert not isinstance(answer, int)
        shown.append(answer.words[0])
    assert shown == [125, 125, 40]
    with pytest.raises(ValueError, match="no unit has a signal 'heat'"):
        await simulated.command('{"hold": "heat", "value": 1, "for_s": 1}')
