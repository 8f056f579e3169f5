"""Writing over every kind of bus: what a device confirms is compared, and what nobody can know is not called done."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_configs.budget import Request
from gateway.sensors.modbus_frames import ReadFailed, misfit
from gateway.sensors.modbus_link import ModbusLink
from gateway.sensors.modbus_writes import Write
from gateway.simulators.faults import Fault
from gateway.simulators.signals import constant
from tests.gateway.sensors.modbus_ends import KINDS, bus

CONTROLLER = "comboio-controller@1"
SETPOINT = Write(function=6, address=0, values=(57,))


async def failure_of(link: ModbusLink, write: Write = SETPOINT) -> ReadFailed:
    with pytest.raises(ReadFailed) as raised:
        await link.write(1, write)
    return raised.value


@pytest.mark.parametrize(("kind", "echo"), [*((kind, False) for kind in KINDS), ("rtu", True), ("ascii", True)])
async def test_a_write_is_confirmed_and_there(kind: str, echo: bool, tmp_path: Path) -> None:
    signals = {"setpoint": constant(4.0)}
    async with bus(kind, tmp_path, profile=CONTROLLER, signals=signals, timeout_s=5.0, echo=echo) as ends:
        assert await ends.link.write(1, SETPOINT) == ()
        assert list(await ends.link.read(1, Request("holding", 0, 1))) == [57]
        assert [one.words for one in ends.device._units[1].writes.requests] == [(57,)]


async def test_an_adapter_that_hears_itself_confirms_nothing_for_a_dead_device(tmp_path: Path) -> None:
    async with bus("rtu", tmp_path, profile=CONTROLLER, signals={}, echo=True) as ends:
        ends.device.faults.add(Fault(fault="drop"))
        failure = await failure_of(ends.link)
        assert failure.cause in {"unreachable", "timeout"}
        ends.device.faults.clear()


@pytest.mark.parametrize("kind", KINDS)
async def test_what_nobody_can_know_is_told_from_what_was_refused_and_what_was_not_asked(
    kind: str, tmp_path: Path
) -> None:
    async with bus(kind, tmp_path, profile=CONTROLLER, signals={}, timeout_s=1.0) as ends:
        await ends.link.read(1, Request("holding", 0, 1))
        for code, cause in ((2, "exception"), (6, "exception"), (5, "timeout"), (11, "timeout")):
            ends.device.faults.add(Fault(fault="exception", code=code, times=1))
            failure = await failure_of(ends.link)
            assert (failure.cause, failure.code) == (cause, code)
        ends.device.faults.add(Fault(fault="drop", times=1))
        assert (await failure_of(ends.link)).cause == "timeout"
        await ends.device.close()
        failure = await failure_of(ends.link)
        for _ in range(3):
            failure = await failure_of(ends.link)
        assert failure.cause == "unreachable"
        assert "was not asked" in str(failure)


async def test_values_that_do_not_fit_their_function_are_never_sent(tmp_path: Path) -> None:
    async with bus("tcp", tmp_path, profile=CONTROLLER, signals={}) as ends:
        for wrong in (
            Write(function=6, address=0, values=(70_000,)),
            Write(function=6, address=0, values=(1, 2)),
            Write(function=15, address=0, values=()),
            Write(function=23, address=0, values=(1,)),
            Write(function=5, address=70_000, values=(1,)),
        ):
            assert (await failure_of(ends.link, wrong)).cause == "internal"
        assert ends.device._units[1].writes.requests == []


@pytest.mark.parametrize(
    ("asked", "answer", "fits"),
    [
        ("05 0001 ff00", "05 0001 ff00", True),
        ("05 0001 ff00", "05 0001 0000", False),
        ("06 0001 1234", "06 0002 1234", False),
        ("06 0001 1234", "06 0001 12", False),
        ("10 0001 0002 04 0001 0002", "10 0001 0002", True),
        ("10 0001 0002 04 0001 0002", "10 0001 0001", False),
        ("0f 0001 0009 02 ffff", "0f 0001 0009", True),
        ("0f 0001 0009 02 ffff", "0f 0002 0009", False),
        ("16 0004 00ff 1200", "16 0004 00ff 1200", True),
        ("16 0004 00ff 1200", "16 0004 00ff 1201", False),
        ("17 0001 0002 0005 0001 02 0007", "17 04 0001 0002", True),
        ("17 0001 0002 0005 0001 02 0007", "17 02 0001", False),
        ("06 0001 1234", "86 02", True),
        ("06 0001 1234", "86 02 00", False),
    ],
)
def test_confirmations_are_compared_as_the_standard_says(asked: str, answer: str, fits: bool) -> None:
    assert (misfit(bytes.fromhex(asked), bytes.fromhex(answer)) is None) is fits
