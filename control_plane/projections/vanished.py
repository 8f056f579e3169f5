"""Accounting at Hello: every seq below next_seq is received, held by the box, or gap-recorded. The rest has vanished.

An ordered change of epoch closes the books of the epoch before: what lives on is the new epoch's to account for, what
never came and does not live on has vanished.

Also carries what ingest knows outside batches into completeness: rejected seqs, batches that came under another name
before, and heartbeats; and into the integrity log: why new epochs were ordered, and suspected clones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Select, Table, func, select

from control_plane.projections.completeness import CompletenessProjection, LaneKey
from control_plane.projections.state import begin_epoch
from control_plane.store.engine import Store
from control_plane.store.tables import clone, heartbeat, hello, known, lane, reject
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.ranges import Ranges

OVERLAP_MS = 60_000
MAX_RANGES_NAMED = 20
MAX_SEEN = 10_000
AT_ONCE = 20_000
LANES = (pb.URGENT, pb.TELEMETRY)
EpochKey = tuple[str, int]  # (gateway, epoch)


@dataclass(slots=True)
class _Asked:
    """The newest Hello of one epoch, not yet accounted for."""

    hello: wire.Hello
    held: dict[int, Ranges] = field(default_factory=dict)
    ended: dict[int, dict[int, int]] = field(default_factory=dict)
    """Epochs of the lineage that are over → lane → the highest seq that was ever seen or spoken of there."""


@dataclass(frozen=True, slots=True)
class _Note:
    id: str
    gateway: str
    kind: str
    text: str


class Vanished:
    """Reads Hellos, rejects and heartbeats; decides once the journal before them is projected."""

    def __init__(self, *, journal: Store, completeness: CompletenessProjection) -> None:
        self._journal = journal
        self._completeness = completeness
        self.forget()

    def forget(self) -> None:
        self._hello_id = self._known_id = 0
        self._clones: dict[str, int] = {}
        self._since_ms = 0
        self._fresh: dict[EpochKey, _Asked] = {}
        self._waiting: dict[EpochKey, _Asked] = {}
        self._notes: list[_Note] = []
        self._resolved: dict[LaneKey, list[tuple[int, int]]] = {}
        self._beats: list[tuple[LaneKey, int, tuple[int, int]]] = []
        self._seen_rejects: set[tuple[LaneKey, int]] = set()
        self._seen_beats: dict[LaneKey, tuple[int, int, int]] = {}

    @property
    def news(self) -> bool:
        """Whether `apply` has anything to do that no batch brings."""
        return bool(self._fresh or self._resolved or self._beats or self._notes)

    def read_hellos(self) -> None:
        """Take what came since the last call."""
        with self._journal.read() as connection:
            self._read_hellos(connection)
            self._read_clones(connection)
            self._read_known(connection)
            since = self._since_ms - OVERLAP_MS
            for row in connection.execute(select(reject).where(reject.c.received_ms >= since)):
                self._take_reject((row.gateway, row.epoch, row.lane), row.seq)
                self._since_ms = max(self._since_ms, row.received_ms)
            for row in connection.execute(select(heartbeat).where(heartbeat.c.received_ms >= since)):
                said = (row.seq, row.complete_boot, row.complete_mono_ms)
                self._take_beat((row.gateway, row.epoch, row.lane), said)
                self._since_ms = max(self._since_ms, row.received_ms)

    def _read_hellos(self, connection: Connection) -> None:
        """The newest of each epoch among those that were accepted; the others only said that they don't know."""
        columns = (hello.c.id, hello.c.gateway, hello.c.epoch, hello.c.opens, hello.c.why, hello.c.body)
        after = hello.c.id > self._hello_id
        accepted = (
            select(func.max(hello.c.id)).where(after, hello.c.why.is_(None)).group_by(hello.c.gateway, hello.c.epoch)
        )
        ordered = select(*columns).where(after, hello.c.why.is_not(None)).order_by(hello.c.id)
        rows = connection.execute(select(*columns).where(hello.c.id.in_(accepted)).order_by(hello.c.id)).all()
        for row in rows:
            self._take_hello(connection, row.gateway, wire.Hello.FromString(row.body))
        orders = connection.execute(ordered).all()
        for row in orders:
            text = f"store {row.epoch:08x} was told to begin a new epoch: {row.why}"
            id_ = f"{row.gateway}-epoch-{row.epoch:08x}-{row.opens}"
            self._notes.append(_Note(id_[:64], row.gateway, "epoch", text))
        self._hello_id = max([self._hello_id, *(row.id for row in (*rows, *orders))])

    def _take_hello(self, connection: Connection, gateway: str, said: wire.Hello) -> None:
        held = {int(one.lane): Ranges((r.first, r.last) for r in one.held) for one in said.lanes}
        asked = self._fresh[gateway, said.epoch] = _Asked(said, held)
        if said.predecessor_epoch:
            of = self._completeness.lineage(gateway)
            of.add(said)
            for epoch in of.epochs - {said.epoch}:
                asked.ended[epoch] = _spoken_of(connection, gateway, epoch)
                self._fresh.pop((gateway, epoch), None)
                self._waiting.pop((gateway, epoch), None)

    def _read_clones(self, connection: Connection) -> None:
        for row in connection.execute(select(clone)).all():
            if self._clones.get(row.gateway) != row.since_ms:
                self._clones[row.gateway] = row.since_ms
                text = f"two boxes use this gateway's identity ({row.why}); nothing is taken of either"
                self._notes.append(_Note(f"{row.gateway}-clone-{row.since_ms}", row.gateway, "clone", text))

    def _read_known(self, connection: Connection) -> None:
        query = select(known).where(known.c.id > self._known_id).order_by(known.c.id).limit(AT_ONCE)
        for row in connection.execute(query):
            self._resolved.setdefault((row.gateway, row.epoch, row.lane), []).append((row.seq, row.seq))
            self._known_id = row.id

    def _take_reject(self, key: LaneKey, seq: int) -> None:
        """Rows of the overlap are read again and again; each counts once."""
        if (key, seq) not in self._seen_rejects:
            if len(self._seen_rejects) > MAX_SEEN:
                self._seen_rejects.clear()
            self._seen_rejects.add((key, seq))
            self._resolved.setdefault(key, []).append((seq, seq))

    def _take_beat(self, key: LaneKey, said: tuple[int, int, int]) -> None:
        if self._seen_beats.get(key) != said:
            self._seen_beats[key] = said
            self._beats.append((key, said[0], said[1:]))

    def apply(self, connection: Connection, *, drained: bool, now_ms: int) -> None:
        """Count rejects and heartbeats; decide Hellos once nothing journalled before them is left unprojected."""
        for note in self._notes:
            self._completeness.note(
                connection, id_=note.id, gateway=note.gateway, kind=note.kind, text=note.text, now_ms=now_ms
            )
        self._notes.clear()
        for key, ranges in self._resolved.items():
            self._completeness.resolve(connection, key, ranges)
        self._resolved.clear()
        for key, seq, complete in self._beats:
            if complete > self._completeness.lane(connection, key).complete:
                self._completeness.promise(connection, key, seq, complete)
        self._beats.clear()
        for (gateway, epoch), asked in self._fresh.items():
            if asked.hello.predecessor_epoch:  # its watermark counts before the books of the other one are closed
                begin_epoch(connection, gateway, epoch)
        if not drained:
            return
        self._waiting.update(self._fresh)
        self._fresh.clear()
        for of, asked in list(self._waiting.items()):
            if self._decide(connection, of, asked, now_ms):
                del self._waiting[of]

    def _decide(self, connection: Connection, of: EpochKey, asked: _Asked, now_ms: int) -> bool:
        """True once accounted for: what URGENT still holds on the box may explain the rest, so wait for it."""
        lanes = {one.lane: one for one in asked.hello.lanes}
        for number in LANES:
            said = lanes.get(number)
            if said is None:
                continue
            key = (*of, int(number))
            gone = Ranges(self._completeness.lane(connection, key).missing(said.next_seq - 1))
            for first, last in asked.held.get(number, Ranges()):
                gone = _without(gone, first, last)
            if gone:
                self._record(connection, key, gone, now_ms)
            if number == pb.URGENT and self._completeness.lane(connection, key).cum < said.next_seq - 1:
                return False
        self._close(connection, of[0], asked, now_ms)
        return True

    def _close(self, connection: Connection, gateway: str, asked: _Asked, now_ms: int) -> None:
        """The books of the epochs before: what lives on is a later one's, what else is missing is gone for good."""
        of = self._completeness.lineage(gateway)
        for epoch, highest in asked.ended.items():
            for number in LANES:
                key = (gateway, epoch, int(number))
                gone = Ranges(self._completeness.lane(connection, key).missing(highest.get(number, 0)))
                if not gone:
                    continue
                living = of.living(epoch, number, gone)
                self._completeness.resolve(connection, key, living)
                for first, last in living:
                    gone = _without(gone, first, last)
                if gone:
                    self._record(connection, key, gone, now_ms)

    def _record(self, connection: Connection, key: LaneKey, gone: Ranges, now_ms: int) -> None:
        gateway, epoch, lane_ = key
        seqs = [pb.Range(first=first, last=last) for first, last in gone]
        record = pb.Gap(lane=pb.Lane.ValueType(lane_), seqs=seqs, reason=pb.GAP_VANISHED)
        name = f"vanished-{epoch:08x}-{lane_}-{seqs[0].first}"
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
        text = f"lane {pb.Lane.Name(pb.Lane.ValueType(lane_))}: {len(gone)} batches vanished (seq {some})"
        self._completeness.note(
            connection, id_=f"{gateway}-{name}"[:64], gateway=gateway, kind="vanished", text=text, now_ms=now_ms
        )


