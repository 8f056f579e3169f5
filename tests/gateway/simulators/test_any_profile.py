"""Any profile becomes a device: what its registers show decodes to what was to be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_configs.budget import plan
from firmware_configs.loader import Profiles
from firmware_configs.schema import FLOATS, MOMENTS, ModbusProfile, Register
from gateway.library.cases import decoded
from gateway.simulators.modbus_unit import TABLES, SimulatedUnit
from gateway.simulators.plausible import as_registers, default_signals
from gateway.simulators.signals import Signal, columns, ramp, walk
from gateway.simulators.wishes import replayed, shape, wished

PROFILES = list(Profiles().all_modbus())
FUNCTIONS = {table: function for function, table in TABLES.items()}


def shown(profile: ModbusProfile, signals: dict[str, Signal], t_s: float) -> dict[str, bool | int | float | str]:
    unit = SimulatedUnit(unit=1, profile=profile, signals=as_registers(profile, signals))
    image: dict[tuple[str, int], int] = {}
    for request in plan(profile.expanded(), profile.limits):
        answer = unit.read(FUNCTIONS[request.function], request.address, request.length, t_s)
        assert not isinstance(answer, int), f"{request} is refused with {answer}"
        image |= {(request.function, request.address + n): word for n, word in enumerate(answer.words)}
    return decoded(profile, image)


def resolution(register: Register, value: float, exponent: float) -> float:
    if register.type in FLOATS and register.decimals is None:
        return abs(value) * 1e-6
    if register.type in MOMENTS:
        return 1000.0
    step = abs(register.scale) if register.scale else 10.0 ** (exponent - (register.decimals or 0))
    return step * 0.501


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_quantity_of_every_profile_comes_back(profile: ModbusProfile) -> None:
    signals = default_signals(profile, unit=1)
    for t_s in (0.0, 1234.5, 7000.25):
        found = shown(profile, signals, t_s)
        for register in profile.expanded():
            wanted, value = signals[register.quantity](t_s), found[register.quantity]
            if register.type == "bool":
                assert value is (wanted != 0)
            elif register.type == "string":
                assert value == f"{wanted:g}"
            else:
                exponent = signals[register.scale_from](t_s) if register.scale_from else 0.0
                assert isinstance(value, int | float), f"{register.quantity} at {t_s} s: {value}"
                assert value == pytest.approx(wanted, abs=resolution(register, wanted, exponent)), register.quantity


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_there_is_a_plan_for_every_profile(profile: ModbusProfile) -> None:
    requests = plan(profile.expanded(), profile.limits, timing=profile.timing)
    assert 0 < len(requests) <= len(profile.expanded())


@pytest.mark.parametrize(
    ("text", "at_0", "at_30"),
    [
        ("temperature=4.5", 4.5, 4.5),
        ("temperature=-18", -18.0, -18.0),
        ("temperature=ramp:0,10,60", 0.0, 5.0),
        ("temperature=sine:20,5,120", 20.0, 25.0),
    ],
)
def test_a_shape_is_what_it_says(text: str, at_0: float, at_30: float) -> None:
    quantity, signal = shape(text)
    assert quantity == "temperature"
    assert [signal(0.0), signal(30.0)] == pytest.approx([at_0, at_30])


@pytest.mark.parametrize("text", ["temperature", "t=warm", "t=sine:1,2", "t=ramp:1,2,0", "t=saw:1,2,3", "t=nan", "=="])
def test_a_shape_that_is_none_says_what_is(text: str) -> None:
    with pytest.raises(ValueError, match="sine:MEAN,AMPLITUDE,PERIOD_S"):
        shape(text)


def test_a_walk_stays_within_its_bounds_and_is_the_same_in_any_order() -> None:
    signal = walk(mean=10, amplitude=3, period_s=20, seed=5)
    forwards = [signal(t / 7) for t in range(3000)]
    assert forwards == [signal(t / 7) for t in reversed(range(3000))][::-1]
    assert all(7 <= value <= 13 for value in forwards)
    assert max(forwards) - min(forwards) > 3


def test_a_ramp_begins_again() -> None:
    assert ramp(start=0, end=8, period_s=4)(9.0) == 2.0


def test_a_wish_for_a_quantity_that_is_not_there_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"--set: temprature is no quantity of xy-md02@1; did you mean temperature\?"):
        wished("--set", [shape("temprature=1")], Profiles().modbus("xy-md02@1"))


def test_a_recording_is_replayed_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "recorded.csv"
    path.write_text("ts_ms,temperature,door,relative_humidity\n0,4.5,1,60\n1000,5.5,0,61\n")
    profile = Profiles().modbus("xy-md02@1")
    signals = replayed(path, profile)
    assert columns(path) == ["ts_ms", "temperature", "door", "relative_humidity"]
    assert {quantity: signal(1.5) for quantity, signal in signals.items()} == {
        "temperature": 5.5,
        "relative_humidity": 61.0,
    }
    assert shown(profile, signals, 0.5) == {"temperature": 4.5, "relative_humidity": 60.0}
    path.write_text("ts_ms,warmth\n0,1\n")
    with pytest.raises(ValueError, match="no column is a quantity of xy-md02@1"):
        replayed(path, profile)
