"""Keeping to the byte limit: acknowledged batches go first, then the oldest telemetry with its gap record.

URGENT is never evicted. (Thinning before dropping is not here yet.)
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from gateway.buffer import ledger
from gateway.buffer.sealed import Sealed, Sealing
from gateway.buffer.urgent import gap_event
from protos.comboio.v1 import batch_pb2 as pb

DROP_AT_ONCE = 16

log = structlog.get_logger("gateway.buffer")


def relieve(
    store: Sealed,
    *,
    now_ms: int,
    keep_ms: int,
    limit_bytes: int,
    used: Callable[[], int],
    seal_with: Callable[[pb.Event, Sealing], None],
) -> None:
    """Delete what may go. `seal_with` commits a gap event and a removal in one transaction."""
    store.forget_acknowledged(sealed_before_ms=now_ms - keep_ms)
    if used() <= limit_bytes:
        return
    store.checkpoint()  # the log shrinks only so; what it holds must not cost readings
    while used() > limit_bytes and store.forget_acknowledged(sealed_before_ms=now_ms + 1):
        store.checkpoint()
    while used() > limit_bytes:
        oldest = store.oldest_waiting(pb.TELEMETRY, DROP_AT_ONCE)
        if not oldest:
            return
        gap = ledger.batches_gap(pb.TELEMETRY, oldest, pb.GAP_DROPPED)
        log.error("batches.dropped", batches=len(oldest), readings=gap.count, reason="buffer limit reached")
        event = gap_event(gap, pb.SEVERITY_ALARM)
        seal_with(event, Sealing(drops=[(pb.TELEMETRY, seq) for seq, _ in oldest]))
        store.checkpoint()
