"""Sealed batches and everything the buffer must remember, in one SQLite file (WAL).

Invariants
1. A batch's row is written once and never updated; acknowledgement is a set of ranges beside it, so that acking does
   not rewrite bodies on flash. Where a large body is, and when it is there: see `bodies`.
2. Sealing is one transaction, synchronous=FULL: the batch rows, the lanes' next seq and completeness, the tail's
   sealed position, the groups' last durable readings and the number of the newest sealed gap record. A crash leaves
   all of it or none.
3. `opens` is incremented, and fsynced, before anything of an opening can be sent.
4. Nothing here is deleted because it can't be read: the file is set aside by name and what is readable is copied.

Acknowledgements use synchronous=NORMAL: losing one costs a question at the next Hello, nothing else.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.buffer import anchored, last_readings, tally
from gateway.buffer import salvage as replacement
from gateway.buffer.bodies import BODY, SIZE, Bodies, is_large
from gateway.buffer.buffer import LaneView, SealedBatch
from gateway.buffer.malformed import DAMAGE, malformed, raise_unless_damage
from gateway.buffer.tables import PAGE_BYTES, SCHEMA_VERSION, STEPS, TABLES
from gateway.buffer.tail import Position
from gateway.errors import Misconfigured
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS
from protos.ranges import Ranges

LOG_PAGES = 2048
BUSY_MS = 5000
LANES = (pb.URGENT, pb.TELEMETRY)
_ENVELOPE = "lane, seq, schema, codec, dictionary, count, body_len, crc32, complete_boot, complete_mono_ms, urgent_seq"
BATCH_COLUMNS = f"{_ENVELOPE}, body"
_INSERT = f"""INSERT INTO batch({BATCH_COLUMNS}, sealed_ms, cells, segment, body_at, body_size)
              VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


@dataclass(slots=True)
class LaneState:
    """One lane as committed. Everything below next_seq is acked, held as a batch, or gap-recorded."""

    next_seq: int
    acked: Ranges
    complete_boot: int
    complete_mono_ms: int


