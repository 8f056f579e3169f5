"""From one series' observations to `cold_chain.excursion.opened` and `.closed`."""

from __future__ import annotations

import uuid
from typing import Any

from control_plane.reconcile.cold_chain import Closed, Decision, Limits, Opened
from control_plane.reconcile.versions import Wanted, rfc3339
from control_plane.settings import ColdChainRule

OPENED = "comboio.cold_chain.excursion.opened.v1"
CLOSED = "comboio.cold_chain.excursion.closed.v1"
ROLE = "cargo_temperature"
NAMESPACE = uuid.UUID("6f0d2a52-6a0b-5c55-9f0e-0d6f4c1f7a10")


def limits(rule: ColdChainRule, period_ms: int) -> Limits:
    gap_s = rule.gap_s if rule.gap_s is not None else rule.gap_periods * period_ms / 1000
    return Limits(
        low=rule.low,
        high=rule.high,
        hysteresis=rule.hysteresis,
        open_after_ms=round(rule.open_after_s * 1000),
        close_after_ms=round(rule.close_after_s * 1000),
        gap_ms=round(gap_s * 1000),
    )


def entity_id(rule: str, subject: str, first: tuple[int, int, int]) -> str:
    """The same excursion keeps its id however often, and in whatever order, it is computed."""
    epoch, boot, mono_ms = first
    return str(uuid.uuid5(NAMESPACE, f"{rule}|{subject}|{epoch:08x}/{boot}/{mono_ms}"))


def wanted(
    rule: ColdChainRule, subject: str, facts: dict[str, Any], decision: Decision, *, final: bool, held: str | None
) -> Wanted:
    """The event a decision calls for."""
    data = {"rule": rule.name, "side": decision.side, "low": rule.low, "high": rule.high, "unit": "Cel", **facts}
    if isinstance(decision, Opened):
        type_ = OPENED
        data |= {"opened_at": rfc3339(decision.time_ms), "first_value": decision.first_value}
    else:
        type_ = CLOSED
        data |= _summary(decision)
    return Wanted(
        entity_id=entity_id(rule.name, subject, decision.first),
        type=type_,
        subject=subject,
        time_ms=decision.time_ms,
        decided_ms=decision.decided_ms,
        data=data,
        final=final,
        held=held,
    )


def _summary(closed: Closed) -> dict[str, Any]:
    duration_ms = closed.time_ms - closed.opened_ms
    span_ms = max(1, closed.decided_ms - closed.opened_ms)
    return {
        "opened_at": rfc3339(closed.opened_ms),
        "closed_at": rfc3339(closed.time_ms),
        "duration_s": duration_ms / 1000,
        "peak": closed.peak,
        "degree_minutes": closed.degree_minutes,
        "observations": closed.observations,
        "coverage_pct": round(min(100.0, 100 * closed.known_ms / span_ms), 1),
        "max_gap_s": closed.longest_gap_ms / 1000,
    }
