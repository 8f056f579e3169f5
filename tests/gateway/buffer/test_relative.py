from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.buffer import layout
from gateway.buffer.relative import FULL_EVERY, MOST_ROWS, Reader, Writer
from gateway.reading import Row
from protos.comboio.v1 import batch_pb2 as pb
from tests.effort import tries

INT, RAW = (pb.VT_INT64, False), (pb.VT_FLOAT64, True)
STRUCTS = {
    1: layout.values_struct([INT] * 3),
    2: layout.values_struct([INT] * 9),
    3: layout.values_struct([INT, RAW]),
    4: layout.values_struct([(pb.VT_STRING, False)]),
}
INTEGERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-3, 3)
CELLS = {
    1: st.tuples(*[INTEGERS] * 3),
    2: st.tuples(*[st.sampled_from([0, 1, 255, 70_000, 1 << 40, (1 << 64) - 1])] * 9),
    3: st.tuples(INTEGERS, st.floats(allow_nan=False)),
    4: st.tuples(st.text(max_size=5)),
}
ODD = st.tuples(st.none() | st.floats(allow_nan=False) | st.booleans(), st.integers(-9, 9), st.integers(-9, 9))


@st.composite
def _rows(draw: st.DrawFn) -> tuple[int, Row]:
    group = draw(st.sampled_from(sorted(STRUCTS)))
    values = draw(CELLS[group] | ODD if group == 1 else CELLS[group])
    quality = draw(st.none() | st.just((2,) * len(values)))
    near, far = st.integers(5_000, 5_150), st.integers(0, 200_000)
    return group, Row(draw(near | far), values, quality, draw(st.none() | st.integers(0, 1 << 40)))


FLUSHES = st.lists(st.lists(_rows(), min_size=1, max_size=6), min_size=1, max_size=8)


@settings(max_examples=tries(60), deadline=None)
@given(FLUSHES, st.sets(st.integers(0, 7)))
def test_rows_come_back_as_they_went_in(flushes: list[list[tuple[int, Row]]], sealed_before: set[int]) -> None:
    writer, reader = Writer(STRUCTS), Reader()
    for index, rows in enumerate(flushes):
        if index in sealed_before:
            writer.forget()
        payload, relative = writer.pack(7, rows)
        assert not (index in sealed_before and relative)
        assert _read(reader, payload, relative) == rows


@settings(max_examples=tries(60), deadline=None)
@given(FLUSHES, st.sets(st.integers(0, 7)), st.integers(0, 7))
def test_what_stands_behind_a_hole_comes_back_right_or_not_at_all(
    flushes: list[list[tuple[int, Row]]], sealed_before: set[int], hole: int
) -> None:
    writer, reader = Writer(STRUCTS), Reader()
    for index, rows in enumerate(flushes):
        if index in sealed_before:
            writer.forget()
        payload, relative = writer.pack(7, rows)
        if index == hole:
            reader.forget()
            continue
        found = _read(reader, payload, relative)
        assert all(row in rows for row in found)
        if index < hole or not relative:
            assert found == rows


@settings(max_examples=tries(60), deadline=None)
@given(FLUSHES, st.integers(0, 7))
def test_reading_may_begin_at_any_full_record(flushes: list[list[tuple[int, Row]]], begin: int) -> None:
    writer = Writer(STRUCTS)
    packed = [(*writer.pack(7, rows), rows) for rows in flushes]
    reader = Reader()
    for payload, relative, rows in packed[min(begin, len(packed) - 1) :]:
        if not relative:
            begin = -1
        if begin < 0:
            assert _read(reader, payload, relative) == rows


def test_a_slow_signal_takes_a_fraction_of_the_bytes() -> None:
    writer = Writer(STRUCTS)
    rows = [[(2, Row(1000 * at, tuple(40_000 + column + at // 3 for column in range(9))))] for at in range(10)]
    sizes = [len(writer.pack(1, flush)[0]) for flush in rows]
    assert max(sizes[1:]) <= 4 + 8 + 2 + 5 + 2 + 9
    assert min(sizes[1:]) < sizes[0] / 3


@pytest.mark.parametrize("rows", [MOST_ROWS, MOST_ROWS + 1])
def test_a_record_of_many_rows_is_a_full_one_and_the_next_goes_on_from_it(rows: int) -> None:
    writer, reader = Writer(STRUCTS), Reader()
    many = [(1, Row(at, (at, at + 1, at + 2))) for at in range(rows)]
    for flush, expected in (([many[0]], False), (many, rows <= MOST_ROWS), ([many[-1]], True)):
        payload, relative = writer.pack(1, flush)
        assert relative is expected
        assert _read(reader, payload, relative) == flush


def test_gap_records_stand_before_the_rows_in_both_forms() -> None:
    writer, reader = Writer(STRUCTS), Reader()
    gaps = [(5, pb.Gap(group=1, from_mono_ms=3, to_mono_ms=9, count=2)), (6, pb.Gap(group=2))]
    for expected in (False, True):
        payload, relative = writer.pack(1, [(1, Row(10, (1, 2, 3)))], gaps)
        boot, found, rows = reader.unpack(payload, STRUCTS, relative=relative)
        assert (relative, boot, found, [row.values for _, row in rows]) == (expected, 1, gaps, [(1, 2, 3)])


def _read(reader: Reader, payload: bytes, relative: bool) -> list[tuple[int, Row]]:
    _, _, rows = reader.unpack(payload, STRUCTS, relative=relative)
    return list(rows)


def test_damage_at_rest_reaches_no_further_than_the_next_full_record() -> None:
    writer = Writer(STRUCTS)
    forms = [writer.pack(1, [(1, Row(at, (at, 0, 0)))])[1] for at in range(2 * FULL_EVERY + 1)]
    assert [at for at, relative in enumerate(forms) if not relative] == [0, FULL_EVERY, 2 * FULL_EVERY]
