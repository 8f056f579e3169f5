from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.columns import (
    Block,
    BodyError,
    ColumnSpec,
    Schema,
    Wire,
    decode,
    encode,
    from_wire,
    narrow32,
    propose,
    to_wire,
    widen32,
)
from protos.comboio.v1 import batch_pb2 as pb
from tests.effort import tries
from tests.protos.bodies import BITS, FLOATS, Case, bits, block_bits, cases, column_bits, expected

SLOW = settings(
    max_examples=tries(200), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def one_group(*series: pb.Series, period_ms: int = 1000, late_source: bool = False) -> Schema:
    for number, one in enumerate(series, start=1):
        one.id = number
        one.name = one.name or f"s{number}"
    group = pb.Group(id=1, sensor="meter", period_ms=period_ms, series=series, late_source=late_source)
    return Schema.from_declare(pb.Declare(groups=[group]))


def round_trip(schema: Schema, block: Block) -> list[list[object]]:
    data, count = encode(schema, boot=1, blocks=[block])
    return [list(column) for column in decode(schema, data, count=count).blocks[0].columns]


# --- the format can't drift ------------------------------------------------------------------------


def golden() -> tuple[Schema, list[Block], list[tuple[int, pb.Event]]]:
    fridge = pb.Group(
        id=1,
        sensor="fridge",
        period_ms=1000,
        series=[
            pb.Series(id=1, name="temperature", type=pb.VT_FLOAT64, exp=1, ref=40),
            pb.Series(id=2, name="door", type=pb.VT_BOOL),
            pb.Series(id=3, name="state", type=pb.VT_STRING),
            pb.Series(id=4, name="level", type=pb.VT_FLOAT64, raw=True),
        ],
    )
    logger = pb.Group(
        id=2,
        sensor="logger",
        period_ms=60_000,
        late_source=True,
        series=[pb.Series(id=5, name="total", type=pb.VT_UINT64, ref=100)],
    )
    blocks = [
        Block(1, [5000, 6001, 6999], [[41, 0.05, 39], [1, 1, 1], ["on", "off", "on"], [0.5, 0.5, -0.0]]),
        Block(2, [5500, 5400], [[2**64 - 1, None]], [[0, pb.QUALITY_BAD_COMM]], [1000, 400]),
    ]
    return Schema.from_declare(pb.Declare(groups=[fridge, logger])), blocks, [(5001, pb.Event(kind=9, detail=b"x"))]


GOLDEN = bytes.fromhex(
    "0809"  # boot 9
    "108827"  # base 5000
    "1a020102"  # groups
    "22020302"  # rows
    "2a08" "00" "02" "03" "e807" "87ab07"  # t: 0, 1, -2 | 500, -60100
    "3209" "02" "00" "03" "02" "00" "02" "01" "c901"  # v: 1, 0, -2 | 1 | 0, 1, -1 | 2^64-1-100 = -101
    "3a01" "0a"  # constant: the second and the fourth of the columns that are not raw
    "4218" "000000000000e03f" "000000000000e03f" "0000000000000080"
    "4a01" "01"  # the exception is the second reading,
    "5208" "9a9999999999a93f"  # 0.05
    "5a026f6e" "5a036f6666"  # on, off
    "62010d" "6a0101" "720102"  # from reading 13 on, one, BAD_COMM
    "7a07" "1002" "1809" "2a0178"  # event: t 1, integrity, x
    "820104" "d00f" "af09"  # device times 1000, -600
)  # fmt: skip


def test_the_bytes_of_a_body_are_these() -> None:
    schema, blocks, events = golden()
    data, count = encode(schema, boot=9, blocks=blocks, events=events)
    assert (data.hex(" "), count) == (GOLDEN.hex(" "), 14)


def test_these_bytes_are_read_as_these_values() -> None:
    schema, _blocks, events = golden()
    decoded = decode(schema, GOLDEN, count=14)
    assert (decoded.boot, decoded.base_mono_ms, decoded.events) == (9, 5000, events)
    fridge, logger = decoded.blocks
    assert fridge.times == [5000, 6001, 6999]
    assert fridge.columns[:3] == [[4.1, 0.05, 3.9], [True, True, True], ["on", "off", "on"]]
    assert column_bits(fridge.columns[3]) == column_bits([0.5, 0.5, -0.0])
    assert (logger.columns, logger.quality, logger.device_ms) == ([[2**64 - 1, None]], [[0, 2]], [1000, 400])


# --- lossless ---------------------------------------------------------------------------------------


@SLOW
@given(cases())
def test_whatever_is_encoded_is_decoded_bit_for_bit(case: Case) -> None:
    schema = case.schema
    data, count = encode(schema, boot=case.boot, blocks=case.blocks, events=case.events)
    assert count == sum(len(block.times) * len(block.columns) for block in case.blocks)
    decoded = decode(schema, data, count=count)
    assert decoded.boot == case.boot
    assert decoded.events == case.events
    assert [block_bits(block) for block in decoded.blocks] == [
        block_bits(expected(schema, block)) for block in case.blocks
    ]


@given(st.integers(0, 0xFFFFFFFF))
def test_a_float32_keeps_every_bit_while_it_lives_as_a_float64(pattern: int) -> None:
    wide = widen32(pattern)
    assert narrow32(wide) == pattern
    if wide == wide:  # noqa: PLR0124
        assert wide == struct.unpack("<f", pattern.to_bytes(4, "little"))[0]


def test_a_signalling_nan_of_32_bits_stays_signalling() -> None:
    schema = one_group(pb.Series(type=pb.VT_FLOAT32, exp=1), pb.Series(type=pb.VT_FLOAT32, raw=True))
    wide = widen32(0xFF80_0001)
    for column in round_trip(schema, Block(1, [5, 6], [[11, wide], [1.5, wide]])):
        assert narrow32(column[1]) == 0xFF80_0001  # type: ignore[arg-type]


def test_a_float64_that_is_no_float32_is_not_narrowed() -> None:
    for value in (0.1, 1e300, BIG_NAN):
        with pytest.raises(ValueError, match="no widened float32"):
            narrow32(value)


BIG_NAN = struct.unpack("<d", (0x7FF8_0000_0000_0001).to_bytes(8, "little"))[0]


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        (pb.VT_INT64, [-(2**63), 2**63 - 1, -(2**63), 0]),
        (pb.VT_UINT64, [0, 2**64 - 1, 0, 2**63]),
        (pb.VT_FLOAT64, [2**53 - 1, -(2**53) + 1, 1]),
    ],
)
def test_integers_keep_their_extremes(type_: pb.ValueType.ValueType, values: list[int]) -> None:
    for ref in (0, 5, -(2**63), 2**63 - 1):
        schema = one_group(pb.Series(type=type_, ref=ref))
        assert round_trip(schema, Block(1, list(range(len(values))), [values])) == [values]


