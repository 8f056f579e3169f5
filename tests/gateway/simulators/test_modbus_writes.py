"""Writing to simulated devices, with an unmodified pymodbus client."""

from __future__ import annotations

import json

import pytest

from gateway.simulators.modbus_device import ModbusDevice
from tests.gateway.sensors.rig import device, started
from tests.gateway.simulators.test_modbus_device import client_of


def controller() -> ModbusDevice:
    return device(profile="comboio-controller@1", signals={})


async def test_what_is_written_is_kept_by_every_function() -> None:
    async with started(controller()) as simulated, client_of(simulated) as client:
        assert not (await client.write_register(0, 40)).isError()
        assert not (await client.write_registers(2, [1, 2])).isError()
        assert not (await client.mask_write_register(address=5, and_mask=0xFFF7, or_mask=8)).isError()
        assert not (await client.write_coil(0, True)).isError()
        assert not (await client.write_coils(0, [True, True])).isError()
        answer = await client.readwrite_registers(read_address=0, read_count=2, write_address=14, values=[7, 8])
        assert list(answer.registers) == [40, 0]
        assert list((await client.read_holding_registers(0, count=6)).registers) == [40, 0, 1, 2, 0, 8]
        assert list((await client.read_holding_registers(14, count=2)).registers) == [7, 8]
        assert (await client.read_coils(0, count=2)).bits[:2] == [True, True]
        asked = json.loads(await simulated.command("writes"))["1"]
        assert [one["function"] for one in asked] == [6, 16, 22, 5, 15, 23]


async def test_what_the_profile_does_not_call_writable_is_refused_and_kept_as_it_was() -> None:
    async with started(controller()) as simulated, client_of(simulated) as client:
        assert (await client.write_register(1, 7)).exception_code == 2
        assert (await client.write_registers(0, [7, 7])).exception_code == 2
        assert (await client.write_register(20, 7)).exception_code == 2
        assert (await client.write_coil(7, True)).exception_code == 2
        assert list((await client.read_holding_registers(0, count=2)).registers) == [0, 0]


async def test_it_can_be_told_to_ignore_to_be_late_and_to_keep_something_else() -> None:
    async with started(controller()) as simulated, client_of(simulated) as client:
        assert await simulated.command('{"write": "ignore"}') == "ok"
        await client.write_register(0, 40)
        assert (await client.read_holding_registers(0, count=1)).registers[0] == 0
        await simulated.command('{"write": "instead", "value": 50}')
        await client.write_register(0, 40)
        assert (await client.read_holding_registers(0, count=1)).registers[0] == 50
        await simulated.command('{"write": "late", "delay_s": 3600}')
        await client.write_register(0, 60)
        assert (await client.read_holding_registers(0, count=1)).registers[0] == 50
        with pytest.raises(ValueError, match="write"):
            await simulated.command('{"write": "dance"}')
