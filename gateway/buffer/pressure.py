"""Keeping to the byte limit: acknowledged batches go first, then telemetry is thinned, then the oldest is dropped.

One step at a time, so that whoever seals in between never waits for more than one. URGENT is never evicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from gateway.buffer import ledger
from gateway.buffer.bodies import SIZE
from gateway.buffer.sealed import Sealed, Sealing
from gateway.buffer.thinner import Thinner
from gateway.buffer.urgent import gap_event
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges

DROP_AT_ONCE = 16
_OLDEST = f"""SELECT coalesce(first_seq, batch.seq) AS age, batch.seq, {SIZE}
             FROM batch LEFT JOIN thinned ON thinned.seq = batch.seq
             WHERE lane = ? AND batch.seq BETWEEN ? AND ? ORDER BY age LIMIT ?"""

log = structlog.get_logger("gateway.buffer")


def relieve(
    store: Sealed,
    thinner: Thinner,
    *,
    now_ms: int,
    keep_ms: int,
    limit_bytes: int,
    used: Callable[[], int],
    seal_with: Callable[[pb.Event, Sealing], None],
) -> bool:
    """One step; True while there is more to do. `seal_with` commits a gap event and a removal in one transaction."""
    store.forget_acknowledged(sealed_before_ms=now_ms - keep_ms)
    store.reclaim()
    if used() <= limit_bytes:
        return False
    store.checkpoint()  # the log shrinks only so; what it holds must not cost readings
    if (over := used() - limit_bytes) <= 0:
        return False
    done = store.forget_acknowledged(sealed_before_ms=now_ms + 1) or thinner.step() or _drop(store, over, seal_with)
    store.checkpoint()
    return bool(done) and used() > limit_bytes


def _drop(store: Sealed, over: int, seal_with: Callable[[pb.Event, Sealing], None]) -> bool:
    """Drop the oldest, as many as it takes, up to DROP_AT_ONCE; False if there are none."""
    oldest: list[int] = []
    for _, seq, size in _oldest(store):
        oldest.append(seq)
        over -= size
        if over <= 0:
            break
    if not oldest:
        return False
    gap = given_up(store, pb.TELEMETRY, oldest, pb.GAP_DROPPED)
    log.error("batches.dropped", batches=len(oldest), readings=gap.count, reason="buffer limit reached")
    seal_with(gap_event(gap, pb.SEVERITY_ALARM), Sealing(drops=[(pb.TELEMETRY, seq) for seq in oldest]))
    return True


def _oldest(store: Sealed) -> list[tuple[int, int, int]]:
    """(seq of the oldest it stands for, seq, bytes) of unacknowledged batches, oldest first."""
    state = store.lanes[pb.TELEMETRY]
    found: list[tuple[int, int, int]] = []
    for first, last in state.acked.missing(1, state.next_seq - 1):
        found += store.query(_OLDEST, (pb.TELEMETRY, first, last, DROP_AT_ONCE)).fetchall()
    return sorted(found)[:DROP_AT_ONCE]


def given_up(store: Sealed, lane: pb.Lane.ValueType, seqs: Sequence[int], reason: pb.GapReason.ValueType) -> pb.Gap:
    """The gap record of batches that will never arrive, with all that they stood for."""
    named = Ranges((seq, seq) for seq in seqs)
    readings = 0
    for seq in seqs:
        row = store.query("SELECT count FROM batch WHERE lane = ? AND seq = ?", (lane, seq)).fetchone()
        readings += row[0] if row else 0
        beside = store.query("SELECT lost, replaces FROM thinned WHERE seq = ?", (seq,)).fetchone()
        if beside and lane == pb.TELEMETRY:
            readings += beside[0]
            named.update(Ranges.unpack(beside[1]))
    return ledger.batches_gap(lane, named, readings, reason)
