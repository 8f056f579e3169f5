"""The one thread that writes the journal: group commit, then the news to each stream of the group.

Entries wait in a bounded queue in the order they were accepted. The thread lingers a few milliseconds so that a commit
carries many, takes what is there, commits, and calls back into the event loop once per group. An ack is built from the
last committed entry's captured mark, so it can't run ahead of the commit.

Fairness. A stream may have so many entries and bytes here that are not committed; then it alone waits, held back
through its transport. When more waits than one commit should carry, streams take turns, each in its own order.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

import structlog

from control_plane.journal.journal import (
    BatchEntry,
    Committed,
    DeclareEntry,
    DictionaryEntry,
    DuplicateEntry,
    EffectiveEntry,
    Entry,
    Journal,
    PresenceEntry,
)

MAX_GROUP = 4000
MAX_GROUP_BYTES = 8 << 20
"""A commit, and with it everyone's ack, takes as long as its bytes."""
MAX_QUEUED = 20_000
MAX_QUEUED_BYTES = 128 << 20
EACH_QUEUED = 64
EACH_QUEUED_BYTES = 4 << 20

log = structlog.get_logger("control_plane.ingest")
T = TypeVar("T")


class Stream(Protocol):
    """Where the news of a commit goes; called in the event loop."""

    def committed(self, entries: list[Entry], *, fenced: bool) -> None: ...

    def failed(self, why: str) -> None: ...


Item = tuple[Stream, Entry]


class Line:
    """What one stream has put and no commit has taken. Of the event loop."""

    __slots__ = ("bytes", "entries", "room")

    def __init__(self) -> None:
        self.entries = self.bytes = 0
        self.room = asyncio.Event()


class Turns:
    """What was taken from the queue and waits for a commit; each stream in its order. Of the writer's thread."""

    def __init__(self) -> None:
        self._by_stream: dict[int, deque[Item]] = {}
        self.size = 0

    def add(self, items: Iterable[Item]) -> None:
        for item in items:
            self._by_stream.setdefault(id(item[0]), deque()).append(item)
            self.size += 1

    def take(self) -> list[Item]:
        """One of each stream, again and again, up to what a commit carries; who got least goes first next time."""
        group: list[Item] = []
        total = 0
        while self._by_stream and len(group) < MAX_GROUP and total < MAX_GROUP_BYTES:
            key = next(iter(self._by_stream))
            mine = self._by_stream.pop(key)
            group.append(mine.popleft())
            total += _size(group[-1][1])
            if mine:
                self._by_stream[key] = mine
        self.size -= len(group)
        return group


