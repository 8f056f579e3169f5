"""Registers → wire values: every type in every order, and what "not available" becomes."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_configs.budget import Request, plan
from firmware_configs.loader import Profiles
from firmware_configs.schema import Limits, Register
from gateway.decoders.registers import compile_registers, series_of
from gateway.reading import Wire
from protos.comboio.v1 import batch_pb2 as pb

FORMATS = {"u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f32": "f", "f64": "d"}
BOUNDS = {
    "u16": (0, 2**16 - 1),
    "i16": (-(2**15), 2**15 - 1),
    "u32": (0, 2**32 - 1),
    "i32": (-(2**31), 2**31 - 1),
    "u64": (0, 2**64 - 1),
    "i64": (-(2**63), 2**63 - 1),
}


def register(quantity: str = "q", address: int = 0, type_: str = "u16", **more: object) -> Register:
    fields: dict[str, object] = {"function": "holding", "source": "s", "byte_order": "big", "word_order": "big"}
    return Register(quantity=quantity, address=address, type=type_, **(fields | more))  # type: ignore[arg-type]


def words_of(raw: bytes, byte_order: str, word_order: str) -> list[int]:
    """The registers a device with these orders would send for a big-endian value."""
    words = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    if word_order == "little":
        words.reverse()
    return [int.from_bytes(word, "big" if byte_order == "big" else "little") for word in words]


def decode(registers: list[Register], words: list[int], start: int = 0) -> tuple[tuple[Wire, ...], object]:
    return compile_registers(registers, [Request(registers[0].function, start, len(words))])([words])


def numbers(type_: str) -> st.SearchStrategy[int | float]:
    if type_ in BOUNDS:
        return st.integers(*BOUNDS[type_])
    return st.floats(allow_nan=False, width=32 if type_ == "f32" else 64)


@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("word_order", ["big", "little"])
@pytest.mark.parametrize("type_", FORMATS)
@given(st.data())
def test_every_type_in_every_order_comes_back(
    byte_order: str, word_order: str, type_: str, data: st.DataObject
) -> None:
    value = data.draw(numbers(type_))
    words = words_of(struct.pack(">" + FORMATS[type_], value), byte_order, word_order)
    (got,), quality = decode([register(type_=type_, byte_order=byte_order, word_order=word_order)], words)
    assert quality is None
    assert struct.pack(">" + FORMATS[type_], got) == struct.pack(">" + FORMATS[type_], value)


@given(
    st.lists(st.tuples(st.sampled_from(sorted(FORMATS)), st.booleans(), st.booleans()), min_size=1, max_size=20),
    st.data(),
)
def test_mixed_types_and_orders_in_any_listing_order(kinds: list[tuple[str, bool, bool]], data: st.DataObject) -> None:
    registers: list[Register] = []
    values: list[int | float] = []
    image: list[int] = []
    for n, (type_, little_bytes, little_words) in enumerate(kinds):
        orders = ("little" if little_bytes else "big", "little" if little_words else "big")
        value = data.draw(numbers(type_))
        registers.append(register(f"q{n}", len(image), type_, byte_order=orders[0], word_order=orders[1]))
        image += words_of(struct.pack(">" + FORMATS[type_], value), *orders)
        values.append(value)
    listing = data.draw(st.permutations(range(len(kinds))))
    requests = plan(registers, Limits(max_registers=data.draw(st.integers(4, 125))))
    answers = [image[r.address : r.address + r.length] for r in requests]
    got, quality = compile_registers([registers[i] for i in listing], requests)(answers)
    assert quality is None
    for place, index in enumerate(listing):
        pattern = ">" + FORMATS[kinds[index][0]]
        assert struct.pack(pattern, got[place]) == struct.pack(pattern, values[index])


def test_a_group_of_plain_words_is_handed_on_as_it_is() -> None:
    registers = list(Profiles().modbus("comboio-counter@1").expanded())
    words = list(range(60000, 60100))
    assert decode(registers, words) == (tuple(words), None)


def test_answers_of_several_requests_are_joined() -> None:
    registers = [register("a", 0), register("b", 200)]
    assert compile_registers(registers, plan(registers, Limits()))([[7], [9]]) == ((7, 9), None)


def test_a_register_no_request_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="no request reads holding 5"):
        compile_registers([register(address=5)], [Request("holding", 0, 5)])


@pytest.mark.parametrize(
    ("type_", "words", "value"),
    [
        ("bcd16", [0x1234], 1234),
        ("bcd32", [0x0012, 0x3456], 123456),
        ("bcd16", [0], 0),
        ("bcd32", [0x9999, 0x9999], 99999999),
    ],
)
def test_bcd_is_read_digit_by_digit(type_: str, words: list[int], value: int) -> None:
    assert decode([register(type_=type_)], words) == ((value,), None)


@pytest.mark.parametrize("word", [0x12A4, 0xFFFF, 0xA000])
def test_an_impossible_bcd_digit_is_no_number(word: int) -> None:
    assert decode([register(type_="bcd16")], [word]) == ((None,), (pb.QUALITY_BAD_SENSOR,))


def test_a_string_ends_at_its_first_nul_and_loses_trailing_blanks() -> None:
    words = list(struct.unpack(">4H", b"SN 42 \0x"))
    assert decode([register(type_="string", words=4)], words) == (("SN 42",), None)


def test_a_string_of_odd_bytes_stays_readable() -> None:
    assert decode([register(type_="string", words=1)], [0xFF41]) == (("\\xffA",), None)


def test_coils_become_zeros_and_ones() -> None:
    registers = [register("a", 3, "bool", function="coil"), register("b", 4, "bool", function="coil")]
    assert compile_registers(registers, [Request("coil", 3, 2)])([[1, 0]]) == ((1, 0), None)


def test_a_bit_of_a_register_is_cut_out() -> None:
    registers = [register("low", 0, "bool", bit=0), register("high", 0, "bool", bit=15)]
    assert decode(registers, [0x8000]) == ((0, 1), None)


@pytest.mark.parametrize("type_", ["f32", "f64"])
def test_nan_is_not_available(type_: str) -> None:
    words = words_of(struct.pack(">" + FORMATS[type_], math.nan), "big", "big")
    assert decode([register(type_=type_)], words) == ((None,), (pb.QUALITY_BAD_SENSOR,))


def test_a_sentinel_is_not_available_and_its_neighbours_stay_good() -> None:
    registers = [register("a", 0, "i16", sentinels=(-32768,), decimals=1), register("b", 1)]
    assert decode(registers, [0x8000, 5]) == ((None, 5), (pb.QUALITY_BAD_SENSOR, pb.QUALITY_GOOD))
    assert decode(registers, [0x7FFF, 5]) == ((32767, 5), None)


@given(st.floats(width=32, allow_nan=False), st.integers(0, 4))
def test_a_float_with_decimals_loses_no_bit(value: float, decimals: int) -> None:
    words = list(struct.unpack(">2H", struct.pack(">f", value)))
    (got,), _ = decode([register(type_="f32", decimals=decimals)], words)
    assert got is not None
    assert not isinstance(got, str)
    back = got / 10**decimals if isinstance(got, int) else got
    assert struct.pack(">f", back) == struct.pack(">f", value)


@given(st.integers(-99999, 99999), st.integers(0, 2))
def test_a_float_the_device_rounded_becomes_its_integer(number: int, decimals: int) -> None:
    words = list(struct.unpack(">2H", struct.pack(">f", number / 10**decimals)))
    assert decode([register(type_="f32", decimals=decimals)], words) == ((number,), None)


def test_negative_zero_stays_itself() -> None:
    (got,), _ = decode([register(type_="f32", decimals=1)], [0x8000, 0])
    assert isinstance(got, float)
    assert math.copysign(1, got) == -1


def test_a_scaled_integer_beyond_int64_travels_as_its_value() -> None:
    assert decode([register(type_="u64", decimals=1)], [0xFFFF] * 4) == (((2**64 - 1) / 10,), None)


@pytest.mark.parametrize(
    ("more", "type_", "exp", "scale", "raw"),
    [
        ({"type_": "u16"}, pb.VT_INT64, 0, 0.0, False),
        ({"type_": "u64"}, pb.VT_UINT64, 0, 0.0, False),
        ({"type_": "i16", "decimals": 1}, pb.VT_FLOAT64, 1, 0.0, False),
        ({"type_": "i16", "scale": 0.25}, pb.VT_FLOAT64, 0, 0.25, False),
        ({"type_": "i16", "offset": -40.0}, pb.VT_FLOAT64, 0, 1.0, False),
        ({"type_": "f32"}, pb.VT_FLOAT32, 0, 0.0, True),
        ({"type_": "f32", "decimals": 2}, pb.VT_FLOAT32, 2, 0.0, False),
        ({"type_": "f64"}, pb.VT_FLOAT64, 0, 0.0, True),
        ({"type_": "bool", "bit": 1}, pb.VT_BOOL, 0, 0.0, False),
        ({"type_": "string", "words": 2}, pb.VT_STRING, 0, 0.0, False),
    ],
)
def test_the_column_says_what_its_wire_values_mean(
    more: dict[str, object], type_: int, exp: int, scale: float, raw: bool
) -> None:
    series = series_of(register(**more))  # type: ignore[arg-type]
    assert (series.type, series.exp, series.scale, series.raw) == (type_, exp, scale, raw)


def test_attributes_of_the_sensor_win_over_those_of_the_profile() -> None:
    shape = series_of(register(attrs={"role": "probe", "place": "rear"}), attrs={"role": "cargo_temperature"})
    assert shape.attrs == {"role": "cargo_temperature", "place": "rear"}
