"""The fold over hand-made observations: limits 2–8 °C, hysteresis 0.5, both delays 10 s, gap 5 s."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from control_plane.reconcile.cold_chain import Closed, Decision, Limits, Observation, Opened, State, fold

LIMITS = Limits(low=2, high=8, hysteresis=0.5, open_after_ms=10_000, close_after_ms=10_000, gap_ms=5_000)


def seen(*some: tuple[float, float]) -> list[Observation]:
    """(second, °C)."""
    return [Observation(round(at * 1000), value, (1, 1, round(at * 1000))) for at, value in some]


def every_s(start: int, *values: float) -> list[tuple[float, float]]:
    return [(start + offset, value) for offset, value in enumerate(values)]


def decide(*some: tuple[float, float]) -> list[Decision]:
    return fold(LIMITS, State(), seen(*some))


def opened(decisions: Iterable[Decision]) -> list[Opened]:
    return [one for one in decisions if isinstance(one, Opened)]


def closed(decisions: Iterable[Decision]) -> list[Closed]:
    return [one for one in decisions if isinstance(one, Closed)]


WARM = every_s(0, 6, *[10] * 12)  # crosses 8 at 0.5 s, decided at 11 s


def test_an_excursion_opens_at_the_interpolated_crossing_and_is_decided_after_the_delay() -> None:
    (only,) = decide(*WARM)
    assert isinstance(only, Opened)
    assert (only.time_ms, only.decided_ms, only.side, only.first_value) == (500, 11_000, "high", 10)
    assert only.first == (1, 1, 1000)


def test_it_closes_at_the_interpolated_crossing_back_once_well_inside_for_the_delay() -> None:
    decisions = decide(*WARM, *every_s(13, *[6] * 12))
    (end,) = closed(decisions)
    assert (end.time_ms, end.decided_ms, end.opened_ms, end.peak) == (12_500, 23_000, 500, 10)
    assert (end.observations, end.known_ms, end.longest_gap_ms) == (23, 22_500, 0)
    # 0.5 s triangle up, 11 s at 2 degrees, 0.5 s triangle down
    assert end.degree_minutes == round((0.5 * 2 / 2 + 11 * 2 + 0.5 * 2 / 2) / 60, 3)


def test_a_short_blip_is_nothing() -> None:
    assert decide(*every_s(0, 6, *[10] * 9, 6, 6)) == []


def test_a_value_at_the_limit_is_inside() -> None:
    assert decide(*every_s(0, *[8] * 30)) == []
    assert decide(*every_s(0, *[2] * 30)) == []


def test_the_low_side_mirrors_the_high_one() -> None:
    decisions = decide(*every_s(0, 4, *[0] * 12), *every_s(13, *[4] * 12))
    (start,), (end,) = opened(decisions), closed(decisions)
    assert (start.time_ms, start.side) == (500, "low")
    assert (end.time_ms, end.peak, end.degree_minutes) == (12_500, 0, round(23 / 60, 3))


def test_between_limit_and_hysteresis_nothing_closes_but_the_return_is_remembered() -> None:
    near = every_s(13, *[7.8] * 20)
    assert closed(decide(*WARM, *near)) == []
    (end,) = closed(decide(*WARM, *near, *every_s(33, *[7.5] * 11)))
    assert (end.time_ms, end.decided_ms) == (12_000 + round(1000 * 2 / 2.2), 43_000)


def test_hysteresis_left_again_starts_the_closing_delay_anew() -> None:
    (end,) = closed(decide(*WARM, *every_s(13, *[7] * 9, 7.8, *[7] * 11)))
    assert end.decided_ms == 33_000
    assert end.time_ms == 12_000 + round(1000 * 2 / 3)


def test_outside_again_before_the_delay_keeps_it_open_as_one() -> None:
    decisions = decide(*WARM, *every_s(13, *[6] * 9), *every_s(22, 10, *[6] * 12))
    assert len(opened(decisions)) == 1
    (end,) = closed(decisions)
    assert end.time_ms == 22_500


def test_a_candidate_broken_by_a_gap_begins_again_at_the_observation_after_it() -> None:
    decisions = decide(*every_s(0, 6, *[10] * 8), *every_s(20, *[10] * 11))
    (start,) = decisions
    assert isinstance(start, Opened)
    assert (start.time_ms, start.decided_ms, start.first) == (20_000, 30_000, (1, 1, 20_000))


def test_next_to_a_gap_the_observation_itself_is_the_opening() -> None:
    (start,) = decide((0, 6), *every_s(20, *[10] * 11))
    assert start.time_ms == 20_000


def test_silence_as_long_as_the_limit_is_no_gap_yet() -> None:
    (start,) = decide((0, 6), (5, 10), (10, 10), (15, 10))
    assert start.time_ms == 2_500


def test_a_gap_never_closes_an_excursion() -> None:
    decisions = decide(*WARM, *every_s(3600, *[6] * 10))
    assert closed(decisions) == []
    (end,) = closed(decide(*WARM, *every_s(3600, *[6] * 11)))
    assert (end.time_ms, end.decided_ms, end.longest_gap_ms) == (3_600_000, 3_610_000, 3_588_000)


def test_a_gap_splits_coverage_and_weighs_nothing() -> None:
    (end,) = closed(decide(*WARM, *every_s(100, *[10] * 5), *every_s(105, *[6] * 12)))
    assert end.longest_gap_ms == 88_000
    assert end.known_ms == 11_500 + 4_000 + 11_000
    assert end.degree_minutes == round((0.5 + 22 + 8 + 0.5) / 60, 3)


def test_a_closing_broken_by_a_gap_begins_again_after_it() -> None:
    (end,) = closed(decide(*WARM, *every_s(13, *[6] * 9), *every_s(60, *[6] * 11)))
    assert (end.time_ms, end.decided_ms) == (60_000, 70_000)


def test_too_warm_then_straight_too_cold_are_two_excursions_with_their_own_times() -> None:
    decisions = decide(*WARM, *every_s(13, *[0] * 20), *every_s(33, *[4] * 12))
    assert [d.side for d in opened(decisions)] == ["high", "low"]
    warm, cold = closed(decisions)
    assert (warm.opened_ms, warm.time_ms) == (500, 12_200)
    assert (cold.opened_ms, cold.time_ms) == (12_800, 32_500)


def test_too_cold_for_a_short_while_on_the_way_back_does_not_hide_the_cold() -> None:
    decisions = decide(*WARM, *every_s(13, *[0] * 12), *every_s(25, *[4] * 12))
    assert [d.side for d in opened(decisions)] == ["high", "low"]
    assert len(closed(decisions)) == 2


def test_a_swing_from_high_to_low_interpolates_each_limit_on_its_own() -> None:
    (start,) = opened(decide((0, 10), *every_s(1, *[0] * 12)))
    assert (start.side, start.time_ms) == ("low", 800)


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_resting_anywhere_changes_nothing(at: int) -> None:
    story = seen(*WARM, *every_s(13, *[7.8] * 5), *every_s(40, *[0] * 14), *every_s(54, *[4] * 12))
    whole = fold(LIMITS, State(), story)
    state = State()
    parts = fold(LIMITS, state, story[:at])
    rested = msgspec.json.decode(msgspec.json.encode(state), type=State)
    assert parts + fold(LIMITS, rested, story[at:]) == whole
    assert len(whole) == 4