class Writer:
    """Start with `start()`, stop with `stop()`; `put` and `call` from the event loop only.

    `each` entries may a stream have queued.
    """

    def __init__(self, journal: Journal, *, linger_s: float, each: int = EACH_QUEUED) -> None:
        self._journal = journal
        self._linger_s = linger_s
        self._each = each
        self._lines: dict[int, Line] = {}
        self._queue: deque[Item] = deque()
        self._turns = Turns()
        self._put_bytes = self._taken_bytes = 0  # one is the loop's, the other the thread's: neither needs a lock
        self._calls: deque[Callable[[], None]] = deque()
        self._work = threading.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._broken: dict[str, int] = {}
        """gateway → session whose entries failed once: what it accepted later is ahead of the store, never written."""
        self.commits = self.committed_entries = 0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Commit what is queued, then end the thread."""
        self._stopping = True
        self._work.set()
        await asyncio.to_thread(self._thread.join)

    async def put(self, stream: Stream, entry: Entry) -> None:
        """Queue one entry; waits while there is no room, which holds the gateway back through the transport."""
        size = _size(entry)
        while True:
            line = self._lines.get(id(stream))
            if line is not None and (line.entries >= self._each or line.bytes + size > EACH_QUEUED_BYTES):
                line.room.clear()
                await line.room.wait()
            elif self.waiting >= MAX_QUEUED or self._put_bytes - self._taken_bytes >= MAX_QUEUED_BYTES:
                self._room.clear()
                await self._room.wait()
            else:
                return self.put_last(stream, entry)

    @property
    def waiting(self) -> int:
        """Entries that no commit has taken."""
        return len(self._queue) + self._turns.size

    def put_last(self, stream: Stream, entry: Entry) -> None:
        """Queue one entry although the queue may be full: for the one word a stream has at its end."""
        size = _size(entry)
        self._put_bytes += size
        line = self._lines.setdefault(id(stream), Line())
        line.entries += 1
        line.bytes += size
        self._queue.append((stream, entry))
        if not self._work.is_set():
            self._work.set()

    async def call(self, work: Callable[[], T]) -> T:
        """Run something in the writer's thread, after what is queued now."""
        assert self._loop is not None
        loop = self._loop
        done: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            try:
                value = work()
            except BaseException as error:
                loop.call_soon_threadsafe(_finish, done, None, error)
            else:
                loop.call_soon_threadsafe(_finish, done, value, None)

        self._calls.append(run)
        self._work.set()
        return await done

    def _run(self) -> None:
        while True:
            self._work.wait()
            if self._linger_s and self._queue and not self._calls and not self._turns.size:
                time.sleep(self._linger_s)
            self._work.clear()
            calls = [self._calls.popleft() for _ in range(len(self._calls))]
            self._turns.add([self._queue.popleft() for _ in range(len(self._queue))])
            group = self._turns.take()
            if self._turns.size:
                self._work.set()
            self._taken_bytes += sum(_size(entry) for _, entry in group)
            if self._broken:
                group, wrong = self._sorted_out(group)
                self._notify(self._made_room, wrong)  # what is only thrown away makes room too
            if group:
                self._commit(group)
            for call in calls:
                call()
            if self._stopping and not self.waiting and not self._calls:
                return

    def _sorted_out(self, group: list[Item]) -> tuple[list[Item], list[Item]]:
        """What may be written, and what comes after something that could not be."""
        good: list[Item] = []
        wrong: list[Item] = []
        for item in group:
            entry = item[1]
            broken = self._broken.get(entry.gateway) == entry.session and not isinstance(entry, PresenceEntry)
            (wrong if broken else good).append(item)
        return good, wrong

    def _commit(self, group: list[Item]) -> None:
        assert self._loop is not None
        try:
            done = self._journal.commit([entry for _, entry in group])
        except Exception as error:
            log.error("journal.unwritable", error=_one_line(error), entries=len(group))
            self._broken.update({entry.gateway: entry.session for _, entry in group})
            self._notify(self._failed, group, _one_line(error))
            time.sleep(0.2)  # a full disk is not hammered
        else:
            self.commits += 1
            self.committed_entries += len(group)
            if done.conflicts:
                log.error("integrity.conflict", batches=done.conflicts)
            for gateway, schema in done.changed_declares:
                log.error("integrity.declare_changed", gateway=gateway, schema=schema)
            self._notify(self._succeeded, group, done)

    def _notify(self, callback: Callable[..., None], *args: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback, *args)

    def _made_room(self, group: list[Item]) -> None:
        self._room.set()
        for stream, entry in group:
            line = self._lines[id(stream)]
            line.entries -= 1
            line.bytes -= _size(entry)
            line.room.set()
            if not line.entries:
                del self._lines[id(stream)]

    def _succeeded(self, group: list[Item], done: Committed) -> None:
        self._made_room(group)
        by_stream: dict[int, tuple[Stream, list[Entry]]] = {}
        for stream, entry in group:
            by_stream.setdefault(id(stream), (stream, []))[1].append(entry)
        for stream, entries in by_stream.values():
            fenced = bool(done.fenced) and (entries[0].gateway, entries[0].session) in done.fenced
            stream.committed(entries, fenced=fenced)

    def _failed(self, group: list[Item], why: str) -> None:
        self._made_room(group)
        for stream in {id(stream): stream for stream, _ in group}.values():
            stream.failed(why)


def _finish(done: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    if done.cancelled():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(value)  # type: ignore[arg-type]


def _size(entry: Entry) -> int:
    """What an entry holds in memory, about."""
    if isinstance(entry, BatchEntry | DuplicateEntry):
        return len(entry.batch.body) + 500
    if isinstance(entry, DictionaryEntry):
        return len(entry.dictionary.data) + 500
    if isinstance(entry, EffectiveEntry):
        return len(entry.effective.body) + 500
    return entry.declare.ByteSize() + 500 if isinstance(entry, DeclareEntry) else 500


def _one_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).splitlines()[0] if str(error) else type(error).__name__
