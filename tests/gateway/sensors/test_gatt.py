"""Peripherals of a simulated BlueZ, connected to by unmodified bleak: what is read, what is not, what becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from gateway.errors import Misconfigured
from gateway.reading import Row
from gateway.sensors import gatt, gatt_peripherals
from gateway.sensors.gatt import GattSensor
from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_peripheral import Characteristic, Peripheral, uuid_of
from protos.comboio.v1 import batch_pb2 as pb
from tests.gateway.sensors.listening import CLOCK, Listening, listening, simulated_bluez
from tests.gateway.sensors.on_the_air import SENSOR, on_the_air, thermometer
from tests.gateway.sensors.rig import until

QUICK = "[ble]\nturn_s = 2.0\n"
ENVIRONMENT = "bluetooth-environment@1"
NOTIFYING = "bluetooth-thermometer@1"
TEMPERATURE = uuid_of("2a6e")
PATIENT_S = 60.0


def sensor(
    name: str = "t", address: str = SENSOR, profile: str = ENVIRONMENT, every_s: float = 0.2, more: str = ""
) -> str:
    return f"""
[[sensor]]
id = "{name}"
driver = "gatt"
address = "{address}"
profile = "{profile}"
every_s = {every_s}
{more}
"""


@pytest.fixture
async def bluez(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SimulatedBluez]:
    async with simulated_bluez(monkeypatch) as started:
        yield started


def driver(running: Listening, name: str = "t") -> GattSensor:
    found: GattSensor = running.driver[name]
    return found


async def rows(running: Listening, count: int, name: str = "t") -> None:
    await until(lambda: len(running.facts[name].rows) >= count, within_s=PATIENT_S)


async def fails(running: Listening, cause: str, name: str = "t", times: int = 1) -> str:
    await until(lambda: driver(running, name).counters.failed[cause] >= times, within_s=PATIENT_S)  # type: ignore[index]
    return str(driver(running, name).problem)


def nothing_twice(running: Listening, name: str = "t") -> None:
    """Each answer counts one up: what comes twice was not asked for twice."""
    numbers = running.facts[name].column(0)
    assert numbers == sorted(set(numbers))
    times = [row.mono_ms for row in running.facts[name].rows]
    assert times == sorted(set(times))


def reasons(running: Listening, name: str = "t") -> set[pb.GapReason.ValueType]:
    """Of its gaps; what a busy machine had no time for is not what is looked for here."""
    return {lost.reason for lost in running.facts[name].losts} - {pb.GAP_QUEUE_FULL}


def in_order(running: Listening, name: str = "t") -> None:
    """No row is inside a gap, and gaps don't run backwards."""
    for lost in running.facts[name].losts:
        assert lost.after_mono_ms < lost.before_mono_ms
        assert not [row for row in running.facts[name].rows if lost.after_mono_ms < row.mono_ms < lost.before_mono_ms]


async def quiet(running: Listening, name: str = "t") -> int:
    """What was answered before it broke may still be on its way; then nothing comes any more. How many there are."""
    since = time.monotonic()
    count = len(running.facts[name].rows)
    deadline = since + PATIENT_S
    while time.monotonic() - since < 0.5:
        assert time.monotonic() < deadline, "something goes on telling"
        await asyncio.sleep(0.02)
        if len(running.facts[name].rows) != count:
            count, since = len(running.facts[name].rows), time.monotonic()
    return count


class Notifying:
    """Tells a number that rises, while somebody is subscribed."""

    def __init__(self, bluez: SimulatedBluez, address: str = SENSOR) -> None:
        self._bluez, self._address, self.told = bluez, address, 0

    async def run(self) -> None:
        while True:
            if self._bluez.running and self._bluez.gatt.subscribed(self._address, "2a6e"):
                self.told += 1
                self._bluez.gatt.notify(self._address, "2a6e", self.told.to_bytes(2, "little"))
            await asyncio.sleep(0.02)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.run(), name="notifying")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_each_visit_gives_one_row_at_the_time_of_its_answer(bluez: SimulatedBluez) -> None:
    one = thermometer()
    asked: list[int] = []
    count = one.characteristic("2a6e").read
    assert count is not None

    def answer() -> bytes:
        asked.append(CLOCK.mono_ms())
        return count()

    one.characteristic("2a6e").read = answer
    async with on_the_air(bluez, one), listening(sensor()) as running:
        await rows(running, 5)
        (group,) = driver(running).groups()
        assert {series.attrs.get("simulated") for series in group.series} == {"true"}
        found: list[Row] = running.facts["t"].rows[:5]
        assert [row.values for row in found] == [(n, None, None) for n in (1, 2, 3, 4, 5)], "humidity is not there"
        assert {row.quality for row in found} == {(0, pb.QUALITY_BAD_COMM, pb.QUALITY_BAD_COMM)}
        assert all(row.mono_ms >= at for row, at in zip(found, asked, strict=False))
        nothing_twice(running)
        assert driver(running).problem is None
        assert reasons(running) == set()


