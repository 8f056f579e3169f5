"""Values → registers: what is written reads back as the same value, and what does not fit is refused in words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from firmware_configs.loader import Profiles
from firmware_configs.schema import WIDTHS, Register
from gateway.decoders.encoding import encode, meaning, same
from gateway.errors import Rejected
from gateway.simulators.registers import encode as as_a_device
from tests.effort import tries
from tests.gateway.decoders.test_registers import ORDERS, register

SCALES: list[dict[str, Any]] = [{}, {"decimals": 1}, {"decimals": 3}, {"scale": 0.05}, {"scale": 2.0, "offset": -40.0}]
INTEGERS = sorted(kind for kind in WIDTHS if kind[0] in "ui" and kind not in {"unix32", "iec870"})
EVERY = sorted({*WIDTHS, "string"} - {"bool"})


def one(kind: str, **more: Any) -> Register:
    more |= {"byte": "high"} if kind in {"u8", "i8"} else {}
    more |= {"words": 4} if kind == "string" else {}
    return register(type_=kind, writable=True, **more)


@pytest.mark.parametrize("kind", EVERY)
@settings(max_examples=tries(10), deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_what_a_device_can_say_can_be_written_back_exactly(kind: str, data: st.DataObject) -> None:
    """Any words that mean something, in every order, give a value whose words mean that value."""
    narrow = WIDTHS.get(kind, 4) < 4  # beyond 2⁵³ no float names each step
    scaled = narrow and (kind in INTEGERS or kind.startswith(("bcd", "mod10k")))
    more = data.draw(st.sampled_from(SCALES)) if scaled else {}
    orders = [name for name in ORDERS if "pairs" not in name or WIDTHS.get(kind, 4) in {1, 2, 4}]
    more |= {"word_order": data.draw(st.sampled_from(orders))}
    more |= {"byte_order": data.draw(st.sampled_from(["big", "little"]))}
    it = one(kind, **more)
    words = data.draw(st.lists(st.integers(0, 65535), min_size=it.width, max_size=it.width))
    if kind in {"ymdhms", "iec870", "string"} or kind.startswith(("bcd", "mod10k")):  # random words are hardly ever one
        second = data.draw(st.integers(946_684_800, 4_102_444_799))
        words = as_a_device(it, second * 1000 if kind in {"ymdhms", "iec870"} else second % 10 ** min(9, 4 * it.width))
    value = meaning(it)(words)
    assume(value is not None)
    assert value is not None
    try:
        written = encode(it, value)
    except Rejected:  # a float beyond what its decimals say, a text with what can't be printed
        assume(False)
        raise
    back = meaning(it)(written)
    assert back == value
    assert same(it, value, back)
    assert encode(it, back) == written


@pytest.mark.parametrize(("kind", "number"), [("u64", 2**40 + 1), ("i64", -(2**40)), ("f32", 2005), ("f64", -123_456)])
def test_wide_numbers_with_decimals(kind: str, number: int) -> None:
    it = one(kind, decimals=2)
    assert meaning(it)(encode(it, number / 100)) == number / 100


@example(2.0**-24, "big", "big")  # its shortest digits are not its nearest ones
@given(st.floats(-1e6, 1e6, width=32), st.sampled_from(sorted(ORDERS)), st.sampled_from(["big", "little"]))
def test_every_float_a_device_holds_can_be_written(value: float, words: str, bytes_: str) -> None:
    it = one("f32", word_order=words, byte_order=bytes_)
    assert meaning(it)(encode(it, value)) == value


@given(st.integers(0, 15), st.integers(1, 16), st.data())
def test_a_part_of_a_register_leaves_the_other_bits_zero(low: int, width: int, data: st.DataObject) -> None:
    assume(low + width <= 16)
    it = register(type_="u16", bit=low, bits=width, writable=True)
    value = data.draw(st.integers(0, (1 << width) - 1))
    assert encode(it, value) == (value << low,)
    with pytest.raises(Rejected, match="it holds 0 to"):
        encode(it, 1 << width)


@pytest.mark.parametrize(
    ("more", "value", "why"),
    [
        ({"type_": "i16", "decimals": 1}, 21.37, "21.37 has more decimals than the 1 the device keeps"),
        ({"type_": "u16"}, 1.5, "more decimals than the 0"),
        ({"type_": "u16"}, -1, "the device's integer would be -1; it holds 0 to 65535"),
        ({"type_": "i16", "decimals": 1}, 3276.8, "would be 32768"),
        ({"type_": "u16", "scale": 0.5}, 1.2, "between two steps of 0.5"),
        ({"type_": "f16"}, 21.37, r"can't hold 21\.37, only 21\.375"),
        ({"type_": "f32"}, 1e39, "more than a f32 holds"),
        ({"type_": "f32"}, float("nan"), "no number"),
        ({"type_": "f32", "decimals": 1}, 20.55, "more decimals"),
        ({"type_": "i16", "sentinels": (-32768,)}, -32768, "would mean that q is not available"),
        ({"type_": "u16", "min": 2.0, "max": 8.0}, 1, "1 is below 2, the least"),
        ({"type_": "u16", "min": 2.0, "max": 8.0}, 8.5, "8.5 is above 8, the most"),
        ({"type_": "u16", "labels": {"0": "off", "1": "on"}}, "heat", "'heat' is none of off, on"),
        ({"type_": "u16", "labels": {"0": "off", "1": "on"}}, 7, r"7 is none of 0 \(off\), 1 \(on\)"),
        ({"type_": "u16"}, True, "q is a number, not true"),
        ({"type_": "u16"}, "12", "q is a number, not '12'"),
        ({"type_": "bool", "bit": 2}, 2, "a switch: true or false, not 2"),
        ({"type_": "string", "words": 2}, "abcde", "longer than the 4 characters"),
        ({"type_": "string", "words": 2}, "é", "not ASCII"),
        ({"type_": "string", "words": 2}, "a ", "blanks"),
        ({"type_": "unix32"}, 1500, "whole seconds, not 1500 ms"),
        ({"type_": "bcd16"}, 10_000, "it holds 0 to 9999"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(more: dict[str, Any], value: Any, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        encode(register(writable=True, **more), value)


def test_a_label_is_its_number() -> None:
    it = register(type_="u16", labels={"0": "off", "2": "defrost"}, writable=True)
    assert encode(it, "defrost") == encode(it, 2) == (2,)
    assert same(it, "defrost", 2)


def test_values_are_the_same_as_far_as_the_register_can_tell() -> None:
    assert same(one("f32"), 21.3, meaning(one("f32"))(encode(one("f32"), 21.3)))  # type: ignore[arg-type]
    assert not same(one("f32"), 21.3, 21.4)
    assert same(one("f32", decimals=1), 21.3, 21.3000011)
    assert not same(one("i16", decimals=1), 21.3, 21.4)
    assert same(one("u16", scale=0.05), 21.35, 427 * 0.05)


def test_every_writable_register_of_the_shipped_profiles_can_be_encoded() -> None:
    for it in Profiles().modbus("comboio-controller@1").expanded():
        if it.writable:
            value: Any = "off" if it.labels else "dock 4" if it.type == "string" else 1
            assert encode(it, value)
