"""Simulated devices on lines that aren't Modbus TCP, as programs and in this process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from pymodbus.client import AsyncModbusSerialClient, ModbusSerialClient
from pymodbus.framer import FramerType

from firmware_configs.loader import Profiles
from gateway.simulators import modbus_identity
from gateway.simulators.counting import counting
from gateway.simulators.faults import Fault
from gateway.simulators.modbus_framing import FRAMINGS, NotModbusError, Request, crc16
from tests.gateway.sensors.rig import device
from tests.gateway.simulators.test_cli import simulate

CHARACTER_S = 11 / 9600


@pytest.mark.parametrize("kind", ["rtu", "ascii"])
def test_a_program_is_read_by_an_unmodified_pymodbus_over_its_terminal(kind: str, tmp_path: Path) -> None:
    link = tmp_path / "line"
    counting_device = ["modbus", "--profile", "comboio-counter@1", "--counting", "--kind", kind, "--link", str(link)]
    with simulate(*counting_device) as said:
        assert said["path"] == str(link)
        framer = FramerType.RTU if kind == "rtu" else FramerType.ASCII
        client = ModbusSerialClient(str(link), framer=framer, baudrate=115200, timeout=5, retries=0)
        assert client.connect()
        for k in (1, 2):
            response = client.read_holding_registers(0, count=100, device_id=1)
            assert list(response.registers) == [counting(unit=1, address=a, k=k) for a in range(100)]
        client.close()  # type: ignore[no-untyped-call]
    assert not link.is_symlink()


async def test_bytes_come_no_faster_than_the_wire() -> None:
    simulated = device()
    path = simulated.start_serial(character_s=CHARACTER_S, silence_s=3.5 * CHARACTER_S)
    client = AsyncModbusSerialClient(path, baudrate=9600, timeout=5, retries=0)
    assert await client.connect()
    began = time.monotonic()
    await client.read_holding_registers(0, count=100, device_id=1)
    assert time.monotonic() - began >= (8 + 3.5 + 205) * CHARACTER_S - 0.005
    client.close()
    await simulated.close()


async def test_answers_of_a_line_keep_their_order_though_one_is_late() -> None:
    """Asked twice; the first answer is late, and comes first all the same."""
    simulated = device()
    simulated.start_serial()
    sent: list[bytes] = []
    serial = simulated._serial
    assert serial is not None
    serial._write = sent.append  # type: ignore[method-assign,assignment]
    simulated.faults.add(Fault(fault="delay", delay_s=0.05, times=1))
    asked = FRAMINGS["rtu"].frame(1, b"\x03\0\0\0\1", 0)
    serial._heard_whole(asked)
    await asyncio.sleep(0.005)
    serial._heard_whole(asked)
    deadline = time.monotonic() + 10
    while len(sent) < 2:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    assert [int.from_bytes(frame[3:5], "big") for frame in sent] == [counting(unit=1, address=0, k=k) for k in (1, 2)]
    await simulated.close()


@pytest.mark.parametrize("kind", sorted(FRAMINGS))
def test_a_request_is_found_however_its_bytes_come(kind: str) -> None:
    framing = FRAMINGS[kind]
    pdus = [b"\x03\0\0\0\1", b"\x10\0\1\0\2\4abcd", b"\x17" + bytes(8) + b"\2ab", b"\x2b\x0e\1\0", b"\x16" + bytes(6)]
    stream = b"".join(framing.frame(7, pdu, n + 1) for n, pdu in enumerate(pdus))
    for step in (1, 3, 1000):
        heard, found = b"", []
        for piece in _pieces(stream, step):
            heard += piece
            while True:
                request, used = framing.cut(heard)
                heard = heard[used:]
                if request is None:
                    break
                found.append(request)
        assert [(one.unit, one.pdu) for one in found] == [(7, pdu) for pdu in pdus]
    assert framing.cut(framing.frame(7, pdus[0], 9))[0] == Request(7, pdus[0], 9 if kind in {"tcp", "tls"} else 0)


def _pieces(stream: bytes, step: int) -> list[bytes]:
    return [stream[at : at + step] for at in range(0, len(stream), step)]


def test_a_request_with_a_wrong_check_sum_is_none() -> None:
    spoilt = FRAMINGS["rtu"].spoilt(1, b"\x03\0\0\0\1", 0)
    with pytest.raises(NotModbusError):
        FRAMINGS["rtu"].cut(spoilt)
    assert FRAMINGS["ascii"].cut(FRAMINGS["ascii"].spoilt(1, b"\x03\0\0\0\1", 0)) == (None, 17)
    assert crc16(b"123456789") == 0x4B37


def test_an_identification_goes_over_several_frames_and_ends() -> None:
    objects = modbus_identity.objects_of(Profiles().modbus("xy-md02@1")) | dict.fromkeys(range(128, 134), b"x" * 100)
    found: dict[int, bytes] = {}
    following, frames = 0, 0
    while True:
        answer = modbus_identity.identify(objects, bytes((14, 3, following)))
        assert isinstance(answer, bytes)
        assert len(answer) <= 252
        at = 6
        for _ in range(answer[5]):
            found[answer[at]] = answer[at + 2 : at + 2 + answer[at + 1]]
            at += 2 + answer[at + 1]
        frames += 1
        if answer[3] != 0xFF:
            break
        following = answer[4]
    assert found == objects
    assert frames > 3
    assert modbus_identity.identify(objects, bytes((14, 4, 77))) == modbus_identity.ILLEGAL_ADDRESS
    assert modbus_identity.identify(objects, bytes((14, 9, 0))) == modbus_identity.ILLEGAL_VALUE
