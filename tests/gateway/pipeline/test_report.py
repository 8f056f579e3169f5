from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gateway.pipeline import report
from gateway.pipeline.stage import Stage
from gateway.reading import Row
from protos.config import Report, SensorBase
from tests.gateway.pipeline.stages import SHAPE, Ear, built, row


def stage(**policy: float) -> Stage:
    """One policy for the temperature, and for the rest one that finds nothing due but every hour."""
    quiet = Report(deadband=1e9, max_s=3600)
    policies = {"temperature": Report(**policy), "*": quiet, "door": Report(max_s=3600), "mode": Report(max_s=3600)}
    return built(report.build, SensorBase(id="cooling", report=policies))


def sent(one: Stage, *rows: Row) -> list[float]:
    return [r.mono_ms / 1000 for r in rows if one.take(r) is not None]


def test_only_a_change_beyond_the_deadband_since_what_was_sent_is_due() -> None:
    rows = [row(n, t) for n, t in enumerate((40, 44, 45, 46, 41, 40))]
    assert sent(stage(deadband=0.5), *rows) == [0, 3, 5]


def test_a_deadband_in_percent_goes_by_the_value_sent() -> None:
    rows = [row(n, t) for n, t in enumerate((1000, 1099, 1101, 1000, 990))]
    assert sent(stage(deadband_percent=10), *rows) == [0, 2, 4]


def test_a_change_waits_for_the_shortest_interval_and_is_not_forgotten() -> None:
    rows = [row(n, t) for n, t in enumerate((40, 90, 90, 90, 90, 90))]
    assert sent(stage(min_s=3), *rows) == [0, 3]


def test_the_longest_interval_holds_even_if_nothing_changes() -> None:
    assert sent(stage(max_s=10), *[row(n) for n in range(25)]) == [0, 10, 20]


def test_another_quality_is_a_change_at_once() -> None:
    assert sent(stage(deadband=5, min_s=60), row(0), row(1, None), row(2, None), row(3)) == [0, 1, 3]


def test_switches_texts_and_no_number_change_as_they_are() -> None:
    one = stage(deadband=5)
    rows = [row(0), row(1, door=1), row(2, door=1), row(3, door=1, mode="off"), row(4, door=1, mode="off")]
    assert sent(one, *rows) == [0, 1, 3]
    power = built(report.build, SensorBase(id="cooling", report={"*": Report(deadband=5)}))
    assert sent(power, row(0, 40, 1.0), row(1, 40, math.nan), row(2, 40, math.nan), row(3, 40, 1.0)) == [0, 1, 3]


def test_a_quantity_without_a_policy_is_always_due() -> None:
    _, one = report.build(SHAPE, SensorBase(id="cooling", report={"temperature": Report(deadband=9)}), Ear())
    assert one is None


@given(st.lists(st.integers(-500, 500), min_size=1, max_size=60), st.integers(0, 50), st.integers(1, 20))
def test_whoever_holds_the_last_sent_value_is_never_off_by_more_than_the_deadband(
    tenths: list[int], deadband: int, max_s: int
) -> None:
    one = stage(deadband=deadband / 10, max_s=max_s)
    held, held_at = 0, 0
    for at_s, value in enumerate(tenths):
        if one.take(row(at_s, value)) is not None:
            held, held_at = value, at_s
        assert abs(held - value) / 10 <= deadband / 10 + 1e-9
        assert at_s - held_at < max_s
