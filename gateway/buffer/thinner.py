"""Puts a thinned batch in the place of a run of others, when the byte limit asks for it.

A *run* is one schema and one boot, oldest first, and of a size that is decoded and written within 100 ms. What a run
becomes is one new batch at the end of the lane: `replaces` names the seqs it stands for, its rows are those that stay,
and a gap record per group inside says how many went. Where that saves less than a fifth, the run is asked for the next
stage at once; where none does, it is left for dropping.

Not for thinning: what is acknowledged, and what may have been sent since the last Welcome.

Crash argument: one transaction deletes the run and adds the batch, so a kill leaves one or the other; the numbers of
the run count as accounted for from then on, and Hello names them as held, for the batch that stands for them is.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from gateway.buffer import sealing, tally, thinning
from gateway.buffer.bodies import BODY, SIZE, written_bytes
from gateway.buffer.buffer import SealedBatch
from gateway.buffer.dictionaries import Shelf
from gateway.buffer.sealed import Sealed, Sealing, Thinned
from gateway.buffer.sent import Sent
from gateway.buffer.thinning import CLASSES, HIGH, LAST_STAGE, NORMAL, STAGES, Rows
from gateway.buffer.urgent import gap_event
from protos import columns
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS, Cell
from protos.ranges import Ranges

RUN_READINGS = 50_000
RUN_BYTES = 512 << 10
RUN_BATCHES = 256
SAVES_AT_LEAST = 0.2
FIRST_STEP = STAGES[: len(CLASSES)]
STRETCHES = 2
"""A run covers so many stretches of its step at least, unless it can't grow: thinning seconds saves nothing."""
_RAW = f"""SELECT seq, seq, schema, count, {SIZE}, 0, 0, x'', sealed_ms FROM batch
          WHERE lane = ? AND seq BETWEEN ? AND ? AND seq NOT IN (SELECT seq FROM thinned) ORDER BY seq LIMIT ?"""
_OF_THINNED = f"""SELECT batch.seq, first_seq, schema, count, {SIZE}, stage, lost, replaces, sealed_ms
                 FROM thinned JOIN batch ON batch.lane = ? AND batch.seq = thinned.seq """
_REWRITTEN = _OF_THINNED + "WHERE stage < ? ORDER BY first_seq"
_ONE_REWRITTEN = _OF_THINNED + "WHERE batch.seq = ?"


class Candidate(NamedTuple):
    """A batch as it rests, without its body. `first_seq`: of the oldest batch it stands for."""

    seq: int
    first_seq: int
    schema: int
    readings: int
    size: int
    stage: int
    lost: int
    replaces: bytes
    sealed_ms: int


@dataclass(slots=True)
class _Run:
    """Batches taken together, decoded. `closed`: no other could join them."""

    schema: int
    boot: int
    members: list[Candidate] = field(default_factory=list)
    rows: dict[int, Rows] = field(default_factory=dict)
    events: list[tuple[int, pb.Event]] = field(default_factory=list)
    gaps: list[pb.Gap] = field(default_factory=list)
    closed: bool = False

    @property
    def readings(self) -> int:
        return sum(one.readings for one in self.members)

    @property
    def size(self) -> int:
        return sum(one.size for one in self.members)

    @property
    def span_ms(self) -> int:
        times = [at for rows in self.rows.values() for at in (rows.times[0], rows.times[-1])]
        return max(times, default=0) - min(times, default=0)

    def take(self, candidate: Candidate, decoded: columns.Decoded, schema: columns.Schema) -> None:
        self.members.append(candidate)
        for block in decoded.blocks:
            self.rows.setdefault(block.group, Rows(schema.groups[block.group])).add(block)
        for at_ms, event in decoded.events:
            gap = pb.Gap.FromString(event.detail) if event.kind == pb.EVENT_GAP else None
            if gap is not None and gap.reason == pb.GAP_THINNED:
                self.gaps.append(gap)
            else:
                self.events.append((at_ms, event))