async def test_each_notification_is_a_row_and_nothing_else_is(bluez: SimulatedBluez) -> None:
    async with (
        on_the_air(bluez, thermometer()),
        Notifying(bluez) as said,
        listening(sensor(profile=NOTIFYING, every_s=0.02)) as running,
    ):
        await rows(running, 20)
        assert running.facts["t"].column() == list(range(1, len(running.facts["t"].rows) + 1))
        assert bluez.gatt.links() == 1, "it stays connected"
        bluez.gatt.hang_up(SENSOR)
        before = said.told
        await rows(running, 40)
        nothing_twice(running)
        in_order(running)
        assert set(range(1, before)) <= set(running.facts["t"].column())
        assert driver(running).counters.failed["hung_up"]
        assert reasons(running) == {pb.GAP_UNREADABLE}


async def off(bluez: SimulatedBluez) -> None:
    bluez.power("hci0", on=False)


async def on(bluez: SimulatedBluez) -> None:
    bluez.power("hci0", on=True)


async def unplug(bluez: SimulatedBluez) -> None:
    bluez.unplug("hci0")


async def plug(bluez: SimulatedBluez) -> None:
    bluez.plug("hci0")


async def carry_away(bluez: SimulatedBluez) -> None:
    bluez.gatt.out_of_range(SENSOR)


async def bring_back(bluez: SimulatedBluez) -> None:
    bluez.gatt.peripherals[SENSOR].in_range = True


FAULTS = [
    pytest.param(off, on, id="adapter off and on"),
    pytest.param(unplug, plug, id="adapter unplugged and back"),
    pytest.param(SimulatedBluez.stop, SimulatedBluez.start, id="bluetoothd restarted"),
    pytest.param(SimulatedBluez.kill, SimulatedBluez.start, id="bluetoothd killed"),
    pytest.param(carry_away, bring_back, id="out of range and back"),
]


@pytest.mark.parametrize(("breaks", "mends"), FAULTS)
@pytest.mark.parametrize("profile", [ENVIRONMENT, NOTIFYING])
async def test_after_a_fault_it_reads_again_and_nothing_stale_is_fresh(
    bluez: SimulatedBluez, profile: str, breaks: Any, mends: Any
) -> None:
    every_s = 0.1 if profile == ENVIRONMENT else 0.02
    async with on_the_air(bluez, thermometer()), Notifying(bluez):
        async with listening(QUICK + sensor(profile=profile, every_s=every_s)) as running:
            await rows(running, 3)
            await breaks(bluez)
            during = await quiet(running)
            assert driver(running).pending_since() is not None, "completeness waits for the gap"
            await mends(bluez)
            await rows(running, during + 3)
        nothing_twice(running)
        in_order(running)
        assert reasons(running) == {pb.GAP_UNREADABLE}


def troubled(number: int, **more: Any) -> Peripheral:
    return thermometer(f"F0:F1:F2:F3:F4:{number:02X}", **more)


