from __future__ import annotations

import pytest

from gateway.errors import Misconfigured
from gateway.pipeline.calibrate import apply, calibrated
from gateway.reading import GroupShape, Row, SeriesShape
from protos.columns import ColumnSpec, from_wire
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import Calibration

TWO_POINTS = Calibration(gain=1.02, offset=-0.3)


def shape(*series: SeriesShape) -> GroupShape:
    return GroupShape(sensor="cooling", period_ms=1000, series=series)


def meaning(one: SeriesShape, wire: int) -> object:
    spec = ColumnSpec(id=1, name=one.name, type=one.type, exp=one.exp, scale=one.scale, offset=one.offset, raw=one.raw)
    return from_wire(spec, [wire])[0]


def test_a_scaled_column_keeps_its_integers_and_changes_what_they_mean() -> None:
    plain = SeriesShape(name="temperature", exp=1)
    made, per_row = calibrated(shape(plain), {"temperature": TWO_POINTS})
    assert per_row == {}
    assert meaning(made.series[0], 231) == pytest.approx(23.1 * 1.02 - 0.3, abs=1e-12)


def test_an_affine_column_composes_both_scales() -> None:
    plain = SeriesShape(name="pressure", scale=0.25, offset=-10.0)
    made, _ = calibrated(shape(plain), {"pressure": TWO_POINTS})
    assert meaning(made.series[0], 80) == pytest.approx((80 * 0.25 - 10.0) * 1.02 - 0.3, abs=1e-12)


def test_a_float_column_is_calibrated_row_by_row_and_a_missing_value_stays_missing() -> None:
    made, per_row = calibrated(shape(SeriesShape(name="power", type=pb.VT_FLOAT32, raw=True)), {"power": TWO_POINTS})
    assert made.series[0].type == pb.VT_FLOAT64
    assert apply(Row(1, (100.0,)), per_row).values == (100.0 * 1.02 - 0.3,)
    assert apply(Row(1, (None,), (pb.QUALITY_BAD_SENSOR,)), per_row).values == (None,)


def test_a_column_of_plain_integers_gets_a_scale() -> None:
    made, per_row = calibrated(shape(SeriesShape(name="co2", unit="[ppm]", type=pb.VT_INT64)), {"co2": TWO_POINTS})
    assert (per_row, made.series[0].type) == ({}, pb.VT_FLOAT64)
    assert meaning(made.series[0], 412) == pytest.approx(412 * 1.02 - 0.3, abs=1e-12)


def test_a_float_that_travels_as_decimals_is_folded_too() -> None:
    made, per_row = calibrated(shape(SeriesShape(name="flow", type=pb.VT_FLOAT32, exp=2)), {"flow": TWO_POINTS})
    assert (per_row, made.series[0].type) == ({}, pb.VT_FLOAT64)
    assert meaning(made.series[0], 1234) == pytest.approx(12.34 * 1.02 - 0.3, abs=1e-12)


@pytest.mark.parametrize(
    ("type_", "said"), [(pb.VT_BOOL, "a switch"), (pb.VT_STRING, "a text"), (pb.VT_UINT64, "an unsigned 64-bit")]
)
def test_what_can_have_no_scale_is_refused_with_its_place(type_: pb.ValueType.ValueType, said: str) -> None:
    with pytest.raises(Misconfigured, match=rf'sensor "cooling": calibration.door: {said}'):
        calibrated(shape(SeriesShape(name="door", type=type_)), {"door": TWO_POINTS})


def test_the_neutral_calibration_changes_nothing() -> None:
    plain = shape(SeriesShape(name="temperature", exp=1))
    assert calibrated(plain, {"temperature": Calibration()}) == (plain, {})