class Thinner:
    """Synchronous, in the thread of the store and under the seal lock.

    `priorities`: sensor → class, for those whose configuration names one; a group with cargo temperature is high else.
    """

    def __init__(self, store: Sealed, shelf: Shelf, sent: Sent) -> None:
        self._store = store
        self._shelf = shelf
        self._sent = sent
        self.priorities: Mapping[str, int] = {}
        self._codebooks: dict[int, sealing.Codebook] = {}
        self._too_short: dict[int, int] = {}
        self.written_bytes = 0

    def step(self) -> bool:
        """Thin one run of the lowest stage there is one for, or find that it can't be; False if there is none."""
        for stage in STAGES:
            run = self._run(stage)
            if run is not None:
                self._thin(run, stage)
                return True
        return False

    def lost_before(self, seqs: Iterable[int]) -> list[pb.Gap]:
        """What was thinned of these batches, by the records inside them; of those that can be read."""
        found = [one for seq in seqs for one in self._query(_ONE_REWRITTEN, pb.TELEMETRY, seq)]
        read = [decoded for one in found if (decoded := self._decoded(one)) is not None]
        told = [pb.Gap.FromString(e.detail) for one in read for _, e in one.events if e.kind == pb.EVENT_GAP]
        return [gap for gap in told if gap.reason == pb.GAP_THINNED]

    # --- choosing ------------------------------------------------------------------------------------

    def _run(self, stage: int) -> _Run | None:
        newest = self._store.lanes[pb.TELEMETRY].next_seq
        if self._too_short.get(stage) == newest:
            return None
        found = self._candidates(stage)
        run = self._gathered(found)
        if run is None:
            return None
        for rows in run.rows.values():
            rows.sort()
        if not run.closed and len(found) < RUN_BATCHES and run.span_ms < STRETCHES * thinning.step_ms(stage):
            self._too_short[stage] = newest  # look again when there is more
            return None
        return run

    def _candidates(self, stage: int) -> list[Candidate]:
        """Oldest first, of schemas that have the class this stage thins; what is still whole begins with minutes."""
        state = self._store.lanes[pb.TELEMETRY]
        taken = self._sent.joined_with(state.acked)
        raw: list[Candidate] = []
        for first, last in taken.missing(1, state.next_seq - 1) if stage in FIRST_STEP else ():
            raw += self._query(_RAW, pb.TELEMETRY, first, last, RUN_BATCHES - len(raw))
            if len(raw) >= RUN_BATCHES:
                break
        rewritten = [one for one in self._query(_REWRITTEN, pb.TELEMETRY, stage) if one.seq not in taken]
        class_ = thinning.thinned_class(stage)
        has = {schema: self._has(schema, class_) for schema in {one.schema for one in (*raw, *rewritten)}}
        chosen = [one for one in (*raw, *rewritten) if has[one.schema]]
        return sorted(chosen, key=lambda one: one.first_seq)[:RUN_BATCHES]

    def _has(self, schema: int, class_: int) -> bool:
        try:
            groups = self._codebook(schema).schema.groups.values()
        except KeyError:
            return False  # sending such a batch sets it aside
        return any(self._class(group) == class_ for group in groups)

    def _query(self, query: str, *parameters: int) -> list[Candidate]:
        return [Candidate(*row) for row in self._store.query(query, parameters)]

    def _gathered(self, found: Iterable[Candidate]) -> _Run | None:
        run: _Run | None = None
        for candidate in found:
            decoded = self._decoded(candidate)
            if decoded is None:
                self._pass_over([candidate])  # damaged: sending it sets it aside
                continue
            if run is None:
                run = _Run(candidate.schema, decoded.boot)
            elif (run.schema, run.boot) != (candidate.schema, decoded.boot):
                run.closed = True
                break
            run.take(candidate, decoded, self._codebook(candidate.schema).schema)
            if run.readings >= RUN_READINGS or run.size >= RUN_BYTES:
                run.closed = True
                break
        return run

    def _decoded(self, candidate: Candidate) -> columns.Decoded | None:
        """None for bytes that are not those that were sealed, or can't be read."""
        query = f"SELECT codec, dictionary, {BODY}, body_len, crc32 FROM batch WHERE lane = ? AND seq = ?"
        codec, name, body, body_len, crc = self._store.query(query, (pb.TELEMETRY, candidate.seq)).fetchone()
        if zlib.crc32(body) != crc:
            return None
        held = self._shelf.find(name) if codec == pb.CODEC_ZSTD_DICT else None
        try:
            plain = columns.unpack(codec, body, body_len=body_len, dictionary=held[0] if held else None)
            return columns.decode(self._codebook(candidate.schema).schema, plain, count=candidate.readings)
        except (columns.BodyError, KeyError):
            return None

    def _codebook(self, schema: int) -> sealing.Codebook:
        found = self._codebooks.get(schema)
        if found is None:
            declared = {one.body.schema: one for one in self._store.schemas()}[schema]
            found = self._codebooks[schema] = sealing.Codebook.of(declared.body, declared.shape)
        return found

    def _class(self, group: columns.GroupColumns) -> int:
        role = any(spec.attrs.get("role") == "cargo_temperature" for spec in group.columns)
        return self.priorities.get(group.sensor, HIGH if role else NORMAL)

    # --- rewriting -----------------------------------------------------------------------------------

    def _thin(self, run: _Run, stage: int) -> None:
        """Rewrite the run at this stage, or the next one that saves enough; where none does, leave it for dropping."""
        classes = {group: self._class(rows.group) for group, rows in run.rows.items()}
        for further in range(stage, LAST_STAGE + 1):
            if thinning.thinned_class(further) not in classes.values():
                continue
            kept = {group: self._kept(rows, classes[group], further) for group, rows in run.rows.items()}
            left = sum(len(some) * len(run.rows[group].columns) for group, some in kept.items())
            if left > (1 - SAVES_AT_LEAST) * run.readings:
                continue
            new = [thinning.gone(run.rows[group], some, boot=run.boot) for group, some in kept.items()]
            gaps = [gap for gap in new if gap is not None]
            made = self._batch(run, kept, gaps)
            if len(made.body) <= (1 - SAVES_AT_LEAST) * run.size:
                self._commit(run, made, gaps, further)
                return
        self._pass_over(run.members)

    def _kept(self, rows: Rows, class_: int, stage: int) -> Sequence[int]:
        every_ms = thinning.every_ms(stage, class_)
        return range(len(rows.times)) if every_ms is None else thinning.kept_rows(rows, every_ms)

    def _batch(self, run: _Run, kept: Mapping[int, Sequence[int]], new: Sequence[pb.Gap]) -> SealedBatch:
        gaps = thinning.united([*run.gaps, *new])
        events = [*run.events, *((gap.to_mono_ms, gap_event(gap)) for gap in gaps)]
        state = self._store.lanes[pb.TELEMETRY]
        replaces = Ranges((one.seq, one.seq) for one in run.members)
        for one in run.members:
            replaces.update(Ranges.unpack(one.replaces))
        made = sealing.rewritten(
            self._codebook(run.schema),
            run.boot,
            [run.rows[group].block(some) for group, some in kept.items()],
            events,
            seq=state.next_seq,
            complete=(state.complete_boot, state.complete_mono_ms),
            packer=self._shelf.packer,
        )
        left = Counter(
            Cell(group, run.boot, run.rows[group].times[row] // HOUR_MS) for group, some in kept.items() for row in some
        )
        return replace(made, replaces=tuple(replaces), cells=tally.pack(left))

    def _commit(self, run: _Run, made: SealedBatch, new: Sequence[pb.Gap], stage: int) -> None:
        lost_now = run.readings - made.count
        thinned = Thinned(
            seq=made.seq,
            gone=[one.seq for one in run.members],
            replaces=Ranges(made.replaces),
            stage=stage,
            lost=lost_now + sum(one.lost for one in run.members),
            lost_now=lost_now,
        )
        sealed_ms = min(one.sealed_ms for one in run.members)
        self._store.seal(Sealing(batches=[made], thinned=thinned, gaps=new), now_ms=sealed_ms)
        self.written_bytes += written_bytes(len(made.body))

    def _pass_over(self, members: Sequence[Candidate]) -> None:
        """They can't be thinned: remember it, so that they are not tried again."""
        with self._store.transaction(synchronous="NORMAL") as run:
            for one in members:
                row = (one.seq, one.first_seq, LAST_STAGE, one.lost, one.replaces)
                run("INSERT OR REPLACE INTO thinned VALUES(?, ?, ?, ?, ?)", row)
