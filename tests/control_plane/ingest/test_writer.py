"""The writer before a journal that can be told to wait or to fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from control_plane.ingest import writer as module
from control_plane.ingest.writer import Writer
from control_plane.journal.journal import BatchEntry, Committed, Entry, LaneMark, SessionStart
from protos.comboio.v1 import link_pb2 as wire
from tests.control_plane.sealing import GATEWAY, OTHER, batch


class Journal:
    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.may_commit = threading.Event()
        self.may_commit.set()
        self.committing = threading.Event()
        self.fails = False
        self.fenced: set[tuple[str, int]] = set()

    def open_session(
        self, gateway: str, hello: wire.Hello, *, now_ms: int, released_ms: int | None = None
    ) -> SessionStart:
        raise NotImplementedError

    def commit(self, entries: Sequence[Entry]) -> Committed:
        self.committing.set()
        assert self.may_commit.wait(10)
        if self.fails:
            raise OSError("no space left")
        self.groups.append([entry.batch.seq for entry in entries if isinstance(entry, BatchEntry)])
        return Committed(fenced=self.fenced)


class Stream:
    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.fenced = False
        self.errors: list[str] = []

    def committed(self, entries: list[Entry], *, fenced: bool) -> None:
        self.fenced = self.fenced or fenced
        self.seqs += [] if fenced else [entry.mark.cum for entry in entries if isinstance(entry, BatchEntry)]

    def failed(self, why: str) -> None:
        self.errors.append(why)


def entry(seq: int, *, session: int = 1, gateway: str = GATEWAY) -> BatchEntry:
    return BatchEntry(gateway, session, batch(seq), 0, LaneMark(gateway, 1, 0, seq, (), seq))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
async def writer(journal: Journal) -> AsyncIterator[Writer]:
    made = Writer(journal, linger_s=0)
    made.start()
    yield made
    journal.may_commit.set()
    await made.stop()


async def test_nothing_is_told_before_the_commit_returned(journal: Journal, writer: Writer) -> None:
    journal.may_commit.clear()
    stream = Stream()
    await writer.put(stream, entry(1))
    await until(journal.committing.is_set)
    await asyncio.sleep(0.02)
    assert stream.seqs == []
    journal.may_commit.set()
    await until(lambda: stream.seqs == [1])


async def test_what_comes_during_a_commit_is_in_the_next_one_in_order(journal: Journal, writer: Writer) -> None:
    journal.may_commit.clear()
    stream = Stream()
    await writer.put(stream, entry(1))
    await until(journal.committing.is_set)
    for seq in range(2, 50):
        await writer.put(stream, entry(seq))
    journal.may_commit.set()
    await until(lambda: len(stream.seqs) == 49)
    assert journal.groups == [[1], list(range(2, 50))]
    assert stream.seqs == list(range(1, 50))


async def test_a_failed_commit_poisons_what_its_stream_accepted_later(journal: Journal, writer: Writer) -> None:
    journal.fails = True
    lost, other, again = Stream(), Stream(), Stream()
    await writer.put(lost, entry(1))
    await until(lambda: lost.errors == ["no space left"])
    journal.fails = False
    await writer.put(lost, entry(2))  # ahead of the store: seq 1 is not there
    await writer.put(other, entry(1, gateway=OTHER))
    await until(lambda: other.seqs == [1])
    assert (lost.seqs, journal.groups) == ([], [[1]])
    await writer.put(again, entry(1, session=2))  # a new session begins from what the store holds
    await until(lambda: again.seqs == [1])


async def test_a_full_queue_holds_back_and_goes_on(
    journal: Journal, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    journal.may_commit.clear()
    stream = Stream()
    await writer.put(stream, entry(1))
    await until(journal.committing.is_set)
    for seq in (2, 3, 4):
        await writer.put(stream, entry(seq))
    fifth = asyncio.create_task(writer.put(stream, entry(5)))
    await asyncio.sleep(0.02)
    assert not fifth.done()
    journal.may_commit.set()
    await asyncio.wait_for(fifth, 5)
    await until(lambda: stream.seqs == [1, 2, 3, 4, 5])


async def test_the_queue_is_bounded_in_bytes_too(
    journal: Journal, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 1000)
    journal.may_commit.clear()
    stream = Stream()
    for seq in (1, 2):
        await writer.put(stream, entry(seq))
    await until(journal.committing.is_set)
    blocked = asyncio.create_task(_put_all(writer, stream, range(3, 9)))
    await asyncio.sleep(0.02)
    assert not blocked.done()
    journal.may_commit.set()
    await asyncio.wait_for(blocked, 5)
    await until(lambda: len(stream.seqs) == 8)


async def test_entries_thrown_away_make_room_for_those_who_wait(
    journal: Journal, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 2)
    journal.fails = True
    lost, other = Stream(), Stream()
    await writer.put(lost, entry(1))
    await until(lambda: lost.errors)
    async with asyncio.timeout(5):
        await _put_all(writer, lost, range(2, 30))
        journal.fails = False
        await writer.put(other, entry(1, gateway=OTHER))
    await until(lambda: other.seqs == [1])


async def test_a_fenced_stream_is_told_and_gets_no_ack(journal: Journal, writer: Writer) -> None:
    journal.fenced = {(GATEWAY, 1)}
    old, other = Stream(), Stream()
    journal.may_commit.clear()
    await writer.put(old, entry(1))
    await writer.put(other, entry(1, gateway=OTHER))
    journal.may_commit.set()
    await until(lambda: other.seqs == [1])
    assert old.fenced
    assert old.seqs == []


async def test_stopping_commits_what_is_queued(journal: Journal) -> None:
    writer = Writer(journal, linger_s=0.01)
    writer.start()
    stream = Stream()
    await _put_all(writer, stream, range(1, 100))
    await writer.stop()
    assert [seq for group in journal.groups for seq in group] == list(range(1, 100))


async def test_a_call_brings_its_value_or_its_error(writer: Writer) -> None:
    assert await writer.call(lambda: threading.current_thread().name) == "journal-writer"
    with pytest.raises(ZeroDivisionError):
        await writer.call(lambda: 1 // 0)


async def _put_all(writer: Writer, stream: Stream, seqs: range) -> None:
    for seq in seqs:
        await writer.put(stream, entry(seq))


async def test_a_stream_that_does_not_wait_for_acks_is_held_back_alone(journal: Journal, writer: Writer) -> None:
    journal.may_commit.clear()
    noisy, quiet = Stream(), Stream()
    for seq in range(1, module.EACH_QUEUED + 1):
        await writer.put(noisy, entry(seq))
    over = asyncio.create_task(writer.put(noisy, entry(module.EACH_QUEUED + 1)))
    await writer.put(quiet, entry(1, gateway=OTHER))
    await asyncio.sleep(0)
    assert not over.done()
    journal.may_commit.set()
    await over
    await until(lambda: noisy.seqs == list(range(1, module.EACH_QUEUED + 2)) and quiet.seqs == [1])


async def test_large_bodies_count_by_their_bytes(
    journal: Journal, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EACH_QUEUED_BYTES", 1)
    journal.may_commit.clear()
    stream = Stream()
    first = asyncio.create_task(writer.put(stream, entry(1)))
    await asyncio.sleep(0)
    assert first.done(), "one always fits"
    over = asyncio.create_task(writer.put(stream, entry(2)))
    await asyncio.sleep(0)
    assert not over.done()
    journal.may_commit.set()
    await over
    await until(lambda: stream.seqs == [1, 2])


async def test_when_the_writer_is_behind_streams_take_turns(
    journal: Journal, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GROUP", 4)
    journal.may_commit.clear()
    noisy, quiet = Stream(), Stream()
    await writer.put(noisy, entry(1))
    await until(journal.committing.is_set)
    for seq in range(2, 12):
        await writer.put(noisy, entry(seq))
    for seq in (101, 102):
        await writer.put(quiet, entry(seq, gateway=OTHER))
    journal.may_commit.set()
    await until(lambda: len(noisy.seqs) == 11 and len(quiet.seqs) == 2)
    assert journal.groups[:2] == [[1], [2, 101, 3, 102]]
    assert noisy.seqs == list(range(1, 12))