def test_a_float_equal_to_the_integers_around_it_is_still_an_exception() -> None:
    schema = one_group(pb.Series(type=pb.VT_FLOAT64, exp=2))
    for column in ([1, 1.0, 1], [1.0, 1, 1], [1, 2, 2.0], [0, -0.0, 0]):
        wanted = column_bits(from_wire(schema.groups[1].columns[0], column))
        assert column_bits(round_trip(schema, Block(1, [1, 2, 3], [column]))[0]) == wanted


def test_a_reading_without_an_integer_repeats_the_one_before_it_or_the_declared_reference() -> None:
    schema = one_group(*(pb.Series(exp=1, ref=40) for _ in range(3)))
    columns: list[list[Wire]] = [[0.123, 45, 0.5], [None, 45, None], [0.123, None, 0.5]]
    bad = [pb.QUALITY_BAD_COMM]
    quality = [None, [*bad, 0, *bad], [0, *bad, 0]]
    data, _ = encode(schema, boot=1, blocks=[Block(1, [1, 2, 3], columns, quality)])
    body = pb.Body.FromString(data)
    assert (list(body.v), body.constant) == ([0, 5, 0, 0, 5, 0, 0], b"\x04")
    assert (list(body.xpos), list(body.xval)) == ([0, 2, 6, 8], [0.123, 0.5, 0.123, 0.5])


