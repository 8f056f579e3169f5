from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.projections.walltime import Anchored, WallTime
from tests.effort import tries

DAY_MS = 86_400_000
WALL0_MS = 1_700_000_000_000


class Crystal:
    """A box's monotonic clock against the truth: its rate changes with the temperature, by 100 ppm at most."""

    def __init__(self, spells: list[tuple[int, int]]) -> None:
        self._starts = [0, *accumulate(length for length, _ in spells)]
        self._rates = [ppm * 1e-6 for _, ppm in spells] + [0.0]
        self._drifts = [0.0, *accumulate(length * ppm * 1e-6 for length, ppm in spells)]

    def true_ms(self, mono_ms: int) -> float:
        spell = bisect_right(self._starts, mono_ms) - 1
        return WALL0_MS + mono_ms + self._drifts[spell] + (mono_ms - self._starts[spell]) * self._rates[spell]


spells = st.lists(st.tuples(st.integers(60_000, 10 * DAY_MS), st.integers(-100, 100)), min_size=1, max_size=8)
looks = st.lists(
    st.tuples(st.integers(0, 30 * DAY_MS), st.integers(1, 2_000), st.floats(-1, 1)), min_size=1, max_size=12
)


@settings(max_examples=tries(200), deadline=None)
@given(spells=spells, looks=looks, asked=st.lists(st.integers(0, 30 * DAY_MS), min_size=1, max_size=50))
def test_the_error_holds_the_truth_over_thirty_days_of_drift(
    spells: list[tuple[int, int]], looks: list[tuple[int, int, float]], asked: list[int]
) -> None:
    crystal = Crystal(spells)
    wall = WallTime([Anchored(at, round(crystal.true_ms(at) + part * (err - 0.5)), err) for at, err, part in looks])
    instants = np.array(asked, np.int64)
    for at, mapped, error in zip(asked, wall.to_wall(instants), wall.errors_ms(instants), strict=True):
        assert abs(crystal.true_ms(at) - mapped) <= error + 0.001  # of a float that counts since 1970


def test_the_error_grows_with_the_distance_from_the_last_anchor() -> None:
    wall = WallTime([Anchored(0, WALL0_MS, 20)])
    assert wall.err_ms(0) == 20
    assert wall.err_ms(DAY_MS) == pytest.approx(20 + 8_640, abs=2)


def test_between_exact_anchors_an_hour_apart_the_error_is_small() -> None:
    wall = WallTime([Anchored(0, WALL0_MS, 5), Anchored(3_600_000, WALL0_MS + 3_600_000, 5)])
    assert wall.err_ms(1_800_000) <= 190
    assert wall.err_ms(3_599_000) <= 10


def test_where_anchors_contradict_each_other_either_may_be_right() -> None:
    """A real-time clock that was three minutes behind was put right after ten minutes."""
    wall = WallTime([Anchored(0, WALL0_MS, 50), Anchored(600_000, WALL0_MS + 600_000 + 180_000, 50)])
    middle = wall.wall(300_000)
    error = wall.err_ms(300_000)
    assert middle - error <= WALL0_MS + 300_000
    assert middle + error >= WALL0_MS + 300_000 + 180_000


def test_one_late_answer_of_the_server_bends_nothing() -> None:
    good = [Anchored(0, 1_000_000, 17), Anchored(60_000, 1_060_003, 56)]
    late = Anchored(50_000, 1_050_650, 667)
    for anchors in ([*good, late], [late, *good], [good[0], late], [late, good[1]]):
        wall = WallTime(anchors)
        assert abs(wall.wall(50_000) - 1_050_000) <= 3
        assert wall.err_ms(50_000) <= 17 + 56
    assert WallTime([*good, late]).digest() == WallTime(good).digest()
    assert WallTime([late]).wall(50_000) == 1_050_650


def test_without_an_anchor_nothing_is_said() -> None:
    with pytest.raises(ValueError, match="no anchor"):
        WallTime([]).errors_ms(np.array([1], np.int64))
