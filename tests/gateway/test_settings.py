from __future__ import annotations

import json
from pathlib import Path

import pytest

from firmware_configs.loader import Profiles
from gateway import settings
from gateway.cli import main
from gateway.errors import Misconfigured

GOOD = """
config_version = 1
[[bus]]
id = "rack-1"
kind = "tcp"
host = "127.0.0.1"
[[sensor]]
id = "cooling"
driver = "modbus"
bus = "rack-1"
profile = "xy-md02@1"
"""

HEARD = """
config_version = 1
[[broker]]
id = "hall"
host = "127.0.0.1"
[[sensor]]
id = "probe"
driver = "ble"
address = "D4:12:43:55:AA:01"
profile = "ruuvi-ruuvitag@1"
[[sensor]]
id = "climate"
driver = "mqtt"
broker = "hall"
topic = "zigbee2mqtt/climate"
profile = "aqara-wsdcgq11lm@1"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str) -> list[str]:
    path = written(tmp_path, text)
    with pytest.raises(Misconfigured) as caught:
        settings.load(path, Profiles())
    return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]


def test_a_good_document_is_read(tmp_path: Path) -> None:
    config = settings.load(written(tmp_path, GOOD), Profiles())
    assert [sensor.id for sensor in config.sensor] == ["cooling"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "evry_s = 2", 'sensor[0].evry_s: not a setting of "modbus"; did you mean every_s?'),
        (
            GOOD.replace('bus = "rack-1"', 'bus = "rack-2"'),
            "sensor[0].bus: there is no bus 'rack-2'; did you mean rack-1?",
        ),
        (GOOD.replace("modbus", "modbuss"), "sensor[0].driver: 'modbuss' is not one of"),
        (GOOD + "unit = 300", "sensor[0].unit: expected int <= 255"),
        (GOOD.replace("xy-md02@1", "xy-md2@1"), "sensor[0].profile: 'xy-md2@1': no such profile"),
        (GOOD + "[sensor.calibration.temprature]\ngain = 2.0", "sensor[0].calibration.temprature: not a quantity of"),
        (GOOD.replace('id = "cooling"', ""), "sensor[0]: missing required field id"),
        (
            'config_version = 1\n[[uplink.via]]\nid = "lte"\nhours = ["22:00-24:30"]',
            "uplink.via[0].hours[0]: expected str",
        ),
        ('config_version = 1\n[[uplink.via]]\nid = "lte"\nsource = "10.0.0"', "uplink.via[0].source: '10.0.0' is not"),
        (
            'config_version = 1\n[[uplink.via]]\nid = "lte"\n[[uplink.via]]\nid = "lte"',
            "uplink.via: 2 of them have the id 'lte'",
        ),
        ("config_version = 1\n[uplinc]\n", "uplinc: not a setting of this section; did you mean uplink?"),
    ],
)
def test_a_mistake_is_said_with_its_place_and_what_may_be_meant(tmp_path: Path, text: str, said: str) -> None:
    assert any(problem.startswith(said) for problem in problems(tmp_path, text)), problems(tmp_path, text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("ruuvi-ruuvitag@1", "ruuvi-ruvitag@1"), "sensor[0].profile: 'ruuvi-ruvitag@1': no such profile"),
        (("ruuvi-ruuvitag@1", "ruuvi-ruuvitag@2"), "sensor[0].profile: 'ruuvi-ruuvitag@2': version 2 is not here"),
        (("D4:12", "d4:12"), "sensor[0].address"),
        (('driver = "ble"', 'driver = "bel"'), "sensor[0].driver: 'bel' is not one of"),
        (("[[broker]]", '[ble]\nscan = "loud"\n[[broker]]'), "ble.scan: invalid enum value 'loud'"),
        (("[[broker]]", '[ble]\nadapters = ["usb"]\n[[broker]]'), "ble.adapters[0]"),
        (('broker = "hall"', 'broker = "hal"'), "sensor[1].broker: there is no broker 'hal'; did you mean hall?"),
        (("zigbee2mqtt/climate", "zigbee2mqtt/#/x"), "sensor[1].topic: # stands alone"),
        (('profile = "aqara-wsdcgq11lm@1"', ""), "sensor[1].profile: give either a profile, or values"),
        (
            ('profile = "aqara-wsdcgq11lm@1"', 'values = { t = { path = "temperature" } }'),
            "sensor[1].values.t.path",
        ),
        (
            ('profile = "aqara-wsdcgq11lm@1"', 'values = { t = { path = "/t" } }\nattrs = { u = { role = "x" } }'),
            "sensor[1].attrs.u: not a quantity of values",
        ),
        (("[[broker]]", '[[broker]]\npasword_file = "x"'), "broker[0].pasword_file: not a setting"),
    ],
)
def test_a_mistake_about_sensors_that_are_heard_is_said_with_its_place(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    assert change[0] in HEARD
    found = problems(tmp_path, HEARD.replace(*change, 1))
    assert any(problem.startswith(said) for problem in found), found


def test_check_config_knows_sensors_that_are_heard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, HEARD)
    assert main(["check-config", "--config", str(path)]) == 0
    path.write_text(HEARD.replace("[[broker]]", '[[broker]]\npassword_file = "/nowhere/secret"'))
    assert main(["check-config", "--config", str(path)]) == 1
    assert "broker hall: password_file: /nowhere/secret: No such file" in capsys.readouterr().err


def test_syncing_rarely_needs_to_be_told_when_the_power_fails(tmp_path: Path) -> None:
    rarely = GOOD + "[buffer]\nsync_every_s = 30\n"
    (problem,) = problems(tmp_path, rarely)
    assert problem.startswith("buffer.sync_every_s: more than 10 s needs power.fail_input")
    told = written(tmp_path, rarely + '[power]\nfail_input = "SIGPWR"\n')
    assert settings.load(told, Profiles()).buffer.sync_every_s == 30


def test_several_mistakes_are_said_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("host =", "hst =") + "evry_s = 2\n"
    assert len(problems(tmp_path, text)) >= 2


def test_check_config_reads_well_and_says_so_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, GOOD)
    assert main(["check-config", "--config", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: good. 1 sensor on 1 bus.\n"
    path.write_text(GOOD + "evry_s = 2")
    assert main(["check-config", "--config", str(path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "1 problem."
    assert main(["check-config", "--config", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_what_is_not_toml_is_said_with_line_and_column(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, "config_version = \n")
    assert "line 1" in said