async def test_dead_peripherals_never_block_the_others_nor_keep_a_connection(bluez: SimulatedBluez) -> None:
    mute = troubled(6)
    mute.characteristic("2a6e").silent = True
    bad = [
        troubled(2, in_range=False),
        troubled(3, refuse="le-connection-refused"),
        troubled(4, resolves=False),
        troubled(5, drops_on_read=True),
        mute,
    ]
    document = "[ble]\nconnections = 1\nturn_s = 2.0\n" + sensor()
    document += "".join(sensor(f"bad{i}", one.address) for i, one in enumerate(bad))
    async with on_the_air(bluez, thermometer(), *bad), listening(document) as running:
        await until(lambda: all(driver(running, f"bad{i}").counters.visits >= 2 for i in range(1, 5)), PATIENT_S)
        await rows(running, 8)
        for i, cause in enumerate(("absent", "unreachable", "timeout", "hung_up", "timeout")):
            if cause != "absent":  # which takes half a minute to say
                await fails(running, cause, f"bad{i}")
            assert running.facts[f"bad{i}"].rows == []
        assert "le-connection-refused" in str(driver(running, "bad1").problem)
        assert bluez.gatt.peak_links == 1
        nothing_twice(running)


async def test_many_peripherals_share_few_connections_in_turn(bluez: SimulatedBluez) -> None:
    many = [thermometer(f"F0:F1:F2:F3:F4:{n:02X}", connect_s=0.02) for n in range(1, 7)]
    document = "[ble]\nconnections = 2\n" + "".join(sensor(f"s{n}", one.address) for n, one in enumerate(many))
    async with on_the_air(bluez, *many), listening(document) as running:
        await until(lambda: all(len(facts.rows) >= 3 for facts in running.facts.values()), PATIENT_S)
        assert bluez.gatt.peak_links <= 2
        for name in running.facts:
            nothing_twice(running, name)


async def test_who_stays_connected_gives_way_to_who_waits(bluez: SimulatedBluez) -> None:
    second = "F0:F1:F2:F3:F4:02"
    document = "[ble]\nconnections = 1\nturn_s = 1.0\n"
    document += sensor("a", profile=NOTIFYING, every_s=0.02) + sensor("b", second, profile=NOTIFYING, every_s=0.02)
    async with on_the_air(bluez, thermometer(), thermometer(second)), listening(document) as running:
        async with Notifying(bluez), Notifying(bluez, second):
            await until(lambda: all(driver(running, name).counters.gave_way for name in "ab"), PATIENT_S)
            await until(lambda: driver(running, "a").counters.connected >= 2, PATIENT_S)
        assert bluez.gatt.peak_links == 1
        for name in "ab":
            nothing_twice(running, name)
            in_order(running, name)
            assert running.facts[name].rows
            assert running.facts[name].losts, "what it told meanwhile is in a gap"


async def test_two_sensors_of_one_peripheral_take_turns(bluez: SimulatedBluez) -> None:
    document = sensor() + sensor("battery", profile="bluetooth-battery@1")
    async with on_the_air(bluez, thermometer()), listening(document) as running:
        await rows(running, 3)
        await rows(running, 3, "battery")
        assert set(running.facts["battery"].column()) == {95}
        assert reasons(running) == set()


async def test_a_bluetoothd_that_hangs_holds_nobody_for_ever(bluez: SimulatedBluez) -> None:
    async with on_the_air(bluez, thermometer()), listening("[ble]\nturn_s = 1.0\n" + sensor()) as running:
        await rows(running, 2)
        bluez.frozen = True
        await fails(running, "timeout")
        await bluez.kill()
        await bluez.start()
        count = len(running.facts["t"].rows)
        await rows(running, count + 3)
        peripherals = driver(running)._peripherals
        await until(lambda: not peripherals.abandoned, PATIENT_S)
        nothing_twice(running)
        in_order(running)


async def test_an_adapter_that_hears_nothing_is_not_taken_for_a_broken_peripheral(
    bluez: SimulatedBluez, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gatt, "HEARD_WITHIN_S", 0.3)
    monkeypatch.setattr(gatt_peripherals, "LIVE_MS", 500)
    bluez.deaf("hci0", yes=True)
    async with on_the_air(bluez, thermometer()), listening(QUICK + sensor()) as running:
        assert "has not been heard yet: out of range, switched off" in await fails(running, "absent", times=4)
        assert bluez.gatt.peak_links == 0, "waiting for it costs no connection"
        bluez.deaf("hci0", yes=False)
        await rows(running, 2)
        bluez.deaf("hci0", yes=True)
        before = driver(running).counters.failed["absent"]
        assert "was last heard" in await fails(running, "absent", times=before + 2)
        in_order(running)


