"""What a driver's `emit` leads to: its stages, then the buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.buffer.buffer import Buffer
from gateway.pipeline.calibrate import apply, calibrated
from gateway.reading import GroupShape, Lost, Receipt, Row, SeriesShape
from protos.config import Calibration, Sensor


@dataclass(slots=True)
class Counters:
    rows: int = 0
    readings: int = 0
    lost: int = 0


@dataclass(slots=True)
class Flow:
    """One sensor's way. `shapes` are what the buffer declares; `bind` it to their ids before the driver runs."""

    sensor: str
    shapes: Sequence[GroupShape]
    buffer: Buffer
    per_row: Sequence[Mapping[int, Calibration]]
    ids: Sequence[int] = ()
    counters: Counters = field(default_factory=Counters)

    def bind(self, ids: Sequence[int]) -> None:
        self.ids = ids

    def row(self, group: int, row: Row) -> Receipt:
        if self.per_row[group]:
            row = apply(row, self.per_row[group])
        counters = self.counters
        counters.rows += 1
        counters.readings += len(row.values)
        return self.buffer.append(self.ids[group], row)

    def lost(self, group: int, lost: Lost) -> None:
        self.counters.lost += lost.reads
        self.buffer.lost(self.ids[group], lost)


def flow(sensor: Sensor, shapes: Sequence[GroupShape], buffer: Buffer) -> Flow:
    """Raises Misconfigured."""
    made = [calibrated(_with_attrs(shape, sensor), sensor.calibration) for shape in shapes]
    return Flow(sensor.id, [shape for shape, _ in made], buffer, [per_row for _, per_row in made])


def check(sensor: Sensor, shapes: Sequence[GroupShape]) -> None:
    """What `flow` would refuse, without a buffer. Raises Misconfigured."""
    for shape in shapes:
        calibrated(shape, sensor.calibration)


def _with_attrs(shape: GroupShape, sensor: Sensor) -> GroupShape:
    """What the configuration says of a series travels with it."""
    common = {"asset": sensor.asset} if sensor.asset else {}

    def told(one: SeriesShape) -> SeriesShape:
        return replace(one, attrs={**one.attrs, **common, **sensor.attrs.get(one.name, {})})

    return replace(shape, series=tuple(told(one) for one in shape.series))
