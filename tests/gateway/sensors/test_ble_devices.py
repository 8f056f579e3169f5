"""What devices do that a decoder alone can't see: packets in turn, keys, restarts, beacons, data that lies about."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESCCM
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_configs.loader import Profiles
from gateway.clock import SystemClock
from gateway.decoders.advertisements import Advert, Counter, resolve
from gateway.errors import Misconfigured
from gateway.sensors.ble import BleSensor
from gateway.sensors.ble_adverts import Adverts
from gateway.sensors.ble_memory import FILE, WRITE_EVERY_MS, CounterMemory, forget
from gateway.sensors.ble_phantoms import Phantoms
from gateway.sensors.heard import Heard
from gateway.sensors.merged import Merged
from gateway.simulators.bluez import SimulatedBluez
from gateway.simulators.bluez_payloads import BTHOME, bthome
from gateway.simulators.bluez_radio import Report
from gateway.simulators.bluez_scenario import Advertiser
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BleSensor as Options
from tests.gateway.sensors.listening import Facts, listening, simulated_bluez
from tests.gateway.sensors.rig import until
from tests.gateway.sensors.test_ble import BTHOME_SENSOR, KEY, PROBE, heard, probe, quiet
from tests.gateway.sensors.test_ble_recovery import TurnedClock

ADDRESS = "A4:C1:38:02:83:F4"
MIBEACON = "0000fe95-0000-1000-8000-00805f9b34fb"
CLOCK = SystemClock()


class Told:
    """A driver between a queue and a list."""

    def __init__(self, profile: str, *, key: bytes | None = None, clock: SystemClock = CLOCK) -> None:
        found = Profiles().ble(profile)
        self.clock = clock
        self.driver = BleSensor(
            options=Options(id="it", address=ADDRESS, profile=profile),
            profile=found,
            format_=resolve(found),
            key=key,
            simulated=False,
            clock=clock,
            adverts=Adverts(),
            memory=CounterMemory(path=None, clock=clock),
        )
        self.facts = Facts()
        self.driver._emit = self.facts
        self.driver._heard = tuple(
            Heard(started_ms=0, period_ms=found.period_s * 1000)  # type: ignore[arg-type]
            for _ in self.driver.groups()
        )

    def hear(
        self, *, manufacturer: dict[int, bytes] | None = None, service: dict[str, bytes] | None = None, at_ms: int = 0
    ) -> None:
        self.driver.take(Advert(ADDRESS, manufacturer or {}, service or {}, -60, at_ms or self.clock.mono_ms()))

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.driver.counters)


def mibeacon(number: int, kind: int, data: bytes, key: bytes) -> bytes:
    """An encrypted MiBeacon (version 5) of an LYWSD03MMC: header, number, object, upper bytes of the number, proof."""
    mac = bytes.fromhex(ADDRESS.replace(":", ""))[::-1]
    head = struct.pack("<HHB", 0x5858, 0x055B, number & 0xFF)
    more = (number >> 8).to_bytes(3, "little")
    plain = struct.pack("<HB", kind, len(data)) + data
    sealed = AESCCM(key, tag_length=4).encrypt(mac + head[2:] + more, plain, b"\x11")
    return head + mac + sealed[:-4] + more + sealed[-4:]


def test_packets_in_turn_are_rows_of_their_own_and_nothing_is_carried_over() -> None:
    key = bytes.fromhex(KEY)
    one = Told("xiaomi-lywsd03mmc@1", key=key)
    for number, kind, data in (
        (0x1001, 0x1004, struct.pack("<h", -52)),
        (0x1002, 0x1006, struct.pack("<H", 400)),
        (0x1003, 0x100A, bytes([87])),
        (0x1004, 0x1004, struct.pack("<h", -51)),
    ):
        one.hear(service={MIBEACON: mibeacon(number, kind, data, key)})
    assert [group.part for group in one.driver.groups()] == ["temperature", "humidity", "battery"]
    rows = [(group, row.values) for group, row in zip(one.facts.groups, one.facts.rows, strict=True)]
    assert rows == [(0, (-52, -60)), (1, (400,)), (2, (87,)), (0, (-51, -60))]
    assert all(row.quality is None for row in one.facts.rows), "what a packet doesn't hold is no bad value"
    assert one.counters == {"heard": 4, "measurements": 4, "rows": 4}


@pytest.mark.parametrize(
    ("payload", "key", "cause", "words"),
    [
        (mibeacon(1, 0x1004, b"\x01\x00", bytes(16)), bytes.fromhex(KEY), "wrong_key", "maker's app"),
        (bytes.fromhex("5020aa0109f4830238c1a40d1004d5002802"), bytes.fromhex(KEY), "plain", "switched off"),
        (mibeacon(1, 0x1004, b"\x01\x00", bytes(16)), None, "no_key", "no key_file"),
        (bytes.fromhex("5830aa0109f4830238c1a40d1004d5002802"), bytes.fromhex(KEY), "unreadable", "without proof"),
    ],
)
def test_a_key_that_does_not_fit_is_told_in_words_and_counted_by_cause(
    payload: bytes, key: bytes | None, cause: str, words: str
) -> None:
    one = Told("xiaomi-lywsd03mmc@1", key=key)
    one.hear(service={MIBEACON: payload})
    assert one.facts.rows == []
    assert words in str(one.driver.problem)
    assert KEY not in str(one.driver.problem)
    assert one.counters == {"heard": 1, "refused": 1, f"refused_{cause}": 1}


def test_of_data_that_lies_about_only_what_changed_is_told() -> None:
    """Inkbird's company number is its temperature: BlueZ keeps one entry for each."""
    one = Told("inkbird-ibs-th2@1")
    first, second, third = 0x089C, 0x08A6, 0x08B0
    data = bytes.fromhex("f41000ba4e6408")
    one.hear(manufacturer={first: data, second: data})
    assert one.counters == {"heard": 1, "ambiguous": 1}, "which of them is newer, nobody knows"
    one.hear(manufacturer={first: data, second: data})
    one.hear(manufacturer={first: data, second: data, third: data})
    one.hear(manufacturer={first: data, second: data, third: data})
    one.hear(manufacturer={first: data})
    assert [row.values[0] for row in one.facts.rows] == [2224, 2204]
    assert one.counters == {"heard": 5, "ambiguous": 1, "repeated": 2, "measurements": 2, "rows": 2}
    assert one.facts.losts == []


