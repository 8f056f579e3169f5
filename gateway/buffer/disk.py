"""The buffer on disk: the tail log and the sealed store behind one contract.

Invariants (each has a test with its name)
1. seals_each_row_once: the rows of a batch and the tail position that follows them commit in one transaction. The
   snapshot of rows, the write of those not yet in the tail and the choice of that position happen under the flush
   lock, so no later row can stand before the position. Killed before the commit, the scan finds the rows in the tail;
   killed after it, the position is past them.
2. completeness_never_passes_an_unrecorded_gap: gap records pending when `complete_to` is taken are sealed in the same
   transaction, before the telemetry batch that says it.
   A gap record not yet sealed is in the tail, in one record with the first row that came after it, so that a kill or a
   power cut between the two finds it there: no_row_is_kept_without_the_gap_before_it.
3. an_unsealed_row_survives_a_kill_after_250_ms: rows are handed to write() every FLUSH_EVERY_S.
4. a_full_disk_stops_no_driver: append never fails; beyond the memory limit the oldest rows go and a gap says so.

Threads. The event loop owns all state. Files are touched in three single threads (tail, sync, store), so that a slow
commit or sync never delays the next flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import structlog

from gateway.buffer import anchored, epochs, held, layout, ledger, pressure, sealing, witness
from gateway.buffer.bodies import written_bytes
from gateway.buffer.buffer import Completeness, Descent, LaneView, Opening, SealedBatch, Usage
from gateway.buffer.declaring import declare, learn
from gateway.buffer.dictionaries import Shelf
from gateway.buffer.ledger import Instant
from gateway.buffer.malformed import damaged
from gateway.buffer.quota import AWAITED, Quota
from gateway.buffer.receipt import RowReceipt
from gateway.buffer.recovery import newest, recover
from gateway.buffer.relative import Writer
from gateway.buffer.salvage import suspect
from gateway.buffer.sealed import LANES, Declared, Sealed, Sealing
from gateway.buffer.sent import Sent
from gateway.buffer.tail import Position, Tail, sync_folder
from gateway.buffer.thinner import Thinner
from gateway.buffer.urgent import EventReceipt, Taken, UrgentLane, gap_event, integrity_events
from gateway.cancelling import whole
from gateway.clock import Clock
from gateway.errors import Rejected
from gateway.reading import GroupShape, Lost, Row
from protos.columns import BodyError, Dictionary
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import BufferSection
from protos.ranges import Ranges

FLUSH_EVERY_S = 0.2
URGENT_WITHIN_S = 0.02
REPEATED_LOOK_S = 5.0
LOOK_EVERY_S = 0.1
FIRST_SEAL_S = 1.0
RETRY_S = 2.0
TIDY_EVERY_S = 30.0
SEAL_AT_READINGS = 50_000  # in memory a reading takes 40 bytes until it is sealed, and as many again while it is
MAX_UNSEALED_READINGS = 1_000_000
BYTES_PER_READING = 1.6  # first guess of the encoded size; then as measured

log = structlog.get_logger("gateway.buffer")
T = TypeVar("T")


@dataclass(slots=True)
class _Snapshot:
    """Everything appended up to one instant."""

    rows: dict[int, list[Row]]
    readings: int
    ticket: int
    urgent: Taken
    complete: Instant
    unwritten: list[tuple[int, Row]]
    """Rows the tail refused; empty when it took them."""
    position: Position


class DiskBuffer:
    """See `Buffer` for the contract. Build, `await open(shapes)`, run `run()` supervised, then `close()`."""

    opening: Opening

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        settings: BufferSection,
        batch_interval_s: float,
        pending_since: Callable[[], int | None] = lambda: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._clock = clock
        self._settings = settings
        self._pending_since = pending_since
        self.batch_interval_s = batch_interval_s
        self._limit_bytes = int(settings.limit_mb * 1_000_000)
        self._priorities: Mapping[str, int] = {}
        self._threads = {name: ThreadPoolExecutor(1, f"buffer-{name}") for name in ("tail", "sync", "store")}
        self._unflushed: list[tuple[int, Row]] = []
        self._unsealed: dict[int, list[Row]] = {}
        self._unsealed_readings = 0
        self._quota = Quota(int(settings.urgent_limit_mb * 1_000_000))
        self._urgent = UrgentLane(self._quota)
        self._restart: dict[int, Instant] = {}
        self._read_since: dict[int, Instant] = {}
        self._dropped: dict[int, Ranges] = {}
        self._ticket = self._written_ticket = self._synced_ticket = self._distrusted_ticket = 0
        self._bytes_per_reading = BYTES_PER_READING
        self._written_sealed = 0
        self._sealed_position = Position(0, 0)
        self._marked: witness.Mark | None = None
        self._learnt: set[int] = set()
        self._owed: dict[object, int] = {}
        self._flushed_ms = 0
        self._refusals: dict[str, str] = {}
        self._news = asyncio.Event()
        self._power = asyncio.Event()
        self._power.set()
        self._sync_done = asyncio.Condition()
        self._seal_lock = asyncio.Lock()
        self._flush_lock = asyncio.Lock()
        self._usage = Usage(limit_bytes=self._limit_bytes)

    # --- opening -------------------------------------------------------------------------------------

    async def open(self, shapes: Sequence[GroupShape]) -> list[int]:
        """Recover what the last run left, declare `shapes`, return their group ids in the same order.

        Raises OSError when the folder can't be written, `Misconfigured` when a newer version wrote it.
        """
        return await self._in("store", self._open, shapes)

    def _open(self, shapes: Sequence[GroupShape]) -> list[int]:
        now_ms = self._clock.wall_ms()
        with contextlib.suppress(PermissionError):
            sync_folder(self._folder.parent)  # the folder's own name
        self._store = Sealed.open(self._folder / "sealed.db", now_ms=now_ms)
        self._tail = Tail(self._folder)
        numbered, behind = witness.catch_up(self._store, self._tail, folder=self._folder, now_ms=now_ms)
        unclean = not self._store.clean or self._store.damage is not None or bool(behind)
        opens, boot = self._store.open_run(self._clock.boot_id())
        run_id = secrets.token_bytes(16)
        boot_id = self._clock.boot_id()
        self.opening = Opening(epoch=self._store.epoch, opens=opens, run_id=run_id, boot=boot, boot_id=boot_id)
        self._urgent.start(opens)
        self._quota.measure(self._store, now_ms=now_ms)
        self._shelf = Shelf(self._store)
        self._sent = Sent(self._store)
        self._thinner = Thinner(self._store, self._shelf, self._sent)
        found = recover(self._store, self._tail, now_ms=now_ms)
        self._sealed_position = found.end
        if behind and not (self._store.damage and not numbered):  # else it was said already
            found.notes.append(behind)
        for note in found.notes:
            log.error("buffer.damaged", note=note)
        previous = self._store.schemas()
        latest = previous[-1] if previous else None
        current, ids, fresh = declare(shapes, latest, self.opening.epoch, above=numbered)
        here = (boot, self._clock.mono_ms())
        self._use(current)
        self._learnt = {g.id for g, plain in zip(current.body.groups, current.shape.groups, strict=True) if g != plain}
        gone: dict[int, Instant] = {}
        if unclean:
            self._restart = dict(found.last)
            gone = dict.fromkeys(set(self._restart) - set(ids), here)
        gaps = [ledger.restart_gap(group, self._restart.pop(group), here) for group in gone]
        if found.undeclared or numbered > (latest.body.schema if latest else 0):
            gaps.append(ledger.hole_gap(0, min(found.last.values(), default=(0, 0)), here))
        self._read_since = dict.fromkeys(ids, here)
        self._commit_declared(
            Taken(here, gaps, integrity_events(here[1], found.notes)),
            current if fresh else None,
            last={group: here for group in ids if group not in found.last},
            retired=sorted(set(found.last) - set(ids)),
            tail=found.end if found.end != self._store.sealed_position() else None,
            now_ms=now_ms,
        )
        with contextlib.suppress(OSError):
            mark = self._mark()
            self._tail.append(mark.pack(), witness.SCHEMA)
            self._marked = mark
        return ids

    def _commit_declared(
        self,
        taken: Taken,
        fresh: Declared | None,
        *,
        last: dict[int, Instant],
        retired: Sequence[int],
        now_ms: int,
        tail: Position | None = None,
    ) -> None:
        batches = taken.batch(self._codebook, seq=self._store.lanes[pb.URGENT].next_seq)
        if batches or fresh or last or retired or tail:
            sealing_ = Sealing(batches=batches, declared=fresh, last_readings=last, retired=retired, tail=tail)
            self._store.seal(sealing_, now_ms=now_ms)

    @whole
    async def declare(self, shapes: Sequence[GroupShape]) -> list[int]:
        """Change what is read to `shapes`; returns their group ids in the same order. Call it while no driver runs.

        Ids are never reused: what is read no more stays declared. What waits is sealed first, so that nothing a
        retired group still had can later be taken for a silence. Durable when it returns; raises OSError.
        """
        await self.seal()
        async with self._seal_lock:
            previous = self._declared
            current, ids, fresh = declare(shapes, previous, self.opening.epoch)
            here = (self.opening.boot, self._clock.mono_ms())
            retired = sorted(self._read_since.keys() - set(ids))
            new = {group: here for group in ids if group not in self._read_since}
            gone = {group: since for group in retired if (since := self._restart.get(group)) is not None}
            taken = Taken(here, [ledger.restart_gap(group, since, here) for group, since in gone.items()])
            commit = functools.partial(
                self._commit_declared, taken, current if fresh else None, last=new, retired=retired
            )
            await self._in("store", lambda: commit(now_ms=self._clock.wall_ms()))
            for group in retired:
                del self._read_since[group]
                self._restart.pop(group, None)
            self._read_since |= new
            if fresh:
                self._use(current)
            self._news.set()
            await self._witness()
        return ids

    def limit(self, settings: BufferSection, priorities: Mapping[str, int] | None = None) -> None:
        """Keep to other limits from now on, and to these classes of sensors where something has to go."""
        self._settings = settings
        self._priorities = priorities or {}
        self._limit_bytes = int(settings.limit_mb * 1_000_000)
        self._quota.limit_bytes = int(settings.urgent_limit_mb * 1_000_000)

    def _use(self, declared: Declared) -> None:
        self._declared = declared
        self._codebook = sealing.Codebook.of(declared.body, declared.shape)
        self._writer = Writer(layout.structs_of(declared.shape))

    # --- taking --------------------------------------------------------------------------------------

    def append(self, group: int, row: Row) -> RowReceipt:
        if self._restart and group in self._restart:
            self._resumed(group, row.mono_ms)
        self._unflushed.append((group, row))
        members = self._unsealed.get(group)
        if members is None:
            members = self._unsealed[group] = []
        members.append(row)
        self._ticket += 1
        self._unsealed_readings += len(row.values)
        if self._unsealed_readings > MAX_UNSEALED_READINGS:
            self._drop_oldest_rows()
        return RowReceipt(self, self._ticket, group, row.mono_ms)

    def _resumed(self, group: int, mono_ms: int) -> None:
        """From then on the group's rows and gaps are of this start: tell what the kill before it may have cost."""
        self._urgent.gap(ledger.restart_gap(group, self._restart.pop(group), (self.opening.boot, mono_ms)))

    def lost(self, group: int, lost: Lost) -> None:
        if group in self._restart:
            self._resumed(group, lost.after_mono_ms + 1)
        self._urgent.gap(ledger.lost_gap(group, self.opening.boot, lost))

    def event(self, kind: pb.EventKind.ValueType, detail: bytes, *, group: int = 0, severity: int = 0) -> EventReceipt:
        if kind in AWAITED and not self._power.is_set():
            raise Rejected("the power is failing; keep this one and send it again")
        message = pb.Event(group=group, kind=kind, severity=severity, detail=detail)
        return self._urgent.event(self._clock.mono_ms(), message)

    def _drop_oldest_rows(self) -> None:
        """Memory's last resort: neither tail nor store can be written. Half of each group goes, with its gap."""
        went: set[int] = set()
        for group, members in self._unsealed.items():
            gone, kept = members[: len(members) // 2], members[len(members) // 2 :]
            if gone:
                went |= set(map(id, gone))
                self._dropped.setdefault(group, Ranges()).add(gone[0].mono_ms, gone[-1].mono_ms)
                lost = Lost(gone[0].mono_ms - 1, kept[0].mono_ms, len(gone), pb.GAP_DROPPED)
                self._urgent.gap(ledger.lost_gap(group, self.opening.boot, lost))
                self._unsealed_readings -= sum(len(row.values) for row in gone)
                self._unsealed[group] = kept
        self._unflushed = [(group, row) for group, row in self._unflushed if id(row) not in went]
        log.error("rows.dropped", reason="neither tail nor store can be written")

    def dropped(self, group: int, mono_ms: int) -> bool:
        """Whether the row read then went for want of space."""
        return group in self._dropped and mono_ms in self._dropped[group]

    # --- the loops -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Flush, sync, seal and tidy until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._flush_loop(), name="buffer.flush")
            tasks.create_task(self._sync_loop(), name="buffer.sync")
            tasks.create_task(self._urgent_loop(), name="buffer.urgent")
            tasks.create_task(self._seal_loop(), name="buffer.seal")
            tasks.create_task(self._tidy_loop(), name="buffer.tidy")

    async def _flush_loop(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            await self._power.wait()
            if self._unflushed:
                await self.flush()

    async def _sync_loop(self) -> None:
        while True:
            await asyncio.sleep(max(self._settings.sync_every_s, 0.05))
            await self._power.wait()
            if self._synced_ticket < self._written_ticket:
                await self._sync()

    async def _urgent_loop(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPEATED_LOOK_S):
                    await self._urgent.news.wait()
            if not self._urgent.news.is_set() and not self._urgent.due(self._clock.mono_ms()):
                continue
            await asyncio.sleep(URGENT_WITHIN_S)
            await self._power.wait()
            self._urgent.news.clear()
            try:
                await self._seal_urgent()
            except OSError as error:
                await self._refused("store", error)
                self._urgent.news.set()

    async def _seal_loop(self) -> None:
        started = self._clock.mono_ms()
        first = True  # whoever has just switched the box on waits for its first values
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._power.wait()
            interval_s = min(FIRST_SEAL_S, self.batch_interval_s) if first else self.batch_interval_s
            if self._clock.mono_ms() - started < interval_s * 1000 and not self.wants_sealing():
                continue
            started = self._clock.mono_ms()
            first = first and not self._unsealed
            try:
                await self.seal()
            except OSError as error:
                await self._refused("store", error)

    def wants_sealing(self) -> bool:
        """What waits has the size of a batch, whatever the interval."""
        if self._unsealed_readings >= SEAL_AT_READINGS or self._synced_ticket < self._distrusted_ticket:
            return True
        if self._unsealed_readings * self._bytes_per_reading >= self._settings.seal_max_kb * 1024:
            return True
        return sum(map(len, self._unsealed.values())) >= self._settings.seal_max_rows

    async def _tidy_loop(self) -> None:
        while True:
            await self._power.wait()
            try:
                await self.tidy()
            except OSError as error:
                await self._refused("store", error)
            await asyncio.sleep(TIDY_EVERY_S)

    async def _refused(self, what: str, error: OSError) -> None:
        self._refusals[what] = str(error)
        log.error("buffer.unwritable", part=what, error=str(error), unsealed_readings=self._unsealed_readings)
        await asyncio.sleep(RETRY_S)

    # --- the tail ------------------------------------------------------------------------------------

    @whole
    async def flush(self) -> None:
        async with self._flush_lock:
            rows, ticket = self._unflushed, self._ticket
            self._unflushed = []
            if await self._write(rows):
                self._written_ticket = ticket
            else:
                self._unflushed[:0] = [(group, row) for group, row in rows if not self.dropped(group, row.mono_ms)]
            self._flushed_ms = self._clock.mono_ms()

    async def _write(self, rows: list[tuple[int, Row]]) -> bool:
        """Append one record, under the flush lock; False if the disk refused."""
        if not rows:
            return True
        gaps = self._urgent.unlogged()
        payload, relative = self._writer.pack(self.opening.boot, rows, gaps)
        append = functools.partial(self._tail.append, relative=relative)
        try:
            await self._in("tail", append, payload, self._declared.body.schema)
        except OSError as error:
            self._writer.forget()
            log.error("tail.unwritable", error=str(error), rows=len(rows))
            self._refusals["tail"] = str(error)
            return False
        if gaps:
            self._urgent.logged(gaps[-1][0])
        self._refusals.pop("tail", None)
        return True

    async def _sync(self) -> None:
        ticket = self._written_ticket
        try:
            await self._in("sync", self._tail.sync)
        except OSError as error:
            log.error("tail.unsyncable", error=str(error))
            self._refusals["sync"] = str(error)
            self._distrusted_ticket = self._ticket  # a later sync that succeeds says nothing of these: seal them
        else:
            if self._synced_ticket >= self._distrusted_ticket:
                await self._mark_synced(ticket)

    async def _mark_synced(self, ticket: int) -> None:
        async with self._sync_done:
            self._synced_ticket = max(self._synced_ticket, ticket)
            if self._synced_ticket >= self._distrusted_ticket:
                self._refusals.pop("sync", None)
            self._sync_done.notify_all()

    async def synced(self, ticket: int) -> None:
        """Return once rows up to `ticket` are on stable storage."""
        while self._synced_ticket < ticket:
            await self._power.wait()
            await self.flush()
            await self._sync()
            if self._synced_ticket < ticket:
                with contextlib.suppress(OSError):
                    await self.seal()
            if self._synced_ticket < ticket:
                await asyncio.sleep(RETRY_S)

    async def secure(self) -> None:
        """The power is failing: what was taken goes to stable storage, and nothing is written or confirmed after it.

        Rows are still taken, into memory. Raises OSError; what it could not write is then where it was before.
        """
        self._power.clear()
        written = asyncio.gather(self._secure_rows(), self._seal_urgent(), return_exceptions=True)
        for outcome in await written:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _secure_rows(self) -> None:
        await self.flush()
        await self._sync()

    def resume(self) -> None:
        """The power is back: go on as before."""
        self._flushed_ms = self._clock.mono_ms()  # nobody owed a write meanwhile
        self._power.set()

    # --- sealing -------------------------------------------------------------------------------------

    @whole
    async def seal(self) -> None:
        """Turn every row appended so far into batches. Raises OSError if the store refused; then nothing changed."""
        async with self._seal_lock:
            if not self._unsealed:
                return
            snapshot = await self._snapshot()
            try:
                learnt = learn(self._declared, snapshot.rows, self._learnt)
                sizes = await self._in("store", self._commit, snapshot, learnt)
            except BaseException:
                self._put_back(snapshot)
                raise
            self._refusals.pop("store", None)
            self._sealed_position = snapshot.position
            if learnt is not None:
                self._use(learnt)
            self._urgent.settle(snapshot.urgent)
            self._bytes_per_reading = max(0.2, sum(sizes) / max(1, snapshot.readings))
            self._written_sealed += sum(map(written_bytes, sizes))
            self._news.set()
            await self._witness()
        await self._mark_synced(snapshot.ticket)

    async def _snapshot(self) -> _Snapshot:
        async with self._flush_lock:
            now = self._clock.mono_ms()
            pending = self._pending_since()
            complete = (self.opening.boot, (now if pending is None else min(now, pending)) - 1)
            snapshot = _Snapshot(
                rows=self._unsealed,
                readings=self._unsealed_readings,
                ticket=self._ticket,
                urgent=self._urgent.take((self.opening.boot, now - 1)),
                complete=complete,
                unwritten=self._unflushed,
                position=self._tail.end,
            )
            self._unsealed, self._unsealed_readings, self._unflushed = {}, 0, []
            if await self._write(snapshot.unwritten):
                snapshot.unwritten = []
                self._written_ticket = snapshot.ticket
            snapshot.position = self._tail.rotate(self._sealed_position)
            self._writer.forget()
            return snapshot

    def _commit(self, snapshot: _Snapshot, learnt: Declared | None) -> list[int]:
        """Returns the size of each body."""
        codebook = self._codebook if learnt is None else sealing.Codebook.of(learnt.body, learnt.shape)
        try:
            telemetry = self._telemetry(codebook, snapshot, snapshot.rows)
        except (BodyError, TypeError, ValueError) as error:
            log.error("rows.refused", error=str(error))
            good, refused = sealing.sift(codebook, self.opening.boot, snapshot.rows)
            snapshot.urgent.gaps += [ledger.refused_gap(g, self.opening.boot, rows) for g, rows in refused.items()]
            telemetry = self._telemetry(codebook, snapshot, good)
        next_urgent = self._store.lanes[pb.URGENT].next_seq
        batches = snapshot.urgent.batch(codebook, seq=next_urgent)
        if telemetry:  # says for both lanes how far they are complete
            telemetry[-1] = replace(telemetry[-1], urgent_seq=next_urgent - 1 + len(batches))
        batches += telemetry
        sealed = Sealing(
            batches=batches,
            tail=snapshot.position,
            last_readings=newest(snapshot.rows, self.opening.boot),
            declared=learnt,
            gaps_through=snapshot.urgent.gaps_through,
            anchors=anchored.found_in(snapshot.urgent.events),
        )
        self._store.seal(sealed, now_ms=self._clock.wall_ms())
        self._quota.sealed(batches)
        return [len(b.body) for b in batches]

    def _telemetry(
        self, codebook: sealing.Codebook, snapshot: _Snapshot, rows: dict[int, list[Row]]
    ) -> list[SealedBatch]:
        state = self._store.lanes[pb.TELEMETRY]
        before = (state.complete_boot, state.complete_mono_ms)
        return sealing.telemetry(
            codebook,
            self.opening.boot,
            rows,
            first_seq=state.next_seq,
            complete=max(snapshot.complete, before),
            before=before,
            packer=self._shelf.packer,
        )

    def _put_back(self, snapshot: _Snapshot) -> None:
        for group, members in snapshot.rows.items():
            self._unsealed[group] = members + self._unsealed.get(group, [])
        self._unsealed_readings += snapshot.readings
        self._unflushed[:0] = snapshot.unwritten
        self._urgent.put_back(snapshot.urgent)

    @whole
    async def _seal_urgent(self) -> None:
        async with self._seal_lock:
            taken = self._urgent.take((self.opening.boot, self._clock.mono_ms() - 1))
            try:
                await self._in("store", self._commit_urgent, taken)
            except BaseException:
                self._urgent.put_back(taken)
                raise
            self._urgent.settle(taken)
            self._news.set()
            await self._witness()

    async def _witness(self) -> None:
        """Let the tail remember what the store has committed, if that is more; under the seal lock."""
        mark = self._mark()
        if mark == self._marked:
            return
        async with self._flush_lock:
            with contextlib.suppress(OSError):
                await self._in("tail", self._tail.append, mark.pack(), witness.SCHEMA)
                self._marked = mark

    def _mark(self) -> witness.Mark:
        here, lanes = self.opening, self._store.lanes
        return witness.Mark(
            epoch=here.epoch,
            opens=here.opens,
            boot=here.boot,
            schema=self._declared.body.schema,
            urgent_next=lanes[pb.URGENT].next_seq,
            telemetry_next=lanes[pb.TELEMETRY].next_seq,
            gaps_through=self._urgent.sealed_through,
            generation=self._sealed_position.generation,
            offset=self._sealed_position.offset,
            boot_id=here.boot_id,
        )

    def _commit_urgent(self, taken: Taken, removing: Sealing | None = None) -> None:
        batches = taken.batch(self._codebook, seq=self._store.lanes[pb.URGENT].next_seq)
        if batches or removing:
            facts, anchors = removing or Sealing(), anchored.found_in(taken.events)
            sealing_ = replace(facts, batches=batches, gaps_through=taken.gaps_through, anchors=anchors)
            self._store.seal(sealing_, now_ms=self._clock.wall_ms())
            self._quota.sealed(batches)

    # --- space ---------------------------------------------------------------------------------------

    async def tidy(self) -> None:
        """Keep to the limits of age and size, and measure; step by step, so that sealing goes on in between."""
        while await self._relieved():
            pass
        async with self._seal_lock:
            self._usage = await self._in("store", self._measured, sum(map(len, self._unsealed.values())))
            self._news.set()

    @whole
    async def _relieved(self) -> bool:
        async with self._seal_lock:
            more = await self._in("store", self._relieve)
            await self._witness()
            return more

    def _relieve(self) -> bool:
        self._store.join_old_hours()  # what writes comes before what counts
        self._thinner.priorities = self._priorities
        return pressure.relieve(
            self._store,
            self._thinner,
            now_ms=self._clock.wall_ms(),
            keep_ms=int(self._settings.keep_acknowledged_h * 3_600_000),
            limit_bytes=self._limit_bytes,
            used=self._bytes,
            seal_with=self._commit_removal,
        )

    def _measured(self, unsealed_rows: int) -> Usage:
        self._shelf.forget_unused()
        self._quota.measure(self._store, now_ms=self._clock.wall_ms())
        counts = self._store.counts()
        return Usage(
            bytes_on_disk=self._bytes(),
            limit_bytes=self._limit_bytes,
            unsealed_rows=unsealed_rows,
            waiting_batches=counts.waiting,
            waiting_readings=counts.readings,
            waiting_bytes=counts.bytes,
            oldest_waiting_ms=counts.oldest_ms,
            kept_batches=counts.kept,
            dropped_readings=self._store.dropped_readings(),
            thinned_readings=self._store.fact("thinned_readings"),
            urgent_bytes=self._quota.used_bytes,
            urgent_limit_bytes=self._quota.limit_bytes,
            written_bytes=self._tail.written_bytes + self._written_sealed + self._thinner.written_bytes,
        )

    def _commit_removal(self, event: pb.Event, removing: Sealing) -> None:
        asides = [(lane, seq) for lane, seq, _ in removing.asides]
        before = self._thinner.lost_before(seq for lane, seq in (*removing.drops, *asides) if lane == pb.TELEMETRY)
        told = held.with_rows(event, self._store.query, before)
        removing = replace(removing, counted=before)
        self._commit_urgent(Taken((self.opening.boot, 0), [], [(self._clock.mono_ms(), told)]), removing)

    def _bytes(self) -> int:
        return self._store.bytes_used() + self._tail.bytes_on_disk

    # --- sending -------------------------------------------------------------------------------------

    async def views(self) -> list[LaneView]:
        return await self._in("store", lambda: [self._store.view(lane) for lane in LANES])

    def completeness(self) -> list[Completeness]:
        now = self._clock.mono_ms()
        pending = self._pending_since()
        idle = not self._seal_lock.locked() and self._urgent.empty
        quiet = {pb.URGENT: idle, pb.TELEMETRY: idle and not self._unsealed}
        said = {pb.URGENT: now - 1, pb.TELEMETRY: (now if pending is None else min(now, pending)) - 1}
        found = []
        for lane in LANES:
            state = self._store.lanes[lane]
            at = (state.complete_boot, state.complete_mono_ms)
            if quiet[lane]:
                at = max(at, (self.opening.boot, said[lane]))
            found.append(Completeness(lane=lane, seq=state.next_seq - 1, boot=at[0], mono_ms=at[1]))
        return found

    async def schemas(self) -> list[pb.Declare]:
        declared = await self._in("store", self._store.schemas)
        return [d.body for d in declared]

    def dictionaries(self) -> list[int]:
        return self._shelf.names()

    @whole
    async def learn(self, dictionary: Dictionary, *, schema: int) -> None:
        async with self._seal_lock:
            await self._in("store", self._shelf.keep, dictionary, schema)

    async def dictionary(self, name: int) -> tuple[Dictionary, int] | None:
        return await self._in("store", self._shelf.find, name)

    @whole
    async def give_up_dictionary(self, name: int) -> None:
        while naming := await self._in("store", self._shelf.naming, name):
            log.error("batches.set_aside", batches=len(naming), reason=f"dictionary {name:08x} is lost")
            seqs = [seq for seq, _ in naming]
            gap = await self._in("store", pressure.given_up, self._store, pb.TELEMETRY, seqs, pb.GAP_UNREADABLE)
            event = gap_event(gap, pb.SEVERITY_ALARM)
            asides = [(pb.TELEMETRY, seq, f"dictionary {name:08x} is lost") for seq, _ in naming]
            async with self._seal_lock:
                await self._in("store", self._commit_removal, event, Sealing(asides=asides))
                self._news.set()
                await self._witness()

    @whole
    async def lease(
        self, lane: pb.Lane.ValueType, after_seq: int, limit: int, to_seq: int | None = None
    ) -> list[SealedBatch]:
        while True:
            whole, damaged = await self._in("store", self._lease, lane, after_seq, limit, to_seq)
            for batch in damaged:
                await self._give_up(lane, batch.seq, batch.count, "stored bytes are damaged", pb.GAP_UNREADABLE)
            if whole or not damaged:
                return whole

    def _lease(self, lane: int, *span: Any) -> tuple[list[SealedBatch], list[SealedBatch]]:
        whole, damaged = self._store.lease(lane, *span)
        if lane == pb.TELEMETRY:
            self._sent.leasing(batch.seq for batch in whole)
        return whole, damaged

    @whole
    async def ack(self, lane: pb.Lane.ValueType, received: Ranges) -> None:
        async with self._seal_lock:
            await self._in("store", self._store.ack, lane, received)

    async def descent(self) -> Descent:
        return await self._in("store", epochs.descent, self._store)

    @whole
    async def welcomed(self, session: int, received: Mapping[int, Ranges]) -> None:
        async with self._seal_lock:
            await self._in("store", epochs.agree, self._store, session, received)
            await self._in("store", self._sent.welcomed)
            self._news.set()

    @whole
    async def begin_epoch(self, received: Mapping[int, Ranges]) -> None:
        async with self._seal_lock:
            here = (self.opening.boot, self._clock.mono_ms())
            begin = functools.partial(epochs.begin, self._store, received, codebook=self._codebook, here=here)
            self._use(await self._in("store", lambda: begin(now_ms=self._clock.wall_ms())))
            self.opening = replace(self.opening, epoch=self._store.epoch)
            await self._in("store", self._sent.welcomed)
            log.warning("epoch.begun", epoch=f"{self._store.epoch:08x}", why="the server ordered it")
            self._news.set()
            await self._witness()

    @whole
    async def reject(self, lane: pb.Lane.ValueType, seq: int, reason: str) -> None:
        found, _ = await self._in("store", self._store.lease, lane, seq - 1, 1)
        count = found[0].count if found and found[0].seq == seq else 0
        await self._give_up(lane, seq, count, reason, pb.GAP_REJECTED)

    async def _give_up(
        self, lane: pb.Lane.ValueType, seq: int, count: int, reason: str, why: pb.GapReason.ValueType
    ) -> None:
        log.error("batch.set_aside", lane=lane, seq=seq, readings=count, reason=reason)
        event = gap_event(await self._in("store", pressure.given_up, self._store, lane, [seq], why), pb.SEVERITY_ALARM)
        async with self._seal_lock:
            await self._in("store", self._commit_removal, event, Sealing(asides=[(lane, seq, reason)]))
            self._news.set()
            await self._witness()

    async def wait_sealed(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()

    def usage(self) -> Usage:
        """As of the last tidying (every 30 s, or after `tidy`)."""
        return self._usage

    def refused(self) -> str:
        """What the disk said when it last refused a write; empty once it takes them again."""
        return "; ".join(f"{part}: {said}" for part, said in self._refusals.items())

    def damaged(self) -> str:
        """What is wrong with the store's file, found while it runs, for the next start to set it aside; else empty."""
        return self._refusals.get("damage", "")

    def unsealed(self) -> int:
        """Rows in no batch yet."""
        return sum(map(len, self._unsealed.values()))

    def unsealed_of(self, group: int) -> int:
        """The same of one group."""
        return len(self._unsealed.get(group, ()))

    def standstill_ms(self) -> int:
        """For how long the disk has owed an answer, or rows have waited for a loop to write them; 0: for nothing.

        A refusal is an answer.
        """
        now_ms = self._clock.mono_ms()
        since = list(self._owed.values())
        if self._unflushed and self._power.is_set():
            since.append(max(self._unflushed[0][1].mono_ms, self._flushed_ms))
        return max(0, now_ms - min(since, default=now_ms))

    async def close(self) -> None:
        """Seal what there is and mark the stop as clean; whatever can't be written stays in the tail."""
        try:
            await self.seal()
            await self._seal_urgent()
            if not self._restart:
                await self._in("store", self._store.close_clean)
        except OSError as error:
            log.error("store.unwritable", error=str(error), at="close")
        await self._in("store", self._store.close)
        await self._in("tail", self._tail.close)
        for thread in self._threads.values():
            thread.shutdown()

    async def _in(self, thread: str, call: Callable[..., T], *args: Any) -> T:
        """Run a blocking call in its thread; what SQLite says of the disk becomes an OSError."""
        asked = object()
        self._owed[asked] = self._clock.mono_ms()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads[thread], call, *args)
        except sqlite3.Error as error:
            if thread == "store" and damaged(error):
                self._refusals["damage"] = str(error)
                suspect(self._folder / "sealed.db")
            raise OSError(f"{self._folder / 'sealed.db'}: {error}") from error
        finally:
            del self._owed[asked]
