"""Steps of time: what is folded, made coarser, packed and unpacked says the same of every series."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from control_plane.projections import rollup
from control_plane.projections.rollup import DAY_MS, HOUR_MS, MINUTE_MS, Steps

NAMES = ["air/temperature", "door/open", "meter/power"]
VALUES = st.one_of(
    st.integers(-400, 400).map(lambda tenths: tenths / 10),
    st.floats(-1e15, 1e15),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(-(2**60), 2**60).map(float),
)
READINGS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3 * HOUR_MS), VALUES), max_size=60)


def folded(readings: list[tuple[int, int, float]], step_ms: int = MINUTE_MS) -> Steps:
    series, times, values = (list(column) for column in zip(*readings, strict=True)) if readings else ([], [], [])
    return rollup.fold(NAMES, np.array(series, np.int64), np.array(times, np.int64), np.array(values, float), step_ms)


def rows(steps: Steps) -> list[tuple[object, ...]]:
    names = [steps.names[number] for number in steps.series.tolist()]
    return list(zip(names, *(column.tolist() for column in steps.columns()[1:]), strict=True))


@given(READINGS)
def test_every_step_says_what_its_readings_say(readings: list[tuple[int, int, float]]) -> None:
    told = rows(folded(readings))
    wanted: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for number, at, value in readings:
        if math.isfinite(value):
            wanted.setdefault((NAMES[number], at // MINUTE_MS * MINUTE_MS), []).append((at, value))
    assert [row[:2] for row in told] == sorted(wanted, key=lambda key: (NAMES.index(key[0]), key[1]))
    for name, start, count, least, greatest, total, last in told:
        values = [value for _, value in sorted(wanted[str(name), int(str(start))], key=lambda one: one[0])]
        assert (count, least, greatest) == (len(values), min(values), max(values))
        assert isinstance(total, float)
        assert math.isclose(total, math.fsum(values), abs_tol=1e-9 * (1 + math.fsum(map(abs, values))))
        assert last in values


@given(READINGS)
def test_longer_steps_are_the_same_from_readings_and_from_shorter_steps(readings: list[tuple[int, int, float]]) -> None:
    by_steps, at_once = rollup.coarser(folded(readings), HOUR_MS), folded(readings, HOUR_MS)
    assert [row[:5] + row[6:] for row in rows(by_steps)] == [row[:5] + row[6:] for row in rows(at_once)]


@given(READINGS)
def test_packed_and_unpacked_they_are_the_same(readings: list[tuple[int, int, float]]) -> None:
    steps = folded(readings)
    if not steps.series.size:
        return
    back = rollup.unpack(rollup.pack(steps, MINUTE_MS), MINUTE_MS)
    assert [row[:5] + row[6:] for row in rows(back)] == [row[:5] + row[6:] for row in rows(steps)]
    assert np.allclose(back.total, steps.total, rtol=2e-9, atol=1e-6, equal_nan=True)


def test_sums_of_tenths_are_exact() -> None:
    steps = folded([(0, second * 1000, 0.1) for second in range(50)])
    assert rollup.unpack(rollup.pack(steps, MINUTE_MS), MINUTE_MS).total.tolist() == [5.0]


def test_a_sum_finer_than_least_greatest_and_last_keeps_its_decimals() -> None:
    steps = folded([(0, 0, 0.0), (0, 1000, 0.1), (0, 2000, 1.0)])
    assert rollup.unpack(rollup.pack(steps, MINUTE_MS), MINUTE_MS).total.tolist() == [1.1]


def test_parts_of_different_series_are_joined_in_order() -> None:
    one, other = folded([(1, 0, 1.0), (1, HOUR_MS, 2.0)]), folded([(0, MINUTE_MS, 3.0), (1, MINUTE_MS, 4.0)])
    whole = rollup.joined([one, other, rollup.NOTHING])
    assert sorted(row[:2] for row in rows(whole)) == [
        ("air/temperature", MINUTE_MS),
        ("door/open", 0),
        ("door/open", MINUTE_MS),
        ("door/open", HOUR_MS),
    ]
    assert rows(rollup.coarser(whole.of({"door/open"}), DAY_MS)) == [("door/open", 0, 3, 1.0, 4.0, 7.0, 2.0)]
    assert len(rows(whole.within(0, MINUTE_MS))) == 1


def test_an_hour_of_minutes_costs_a_few_bytes_for_each() -> None:
    chance = np.random.default_rng(3)
    values = np.round(np.cumsum(chance.normal(0, 0.02, 3600)) + 4, 1)
    steps = rollup.fold(NAMES, np.zeros(3600, np.int64), np.arange(3600) * 1000, values, MINUTE_MS)
    assert len(rollup.pack(steps, MINUTE_MS)) < 8 * 60
