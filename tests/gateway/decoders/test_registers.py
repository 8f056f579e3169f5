"""Registers → wire values: every type in every order, and what "not available" becomes."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_configs.budget import Request, plan
from firmware_configs.loader import Profiles
from firmware_configs.schema import Derived, Limits, Register, Term
from gateway.decoders.registers import compile_registers, series_of
from gateway.reading import Wire
from protos.comboio.v1 import batch_pb2 as pb
from tests.effort import tries

FORMATS = {
    "u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "i64": "q", "f16": "e", "f32": "f", "f64": "d",
}  # fmt: skip
BOUNDS = {
    "u16": (0, 2**16 - 1),
    "i16": (-(2**15), 2**15 - 1),
    "u32": (0, 2**32 - 1),
    "i32": (-(2**31), 2**31 - 1),
    "u64": (0, 2**64 - 1),
    "i64": (-(2**63), 2**63 - 1),
}
WIDE = {"u24": 4, "i24": 4, "u48": 6, "i48": 6}
"""Bytes of their registers."""
ORDERS = {"big": [0, 1, 2, 3], "little": [3, 2, 1, 0], "swapped_pairs": [1, 0, 3, 2], "reversed_pairs": [2, 3, 0, 1]}


def register(quantity: str = "q", address: int = 0, type_: str = "u16", **more: object) -> Register:
    fields: dict[str, object] = {"function": "holding", "source": "s", "byte_order": "big", "word_order": "big"}
    return Register(quantity=quantity, address=address, type=type_, **(fields | more))  # type: ignore[arg-type]


def words_of(raw: bytes, byte_order: str, word_order: str) -> list[int]:
    """The registers a device with these orders would send for a big-endian value."""
    words = [raw[i : i + 2] for i in range(0, len(raw), 2)]
    if len(words) == 4:
        words = [words[at] for at in ORDERS[word_order]]
    elif word_order in {"little", "swapped_pairs"}:
        words.reverse()
    return [int.from_bytes(word, "big" if byte_order == "big" else "little") for word in words]


def decode(registers: list[Register], words: list[int], start: int = 0) -> tuple[tuple[Wire, ...], object]:
    return compile_registers(registers, [Request(registers[0].function, start, len(words))])([words])


def numbers(type_: str) -> st.SearchStrategy[int | float]:
    if type_ in BOUNDS:
        return st.integers(*BOUNDS[type_])
    if type_ == "f64":
        return st.floats(allow_nan=False)
    return st.floats(allow_nan=False, width=16 if type_ == "f16" else 32)


@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("word_order", ORDERS)
@pytest.mark.parametrize("type_", FORMATS)
@settings(max_examples=tries(25), deadline=None)
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


@pytest.mark.parametrize("byte_order", ["big", "little"])
@pytest.mark.parametrize("word_order", ["big", "little"])
@pytest.mark.parametrize("type_", WIDE)
@settings(max_examples=tries(25), deadline=None)
@given(st.data())
def test_integers_of_24_and_48_bits(type_: str, word_order: str, byte_order: str, data: st.DataObject) -> None:
    bits = int(type_[1:])
    low = -(1 << bits - 1) if type_[0] == "i" else 0
    value = data.draw(st.integers(low, low + (1 << bits) - 1))
    raw = (value % (1 << bits)).to_bytes(WIDE[type_], "big")
    words = words_of(raw, byte_order, word_order)
    assert decode([register(type_=type_, byte_order=byte_order, word_order=word_order)], words) == ((value,), None)


@pytest.mark.parametrize(
    ("more", "words", "value"),
    [
        ({"type_": "u8", "byte": "high"}, [0xFE01], 254),
        ({"type_": "u8", "byte": "low"}, [0xFE01], 1),
        ({"type_": "i8", "byte": "high"}, [0xFE01], -2),
        ({"type_": "i8", "byte": "low"}, [0x0180], -128),
        ({"type_": "u16", "bit": 4, "bits": 3}, [0b0101_0000], 5),
        ({"type_": "u32", "bit": 15, "bits": 2}, [0x0001, 0x8000], 3),
        ({"type_": "i16", "magnitude": True}, [0x8005], -5),
        ({"type_": "i32", "magnitude": True}, [0x8000, 0x0007], -7),
        ({"type_": "i16", "magnitude": True}, [0x0005], 5),
        ({"type_": "bcd64"}, [0x1234, 0x5678, 0x9012, 0x3456], 1234567890123456),
        ({"type_": "mod10k32"}, [12, 3456], 123456),
        ({"type_": "mod10k48", "word_order": "little"}, [1, 2, 3], 300020001),
        ({"type_": "mod10k64"}, [9999, 0, 0, 9999], 9999_0000_0000_9999),
        ({"type_": "unix32"}, [0x6553, 0xF100], 1_700_000_000_000),
        ({"type_": "ymdhms"}, [2023, 11, 14, 22, 13, 20], 1_700_000_000_000),
        ({"type_": "ymdhms"}, [23, 11, 14, 22, 13, 20], 1_700_000_000_000),
        ({"type_": "iec870"}, [23, 11 << 8 | 2 << 5 | 14, 22 << 8 | 13, 20_123], 1_700_000_000_123),
    ],
)
def test_what_devices_also_write(more: dict[str, object], words: list[int], value: int) -> None:
    assert decode([register(**more)], words) == ((value,), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"type_": "mod10k32"}, [12, 10_000]),
        ({"type_": "bcd64"}, [0, 0, 0, 0xA]),
        ({"type_": "ymdhms"}, [2023, 13, 14, 22, 13, 20]),
        ({"type_": "iec870"}, [23, 11 << 8 | 14, 22 << 8 | 13 | 0x80, 0]),
        ({"type_": "iec870"}, [0, 0, 0, 0]),
        ({"type_": "i16", "sentinels": (0x8000,)}, [0x8000]),
        ({"type_": "u16", "sentinels": (-1,)}, [0xFFFF]),
        ({"type_": "u48", "sentinels": (0xFFFF_FFFF_FFFF,)}, [0xFFFF] * 3),
        ({"type_": "f16"}, [0x7E00]),
    ],
)
def test_what_is_no_number_is_not_available(more: dict[str, object], words: list[int]) -> None:
    assert decode([register(**more)], words) == ((None,), (pb.QUALITY_BAD_SENSOR,))  # type: ignore[arg-type]


def test_another_register_may_hold_the_power_of_ten() -> None:
    registers = [register("power", 0, "i16", scale_from="power_sf"), register("power_sf", 1, "i16")]
    assert decode(registers, [1234, 0xFFFE])[0][0] == 12.34
    assert decode(registers, [1234, 2])[0][0] == 123400.0
    assert decode(registers, [1234, 0x8000]) == ((None, -32768), (pb.QUALITY_BAD_SENSOR, pb.QUALITY_GOOD))
    assert series_of(registers[0]).raw


def test_a_sum_of_others_is_a_column_of_its_own() -> None:
    registers = [register("high", 0), register("low", 1, decimals=1), register("bad", 2, sentinels=(0,))]
    sums = [
        Derived(quantity="all", terms=(Term(of="high", times=10_000), Term(of="low")), source="s"),
        Derived(quantity="exact", terms=(Term(of="high", times=-1), Term(of="low")), decimals=1, source="s"),
        Derived(quantity="none", terms=(Term(of="high"), Term(of="bad")), source="s"),
    ]
    values, quality = compile_registers(registers, [Request("holding", 0, 3)], sums)([[7, 25, 0]])
    assert values == (7, 25, None, 70_002.5, -45, None)
    assert quality == (0, 0, pb.QUALITY_BAD_SENSOR, 0, 0, pb.QUALITY_BAD_SENSOR)
    assert (series_of(sums[1]).exp, series_of(sums[0]).raw) == (1, True)


def test_what_numbers_mean_travels_with_the_series() -> None:
    assert series_of(register(labels={"0": "off", "1": "on"})).attrs == {"labels": '{"0":"off","1":"on"}'}
    assert series_of(register(type_="unix32")).attrs == {"moment": "unix_ms"}
