"""Report policy: which readings are worth their bytes.

A quantity is due when it changed by more than its deadband since it was last sent and `min_s` has passed, when its
quality changed, or when `max_s` has passed. A row travels whole as soon as one of its quantities is due: half a row
would cost as much. A quantity without a policy is always due. What is held back was never promised to anybody: it is
counted, but it is no loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gateway.pipeline.real import Real, real_of
from gateway.pipeline.stage import Say
from gateway.reading import GroupShape, Row, Wire
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import Report as Policy
from protos.config import SensorBase

EVERYTHING_ELSE = "*"


@dataclass(slots=True)
class _Column:
    index: int
    real: Real
    policy: Policy
    sent: Wire = None
    quality: int = pb.QUALITY_GOOD

    def due(self, row: Row, elapsed_ms: int) -> bool:
        if elapsed_ms >= self.policy.max_s * 1000 or _quality(row, self.index) != self.quality:
            return True
        return elapsed_ms >= self.policy.min_s * 1000 and self._changed(row.values[self.index])

    def _changed(self, value: Wire) -> bool:
        now, before = self.real(value), self.real(self.sent)
        if now is None or before is None:
            return value != self.sent
        if math.isnan(now) or math.isnan(before):
            return math.isnan(now) != math.isnan(before)
        allowed = max(self.policy.deadband, abs(before) * self.policy.deadband_percent / 100)
        return abs(now - before) > allowed

    def remember(self, row: Row) -> None:
        self.sent, self.quality = row.values[self.index], _quality(row, self.index)


class Report:
    def __init__(self, columns: list[_Column]) -> None:
        self._columns = columns
        self._sent_ms: int | None = None

    def take(self, row: Row) -> Row | None:
        if self._sent_ms is not None:
            elapsed_ms = row.mono_ms - self._sent_ms
            if not any(column.due(row, elapsed_ms) for column in self._columns):
                return None
        self._sent_ms = row.mono_ms
        for column in self._columns:
            column.remember(row)
        return row


def build(shape: GroupShape, options: SensorBase, say: Say) -> tuple[GroupShape, Report | None]:
    del say
    otherwise = options.report.get(EVERYTHING_ELSE)
    policies = [options.report.get(series.name, otherwise) for series in shape.series]
    columns = [
        _Column(index, real_of(series), policy)
        for index, (series, policy) in enumerate(zip(shape.series, policies, strict=True))
        if policy is not None
    ]
    return shape, Report(columns) if len(columns) == len(policies) else None  # else every row is due


def _quality(row: Row, index: int) -> int:
    return row.quality[index] if row.quality is not None else pb.QUALITY_GOOD
