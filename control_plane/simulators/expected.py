"""Which excursions the ERP must have heard of, computed from the device's own log; and whether it did, once each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


class Happened(NamedTuple):
    """An excursion as the device's own answers show it: wall ms of its begin, and whether its end was decided."""

    begin_ms: int
    ended: bool


@dataclass(slots=True)
class Verdict:
    """`expected`: wall ms at which each excursion began. `problems`: sentences; none means all is well."""

    expected: list[Happened] = field(default_factory=list)
    made: int = 0
    delivered: int = 0
    effects: int = 0
    requests: int = 0
    problems: list[str] = field(default_factory=list)


def excursions(rule: Rule, reads: Sequence[Read], column: int) -> list[Happened]:
    """Stretches above the limit that lasted long enough, from every read the device answered."""
    found: list[Happened] = []
    begin: int | None = None
    inside: int | None = None
    for read in reads:
        value, at = read.values[column], read.wall_ms
        if value > rule.high:
            begin, inside = (begin if begin is not None else at), None
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
    return found


def judge(
    expected: Sequence[Happened],
    events: Sequence[Mapping[str, Any]],
    deliveries: Sequence[Mapping[str, Any]],
    received: Mapping[str, Any],
    *,
    tolerance_ms: int = 3000,
) -> Verdict:
    """Every expected excursion opened and closed once at the ERP, and nothing else did."""
    verdict = Verdict(expected=list(expected))
    finals = [event for event in events if event["finality"] == "final"]
    verdict.made = len(finals)
    verdict.delivered = sum(1 for one in deliveries if one["state"] == "delivered")
    verdict.effects = len(received["effects"])
    verdict.requests = received["requests"]
    for id_ in received["conflicts"]:
        verdict.problems.append(f"{id_} came with two bodies")
    ids = [effect["id"] for effect in received["effects"]]
    verdict.problems += [f"{id_} took effect {n} times" for id_, n in Counter(ids).items() if n > 1]
    open_ = [one for one in deliveries if one["state"] != "delivered"]
    verdict.problems += [f"{one['event_id']} is {one['state']}" for one in open_]
    if len(ids) != len(finals):
        verdict.problems.append(f"{len(finals)} final events were made, the ERP holds {len(ids)}")
    for kind in ("opened", "closed"):
        standing = current(received["effects"], f"comboio.cold_chain.excursion.{kind}.v1")
        times = [_ms(effect["data"]["opened_at"]) for effect in standing]
        want = [one.begin_ms for one in expected if one.ended or kind == "opened"]
        verdict.problems += _compare(kind, want, times, tolerance_ms)
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


def _compare(kind: str, expected: Sequence[int], times: Sequence[int], tolerance_ms: int) -> list[str]:
    left = sorted(times)
    problems = []
    for want in sorted(expected):
        near = next((at for at in left if abs(at - want) <= tolerance_ms), None)
        if near is None:
            problems.append(f"the excursion of {_clock(want)} was never {kind} at the ERP")
        else:
            left.remove(near)
    problems += [f"the ERP was told of an excursion {kind} at {_clock(at)} that did not happen" for at in left]
    return problems


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%H:%M:%S")
