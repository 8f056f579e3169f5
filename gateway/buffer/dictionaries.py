"""The dictionaries that the control plane trained on this gateway's batches, as the sealed store keeps them.

Invariants
1. A dictionary is durable before anything is sealed with it.
2. It goes only when a newer one is in use and no batch that is held names it. Dictionaries are used one after the
   other, so those batches lie between its first seq and that of the next.
3. One that is damaged is neither used nor named in Hello; the control plane then sends it again.

Only the one in use is compiled.
"""

from __future__ import annotations

from itertools import pairwise

import structlog

from gateway.buffer.sealed import Sealed
from protos.columns import BodyError, Dictionary, Packer
from protos.comboio.v1 import batch_pb2 as pb

MOST_KEPT = 64
GIVE_UP_AT_ONCE = 100

log = structlog.get_logger("gateway.buffer")


class Shelf:
    """Synchronous, in the thread of the store; `names` from anywhere."""

    def __init__(self, store: Sealed) -> None:
        self._store = store
        self._names: list[int] = []
        self.packer: Packer | None = None
        """Seals telemetry; None: there is no dictionary."""
        rows = store.query("SELECT sha256, data FROM dictionary ORDER BY number").fetchall()
        for index, (sha256, data) in enumerate(rows, start=1):
            try:
                held = Dictionary(data, sha256)
                self.packer = Packer(held) if index == len(rows) else None
            except (ValueError, TypeError) as error:
                log.error("dictionary.damaged", error=str(error))
            else:
                self._names.append(held.id)

    def names(self) -> list[int]:
        """Oldest first."""
        return list(self._names)

    def keep(self, dictionary: Dictionary, schema: int) -> None:
        """Store it and use it from now on. Raises BodyError for one that can't be used, or whose name is taken."""
        packer = Packer(dictionary)
        here = self._store.query("SELECT sha256 FROM dictionary WHERE id = ?", (dictionary.id,)).fetchone()
        if dictionary.id in self._names and here != (dictionary.sha256,):
            raise BodyError(f"another dictionary is called {dictionary.id:08x} here")
        if dictionary.id not in self._names and len(self._names) >= MOST_KEPT:
            raise BodyError(f"{MOST_KEPT} dictionaries are kept here; each is named by batches that wait")
        first_seq = self._store.lanes[pb.TELEMETRY].next_seq
        with self._store.transaction() as run:
            run(
                "INSERT INTO dictionary(id, sha256, schema, first_seq, data) VALUES(?, ?, ?, ?, ?) "
                "ON CONFLICT(id) DO UPDATE SET sha256 = excluded.sha256, data = excluded.data",
                (dictionary.id, dictionary.sha256, schema, first_seq, dictionary.data),
            )
            (newest,) = run("SELECT id FROM dictionary ORDER BY number DESC LIMIT 1").fetchone()
        if dictionary.id not in self._names:
            self._names.append(dictionary.id)
        if newest == dictionary.id:
            self.packer = packer
        log.info("dictionary.kept", dictionary=f"{dictionary.id:08x}", schema=schema)

    def find(self, name: int) -> tuple[Dictionary, int] | None:
        """(dictionary, schema), or None if it isn't here or is damaged."""
        row = self._store.query("SELECT data, sha256, schema FROM dictionary WHERE id = ?", (name,)).fetchone()
        try:
            return (Dictionary(row[0], row[1]), int(row[2])) if row else None
        except (ValueError, TypeError) as error:
            log.error("dictionary.damaged", error=str(error))
            return None

    def forget_unused(self) -> int:
        """Delete those that nothing held names any more; returns how many went."""
        rows = self._store.query("SELECT id, first_seq FROM dictionary ORDER BY number").fetchall()
        gone = [name for (name, first), (_, after) in pairwise(rows) if not self._held(first, after)]
        if gone:
            with self._store.transaction(synchronous="NORMAL") as run:
                for name in gone:
                    run("DELETE FROM dictionary WHERE id = ?", (name,))
            self._names = [name for name in self._names if name not in gone]
        return len(gone)

    def _held(self, first_seq: int, after_seq: int) -> bool:
        query = "SELECT 1 FROM batch WHERE lane = ? AND seq >= ? AND seq < ? LIMIT 1"
        return self._store.query(query, (pb.TELEMETRY, first_seq, after_seq)).fetchone() is not None

    def naming(self, name: int) -> list[tuple[int, int]]:
        """(seq, readings) of some unacknowledged batches that name it, lowest first."""
        state = self._store.lanes[pb.TELEMETRY]
        found: list[tuple[int, int]] = []
        query = """SELECT seq, count FROM batch
                   WHERE lane = ? AND seq BETWEEN ? AND ? AND codec = ? AND dictionary = ? ORDER BY seq LIMIT ?"""
        for first, last in state.acked.missing(1, state.next_seq - 1):
            wanted = (pb.TELEMETRY, first, last, pb.CODEC_ZSTD_DICT, name, GIVE_UP_AT_ONCE - len(found))
            found += self._store.query(query, wanted).fetchall()
            if len(found) >= GIVE_UP_AT_ONCE:
                break
        return found