def test_minus_zero_is_never_taken_for_the_integer_of_zero() -> None:
    for column in (ColumnSpec(id=1, name="x", exp=2), ColumnSpec(id=1, name="x", scale=0.1, offset=-40.0)):
        for values in ([-0.0], [0.0, -0.0], [-0.0, float("nan")]):
            assert column_bits(from_wire(column, to_wire(column, values))) == column_bits(values)


# --- real values and wire values ---------------------------------------------------------------------


@given(
    st.sampled_from([{"exp": 0}, {"exp": 2}, {"exp": 10}, {"scale": 0.1, "offset": -40.0}, {"raw": True}]), st.data()
)
def test_real_values_survive_the_way_to_the_wire_and_back(form: dict[str, float], data: st.DataObject) -> None:
    column = ColumnSpec(id=1, name="x", **form)  # type: ignore[arg-type]
    values = data.draw(st.lists(FLOATS | st.integers(-9999, 9999).map(lambda i: i / 100) | st.none()))
    assert column_bits(from_wire(column, to_wire(column, values))) == column_bits(values)


@given(st.lists(st.integers(-(2**50), 2**50)), st.integers(0, 6), st.sampled_from([pb.VT_FLOAT64, pb.VT_FLOAT32]))
def test_decimals_become_integers(integers: list[int], exp: int, type_: pb.ValueType.ValueType) -> None:
    column = ColumnSpec(id=1, name="x", exp=exp, type=type_)
    if type_ == pb.VT_FLOAT32:
        integers = [integer % 100_000 for integer in integers]
    values = from_wire(column, integers)
    assert to_wire(column, values) == integers


def test_the_smallest_exponent_that_fits_is_proposed() -> None:
    assert propose([1.0, 2.0], pb.VT_FLOAT64) == (0, False)
    assert propose([20.1, 20.25, 20.0], pb.VT_FLOAT64) == (2, False)
    assert propose([widen32(narrow) for narrow in (0x41A0CCCD, 0x41A1999A)], pb.VT_FLOAT32) == (1, False)
    assert propose([0.1] * 999 + [0.123], pb.VT_FLOAT64) == (1, False)
    assert propose([0.1] * 6 + [1e-300 / 3] * 4, pb.VT_FLOAT64) == (0, True)
    assert propose([0.1] * 8 + [1e-300 / 3] * 2, pb.VT_FLOAT64) == (1, False)


