"""A SunSpec device is found wherever its marker is, and its models are walked to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from firmware_configs.budget import Request
from firmware_configs.loader import Profiles
from firmware_configs.schema import Limits, ModbusProfile, Register
from firmware_configs.sunspec import BASES, MARKER, SOURCE, Present, profile_of
from gateway.cli import main
from gateway.sensors.modbus_frames import ReadFailed
from gateway.sensors.sunspec import discovered
from gateway.simulators.modbus_device import ModbusDevice
from gateway.simulators.modbus_unit import SimulatedUnit
from gateway.simulators.plausible import as_registers, default_signals
from gateway.simulators.read_log import ReadLog
from gateway.simulators.signals import constant
from tests.gateway.sensors.rig import CLOCK, started

CHAIN = ((1, 66), (103, 50), (160, 48), (203, 105), (802, 62))


class Words:
    """A link to a device that has these holding registers and refuses others."""

    def __init__(self, words: Mapping[int, int], *, silent: bool = False) -> None:
        self._words = words
        self._silent = silent

    async def read(self, unit: int, request: Request) -> Sequence[int]:
        places = range(request.address, request.address + request.length)
        if self._silent:
            raise ReadFailed("timeout", f"unit {unit}: nothing")
        if any(place not in self._words for place in places):
            raise ReadFailed("exception", f"unit {unit}: illegal data address", code=2)
        return [self._words[place] for place in places]


def headers(base: int, chain: Sequence[tuple[int, int]], *, end: bool = True) -> dict[int, int]:
    words = {base: MARKER[0], base + 1: MARKER[1]}
    address = base + 2
    for number, length in chain:
        words |= {address: number, address + 1: length}
        address += 2 + length
    return words | ({address: 0xFFFF, address + 1: 0} if end else {})


def models(base: int) -> list[Present]:
    found, address = [], base + 2
    for number, length in CHAIN:
        found.append(Present(id=number, address=address, length=length))
        address += 2 + length
    return found


@pytest.mark.parametrize("base", BASES)
async def test_the_models_are_found_wherever_the_marker_is(base: int) -> None:
    assert await discovered(Words(headers(base, CHAIN)), 1) == models(base)


async def test_a_device_without_an_end_mark_is_walked_until_it_refuses() -> None:
    assert await discovered(Words(headers(40_000, CHAIN, end=False)), 1) == models(40_000)


async def test_other_devices_are_none() -> None:
    assert await discovered(Words({40_000: 1, 40_001: 2, 0: 3, 1: 4}), 1) == []
    assert await discovered(Words({}), 1) == []


@pytest.mark.parametrize("chain", [((0, 0),), ((103, 60_000),)])
async def test_headers_that_cannot_be_end_the_walk(chain: Sequence[tuple[int, int]]) -> None:
    assert await discovered(Words(headers(40_000, chain)), 1) == []


async def test_a_chain_that_leads_nowhere_ends() -> None:
    assert (
        len(
            await discovered(
                Words({at: (1 if at % 2 == 0 else 0) for at in range(40_002, 50_000)} | headers(40_000, (), end=False)),
                1,
            )
        )
        == 200
    )


async def test_a_silent_device_is_told_as_silent() -> None:
    with pytest.raises(ReadFailed):
        await discovered(Words({}, silent=True), 1)


def device() -> ModbusDevice:
    """The chain at 40000 with values in it."""
    profile = profile_of(models(40_000), vendor="acme", model="plant", description="x")
    head = tuple(
        Register(quantity=f"head_{at}", function="holding", address=at, type="u16", source="sunspec, header")
        for at in headers(40_000, CHAIN)
    )
    signals = default_signals(profile, unit=1) | {
        f"head_{at}": constant(word) for at, word in headers(40_000, CHAIN).items()
    }
    whole = ModbusProfile(
        vendor="acme", model="plant", version=1, description="x", sources=(SOURCE,), limits=Limits(max_gap=124),
        register=(*head, *profile.register),
    )  # fmt: skip
    unit = SimulatedUnit(unit=1, profile=whole, signals=as_registers(whole, signals))
    return ModbusDevice(units={1: unit}, log=ReadLog(path=None, clock=CLOCK), clock=CLOCK)


async def test_a_found_device_gets_a_profile_that_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    local = ["--profiles", str(tmp_path)]
    async with started(device()) as simulated:
        where = ["--host", "127.0.0.1", "--port", str(simulated.port)]
        assert await asyncio.to_thread(main, ["profiles", "sunspec", "acme", "plant", *where, *local]) == 0
        assert "SunSpec models 1, 103, 160, 203, 802" in capsys.readouterr().out
        recording = ["capture", *where, "--profile", "acme-plant@1", "--rounds", "1", *local]
        assert await asyncio.to_thread(main, recording) == 0
    said = capsys.readouterr().out
    assert "meter_active_power = " in said
    assert "device_serial_number" not in said
    profile = Profiles(local=tmp_path).modbus("acme-plant@1")
    assert profile == profile_of(models(40_000), vendor="acme", model="plant", description=profile.description)


async def test_a_device_that_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = Profiles().modbus("xy-md02@1")
    unit = SimulatedUnit(unit=1, profile=profile, signals=default_signals(profile, unit=1))
    simulated = ModbusDevice(units={1: unit}, log=ReadLog(path=None, clock=CLOCK), clock=CLOCK)
    async with started(simulated):
        command = ["profiles", "sunspec", "acme", "probe", "--host", "127.0.0.1", "--port", str(simulated.port)]
        assert await asyncio.to_thread(main, [*command, "--profiles", str(tmp_path)]) == 1
    assert "is not a SunSpec device" in capsys.readouterr().err
