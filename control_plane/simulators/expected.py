"""Which excursions the ERP must have heard of, computed from the device's own log; and whether it did, once each.

A limit is crossed between two reads, evenly: with reads lost, seconds before the first one beyond it. An end needs
reads inside for as long as the rule asks. An excursion that lasted just about long enough, give or take the time
between two reads, may or may not be one: a read's time is the middle of its exchange. So there are two lists, of those
that surely happened and of those that possibly did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from control_plane.simulators.balance import Read


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Cold-chain limits, upper side: °C and ms."""

    high: float
    hysteresis: float
    open_after_ms: int
    close_after_ms: int
    gap_ms: int
    """Nothing is known of what lies between two reads further apart."""


class Happened(NamedTuple):
    """An excursion as the device's own answers show it: wall ms of its begin, and whether its end was decided."""

    begin_ms: int
    ended: bool


class Expected(NamedTuple):
    """`possible` holds all of `sure`, each with nearly the same begin."""

    sure: Sequence[Happened] = ()
    possible: Sequence[Happened] = ()

    def also(self, other: Expected) -> Expected:
        return Expected((*self.sure, *other.sure), (*self.possible, *other.possible))


@dataclass(slots=True)
class Verdict:
    """`problems`: sentences; none means all is well."""

    expected: Expected
    made: int = 0
    delivered: int = 0
    effects: int = 0
    requests: int = 0
    problems: list[str] = field(default_factory=list)


def excursions(rule: Rule, reads: Sequence[Read], column: int, *, slack_ms: int) -> Expected:
    """From the reads the device answered, without those that a gap record holds.

    `slack_ms`: by how much the reconciler may see times differently.
    """
    longer, shorter = (
        replace(rule, open_after_ms=rule.open_after_ms + by, close_after_ms=rule.close_after_ms + by)
        for by in (slack_ms, -slack_ms)
    )
    return Expected(_stretches(longer, reads, column), _stretches(shorter, reads, column))


def _stretches(rule: Rule, reads: Sequence[Read], column: int) -> list[Happened]:
    """Stretches above the limit that lasted long enough."""
    found: list[Happened] = []
    begin: int | None = None
    inside: int | None = None
    before: tuple[int, float] | None = None
    for read in reads:
        value, at = read.values[column], read.wall_ms
        if before is not None and at - before[0] > rule.gap_ms:
            inside = before = None
            if not found or found[-1].begin_ms != begin:
                begin = None
        if value > rule.high:
            begin, inside = (begin if begin is not None else _crossed(rule.high, before, (at, value))), None
            if at - begin >= rule.open_after_ms and (not found or found[-1].begin_ms != begin):
                found.append(Happened(begin, ended=False))
        elif not found or found[-1].begin_ms != begin:
            begin = None
        elif value <= rule.high - rule.hysteresis:
            inside = inside if inside is not None else at
            if at - inside >= rule.close_after_ms:
                found[-1] = Happened(found[-1].begin_ms, ended=True)
                begin = inside = None
        else:
            inside = None
        before = at, value
    return found


def _crossed(limit: float, before: tuple[int, float] | None, now: tuple[int, float]) -> int:
    """When the value passed the limit, if it changed evenly since the read before; now, if there is none."""
    if before is None or before[1] == now[1]:
        return now[0]
    share = (limit - before[1]) / (now[1] - before[1])
    return round(before[0] + share * (now[0] - before[0])) if 0 <= share <= 1 else now[0]


def judge(
    expected: Expected,
    events: Sequence[Mapping[str, Any]],
    deliveries: Sequence[Mapping[str, Any]],
    received: Mapping[str, Any],
    *,
    tolerance_ms: int = 3000,
) -> Verdict:
    """Every sure excursion opened and closed once at the ERP, and nothing that was not even possible did."""
    verdict = Verdict(expected=expected)
    finals = [event for event in events if event["finality"] == "final"]
    verdict.made = len(finals)
    verdict.delivered = sum(1 for one in deliveries if one["state"] == "delivered")
    verdict.effects = len(received["effects"])
    verdict.requests = received["requests"]
    for id_ in received["conflicts"]:
        verdict.problems.append(f"{id_} came with two bodies")
    ids = [effect["id"] for effect in received["effects"]]
    verdict.problems += [f"{id_} took effect {n} times" for id_, n in Counter(ids).items() if n > 1]
    left_out = {one["event_id"] for one in deliveries if one["state"] == "superseded"}  # a newer one was sent instead
    open_ = [one for one in deliveries if one["state"] not in {"delivered", "superseded"}]
    verdict.problems += [f"{one['event_id']} is {one['state']}" for one in open_]
    if len(ids) != len(finals) - len(left_out):
        verdict.problems.append(
            f"{len(finals)} final events were made, {len(left_out)} left out, the ERP holds {len(ids)}"
        )
    for kind in ("opened", "closed"):
        standing = current(received["effects"], f"comboio.cold_chain.excursion.{kind}.v1")
        times = [_ms(effect["data"]["opened_at"]) for effect in standing]
        sure, possible = ([one.begin_ms for one in some if one.ended or kind == "opened"] for some in expected)
        verdict.problems += _compare(kind, sure, possible, times, tolerance_ms)
    return verdict


def current(effects: Sequence[Mapping[str, Any]], type_: str) -> list[Mapping[str, Any]]:
    """The newest version of each entity that was not retracted."""
    newest: dict[str, Mapping[str, Any]] = {}
    for effect in effects:
        if effect["type"] == type_:
            known = newest.get(effect["entityid"])
            if known is None or effect["entityversion"] > known["entityversion"]:
                newest[effect["entityid"]] = effect
    return [effect for effect in newest.values() if effect["change"] != "retract"]


def _compare(
    kind: str, sure: Sequence[int], possible: Sequence[int], times: Sequence[int], tolerance_ms: int
) -> list[str]:
    left = sorted(times)
    problems = []
    free = sorted(possible)
    for want in sorted(sure):
        near = _take(left, want, tolerance_ms)
        _take(free, want, tolerance_ms)
        if near is None:
            problems.append(f"the excursion of {_clock(want)} was never {kind} at the ERP")
    left = [at for at in left if _take(free, at, tolerance_ms) is None]
    problems += [f"the ERP was told of an excursion {kind} at {_clock(at)} that did not happen" for at in left]
    return problems


def _take(times: list[int], want: int, tolerance_ms: int) -> int | None:
    """The first of `times` near enough, taken out of it."""
    near = next((at for at in times if abs(at - want) <= tolerance_ms), None)
    if near is not None:
        times.remove(near)
    return near


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%H:%M:%S")
