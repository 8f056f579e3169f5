"""From SunSpec models to registers; where points stand is that of the public JSON models."""

from __future__ import annotations

import pytest

from firmware_configs.check import problems
from firmware_configs.sunspec import Present, known_models, profile_of
from gateway.library.cases import decoded

LENGTHS = {1: 66, 101: 50, 102: 50, 103: 50, 111: 60, 112: 60, 113: 60, 160: 48, 201: 105, 202: 105, 203: 105}
LENGTHS |= {204: 105, 802: 62}


def present(number: int, *, address: int = 40_002, length: int | None = None) -> Present:
    return Present(id=number, address=address, length=LENGTHS[number] if length is None else length)


def test_the_models_that_matter_on_a_truck_are_known() -> None:
    assert known_models().keys() == LENGTHS.keys()


@pytest.mark.parametrize("number", LENGTHS)
def test_a_model_becomes_a_profile_without_mistakes(number: int) -> None:
    profile = profile_of([present(number)], vendor="acme", model="inverter", description="x")
    assert problems(profile) == []
    last = max(register.address + register.width for register in profile.expanded())
    assert last <= 40_002 + 2 + LENGTHS[number]


def test_a_meter_that_a_monitoring_integration_recorded() -> None:
    """A SolarEdge meter, model 203: voltage 23087 and frequency 5000 with scale -2, powers with scale 0."""
    profile = profile_of([present(203, address=40_190)], vendor="solaredge", model="meter", description="x")
    image = {("holding", 40_190 + at): 0xFFFF for at in range(107)}
    points = {7: 23087, 15: 0xFFFE, 16: 5000, 17: 0xFFFE, 18: 369, 19: 0, 20: 0xFFD8, 21: 410, 22: 0}
    image |= {("holding", 40_190 + at): word for at, word in points.items()}
    found = decoded(profile.only([f"meter_{name}" for name in ("voltage", "frequency", "active_power_l2")]), image)
    assert found["meter_voltage"] == 230.87
    assert found["meter_frequency"] == 50.0
    assert found["meter_active_power_l2"] == -40.0


def test_what_a_device_does_not_have_is_not_available() -> None:
    profile = profile_of([present(101)], vendor="acme", model="inverter", description="x")
    image = {("holding", 40_002 + at): 0xFFFF for at in range(52)}
    image |= {("holding", 40_002 + at): 0x8000 for at in (6, 14)} | {("holding", 40_002 + at): 0 for at in (24, 25, 26)}
    found = decoded(profile, image)
    for name in ("current_l2", "active_power", "energy", "state", "events"):
        assert found[f"inverter_{name}"] == "not available"


def test_a_model_of_an_older_revision_has_fewer_points() -> None:
    short = profile_of([present(802, length=40)], vendor="acme", model="battery", description="x")
    assert problems(short) == []
    assert "battery_soc" in short.quantities()
    assert "battery_voltage_sf" not in short.quantities()


def test_repeated_blocks_and_second_models_are_told_apart_by_their_number() -> None:
    listed = [present(160, address=100), present(203, address=200), present(203, address=400)]
    profile = profile_of(listed, vendor="acme", model="plant", description="x")
    assert problems(profile) == []
    places = {register.quantity: register.address for register in profile.expanded()}
    assert (places["mppt_1_voltage"], places["mppt_2_voltage"]) == (120, 140)
    assert (places["meter_active_power"], places["meter_2_active_power"]) == (218, 418)


def test_a_device_of_unknown_models_says_which() -> None:
    odd = Present(id=64_001, address=40_002, length=9)
    with pytest.raises(ValueError, match="no model of this device is known here; it has 64001"):
        profile_of([odd], vendor="acme", model="odd", description="x")
