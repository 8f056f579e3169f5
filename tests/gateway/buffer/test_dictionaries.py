"""A gateway's own dictionary, from its receipt to its end. Each invariant of the shelf has a test with its name."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from pathlib import Path

import pytest

from gateway.buffer import inspect
from gateway.buffer.disk import DiskBuffer
from gateway.buffer.sealed import BATCH_COLUMNS
from gateway.buffer.tables import SCHEMA_VERSION
from protos.columns import BodyError, Dictionary
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges
from tests.gateway.buffer.boxes import Box, as_rows, batches, gaps, plain, values

NOISE = random.Random(7)
PATTERN = [NOISE.randrange(30_000) for _ in range(100)]
OTHER = [NOISE.randrange(30_000) for _ in range(100)]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "buffer")


async def seal(box: Box, pattern: list[int]) -> None:
    """One batch of rows that no packer can shrink unless it has seen them before."""
    for value in pattern:
        box.row(value)
    await box.buffer.seal()


async def of_newest(buffer: DiskBuffer) -> Dictionary:
    """The newest batch's body as a dictionary."""
    return Dictionary(await plain(buffer, (await batches(buffer))[-1]))


async def taught(box: Box) -> Dictionary:
    """Opened, with one plain batch and a dictionary made of it."""
    buffer = await box.open()
    await seal(box, PATTERN)
    dictionary = await of_newest(buffer)
    await buffer.learn(dictionary, schema=2)
    return dictionary


async def test_the_next_telemetry_batch_uses_it_where_it_is_smaller_and_the_sealed_keep_their_bytes(box: Box) -> None:
    dictionary = await taught(box)
    (before,) = await batches(box.buffer)
    await seal(box, PATTERN)
    await seal(box, OTHER)
    box.buffer.event(pb.EVENT_INTEGRITY, b"a person opened the door")
    await box.buffer.close()
    buffer = await box.open()
    first, second, third = await batches(buffer)
    assert first == before
    assert (second.codec, second.dictionary) == (pb.CODEC_ZSTD_DICT, dictionary.id)
    assert len(second.body) * 4 < len(first.body)
    assert (third.codec == pb.CODEC_ZSTD_DICT) == (len(third.body) < len(await plain(buffer, third)))
    assert all(batch.dictionary == 0 for batch in await batches(buffer, pb.URGENT))
    assert await values(buffer) == [value / 10 for value in (*PATTERN, *PATTERN, *OTHER)]
    await buffer.close()


async def test_a_dictionary_is_durable_before_anything_is_sealed_with_it(box: Box) -> None:
    """Killed between storing it and the first seal: it is named, and used."""
    dictionary = await taught(box)
    await box.kill()
    buffer = await box.open()
    assert buffer.dictionaries() == [dictionary.id]
    await seal(box, PATTERN)
    assert (await batches(buffer))[-1].dictionary == dictionary.id
    assert await values(buffer) == [value / 10 for value in PATTERN * 2]
    await buffer.close()


async def test_killed_before_it_is_stored_nothing_names_it_and_it_can_come_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = await box.open()
    await seal(box, PATTERN)
    dictionary = await of_newest(buffer)

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(buffer._store, "transaction", refuse)
        with pytest.raises(OSError, match="disk I/O error"):
            await buffer.learn(dictionary, schema=2)
    await seal(box, PATTERN)
    assert (buffer.dictionaries(), (await batches(buffer))[-1].dictionary) == ([], 0)
    await box.kill()
    buffer = await box.open()
    assert buffer.dictionaries() == []
    await buffer.learn(dictionary, schema=2)
    await seal(box, PATTERN)
    assert (await batches(buffer))[-1].dictionary == dictionary.id
    assert await values(buffer) == [value / 10 for value in PATTERN * 3]
    await buffer.close()


async def test_a_queue_of_an_older_dictionary_survives_a_restart_and_a_newer_one(box: Box) -> None:
    older = await taught(box)
    await seal(box, PATTERN)
    await seal(box, OTHER)
    newer = Dictionary(await plain(box.buffer, (await batches(box.buffer))[-1]))
    await box.buffer.learn(newer, schema=2)
    await seal(box, OTHER)
    await box.kill()
    buffer = await box.open()
    assert buffer.dictionaries() == [older.id, newer.id]
    assert [b.dictionary for b in await batches(buffer)][1::2] == [older.id, newer.id]
    assert await values(buffer) == [value / 10 for value in (*PATTERN, *PATTERN, *OTHER, *OTHER)]
    await buffer.close()


async def test_it_goes_only_when_a_newer_one_is_in_use_and_no_held_batch_names_it(box: Box) -> None:
    box.settings = box.settings.__class__(keep_acknowledged_h=0.0)
    older = await taught(box)
    buffer = box.buffer
    await seal(box, PATTERN)
    await buffer.tidy()
    assert buffer.dictionaries() == [older.id]
    newer = Dictionary(b"another one altogether")
    await buffer.learn(newer, schema=2)
    await buffer.tidy()
    assert buffer.dictionaries() == [older.id, newer.id]
    await buffer.ack(pb.TELEMETRY, Ranges([(1, 2)]))
    box.clock.wall += 1000
    await buffer.tidy()  # forgets the batches, then what they named
    assert buffer.dictionaries() == [newer.id]
    assert await buffer.dictionary(older.id) is None
    await buffer.close()


