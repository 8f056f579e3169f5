"""From what gateways record of themselves to business events with a beginning and an end.

A gap record is an episode by itself. Conditions (alarms, silence) are folded: the first "raised" begins an episode, the
first "cleared" after it ends it, and everything said twice says nothing new. Pure; times are wall ms.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row

from control_plane.projections.walltime import WallTime
from control_plane.reconcile.versions import Wanted, rfc3339
from protos.comboio.v1 import batch_pb2 as pb
from protos.gaps import reason_word

NAMESPACE = uuid.UUID("0d4c9a55-52a7-5b53-8d0e-3e8d1b4c7f21")
BEGINS = (pb.EVENT_ALARM_RAISED, pb.EVENT_SENSOR_SILENT)
SILENCE = (pb.EVENT_SENSOR_SILENT, pb.EVENT_SENSOR_RECOVERED)
GAP_TYPES = ("comboio.data.gap.opened.v1", "comboio.data.gap.closed.v1")
ALARM_TYPES = ("comboio.alarm.raised.v1", "comboio.alarm.cleared.v1")
SILENCE_TYPES = ("comboio.sensor.silent.v1", "comboio.sensor.recovered.v1")
Walls = Mapping[tuple[int, int], WallTime]


class Moment(NamedTuple):
    """When something was true, and the event time of what decided it."""

    time_ms: int
    decided_ms: int


class Episode(NamedTuple):
    """`ends_by_watermark`: it is over only once nothing adjacent can come any more."""

    id: str
    types: tuple[str, str]
    subject: str
    opened: Moment
    closed: Moment | None
    data: dict[str, Any]
    closing: dict[str, Any]
    ends_by_watermark: bool = False


def entity_id(record_id: str) -> str:
    return str(uuid.uuid5(NAMESPACE, record_id))


def of_gap(row: Row[Any], opened_ms: int, closed_ms: int) -> Episode:
    """`opened_ms`, `closed_ms`: the record's ends in wall time."""
    lost = {"readings_lost": row._mapping["count"], "count_exact": row.count_exact}  # noqa: SLF001 - rows have a count
    return Episode(
        id=entity_id(row.id),
        types=GAP_TYPES,
        subject=_subject(row.gateway, row.sensor),
        opened=Moment(opened_ms, opened_ms),
        closed=Moment(closed_ms, closed_ms),
        data=_whose(row) | {"reason": reason_word(row.reason)},
        closing={"duration_s": (closed_ms - opened_ms) / 1000} | lost,
        ends_by_watermark=True,
    )


def of_conditions(rows: Iterable[Row[Any]], walls: Walls) -> list[Episode]:
    """Records of one sensor, quantity and name, in any order. Those of a boot without wall time are left out."""
    placed = [(wall.wall(row.since_mono_ms), row) for row in rows if (wall := walls.get((row.epoch, row.boot)))]
    found: list[Episode] = []
    begun: Episode | None = None
    for at_ms, row in sorted(placed, key=lambda one: (one[0], one[1].epoch, one[1].boot, one[1].kind, one[1].value)):
        said = Moment(at_ms, walls[row.epoch, row.boot].wall(row.said_mono_ms))
        if row.kind in BEGINS and begun is None:
            begun = _begin(row, said)
        elif row.kind not in BEGINS and begun is not None:
            found.append(begun._replace(closed=said, closing=_ending(row, begun, said)))
            begun = None
    return [*found, begun] if begun is not None else found


def wanted(episode: Episode, *, mark_ms: int | None, expired_before_ms: int) -> list[Wanted]:
    """The events an episode calls for, by how far the gateway's data is complete."""
    made = [_wanted(episode, 0, episode.opened, {}, mark_ms, expired_before_ms)]
    if episode.closed is not None:
        closing = _wanted(episode, 1, episode.closed, episode.closing, mark_ms, expired_before_ms)
        if closing.final or not episode.ends_by_watermark:
            made.append(closing)
    return made


def _wanted(
    episode: Episode, end: int, moment: Moment, more: dict[str, Any], mark_ms: int | None, expired_before_ms: int
) -> Wanted:
    passed = mark_ms is not None and moment.decided_ms < mark_ms
    expired = not passed and moment.decided_ms < expired_before_ms
    times = {"opened_at": rfc3339(episode.opened.time_ms)} | ({"closed_at": rfc3339(moment.time_ms)} if end else {})
    return Wanted(
        entity_id=episode.id,
        type=episode.types[end],
        subject=episode.subject,
        time_ms=moment.time_ms,
        decided_ms=moment.decided_ms,
        data=episode.data | times | more,
        final=passed or expired,
        held="expired" if expired else None,
    )


def _begin(row: Row[Any], said: Moment) -> Episode:
    silence = row.kind in SILENCE
    severity = pb.Severity.Name(row.severity) if row.severity in pb.Severity.values() else str(row.severity)
    alarm = {
        "alarm": row.name,
        "quantity": row.quantity,
        "limit": row.limit,
        "comparison": "below" if row.below else "above",
        "value": row.value,
        "severity": severity.removeprefix("SEVERITY_").lower(),
    }
    return Episode(
        id=entity_id(row.id),
        types=SILENCE_TYPES if silence else ALARM_TYPES,
        subject=_subject(row.gateway, row.sensor, row.quantity),
        opened=said,
        closed=None,
        data=_whose(row) | ({} if silence else alarm),
        closing={},
    )


def _ending(row: Row[Any], begun: Episode, said: Moment) -> dict[str, Any]:
    duration = {"duration_s": max(0, said.time_ms - begun.opened.time_ms) / 1000}
    return duration | ({} if row.kind in SILENCE else {"cleared_value": row.value})


def _subject(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _whose(row: Row[Any]) -> dict[str, Any]:
    return {"gateway": row.gateway} | ({"sensor": row.sensor} if row.sensor else {})


def touched(rows: Sequence[Row[Any]]) -> set[tuple[str, str, str]]:
    """(sensor, quantity, name) of condition rows."""
    return {(row.sensor, row.quantity, row.name) for row in rows}