@dataclass(slots=True)
class Counts:
    """Batches, readings and body bytes that wait; `oldest_ms` is the wall time of their oldest sealing, 0 = unknown."""

    waiting: int = 0
    readings: int = 0
    bytes: int = 0
    oldest_ms: int = 0
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Declared:
    """A declaration, and the same as the drivers gave it (before references and scales were learnt)."""

    body: pb.Declare
    shape: pb.Declare


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinned:
    """A batch of TELEMETRY in place of others. `gone`: those deleted for it; `replaces`: whatever it stands for."""

    seq: int
    gone: Sequence[int]
    replaces: Ranges
    stage: int
    lost: int
    """Readings that are in none of them any more,"""
    lost_now: int
    """of which so many went with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """What one sealing transaction writes."""

    batches: Sequence[SealedBatch] = ()
    tail: Position | None = None
    last_readings: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    declared: Declared | None = None
    retired: Sequence[int] = ()
    """Groups that are read no more: their silence from here on is no gap."""
    drops: Sequence[tuple[int, int]] = ()
    """(lane, seq) of unacknowledged batches deleted for space; their gap record is among `batches`."""
    asides: Sequence[tuple[int, int, str]] = ()
    """(lane, seq, reason) of batches refused or damaged, likewise."""
    thinned: Thinned | None = None
    """What the one batch in `batches` stands for; those are deleted."""
    gaps_through: int = 0
    """Number of the newest gap record in `batches`, 0 if none of them is numbered."""
    anchors: Sequence[pb.Anchor] = ()
    """Of `batches`: a new epoch will need them again."""
    gaps: Sequence[pb.Gap] = ()
    """Gap records in batches of another lane than URGENT."""
    counted: Sequence[pb.Gap] = ()
    """Of other gap records here what was counted before, under another reason."""


class Sealed:
    """The store. Synchronous; one thread at a time (the buffer serialises)."""

    def __init__(self, path: Path, *, now_ms: int, damage: str | None = None) -> None:
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
        self.bodies = Bodies(path.parent)
        self.damage = damage  # name under which an unreadable predecessor was set aside
        try:
            self._prepare(now_ms)
            self.bodies.attach(self._db)
            if damage is not None:
                self.bodies.set_aside(damage.removeprefix(path.name))
            self.clean = bool(int(self._meta("clean")))
            self.load()
            self._joined_at: tuple[int, int] | None = None
            self._declared = {number for (number,) in self._db.execute("SELECT number FROM schema")}
        except BaseException:
            self._db.close()
            raise

    @classmethod
    def open(cls, path: Path, *, now_ms: int) -> Sealed:
        """Open or make the store; an unreadable file is set aside by name and what can be read is kept.

        Only damage is dealt with so: a full disk, a lock or a missing right says nothing about the file.
        """
        replacement.finish(path, now_ms)
        try:
            if replacement.suspected(path):
                raise sqlite3.DatabaseError("found damaged while it ran")
            if path.exists() and not path.stat().st_size and not path.with_name(path.name + "-wal").exists():
                raise sqlite3.DatabaseError("the file is empty")
            return cls._checked(path, now_ms=now_ms)
        except DAMAGE as error:
            raise_unless_damage(error)
        aside = replacement.replace(path, now_ms)
        try:
            return cls._checked(path, now_ms=now_ms, damage=aside.name)
        except DAMAGE as error:
            raise_unless_damage(error)
        replacement.set_aside(path, now_ms + 1)  # what was salvaged can't be used either
        return cls._checked(path, now_ms=now_ms, damage=aside.name)

    @classmethod
    def _checked(cls, path: Path, *, now_ms: int, damage: str | None = None) -> Sealed:
        store = cls(path, now_ms=now_ms, damage=damage)
        try:
            store.check()
        except BaseException:
            store.close()
            raise
        return store

    def _prepare(self, now_ms: int) -> None:
        run = self._db.execute
        run(f"PRAGMA page_size={PAGE_BYTES}")  # a file that is there keeps its own
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        run(f"PRAGMA busy_timeout={BUSY_MS}")
        run(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
        run("PRAGMA journal_size_limit=4194304")
        run("PRAGMA cache_size=-2048")
        version = run("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise Misconfigured(f"{self._path}: written by a newer version (format {version}); upgrade comboio-gateway")
        if version == 0:
            self._create(now_ms)
            return
        for before in range(version, SCHEMA_VERSION):
            self._upgrade(before)

    def _create(self, now_ms: int) -> None:
        with self.transaction() as run:
            for statement in TABLES.split(";"):
                run(statement)
            epoch = secrets.randbits(32) | 1
            facts = {"epoch": epoch, "opens": 0, "clean": 1, "tail_generation": 0, "tail_offset": 0}
            facts |= {"dropped_readings": 0, "thinned_readings": 0, "gaps_through": 0, "predecessor": 0, "session": 0}
            facts |= {"created_ms": now_ms}
            for key, value in facts.items():
                run("INSERT INTO meta VALUES(?, ?)", (key, value))
            for lane in LANES:
                run("INSERT INTO lane VALUES(?, 1, x'', 0, 0, 1)", (lane,))
            run(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _upgrade(self, version: int) -> None:
        """One step of the file's format, whole or not at all."""
        with self.transaction() as run:
            step = STEPS[version]
            if callable(step):
                step(run)
            else:
                for statement in step.split(";"):
                    run(statement)
            run(f"PRAGMA user_version={version + 1}")

    def query(self, statement: str, parameters: Sequence[int | bytes] = ()) -> sqlite3.Cursor:
        """Read what a part beside this one keeps here."""
        return self._db.execute(statement, parameters)

    def check(self) -> None:
        """Touch what every start needs; raises one of DAMAGE when the file is damaged there."""
        run = self._db.execute
        self.schemas()
        run("SELECT count(*), max(length(body)) FROM schema").fetchone()
        last_readings.reached(run)
        run("SELECT * FROM dictionary").fetchall()
        run("SELECT * FROM thinned").fetchall()
        run("SELECT * FROM ledger LIMIT 0")
        run("SELECT lane, max(seq) FROM batch GROUP BY lane").fetchall()
        run(
            f"SELECT {BATCH_COLUMNS}, sealed_ms, cells, segment, body_at, body_size FROM batch LIMIT 0"
        )  # even names can be damaged
        run("SELECT lane, seqs, replaced, agreed FROM moved").fetchall()
        run("SELECT boot, mono_ms, fact FROM anchor LIMIT 0")
        run("SELECT lane, seq, reason, at_ms, count, body FROM set_aside LIMIT 0")
        if set(self.lanes) != set(LANES):
            raise sqlite3.DatabaseError("a lane is missing")

    @contextlib.contextmanager
    def transaction(self, *, synchronous: str = "FULL") -> Iterator[Callable[..., sqlite3.Cursor]]:
        try:
            self._db.execute(f"PRAGMA synchronous={synchronous}")
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db.execute
            self._db.execute("COMMIT")
        except BaseException:
            self.bodies.rolled_back()
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self.bodies.committed()

    def load(self) -> None:
        """Take the epoch and the lanes from the file."""
        self.epoch = self._meta("epoch")
        self.lanes = self._load_lanes()

    # --- opening and closing -------------------------------------------------------------------------

    def open_run(self, boot_id: bytes) -> tuple[int, int]:
        """Count this opening and name the boot; returns (opens, boot ordinal). Durable when it returns."""
        with self.transaction() as run:
            run("UPDATE meta SET value = value + 1 WHERE key = 'opens'")
            run("UPDATE meta SET value = 0 WHERE key = 'clean'")
            run("INSERT INTO boot(boot_id) VALUES(?) ON CONFLICT DO NOTHING", (boot_id,))
            (ordinal,) = run("SELECT ordinal FROM boot WHERE boot_id = ?", (boot_id,)).fetchone()
            (opens,) = run("SELECT value FROM meta WHERE key = 'opens'").fetchone()
        return int(opens), int(ordinal)

    def catch_up(
        self, next_seqs: Mapping[int, int], *, tail: Position, opens: int, boot: tuple[int, bytes], gaps_through: int
    ) -> int:
        """Skip the numbers of what this store once held and knows no more; returns how many batches that is."""
        lost = {lane: seq - self.lanes[lane].next_seq for lane, seq in next_seqs.items()}
        with self.transaction() as run:
            for lane, seq in next_seqs.items():
                run("UPDATE lane SET next_seq = max(next_seq, ?) WHERE lane = ?", (seq, lane))
            if tail > self.sealed_position():
                self._move(tail)
            self._raise("opens", opens)
            self._raise("gaps_through", gaps_through)
            run("INSERT OR IGNORE INTO boot VALUES(?, ?)", boot)
        for lane, count in lost.items():
            self.lanes[lane].next_seq += max(0, count)
        return sum(max(0, count) for count in lost.values())

    def close_clean(self) -> None:
        """Say that nothing was left in the tail."""
        with self.transaction() as run:
            run("UPDATE meta SET value = 1 WHERE key = 'clean'")

    def close(self) -> None:
        self._db.close()
        self.bodies.close()

    # --- what is remembered --------------------------------------------------------------------------

    def sealed_position(self) -> Position:
        return Position(int(self._meta("tail_generation")), int(self._meta("tail_offset")))

    def opens(self) -> int:
        """How often it was opened, this time not counted before `open_run`."""
        return self._meta("opens")

    def gaps_through(self) -> int:
        """Number of the newest gap record that was sealed."""
        return self._meta("gaps_through")

    def last_readings(self) -> dict[int, tuple[int, int]]:
        """Group → (boot, mono_ms) of its last sealed reading, its declaration, or up to where its restart is told."""
        return last_readings.reached(self._db.execute)

    def schemas(self) -> list[Declared]:
        """Every declaration of this epoch, oldest first."""
        rows = self._db.execute("SELECT body, shape FROM schema ORDER BY number")
        return [Declared(pb.Declare.FromString(body), pb.Declare.FromString(shape)) for body, shape in rows]

    def dropped_readings(self) -> int:
        return self._meta("dropped_readings")

    def fact(self, key: str) -> int:
        """One of `meta`."""
        return self._meta(key)

    def _meta(self, key: str) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise sqlite3.DatabaseError(f"meta.{key} is missing")
        return int(row[0])

    def _load_lanes(self) -> dict[int, LaneState]:
        rows = self._db.execute("SELECT lane, next_seq, acked, complete_boot, complete_mono_ms FROM lane")
        return {lane: LaneState(seq, Ranges.unpack(acked), boot, mono) for lane, seq, acked, boot, mono in rows}

    # --- sealing -------------------------------------------------------------------------------------

    def seal(self, sealing: Sealing, *, now_ms: int) -> None:
        """One durable transaction; `lanes` follows only after its commit."""
        places = self._write_large(sealing.batches)
        with self.transaction() as run:
            gone = self._remove(sealing, now_ms)  # first: what is new takes the pages
            if sealing.declared is not None:
                body, shape = sealing.declared.body, sealing.declared.shape
                run(
                    "INSERT INTO schema VALUES(?, ?, ?)",
                    (body.schema, body.SerializeToString(), shape.SerializeToString()),
                )
            for b in sealing.batches:
                segment, at = places.get(b.seq, (0, 0)) if b.lane == pb.TELEMETRY else (0, 0)
                run(
                    _INSERT,
                    (
                        *(b.lane, b.seq, b.schema, b.codec, b.dictionary, b.count, b.body_len, b.crc32),
                        *(b.complete_boot, b.complete_mono_ms, b.urgent_seq, b"" if segment else b.body),
                        *(now_ms, b.cells, segment, at, len(b.body)),
                    ),
                )
                run(
                    "UPDATE lane SET next_seq = ?, complete_boot = ?, complete_mono_ms = ? WHERE lane = ?",
                    (b.seq + 1, b.complete_boot, b.complete_mono_ms, b.lane),
                )
            tally.record(
                run,
                batches=sealing.batches,
                gaps=sealing.gaps,
                counted=sealing.counted,
                newest=sealing.last_readings,
            )
            if sealing.retired:
                tally.retire(run, sealing.retired)
            if sealing.tail is not None:
                self._move(sealing.tail)
            if sealing.gaps_through:
                self._raise("gaps_through", sealing.gaps_through)
            if sealing.anchors:
                anchored.keep(run, sealing.anchors)
        if sealing.declared is not None:
            self._declared.add(sealing.declared.body.schema)
        for b in sealing.batches:
            state = self.lanes[b.lane]
            state.next_seq = b.seq + 1
            state.complete_boot, state.complete_mono_ms = b.complete_boot, b.complete_mono_ms
        for lane, acked in gone.items():
            self.lanes[lane].acked = acked

    def _write_large(self, batches: Sequence[SealedBatch]) -> dict[int, tuple[int, int]]:
        """Where the bodies are that stand beside this file, by number; those of URGENT, few and small, never do."""
        large = [one for one in batches if one.lane == pb.TELEMETRY and is_large(len(one.body))]
        places = self.bodies.write([one.body for one in large])
        return {one.seq: place for one, place in zip(large, places, strict=True)}

    def _move(self, tail: Position) -> None:
        """Inside a transaction: the tail is sealed up to there."""
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'tail_generation'", (tail.generation,))
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'tail_offset'", (tail.offset,))

    def _raise(self, key: str, value: int) -> None:
        """Inside a transaction: a fact that only ever grows."""
        self._db.execute("UPDATE meta SET value = max(value, ?) WHERE key = ?", (value, key))

    def _remove(self, sealing: Sealing, now_ms: int) -> dict[int, Ranges]:
        """Inside a sealing transaction: take dropped and refused batches out; returns the lanes' new acked sets."""
        run = self._db.execute
        gone: dict[int, Ranges] = {}
        reasons = {(lane, seq): reason for lane, seq, reason in sealing.asides}
        if sealing.thinned is not None:
            gone[pb.TELEMETRY] = self._replace(sealing.thinned)
        for lane, seq in (*sealing.drops, *reasons):
            gone.setdefault(lane, self.lanes[lane].acked.copy()).add(seq)
            if (lane, seq) in reasons:
                run(
                    f"INSERT OR IGNORE INTO set_aside SELECT lane, seq, ?, ?, count, {BODY} FROM batch "
                    "WHERE lane = ? AND seq = ?",
                    (reasons[lane, seq], now_ms, lane, seq),
                )
            else:
                run(
                    "UPDATE meta SET value = value + (SELECT count FROM batch WHERE lane = ? AND seq = ?) "
                    "WHERE key = 'dropped_readings'",
                    (lane, seq),
                )
            run("DELETE FROM batch WHERE lane = ? AND seq = ?", (lane, seq))
            if lane == pb.TELEMETRY:
                run("DELETE FROM thinned WHERE seq = ?", (seq,))
        for lane, acked in gone.items():
            run("UPDATE lane SET acked = ? WHERE lane = ?", (acked.pack(), lane))
        return gone

    def _replace(self, new: Thinned) -> Ranges:
        """Inside a sealing transaction: a thinned batch takes the place of others; returns the lane's new acked set."""
        acked = self.lanes[pb.TELEMETRY].acked.copy()
        for seq in new.gone:
            acked.add(seq)
            self._db.execute("DELETE FROM batch WHERE lane = ? AND seq = ?", (pb.TELEMETRY, seq))
            self._db.execute("DELETE FROM thinned WHERE seq = ?", (seq,))
        first_seq = next(iter(new.replaces))[0]
        row = (new.seq, first_seq, new.stage, new.lost, new.replaces.pack())
        self._db.execute("INSERT INTO thinned VALUES(?, ?, ?, ?, ?)", row)
        self._db.execute("UPDATE meta SET value = value + ? WHERE key = 'thinned_readings'", (new.lost_now,))
        return acked

    # --- sending -------------------------------------------------------------------------------------

    def lease(
        self, lane: int, after_seq: int, limit: int, to_seq: int | None = None
    ) -> tuple[list[SealedBatch], list[SealedBatch]]:
        """(whole, damaged) unacknowledged batches above `after_seq` and not above `to_seq`, lowest first."""
        state = self.lanes[lane]
        newest = state.next_seq - 1 if to_seq is None else min(to_seq, state.next_seq - 1)
        whole: list[SealedBatch] = []
        damaged: list[SealedBatch] = []
        for first, last in state.acked.missing(after_seq + 1, newest):
            query = f"""SELECT {_ENVELOPE}, {BODY} FROM batch
                        WHERE lane = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"""
            for row in self._db.execute(query, (lane, first, last, limit - len(whole))):
                batch = _batch(row)
                sound = zlib.crc32(batch.body) == batch.crc32 and batch.schema in self._declared
                (whole if sound else damaged).append(batch)
            if len(whole) >= limit:
                break
        return self._standing_for(whole) if lane == pb.TELEMETRY else whole, damaged

    def _standing_for(self, batches: list[SealedBatch]) -> list[SealedBatch]:
        """The same, each with what it replaces."""
        if not batches:
            return batches
        query = "SELECT seq, replaces FROM thinned WHERE seq BETWEEN ? AND ? AND replaces != x''"
        found = dict(self._db.execute(query, (batches[0].seq, batches[-1].seq)).fetchall())
        return [
            replace(batch, replaces=tuple(Ranges.unpack(found[batch.seq]))) if batch.seq in found else batch
            for batch in batches
        ]

    def ack(self, lane: int, received: Ranges) -> bool:
        """Add to the acknowledged; True if that was news. Never beyond what exists."""
        state = self.lanes[lane]
        merged = state.acked.copy()
        for first, last in received:
            merged.add(max(1, first), min(last, state.next_seq - 1))
        if merged == state.acked:
            return False
        with self.transaction(synchronous="NORMAL") as run:
            agreed = min(received.highest + 1, state.next_seq)
            run("UPDATE lane SET acked = ?, agreed = max(agreed, ?) WHERE lane = ?", (merged.pack(), agreed, lane))
        state.acked = merged
        return True

    # --- space ---------------------------------------------------------------------------------------

    def forget_acknowledged(self, *, sealed_before_ms: int, limit: int = 500, lanes: Sequence[int] = LANES) -> int:
        """Delete acknowledged batches sealed before then, oldest first; returns how many went."""
        return sum(self._delete_acked(lane, sealed_before_ms, limit) for lane in lanes)

    def _delete_acked(self, lane: int, sealed_before_ms: int, limit: int) -> int:
        query = "SELECT seq FROM batch WHERE lane = ? AND sealed_ms < ? ORDER BY seq LIMIT ?"
        acked = self.lanes[lane].acked
        old = [(lane, seq) for (seq,) in self._db.execute(query, (lane, sealed_before_ms, limit)) if seq in acked]
        if old:
            with self.transaction(synchronous="NORMAL"):
                self._db.executemany("DELETE FROM batch WHERE lane = ? AND seq = ?", old)
                if lane == pb.TELEMETRY:
                    self._db.executemany("DELETE FROM thinned WHERE seq = ?", [(seq,) for _, seq in old])
        return len(old)

    def join_old_hours(self) -> None:
        """Keep the ledger within its bounds; looks once for each hour that was begun."""
        lasts = last_readings.load(self._db.execute).values()
        newest = max(((last.boot, last.mono_ms // HOUR_MS) for last in lasts), default=None)
        if newest != self._joined_at:
            with self.transaction(synchronous="NORMAL") as run:
                tally.join_old(run)
            self._joined_at = newest

    def checkpoint(self) -> None:
        """Move the write-ahead log into the file and empty it."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.reclaim()

    def reclaim(self) -> None:
        """Give back the segments that nothing names any more."""
        self.bodies.reclaim(self._path.with_name(self._path.name + "-wal"))

    def bytes_used(self) -> int:
        """Pages in use, the write-ahead log, and the bodies beside them."""
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        (size,) = self._db.execute("PRAGMA page_size").fetchone()
        wal = self._path.with_name(self._path.name + "-wal")
        log = wal.stat().st_size if wal.exists() else 0
        return int((pages - free) * size) + log + self.bodies.bytes_named

    def counts(self) -> Counts:
        """What waits, and what is kept after acknowledgement."""
        found = Counts()
        query = f"""SELECT count(*), coalesce(sum(count), 0), coalesce(sum({SIZE}), 0),
                          coalesce(min(nullif(sealed_ms, 0)), 0) FROM batch WHERE lane = ? AND seq BETWEEN ? AND ?"""
        for lane in LANES:
            for first, last in self.lanes[lane].acked.missing(1, self.lanes[lane].next_seq - 1):
                batches, readings, size, oldest_ms = self._db.execute(query, (lane, first, last)).fetchone()
                found.waiting += batches
                found.readings += readings
                found.bytes += size
                found.oldest_ms = min(filter(None, (found.oldest_ms, oldest_ms)), default=0)
        (total,) = self._db.execute("SELECT count(*) FROM batch").fetchone()
        found.kept = total - found.waiting
        return found

    def view(self, lane: pb.Lane.ValueType) -> LaneView:
        state = self.lanes[lane]
        return LaneView(
            lane=lane,
            next_seq=state.next_seq,
            held=self._accounted(lane),
            complete_boot=state.complete_boot,
            complete_mono_ms=state.complete_mono_ms,
        )

    def held(self, lane: int) -> Ranges:
        """Seqs of the batches that are here."""
        held = Ranges()
        query = """SELECT min(seq), max(seq) FROM
                   (SELECT seq, seq - row_number() OVER (ORDER BY seq) AS island FROM batch WHERE lane = ?)
                   GROUP BY island"""
        for first, last in self._db.execute(query, (lane,)):
            held.add(first, last)
        return held

    def _accounted(self, lane: int) -> Ranges:
        """Those, and what they stand for."""
        held = self.held(lane)
        if lane == pb.TELEMETRY:
            standing = "SELECT replaces FROM thinned JOIN batch USING (seq) WHERE lane = ? AND replaces != x''"
            for (replaces,) in self._db.execute(standing, (lane,)):
                held.update(Ranges.unpack(replaces))
        return held


def _batch(row: tuple[int, int, int, int, int, int, int, int, int, int, int, bytes]) -> SealedBatch:
    if not isinstance(row[-1], bytes) or not all(isinstance(value, int) for value in row[:-1]):
        raise malformed("a batch has values of other types")  # SQLite does not look
    lane, seq, schema, codec, dictionary, count, body_len, crc, complete_boot, complete_mono, urgent_seq, body = row
    return SealedBatch(
        lane=pb.Lane.ValueType(lane),
        seq=seq,
        schema=schema,
        codec=codec,
        dictionary=dictionary,
        count=count,
        body_len=body_len,
        crc32=crc,
        complete_boot=complete_boot,
        complete_mono_ms=complete_mono,
        urgent_seq=urgent_seq,
        body=body,
    )