async def test_one_that_is_damaged_is_neither_used_nor_named_and_is_mended_by_being_sent_again(box: Box) -> None:
    dictionary = await taught(box)
    await seal(box, PATTERN)
    await box.buffer.close()
    with sqlite3.connect(box.folder / "sealed.db") as db:
        db.execute("UPDATE dictionary SET data = x'00ff' || substr(data, 3)")
    db.close()
    buffer = await box.open()
    assert (buffer.dictionaries(), await buffer.dictionary(dictionary.id)) == ([], None)
    await seal(box, PATTERN)
    assert (await batches(buffer))[-1].dictionary == 0
    await buffer.learn(dictionary, schema=2)
    await seal(box, PATTERN)
    assert (await batches(buffer))[-1].dictionary == dictionary.id
    assert await values(buffer) == [value / 10 for value in PATTERN * 4]
    await buffer.close()


async def test_what_can_be_no_dictionary_is_refused_and_the_one_in_use_stays(box: Box) -> None:
    dictionary = await taught(box)
    bad = Dictionary(b"\x37\xa4\x30\xec" + b"not what such a header promises")
    with pytest.raises(BodyError, match="can't be used"):
        await box.buffer.learn(bad, schema=2)
    assert box.buffer.dictionaries() == [dictionary.id]
    await seal(box, PATTERN)
    assert (await batches(box.buffer))[-1].dictionary == dictionary.id
    await box.buffer.close()


async def test_another_dictionary_of_the_same_name_is_refused(box: Box) -> None:
    dictionary = await taught(box)
    twin = Dictionary(b"the first four bytes of two hashes can agree")
    twin.sha256 = dictionary.sha256[:4] + twin.sha256[4:]
    twin.id = dictionary.id
    with pytest.raises(BodyError, match="another dictionary is called"):
        await box.buffer.learn(twin, schema=2)
    found = await box.buffer.dictionary(dictionary.id)
    assert found is not None
    assert found[0].data == dictionary.data
    await box.buffer.close()


async def test_a_file_of_the_version_before_is_brought_up_and_loses_nothing(box: Box) -> None:
    buffer = await box.open()
    await seal(box, PATTERN)
    for value in OTHER:
        box.row(value)
    box.buffer.event(pb.EVENT_INTEGRITY, b"kept")
    await buffer.flush()
    epoch = buffer.opening.epoch
    await box.kill()
    kept = f"SELECT {BATCH_COLUMNS}, sealed_ms FROM batch"
    with sqlite3.connect(box.folder / "sealed.db") as db:  # what version 1 was, to the letter
        for table in ("dictionary", "moved", "anchor", "thinned", "ledger", "placed"):
            db.execute(f"DROP TABLE {table}")
        db.execute("ALTER TABLE lane DROP COLUMN agreed")
        as_rows(db)
        for column in ("cells", "segment", "body_at", "body_size"):
            db.execute(f"ALTER TABLE batch DROP COLUMN {column}")
        db.execute("DELETE FROM meta WHERE key IN ('gaps_through', 'predecessor', 'session', 'thinned_readings')")
        db.execute("PRAGMA user_version=1")
        before = db.execute(kept).fetchall()
    db.close()
    assert inspect.report(box.folder)["dictionaries"] == []
    buffer = await box.open()
    assert buffer.opening.epoch == epoch
    assert not list(box.folder.glob("*damaged*"))
    assert await values(buffer) == [value / 10 for value in (*PATTERN, *OTHER)]
    with sqlite3.connect(box.folder / "sealed.db") as db:
        assert db.execute(kept).fetchall()[: len(before)] == before
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()
    dictionary = Dictionary(b"first")
    await buffer.learn(dictionary, schema=2)
    assert inspect.report(box.folder)["dictionaries"] == [f"{dictionary.id:08x}"]
    await buffer.close()


async def test_salvage_of_a_damaged_store_keeps_the_dictionaries_and_what_names_them(box: Box) -> None:
    dictionary = await taught(box)
    await seal(box, PATTERN)
    epoch = box.buffer.opening.epoch
    await box.buffer.close()
    path = box.folder / "sealed.db"
    with sqlite3.connect(path) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'last_readings'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(bytes(data))
    buffer = await box.open()
    assert list(box.folder.glob("sealed.db.damaged-*"))
    assert (buffer.opening.epoch, buffer.dictionaries()) == (epoch, [dictionary.id])
    assert await values(buffer) == [value / 10 for value in PATTERN * 2]
    await buffer.close()


async def test_batches_that_nobody_can_read_any_more_are_set_aside_with_their_gap(box: Box) -> None:
    dictionary = await taught(box)
    await seal(box, PATTERN)
    await seal(box, PATTERN)
    await seal(box, OTHER)
    naming = [b.seq for b in await batches(box.buffer) if b.dictionary == dictionary.id]
    assert naming[:2] == [2, 3]
    await box.buffer.give_up_dictionary(dictionary.id)
    left = [b.seq for b in await batches(box.buffer)]
    assert left == [seq for seq in (1, 2, 3, 4) if seq not in naming]
    (gap,) = [gap for gap in await gaps(box.buffer) if gap.reason == pb.GAP_UNREADABLE]
    assert gap.seqs[0].first == 2
    assert gap.count == 200 * len(naming)
    with sqlite3.connect(box.folder / "sealed.db") as db:
        assert [seq for (seq,) in db.execute("SELECT seq FROM set_aside")] == naming
    db.close()
    await box.buffer.close()


def test_a_name_is_the_first_four_bytes_of_the_sha_256_little_endian() -> None:
    digest = hashlib.sha256(b"first").digest()
    assert Dictionary(b"first").id == digest[0] | digest[1] << 8 | digest[2] << 16 | digest[3] << 24
