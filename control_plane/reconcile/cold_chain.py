"""When cargo was too warm or too cold: a pure fold over observations in event time.

A candidate opens at the first observation outside the limits and becomes an excursion when it has lasted
`open_after_ms` without a gap. An excursion closes when it has been back inside by `hysteresis` for `close_after_ms`
without a gap. Times of opening and closing are interpolated at the limit between the two observations around it; next
to a gap the observation itself is taken, because nobody knows what happened in between. A gap never closes an excursion
and never counts as inside. The two sides know nothing of each other: cargo that goes from too warm straight to too cold
has two excursions, each with its own times.

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
    """Where the fold stands; JSON-able, so that it may rest and resume. `running` is by side."""

    last: tuple[int, float, tuple[int, int, int]] | None = None
    running: dict[str, Excursion] = {}


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
SIDES = ("high", "low")


def fold(limits: Limits, state: State, observations: Iterable[Observation]) -> list[Decision]:
    """Take observations in order of time; `state` moves on in place."""
    decisions: list[Decision] = []
    for seen in observations:
        last = Observation(*state.last) if state.last is not None else None
        known = None if last is None or seen.time_ms - last.time_ms > limits.gap_ms else last
        for side in SIDES:
            decision = _take(limits, state.running, side, last, known, seen)
            if decision is not None:
                decisions.append(decision)
        state.last = (seen.time_ms, seen.value, seen.origin)
    return decisions


def _take(
    limits: Limits,
    running: dict[str, Excursion],
    side: str,
    last: Observation | None,
    known: Observation | None,
    seen: Observation,
) -> Decision | None:
    """One side's step. `known` is the observation before, None next to a gap."""
    outside = _outside(limits, side, seen.value)
    current = running.get(side)
    if current is not None and current.decided_ms is None and (known is None or not outside):
        current = None  # it did not last, or nobody knows whether it did
        del running[side]
    if current is None:
        if not outside:
            return None
        current = running[side] = _begin(limits, side, known, seen)
    else:
        _account(limits, current, last, known, seen)
    current.observations += 1
    current.peak = (max if side == "high" else min)(current.peak, seen.value)
    if current.decided_ms is not None:
        return _maybe_close(limits, running, current, known, seen)
    if seen.time_ms - current.opened_ms < limits.open_after_ms:
        return None
    current.decided_ms = seen.time_ms
    return Opened(current.first, current.opened_ms, seen.time_ms, side, current.first_value)


def _maybe_close(
    limits: Limits, running: dict[str, Excursion], current: Excursion, known: Observation | None, seen: Observation
) -> Closed | None:
    if _outside(limits, current.side, seen.value):
        current.back_ms = current.inside_since_ms = None
        return None
    if known is None:
        current.back_ms = seen.time_ms
        current.inside_since_ms = None
    elif current.back_ms is None:
        current.back_ms = _crossing(_limit(limits, current.side), known, seen)
    if not _well_inside(limits, current.side, seen.value):
        current.inside_since_ms = None
        return None
    if current.inside_since_ms is None:
        current.inside_since_ms = seen.time_ms
    if seen.time_ms - current.inside_since_ms < limits.close_after_ms:
        return None
    del running[current.side]
    return _closed(current, current.back_ms, seen.time_ms)


def _closed(current: Excursion, back_ms: int, decided_ms: int) -> Closed:
    return Closed(
        current.first,
        back_ms,
        decided_ms,
        current.opened_ms,
        current.side,
        current.peak,
        current.observations,
        current.known_ms,
        current.longest_gap_ms,
        round(current.degree_ms / 60_000, 3),
    )


def _begin(limits: Limits, side: str, known: Observation | None, seen: Observation) -> Excursion:
    opened_ms = seen.time_ms
    if known is not None and not _outside(limits, side, known.value):
        opened_ms = _crossing(_limit(limits, side), known, seen)
    begun = Excursion(first=seen.origin, side=side, opened_ms=opened_ms, peak=seen.value, first_value=seen.value)
    begun.known_ms = seen.time_ms - opened_ms
    begun.degree_ms = begun.known_ms * abs(seen.value - _limit(limits, side)) / 2
    return begun


def _account(
    limits: Limits, current: Excursion, last: Observation | None, known: Observation | None, seen: Observation
) -> None:
    """The area outside between two observations; a gap counts as nothing but a gap."""
    if known is None:
        if last is not None:
            current.longest_gap_ms = max(current.longest_gap_ms, seen.time_ms - last.time_ms)
        return
    span = seen.time_ms - known.time_ms
    current.known_ms += span
    limit = _limit(limits, current.side)
    inner, outer = sorted((v - limit if current.side == "high" else limit - v) for v in (known.value, seen.value))
    if inner >= 0:
        current.degree_ms += span * (inner + outer) / 2
    elif outer > 0:
        current.degree_ms += span * outer * outer / (outer - inner) / 2  # the triangle beyond the crossing


def _crossing(limit: float, last: Observation, seen: Observation) -> int:
    if seen.value == last.value:
        return seen.time_ms
    share = (limit - last.value) / (seen.value - last.value)
    return last.time_ms + round((seen.time_ms - last.time_ms) * min(1.0, max(0.0, share)))


def _limit(limits: Limits, side: str) -> float:
    return limits.high if side == "high" else limits.low


def _outside(limits: Limits, side: str, value: float) -> bool:
    return value > limits.high if side == "high" else value < limits.low


def _well_inside(limits: Limits, side: str, value: float) -> bool:
    return value <= limits.high - limits.hysteresis if side == "high" else value >= limits.low + limits.hysteresis