def _spoken_of(connection: Connection, gateway: str, epoch: int) -> dict[int, int]:
    """Lane → the highest seq of an epoch that came, or that an accepted Hello or a heartbeat said to exist."""
    found: dict[int, int] = {}

    def take(number: int, seq: int) -> None:
        found[number] = max(found.get(number, 0), seq)

    for row in connection.execute(_of(lane, gateway, epoch)):
        take(row.lane, row.max_seen)
    for row in connection.execute(_of(heartbeat, gateway, epoch)):
        take(row.lane, row.seq)
    accepted = (hello.c.gateway == gateway, hello.c.epoch == epoch, hello.c.why.is_(None))
    newest = select(hello.c.body).where(*accepted).order_by(hello.c.id.desc()).limit(1)
    body = connection.execute(newest).scalar()
    for state in wire.Hello.FromString(body).lanes if body is not None else ():
        take(state.lane, state.next_seq - 1)
    return found


def _of(table: Table, gateway: str, epoch: int) -> Select[Any]:
    return select(table).where(table.c.gateway == gateway, table.c.epoch == epoch)


def _without(ranges: Ranges, first: int, last: int) -> Ranges:
    kept = Ranges()
    for lo, hi in ranges:
        kept.add(lo, min(hi, first - 1))
        kept.add(max(lo, last + 1), hi)
    return kept
