"""When cargo was too warm or too cold: a pure fold over observations in event time.

A candidate opens at the first observation outside the limits and becomes an excursion when it has lasted
`open_after_ms` without a gap. An excursion closes when it has been back inside by `hysteresis` for `close_after_ms`
without a gap. Times of opening and closing are interpolated at the limit between the two observations around it; next
to a gap the observation itself is taken, because nobody knows what happened in between. A gap never closes an excursion
and never counts as inside.

The result depends on the observations alone, in order of event time: not on arrival, batching or duplicates.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec


class Limits(NamedTuple):
    """°C and ms."""

    low: float
    high: float
    hysteresis: float
    open_after_ms: int
    close_after_ms: int
    gap_ms: int


class Observation(NamedTuple):
    """`origin` is (epoch, boot, mono_ms): the reading's own identity, whatever wall time it maps to."""

    time_ms: int
    value: float
    origin: tuple[int, int, int]


class Excursion(msgspec.Struct, kw_only=True):
    """A candidate or an open excursion. Weights are the ms each value stood for."""

    first: tuple[int, int, int]
    side: str
    opened_ms: int
    decided_ms: int | None = None
    peak: float
    first_value: float
    back_ms: int | None = None
    inside_since_ms: int | None = None
    observations: int = 0
    known_ms: int = 0
    longest_gap_ms: int = 0
    degree_ms: float = 0.0


class State(msgspec.Struct, kw_only=True):
    """Where the fold stands; JSON-able, so that it may rest and resume."""

    last: tuple[int, float, tuple[int, int, int]] | None = None
    excursion: Excursion | None = None


class Opened(NamedTuple):
    first: tuple[int, int, int]
    time_ms: int
    decided_ms: int
    side: str
    first_value: float


class Closed(NamedTuple):
    first: tuple[int, int, int]
    time_ms: int
    decided_ms: int
    opened_ms: int
    side: str
    peak: float
    observations: int
    known_ms: int
    longest_gap_ms: int
    degree_minutes: float


Decision = Opened | Closed


def fold(limits: Limits, state: State, observations: Iterable[Observation]) -> list[Decision]:
    """Take observations in order of time; `state` moves on in place."""
    decisions: list[Decision] = []
    for seen in observations:
        decisions += _take(limits, state, seen)
        state.last = (seen.time_ms, seen.value, seen.origin)
    return decisions


def _take(limits: Limits, state: State, seen: Observation) -> list[Decision]:
    last = Observation(*state.last) if state.last is not None else None
    gap = last is None or seen.time_ms - last.time_ms > limits.gap_ms
    current = state.excursion
    if current is not None and current.decided_ms is None and (gap or not _outside(limits, current.side, seen.value)):
        current = state.excursion = None  # it did not last, or nobody knows whether it did
    if current is None:
        side = _side(limits, seen.value)
        if side is None:
            return []
        current = state.excursion = _begin(limits, side, seen, None if gap else last)
    if last is not None and current.first != seen.origin:
        _account(limits, current, last, seen, gap=gap)
    current.observations += 1
    current.peak = (max if current.side == "high" else min)(current.peak, seen.value)
    if current.decided_ms is None:
        if seen.time_ms - current.opened_ms < limits.open_after_ms:
            return []
        current.decided_ms = seen.time_ms
        return [Opened(current.first, current.opened_ms, seen.time_ms, current.side, current.first_value)]
    return _maybe_close(limits, state, current, last, seen, gap=gap)


def _maybe_close(
    limits: Limits, state: State, current: Excursion, last: Observation | None, seen: Observation, *, gap: bool
) -> list[Decision]:
    if _outside(limits, current.side, seen.value):
        current.back_ms = current.inside_since_ms = None
        return []
    if current.back_ms is None or gap:
        current.back_ms = seen.time_ms
        if last is not None and not gap and _outside(limits, current.side, last.value):
            current.back_ms = _crossing(_limit(limits, current.side), last, seen)
    if not _well_inside(limits, current.side, seen.value):
        current.inside_since_ms = None
        return []
    if current.inside_since_ms is None or gap:
        current.inside_since_ms = seen.time_ms
    if seen.time_ms - current.inside_since_ms < limits.close_after_ms:
        return []
    state.excursion = None
    return [
        Closed(
            current.first,
            current.back_ms,
            seen.time_ms,
            current.opened_ms,
            current.side,
            current.peak,
            current.observations,
            current.known_ms,
            current.longest_gap_ms,
            round(current.degree_ms / 60_000, 3),
        )
    ]


def _begin(limits: Limits, side: str, seen: Observation, last: Observation | None) -> Excursion:
    opened_ms = seen.time_ms
    if last is not None and not _outside(limits, side, last.value):
        opened_ms = _crossing(_limit(limits, side), last, seen)
    return Excursion(first=seen.origin, side=side, opened_ms=opened_ms, peak=seen.value, first_value=seen.value)


def _account(limits: Limits, current: Excursion, last: Observation, seen: Observation, *, gap: bool) -> None:
    """Trapezoids of what was outside; a gap counts as nothing but a gap."""
    span = seen.time_ms - last.time_ms
    if gap:
        current.longest_gap_ms = max(current.longest_gap_ms, span)
        return
    current.known_ms += span
    limit = _limit(limits, current.side)
    over = [max(0.0, (v - limit) if current.side == "high" else (limit - v)) for v in (last.value, seen.value)]
    current.degree_ms += span * (over[0] + over[1]) / 2


def _crossing(limit: float, last: Observation, seen: Observation) -> int:
    if seen.value == last.value:
        return seen.time_ms
    share = (limit - last.value) / (seen.value - last.value)
    return last.time_ms + round((seen.time_ms - last.time_ms) * min(1.0, max(0.0, share)))


def _side(limits: Limits, value: float) -> str | None:
    if value > limits.high:
        return "high"
    return "low" if value < limits.low else None


def _limit(limits: Limits, side: str) -> float:
    return limits.high if side == "high" else limits.low


def _outside(limits: Limits, side: str, value: float) -> bool:
    return value > limits.high if side == "high" else value < limits.low


def _well_inside(limits: Limits, side: str, value: float) -> bool:
    return value <= limits.high - limits.hysteresis if side == "high" else value >= limits.low + limits.hysteresis
