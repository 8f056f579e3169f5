"""The link over every kind of bus: what comes back is what was asked, or a failure that says why."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from pathlib import Path

import pytest

from firmware_configs.budget import Request
from firmware_configs.loader import Profiles
from firmware_configs.schema import Timing
from gateway.clock import SystemClock
from gateway.sensors import build
from gateway.sensors.modbus_frames import ReadFailed
from gateway.sensors.modbus_link import ModbusLink
from gateway.simulators.counting import counting
from gateway.simulators.faults import Fault
from gateway.simulators.signals import constant
from protos import config
from tests.gateway.sensors.modbus_ends import KINDS, SERIAL, bus, keys
from tests.gateway.sensors.rig import COUNTER, Facts, device, until

WHOLE = Request("holding", 0, 100)


def which(values: object, unit: int = 1, request: Request = WHOLE) -> int:
    """The number of the read, having checked every value of it."""
    assert isinstance(values, tuple | list)
    k = int(values[0] - counting(unit=unit, address=request.address, k=0)) % 65536
    addresses = range(request.address, request.address + request.length)
    assert list(values) == [counting(unit=unit, address=a, k=k) for a in addresses]
    return k


async def failure_of(link: ModbusLink, unit: int = 1, request: Request = WHOLE) -> ReadFailed:
    with pytest.raises(ReadFailed) as raised:
        await link.read(unit, request)
    return raised.value


async def asked_until_answered(link: ModbusLink, unit: int = 1, within_s: float = 20.0) -> int:
    """Failures in a row are allowed, wrong values aren't."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(ReadFailed):
            return which(await link.read(unit, WHOLE), unit)
        assert time.monotonic() < deadline, "it never came back"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_read_brings_its_own_values(kind: str, tmp_path: Path) -> None:
    async with bus(kind, tmp_path, units=(1, 2), timeout_s=5.0) as ends:
        for k in range(1, 6):
            for unit in (1, 2):
                assert which(await ends.link.read(unit, WHOLE), unit) == k
        assert ends.link.dropped.total() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "cause", "text"),
    [
        (Fault(fault="exception", code=2), "exception", r"exception 2 \(illegal data address\)"),
        (Fault(fault="exception", code=7), "exception", r"exception 7 \(not defined by Modbus\)"),
        (Fault(fault="drop"), "timeout", r"no answer within 0\.25 s|closed the connection"),
        (Fault(fault="half_frame"), "malformed", r"only \d+ bytes of a frame"),
        (Fault(fault="short"), "malformed", "asked 100 values, got 99"),
        (Fault(fault="wrong_unit"), "malformed", "unit 2 answered instead"),
        (Fault(fault="wrong_function"), "malformed", "asked function 3, got 4"),
        (Fault(fault="wrong_check"), "malformed", r"check sum \((CRC|LRC)\)|an answer to transaction"),
    ],
    ids=lambda value: f"{value.fault}-{value.code}" if isinstance(value, Fault) else "",
)
async def test_a_spoilt_answer_is_named_and_the_next_is_right(
    kind: str, fault: Fault, cause: str, text: str, tmp_path: Path
) -> None:
    async with bus(kind, tmp_path) as ends:
        for left in range(4, -1, -1):
            before = await asked_until_answered(ends.link)
            ends.device.faults.add(Fault(fault=fault.fault, code=fault.code, times=1))
            failure = await failure_of(ends.link)
            if failure.cause != "timeout" or cause == "timeout" or not left:  # a busy machine may be late itself
                break
        assert failure.cause == cause
        assert re.search(text, str(failure)), failure
        assert failure.code == (fault.code if cause == "exception" else 0)
        assert await asked_until_answered(ends.link) > before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["unsolicited", "trickle"])
