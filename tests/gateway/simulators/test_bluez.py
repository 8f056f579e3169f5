"""The simulated BlueZ: scenarios with faults, the log a balance is made from, and the command."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from control_plane.simulators.balance import Read, sent
from gateway.sensors.bluez_watch import BUS_VARIABLE, SIMULATED_BUS
from gateway.simulators import bluez_scenario
from gateway.simulators.bluez_scenario import BluezPlay, BluezScenario
from gateway.simulators.sent_log import SentLog
from tests.gateway.sensors.listening import CLOCK, Listening, balance, forget_bleak, listening, simulated_bluez
from tests.gateway.sensors.rig import until
from tests.gateway.simulators.test_cli import simulate
from tests.servers import require

SENSORS = """
[[sensor]]
id = "tag"
address = "D4:12:43:55:AA:01"
every_s = 0.05
repeats = 2
signal = { temperature = { kind = "counting" } }
[[sensor]]
id = "probe"
address = "D4:12:43:55:AA:02"
format = "bthome-v2"
key = "231d39c1d7cc1ab1aee224cd096db932"
every_s = 0.03
signal = { temperature = { kind = "counting" } }
"""
TAG = """
[[sensor]]
id = "tag"
driver = "ble"
address = "D4:12:43:55:AA:01"
profile = "ruuvi-ruuvitag@1"
"""
FAULTS = """
[[fault]]
fault = "power_off"
at_s = 0.4
[[fault]]
fault = "power_on"
at_s = 0.6
[[fault]]
fault = "replay"
at_s = 1.2
[[fault]]
fault = "phantom"
at_s = 1.2
[[fault]]
fault = "garbage"
at_s = 1.3
[[fault]]
fault = "kill"
at_s = 1.5
[[fault]]
fault = "start"
at_s = 1.7
[[fault]]
fault = "mute"
at_s = 3.0
"""


PERIPHERALS = """
[[peripheral]]
id = "freezer"
address = "D4:12:43:55:AA:03"
profile = "bluetooth-battery@1"
advertise_every_s = 0.03
connect_s = 0.0
signal = { battery_level = { kind = "counting", wrap = 100 } }
[[peripheral]]
id = "door"
address = "D4:12:43:55:AA:04"
profile = "bluetooth-thermometer@1"
advertise_every_s = 0.03
notify_every_s = 0.05
signal = { temperature = { kind = "counting" } }
[[fault]]
fault = "hang_up"
at_s = 1.0
[[fault]]
fault = "kill"
at_s = 1.5
[[fault]]
fault = "start"
at_s = 2.0
"""
CONNECTED = """
[ble]
turn_s = 2.0
[[sensor]]
id = "freezer"
driver = "gatt"
address = "D4:12:43:55:AA:03"
profile = "bluetooth-battery@1"
every_s = 0.1
[[sensor]]
id = "door"
driver = "gatt"
address = "D4:12:43:55:AA:04"
profile = "bluetooth-thermometer@1"
every_s = 0.05
"""


def scenario(tmp_path: Path, text: str) -> BluezScenario:
    path = tmp_path / "scenario.toml"
    path.write_text(text)
    return bluez_scenario.load(path)


async def test_every_measurement_sent_arrives_once_or_lies_in_a_gap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("231d39c1d7cc1ab1aee224cd096db932")
    key.chmod(0o600)
    document = f"""{TAG}
