from __future__ import annotations

from gateway.pipeline import validate
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import SensorBase, Validation
from tests.gateway.pipeline.stages import SHAPE, Ear, built, row

GOOD, UNCERTAIN, OUT = pb.QUALITY_GOOD, pb.QUALITY_UNCERTAIN, pb.QUALITY_OUT_OF_RANGE


def options(**limits: float) -> SensorBase:
    return SensorBase(id="cooling", validate={"temperature": Validation(**limits)})


def judged(found: object) -> int:
    quality = getattr(found, "quality", None)
    return quality[0] if quality is not None else GOOD


def test_limits_are_in_the_unit_people_see_and_the_value_stays() -> None:
    stage = built(validate.build, options(min=-30, max=8))
    assert [judged(stage.take(row(n, t))) for n, t in enumerate((80, 81, -300, -301))] == [GOOD, OUT, GOOD, OUT]
    taken = stage.take(row(9, 81))
    assert taken is not None
    assert taken.values[0] == 81
    assert taken.quality == (OUT, GOOD, GOOD, GOOD)


def test_a_change_faster_than_the_sensor_can_is_uncertain() -> None:
    stage = built(validate.build, options(max_rate_per_s=1.0))
    assert [judged(stage.take(row(n, t))) for n, t in ((0, 40), (1, 50), (2, 61), (12, 160))] == [
        GOOD, GOOD, UNCERTAIN, GOOD,
    ]  # fmt: skip


def test_a_value_that_never_moves_is_uncertain_after_a_while_until_it_moves() -> None:
    stage = built(validate.build, options(stuck_s=10))
    assert [judged(stage.take(row(n, t))) for n, t in ((0, 40), (9, 40), (10, 40), (11, 40), (12, 41), (13, 41))] == [
        GOOD, GOOD, UNCERTAIN, UNCERTAIN, GOOD, GOOD,
    ]  # fmt: skip


def test_what_the_driver_called_bad_stays_bad() -> None:
    stage = built(validate.build, options(max=8))
    assert judged(stage.take(row(0, None))) == pb.QUALITY_BAD_SENSOR


def test_a_sensor_without_limits_has_no_such_stage() -> None:
    assert validate.build(SHAPE, SensorBase(id="cooling"), Ear()) == (SHAPE, None)
