"""The Modbus driver against simulated devices over real TCP."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from pathlib import Path

import pytest
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from firmware_configs.loader import Profiles
from gateway.clock import SystemClock
from gateway.errors import Misconfigured
from gateway.sensors import build
from gateway.sensors.modbus import ModbusSensor
from gateway.sensors.modbus_bus import ModbusBus
from gateway.simulators.counting import counting
from gateway.simulators.faults import Fault
from gateway.simulators.signals import constant
from protos import config
from protos.comboio.v1 import batch_pb2 as pb
from protos.strict import convert
from tests.gateway.sensors.rig import COUNTER, Facts, Polling, device, poll_of, started, until


def ks_of(facts: Facts, unit: int = 1) -> list[int]:
    """Which read each row was, having checked every value of it against the formula."""
    ks = []
    for row in facts.rows:
        assert isinstance(row.values[0], int)
        k = (row.values[0] - counting(unit=unit, address=0, k=0)) % 65536
        assert row.values == tuple(counting(unit=unit, address=a, k=k) for a in range(100))
        assert row.quality is None
        ks.append(k)
    return ks


def answered(log: Path) -> list[dict[str, int]]:
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return [entry for entry in entries if "fault" not in entry]


async def test_every_read_arrives_once_with_its_values_and_in_one_request(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    async with started(device(units=[1, 2, 3], log=log)) as simulated:
        polling = Polling(port=simulated.port)
        for unit in (1, 2, 3):
            polling.add(unit)
        async with polling:
            await until(lambda: all(len(facts.rows) >= 10 for facts in polling.facts))
    for unit, facts in zip((1, 2, 3), polling.facts, strict=True):
        mine = [entry for entry in answered(log) if entry["unit"] == unit]
        assert {(entry["function"], entry["address"], entry["count"]) for entry in mine} == {(3, 0, 100)}
        ks = ks_of(facts, unit)
        assert ks == list(range(1, len(ks) + 1))
        cut_off = [lost.reads for lost in facts.losts if lost.reason == pb.GAP_UNREADABLE]
        lost = sum(cut_off)  # a read cut off by stopping
        assert len(mine) in {len(ks) + lost, len(ks)}
        assert lost <= 1


async def test_a_rows_time_lies_between_asking_and_the_answer(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    async with started(device(log=log)) as simulated:
        simulated.faults.add(Fault(fault="delay", delay_s=0.06, times=1))
        polling = Polling(port=simulated.port, timeout_s=5.0)
        _, facts = polling.add()
        asked_ms = SystemClock().mono_ms()
        async with polling:
            await until(lambda: facts.rows)
            over_ms = SystemClock().mono_ms()
    read_ms = answered(log)[0]["mono_ms"]  # the device read at once and answered 60 ms later
    assert (asked_ms + read_ms + 60) / 2 - 2 <= facts.rows[0].mono_ms <= (read_ms + over_ms) / 2 + 2


async def test_signals_come_through_a_real_profile_with_several_requests() -> None:
    signals = {"voltage": constant(230.5), "active_energy_total": constant(1551.5)}
    async with started(device(profile="eastron-sdm120@1", signals=signals)) as simulated:
        polling = Polling(port=simulated.port)
        sensor, facts = polling.add(profile="eastron-sdm120@1")
        async with polling:
            await until(lambda: facts.rows)
    names = [series.name for series in sensor.groups()[0].series]
    values = dict(zip(names, facts.rows[0].values, strict=True))
    assert (values["voltage"], values["active_energy_total"]) == (230.5, 1551.5)


def faulty(kind: str, times: int, **more: object) -> Fault:
    return Fault(fault=kind, times=times, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "cause", "text"),
    [
        (faulty("exception", 3, code=2), "exception", r"exception 2 \(illegal data address\)"),
        (faulty("drop", 3), "timeout", r"no answer within 0\.15 s"),
        (faulty("half_frame", 3), "malformed", "only 104 bytes of a frame"),
        (faulty("short", 3), "malformed", "asked 100 values, got 99"),
        (faulty("reset", 3), "closed", "closed the connection instead of answering"),
        (faulty("wrong_unit", 3), "malformed", "unit 2 answered instead"),
        (faulty("wrong_function", 3), "malformed", "asked function 3, got 4"),
        (faulty("garbage", 3), "protocol", "not a Modbus TCP device: it answered 'HTTP/1.1"),
        (faulty("delay", 3, delay_s=0.2), "timeout", "no answer within|only a late answer"),
    ],
    ids=lambda value: value.fault if isinstance(value, Fault) else "",
)
async def test_a_failed_poll_gives_no_row_and_one_gap_with_the_right_count(fault: Fault, cause: str, text: str) -> None:
    async with started(device()) as simulated:
        polling = Polling(port=simulated.port)
        sensor, facts = polling.add(every_s=0.05)
        problems = set()
        async with polling:
            await until(lambda: len(facts.rows) >= 2)
            simulated.faults.add(fault)
            await until(lambda: problems.add(sensor.problem) or facts.losts)  # type: ignore[func-returns-value]
            await until(lambda: isinstance(facts.all[-1], type(facts.rows[0])))
    failed = sensor.counters.failed
    assert failed[cause] >= 1  # type: ignore[index]
    lost = facts.losts[0]
    position = facts.all.index(lost)
    before, after = facts.all[position - 1], facts.all[position + 1]
    assert (lost.after_mono_ms, lost.before_mono_ms) == (before.mono_ms, after.mono_ms)  # type: ignore[union-attr]
    assert lost.reason == pb.GAP_UNREADABLE
    counted = sum(one.reads for one in facts.losts if one.reason == pb.GAP_UNREADABLE)
    skipped = sum(one.reads for one in facts.losts if one.reason == pb.GAP_QUEUE_FULL)
    assert skipped == sensor.counters.late
    assert counted in {sum(failed.values()) + sensor.counters.withheld + n for n in (0, 1)}  # 1: cut off by stopping
    ks_of(facts)
    assert any(problem and re.search(text, problem) for problem in problems), problems


async def test_every_answered_read_is_a_row_or_inside_a_gap(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    kinds = ["drop", "short", "half_frame", "reset", "wrong_unit", "exception", "garbage", "delay"]
    async with started(device(log=log)) as simulated:
        polling = Polling(port=simulated.port, timeout_s=0.05)
        _, facts = polling.add(every_s=0.02)
        async with polling:
            for kind in kinds:
                rows = len(facts.rows)
                await until(lambda rows=rows: len(facts.rows) >= rows + 3)  # type: ignore[misc]
                simulated.faults.add(faulty(kind, 2, delay_s=0.08))
            rows = len(facts.rows)
            await until(lambda: len(facts.rows) >= rows + 5)
    arrived = set(ks_of(facts))
    assert len(arrived) == len(facts.rows)
    gaps = [(lost.after_mono_ms, lost.before_mono_ms) for lost in facts.losts]
    for entry in answered(log):
        assert entry["k"] in arrived or any(a <= entry["mono_ms"] <= b for a, b in gaps), entry


async def test_an_outage_is_one_gap_and_reading_goes_on_when_the_device_is_back() -> None:
    simulated = device()
    port = await simulated.start()
    polling = Polling(port=port)
    sensor, facts = polling.add(every_s=0.02)
    async with polling:
        await until(lambda: len(facts.rows) >= 3)
        await simulated.close()
        await until(lambda: sensor.counters.failed["unreachable"] >= 10)
        assert sensor.problem is not None
        assert f"127.0.0.1:{port}" in sensor.problem
        assert "is the device on" in sensor.problem
        assert sensor.pending_since() is not None
        assert facts.losts == []
        seen = len(facts.rows)
        failed = sum(sensor.counters.failed.values())
        await simulated.start(port=port)
        await until(lambda: len(facts.rows) > seen)
        failed_after = sum(sensor.counters.failed.values())
        assert sensor.problem is None
        (lost,) = facts.losts
        assert failed <= lost.reads == failed_after
        assert facts.all[facts.all.index(lost) + 1] is facts.rows[seen]
        assert lost.after_mono_ms == facts.rows[seen - 1].mono_ms
        assert lost.before_mono_ms == facts.rows[seen].mono_ms
    await simulated.close()


async def test_a_long_outage_is_told_in_adjacent_gaps_that_count_every_poll() -> None:
    simulated = device()
    port = await simulated.start()
    await simulated.close()
    polling = Polling(port=port, gap_close_s=0.1)
    sensor, facts = polling.add(every_s=0.01)
    async with polling:
        await until(lambda: len(facts.losts) >= 3)
        assert facts.rows == []
        for one, following in itertools.pairwise(facts.losts):
            assert one.before_mono_ms == following.after_mono_ms
        await simulated.start(port=port)
        await until(lambda: facts.rows)
        told = sum(lost.reads for lost in facts.losts if lost.reason == pb.GAP_UNREADABLE)
        assert told == sum(sensor.counters.failed.values()) + sensor.counters.withheld
    await simulated.close()


async def test_the_gap_still_open_at_the_end_is_emitted_when_stopping() -> None:
    async with started(device()) as simulated:
        polling = Polling(port=simulated.port)
        _, facts = polling.add()
        async with polling:
            await until(lambda: len(facts.rows) >= 2)
            simulated.faults.add(Fault(fault="exception"))
            await until(lambda: polling.sensors[0].counters.failed["exception"] >= 2)
            assert facts.losts == []
    assert isinstance(facts.all[-1], type(facts.losts[0]))
    assert facts.losts[0].reads >= 2
    assert facts.losts[0].after_mono_ms == facts.rows[-1].mono_ms


async def test_pending_since_is_the_begin_of_the_read_under_way() -> None:
    async with started(device()) as simulated:
        simulated.faults.add(Fault(fault="delay", delay_s=0.1, times=1))
        polling = Polling(port=simulated.port, timeout_s=1.0)
        sensor, facts = polling.add(every_s=5.0)
        assert sensor.pending_since() is None
        async with polling:
            await until(lambda: sensor.pending_since() is not None)
            pending = sensor.pending_since()
            await until(lambda: facts.rows)
            assert pending is not None
            assert facts.rows[0].mono_ms >= pending
            assert sensor.pending_since() is None


async def test_a_dead_unit_does_not_slow_the_others() -> None:
    async with started(device(units=[1, 2])) as simulated:  # unit 9 is nobody: silence
        polling = Polling(port=simulated.port, timeout_s=0.05)
        for unit in (1, 9, 2):
            polling.add(unit, every_s=0.02)
        async with polling:
            dead, _ = polling.sensors[1], polling.facts[1]
            await until(lambda: dead.counters.withheld >= 1)
            before = [len(facts.rows) for facts in polling.facts]
            probes = dead.counters.polls
            begun = asyncio.get_running_loop().time()
            await asyncio.sleep(1.0)
            length_s = asyncio.get_running_loop().time() - begun
            gained = [len(facts.rows) - n for facts, n in zip(polling.facts, before, strict=True)]
    assert gained[1] == 0
    assert min(gained[0], gained[2]) >= 0.6 * length_s / 0.02
    assert dead.counters.polls - probes <= 2
    assert polling.facts[1].losts[0].reads >= dead.counters.polls + dead.counters.withheld


async def test_a_dead_unit_that_comes_back_is_found_by_a_probe() -> None:
    async with started(device()) as simulated:
        simulated.faults.add(Fault(fault="drop"))
        polling = Polling(port=simulated.port, timeout_s=0.03)
        sensor, facts = polling.add(every_s=0.02)
        async with polling:
            await until(lambda: sensor.counters.withheld >= 3)
            simulated.faults.clear()
            await until(lambda: facts.rows)
            await until(lambda: len(facts.rows) >= 10, within_s=1.5)  # back to every poll at once


async def test_polls_keep_to_their_grid_and_skipped_ones_are_counted() -> None:
    async with started(device()) as simulated:
        polling = Polling(port=simulated.port, timeout_s=1.0)
        sensor, facts = polling.add(every_s=0.04)
        async with polling:
            await until(lambda: len(facts.rows) >= 5)
            simulated.faults.add(Fault(fault="delay", delay_s=0.13, times=1))
            await until(lambda: sensor.counters.late)
            rows = len(facts.rows)
            await until(lambda: len(facts.rows) >= rows + 20)
    first = facts.rows[0].mono_ms
    ends = [(row.mono_ms - first) / 40 for row in facts.rows[-10:]]
    off = sorted(abs(end - round(end)) for end in ends)
    assert off[5] < 0.3  # the median is still on the grid of the first poll
    assert sensor.counters.late >= 2
    assert sensor.counters.failed.total() == 0


async def test_a_peer_that_isnt_modbus_is_named_and_never_believed() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"<html>" * 100)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        polling = Polling(port=server.sockets[0].getsockname()[1])
        sensor, facts = polling.add()
        async with polling:
            await until(lambda: sensor.counters.failed["protocol"])
            assert sensor.problem is not None
            await until(lambda: "not a Modbus TCP device" in (sensor.problem or ""))
        assert facts.rows == []


async def test_a_peer_that_closes_at_once_is_no_crash() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        polling = Polling(port=server.sockets[0].getsockname()[1])
        sensor, facts = polling.add()
        async with polling:
            await until(lambda: sensor.counters.failed["closed"] >= 2)
        assert facts.rows == []


async def test_random_bytes_never_become_a_row() -> None:
    noise = random.Random(7)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.read(260):
                answer = request[:7] + noise.randbytes(noise.choice([0, 1, 2, 3, 200, 201, 203]))
                spoilt = bytearray(answer)
                spoilt[4:6] = noise.choice([b"\0\1", b"\0\2", b"\0\3", b"\0\xcb", b"\0\xcd", b"\xff\xff"])
                spoilt[7:8] = noise.choice([b"\3", b"\4", b"\x83", b"\x63", b"\0"])
                writer.write(bytes(spoilt))
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        polling = Polling(port=server.sockets[0].getsockname()[1], timeout_s=0.02)
        sensor, facts = polling.add(every_s=0.005)
        async with polling:
            await until(lambda: sensor.counters.polls >= 60, within_s=30.0)
    unanswered = sensor.counters.polls - len(facts.rows) - sensor.counters.failed.total()
    assert unanswered in (0, 1), "at most the poll that the end of the test interrupted"
    for row in facts.rows:  # a whole frame of random words is, to Modbus, an answer
        assert len(row.values) == 100


async def test_it_reads_pymodbus_own_server() -> None:
    words = list(range(100))
    block = SimDevice(id=1, simdata=[SimData(0, values=words, datatype=DataType.REGISTERS)])
    server = ModbusTcpServer(block, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    port = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    polling = Polling(port=port)
    _, facts = polling.add()
    async with polling:
        await until(lambda: len(facts.rows) >= 3)
    await server.shutdown()  # type: ignore[no-untyped-call]
    assert {row.values for row in facts.rows} == {tuple(words)}


async def test_the_pause_between_requests_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    async with started(device(log=log)) as simulated:
        polling = Polling(port=simulated.port, pause_ms=30)
        _, facts = polling.add(every_s=0.001)
        async with polling:
            await until(lambda: len(facts.rows) >= 6)
    times = [entry["mono_ms"] for entry in answered(log)]
    assert min(b - a for a, b in itertools.pairwise(times)) >= 29


def test_attributes_and_the_simulated_mark_travel_with_the_series() -> None:
    bus = ModbusBus(options=config.TcpBus(id="b", host="h"))
    attrs = {"r003": {"role": "cargo_temperature"}}
    options = config.ModbusSensor(id="s", bus="b", profile=COUNTER, attrs=attrs, every_s=0.25)
    sensor = ModbusSensor(options=options, poll=poll_of(options, bus), clock=SystemClock())
    (group,) = sensor.groups()
    assert (group.sensor, group.period_ms, len(group.series)) == ("s", 250, 100)
    assert group.series[3].attrs == {"role": "cargo_temperature", "simulated": "true"}
    assert group.series[0].attrs == {"simulated": "true"}


def test_an_unknown_quantity_in_the_configuration_is_refused() -> None:
    bus = ModbusBus(options=config.TcpBus(id="b", host="h"))
    options = config.ModbusSensor(id="s", bus="b", profile="xy-md02@1", attrs={"temprature": {}})
    with pytest.raises(
        Misconfigured, match=r"attrs\.temprature is no quantity of xy-md02@1; it has relative_humidity, temp"
    ):
        ModbusSensor(options=options, poll=poll_of(options, bus), clock=SystemClock())


CONFIG = """
config_version = 1
[[bus]]
id = "lan"
kind = "tcp"
host = "127.0.0.1"
[[bus]]
id = "unused"
kind = "tcp"
host = "127.0.0.1"
[[sensor]]
id = "sim"
driver = "simulated"
[[sensor]]
id = "meter"
driver = "modbus"
bus = "lan"
profile = "eastron-sdm120@1"
[[sensor]]
id = "probe"
driver = "modbus"
bus = "lan"
unit = 2
profile = "xy-md02@1"
"""


def test_building_gives_every_sensor_in_order_and_one_task_per_used_bus() -> None:
    built = build(config.from_toml(CONFIG), clock=SystemClock(), profiles=Profiles())
    assert [sensor.id for sensor in built.sensors] == ["sim", "meter", "probe"]
    assert [sensor.driver.groups()[0].sensor for sensor in built.sensors] == ["sim", "meter", "probe"]
    assert [task.name for task in built.tasks] == ["bus lan"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (('bus = "lan"\nunit', 'bus = "lam"\nunit'), "sensor probe: bus 'lam' .* did you mean lan"),
        (("xy-md02@1", "xy-md01@1"), "sensor probe: profile 'xy-md01@1': .*did you mean xy-md02@1"),
        (('driver = "simulated"', 'driver = "simulated"\nquantities = {}'), "sensor sim: quantities is empty"),
    ],
)
def test_what_cannot_be_built_names_the_sensor(change: tuple[str, str], text: str) -> None:
    with pytest.raises(Misconfigured, match=text):
        build(config.from_toml(CONFIG.replace(*change)), clock=SystemClock(), profiles=Profiles())


async def test_one_read_serves_several_sensors_each_with_its_own_name(tmp_path: Path) -> None:
    log = tmp_path / "reads.jsonl"
    signals = {"temperature": constant(4.5), "relative_humidity": constant(61.0)}
    async with started(device(profile="xy-md02@1", signals=signals, log=log)) as simulated:
        shared = {"driver": "modbus", "bus": "b", "unit": 1, "profile": "xy-md02@1", "every_s": 0.02}
        document = {
            "config_version": 1,
            "management": "local",
            "gateway": {"name": "g"},
            "uplink": {"server": "127.0.0.1:1"},
            "bus": [{"id": "b", "kind": "tcp", "host": "127.0.0.1", "port": simulated.port}],
            "sensor": [
                {"id": "air", "quantities": ["temperature"], "rename": {"temperature": "supply"}, **shared},
                {"id": "room", "quantities": ["relative_humidity"], **shared},
            ],
        }
        built = build(convert(document, config.GatewayConfig), clock=SystemClock(), profiles=Profiles())
        air, room = Facts(), Facts()
        async with asyncio.timeout(10):
            running: list[asyncio.Task[None]] = [asyncio.create_task(task.run()) for task in built.tasks]  # type: ignore[arg-type]
            for sensor, facts in zip(built.sensors, (air, room), strict=True):
                running.append(asyncio.create_task(sensor.driver.run(facts)))  # type: ignore[arg-type]
            await until(lambda: len(air.rows) >= 5 and len(room.rows) >= 5)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    names = [[series.name for group in sensor.driver.groups() for series in group.series] for sensor in built.sensors]
    assert names == [["supply"], ["relative_humidity"]]
    assert {row.values for row in air.rows} == {(45,)}
    assert {row.values for row in room.rows} == {(610,)}
    both = min(len(air.rows), len(room.rows))
    assert [row.mono_ms for row in air.rows[:both]] == [row.mono_ms for row in room.rows[:both]]
    assert len(answered(log)) <= len(air.rows) + 1  # one request served both


def test_a_sensor_of_quantities_that_its_profile_does_not_have_is_refused() -> None:
    bus = ModbusBus(options=config.TcpBus(id="b", host="127.0.0.1"))
    options = config.ModbusSensor(id="s", bus="b", profile="xy-md02@1", quantities=("pressure",))
    with pytest.raises(
        Misconfigured, match="quantities: pressure is no quantity of xy-md02@1; it has relative_humidity, temp"
    ):
        ModbusSensor(options=options, poll=poll_of(options, bus), clock=SystemClock())


async def test_what_a_bus_heard_and_took_for_nothing_is_explained() -> None:
    async with started(device()) as simulated:
        simulated.faults.add(Fault(fault="unsolicited", times=2))
        polling = Polling(port=simulated.port, timeout_s=5.0)
        sensor, facts = polling.add()
        async with polling:
            await until(lambda: len(facts.rows) >= 4)
        assert "heard on the bus and taken for nothing: 2 unsolicited" in list(sensor.plan(None))
    ks_of(facts)