# --- what can't be said is refused ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "series",
    [
        pb.Series(type=pb.VT_INT64, exp=1),
        pb.Series(type=pb.VT_STRING, raw=True),
        pb.Series(raw=True, exp=2),
        pb.Series(exp=23),
        pb.Series(scale=float("nan")),
        pb.Series(offset=1.0),
        pb.Series(scale=2.0, exp=1),
        pb.Series(type=pb.VT_BOOL, ref=2),
        pb.Series(type=99),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_a_declaration_without_meaning_is_refused(series: pb.Series) -> None:
    with pytest.raises(BodyError):
        one_group(series)


def test_ids_are_declared_once() -> None:
    twice = [pb.Group(id=1, series=[pb.Series(id=1)]), pb.Group(id=2, series=[pb.Series(id=1)])]
    for groups in (twice, [pb.Group(id=1), pb.Group(id=1)], [pb.Group(id=0)]):
        with pytest.raises(BodyError):
            Schema.from_declare(pb.Declare(groups=groups))


@pytest.mark.parametrize(
    ("type_", "values", "quality"),
    [
        (pb.VT_FLOAT64, [1, None], None),
        (pb.VT_FLOAT64, [1, None], [0, pb.QUALITY_STALE]),
        (pb.VT_FLOAT64, [1, "2"], None),
        (pb.VT_INT64, [1, 2**63], None),
        (pb.VT_UINT64, [1, -1], None),
        (pb.VT_BOOL, [1, 2], None),
        (pb.VT_STRING, ["a", 1], None),
        (pb.VT_FLOAT64, [1], None),
        (pb.VT_FLOAT64, [1, 2], [0]),
        (pb.VT_FLOAT64, [1, 2], [0, 7]),
    ],
)
def test_readings_that_do_not_fit_are_refused(
    type_: pb.ValueType.ValueType, values: Sequence[int | str | None], quality: list[int] | None
) -> None:
    with pytest.raises(BodyError):
        encode(one_group(pb.Series(type=type_)), boot=1, blocks=[Block(1, [1, 2], [values], [quality])])


def damaged(**changes: object) -> bytes:
    schema, blocks, events = golden()
    body = pb.Body.FromString(encode(schema, boot=9, blocks=blocks, events=events)[0])
    for name, value in changes.items():
        body.ClearField(name)  # type: ignore[arg-type]
        body.MergeFrom(pb.Body(**{name: value}))  # type: ignore[arg-type]
    return body.SerializeToString()


@pytest.mark.parametrize(
    "changes",
    [
        {"group": [1, 3]},
        {"group": [1]},
        {"rows": [3, 0]},
        {"rows": [2, 2]},
        {"rows": [3, 2**31]},
        {"t": [0, 1, -2, 500]},
        {"t": [-5001, 1, -2, 500, 0]},
        {"v": [1, 0, -2, 1, 0, 1, -1]},
        {"v": [1, 0, -2, 1, 0, 1, -1, 0, 0]},
        {"v": [1, 0, -2, 2, 0, 1, -1, 0]},
        {"v": [1, 0, -2, 1, 0, 1, 1, 0]},
        {"constant": b""},
        {"constant": b"\x1a"},
        {"constant": b"\x0a\x00"},
        {"d": [1.0, 2.0]},
        {"xpos": []},
        {"xpos": [14]},
        {"xpos": [6]},
        {"xpos": [9]},
        {"xpos": [2, 1], "xval": [1.0, 2.0]},
        {"strings": ["on"]},
        {"q_pos": []},
        {"q_pos": [14]},
        {"q_len": [0]},
        {"q_len": [2]},
        {"q_code": [0]},
        {"q_code": [7]},
        {"device_ms": [1]},
        {"base_mono_ms": 2**53},
        {"events": [pb.Event(t=-5001)]},
        {"events": [pb.Event()] * 65_537},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_a_body_that_does_not_add_up_is_refused(changes: dict[str, object]) -> None:
    schema = golden()[0]
    decode(schema, damaged(), count=14)
    with pytest.raises(BodyError):
        decode(schema, damaged(**changes), count=14)


def test_the_count_must_be_exact() -> None:
    for count in (0, 13, 15):
        with pytest.raises(BodyError):
            decode(golden()[0], GOLDEN, count=count)


def test_fields_of_a_later_version_are_skipped_and_repeated_ones_refused() -> None:
    schema = golden()[0]
    assert decode(schema, GOLDEN + b"\x88\x01\x05" + b"\x92\x01\x01x", count=14) == decode(schema, GOLDEN, count=14)
    for more in (b"\x08\x09", b"\x32\x00", b"\x30\x00", b"\x88\x01", b"\x92\x01\x05x", b"\x03", b"\x00\x00"):
        with pytest.raises(BodyError):
            decode(schema, GOLDEN + more, count=14)


def test_bits_tell_what_equality_does_not() -> None:
    assert bits(0.0) != bits(-0.0)
    assert bits(1) != bits(1.0) != bits(True)


@given(BITS)
def test_every_pattern_of_64_bits_travels_as_an_exception(value: float) -> None:
    schema = one_group(pb.Series(exp=2))
    assert column_bits(round_trip(schema, Block(1, [1, 2], [[7, value]]))[0]) == column_bits([0.07, value])
