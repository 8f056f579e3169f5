"""Gap records: everything that was dropped, where and why, as data that travels like data.

A gap is open at both ends: it covers what lies strictly after `from` and strictly before `to`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.reading import Lost, Row
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges

Instant = tuple[int, int]  # (boot ordinal, monotonic ms)


def restart_gap(group: int, last: Instant, first: Instant) -> pb.Gap:
    """From a group's last durable reading before an unclean stop to its first new one; nobody knows how many."""
    return pb.Gap(
        group=group,
        from_boot=last[0],
        from_mono_ms=last[1],
        to_boot=first[0],
        to_mono_ms=first[1],
        count_exact=False,
        reason=pb.GAP_RESTART,
    )


def lost_gap(group: int, boot: int, lost: Lost) -> pb.Gap:
    """What a driver could not read."""
    return pb.Gap(
        group=group,
        from_boot=boot,
        from_mono_ms=lost.after_mono_ms,
        to_boot=boot,
        to_mono_ms=lost.before_mono_ms,
        count=lost.reads,
        count_exact=True,
        reason=lost.reason,
    )


def refused_gap(group: int, boot: int, rows: Sequence[Row]) -> pb.Gap:
    """Rows that are not what their declaration allows."""
    times = [row.mono_ms for row in rows]
    return lost_gap(group, boot, Lost(min(times) - 1, max(times) + 1, len(rows), pb.GAP_REFUSED))


def batches_gap(lane: int, seqs: Ranges, readings: int, reason: pb.GapReason.ValueType) -> pb.Gap:
    """Sealed batches that will never arrive, counted in readings."""
    named = [pb.Range(first=first, last=last) for first, last in seqs]
    return pb.Gap(lane=pb.Lane.ValueType(lane), seqs=named, count=readings, count_exact=True, reason=reason)


def hole_gap(group: int, before: Instant, after: Instant) -> pb.Gap:
    """A damaged stretch of the tail, between a group's readings around it: groups are not in each other's order."""
    return pb.Gap(
        group=group,
        from_boot=before[0],
        from_mono_ms=before[1],
        to_boot=after[0],
        to_mono_ms=after[1],
        count_exact=False,
        reason=pb.GAP_UNREADABLE,
    )


def coalesce(gaps: Iterable[pb.Gap], *, near_ms: int = 0) -> list[pb.Gap]:
    """Join gaps of one group and reason: the next begins where the last ended, or so near.

    What was read between two that are joined so is delivered as well: the count stays that of what is lost.
    """
    joined: list[pb.Gap] = []
    newest: dict[tuple[int, int], pb.Gap] = {}
    for gap in gaps:
        key = (gap.group, gap.reason)
        last = newest.get(key)
        if last is not None and not gap.seqs and not last.seqs and _near(last, gap, near_ms):
            last.to_boot, last.to_mono_ms = max(_end(last), _end(gap))
            last.count += gap.count
            last.count_exact = last.count_exact and gap.count_exact
            continue
        copy = pb.Gap()
        copy.CopyFrom(gap)
        joined.append(copy)
        newest[key] = copy
    return joined


def _near(last: pb.Gap, following: pb.Gap, near_ms: int) -> bool:
    if _end(last) == (following.from_boot, following.from_mono_ms):
        return True
    same_boot = last.to_boot == following.from_boot == last.from_boot
    return bool(near_ms) and same_boot and 0 <= following.from_mono_ms - last.from_mono_ms <= _span(last) + near_ms


def _end(gap: pb.Gap) -> Instant:
    return gap.to_boot, gap.to_mono_ms


def _span(gap: pb.Gap) -> int:
    return gap.to_mono_ms - gap.from_mono_ms
