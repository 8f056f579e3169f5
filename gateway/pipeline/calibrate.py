"""Calibration: value × gain + offset.

For columns of integers it is folded into the declared scale, so the device's own integers still travel. For float
columns there is no scale to fold it into, and the values themselves are changed. Switches, texts and 64-bit counters
(which a float can't hold) have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from gateway.errors import Misconfigured
from gateway.pipeline.stage import Say
from gateway.reading import GroupShape, Row, SeriesShape, Wire
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import Calibration, SensorBase

REFUSED = {pb.VT_BOOL: "a switch", pb.VT_STRING: "a text", pb.VT_UINT64: "an unsigned 64-bit counter"}


def calibrated(shape: GroupShape, wanted: Mapping[str, Calibration]) -> tuple[GroupShape, Mapping[int, Calibration]]:
    """(shape as it is declared, what is left to do per row by column index). Raises Misconfigured."""
    series = list(shape.series)
    per_row: dict[int, Calibration] = {}
    for index, one in enumerate(series):
        calibration = wanted.get(one.name)
        if calibration is None or (calibration.gain, calibration.offset) == (1.0, 0.0):
            continue
        if one.type in REFUSED:
            what = REFUSED[one.type]
            raise Misconfigured(f'sensor "{shape.sensor}": calibration.{one.name}: {what} can\'t be calibrated')
        if one.raw:
            per_row[index] = calibration
            series[index] = replace(one, type=pb.VT_FLOAT64)
        else:
            series[index] = _folded(one, calibration)
    return replace(shape, series=tuple(series)), per_row


def _folded(one: SeriesShape, calibration: Calibration) -> SeriesShape:
    scale = one.scale or 1.0 / 10**one.exp
    return replace(
        one,
        type=pb.VT_FLOAT64,
        exp=0,
        scale=scale * calibration.gain,
        offset=one.offset * calibration.gain + calibration.offset,
    )


class Calibrate:
    """For float columns, per row."""

    def __init__(self, per_row: Mapping[int, Calibration]) -> None:
        self._per_row = per_row

    def take(self, row: Row) -> Row:
        return apply(row, self._per_row)

    def explain(self, column: int, row: Row) -> Iterator[str]:
        del row
        if column in self._per_row:
            one = self._per_row[column]
            yield f"calibrated: × {one.gain:g} + {one.offset:g}"


def build(shape: GroupShape, options: SensorBase, say: Say) -> tuple[GroupShape, Calibrate | None]:
    """Raises Misconfigured."""
    del say
    declared, per_row = calibrated(shape, options.calibration)
    return declared, Calibrate(per_row) if per_row else None


def apply(row: Row, per_row: Mapping[int, Calibration]) -> Row:
    """The row with its float columns calibrated."""
    values: list[Wire] = list(row.values)
    for index, calibration in per_row.items():
        value = values[index]
        if isinstance(value, int | float):
            values[index] = value * calibration.gain + calibration.offset
    return row._replace(values=tuple(values))
