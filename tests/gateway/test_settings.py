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
        ("config_version = 1\n[uplinc]\n", "uplinc: not a setting of this section; did you mean uplink?"),
    ],
)
def test_a_mistake_is_said_with_its_place_and_what_may_be_meant(tmp_path: Path, text: str, said: str) -> None:
    assert any(problem.startswith(said) for problem in problems(tmp_path, text)), problems(tmp_path, text)


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
