"""What an expression says at some instants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from control_plane.api.prometheus.catalog import NAME, Known, Labels, Selection
from control_plane.api.prometheus.expression import (
    EXECUTION,
    OVER_TIME,
    Aggregate,
    Arithmetic,
    Call,
    Expression,
    Number,
    QueryError,
    Selector,
)
from control_plane.api.prometheus.source import Asked, Source
from control_plane.api.prometheus.windows import between, latest, over_time
from control_plane.projections.bulk import Bools, Float64
from control_plane.projections.varints import Int64

LOOK_BACK_MS = 300_000
PERIODS_BACK = 2.5
MOST_POINTS = 2_000_000
"""Of all series of a selector."""


class Line(NamedTuple):
    """A series' value at each instant, where it is `here`."""

    labels: Labels
    values: Float64
    here: Bools


Scalar: TypeAlias = Float64
Vector: TypeAlias = list[Line]
Selecting = Callable[[Selection], Sequence[Known]]


@dataclass(frozen=True, slots=True)
class Instants:
    """Evenly spaced; one alone has step 0."""

    times_ms: Int64
    step_ms: int = 0


class Evaluation:
    """Of one request."""

    def __init__(self, *, source: Source, select: Selecting, instants: Instants) -> None:
        self._source = source
        self._select = select
        self._instants = instants

    def of(self, one: Expression) -> Scalar | Vector:
        """Raises QueryError."""
        match one:
            case Number():
                return np.full(self._instants.times_ms.size, one.value)
            case Selector():
                return self._latest(one)
            case Call():
                return self._call(one)
            case Arithmetic():
                return _arithmetic(one.sign, self.of(one.left), self.of(one.right))
            case Aggregate():
                of = self.of(one.of)
                assert isinstance(of, list)
                return _aggregate(one, of, self._instants.times_ms.size)

    def _latest(self, selector: Selector) -> Vector:
        """Series of one look-back are read together."""
        by_look_back: dict[int, list[Known]] = {}
        for known in self._chosen(selector):
            by_look_back.setdefault(look_back_ms(known.period_ms), []).append(known)
        lines = []
        for back_ms, some in by_look_back.items():
            asked = Asked(self._instants.times_ms, self._instants.step_ms, back_ms, None)
            for known, samples in zip(some, self._source.samples(some, asked), strict=True):
                lines.append(Line(known.labels, *latest(samples, self._instants.times_ms, back_ms)))
        return lines

    def _call(self, call: Call) -> Vector:
        some = self._chosen(call.of)
        asked = Asked(self._instants.times_ms, self._instants.step_ms, call.range_ms, call.function)
        work = over_time if call.function in OVER_TIME else between
        lines = []
        for known, samples in zip(some, self._source.samples(some, asked), strict=True):
            labels = known.labels if call.function == "last_over_time" else _unnamed(known.labels)
            lines.append(Line(labels, *work(call.function, samples, self._instants.times_ms, call.range_ms)))
        return lines

    def _chosen(self, selector: Selector) -> Sequence[Known]:
        found = self._select(Selection(selector.matchers))
        points = len(found) * self._instants.times_ms.size
        if points > MOST_POINTS:
            text = f"{len(found)} series of {self._instants.times_ms.size} points each are more than {MOST_POINTS}"
            raise QueryError(f"{text}: choose fewer series, a shorter time or a longer step.", kind=EXECUTION)
        return found


def look_back_ms(period_ms: int) -> int:
    return max(LOOK_BACK_MS, int(period_ms * PERIODS_BACK))


def _unnamed(labels: Labels) -> Labels:
    return {label: value for label, value in labels.items() if label != NAME}


def _arithmetic(sign: str, left: Scalar | Vector, right: Scalar | Vector) -> Scalar | Vector:
    if isinstance(left, list):
        assert not isinstance(right, list), "the parser lets no two vectors through"
        return [Line(_unnamed(one.labels), _computed(sign, one.values, right), one.here) for one in left]
    if isinstance(right, list):
        return [Line(_unnamed(one.labels), _computed(sign, left, one.values), one.here) for one in right]
    return _computed(sign, left, right)


SIGNS: Mapping[str, np.ufunc] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide, "%": np.fmod, "^": np.power,
}  # fmt: skip


def _computed(sign: str, left: Float64, right: Float64) -> Float64:
    with np.errstate(all="ignore"):  # 1 / 0 is infinite, and 0 / 0 no number
        found: Float64 = SIGNS[sign](left, right)
        return found


def _aggregate(how: Aggregate, lines: Vector, size: int) -> Vector:
    groups: dict[tuple[tuple[str, str], ...], Vector] = {}
    for line in lines:
        kept = {name: value for name, value in line.labels.items() if _stays(how, name)}
        groups.setdefault(tuple(sorted(kept.items())), []).append(line)
    return [Line(dict(labels), *_together(how.how, some, size)) for labels, some in groups.items()]


def _stays(how: Aggregate, label: str) -> bool:
    return (label not in how.labels and label != NAME) if how.without else label in how.labels


def _together(how: str, some: Vector, size: int) -> tuple[Float64, Bools]:
    """One series at a time: many of them side by side would take much memory."""
    count = np.zeros(size)
    found = np.full(size, np.nan) if how in {"min", "max"} else np.zeros(size)
    for one in some:
        count += one.here
        if how in {"min", "max"}:
            fold = np.fmin if how == "min" else np.fmax
            found = fold(found, np.where(one.here, one.values, np.nan))
        else:
            found = found + np.where(one.here, one.values, 0.0)
    if how == "count":
        found = count
    elif how == "avg":
        found = found / np.maximum(count, 1)
    return found, count > 0
