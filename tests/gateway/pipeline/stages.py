"""One group's stage, and what it said."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.pipeline.stage import Build, Stage
from gateway.reading import GroupShape, Row, SeriesShape
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import SensorBase

SHAPE = GroupShape(
    sensor="cooling",
    period_ms=1000,
    series=(
        SeriesShape(name="temperature", unit="Cel", exp=1),
        SeriesShape(name="power", unit="W", raw=True),
        SeriesShape(name="door", type=pb.VT_BOOL),
        SeriesShape(name="mode", type=pb.VT_STRING),
    ),
)


@dataclass
class Ear:
    """Takes conditions while `takes`."""

    takes: bool = True
    said: list[tuple[int, pb.Condition]] = field(default_factory=list)

    def __call__(self, kind: pb.EventKind.ValueType, condition: pb.Condition, severity: pb.Severity.ValueType) -> bool:
        del severity
        if self.takes:
            self.said.append((kind, condition))
        return self.takes

    @property
    def kinds(self) -> list[int]:
        return [kind for kind, _ in self.said]


def built(build: Build, options: SensorBase, ear: Ear | None = None) -> Stage:
    _, stage = build(SHAPE, options, ear or Ear())
    assert stage is not None
    return stage


def row(
    at_s: float, temperature: float | None = 40, power: float | None = 100.0, *, door: int = 0, mode: str = "auto"
) -> Row:
    """`temperature` in tenths."""
    values = (temperature, power, door, mode)
    none = pb.QUALITY_BAD_SENSOR
    quality = tuple(none if value is None else pb.QUALITY_GOOD for value in values)
    return Row(round(at_s * 1000), values, quality if None in values else None)