async def test_while_bluez_refuses_to_scan_it_says_so_and_goes_on_afterwards(bluez: SimulatedBluez) -> None:
    bluez.stuck("hci0", yes=True)
    async with on_the_air(bluez, thermometer()), listening(QUICK + sensor()) as running:
        scanning = running.built.tasks[1]
        await until(lambda: "InProgress" in str(scanning.problem()), PATIENT_S)
        bluez.stuck("hci0", yes=False)
        await rows(running, 2)


async def test_of_several_adapters_the_one_that_is_left_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    document = '[ble]\nadapters = ["hci0", "hci1"]\nturn_s = 2.0\n' + sensor()
    async with (
        simulated_bluez(monkeypatch, adapters=("hci0", "hci1")) as bluez,
        on_the_air(bluez, thermometer()),
        listening(document) as running,
    ):
        await rows(running, 2)
        for gone, back in (("hci0", "hci1"), ("hci1", "hci0")):
            bluez.plug(back)
            await until(lambda back=back: f"/org/bluez/{back}" in bluez._objects.tree, PATIENT_S)  # type: ignore[misc]
            bluez.unplug(gone)
            count = len(running.facts["t"].rows)
            await rows(running, count + 2)
        nothing_twice(running)
        in_order(running)


# --- bad input ------------------------------------------------------------------------------------------


def break_value(one: Peripheral) -> None:
    one.characteristic("2a6e").read = lambda: b"\x01"


def refuse_reads(one: Peripheral) -> None:
    one.characteristic("2a6e").att_error = 0x0E


def want_bond(one: Peripheral) -> None:
    one.characteristic("2a6e").needs_bond = True


def lose_services(one: Peripheral) -> None:
    one.services = {uuid_of("180f"): one.services[uuid_of("180f")]}


def drop_reads(one: Peripheral) -> None:
    one.drops_on_read = True


BAD = [
    pytest.param(break_value, "malformed", "characteristic 2a6e has 1 bytes, the profile needs 2", id="malformed"),
    pytest.param(refuse_reads, "refused", "refuses reading 2a6e", id="ATT error"),
    pytest.param(want_bond, "bond", "answers only who is paired", id="not paired"),
    pytest.param(lose_services, "services", "its services: 180f", id="services vanish"),
    pytest.param(drop_reads, "hung_up", "ended the connection", id="hangs up on a read"),
]


@pytest.mark.parametrize(("spoil", "cause", "why"), BAD)
async def test_what_is_wrong_is_counted_by_its_cause_and_said_in_words(
    bluez: SimulatedBluez, spoil: Callable[[Peripheral], None], cause: str, why: str
) -> None:
    one, other = thermometer(), thermometer("F0:F1:F2:F3:F4:02")
    document = QUICK + sensor() + sensor("other", other.address)
    async with on_the_air(bluez, one, other), listening(document) as running:
        await rows(running, 2)
        good = (dict(one.services), one.characteristic("2a6e").read)
        spoil(one)
        assert why in await fails(running, cause)
        count = len(running.facts["other"].rows)
        await rows(running, count + 2, "other")
        one.services, one.drops_on_read = good[0], False
        mended = one.characteristic("2a6e")
        mended.read, mended.att_error, mended.needs_bond = good[1], 0, False
        count = len(running.facts["t"].rows)
        await rows(running, count + 2)
        assert driver(running).problem is None
        nothing_twice(running)
        in_order(running)
        reason = pb.GAP_REFUSED if cause == "malformed" else pb.GAP_UNREADABLE
        assert reasons(running) - {pb.GAP_UNREADABLE} == {reason} - {pb.GAP_UNREADABLE}
        assert reason in reasons(running)


async def test_a_malformed_notification_is_in_a_gap_between_good_ones(bluez: SimulatedBluez) -> None:
    async with on_the_air(bluez, thermometer()), listening(sensor(profile=NOTIFYING, every_s=60)) as running:
        await until(lambda: bluez.gatt.subscribed(SENSOR, "2a6e"), PATIENT_S)
        for value in (b"\x01\x00", b"", b"\x02\x00"):
            bluez.gatt.notify(SENSOR, "2a6e", value)
            await asyncio.sleep(0.02)
        await rows(running, 2)
        first, lost, second = running.facts["t"].all
        assert lost == (first.mono_ms, second.mono_ms, 1, pb.GAP_REFUSED)  # type: ignore[union-attr]


