"""The balance of a buffer's lives: what was handed over against what a server has, is offered, or is told of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from protos.comboio.v1 import batch_pb2 as pb


@dataclass
class Verdict:
    """Empty lists: everything held. `recorded`: rows that are missing and lie in a gap record."""

    lost: list[int] = field(default_factory=list)
    """Promised (written before a kill, synced before a power cut), and not there."""
    doubled: list[int] = field(default_factory=list)
    unrecorded: list[Any] = field(default_factory=list)
    """Not there, and in no gap record."""
    invented: list[Any] = field(default_factory=list)
    changed: list[Any] = field(default_factory=list)
    """Sealed batches that vanished or came back with other bytes."""
    recorded: int = 0
    delivered: int = 0

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.unrecorded or self.invented or self.changed)


@dataclass
class _Books:
    rows: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)  # n → (epoch, group, boot, mono)
    lost: list[tuple[int, int, int, int]] = field(default_factory=list)
    events: set[int] = field(default_factory=set)
    durable_events: set[int] = field(default_factory=set)
    seen: dict[tuple[int, int, int], Any] = field(default_factory=dict)
    acked: set[tuple[int, int, int]] = field(default_factory=set)
    promised: dict[str, int] = field(default_factory=dict)
    sure: set[int] = field(default_factory=set)
    changed: list[Any] = field(default_factory=list)
    ordered: tuple[int, dict[str, list[int]]] | None = None
    first_names: dict[tuple[int, int, int], tuple[int, int, int]] = field(default_factory=dict)
    """Batches that were given another number → what they were called when they were sealed."""
    began_as: dict[int, int] = field(default_factory=dict)
    """Epoch → that with which its store was made."""

    def named(self, key: Sequence[int]) -> tuple[int, int, int]:
        epoch, lane, seq = key
        return self.first_names.get((epoch, lane, seq), (epoch, lane, seq))

    def root(self, epoch: int) -> int:
        return self.began_as.get(epoch, epoch)

    def begin(self, epoch: int) -> None:
        """If an order was carried out, the store shows it by its epoch."""
        if self.ordered is not None and epoch != self.ordered[0]:
            old, kept = self.ordered
            self.began_as[epoch] = self.root(old)
            for lane, seqs in kept.items():
                for new, seq in enumerate(seqs, start=1):
                    self.first_names[epoch, int(lane), new] = self.named((old, int(lane), seq))
        self.ordered = None

    def take(self, line: Sequence[Any]) -> None:
        kind, *rest = line
        if kind == "append":
            epoch, group, n, boot, mono = rest
            self.rows[n] = (self.root(epoch), group, boot, mono)
        elif kind == "lost":
            self.lost.append((self.root(rest[0]), rest[1], rest[2], rest[3]))
        elif kind == "order":
            self.ordered = (rest[0], rest[1])
        elif kind in {"epoch", "opened"}:
            self.begin(rest[0])
        elif kind == "event":
            self.events.add(rest[0])
        elif kind == "event-durable":
            self.durable_events.add(rest[0])
        elif kind == "seen":
            self.see(rest)
        elif kind == "acked":
            self.acked |= {self.named((rest[0], rest[1], seq)) for seq in rest[2]}
        elif kind == "durable-row":
            self.sure.add(rest[0])
        elif kind in {"written", "durable"}:
            self.promised[kind] = max(self.promised.get(kind, 0), rest[0])

    def see(self, batch: Sequence[Any]) -> None:
        key, content = self.named(batch[:3]), list(batch[3:])
        if self.seen.setdefault(key, content)[0] != content[0]:
            self.changed.append(key)


def judge(
    lives: Iterable[Sequence[Sequence[Any]]], last: dict[str, Any], *, power_cut: bool = False, damage: bool = False
) -> Verdict:
    """`lives`: what was said in each of them before it ended; the last one's `last()`.

    A life ends by a kill, or by a power cut where that is said as its last line, or with `power_cut` for all.
    With `damage` (bytes changed at rest) nothing was promised, and what a server finds missing by its numbers counts
    as recorded.
    """
    books, promised = _Books(), set[int]()
    for life in lives:
        known = set(books.rows)
        for line in life:
            books.take(line)
        cut = power_cut or (bool(life) and life[-1][0] == "power-cut")
        through = max(books.promised.get("durable", 0), 0 if cut else books.promised.get("written", 0))
        promised |= {n for n in books.rows.keys() - known if n <= through}
        books.promised.clear()
    promised |= books.sure
    held = {books.named(batch[1:4]): list(batch[4:]) for batch in last["held"]}
    for batch in last["held"]:
        books.see(batch[1:])
    return _balance(books, held, last, set() if damage else promised, damage=damage)


def _balance(books: _Books, held: dict[Any, Any], last: dict[str, Any], promised: set[int], *, damage: bool) -> Verdict:
    verdict = Verdict(changed=books.changed)
    has = {key: content for key, content in books.seen.items() if key in books.acked or key in held}
    delivered: defaultdict[int, int] = defaultdict(int)
    gaps, events, notes = [], defaultdict[int, int](int), []
    told = set[tuple[int, int, int]]()
    whole = {row[1] for content in has.values() if not content[5] for row in content[1]}
    for key, (_, rows, its_gaps, its_events, its_notes, its_replaces) in has.items():
        told |= {books.named((*key[:2], seq)) for first, final in its_replaces for seq in range(first, final + 1)}
        gaps += [(key[0], *gap) for gap in its_gaps]
        notes += its_notes
        for event in its_events:
            events[event] += 1
        for group, n, boot, mono in rows:
            # A thinned batch may hold what came whole, where an ack was not written down: the server keeps the whole.
            delivered[n] += not (its_replaces and n in whole)
            if books.rows.get(n) != (books.root(key[0]), group, boot, mono):
                verdict.invented.append([n, group, boot, mono, books.rows.get(n)])
    by_gap = {
        books.named((gap[0], gap[1], seq)) for gap in gaps for first, final in gap[2] for seq in range(first, final + 1)
    }  # by number
    told |= by_gap
    for key in books.seen.keys() - has.keys() - told:
        epoch, lane, seq = key
        if damage and (epoch != last["epoch"] or seq < last["next_seq"][lane]):
            told.add(key)  # the server's accounting finds it
            by_gap.add(key)
        else:
            verdict.changed.append([*key, "vanished"])
    by_number = {row[1] for key in by_gap for row in books.seen.get(key, [0, []])[1]}
    if damage:  # a gap record in a batch that is missing by its number is missing with it, and as well accounted for
        gaps += [(key[0], *gap) for key in by_gap & books.seen.keys() for gap in books.seen[key][2]]
    verdict.delivered = len(delivered)
    verdict.doubled = [n for n, times in delivered.items() if times > 1]
    verdict.doubled += [-event for event, times in events.items() if times > 1]
    verdict.invented += [["event", event] for event in events.keys() - books.events]
    if not damage:
        verdict.lost += [-event for event in books.durable_events - events.keys()]
    new_epoch = damage and bool(notes)
    known = {(lane, seq) for epoch, lane, seq in books.seen.keys() | held.keys() | told if epoch == last["epoch"]}
    asked_for = {(lane, seq) for lane, end in last["next_seq"].items() for seq in range(1, end)} if damage else set()
    vanished = asked_for - known  # sealed, seen by nobody, and gone: the server's accounting finds them
    for n, (epoch, group, boot, mono) in books.rows.items():
        if n in delivered or n in by_number or (new_epoch and epoch != last["epoch"]):
            continue
        covering = [gap for gap in gaps if _covers(gap, books, epoch, group, (boot, mono))]
        if n in promised and not any(gap[-2] in {pb.GAP_DROPPED, pb.GAP_THINNED} for gap in covering):
            verdict.lost.append(n)
        elif covering or vanished:
            verdict.recorded += 1
        else:
            verdict.unrecorded.append([n, group, boot, mono])
    for epoch, group, boot, mono in books.lost:
        if vanished:
            break
        if not any(_covers(gap, books, epoch, group, (boot, mono)) for gap in gaps) and not (
            new_epoch and epoch != last["epoch"]
        ):
            verdict.unrecorded.append(["lost", group, boot, mono])
    return verdict


def _covers(gap: Sequence[Any], books: _Books, epoch: int, group: int, at: tuple[int, int]) -> bool:
    gap_epoch, _, seqs, gap_group, from_boot, from_mono, to_boot, to_mono, *_ = gap
    if seqs or books.root(gap_epoch) != epoch or gap_group not in {0, group}:
        return False
    return (from_boot, from_mono) < at < (to_boot, to_mono)
