"""Which gateway's dictionary is looked at next, and what comes of it.

A gateway is looked at once enough batches of one declaration are in the journal, and again after `AGAIN` further ones:
a look packs some of the newest with what is in use. It is followed by training when there is no dictionary, when the
declaration is another, when the saving has decayed, or when there is now far more to learn from. A dictionary is
issued only if, on newer batches than it learnt from, it pays within a day.

Counts are kept in memory: after a start the first look comes soon, and finds in the journal what was there before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Row

from control_plane.clock import Clock
from control_plane.dictionaries.candidate import DAY_MS, carried, judge, saving, train
from control_plane.dictionaries.samples import SAMPLE_BYTES, SampleReader, Samples, Stream
from control_plane.journal.dictionaries import Issue, Issued
from control_plane.store.engine import Store
from protos.columns import Dictionary
from protos.comboio.v1 import batch_pb2 as pb

ENOUGH = 60
SOON = 5
AGAIN = 360
RARELY = 3600
MOST_A_DAY = 4
DECAYED = 0.7
"""Of the saving it had when it was made."""
MATURE = 2.0
"""So many times more to learn from makes another try worth while."""
LEARNT = 2 / 3
ATTEMPTS = 3
REST = 30
"""A look of so long is followed by so many times that without one: 3 % of a core at most."""

log = structlog.get_logger("control_plane.dictionaries")


@dataclass(slots=True)
class Watch:
    """A stream's count towards its next look."""

    stream: Stream
    batches: int = 0
    due: int = SOON
    patience: int = ENOUGH


class Trainer:
    """`seen` from the projector's thread, `step` from another."""

    def __init__(self, *, journal: Store, clock: Clock, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._now_s = monotonic_s
        self._samples = SampleReader(journal)
        self._issued = Issued(journal)
        self._watched: dict[str, Watch] = {}
        self._due: deque[Watch] = deque()
        self._lock = threading.Lock()
        self._not_before_s = 0.0

    def seen(self, rows: Sequence[Row[Any]]) -> None:
        """These batches have been projected."""
        with self._lock:
            for row in rows:
                if row.lane == pb.TELEMETRY and row.body_len <= SAMPLE_BYTES:
                    self._count(row.gateway, row.epoch, row.schema)

    def _count(self, gateway: str, epoch: int, schema: int) -> None:
        watch = self._watched.get(gateway)
        if watch is None or watch.stream.epoch != epoch or watch.stream.schema < schema:
            watch = self._watched[gateway] = Watch(Stream(gateway, epoch, schema))
        if watch.stream.schema != schema:
            return  # an older one, out of a backlog
        watch.batches += 1
        if watch.batches == watch.due:
            self._due.append(watch)

    def step(self) -> bool:
        """Look at one gateway if one is due and the rest after the last look is over; False: there is no hurry."""
        started_s = self._now_s()
        if started_s < self._not_before_s:
            return False
        with self._lock:
            watch = self._due.popleft() if self._due else None
        if watch is None or self._watched.get(watch.stream.gateway) is not watch:
            return watch is not None
        wait = SOON
        try:
            wait = self._look(watch)
        finally:
            with self._lock:
                watch.batches, watch.due = 0, wait
            ended_s = self._now_s()
            self._not_before_s = ended_s + REST * (ended_s - started_s)
        return False

    def _look(self, watch: Watch) -> int:
        """In how many further batches to look again."""
        samples = self._samples.newest(watch.stream)
        if len(samples.bodies) < ENOUGH or samples.interval_ms <= 0:
            return max(SOON, ENOUGH - len(samples.bodies))
        current = self._issued.latest(watch.stream.gateway)
        learnt = int(len(samples.bodies) * LEARNT)
        held_out = samples.bodies[learnt:]
        if current is not None and not _wanting(current, watch.stream.schema, learnt, held_out):
            return AGAIN
        since_ms = self._clock.now_ms() - DAY_MS
        every, today = self._issued.counts(watch.stream.gateway, since_ms=since_ms)
        if today >= MOST_A_DAY:
            return AGAIN
        if self._train(watch.stream, samples, learnt, current and current.dictionary, every):
            watch.patience = AGAIN
            return AGAIN
        watch.patience = min(RARELY, watch.patience * 2)
        return watch.patience

    def _train(self, stream: Stream, samples: Samples, learnt: int, current: Dictionary | None, every: int) -> bool:
        """True if one was issued. A name that is taken costs another attempt, with another number inside."""
        for attempt in range(ATTEMPTS):
            candidate = train(samples.bodies[:learnt], number=(every + attempt) % 255 + 1)
            if candidate is None:
                return False
            verdict = judge(candidate, samples.bodies[learnt:], current=current, interval_ms=samples.interval_ms)
            if not verdict.worth:
                log.debug("dictionary.not_worth", gateway=stream.gateway, saving=round(verdict.saving, 3))
                return False
            issue = Issue(candidate, stream.schema, learnt, verdict.saving, self._clock.now_ms())
            if self._issued.issue(stream.gateway, issue):
                name = f"{candidate.id:08x}"
                log.info("dictionary.made", gateway=stream.gateway, dictionary=name, saving=round(verdict.saving, 3))
                return True
        return False


def _wanting(current: Issue, schema: int, learnt: int, held_out: Sequence[bytes]) -> bool:
    """The one in use may be bettered."""
    if current.schema != schema or learnt >= MATURE * current.batches:
        return True
    return saving(held_out, carried(held_out, current.dictionary)) < DECAYED * current.saving