async def test_a_foreign_frame_or_slow_bytes_before_the_answer_cost_nothing(
    kind: str, fault: str, tmp_path: Path
) -> None:
    async with bus(kind, tmp_path, timeout_s=5.0) as ends:
        ends.device.faults.add(Fault(fault=fault, delay_s=0.0005))  # type: ignore[arg-type]
        assert [which(await ends.link.read(1, WHOLE)) for _ in range(2)] == [1, 2]
        assert ends.link.dropped["unsolicited"] == (2 if fault == "unsolicited" else 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_sensors_of_a_configuration_are_read_over_every_kind_of_bus(kind: str, tmp_path: Path) -> None:
    async with bus(kind, tmp_path, units=(1, 2), timeout_s=5.0) as ends:
        wanted = [config.ModbusSensor(id=f"s{n}", bus="b", unit=n, profile=COUNTER, every_s=0.05) for n in (1, 2)]
        document = config.GatewayConfig(config_version=1, bus=(ends.options,), sensor=tuple(wanted))
        built = build(config.from_json(config.canonical(document)), clock=SystemClock(), profiles=Profiles())
        facts = [Facts(), Facts()]
        running: list[asyncio.Task[None]] = [asyncio.create_task(task.run()) for task in built.tasks]  # type: ignore[arg-type]
        for sensor, emitted in zip(built.sensors, facts, strict=True):
            running.append(asyncio.create_task(sensor.driver.run(emitted)))  # type: ignore[arg-type]
        try:
            await until(lambda: all(len(emitted.rows) >= 3 for emitted in facts), within_s=30.0)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    for unit, emitted in enumerate(facts, 1):
        ks = [which(row.values, unit) for row in emitted.rows]
        assert ks == list(range(1, len(ks) + 1))


# --- late answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("late_s", [0.06, 0.14, 0.3])
async def test_a_late_answer_is_never_taken_for_the_next(kind: str, late_s: float, tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    async with bus(kind, tmp_path, timeout_s=0.05, log=log) as ends:
        last = await asked_until_answered(ends.link)
        for _ in range(3):
            ends.device.faults.add(Fault(fault="delay", delay_s=late_s, times=1))
            for _ in range(8):
                asked = time.monotonic_ns() // 1_000_000
                try:
                    k = which(await ends.link.read(1, WHOLE))
                except ReadFailed:
                    continue
                assert k > last
                assert answered_ms(log, k) >= asked - 1, "the answer is older than its question"
                last = k
                break


def answered_ms(log: Path, k: int) -> int:
    """When the device made the answer of its read `k`."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return max(int(entry["mono_ms"]) for entry in entries if entry["k"] == k)


@pytest.mark.parametrize("kind", SERIAL)
async def test_late_answers_are_counted_and_the_unit_is_proved_first(kind: str, tmp_path: Path) -> None:
    async with bus(kind, tmp_path, timeout_s=0.1) as ends:
        await asked_until_answered(ends.link)
        ends.device.faults.add(Fault(fault="delay", delay_s=0.4, times=1))
        assert (await failure_of(ends.link)).cause == "timeout"
        await until(lambda: ends.link.dropped["late"])
        await asked_until_answered(ends.link)
        assert ends.link._hearing.doubted == set()


async def test_a_unit_that_knows_no_loopback_is_waited_for_instead(tmp_path: Path) -> None:
    async with bus("rtu", tmp_path, timeout_s=0.1) as ends:
        answer = ends.device.answer
        serial = ends.device._serial
        assert serial is not None
        serial._answer = lambda request, *rest: None if request.pdu[0] == 8 else answer(request, *rest)
        await asked_until_answered(ends.link)
        ends.device.faults.add(Fault(fault="drop", times=1))
        assert (await failure_of(ends.link)).cause == "timeout"
        await asked_until_answered(ends.link)
        assert ends.link._no_loopback == {1}
        ends.device.faults.add(Fault(fault="drop", times=1))
        assert (await failure_of(ends.link)).cause == "timeout"
        assert ends.link._unproved == set()  # it is not asked again what it does not know
        await asked_until_answered(ends.link)


# --- serial lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rtu", "ascii"])
async def test_the_echo_of_a_half_duplex_adapter_is_dropped(kind: str, tmp_path: Path) -> None:
    async with bus(kind, tmp_path, echo=True, timeout_s=5.0) as ends:
        assert [which(await ends.link.read(1, WHOLE)) for _ in range(3)] == [1, 2, 3]
        assert ends.link.dropped == {"echo": 3}


@pytest.mark.parametrize("kind", ["rtu", "ascii"])
async def test_an_adapter_that_is_pulled_out_and_put_back_is_found_again(kind: str, tmp_path: Path) -> None:
    async with bus(kind, tmp_path) as ends:
        before = await asked_until_answered(ends.link)
        await ends.device.close()
        await until_failing(ends.link, "adapter is not there; is the adapter plugged in?")
        assert (await failure_of(ends.link)).cause == "unreachable"
        ends.device.start_serial(link=tmp_path / "adapter", kind=kind)
        await until_answered(ends.link)
        assert which(await ends.link.read(1, WHOLE)) > before


async def until_failing(link: ModbusLink, text: str, within_s: float = 20.0) -> None:
    deadline, said = time.monotonic() + within_s, ""
    while text not in said:
        assert time.monotonic() < deadline, said
        try:
            await link.read(1, WHOLE)
        except ReadFailed as failure:
            said = str(failure)
        await asyncio.sleep(0.02)


async def until_answered(link: ModbusLink) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            await link.read(1, WHOLE)
        except ReadFailed:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("it never came back")


async def test_a_port_that_another_program_has_is_said_in_words(tmp_path: Path) -> None:
    async with bus("rtu", tmp_path) as ends:
        await asked_until_answered(ends.link)
        second = ModbusLink(options=ends.options)
        failure = await failure_of(second)
        assert failure.cause == "unreachable"
        assert re.search(rf"adapter is in use by \S+ \(process {os.getpid()}\); a line has one master", str(failure))
        ends.link.close()
        await until_answered(second)
        second.close()


async def test_what_is_no_serial_port_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    link = ModbusLink(options=config.RtuBus(id="b", port=str(tmp_path / "file")))
    assert "is no serial port" in str(await failure_of(link))


async def test_a_line_that_is_never_silent_is_said_to_have_two_masters(tmp_path: Path) -> None:
    async with bus("rtu", tmp_path, baud=4800) as ends:
        serial = ends.device._serial
        assert serial is not None
        await asked_until_answered(ends.link)

        async def babble() -> None:
            while True:
                serial._write(b"\x55" * 8)
                await asyncio.sleep(0.001)

        babbling = asyncio.create_task(babble())
        try:
            await until_failing(ends.link, "the line is never silent; is there a second master?")
        finally:
            babbling.cancel()
            await asyncio.gather(babbling, return_exceptions=True)
        await until_answered(ends.link)


# --- what a device needs --------------------------------------------------------------------------------


async def test_a_busy_device_is_asked_again_as_its_profile_says(tmp_path: Path) -> None:
    async with bus("tcp", tmp_path) as ends:
        ends.link.suits(1, Timing(busy_retries=2, busy_wait_ms=20))
        ends.device.faults.add(Fault(fault="exception", code=6, times=2))
        began = time.monotonic()
        assert which(await ends.link.read(1, WHOLE)) == 1
        assert time.monotonic() - began >= 0.04
        ends.device.faults.add(Fault(fault="exception", code=5, times=3))
        assert (await failure_of(ends.link)).code == 5


async def test_a_device_of_one_answer_per_connection_gets_one_each(tmp_path: Path) -> None:
    async with bus("tcp", tmp_path) as ends:
        ends.link.suits(1, Timing(reconnect_each=True))
        for k in (1, 2, 3):
            assert which(await ends.link.read(1, WHOLE)) == k
            assert ends.link._connection.client is None


async def test_rests_are_kept_per_unit_and_after_connecting(tmp_path: Path) -> None:
    async with bus("tcp", tmp_path, units=(1, 2), timeout_s=5.0) as ends:
        ends.link.suits(1, Timing(pause_ms=60, after_connect_ms=80))
        began = time.monotonic()
        await ends.link.read(1, WHOLE)
        first = time.monotonic()
        assert first - began >= 0.08
        await ends.link.read(2, WHOLE)  # has no need of a rest
        await ends.link.read(1, WHOLE)
        assert time.monotonic() - first >= 0.06


# --- TLS ------------------------------------------------------------------------------------------------


async def test_a_device_whose_certificate_is_not_trusted_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = keys(tmp_path / "other")
    async with bus("tls", tmp_path) as ends:
        assert isinstance(ends.options, config.TlsBus)
        link = ModbusLink(
            options=config.TlsBus(id="b", host="127.0.0.1", port=ends.options.port, ca_file=str(other.ca))
        )
        failure = await failure_of(link)
        assert failure.cause == "unreachable"
        assert "its certificate is not accepted" in str(failure)


async def test_a_name_in_the_certificate_can_be_given_and_ours_is_shown(tmp_path: Path) -> None:
    made = keys(tmp_path, "plc.example")
    simulated = device()
    port = await simulated.start(kind="tls", tls=made.server(ask_for_ours=True))
    ours = {"ca_file": str(made.ca), "cert_file": str(made.cert), "key_file": str(made.key)}
    known = config.TlsBus(id="b", host="127.0.0.1", port=port, server_name="plc.example", timeout_s=5.0, **ours)  # type: ignore[arg-type]
    unknown = config.TlsBus(id="b", host="127.0.0.1", port=port, ca_file=str(made.ca), server_name="plc.example")
    good, bad = ModbusLink(options=known), ModbusLink(options=unknown)
    assert which(await good.read(1, WHOLE)) == 1
    assert (await failure_of(bad)).cause in {"unreachable", "closed"}
    good.close()
    bad.close()
    await simulated.close()


async def test_a_certificate_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    link = ModbusLink(options=config.TlsBus(id="b", host="127.0.0.1", port=1, ca_file=str(tmp_path / "none.crt")))
    assert "none.crt" in str(await failure_of(link))


# --- identification -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_device_says_what_it_is(kind: str, tmp_path: Path) -> None:
    async with bus(kind, tmp_path, profile="xy-md02@1", signals={"temperature": constant(4.0)}) as ends:
        unit = ends.device._units[1]
        unit.identity |= {5: b"MD02", 128: b"\xc3\xa9t\xc3\xa9", 200: b"x" * 120, 201: b"y" * 130}
        said = await ends.link.identify(1)
        assert (said["vendor_name"], said["product_code"], said["model_name"]) == ("xy", "md02", "MD02")
        assert (said["object_128"], said["object_200"], said["object_201"]) == ("été", "x" * 120, "y" * 130)
        ends.device.faults.add(Fault(fault="exception", code=1, times=1))
        with pytest.raises(ReadFailed, match="identification: exception 1"):
            await ends.link.identify(1)


def test_paths_of_adapters_that_change_are_warned_of(tmp_path: Path) -> None:
    from gateway.sensors.modbus_serial import unstable

    assert unstable("/dev/serial/by-id/usb-x") is None
    said = unstable("/dev/ttyUSB0", tmp_path)
    assert said is not None
    assert f"use its name in {tmp_path}" in said
    (tmp_path / "usb-FTDI").symlink_to("/dev/ttyUSB0")
    said = unstable("/dev/ttyUSB0", tmp_path)
    assert said is not None
    assert said.endswith(f"use {tmp_path}/usb-FTDI")
