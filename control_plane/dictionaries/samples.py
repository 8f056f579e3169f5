"""A gateway's newest telemetry bodies, to train on and to judge by."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import Row, select

from control_plane.journal.dictionaries import Dictionaries
from control_plane.store.engine import Store
from control_plane.store.tables import batch
from protos.columns import BodyError
from protos.comboio.v1 import batch_pb2 as pb

SAMPLE_BYTES = 8 << 10
"""Larger bodies gain next to nothing: what repeats in them repeats inside."""
MOST = 360


class Stream(NamedTuple):
    """Whose batches, under which declaration."""

    gateway: str
    epoch: int
    schema: int


class Samples(NamedTuple):
    """Bodies oldest first; `interval_ms` between two batches by the gateway's own clock, 0.0 where it can't be told."""

    bodies: list[bytes]
    interval_ms: float


class SampleReader:
    """Synchronous; one thread at a time."""

    def __init__(self, journal: Store) -> None:
        self._journal = journal
        self._dictionaries = Dictionaries(journal, kept=4)

    def newest(self, stream: Stream) -> Samples:
        """The newest of this stream; those of another declaration, large or damaged ones are left out."""
        query = (
            select(batch)
            .where(batch.c.gateway == stream.gateway, batch.c.epoch == stream.epoch, batch.c.lane == pb.TELEMETRY)
            .order_by(batch.c.seq.desc())
            .limit(MOST)
        )
        with self._journal.read() as connection:
            rows = connection.execute(query).fetchall()[::-1]
        rows = [row for row in rows if row.schema == stream.schema and 0 < row.body_len <= SAMPLE_BYTES]
        named = {(stream.gateway, row.dictionary) for row in rows if row.codec == pb.CODEC_ZSTD_DICT}
        found = self._dictionaries.find(named)
        bodies = []
        for row in rows:
            try:
                bodies.append(found.unpack(stream.gateway, row))
            except BodyError:  # the projector has quarantined it
                continue
        return Samples(bodies, interval_ms(rows))


def interval_ms(rows: Sequence[Row[Any]]) -> float:
    """The mean step of complete_to between neighbouring seqs of one boot; a backlog sent in a minute took its hours."""
    steps = [
        after.complete_mono_ms - before.complete_mono_ms
        for before, after in pairwise(rows)
        if (after.seq, after.complete_boot) == (before.seq + 1, before.complete_boot)
    ]
    return sum(steps) / len(steps) if steps else 0.0
