"""A new epoch on the server's order, and what the server and this store agree on.

A store that was put back from an image, or that lives twice, gives out numbers that the server knows of other batches.
The server sees that at Hello and orders a new epoch: everything that is still held gets new numbers in the old order,
its bytes stay, and from then on Hello says which numbers of the predecessor these were.

Invariants (each has a test with its name)
1. a_new_epoch_is_begun_whole_or_not_at_all: numbers, declarations, the anchors' batch and the epoch itself change in
   one transaction. A store that comes back from before it says the old epoch, and is ordered again.
2. only_what_both_sides_hold_is_let_go: a batch is deleted at the change only if this store's own ledger knows it
   acknowledged and the server named it as held.
3. what_the_server_lost_is_offered_again: Welcome decides what is acknowledged of all that is still here.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

from gateway.buffer import anchored, sealing
from gateway.buffer.anchored import Run
from gateway.buffer.buffer import Descent, Moved
from gateway.buffer.ledger import Instant
from gateway.buffer.sealed import BATCH_COLUMNS, LANES, Declared, Sealed
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges

Received = Mapping[int, Ranges]
"""Lane → what the server holds."""


class _Numbers(NamedTuple):
    """One lane's seqs that stay, ascending: the first becomes 1."""

    old: list[int]

    def new(self, seq: int) -> int:
        """How many of them are not above `seq`: the highest new number of what it covers."""
        return bisect_right(self.old, seq)


def descent(store: Sealed) -> Descent:
    """Where this epoch comes from."""
    rows = store.query("SELECT lane, seqs, replaced, agreed FROM moved ORDER BY lane").fetchall()
    return Descent(
        predecessor=store.fact("predecessor"),
        moved=tuple(
            Moved(pb.Lane.ValueType(lane), Ranges.unpack(seqs), Ranges.unpack(replaced), agreed)
            for lane, seqs, replaced, agreed in rows
        ),
        last_session=store.fact("session"),
    )


def agree(store: Sealed, session: int, received: Received) -> None:
    """The server goes on with this store: remember that before anything is sent, and believe it what it holds."""
    acked = {lane: _acknowledged(store, lane, received.get(lane, Ranges())) for lane in LANES}
    with store.transaction() as run:
        run("UPDATE meta SET value = ? WHERE key = 'session'", (session,))
        for lane in LANES:
            state = store.lanes[lane]
            run("UPDATE lane SET agreed = ? WHERE lane = ?", (state.next_seq, lane))
            if acked[lane] != state.acked:
                run("UPDATE lane SET acked = ? WHERE lane = ?", (acked[lane].pack(), lane))
    for lane in LANES:
        store.lanes[lane].acked = acked[lane]


def _acknowledged(store: Sealed, lane: int, received: Ranges) -> Ranges:
    """What the server holds, and what is not here any more, so that nobody can offer it."""
    state = store.lanes[lane]
    newest = state.next_seq - 1
    waiting = Ranges(state.acked.missing(1, newest))
    waiting.update(store.held(lane))
    known = Ranges(waiting.missing(1, newest))
    for first, last in received:
        known.add(max(1, first), min(last, newest))
    return known


