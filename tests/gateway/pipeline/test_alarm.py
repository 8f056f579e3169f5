from __future__ import annotations

import math

import pytest

from gateway.errors import Misconfigured
from gateway.pipeline import alarm
from gateway.pipeline.flow import check
from gateway.pipeline.stage import Stage
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import Alarm, SensorBase
from tests.gateway.pipeline.stages import SHAPE, Ear, built, row

RAISED, CLEARED = pb.EVENT_ALARM_RAISED, pb.EVENT_ALARM_CLEARED


def stage(ear: Ear, **rule: float) -> Stage:
    warm = Alarm(quantity="temperature", **rule)  # type: ignore[arg-type]
    return built(alarm.build, SensorBase(id="cooling", alarm=(warm,)), ear)


def feed(one: Stage, *readings: tuple[float, int]) -> None:
    for at_s, tenths in readings:
        one.take(row(at_s, tenths))


def test_it_is_raised_once_and_cleared_only_when_back_by_the_hysteresis() -> None:
    ear = Ear()
    feed(stage(ear, above=8.0, hysteresis=0.5), (0, 70), (1, 80), (2, 81), (3, 90), (4, 76), (5, 75), (6, 81))
    assert ear.kinds == [CLEARED, RAISED, CLEARED, RAISED]
    kind, first = ear.said[1]
    assert kind == RAISED
    assert (first.name, first.quantity, first.value, first.limit, first.below, first.since_mono_ms) == (
        "temperature_above_8", "temperature", 8.1, 8.0, False, 2000,
    )  # fmt: skip


def test_it_must_last_and_the_delay_counts_in_the_readings_own_time() -> None:
    ear = Ear()
    feed(stage(ear, above=8.0, for_s=60), (0, 90), (59, 90), (59.5, 79), (60, 90), (119, 90), (120, 91))
    assert ear.kinds == [CLEARED, RAISED]
    assert ear.said[1][1].since_mono_ms == 60_000


def test_below_is_the_other_way_round() -> None:
    ear = Ear()
    feed(stage(ear, below=2.0, hysteresis=1.0), (0, 30), (1, 19), (2, 29), (3, 30))
    assert ear.kinds == [CLEARED, RAISED, CLEARED]
    assert ear.said[1][1].below


def test_the_first_state_after_a_start_is_said_for_nobody_knows_what_changed_meanwhile() -> None:
    ear = Ear()
    feed(stage(ear, above=8.0), (0, 90))
    feed(stage(ear, above=8.0), (100, 90))
    feed(stage(ear, above=8.0), (200, 20), (201, 20))
    assert ear.kinds == [RAISED, RAISED, CLEARED]


def test_what_the_lane_did_not_take_is_said_with_the_next_reading() -> None:
    ear = Ear(takes=False)
    one = stage(ear, above=8.0)
    feed(one, (0, 90), (1, 90))
    ear.takes = True
    feed(one, (2, 90), (3, 90))
    assert ear.kinds == [RAISED]
    assert ear.said[0][1].since_mono_ms == 0


def test_no_value_and_no_number_decide_nothing() -> None:
    ear = Ear()
    one = built(alarm.build, SensorBase(id="cooling", alarm=(Alarm(quantity="power", above=1.0),)), ear)
    one.take(row(0, 40, None))
    one.take(row(1, 40, math.nan))
    assert ear.said == []


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Alarm(quantity="temperature"), r"alarm\.temperature: give either above or below"),
        (Alarm(quantity="temperature", above=8, below=2), "give either above or below"),
        (Alarm(quantity="mode", above=8), "mode is a text"),
        (Alarm(quantity="temprature", above=8), r"alarm\.temprature: this sensor has no such quantity; did you mean t"),
    ],
)
def test_a_rule_that_can_not_work_is_refused_with_its_place(rule: Alarm, said: str) -> None:
    with pytest.raises(Misconfigured, match=said):
        check(SensorBase(id="cooling", alarm=(rule,)), [SHAPE])
