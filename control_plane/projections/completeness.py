"""How far each lane is complete, what is lost and why: resolved seqs, watermarks, gaps, anchors.

A seq is *resolved* when it was received and projected, rejected, or named by a gap record. A lane's watermark is the
complete_to of its highest contiguously resolved seq, moved on by heartbeats that speak of a seq within it.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from sqlalchemy import Connection, select

from control_plane.journal.journal import MAX_SEQ
from control_plane.journal.lineage import Lineage
from control_plane.projections.boots import anchored
from control_plane.projections.commands import result_row
from control_plane.projections.conditions import KINDS, condition_row, sensor_of
from control_plane.projections.gaps import keep
from control_plane.projections.ledger import lose
from control_plane.projections.projection import Bad, Decoded, Envelope, Portion
from control_plane.store.tables import anchor, command_result, condition, integrity, progress, quarantine
from control_plane.store.upsert import bulk_upsert, keep_first
from protos.columns import MAX_TIME_MS
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS, placeable
from protos.ranges import Ranges

MOST_MARKS = 64
_MARK = struct.Struct("<QIQ")
LaneKey = tuple[str, int, int]


@dataclass(slots=True)
class LaneProgress:
    """Resolved seqs of one lane, and what completeness the ones above the contiguous part promise."""

    cum: int = 0
    above: Ranges = field(default_factory=Ranges)
    marks: dict[int, tuple[int, int]] = field(default_factory=dict)
    complete: tuple[int, int] = (0, 0)

    def resolve(self, first: int, last: int | None = None) -> None:
        """Count first..last as resolved."""
        last = first if last is None else last
        if last <= self.cum:
            return
        self.above.add(max(first, self.cum + 1), last)
        self.cum = self.above.through(self.cum + 1)
        self.above.discard_through(self.cum)
        self._advance()

    def promise(self, seq: int, complete: tuple[int, int]) -> None:
        """Everything up to `complete` is in a seq <= `seq`."""
        self.marks[seq] = max(self.marks.get(seq, (0, 0)), complete)
        self._advance()

    def _advance(self) -> None:
        for seq in [seq for seq in self.marks if seq <= self.cum]:
            self.complete = max(self.complete, self.marks.pop(seq))
        if len(self.marks) > MOST_MARKS:
            self._join()

    def _join(self) -> None:
        """One promise for each run of seqs above: the contiguous part will reach its end in one step.

        A gateway that drains a long backlog for days sends what is new beside it all the time.
        """
        joined: dict[int, tuple[int, int]] = {}
        ends = dict(self.above)
        starts = sorted(ends)
        for seq, complete in self.marks.items():
            at = bisect_right(starts, seq) - 1
            last = ends[starts[at]] if at >= 0 and ends[starts[at]] >= seq else seq
            joined[last] = max(joined.get(last, (0, 0)), complete)
        self.marks = joined

    def missing(self, last: int) -> list[tuple[int, int]]:
        return list(self.above.missing(self.cum + 1, last))

    def pack_marks(self) -> bytes:
        return b"".join(_MARK.pack(seq, *complete) for seq, complete in sorted(self.marks.items()))


class CompletenessProjection:
    """Owns progress, gap, anchor, quarantine and integrity rows."""

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, LaneProgress] = {}
        self._touched: set[LaneKey] = set()
        self._lineages: defaultdict[str, Lineage] = defaultdict(Lineage)
        self._write = bulk_upsert(progress, [column.name for column in progress.columns])

    def forget(self) -> None:
        self._lanes.clear()
        self._touched.clear()
        self._lineages.clear()

    def lineage(self, gateway: str) -> Lineage:
        """What is known of its changes of epoch; add to it before the batches of a new one come."""
        return self._lineages[gateway]

    def apply(self, connection: Connection, portion: Portion) -> None:
        for decoded in portion.decoded:
            self._events(connection, decoded, portion.now_ms)
            for envelope in decoded.envelopes:
                self._received(connection, envelope)
        for bad in portion.bad:
            self._quarantine(connection, bad, portion.now_ms)
            self._received(connection, bad.envelope)
        self.save(connection, portion.now_ms)

    def save(self, connection: Connection, now_ms: int) -> None:
        """Write the lanes touched since the last save."""
        if not self._touched:
            return
        self._write(connection, [self._row(key, now_ms) for key in sorted(self._touched)])
        self._touched.clear()

    def lane(self, connection: Connection, key: LaneKey) -> LaneProgress:
        """The lane's progress, loaded when it is first asked for."""
        found = self._lanes.get(key)
        if found is None:
            found = self._lanes[key] = _load(connection, key)
        return found

    def resolve(self, connection: Connection, key: LaneKey, ranges: Iterable[tuple[int, int]]) -> None:
        lane = self.lane(connection, key)
        for first, last in ranges:
            lane.resolve(first, last)
        self._touched.add(key)

    def promise(self, connection: Connection, key: LaneKey, seq: int, complete: tuple[int, int]) -> None:
        self.lane(connection, key).promise(seq, complete)
        self._touched.add(key)

    def record_gap(
        self, connection: Connection, *, id_: str, gateway: str, epoch: int, sensor: str, record: pb.Gap, now_ms: int
    ) -> None:
        """Keep a gap record and count its seqs as resolved."""
        seqs = [(r.first, r.last) for r in record.seqs]
        row = {
            "id": id_,
            "gateway": gateway,
            "epoch": epoch,
            "lane": record.lane,
            "group_id": record.group,
            "sensor": sensor,
            "from_boot": record.from_boot,
            "from_mono_ms": record.from_mono_ms,
            "to_boot": record.to_boot,
            "to_mono_ms": record.to_mono_ms,
            "seqs": Ranges(seqs).pack(),
            "count": record.count,
            "count_exact": record.count_exact,
            "reason": record.reason,
            "recorded_ms": now_ms,
        }
        if keep(connection, row):
            lose(connection, gateway=gateway, epoch=epoch, record=record)
        if seqs:
            self.resolve(connection, (gateway, epoch, record.lane), seqs)

    def note(self, connection: Connection, *, id_: str, gateway: str, kind: str, text: str, now_ms: int) -> None:
        """Raise an integrity alert, once per id."""
        row = {"id": id_, "gateway": gateway, "kind": kind, "text": text, "at_ms": now_ms}
        keep_first(connection, integrity, row)

    def _received(self, connection: Connection, envelope: Envelope) -> None:
        key = (envelope.gateway, envelope.epoch, envelope.lane)
        lane = self.lane(connection, key)
        complete = (envelope.complete_boot, envelope.complete_mono_ms)
        lane.promise(envelope.seq, complete)
        if envelope.urgent_seq:
            self.promise(connection, (envelope.gateway, envelope.epoch, pb.URGENT), envelope.urgent_seq, complete)
        lane.resolve(envelope.seq)
        for first, last in envelope.replaces:
            lane.resolve(first, last)
        self._touched.add(key)

    def _events(self, connection: Connection, decoded: Decoded, now_ms: int) -> None:
        numbers: Counter[int] = Counter()
        for index, at_ms, event in decoded.bulk.events:
            envelope = decoded.envelopes[index]
            number = numbers[index]  # within its batch, however batches were decoded together
            numbers[index] += 1
            try:
                if event.kind in KINDS:
                    boot = int(decoded.bulk.boot[index])
                    row = condition_row(envelope, number, event, decoded.declares[index], boot, at_ms, now_ms)
                    keep_first(connection, condition, row)
                else:
                    self._event(connection, envelope, number, event, decoded.declares[index], now_ms)
            except (DecodeError, ValueError):
                text = f"event {number} of batch {envelope.id} has an unreadable detail"
                id_ = f"event-{envelope.id}-{number}"
                self.note(connection, id_=id_, gateway=envelope.gateway, kind="event", text=text, now_ms=now_ms)

    def _event(
        self,
        connection: Connection,
        envelope: Envelope,
        number: int,
        event: pb.Event,
        declare: pb.Declare,
        now_ms: int,
    ) -> None:
        if event.kind == pb.EVENT_GAP:
            record = pb.Gap.FromString(event.detail)
            _within(record.from_mono_ms, record.to_mono_ms, limit=MAX_TIME_MS)
            _within(record.count, *(r.last for r in record.seqs), limit=MAX_SEQ)
            if not placeable(record):
                raise ValueError("rows are out of range")
            self.record_gap(
                connection,
                id_=f"{envelope.id}-{number}",
                gateway=envelope.gateway,
                epoch=self._epoch_meant(envelope) if record.seqs else envelope.epoch,
                sensor=sensor_of(declare, record.group),
                record=record,
                now_ms=now_ms,
            )
        elif event.kind == pb.EVENT_ANCHOR:
            fact = pb.Anchor.FromString(event.detail)
            _within(fact.mono_ms, fact.wall_ms, limit=MAX_TIME_MS)
            row = {
                "gateway": envelope.gateway,
                "epoch": envelope.epoch,
                "boot": fact.boot,
                "mono_ms": fact.mono_ms,
                "wall_ms": fact.wall_ms,
                "err_ms": fact.err_ms,
                "source": fact.source,
            }
            keep_first(connection, anchor, row)
            anchored(connection, envelope.gateway, envelope.epoch, fact.boot, now_ms)
        elif event.kind == pb.EVENT_COMMAND_RESULT:
            keep_first(connection, command_result, result_row(envelope.gateway, event.detail, now_ms))
        elif event.kind == pb.EVENT_INTEGRITY:
            text = event.detail.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
            id_ = f"event-{envelope.id}-{number}"
            self.note(connection, id_=id_, gateway=envelope.gateway, kind="gateway", text=text, now_ms=now_ms)

    def _epoch_meant(self, envelope: Envelope) -> int:
        """Whose seqs a gap record names: those of the epoch in which its batch was sealed."""
        of = self._lineages.get(envelope.gateway)
        return envelope.epoch if of is None else of.origin(envelope.epoch, envelope.lane, envelope.seq)[0]

    def _quarantine(self, connection: Connection, bad: Bad, now_ms: int) -> None:
        envelope = bad.envelope
        row = {
            "batch_id": envelope.id,
            "gateway": envelope.gateway,
            "error": bad.error.replace("\0", "?"),
            "at_ms": now_ms,
        }
        keep_first(connection, quarantine, row)
        record = pb.Gap(
            lane=pb.Lane.ValueType(envelope.lane),
            seqs=[pb.Range(first=first, last=last) for first, last in (*envelope.replaces, (envelope.seq,) * 2)],
            count=envelope.readings,
            count_exact=not envelope.replaces,
            reason=pb.GAP_UNDECODABLE,
            rows=[pb.RowCount(boot=envelope.complete_boot, hour=envelope.complete_mono_ms // HOUR_MS)],
        )
        self.record_gap(
            connection,
            id_=f"undecodable-{envelope.id}",
            gateway=envelope.gateway,
            epoch=envelope.epoch,
            sensor="",
            record=record,
            now_ms=now_ms,
        )

    def _row(self, key: LaneKey, now_ms: int) -> dict[str, object]:
        lane = self._lanes[key]
        return {
            "gateway": key[0],
            "epoch": key[1],
            "lane": key[2],
            "cum": lane.cum,
            "above": lane.above.pack(),
            "marks": lane.pack_marks(),
            "complete_boot": lane.complete[0],
            "complete_mono_ms": lane.complete[1],
            "updated_ms": now_ms,
        }


def _within(*numbers: int, limit: int) -> None:
    """A column, and the arithmetic after it, must be able to hold what a gateway says."""
    if any(number >= limit for number in numbers):
        raise ValueError("a number is out of range")


def _load(connection: Connection, key: LaneKey) -> LaneProgress:
    where = (progress.c.gateway == key[0], progress.c.epoch == key[1], progress.c.lane == key[2])
    row = connection.execute(select(progress).where(*where)).one_or_none()
    if row is None:
        return LaneProgress()
    marks = {seq: (boot, mono) for seq, boot, mono in _MARK.iter_unpack(row.marks)}
    return LaneProgress(row.cum, Ranges.unpack(row.above), marks, (row.complete_boot, row.complete_mono_ms))