@given(st.lists(st.dictionaries(st.integers(0, 5), st.binary(min_size=1, max_size=1), max_size=4), max_size=12))
def test_an_entry_is_never_told_twice_in_a_row_and_never_made_up(heard: list[dict[int, bytes]]) -> None:
    merged = Merged()
    last: dict[int, bytes] = {}
    for one in heard:
        newest = merged.newest(one)
        if newest is not None:
            assert set(newest.items()) <= set(one.items())
            assert len(newest) <= 1
            if len(one) > 1:
                assert not set(newest.items()) & set(last.items())
        last = one


def test_a_beacon_is_a_measurement_once_per_period_and_its_strength_a_series() -> None:
    clock = TurnedClock()
    one = Told("apple-ibeacon@1", clock=clock)
    payload = {0x004C: bytes.fromhex("0215e2c56db5dffb48d2b060d0f5a71096e000010002c5")}
    for _ in range(35):
        one.hear(manufacturer=payload)
        clock.turn(1.0)
    assert len(one.facts.rows) == 4
    assert one.facts.rows[0].values == ("e2c56db5-dffb-48d2-b060-d0f5a71096e0", 1, 2, -59, -60)
    one.hear(manufacturer={0x004C: bytes.fromhex("10050b1c6d2e35")})
    assert one.counters["foreign"] == 1, "the same company's other devices"


async def test_counters_outlive_a_restart_and_a_recording_of_before_it_gives_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "key"
    secret.write_text(KEY)
    secret.chmod(0o600)
    document = BTHOME_SENSOR + f'key_file = "{secret}"\n'
    async with simulated_bluez(monkeypatch) as bluez:
        async with listening(document, data_dir=tmp_path) as running:
            await until(lambda: bluez.scanning)
            sensor = probe(bluez, key=KEY)
            for k in range(1, 4):
                await sensor.measure(0.0)
                await heard(running, "probe", k)
        kept = (tmp_path / "ble" / FILE).read_text()
        assert PROBE in kept
        assert KEY not in kept
        assert (tmp_path / "ble" / FILE).stat().st_mode & 0o077 == 0
        await until(lambda: not bluez.scanning)
        assert await after_restart(bluez, sensor, document, tmp_path) == [0.04]
        forgotten = forget(tmp_path / "ble" / FILE, PROBE)
        assert forgotten
        assert not forget(tmp_path / "ble" / FILE, PROBE)
        await until(lambda: not bluez.scanning)
        assert await after_restart(bluez, sensor, document, tmp_path) == [0.01, 0.05], "it begins anew, as told"


