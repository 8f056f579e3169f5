"""What opening after a stop does: rows still in the tail become batches, holes and unreadable files become gaps.

Crash argument: each step seals rows, and the gap records found among them, together with the tail position after
them, so being killed here and starting again continues where this left off: such a position is before a full record,
which needs nothing from before it, or before a hole. A gap record sealed before the stop is told by its number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from gateway.buffer import layout, ledger, sealing, witness
from gateway.buffer.buffer import SealedBatch
from gateway.buffer.ledger import Instant
from gateway.buffer.relative import Reader
from gateway.buffer.sealed import Declared, Sealed, Sealing
from gateway.buffer.tail import Position, Record, Tail
from gateway.buffer.urgent import gap_event
from gateway.reading import Row
from protos.columns import BodyError
from protos.comboio.v1 import batch_pb2 as pb

STEP_READINGS = 100_000


@dataclass(slots=True)
class Recovered:
    """`last`: group → its last durable reading. `notes`: what a person should know."""

    last: dict[int, Instant]
    end: Position
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    undeclared: bool = False
    """Records were found whose declaration the store does not have: of which groups their rows were, nobody knows."""


@dataclass(slots=True)
class _Step:
    """Rows of consecutive records of one schema and boot, and the gap records around them, sealed together."""

    declared: Declared
    boot: int
    rows: dict[int, list[Row]] = field(default_factory=dict)
    readings: int = 0
    gaps: list[pb.Gap] = field(default_factory=list)
    gaps_through: int = 0

    def takes(self, declared: Declared, boot: int) -> bool:
        if not self.rows:  # only gap records so far, which any declaration can carry
            self.declared, self.boot = declared, boot
        return (self.declared, self.boot) == (declared, boot)


def recover(store: Sealed, tail: Tail, *, now_ms: int) -> Recovered:
    """Seal what the tail holds beyond the sealed position, and leave the tail ready to go on."""
    position = store.sealed_position()
    found = Recovered(store.last_readings(), position)
    reading = _Reading(store, found)
    damaged = bool(store.damage)
    if store.damage:
        found.notes.append(f"damaged buffer set aside as {store.damage}")
    for record in tail.scan(position):
        damaged |= not reading.take(record)
        found.end = record.end
    reading.seal()
    if damaged:
        found.notes.append(f"damaged tail copied aside as {tail.set_aside(f'damaged-{now_ms}').name}")
    found.end = tail.start(found.end)
    return found


class _Reading:
    """Turns records into steps."""

    def __init__(self, store: Sealed, found: Recovered) -> None:
        self._store = store
        self._found = found
        self._declared = {d.body.schema: d for d in store.schemas()}
        self._gaps_through = store.gaps_through()
        self._step: _Step | None = None
        self._reader = Reader()
        self._holed: dict[int, Instant] = {}
        """Groups that have not been met again since a hole, and their last reading before it."""

    def take(self, record: Record) -> bool:
        """False if bytes before it could not be read, or it can't itself for want of its declaration."""
        if record.hole:
            self._hole()
        return self._take(record) and not record.hole

    def _hole(self) -> None:
        self.seal()
        self._reader.forget()
        self._holed = dict(self._found.last)

    def _take(self, record: Record) -> bool:
        if record.schema == witness.SCHEMA:
            return True
        if record.schema == layout.GAPS_SCHEMA:
            return bool(self._declared) and self._take_gaps(layout.unpack_gaps(record.payload)[0])
        declared = self._declared.get(record.schema)
        if declared is None:
            self._hole()
            self._found.undeclared = True
            return False
        structs = layout.structs_of(declared.shape)
        boot, gaps, pairs = self._reader.unpack(record.payload, structs, relative=record.relative)
        self._take_gaps(gaps)
        step = self._step_for(declared, boot, record)
        for group, row in pairs:
            if group in self._holed:
                step.gaps.append(ledger.hole_gap(group, self._holed.pop(group), (boot, row.mono_ms)))
            step.rows.setdefault(group, []).append(row)
            step.readings += len(row.values)
        return True

    def _take_gaps(self, gaps: Sequence[tuple[int, pb.Gap]]) -> bool:
        if gaps and self._step is None:
            self._step = _Step(self._declared[max(self._declared)], boot=0)
        for number, gap in gaps:
            if self._step is not None and number > self._gaps_through:
                self._step.gaps.append(gap)
                self._step.gaps_through = number
        return True

    def _step_for(self, declared: Declared, boot: int, record: Record) -> _Step:
        enough = self._step is not None and self._step.readings > STEP_READINGS
        full = enough and not self._holed and not record.relative
        if self._step is None or full or not self._step.takes(declared, boot):
            self.seal()
            self._step = _Step(declared, boot)
        return self._step

    def seal(self) -> None:
        """Commit the step under way."""
        step, self._step = self._step, None
        if step is None or not (step.rows or step.gaps):
            return
        moved = newest(step.rows, step.boot)
        telemetry = self._telemetry(step)  # first: what it refuses becomes a gap
        sealed = Sealing(
            batches=[*self._urgent(step), *telemetry],
            tail=self._found.end,
            last_readings=moved,
            gaps_through=step.gaps_through,
        )
        self._store.seal(sealed, now_ms=0)
        self._gaps_through = max(self._gaps_through, step.gaps_through)
        self._found.last = self._store.last_readings()
        self._found.rows += sum(map(len, step.rows.values()))

    def _telemetry(self, step: _Step) -> list[SealedBatch]:
        state = self._store.lanes[pb.TELEMETRY]
        said = (state.complete_boot, state.complete_mono_ms)
        codebook = sealing.Codebook.of(step.declared.body, step.declared.shape)
        seal = partial(sealing.telemetry, codebook, step.boot, first_seq=state.next_seq, complete=said, before=said)
        try:
            return seal(step.rows)
        except (BodyError, TypeError, ValueError) as error:
            self._found.notes.append(f"rows of the tail were refused: {error}")
            good, refused = sealing.sift(codebook, step.boot, step.rows)
            step.gaps += [ledger.refused_gap(group, step.boot, rows) for group, rows in refused.items()]
            return seal(good)

    def _urgent(self, step: _Step) -> list[SealedBatch]:
        if not step.gaps:
            return []
        state = self._store.lanes[pb.URGENT]
        said = (state.complete_boot, state.complete_mono_ms)
        codebook = sealing.Codebook.of(step.declared.body, step.declared.shape)
        events = [(gap.to_mono_ms, gap_event(gap)) for gap in ledger.coalesce(step.gaps)]
        boot = max(gap.to_boot for gap in step.gaps)
        return [sealing.urgent(codebook, boot, events, seq=state.next_seq, complete=said)]


def newest(rows: Mapping[int, Sequence[Row]], boot: int) -> dict[int, Instant]:
    """Group → the instant of its newest row."""
    return {group: (boot, max(row.mono_ms for row in members)) for group, members in rows.items() if members}
