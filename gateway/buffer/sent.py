"""Which batches of TELEMETRY may have left the box since a server last said what it holds.

A batch that was sent may be at the server although nothing said so yet: thinned here, it would be there twice, whole
and thinned. The control plane can tell (the whole one wins), but it costs link and work. So what is here is not
thinned.

Invariants
1. A seq is marked before its batch is handed to the sender, on disk in blocks of BLOCK, ahead: 64 batches cost one
   small write.
2. Welcome ends it: what the server holds is acknowledged by then, and the rest never arrived.
3. After a restart the marks stand until the next Welcome, cut to what was sealed by then; what is sealed later was
   never sent, so that a box without a link goes on thinning.

A power cut may cost the newest marks, for they are not synced by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.buffer.sealed import Sealed
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges

BLOCK = 64
_KEY = "sent"


class Sent:
    """Synchronous, in the thread of the store."""

    def __init__(self, store: Sealed) -> None:
        self._store = store
        row = store.query(f"SELECT value FROM meta WHERE key = '{_KEY}'").fetchone()
        self._marked = Ranges.unpack(row[0]) if row else Ranges()
        newest = store.lanes[pb.TELEMETRY].next_seq - 1
        self._sent = Ranges((first, min(last, newest)) for first, last in self._marked)

    def leasing(self, seqs: Iterable[int]) -> None:
        """Mark them; durable, but for a power cut, when it returns."""
        known = len(self._marked)
        for seq in seqs:
            self._sent.add(seq)
            if seq not in self._marked:
                block = seq // BLOCK * BLOCK
                self._marked.add(max(1, block), block + BLOCK - 1)
        if len(self._marked) > known:
            self._save()

    def welcomed(self) -> None:
        self._sent = Ranges()
        if self._marked:
            self._marked = Ranges()
            self._save()

    def joined_with(self, others: Ranges) -> Ranges:
        """`others` and those that may have been sent."""
        found = others.copy()
        found.update(self._sent)
        return found

    def _save(self) -> None:
        with self._store.transaction(synchronous="NORMAL") as run:
            run("INSERT OR REPLACE INTO meta VALUES(?, ?)", (_KEY, self._marked.pack()))
