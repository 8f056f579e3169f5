"""What a driver's `emit` leads to: its stages, then the buffer."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import structlog

from gateway.buffer.buffer import Buffer
from gateway.errors import Misconfigured, Rejected
from gateway.pipeline import alarm, calibrate, report, validate
from gateway.pipeline.stage import Build, Stage
from gateway.reading import GroupShape, Lost, Receipt, Row, SeriesShape
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import SensorBase

STAGES: tuple[Build, ...] = (calibrate.build, validate.build, alarm.build, report.build)
"""In the order rows meet them."""


class NotReported:
    """The receipt of a row that its report policy held back: there is nothing to wait for."""

    async def durable(self) -> None:
        return


NOT_REPORTED = NotReported()
log = structlog.get_logger("gateway.pipeline")


@dataclass(slots=True)
class Counters:
    rows: int = 0
    readings: int = 0
    held_back: int = 0
    """Rows that no report policy found worth sending."""
    lost: int = 0
    refused: int = 0
    """Rows at which a stage broke; they are among the lost."""
    unsaid: int = 0
    """Conditions the URGENT lane did not take; they are said again."""


@dataclass(slots=True)
class Flow:
    """One sensor's way. `shapes` are what the buffer declares; `bind` it to their ids before the driver runs."""

    sensor: str
    shapes: Sequence[GroupShape]
    buffer: Buffer
    stages: Sequence[Sequence[Stage]]
    ids: Sequence[int] = ()
    heard_ms: list[int] = field(default_factory=list)
    """Per group: mono_ms of its newest row, 0 before the first."""
    newest: list[Row | None] = field(default_factory=list)
    """Per group: its newest row, calibrated and judged, whether or not it was worth sending; see `shapes`."""
    counters: Counters = field(default_factory=Counters)

    def bind(self, ids: Sequence[int]) -> None:
        self.ids = ids

    def row(self, group: int, row: Row) -> Receipt:
        self.heard_ms[group] = row.mono_ms
        counters = self.counters
        for stage in self.stages[group]:
            try:
                taken = stage.take(row)
            except Exception as error:  # a stage that breaks must not take the driver, or the whole bus, with it
                return self._refused(group, row, error)
            if taken is None:
                counters.held_back += 1
                self.newest[group] = row
                return NOT_REPORTED
            row = taken
        self.newest[group] = row
        counters.rows += 1
        counters.readings += len(row.values)
        return self.buffer.append(self.ids[group], row)

    def _refused(self, group: int, row: Row, error: Exception) -> Receipt:
        log.error("row.refused", sensor=self.sensor, error=f"{type(error).__name__}: {error}")
        self.counters.refused += 1
        self.lost(group, Lost(row.mono_ms - 1, row.mono_ms + 1, 1, pb.GAP_REFUSED))
        return NOT_REPORTED

    def lost(self, group: int, lost: Lost) -> None:
        self.counters.lost += lost.reads
        self.buffer.lost(self.ids[group], lost)

    def say(
        self, group: int, kind: pb.EventKind.ValueType, condition: pb.Condition, severity: pb.Severity.ValueType
    ) -> bool:
        """Put a condition of one group into the URGENT lane; False if it is full."""
        try:
            self.buffer.event(kind, condition.SerializeToString(), group=self.ids[group], severity=severity)
        except Rejected:
            self.counters.unsaid += 1
            return False
        return True


def flow(sensor: SensorBase, shapes: Sequence[GroupShape], buffer: Buffer) -> Flow:
    """Raises Misconfigured with one line per mistake."""
    problems = list(_strangers(sensor, {series.name for shape in shapes for series in shape.series}))
    problems += [f"alarm.{rule.quantity}: {said}" for rule in sensor.alarm if (said := alarm.problem_of(rule))]
    if problems:
        raise Misconfigured("\n".join(f'sensor "{sensor.id}": {problem}' for problem in problems))
    way = Flow(sensor.id, (), buffer, (), heard_ms=[0] * len(shapes), newest=[None] * len(shapes))
    made = [_staged(way, group, _with_attrs(shape, sensor), sensor) for group, shape in enumerate(shapes)]
    way.shapes = [shape for shape, _ in made]
    way.stages = [stages for _, stages in made]
    return way


def check(sensor: SensorBase, shapes: Sequence[GroupShape]) -> None:
    """What `flow` would refuse, without a buffer. Raises Misconfigured."""
    flow(sensor, shapes, None)  # type: ignore[arg-type]  # nothing is emitted


def _staged(way: Flow, group: int, shape: GroupShape, sensor: SensorBase) -> tuple[GroupShape, list[Stage]]:
    """One group's stages, and its shape as they leave it."""

    def say(kind: pb.EventKind.ValueType, condition: pb.Condition, severity: pb.Severity.ValueType) -> bool:
        return way.say(group, kind, condition, severity)

    stages = []
    for build in STAGES:
        shape, stage = build(shape, sensor, say)
        if stage is not None:
            stages.append(stage)
    return shape, stages


def _strangers(sensor: SensorBase, known: set[str]) -> Iterator[str]:
    sections: dict[str, Iterable[str]] = {
        "calibration": sensor.calibration,
        "attrs": sensor.attrs,
        "validate": sensor.validate,
        "report": sorted(sensor.report.keys() - {report.EVERYTHING_ELSE}),
        "alarm": [rule.quantity for rule in sensor.alarm],
    }
    for section, named in sections.items():
        for quantity in named:
            if quantity not in known:
                near = difflib.get_close_matches(quantity, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(sorted(known)[:12])}"
                yield f"{section}.{quantity}: this sensor has no such quantity{hint}"


def _with_attrs(shape: GroupShape, sensor: SensorBase) -> GroupShape:
    """What the configuration says of a series travels with it."""
    common = {"asset": sensor.asset} if sensor.asset else {}

    def told(one: SeriesShape) -> SeriesShape:
        return replace(one, attrs={**one.attrs, **common, **sensor.attrs.get(one.name, {})})

    return replace(shape, series=tuple(told(one) for one in shape.series))
