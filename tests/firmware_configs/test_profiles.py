"""Device knowledge: every shipped profile loads, names its sources, and a mistake is told with its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_configs.loader import ProfileError, Profiles, load
from firmware_configs.schema import ModbusProfile

SHIPPED = list(Profiles().all_modbus())
GOOD = """
vendor = "acme"
model = "probe"
version = 2
description = "x"
[[sources]]
id = "manual"
title = "the manual"
[[register]]
quantity = "temperature"
function = "input"
address = 1
type = "i16"
decimals = 1
unit = "Cel"
source = "manual, table 1"
"""


def write(folder: Path, text: str, name: str = "acme-probe") -> Path:
    path = folder / "modbus" / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_the_shipped_profiles_are_found_by_folder() -> None:
    assert {profile.name for profile in SHIPPED} >= {
        "eastron-sdm120@1",
        "xy-md02@1",
        "vaisala-hmdw110@1",
        "comboio-counter@1",
    }


@pytest.mark.parametrize("profile", SHIPPED, ids=lambda profile: profile.name)
def test_every_register_of_every_profile_names_a_listed_source(profile: ModbusProfile) -> None:
    ids = {source.id for source in profile.sources}
    for register in profile.expanded():
        assert register.source.split(",")[0] in ids
        assert len(register.source) > len(register.source.split(",")[0]) or profile.simulated


@pytest.mark.parametrize("profile", [one for one in SHIPPED if not one.simulated], ids=lambda profile: profile.name)
def test_every_real_profile_says_which_changes_matter(profile: ModbusProfile) -> None:
    assert profile.report["*"].max_s > 0


@pytest.mark.parametrize("profile", SHIPPED, ids=lambda profile: profile.name)
def test_a_profile_is_found_by_its_own_name(profile: ModbusProfile) -> None:
    assert Profiles().modbus(profile.name) == profile


def test_only_ours_are_simulated() -> None:
    assert [profile.name for profile in SHIPPED if profile.simulated] == [
        "comboio-controller@1",
        "comboio-counter@1",
        "comboio-counter-10@1",
    ]


def test_a_block_unrolls_into_numbered_registers() -> None:
    registers = Profiles().modbus("comboio-counter@1").expanded()
    assert [r.quantity for r in registers] == [f"r{n:03d}" for n in range(100)]
    assert [r.address for r in registers] == list(range(100))


def test_an_unknown_profile_gets_a_suggestion() -> None:
    with pytest.raises(ProfileError, match=r"did you mean eastron-sdm120@1\?"):
        Profiles().modbus("eastron-sdm12@1")


def test_another_version_names_the_one_that_is_here() -> None:
    with pytest.raises(ProfileError, match=r"version 7 is not here; did you mean xy-md02@1\?"):
        Profiles().modbus("xy-md02@7")


@pytest.mark.parametrize("name", ["xy-md02", "../xy-md02@1", "xy-md02@0", ""])
def test_a_malformed_name_is_refused_with_the_form(name: str) -> None:
    with pytest.raises(ProfileError, match="vendor-model@version"):
        Profiles().modbus(name)


def test_a_profile_without_mistakes_loads_from_any_folder(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert Profiles(tmp_path).modbus("acme-probe@2").expanded()[0].decimals == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("decimals = 1", "decimls = 1"), r"register\[0\]\.decimls: .*did you mean decimals\?"),
        (("manual, table 1", "hearsay"), "temperature: source 'hearsay' doesn't begin with one of manual"),
        (('"i16"', '"i20"'), r"register\[0\]\.type"),
        (('"i16"', '"i8"'), "byte says which half an u8 or i8 is"),
        (('"i16"\ndecimals = 1', '"u16"\nbits = 3'), "its lowest bit is bit"),
        (('"i16"\ndecimals = 1', '"u16"\nbit = 14\nbits = 3'), "bit 16 is none of its 16"),
        (('"i16"', '"u16"\nmagnitude = true'), "magnitude belongs to an i16"),
        (('"i16"', '"u48"\nword_order = "swapped_pairs"'), "pairs of words need four registers, this has 3"),
        (('"i16"', '"unix32"'), "a unix32 has no scale"),
        (("decimals = 1", 'decimals = 1\nlabels = {1 = "on"}'), "labels belong to an integer without a scale"),
        (("decimals = 1", 'scale_from = "exponent"'), "scale_from names 'exponent', which is no integer"),
        (("decimals = 1", "decimals = 1\nscale = 0.5"), "either decimals, or scale and offset"),
        (('"i16"\ndecimals = 1', '"f32"\nscale = 0.5'), "a float is the value itself"),
        (('"i16"\ndecimals = 1', '"string"'), "words is the length of a string"),
        (('"i16"\ndecimals = 1', '"bool"'), "a bool in a register needs bit"),
        (('"input"', '"coil"'), "a coil is a bool, not i16"),
        (('"i16"', '"u32"\naddress = 65535'), "."),
        (('"i16"', '"i16"\nwritable = true'), "an input can't be written; only holding registers and coils"),
        (('"i16"', '"i16"\nmin = 1.0'), "min, max, write_function and verify_after_ms are for what is writable"),
        (('"input"', '"holding"\nwritable = true\nmin = 2.0\nmax = 1.0'), "max is below min"),
        (('"input"', '"holding"\nwritable = true\nwrite_function = 5'), "is written by function 6 or 16 or 23, not 5"),
        (('"input"', '"holding"\nwritable = true\nverify_after_ms = 5001'), "verify_after_ms"),
        (("version = 2", "version = "), "."),
        (
            ("[[register]]", "[report]\ntemprature = {}\n[[register]]"),
            "report.temprature: is no quantity .*temperature",
        ),
        (('model = "probe"', 'model = "other"'), "this file should be named acme-other.toml"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(ProfileError, match=text) as caught:
        load(path)
    assert str(caught.value).startswith("acme-probe.toml: ")


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ('[{of = "humidity"}]', "derived both: humidity is no register of this profile"),
        ("[]", r"derived\[0\]\.terms"),
        ('[{of = "temperature", times = "2"}]', r"derived\[0\]\.terms\[0\]\.times"),
    ],
)
def test_a_sum_names_what_it_adds(tmp_path: Path, terms: str, text: str) -> None:
    derived = f'\n[[derived]]\nquantity = "both"\nsource = "manual, page 2"\nterms = {terms}\n'
    with pytest.raises(ProfileError, match=text):
        load(write(tmp_path, GOOD + derived))


def test_a_quantity_listed_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + GOOD[GOOD.index("[[register]]") :])
    with pytest.raises(ProfileError, match="temperature: is listed twice"):
        load(path)


def test_a_value_past_the_last_address_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("address = 1", "address = 65535").replace('"i16"', '"i32"')
    with pytest.raises(ProfileError, match="past address 65535"):
        load(write(tmp_path, text))