def begin(store: Sealed, received: Received, *, codebook: sealing.Codebook, here: Instant, now_ms: int) -> Declared:
    """Give everything that is held new numbers in a new epoch; returns the newest declaration as it now reads."""
    epoch = secrets.randbits(32) | 1
    with store.transaction() as run:
        _let_go(run, store, received)
        numbers: dict[int, _Numbers] = {
            lane: _Numbers([seq for (seq,) in run(_SEQS, (lane,)).fetchall()]) for lane in LANES
        }
        _remember(run, store, numbers)
        _renumber(run, numbers)
        _redeclare(run, epoch)
        for lane in LANES:
            run(_NEW_LANE, (len(numbers[lane].old) + 1, lane))
        run("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,))
        run("UPDATE meta SET value = 0 WHERE key = 'session'")
        _tell_anchors(run, store, codebook, here, seq=len(numbers[pb.URGENT].old) + 1, now_ms=now_ms)
    store.load()
    return store.schemas()[-1]


_SEQS = "SELECT seq FROM batch WHERE lane = ? ORDER BY seq"
_NEW_LANE = "UPDATE lane SET next_seq = ?, acked = x'', agreed = 1 WHERE lane = ?"


def _let_go(run: Run, store: Sealed, received: Received) -> None:
    for lane in LANES:
        both = received.get(lane, Ranges())
        acked = store.lanes[lane].acked
        gone = [(lane, seq) for (seq,) in run(_SEQS, (lane,)).fetchall() if seq in acked and seq in both]
        for one in gone:
            run("DELETE FROM batch WHERE lane = ? AND seq = ?", one)
            if lane == pb.TELEMETRY:
                run("DELETE FROM thinned WHERE seq = ?", one[1:])


def _remember(run: Run, store: Sealed, numbers: Mapping[int, _Numbers]) -> None:
    run("UPDATE meta SET value = ? WHERE key = 'predecessor'", (store.epoch,))
    for lane in LANES:
        seqs = Ranges()
        for seq in numbers[lane].old:
            seqs.add(seq)
        replaced = Ranges()
        if lane == pb.TELEMETRY:
            for (stands_for,) in run("SELECT replaces FROM thinned").fetchall():
                replaced.update(Ranges.unpack(stands_for))
        (agreed,) = run("SELECT agreed FROM lane WHERE lane = ?", (lane,)).fetchone()
        run("INSERT OR REPLACE INTO moved VALUES(?, ?, ?, ?)", (lane, seqs.pack(), replaced.pack(), agreed))


def _renumber(run: Run, numbers: Mapping[int, _Numbers]) -> None:
    """Upwards: no new number is above the old one, so none is taken yet."""
    urgent, telemetry = numbers[pb.URGENT], numbers[pb.TELEMETRY]
    for new, old in enumerate(urgent.old, start=1):
        run("UPDATE batch SET seq = ? WHERE lane = ? AND seq = ?", (new, pb.URGENT, old))
    said = run("SELECT seq, urgent_seq FROM batch WHERE lane = ? ORDER BY seq", (pb.TELEMETRY,)).fetchall()
    for new, (old, urgent_seq) in enumerate(said, start=1):
        row = (new, urgent.new(urgent_seq), pb.TELEMETRY, old)
        run("UPDATE batch SET seq = ?, urgent_seq = ? WHERE lane = ? AND seq = ?", row)
    # what a thinned batch stands for has numbers of the predecessor: Hello says them, the batch does not any more
    for old, first in run("SELECT seq, first_seq FROM thinned ORDER BY seq").fetchall():
        names = (telemetry.new(old), telemetry.new(first), old)
        run("UPDATE thinned SET seq = ?, first_seq = ?, replaces = x'' WHERE seq = ?", names)
    for number, first in run("SELECT number, first_seq FROM dictionary").fetchall():
        run("UPDATE dictionary SET first_seq = ? WHERE number = ?", (telemetry.new(first - 1) + 1, number))
    # what was set aside is nobody's any more; only its number must not meet a later one
    run("UPDATE set_aside SET reason = reason || ' (seq ' || seq || ' of an epoch before)', seq = -rowid WHERE seq > 0")


def _redeclare(run: Run, epoch: int) -> None:
    for number, body, shape in run("SELECT number, body, shape FROM schema").fetchall():
        said = [pb.Declare.FromString(one) for one in (body, shape)]
        for one in said:
            one.epoch = epoch
        changed = [one.SerializeToString() for one in said]
        run("UPDATE schema SET body = ?, shape = ? WHERE number = ?", (*changed, number))


def _tell_anchors(run: Run, store: Sealed, codebook: sealing.Codebook, here: Instant, *, seq: int, now_ms: int) -> None:
    """Boots are placed in wall time by the anchors of their epoch; completeness stays what it is."""
    facts = anchored.load(run)
    if not facts:
        return
    boot, mono_ms = here
    events = [(mono_ms, pb.Event(kind=pb.EVENT_ANCHOR, detail=one.SerializeToString())) for one in facts]
    said = store.lanes[pb.URGENT]
    b = sealing.urgent(codebook, boot, events, seq=seq, complete=(said.complete_boot, said.complete_mono_ms))
    run(
        f"INSERT INTO batch({BATCH_COLUMNS}, sealed_ms) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            *(b.lane, b.seq, b.schema, b.codec, b.dictionary, b.count, b.body_len, b.crc32),
            *(b.complete_boot, b.complete_mono_ms, b.urgent_seq, b.body, now_ms),
        ),
    )
    run("UPDATE lane SET next_seq = ? WHERE lane = ?", (seq + 1, b.lane))
