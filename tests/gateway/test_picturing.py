from __future__ import annotations

import pytest

from gateway.picturing import told
from gateway.reading import GroupShape, Row, SeriesShape
from protos.comboio.v1 import batch_pb2 as pb


@pytest.mark.parametrize(
    ("series", "wire", "shown"),
    [
        (SeriesShape(name="temperature", unit="Cel", exp=1), 45, 4.5),
        (SeriesShape(name="temperature", unit="Cel", exp=1), 4.53, 4.53),
        (SeriesShape(name="pressure", scale=0.5, offset=10.0), 4, 12.0),
        (SeriesShape(name="power", raw=True), 1.25, 1.25),
        (SeriesShape(name="door", type=pb.VT_BOOL), 1, True),
        (SeriesShape(name="state", type=pb.VT_STRING), "open", "open"),
        (SeriesShape(name="temperature", exp=1), None, None),
    ],
)
def test_a_value_is_told_as_a_person_knows_it(series: SeriesShape, wire: float | str | None, shown: object) -> None:
    shape = GroupShape(sensor="one", period_ms=1000, series=(series,))
    (value,) = told(shape, Row(5, (wire,)))
    assert (value.quantity, value.unit, value.value, value.quality) == (series.name, series.unit, shown, "good")
    assert type(value.value) is type(shown)


def test_each_column_has_its_own_quality() -> None:
    shape = GroupShape(sensor="one", period_ms=1000, series=(SeriesShape(name="a"), SeriesShape(name="b")))
    row = Row(5, (1, None), (pb.QUALITY_UNCERTAIN, pb.QUALITY_BAD_SENSOR))
    assert [value.quality for value in told(shape, row)] == ["uncertain", "bad_sensor"]
