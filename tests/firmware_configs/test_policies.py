"""A sensor may leave it to its profile which readings are worth sending; what it says itself goes first."""

from __future__ import annotations

from firmware_configs.loader import Profiles
from firmware_configs.policies import with_reports
from protos.config import ModbusSensor, Report, SimulatedSensor

PROFILES = Profiles()
SENSOR = ModbusSensor(id="probe", bus="plc", profile="xy-md02@1", report_by_profile=True)


def test_a_sensor_that_does_not_ask_sends_everything() -> None:
    plain = ModbusSensor(id="probe", bus="plc", profile="xy-md02@1")
    other = SimulatedSensor(id="other")
    assert with_reports(plain, PROFILES) is plain
    assert with_reports(other, PROFILES) is other


def test_the_policies_of_the_profile_are_those_of_a_sensor_that_asks() -> None:
    assert with_reports(SENSOR, PROFILES).report == PROFILES.modbus("xy-md02@1").report


def test_a_policy_of_the_sensor_goes_first() -> None:
    mine = Report(deadband=3.0)
    sensor = ModbusSensor(
        id="probe", bus="plc", profile="xy-md02@1", report_by_profile=True, report={"temperature": mine}
    )
    assert with_reports(sensor, PROFILES).report["temperature"] == mine


def test_policies_follow_new_names_and_leave_out_what_is_not_read() -> None:
    sensor = ModbusSensor(
        id="probe",
        bus="plc",
        profile="xy-md02@1",
        report_by_profile=True,
        quantities=("temperature",),
        rename={"temperature": "air"},
    )
    assert with_reports(sensor, PROFILES).report.keys() == {"*", "air"}