[[sensor]]
id = "probe"
driver = "ble"
address = "D4:12:43:55:AA:02"
profile = "bthome-thermometer@1"
key_file = "{key}"
"""
    file = tmp_path / "sent.jsonl"
    async with simulated_bluez(monkeypatch) as bluez, listening(document) as running:
        log = SentLog(path=file, clock=CLOCK)
        play = BluezPlay(scenario=scenario(tmp_path, SENSORS + FAULTS), bluez=bluez, log=log)
        task = asyncio.create_task(play.run())
        await until(lambda: play.advertisers[0].k > 20 and all(one.muted for one in play.advertisers))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        log.close()
    for sensor in ("tag", "probe"):
        judge(running, sensor, file)


def judge(running: Listening, sensor: str, file: Path) -> None:
    done = balance(running, sensor, file)
    assert done.balanced, done
    assert done.delivered > 20
    assert done.in_gaps > 0
    assert running.driver[sensor].counters["older"] == 1
    assert running.driver[sensor].counters["refused"] == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[sensor]]\nid = "x"\naddress = "D4:12"', r"sensor\[0\].address"),
        (SENSORS.replace("temperature", "heat", 1), r"sensor\[0\].signal.heat: ruuvi-rawv2 has acceleration_x"),
        ('[[fault]]\nfault = "explode"', r"fault\[0\].fault"),
        ("sensr = 1", "sensr: .* did you mean sensor"),
        (PERIPHERALS.replace("battery@1", "batery@1"), r"peripheral\[0\].profile: .*did you mean bluetooth-battery@1"),
        (
            PERIPHERALS.replace("battery_level", "level"),
            r"peripheral\[0\].signal.level: bluetooth-battery@1 has battery_level",
        ),
    ],
)
def test_a_mistaken_scenario_is_told_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        scenario(tmp_path, text)


async def test_the_command_says_its_bus_obeys_and_logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require("dbus-daemon", "dbus")
    (tmp_path / "s.toml").write_text(SENSORS)
    arguments = ["bluez", "--scenario", str(tmp_path / "s.toml"), "--log", str(tmp_path / "log")]
    with simulate(*arguments, "--control", "127.0.0.1:0") as said:
        assert SIMULATED_BUS in str(said["bus"])
        monkeypatch.setenv(BUS_VARIABLE, str(said["bus"]))
        async with listening(TAG) as running:
            await until(lambda: len(running.facts["tag"].rows) >= 5)
        forget_bleak()
        with socket.create_connection(("127.0.0.1", said["control_port"])) as control:
            answers = control.makefile("rw")
            for line in ('{"fault": "mute"}', "status", '{"fault": "power_off", "adapter": "hci9"}', "nonsense"):
                answers.write(line + "\n")
                answers.flush()
            assert answers.readline() == "ok\n"
            assert json.loads(answers.readline())["running"] is True
            assert answers.readline() == "error: there is no adapter hci9\n"
            assert answers.readline().startswith("error: a fault is a JSON object")
    (reads,) = sent(tmp_path / "log", "tag").values()
    assert len(reads) >= 5
    assert isinstance(reads[0], Read)


async def test_what_peripherals_answered_and_told_arrives_once_or_lies_in_a_gap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "sent.jsonl"
    async with simulated_bluez(monkeypatch) as bluez, listening(CONNECTED) as running:
        log = SentLog(path=file, clock=CLOCK)
        play = BluezPlay(scenario=scenario(tmp_path, PERIPHERALS), bluez=bluez, log=log)
        task = asyncio.create_task(play.run())
        await until(lambda: all(one.peripheral.connections >= 2 for one in play.connectables), within_s=30.0)
        await until(lambda: all(running.facts[name].losts for name in ("freezer", "door")), within_s=30.0)
        for name in ("freezer", "door"):
            count = len(running.facts[name].rows)
            await until(lambda name=name, count=count: len(running.facts[name].rows) > count + 5, 30.0)  # type: ignore[misc]
        for one in play.connectables:
            one.muted = True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.3)
        log.close()
    for name in ("freezer", "door"):
        done = balance(running, name, file)
        assert done.balanced, done
        assert done.delivered > 5


async def test_faults_of_adapters_and_peripherals_by_the_control_port(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with simulated_bluez(monkeypatch, adapters=("hci0", "hci1")) as bluez:
        text = PERIPHERALS.partition("[[fault]]")[0]
        play = BluezPlay(scenario=scenario(tmp_path, text), bluez=bluez, log=SentLog(path=None, clock=CLOCK))
        freezer = play.connectables[0].peripheral
        for fault in ("refuse", "out_of_range"):
            assert await play.command(json.dumps({"fault": fault, "sensor": "freezer"})) == "ok"
        assert (freezer.refuse, freezer.in_range) == ("le-connection-refused", False)
        for fault in ("accept", "in_range"):
            await play.command(json.dumps({"fault": fault, "sensor": "freezer"}))
        assert (freezer.refuse, freezer.in_range) == ("", True)
        for fault in ("deaf", "stuck"):
            await play.command(json.dumps({"fault": fault, "adapter": "hci1"}))
        ear = bluez._ears["hci1"]
        assert (ear.deaf, ear.stuck, bluez._ears["hci0"].deaf) == (True, True, False)
        with pytest.raises(ValueError, match="replay is nothing that befalls a peripheral"):
            await play.command('{"fault": "replay", "sensor": "freezer"}')
        with pytest.raises(ValueError, match="there is no adapter hci7"):
            await play.command('{"fault": "deaf", "adapter": "hci7"}')
        assert json.loads(await play.command("status"))["links"] == 0