async def after_restart(bluez: SimulatedBluez, sensor: Advertiser, document: str, data_dir: Path) -> list[Any]:
    """The temperatures told of a replayed and a new measurement."""
    async with listening(document, data_dir=data_dir) as running:
        await until(lambda: bluez.scanning)
        await sensor.replay()
        await quiet(running, "probe", 1)
        await sensor.measure(0.0)
        await quiet(running, "probe", 2)
        counters = running.driver["probe"].counters
        assert counters["older"] + counters["rows"] == 2
        return [round(value / 100, 2) for value in running.facts["probe"].column(0)]


def test_counters_are_written_once_a_minute_and_a_damaged_file_is_no_end(tmp_path: Path) -> None:
    clock, path, key = TurnedClock(), tmp_path / "ble" / FILE, bytes(16)
    memory = CounterMemory(path=path, clock=clock)
    for value in (1, 2, 3):
        memory.took(ADDRESS, key, Counter(value, 32, proven=True))
        clock.turn(10)
    assert CounterMemory(path=path, clock=clock).last(ADDRESS, key) == Counter(1, 32, proven=True)
    clock.turn(WRITE_EVERY_MS / 1000)
    memory.took(ADDRESS, key, Counter(4, 32, proven=True))
    again = CounterMemory(path=path, clock=clock)
    assert again.last(ADDRESS, key) == Counter(4, 32, proven=True)
    assert again.last(ADDRESS, bytes(15) + b"\x01") is None, "another key is another history"
    path.write_text("{")
    assert CounterMemory(path=path, clock=clock).last(ADDRESS, key) is None
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    memory.took(ADDRESS, key, Counter(5, 32, proven=True))
    clock.turn(WRITE_EVERY_MS / 1000)
    memory.save()
    assert memory.last(ADDRESS, key) == Counter(5, 32, proven=True)


def test_calls_that_bring_nothing_from_the_radio_are_phantoms() -> None:
    phantoms = Phantoms(limit=2)
    data = {1: b"one"}
    properties: dict[str, Any] = {"ManufacturerData": data, "RSSI": -60}
    assert phantoms.is_phantom("/a", {"ManufacturerData": data}), "known from before, and not heard now"
    assert not phantoms.is_phantom("/a", properties)
    assert phantoms.is_phantom("/a", properties | {"Connected": True})
    assert not phantoms.is_phantom("/a", properties | {"RSSI": -61})
    data = dict(data)
    assert not phantoms.is_phantom("/a", properties | {"RSSI": -61, "ManufacturerData": data}), "said again"
    assert phantoms.is_phantom("/a", {"ManufacturerData": data}), "it went out of reach"
    for path in ("/b", "/c"):
        phantoms.is_phantom(path, properties)
    assert not phantoms.is_phantom("/a", properties), "forgotten meanwhile"


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ('profile = "ruuvi-ruuvitag@1"\nkey_file = "KEY"', "ruuvi-ruuvitag@1 is never encrypted; leave it out"),
        ('profile = "xiaomi-lywsd03mmc@1"\nkey_file = "SHORT"', "doesn't hold 32 hexadecimal digits"),
        (
            'profile = "inkbird-ibs-th2@1"',
            'scan: "passive" can\'t hear inkbird-ibs-th2@1, which answers only when asked',
        ),
        (
            'profile = "apple-ibeacon@1"',
            'scan: "passive" can\'t hear apple-ibeacon@1, which says the same all the time',
        ),
    ],
)
async def test_what_can_never_be_heard_is_told_before_anything_runs(tmp_path: Path, document: str, why: str) -> None:
    for name, text in (("KEY", KEY), ("SHORT", KEY[:24])):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o600)
        document = document.replace(f'"{name}"', f'"{path}"')
    with pytest.raises(Misconfigured, match=why):
        async with listening(
            f'[ble]\nscan = "passive"\n[[sensor]]\nid = "it"\ndriver = "ble"\naddress = "{ADDRESS}"\n{document}\n'
        ):
            pass


