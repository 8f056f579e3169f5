"""Report policy: which readings are worth their bytes.

A quantity is due when it changed by more than its deadband since it was last sent and `min_s` has passed, when its
quality changed, or when `max_s` has passed. A row travels whole as soon as one of its quantities is due: half a row
would cost as much. A quantity without a policy is always due. What is held back was never promised to anybody: it is
counted, but it is no loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
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

    def explain(self, column: int, row: Row) -> Iterator[str]:
        one = self._columns[column]
        if self._sent_ms is None:
            return
        if row.mono_ms == self._sent_ms:
            yield "sent: this or another quantity of its row was due"
            return
        elapsed_s = (row.mono_ms - self._sent_ms) / 1000
        now, before = one.real(row.values[column]), one.real(one.sent)
        change = "unchanged" if now == before or now is None or before is None else f"changed by {abs(now - before):g}"
        said = [f"deadband {one.policy.deadband:g}"] if one.policy.deadband else []
        said += [f"deadband {one.policy.deadband_percent:g} %"] if one.policy.deadband_percent else []
        said += [f"at least {one.policy.min_s:g} s apart", f"at the latest after {one.policy.max_s:g} s"]
        yield f"held back: {change} since it was last sent {elapsed_s:.1f} s before ({', '.join(said)})"


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
