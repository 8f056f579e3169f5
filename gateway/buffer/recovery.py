"""What opening after a stop does: rows still in the tail become batches, holes and unreadable files become gaps.

Crash argument: each step seals rows together with the tail position after them, so being killed here and starting
again continues where this left off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gateway.buffer import layout, ledger, sealing
from gateway.buffer.ledger import Instant
from gateway.buffer.sealed import Declared, Sealed, Sealing
from gateway.buffer.tail import Position, Tail
from gateway.reading import Row
from protos.comboio.v1 import batch_pb2 as pb

STEP_READINGS = 100_000


@dataclass(slots=True)
class Recovered:
    """`last`: group → its last durable reading. `notes`: what a person should know."""

    last: dict[int, Instant]
    end: Position
    gaps: list[pb.Gap] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rows: int = 0


@dataclass(slots=True)
class _Step:
    """Rows of consecutive records of one schema and boot, sealed together."""

    declared: Declared
    boot: int
    rows: dict[int, list[Row]] = field(default_factory=dict)
    readings: int = 0


def recover(store: Sealed, tail: Tail, *, now_ms: int) -> Recovered:
    """Seal what the tail holds beyond the sealed position, and leave the tail ready to go on."""
    position = store.sealed_position()
    by_number = {d.body.schema: d for d in store.schemas()}
    found = Recovered(store.last_readings(), position)
    damaged = bool(store.damage)
    if store.damage:
        found.notes.append(f"damaged buffer set aside as {store.damage}")
    step: _Step | None = None
    for record in tail.scan(position):
        declared = by_number.get(record.schema)
        damaged |= record.hole or declared is None
        if declared is not None:
            boot, pairs = layout.unpack(record.payload, layout.structs_of(declared.shape))
            rows = list(pairs)
            if step is None or (step.declared, step.boot) != (declared, boot) or step.readings > STEP_READINGS:
                _seal(store, step, found)
                step = _Step(declared, boot)
            if record.hole and rows:
                before = max((last for last in found.last.values()), default=(boot, 0))
                _seal(store, step, found)
                step = _Step(declared, boot)
                found.gaps.append(ledger.hole_gap(before, (boot, rows[0][1].mono_ms)))
            for group, row in rows:
                step.rows.setdefault(group, []).append(row)
                step.readings += len(row.values)
        found.end = record.end
    _seal(store, step, found)
    if damaged:
        found.notes.append(f"damaged tail copied aside as {tail.set_aside(f'damaged-{now_ms}').name}")
    tail.start(found.end)
    return found


def _seal(store: Sealed, step: _Step | None, found: Recovered) -> None:
    if step is None or not step.rows:
        return
    state = store.lanes[pb.TELEMETRY]
    said = (state.complete_boot, state.complete_mono_ms)
    codebook = sealing.Codebook.of(step.declared.body, step.declared.shape)
    batches = sealing.telemetry(codebook, step.boot, step.rows, first_seq=state.next_seq, complete=said, before=said)
    moved = newest(step.rows, step.boot)
    store.seal(Sealing(batches=batches, tail=found.end, last_readings=moved), now_ms=0)
    found.last.update(moved)
    found.rows += sum(map(len, step.rows.values()))


def newest(rows: Mapping[int, Sequence[Row]], boot: int) -> dict[int, Instant]:
    """Group → the instant of its newest row."""
    return {group: (boot, max(row.mono_ms for row in members)) for group, members in rows.items() if members}
