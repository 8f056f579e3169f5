"""Validation: range, rate, stuck. It changes a reading's quality, never its value.

What a driver has already called less than good stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.pipeline.real import Real, real_of
from gateway.pipeline.stage import Say
from gateway.reading import GroupShape, Row
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import SensorBase, Validation


@dataclass(slots=True)
class _Column:
    index: int
    real: Real
    limits: Validation
    last: float | None = None
    last_ms: int = 0
    same_since_ms: int = 0

    def judge(self, value: float, at_ms: int) -> int:
        """The quality of one value, and what to remember of it."""
        limits, last, elapsed_ms = self.limits, self.last, at_ms - self.last_ms
        if value != last:
            self.same_since_ms = at_ms
        self.last, self.last_ms = value, at_ms
        if (limits.min is not None and value < limits.min) or (limits.max is not None and value > limits.max):
            return pb.QUALITY_OUT_OF_RANGE
        if limits.stuck_s is not None and at_ms - self.same_since_ms >= limits.stuck_s * 1000:
            return pb.QUALITY_UNCERTAIN
        if limits.max_rate_per_s is not None and last is not None:
            allowed = limits.max_rate_per_s * max(1, elapsed_ms) / 1000
            return pb.QUALITY_UNCERTAIN if abs(value - last) > allowed else pb.QUALITY_GOOD
        return pb.QUALITY_GOOD


class Validate:
    def __init__(self, columns: list[_Column]) -> None:
        self._columns = columns

    def take(self, row: Row) -> Row:
        quality = row.quality
        for column in self._columns:
            if quality is not None and quality[column.index] != pb.QUALITY_GOOD:
                continue
            value = column.real(row.values[column.index])
            code = pb.QUALITY_GOOD if value is None else column.judge(value, row.mono_ms)
            if code != pb.QUALITY_GOOD:
                codes = list(quality or (pb.QUALITY_GOOD,) * len(row.values))
                codes[column.index] = code
                quality = tuple(codes)
        return row if quality is row.quality else row._replace(quality=quality)

    def explain(self, column: int, row: Row) -> Iterator[str]:
        for one in self._columns:
            if one.index == column:
                limits = {name: getattr(one.limits, name) for name in one.limits.__struct_fields__}
                said = ", ".join(f"{name} = {value:g}" for name, value in limits.items() if value is not None)
                code = row.quality[column] if row.quality is not None else pb.QUALITY_GOOD
                yield f"validated ({said}): {pb.Quality.Name(pb.Quality.ValueType(code))[8:].lower()}"


def build(shape: GroupShape, options: SensorBase, say: Say) -> tuple[GroupShape, Validate | None]:
    del say
    columns = [
        _Column(index, real_of(series), options.validate[series.name])
        for index, series in enumerate(shape.series)
        if series.name in options.validate
    ]
    return shape, Validate(columns) if columns else None
