"""What a person at the box reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.reading import Lost
from protos.comboio.v1 import batch_pb2 as pb
from tests.gateway.buffer.boxes import Box
from tests.gateway.test_settings import GOOD, written


def test_a_calibration_that_cannot_be_is_found_before_the_daemon_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = GOOD.replace("xy-md02@1", "eastron-sdm120@1")
    path = written(tmp_path, text + "[sensor.calibration.voltage]\ngain = 1.01\n")
    assert main(["check-config", "--config", str(path)]) == 0
    sensor = '[[sensor]]\nid = "words"\ndriver = "simulated"\nsignal = "counting"\n'
    path.write_text(text + sensor + "[sensor.calibration.temperature]\noffset = 0.5\n")
    assert main(["check-config", "--config", str(path)]) == 0
    assert "good. 2 sensors on 1 bus." in capsys.readouterr().out


def test_a_simulated_sensor_without_quantities_is_found_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, GOOD + '[[sensor]]\nid = "empty"\ndriver = "simulated"\nquantities = {}\n')
    assert main(["check-config", "--config", str(path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [f"{path}: sensor[1].quantities: is empty; name at least one", "1 problem."]


def test_a_file_that_is_not_there_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.toml"
    assert main(["check-config", "--config", str(path)]) == 1
    assert capsys.readouterr().err == f"{path}: No such file or directory\n1 problem.\n"


def test_a_file_that_is_not_text_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(b"\xff\xfe")
    assert main(["check-config", "--config", str(path)]) == 1
    assert f"{path}: is not UTF-8 text" in capsys.readouterr().err


def test_a_box_without_a_buffer_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["buffer", "--data-dir", str(tmp_path)]) == 1
    assert "there is no buffer yet" in capsys.readouterr().err


async def test_the_buffer_tells_what_waits_and_what_was_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = Box(tmp_path / "buffer")
    buffer = await box.open()
    for value in range(5):
        box.row(value)
    now = box.clock.mono
    buffer.lost(box.ids[0], Lost(now, now + 2500, 3, pb.GAP_UNREADABLE))
    await buffer.close()
    assert main(["buffer", "--data-dir", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["clean_stop"], found["opens"], found["set_aside"]) == (True, 1, [])
    assert found["lanes"]["telemetry"] == {
        "sealed": 1,
        "waiting_batches": 1,
        "waiting_readings": 10,
        "kept_acknowledged": 0,
    }
    (gap,) = found["gaps"]
    assert (gap["sensor"], gap["reason"], gap["count"]) == ("cooling", "unreadable", 3)
    assert main(["buffer", "--data-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "cooling          unreadable   3 lost over 2.5 s" in said
    assert "opened 1 times" in said


PLANNED = (
    GOOD
    + """\
[[bus]]
id = "slow"
kind = "tcp"
host = "10.0.0.8"
pause_ms = 200

[[sensor]]
id = "meter"
driver = "modbus"
bus = "slow"
unit = 2
profile = "eastron-sdm120@1"
every_s = 0.3
"""
)


def test_a_plan_shows_requests_time_and_freshness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, PLANNED.replace("every_s = 0.3", "every_s = 5.0"))
    assert main(["plan", "--config", str(path)]) == 0
    said = capsys.readouterr().out
    assert "bus slow at 10.0.0.8:502, 12% busy" in said
    assert "input 342 to 345" in said
    assert "5.62 s" in said
    assert main(["plan", "--config", str(path), "--json"]) == 0
    (_, slow) = json.loads(capsys.readouterr().out)
    assert [one["length"] for one in slow["sensors"][0]["requests"]] == [32, 10, 4]


def test_more_than_a_bus_can_carry_is_refused_with_the_numbers_unless_it_says_best_effort(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, PLANNED)
    assert main(["check-config", "--config", str(path)]) == 1
    said = capsys.readouterr().err
    assert "bus[1]: the sensors on 'slow' need 205% of what it can carry; most of it meter (616 ms every 0.3 s)" in said
    assert main(["plan", "--config", str(path)]) == 1
    assert "205% busy: more than it can carry" in capsys.readouterr().out
    path.write_text(PLANNED.replace("pause_ms = 200", "pause_ms = 200\nbest_effort = true"))
    assert main(["check-config", "--config", str(path)]) == 0
    assert main(["plan", "--config", str(path)]) == 0
    assert "polls will fall out" in capsys.readouterr().out


SERIAL = """\
config_version = 1

[[bus]]
id = "meters"
kind = "rtu"
port = "/dev/ttyUSB0"
parity = "none"

[[bus]]
id = "scales"
kind = "ascii"
port = "/dev/serial/by-id/usb-b"
baud = 19200

[[sensor]]
id = "meter"
driver = "modbus"
bus = "meters"
profile = "eastron-sdm120@1"
every_s = 10.0
"""


def test_a_serial_line_is_planned_with_its_speed_and_a_port_that_may_change_is_pointed_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, SERIAL)
    assert main(["plan", "--config", str(path)]) == 0
    said = capsys.readouterr().out
    assert "bus meters at /dev/ttyUSB0 (9600 8N1)" in said
    assert "bus scales at /dev/serial/by-id/usb-b (19200 7E1)" in said
    assert main(["check-config", "--config", str(path)]) == 0
    said = capsys.readouterr().err
    assert "bus[0].port: /dev/ttyUSB0 is whichever adapter was found first" in said
    assert "bus[1]" not in said
    path.write_text(SERIAL.replace("/dev/serial/by-id/usb-b", "/dev/ttyUSB0"))
    assert main(["check-config", "--config", str(path)]) == 1
    assert "bus[1].port: /dev/ttyUSB0 is the port of bus 'meters' already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (('kind = "ascii"', 'kind = "rtu"\ndata_bits = 8'), 'bus[1].data_bits: not a setting of "rtu"'),
        (('bus = "meters"', 'bus = "meters"\nunit = 0'), "sensor[0].unit: 0 speaks to every unit of a serial line"),
        (('kind = "rtu"', 'kind = "rut"'), "bus[0].kind: 'rut' is not one of ascii, rtu, rtu_over_tcp, tcp, tls"),
        (('port = "/dev/ttyUSB0"', 'port = "COM1"'), "bus[0].port: expected"),
        (('kind = "rtu"', 'kind = "tcp"'), 'bus[0].parity: not a setting of "tcp"'),
        (
            ('kind = "rtu"\nport = "/dev/ttyUSB0"\nparity = "none"', 'kind = "tls"\nhost = "h"\nkey_file = "k"'),
            "bus[0].key_file: needs the certificate",
        ),
    ],
)
def test_each_kind_of_bus_has_its_own_settings_only(
    change: tuple[str, str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, SERIAL.replace(*change))
    assert main(["check-config", "--config", str(path)]) == 1
    assert text in capsys.readouterr().err
