"""The last stretch of a quantity's way, as the buffer's file has it; all there is to say when no daemon runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from gateway.buffer.position import Position
from gateway.health.explanation import Explanation, Step


def by_the_files(tag: str, found: Sequence[Position], running: Explanation | None) -> Explanation:
    """What the running daemon explains, if one does, and where the newest row rests."""
    _, _, quantity = tag.partition("/")
    mine = [one for one in found if not quantity or quantity in one.quantities]
    says = [line for one in mine for line in _position(one)] or ["no row of it was ever sealed here"]
    rests = Step(name="batch", says=says)
    if running is None:
        wrong = ["comboio-gateway is not running; this is what it left"]
        wrong += [] if mine else [f"{tag} is not among what it read last"]
        return Explanation(tag=tag, known=bool(mine), steps=[rests], wrong=wrong)
    before, last = running.steps[:-1], running.steps[-1:]
    return msgspec.structs.replace(running, steps=[*before, rests, *last])


def _position(one: Position) -> Iterator[str]:
    when = f"boot {one.boot}, {one.mono_ms / 1000:.1f} s" if one.at_ms is None else _clock(one.at_ms)
    yield f"newest sealed row: {when}"
    if not one.seq:
        yield "its batch was acknowledged and has been deleted since, or lost: buffer ledger says which"
        return
    sealed = "" if one.sealed_ms is None else f", sealed {_clock(one.sealed_ms)} by the box's clock"
    if one.acknowledged:
        yield f"in TELEMETRY batch {one.seq}{sealed}; acknowledged by the control plane"
    else:
        yield f"in TELEMETRY batch {one.seq}{sealed}; waiting, {one.waiting_before} older ones wait too"


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