async def test_one_that_is_connected_and_says_nothing_is_given_up(bluez: SimulatedBluez) -> None:
    async with on_the_air(bluez, thermometer()), listening(sensor(profile=NOTIFYING, every_s=0.02)) as running:
        driver(running)._silent_ms = 300
        assert "has not told temperature" in await fails(running, "silent", times=2)
        assert running.facts["t"].rows == []


async def test_what_starts_its_measuring_is_written_each_time(bluez: SimulatedBluez) -> None:
    wrote: list[tuple[str, bytes]] = []
    humidity, pressure = "f000aa2{}-0451-4000-b000-000000000000", "f000aa4{}-0451-4000-b000-000000000000"
    services: dict[str, list[Characteristic]] = {}
    for shape, size in ((humidity, 4), (pressure, 6)):
        config = Characteristic(uuid=shape.format(2), flags=("read", "write"))
        config.wrote = lambda value, uuid=config.uuid: wrote.append((uuid, value))
        services[shape.format(0)] = [Characteristic(uuid=shape.format(1), value=bytes(range(size))), config]
    one = Peripheral(address=SENSOR, services=services)
    document = sensor(profile="ti-cc2650-sensortag@1")
    async with on_the_air(bluez, one), listening(document) as running:
        await rows(running, 2)
        assert wrote[:2] == [(humidity.format(2), b"\x01"), (pressure.format(2), b"\x01")]
        assert len(wrote) >= 4
        row = running.facts["t"].rows[0]
        assert row.values == (0x0100, 0x0302 >> 2, 0x050403)


# --- pairing --------------------------------------------------------------------------------------------


def locked(**more: Any) -> Peripheral:
    one = thermometer(**more)
    value = bytes.fromhex("9001a401 4826 32 5a 01 3c00 0a00".replace(" ", ""))
    readings = Characteristic(uuid="f0cd3001-95da-4f4b-9ac8-aa55d312af0c", value=value, needs_bond=True)
    one.services = {uuid_of("fce0"): [readings]}
    return one


ARANET = "aranet-aranet4@1"


def passkey_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "passkey"
    path.write_text(text)
    path.chmod(0o600)
    return f'passkey_file = "{path}"'


async def test_it_pairs_once_by_the_passkey_and_the_bond_outlives_a_restart(
    bluez: SimulatedBluez, tmp_path: Path
) -> None:
    one = locked(pairing="passkey", passkey=123_456)
    document = QUICK + sensor(profile=ARANET, more=passkey_file(tmp_path, "123456\n"))
    async with on_the_air(bluez, one), listening(document) as running:
        await rows(running, 2)
        assert one.bonded
        assert running.facts["t"].rows[0].values == (400, 420, 9800, 50, 90, 1, 10)
        one.pairing = "none"  # whoever asks again is refused
        await bluez.kill()
        await bluez.start()
        count = len(running.facts["t"].rows)
        await rows(running, count + 2)


@pytest.mark.parametrize(
    ("passkey", "why"), [("000001", "is the passkey right"), (None, "put the digits it shows"), ("bonded", "")]
)
async def test_without_the_right_passkey_it_says_what_to_do(
    bluez: SimulatedBluez, tmp_path: Path, passkey: str | None, why: str
) -> None:
    one = locked(pairing="passkey", passkey=123_456, bonded=passkey == "bonded")
    more = passkey_file(tmp_path, passkey) if passkey == "000001" else ""
    async with on_the_air(bluez, one), listening(QUICK + sensor(profile=ARANET, more=more)) as running:
        if passkey == "bonded":
            await rows(running, 2)
            return
        assert why in await fails(running, "bond")
        assert running.facts["t"].rows == []
        assert not one.bonded


@pytest.mark.parametrize("text", ["12345", "1234567", "abcdef"])
async def test_a_passkey_file_that_cannot_be_used_is_told_with_its_setting(tmp_path: Path, text: str) -> None:
    more = passkey_file(tmp_path, text)
    with pytest.raises(Misconfigured, match=r"sensor t: passkey_file: .*doesn't hold six digits"):
        async with listening(sensor(profile=ARANET, more=more)):
            pass
