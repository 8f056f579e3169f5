"""The URGENT lane's own share of the disk.

Nothing of the lane is ever evicted, so what is taken must be bounded before. From half of the quota on, what repeats is
joined and sealed rarely: alarms of one key, silences of one group, gap records of one group and reason that touch or
are near. At the limit everything of one group and reason is near, and field events, whose senders wait for a receipt
and still have them, are refused. Gap records and anchors are always taken.

Whatever is waiting goes with any sealing, also of telemetry, so that completeness never passes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.buffer.buffer import SealedBatch
from gateway.buffer.sealed import Sealed
from gateway.errors import Rejected
from protos.comboio.v1 import batch_pb2 as pb

ROW_BYTES = 100  # of a batch beside its body: envelope, index
NEAR_MS = 60_000
ANY_DISTANCE_MS = 1 << 60
AWAITED = frozenset({pb.EVENT_FIELD_ACT, pb.EVENT_PAIRING})
"""Events whose sender waits for the receipt, and keeps them until it has it."""
PAIRS = {
    pb.EVENT_ALARM_RAISED: "alarm",
    pb.EVENT_ALARM_CLEARED: "alarm",
    pb.EVENT_SENSOR_SILENT: "silence",
    pb.EVENT_SENSOR_RECOVERED: "silence",
}
Key = tuple[str, int, str, str]


class Quota:
    """`used_bytes` is written by the store's thread and read by the loop."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    @property
    def tight(self) -> bool:
        return self.used_bytes > self.limit_bytes / 2

    @property
    def full(self) -> bool:
        return self.used_bytes >= self.limit_bytes

    @property
    def seal_every_ms(self) -> int:
        """What repeats is sealed no more often than this."""
        return 600_000 if self.full else 60_000 if self.tight else 0

    @property
    def near_ms(self) -> int:
        """Gap records no further apart than this are one."""
        return ANY_DISTANCE_MS if self.full else NEAR_MS if self.tight else 0

    def measure(self, store: Sealed, *, now_ms: int) -> None:
        """Count anew; when it is tight, what is acknowledged goes first."""
        self.used_bytes = _on_disk(store)
        while self.tight and store.forget_acknowledged(sealed_before_ms=now_ms + 1, lanes=(pb.URGENT,)):
            self.used_bytes = _on_disk(store)

    def sealed(self, batches: Iterable[SealedBatch]) -> None:
        self.used_bytes += sum(len(one.body) + ROW_BYTES for one in batches if one.lane == pb.URGENT)

    def admit(self, event: pb.Event, pending_bytes: int) -> None:
        """Raises `Rejected` for a field event there is no room for, before anything is acknowledged."""
        if event.kind not in AWAITED:
            return
        size = ROW_BYTES + len(event.detail)
        if self.used_bytes + pending_bytes + size > self.limit_bytes:
            raise Rejected(
                f"the gateway holds {self.limit_bytes / 1e6:g} MB of events that could not be delivered yet and takes "
                "no more; keep this one and send it again when the gateway has its link back"
            )


def _on_disk(store: Sealed) -> int:
    query = "SELECT count(*), coalesce(sum(length(body)), 0) FROM batch WHERE lane = ?"
    count, size = store.query(query, (pb.URGENT,)).fetchone()
    return int(size + count * ROW_BYTES)


def key_of(event: pb.Event) -> Key | None:
    """What a repeated statement is told by; None for what is never joined."""
    pair = PAIRS.get(pb.EventKind.ValueType(event.kind))
    if pair is None:
        return None
    said = pb.Condition.FromString(event.detail)
    return pair, event.group, said.quantity, said.name


def joined(earlier: pb.Event, later: pb.Event) -> pb.Event:
    """The later statement, with the number of both and when the first of them began to hold."""
    first, last = pb.Condition.FromString(earlier.detail), pb.Condition.FromString(later.detail)
    last.count = max(1, first.count) + max(1, last.count)
    last.first_mono_ms = first.first_mono_ms or first.since_mono_ms
    result = pb.Event()
    result.CopyFrom(later)
    result.severity = pb.Severity.ValueType(max(earlier.severity, later.severity))
    result.detail = last.SerializeToString()
    return result


def pending_bytes(events: Sequence[tuple[int, pb.Event]]) -> int:
    return sum(len(event.detail) + ROW_BYTES for _, event in events)
