"""Alarms of the gateway's own: limit, hysteresis, delay; said at once in the URGENT lane.

In event time: a delay counts between readings, not by a timer, so that the same readings raise the same alarms. What
holds at the first reading after a start is said whether it is news or not. What the URGENT lane does not take is said
again with the next reading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.errors import Misconfigured
from gateway.pipeline.real import Real, real_of
from gateway.pipeline.stage import Say
from gateway.reading import GroupShape, Row
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import Alarm as Rule
from protos.config import SensorBase

SEVERITY = {"info": pb.SEVERITY_INFO, "warning": pb.SEVERITY_WARNING, "alarm": pb.SEVERITY_ALARM}


@dataclass(slots=True)
class _Watch:
    """One rule over one column. `raised` is None until the first reading has been said."""

    index: int
    real: Real
    rule: Rule
    limit: float
    raised: bool | None = None
    beyond_since_ms: int | None = None

    @property
    def below(self) -> bool:
        return self.rule.below is not None

    def look(self, value: float, at_ms: int, say: Say) -> None:
        excess = self.limit - value if self.below else value - self.limit
        if excess > 0:
            since = self.beyond_since_ms = at_ms if self.beyond_since_ms is None else self.beyond_since_ms
            if not self.raised and at_ms - since >= self.rule.for_s * 1000:
                self.raised = self._said(say, pb.EVENT_ALARM_RAISED, value, since) or self.raised
            return
        self.beyond_since_ms = None
        if self.raised is None or (self.raised and excess <= -self.rule.hysteresis):
            cleared = self._said(say, pb.EVENT_ALARM_CLEARED, value, at_ms)
            self.raised = False if cleared else self.raised

    def _said(self, say: Say, kind: pb.EventKind.ValueType, value: float, since_ms: int) -> bool:
        condition = pb.Condition(
            name=name_of(self.rule),
            quantity=self.rule.quantity,
            value=value,
            limit=self.limit,
            below=self.below,
            since_mono_ms=since_ms,
        )
        return say(kind, condition, SEVERITY[self.rule.severity])


class Alarms:
    def __init__(self, watches: list[_Watch], say: Say) -> None:
        self._watches = watches
        self._say = say

    def take(self, row: Row) -> Row:
        for watch in self._watches:
            value = watch.real(row.values[watch.index])
            if value is not None and not math.isnan(value):
                watch.look(value, row.mono_ms, self._say)
        return row

    def explain(self, column: int, row: Row) -> Iterator[str]:
        for watch in self._watches:
            if watch.index == column:
                state = "raised" if watch.raised else "not raised"
                if not watch.raised and watch.beyond_since_ms is not None:
                    beyond_s = (row.mono_ms - watch.beyond_since_ms) / 1000
                    state += f", beyond its limit for {beyond_s:.1f} of {watch.rule.for_s:g} s"
                yield f"alarm {name_of(watch.rule)}: {state}"


def build(shape: GroupShape, options: SensorBase, say: Say) -> tuple[GroupShape, Alarms | None]:
    """Raises Misconfigured."""
    names = [series.name for series in shape.series]
    watches = []
    for rule in options.alarm:
        if rule.quantity not in names:
            continue  # of another group of this sensor; `flow.check` finds those of none
        index = names.index(rule.quantity)
        if shape.series[index].type == pb.VT_STRING:
            raise Misconfigured(f'sensor "{shape.sensor}": alarm {name_of(rule)}: {rule.quantity} is a text')
        watches.append(_Watch(index, real_of(shape.series[index]), rule, _limit(rule)))
    return shape, Alarms(watches, say) if watches else None


def name_of(rule: Rule) -> str:
    """As people and the control plane know it, e.g. temperature_above_8."""
    word = "below" if rule.below is not None else "above"
    return rule.name or f"{rule.quantity}_{word}_{_limit(rule):g}"


def problem_of(rule: Rule) -> str | None:
    """What is wrong with a rule by itself."""
    if (rule.above is None) == (rule.below is None):
        return "give either above or below"
    return None


def _limit(rule: Rule) -> float:
    return rule.above if rule.above is not None else rule.below or 0.0
