from __future__ import annotations

import msgspec
import pytest

from gateway.health import table
from gateway.health.picture import Picture, RadioPicture, headline
from tests.gateway.health.pictures import picture, sensor, troubled


def test_a_healthy_box_has_nothing_red() -> None:
    assert picture(sensor()).red == []


def test_everything_a_person_should_look_at_has_its_sentence() -> None:
    assert [line.partition(":")[0] for line in troubled().red] == [
        "sensor probe",
        "broker hall",
        "link",
        "buffer",
        "buffer",
        "configuration",
        "identity",
    ]


@pytest.mark.parametrize(("days", "red"), [(15.0, False), (13.9, True), (-1.0, True), (None, False)])
def test_a_certificate_about_to_end_is_red(days: float | None, red: bool) -> None:
    well = picture().identity
    found = picture(identity=msgspec.structs.replace(well, certificate_days_left=days))
    assert any("certificate" in line for line in found.red) is red


@pytest.mark.parametrize("one", [picture(sensor()), picture(), troubled()])
def test_a_picture_travels_as_json_and_comes_back(one: Picture) -> None:
    assert msgspec.json.decode(msgspec.json.encode(one), type=Picture) == one


def test_the_table_says_what_is_wrong_first_and_obeys_no_terminal_code() -> None:
    said = table.status(troubled())
    lines = said.splitlines()
    assert lines[1].startswith("!! sensor probe: <script>")
    assert lines[-3].startswith("!! probe")
    assert "\x1b" not in said
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in said
    assert "not set yet" in said


def test_the_table_of_a_healthy_box_says_so() -> None:
    said = table.status(picture(sensor()))
    assert said.splitlines()[1] == "all is well"
    assert "ok cooling  0.4 s ago  temperature 4.5 °C, door_open yes" in said
    assert "2 batches, 2000 readings, 3 kB, oldest 9.0 s ago" in said


def test_the_table_of_sensors_has_every_value_with_its_quality() -> None:
    said = table.sensors(troubled())
    assert "bad_sensor" in said
    assert ".. new (modbus), never" in said
    assert table.sensors(picture()) == "no sensors are configured"


def test_one_line_says_how_the_box_is() -> None:
    assert headline(troubled()) == "3 sensors, 1 red; link down, 2 batches waiting"


def test_the_table_says_how_each_adapter_listens() -> None:
    radio = RadioPicture(name="ble hci0", state="passive scan", counters={"adverts": 12, "discovery started anew": 1})
    made = picture(radios=[radio])
    assert "ble hci0       passive scan; 12 adverts" in table.status(made)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Picture).radios == [radio]
