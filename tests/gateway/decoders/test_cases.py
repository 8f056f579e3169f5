"""Registers from public documents and from devices, through the shipped profiles, to the values that they mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_configs.loader import Profiles
from firmware_configs.schema import ModbusProfile, Register
from gateway.library.cases import disagreements, load

REAL = [profile for profile in Profiles().all_modbus() if not profile.simulated]
CASES = sorted((Path(__file__).parents[2] / "cases" / "modbus").glob("*/*.toml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}: {path.stem}")
def test_the_registers_of_a_case_give_its_values(path: Path) -> None:
    case = load(path)
    assert list(disagreements(case, Profiles().modbus(case.profile))) == []


def test_every_real_profile_has_a_case_in_a_folder_of_its_name() -> None:
    found = {(path.parent.name, load(path).profile) for path in CASES}
    assert found == {(f"{profile.vendor}-{profile.model}", profile.name) for profile in REAL}


def kind(register: Register) -> tuple[object, ...]:
    """What decoding depends on, beside the address."""
    return register.function, register.type, register.unit, register.decimals, register.scale, register.bit is not None


@pytest.mark.parametrize("profile", REAL, ids=lambda profile: profile.name)
def test_every_kind_of_value_of_a_profile_is_in_one_of_its_cases(profile: ModbusProfile) -> None:
    cases = [load(path) for path in CASES if path.parent.name == f"{profile.vendor}-{profile.model}"]
    expected = {quantity for case in cases for poll in case.poll for quantity in poll.expect}
    registers = profile.expanded()
    assert {kind(r) for r in registers} == {kind(r) for r in registers if r.quantity in expected}
