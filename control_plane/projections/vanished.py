"""Accounting at Hello: every seq below next_seq is received, held by the box, or gap-recorded. The rest has vanished.

Also carries what ingest knows outside batches into completeness: rejected seqs and heartbeats.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from control_plane.projections.completeness import CompletenessProjection, LaneKey
from control_plane.store.engine import Store
from control_plane.store.tables import heartbeat, hello, reject
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.ranges import Ranges

OVERLAP_MS = 60_000
MAX_RANGES_NAMED = 20
MAX_SEEN = 10_000


@dataclass(slots=True)
class _Asked:
    """One gateway's newest Hello, not yet accounted for."""

    hello: wire.Hello
    held: dict[int, Ranges] = field(default_factory=dict)


class Vanished:
    """Reads Hellos, rejects and heartbeats; decides once the journal before them is projected."""

    def __init__(self, *, journal: Store, completeness: CompletenessProjection) -> None:
        self._journal = journal
        self._completeness = completeness
        self.forget()

    def forget(self) -> None:
        self._hello_id = 0
        self._since_ms = 0
        self._fresh: dict[str, _Asked] = {}
        self._waiting: dict[str, _Asked] = {}
        self._rejects: dict[LaneKey, list[tuple[int, int]]] = {}
        self._beats: list[tuple[LaneKey, int, tuple[int, int]]] = []
        self._seen_rejects: set[tuple[LaneKey, int]] = set()
        self._seen_beats: dict[LaneKey, tuple[int, int, int]] = {}

    @property
    def news(self) -> bool:
        """Whether `apply` has anything to do that no batch brings."""
        return bool(self._fresh or self._rejects or self._beats)

    def read_hellos(self) -> None:
        """Take what came since the last call."""
        with self._journal.read() as connection:
            newest = select(func.max(hello.c.id)).where(hello.c.id > self._hello_id).group_by(hello.c.gateway)
            for row in connection.execute(
                select(hello.c.id, hello.c.gateway, hello.c.body).where(hello.c.id.in_(newest))
            ):
                asked = wire.Hello.FromString(row.body)
                held = {int(lane.lane): Ranges((r.first, r.last) for r in lane.held) for lane in asked.lanes}
                self._fresh[row.gateway] = _Asked(asked, held)
                self._hello_id = max(self._hello_id, row.id)
            since = self._since_ms - OVERLAP_MS
            for row in connection.execute(select(reject).where(reject.c.received_ms >= since)):
                self._take_reject((row.gateway, row.epoch, row.lane), row.seq)
                self._since_ms = max(self._since_ms, row.received_ms)
            for row in connection.execute(select(heartbeat).where(heartbeat.c.received_ms >= since)):
                said = (row.seq, row.complete_boot, row.complete_mono_ms)
                self._take_beat((row.gateway, row.epoch, row.lane), said)
                self._since_ms = max(self._since_ms, row.received_ms)

    def _take_reject(self, key: LaneKey, seq: int) -> None:
        """Rows of the overlap are read again and again; each counts once."""
        if (key, seq) not in self._seen_rejects:
            if len(self._seen_rejects) > MAX_SEEN:
                self._seen_rejects.clear()
            self._seen_rejects.add((key, seq))
            self._rejects.setdefault(key, []).append((seq, seq))

    def _take_beat(self, key: LaneKey, said: tuple[int, int, int]) -> None:
        if self._seen_beats.get(key) != said:
            self._seen_beats[key] = said
            self._beats.append((key, said[0], said[1:]))

    def apply(self, connection: Connection, *, drained: bool, now_ms: int) -> None:
        """Count rejects and heartbeats; decide Hellos once nothing journalled before them is left unprojected."""
        for key, ranges in self._rejects.items():
            self._completeness.resolve(connection, key, ranges)
        self._rejects.clear()
        for key, seq, complete in self._beats:
            if complete > self._completeness.lane(connection, key).complete:
                self._completeness.promise(connection, key, seq, complete)
        self._beats.clear()
        if not drained:
            return
        self._waiting.update(self._fresh)
        self._fresh.clear()
        for gateway, asked in list(self._waiting.items()):
            if self._decide(connection, gateway, asked, now_ms):
                del self._waiting[gateway]

    def _decide(self, connection: Connection, gateway: str, asked: _Asked, now_ms: int) -> bool:
        """True once accounted for: what URGENT still holds on the box may explain the rest, so wait for it."""
        lanes = {lane.lane: lane for lane in asked.hello.lanes}
        for number in (pb.URGENT, pb.TELEMETRY):
            said = lanes.get(number)
            if said is None:
                continue
            key = (gateway, asked.hello.epoch, int(number))
            gone = Ranges(self._completeness.lane(connection, key).missing(said.next_seq - 1))
            for first, last in asked.held.get(number, Ranges()):
                gone = _without(gone, first, last)
            if gone:
                self._record(connection, key, gone, now_ms)
            if number == pb.URGENT and self._completeness.lane(connection, key).cum < said.next_seq - 1:
                return False
        return True

    def _record(self, connection: Connection, key: LaneKey, gone: Ranges, now_ms: int) -> None:
        gateway, epoch, lane = key
        seqs = [pb.Range(first=first, last=last) for first, last in gone]
        record = pb.Gap(lane=pb.Lane.ValueType(lane), seqs=seqs, reason=pb.GAP_VANISHED)
        name = f"vanished-{epoch:08x}-{lane}-{seqs[0].first}"
        self._completeness.record_gap(
            connection,
            id_=f"{gateway[3:]}-{name}"[:40],
            gateway=gateway,
            epoch=epoch,
            sensor="",
            record=record,
            now_ms=now_ms,
        )
        some = ", ".join(f"{r.first}-{r.last}" for r in seqs[:MAX_RANGES_NAMED])
        text = f"lane {pb.Lane.Name(pb.Lane.ValueType(lane))}: {len(gone)} batches vanished (seq {some})"
        self._completeness.note(
            connection, id_=f"{gateway}-{name}"[:64], gateway=gateway, kind="vanished", text=text, now_ms=now_ms
        )


def _without(ranges: Ranges, first: int, last: int) -> Ranges:
    kept = Ranges()
    for lo, hi in ranges:
        kept.add(lo, min(hi, first - 1))
        kept.add(max(lo, last + 1), hi)
    return kept
