"""gpsd as a sensor, against a server that says what gpsd says, and stops in the middle of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_configs.loader import Profiles
from gateway.backoff import Backoff
from gateway.sensors import gpsd
from gateway.sensors.gpsd import GpsdSensor, of_sky, of_tpv
from gateway.simulators.gpsd import SimulatedGpsd
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import GpsdSensor as SensorOptions
from tests.gateway.sensors.rig import CLOCK, until

PROFILE = Profiles().host("gpsd-receiver@1")
VERSION = '{"class":"VERSION","release":"3.22","rev":"3.22","proto_major":3,"proto_minor":14}'
# As gpsd 3.2x writes them; places and serial numbers changed.
TPV = (
    '{"class":"TPV","device":"/dev/ttyACM0","status":2,"mode":3,"time":"2023-01-05T10:44:08.000Z","leapseconds":18,'
    '"ept":0.005,"lat":-23.550519900,"lon":-46.633309400,"altHAE":761.201,"altMSL":764.3,"alt":764.3,"epx":7.802,'
    '"epy":10.169,"epv":22.08,"track":92.3,"magtrack":70.9,"speed":13.412,"climb":-0.1,"eps":0.41,"eph":13.87}'
)
NO_FIX = '{"class":"TPV","device":"/dev/ttyACM0","mode":1}'
SKY = (
    '{"class":"SKY","device":"/dev/ttyACM0","hdop":1.03,"pdop":1.9,"nSat":3,"uSat":2,"satellites":'
    '[{"PRN":5,"el":31.0,"az":44.0,"ss":37.0,"used":true},{"PRN":12,"used":true},{"PRN":25,"used":false}]}'
)
OLD_SKY = (
    '{"class":"SKY","device":"/dev/ttyACM0","hdop":2.5,"satellites":[{"PRN":5,"used":true},{"PRN":12,"used":false}]}'
)
QUALITY = {"bad": pb.QUALITY_BAD_SENSOR}


class Facts:
    """By group."""

    def __init__(self) -> None:
        self.rows: tuple[list[Any], list[Any]] = ([], [])
        self.losts: tuple[list[Any], list[Any]] = ([], [])

    def row(self, group: int, row: Any) -> None:
        self.rows[group].append(row)

    def lost(self, group: int, lost: Any) -> None:
        assert lost.after_mono_ms < lost.before_mono_ms
        self.losts[group].append(lost)


class Server:
    """Says its lines to whoever asks, then waits, or hangs up."""

    def __init__(self, lines: Sequence[str | bytes]) -> None:
        self.lines = list(lines)
        self.hang_up = False
        self.asked = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            writer.write(VERSION.encode() + b"\r\n")
            assert (await reader.readline()).startswith(b"?WATCH=")
            self.asked += 1
            for line in self.lines:
                writer.write(line if isinstance(line, bytes) else line.encode() + b"\r\n")
            await writer.drain()
            if not self.hang_up:
                await reader.read()
        writer.close()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def sensing(
    *lines: str | bytes, every_s: float = 0.1, device: str = "", hang_up: bool = False
) -> AsyncIterator[tuple[GpsdSensor, Facts, Server]]:
    served = Server(lines)
    served.hang_up = hang_up
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    options = SensorOptions(id="gps", address=f"127.0.0.1:{port}", every_s=every_s, device=device)
    sensor = GpsdSensor(options=options, profile=PROFILE, clock=CLOCK, backoff=Backoff(base_s=0.02, cap_s=0.05))
    facts = Facts()
    running = asyncio.create_task(sensor.run(facts), name="gps")  # type: ignore[arg-type]
    try:
        yield sensor, facts, served
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        server.close()
        await served.end()
        await server.wait_closed()


def named(sensor: GpsdSensor, group: int, row: Any) -> dict[str, Any]:
    return dict(zip([series.name for series in sensor.groups()[group].series], row.values, strict=True))


async def test_a_fix_and_its_satellites_become_two_rows() -> None:
    async with sensing(TPV, SKY) as (sensor, facts, _):
        await until(lambda: facts.rows[0] and facts.rows[1])
        assert named(sensor, 0, facts.rows[0][0]) == {
            "fix": 3, "latitude": -235505199, "longitude": -466333094, "altitude": 7643, "speed": 1341, "course": 923,
            "climb": -10, "position_error": 139, "altitude_error": 221, "speed_error": 41,
        }  # fmt: skip
        assert named(sensor, 1, facts.rows[1][0]) == {"satellites_used": 2, "satellites_visible": 3, "hdop": 103}
        assert sensor.problem is None
        assert "TPV" in " ".join(sensor.last_frame(None, CLOCK.mono_ms())) or "SKY" in " ".join(
            sensor.last_frame(None, CLOCK.mono_ms())
        )


async def test_without_a_fix_a_row_says_so_and_has_no_place() -> None:
    async with sensing(NO_FIX) as (sensor, facts, _):
        await until(lambda: facts.rows[0])
        row = facts.rows[0][0]
        assert row.values == (1, *[None] * 9)
        assert row.quality == (pb.QUALITY_GOOD, *[pb.QUALITY_BAD_SENSOR] * 9)
        assert "no fix" in str(sensor.problem)


async def test_more_reports_than_asked_are_passed_over_and_counted() -> None:
    async with sensing(*[TPV] * 50, every_s=60.0) as (sensor, facts, _):
        await until(lambda: sensor.counters["reports"] == 50)
        assert len(facts.rows[0]) == 1
        assert sensor.counters["skipped"] == 49


async def test_nonsense_and_other_receivers_are_passed_over() -> None:
    wrong: list[str | bytes] = [b"\xff\xfe\r\n", "[]", '"TPV"', "{}", '{"class":7}']
    wrong += ['{"class":"TPV","device":"/dev/ttyACM0","mode":true}', '{"class":"TPV"}']
    other = TPV.replace("ttyACM0", "ttyACM1")
    async with sensing(*wrong, other, TPV, device="/dev/ttyACM0") as (sensor, facts, _):
        await until(lambda: facts.rows[0])
        assert sensor.counters["unreadable"] == 5
        assert len(facts.rows[0]) == 1


async def test_each_disconnection_is_a_gap_and_it_comes_back() -> None:
    async with sensing(TPV, SKY, hang_up=True, every_s=0.01) as (sensor, facts, server):
        await until(lambda: server.asked >= 4)
        await until(lambda: len(facts.losts[0]) >= 2)
        times = [row.mono_ms for row in facts.rows[0]]
        assert times == sorted(set(times))
        for lost in facts.losts[0]:
            assert lost.reason == pb.GAP_UNREADABLE
            assert not any(lost.after_mono_ms < at < lost.before_mono_ms for at in times)
        assert sensor.counters["broken"] >= 3
        assert "ended the connection" in str(sensor.problem) or sensor.problem is None


async def test_a_line_without_an_end_is_given_up() -> None:
    async with sensing(b"x" * 200_000) as (sensor, _, server):
        await until(lambda: server.asked >= 2)
        assert "gpsd" in str(sensor.problem)


async def test_a_gpsd_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpsd, "SILENT_S", 0.1)
    async with sensing() as (sensor, _, server):
        await until(lambda: server.asked >= 2)
        await until(lambda: "is a receiver connected?" in str(sensor.problem))


async def test_the_simulator_is_understood() -> None:
    simulated = SimulatedGpsd(every_s=0.02, latency_s=0.0)
    port = await simulated.start()
    options = SensorOptions(id="gps", address=f"127.0.0.1:{port}", every_s=0.1)
    sensor, facts = GpsdSensor(options=options, profile=PROFILE, clock=CLOCK), Facts()
    running = asyncio.create_task(sensor.run(facts), name="gps")  # type: ignore[arg-type]
    await until(lambda: facts.rows[0])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await simulated.close()
    assert named(sensor, 0, facts.rows[0][0])["latitude"] == -235500000


def test_older_versions_count_satellites_by_the_list() -> None:
    assert of_sky(json.loads(OLD_SKY)) == {"sky.hdop": 2.5, "sky.used": 1, "sky.visible": 2}
    assert of_sky({"satellites": "none"}) == {}


def test_a_place_that_is_none_on_earth_is_no_fix() -> None:
    assert of_tpv({"mode": 3, "lat": 91.0, "lon": 0.0, "speed": 3.0}) == {"tpv.mode": 3}
    assert of_tpv({"mode": 2, "lat": 1.0, "lon": 2.0, "altMSL": 5.0}) == {"tpv.mode": 2, "tpv.lat": 1.0, "tpv.lon": 2.0}


SAID = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
NAMES = st.sampled_from(["class", "mode", "lat", "lon", "alt", "uSat", "satellites", "time"])


@given(st.dictionaries(NAMES, SAID | st.lists(SAID | st.dictionaries(st.text(), st.none()))))
def test_whatever_a_report_says_only_numbers_come_out(said: dict[str, Any]) -> None:
    for fact in (*of_tpv(said).values(), *of_sky(said).values()):
        assert isinstance(fact, int | float)
        assert not isinstance(fact, bool)
