"""A case file says where its registers come from, and a case that disagrees says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_configs.loader import Profiles
from firmware_configs.schema import Derived, ModbusProfile, Register, Source, Term
from gateway.errors import Misconfigured
from gateway.library.cases import Case, Poll, decoded, disagreements, load

GOOD = """
profile = "xy-md02@1"
origin = "derived from the manual"
[[poll]]
name = "one"
[poll.input]
0x0001 = [0x0131, 546]
[poll.expect]
temperature = 30.5
relative_humidity = 54.6
"""


def found(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "case.toml"
    path.write_text(text)
    return list(disagreements(load(path), Profiles().modbus("xy-md02@1")))


def test_a_case_that_agrees_says_nothing(tmp_path: Path) -> None:
    assert found(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("temperature = 30.5", "temperature = 3.05"), "one: temperature: is 30.5, expected 3.05"),
        (
            ("temperature = 30.5", 'temperature = "not available"'),
            "one: temperature: is 30.5, expected 'not available'",
        ),
        (("temperature = 30.5", "temprature = 30.5"), "is no quantity of xy-md02@1; did you mean temperature?"),
        (("0x0131, 546", "0x0131"), "one: relative_humidity: the case has no input register 2"),
        (("poll.input", "poll.holding"), "one: temperature: the case has no input register 1"),
        (("xy-md02@1", "xy-md02@2"), "is for xy-md02@2, not for xy-md02@1"),
    ],
)
def test_a_disagreement_names_the_poll_and_the_quantity(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    assert said in "\n".join(found(tmp_path, GOOD.replace(*change)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("derived from the manual", "I think so"), "origin: "),
        (("546", "70000"), r"poll\[0\]\.input\.0x0001"),
        (("0x0001 =", "first ="), "first"),
        (("[poll.input]", "[poll.inputs]"), "did you mean input"),
    ],
)
def test_a_case_that_cannot_be_read_says_where(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        found(tmp_path, GOOD.replace(*change))


def register(quantity: str, address: int, **more: object) -> Register:
    facts = {"function": "holding", "type": "u16", "source": "x, 1"} | more
    return Register(quantity=quantity, address=address, **facts)  # type: ignore[arg-type]


def test_values_are_what_a_person_reads() -> None:
    registers = (
        register("raw", 0),
        register("tenths", 1, decimals=1),
        register("scaled", 2, scale=0.5, offset=-10.0),
        register("on", 3, type="bool", bit=2),
        register("name", 4, type="string", words=2),
        register("mantissa", 6, scale_from="exponent"),
        register("exponent", 7, type="i16"),
        register("gone", 8, sentinels=(0xFFFF,)),
    )
    source = Source(id="x", title="x")
    both = Derived(quantity="both", terms=(Term(of="raw"), Term(of="tenths", times=2)), source="x, 1")
    profile = ModbusProfile(
        vendor="a", model="b", version=1, description="x", sources=(source,), register=registers, derived=(both,)
    )
    words = [7, 215, 30, 4, 0x6162, 0x6300, 123, 0xFFFE, 0xFFFF]
    image = {("holding", at): word for at, word in enumerate(words)}
    assert decoded(profile, image) == {
        "raw": 7,
        "tenths": 21.5,
        "scaled": 5.0,
        "on": True,
        "name": "abc",
        "mantissa": 1.23,
        "exponent": -2,
        "gone": "not available",
        "both": 50.0,
    }


def test_what_identifies_a_device_is_not_compared() -> None:
    profile = ModbusProfile(
        vendor="a",
        model="b",
        version=1,
        description="x",
        sources=(Source(id="x", title="x"),),
        register=(register("serial", 0, identifying=True),),
    )
    poll = Poll(name="one", holding={"0": [0]}, expect={"serial": 1234})
    assert list(disagreements(Case(profile="a-b@1", origin="recorded", poll=(poll,)), profile)) == []