async def test_one_that_answers_only_when_asked_makes_auto_scan_actively(monkeypatch: pytest.MonkeyPatch) -> None:
    document = f'[[sensor]]\nid = "it"\ndriver = "ble"\naddress = "{ADDRESS}"\nprofile = "inkbird-ibs-th2@1"\n'
    async with simulated_bluez(monkeypatch) as bluez, listening(document) as running:
        await until(lambda: bluez.scanning)
        scanner = running.built.tasks[1].run.__self__  # type: ignore[attr-defined]
        await until(lambda: scanner.mode)
        says = running.built.tasks[1].says
        assert says is not None
        assert says().state == "active scan, nothing heard yet"
        for step in (0, 1):  # each measurement replaces the one before, as BlueZ does it
            data = {0x089C + step: bytes.fromhex("f41000ba4e6408")}
            await bluez.advertise(Report(address=ADDRESS, manufacturer=data))
            await heard(running, "it", step + 1)
        assert says().state == "active scan"
        assert says().counters["adverts"] == 2
        assert running.facts["it"].column(0) == [2204, 2205]


@pytest.mark.parametrize("profile", [one.name for one in Profiles().all_ble()])
@settings(deadline=None, max_examples=12)
@given(payloads=st.lists(st.binary(max_size=254), max_size=5), company=st.integers(0, 65535))
def test_whatever_is_sent_is_accounted_for(profile: str, payloads: list[bytes], company: int) -> None:
    """Nothing raises, and heard = the sum of what became of it."""
    one = Told(profile)
    layout, format_ = Profiles().ble(profile).layout, one.driver._format
    numbers = {company, *([layout.company] if layout and layout.company is not None else [])}
    numbers |= {int.from_bytes(p.data[:2], "little") for p in format_.patterns if p.kind == "manufacturer"}
    uuids = [f"0000{p.data[1::-1].hex()}-0000-1000-8000-00805f9b34fb" for p in format_.patterns if p.kind == "service"]
    for payload in payloads:
        one.hear(manufacturer=dict.fromkeys(numbers, payload), service=dict.fromkeys(uuids, payload))
    counted = one.counters
    fates = ("foreign", "ambiguous", "repeated", "older", "refused", "measurements")
    assert counted.get("heard", 0) == sum(counted.get(fate, 0) for fate in fates) == len(payloads)
    assert counted.get("refused", 0) == sum(n for name, n in counted.items() if name.startswith("refused_"))
    assert (one.driver.problem is None) or counted["refused"] or counted["older"]


def test_a_measurement_that_comes_back_under_a_newer_counter_is_one() -> None:
    key = bytes.fromhex(KEY)
    one = Told("bthome-thermometer@1", key=key)
    steps = {"temperature": 2506, "relative_humidity": 5055, "battery_level": 97}
    for number in (7, 8, 7, 8, 9):
        one.hear(service={BTHOME: bthome(ADDRESS, steps, number, key).service[BTHOME]})
    assert len(one.facts.rows) == 3
    assert one.counters["older"] == 1
    assert one.counters["repeated"] == 1
    assert "ble forget" in str(one.driver.problem) or one.driver.problem is None
    assert {lost.reason for lost in one.facts.losts} <= {pb.GAP_REFUSED}


def test_a_decoder_that_breaks_is_a_refusal_like_others_and_the_next_measurement_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Told("bthome-thermometer@1")
    steps = {"temperature": 2506, "relative_humidity": 5055, "battery_level": 97}
    with monkeypatch.context() as broken:
        broken.setattr("gateway.decoders.advertisements.bthome._read", lambda *_, **__: 1 / 0)
        one.hear(service={BTHOME: bthome(ADDRESS, steps, 1, None).service[BTHOME]})
    assert one.driver.problem == "ZeroDivisionError: division by zero"
    assert one.counters["refused_unreadable"] == 1
    one.hear(service={BTHOME: bthome(ADDRESS, steps, 2, None).service[BTHOME]})
    assert len(one.facts.rows) == 1
    assert one.driver.problem is None
