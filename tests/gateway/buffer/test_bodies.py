"""Large bodies stand beside the store, once, and go when nothing names them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gateway.buffer import bodies
from gateway.buffer.disk import DiskBuffer
from protos.comboio.v1 import batch_pb2 as pb
from protos.ranges import Ranges
from tests.gateway.buffer.boxes import Box, gaps, seal, values


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "INLINE_BYTES", 1)
    monkeypatch.setattr(bodies, "SEGMENT_BYTES", 100)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "buffer")


def segments(box: Box) -> list[str]:
    return sorted(path.name for path in box.folder.glob("bodies-*"))


def inside(buffer: DiskBuffer) -> list[int]:
    return [size for (size,) in buffer._store.query("SELECT length(body) FROM batch WHERE lane = 0 ORDER BY seq")]


async def test_a_large_body_stands_beside_the_store_and_is_sent_as_it_was_sealed(box: Box) -> None:
    await box.open()
    await seal(box, 12)
    assert inside(box.buffer) == [0] * 12
    assert len(segments(box)) > 1
    assert await values(box.buffer) == [n / 10 for n in range(12)]
    await box.kill()
    buffer = await box.open()
    assert await values(buffer) == [n / 10 for n in range(12)]
    assert not await gaps(buffer)
    await buffer.close()


async def test_small_bodies_and_those_of_events_stay_in_the_store(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "INLINE_BYTES", 10_000)
    await box.open()
    await seal(box, 3)
    monkeypatch.setattr(bodies, "INLINE_BYTES", 1)
    box.buffer.event(pb.EVENT_INTEGRITY, b"x" * 500)
    await box.buffer._seal_urgent()
    assert segments(box) == []
    await seal(box, 1)
    assert [bool(size) for size in inside(box.buffer)] == [True, True, True, False]
    await box.buffer.close()


async def test_a_segment_goes_when_nothing_names_it(box: Box) -> None:
    box.settings = type(box.settings)(keep_acknowledged_h=0.0)
    await box.open()
    await seal(box, 12)
    before = segments(box)
    await box.buffer.ack(pb.TELEMETRY, Ranges([(1, 11)]))
    box.clock.wall += 1000
    await box.buffer.tidy()
    left = segments(box)
    assert len(left) == 1
    assert left[0] == before[-1]
    assert await values(box.buffer) == [1.1]
    await box.buffer.ack(pb.TELEMETRY, Ranges([(12, 12)]))
    box.clock.wall += 1000
    await box.buffer.tidy()
    assert segments(box) == []
    await seal(box, 1)
    assert segments(box)[0] not in before, "a number is never used again"
    await box.buffer.close()


async def test_what_no_row_names_after_a_kill_goes_at_the_first_tidying(box: Box) -> None:
    await box.open()
    await seal(box, 1)
    await box.kill()
    (box.folder / "bodies-77.seg").write_bytes(b"killed before the commit")
    buffer = await box.open()
    await buffer.tidy()
    assert segments(box) == ["bodies-1.seg"]
    assert await values(buffer) == [0]
    await buffer.close()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
async def test_a_write_that_fails_leaves_its_segment_alone(
    box: Box, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    await box.open()
    await seal(box, 1)
    box.row(1)
    await box.buffer.flush()

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(OSError, match="No space"):
            await box.buffer.seal()
    box.row(2)
    await box.buffer.seal()
    assert segments(box) == ["bodies-1.seg", "bodies-3.seg"]
    assert await values(box.buffer) == [0, 0.1, 0.2]
    await box.buffer.close()


async def test_a_commit_that_fails_leaves_its_segment_alone(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    await box.open()
    await seal(box, 1)
    box.row(1)

    def refuse(*_: object) -> None:
        raise OSError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(box.buffer._store, "_move", refuse)
        with pytest.raises(OSError, match="killed here"):
            await box.buffer.seal()
    await box.buffer.seal()
    assert segments(box) == ["bodies-1.seg", "bodies-3.seg"]
    assert await values(box.buffer) == [0, 0.1]
    await box.buffer.close()


async def test_a_damaged_or_missing_segment_costs_its_batches_and_says_so(box: Box) -> None:
    await box.open()
    await seal(box, 12)
    await box.kill()
    first, second, *_ = segments(box)
    (box.folder / first).write_bytes(b"\0" * 20)
    (box.folder / second).unlink()
    buffer = await box.open()
    await buffer.tidy()
    kept = await values(buffer)
    told = [gap for gap in await gaps(buffer) if gap.seqs]
    lost = sum(one.last - one.first + 1 for gap in told for one in gap.seqs)
    assert 0 < len(kept) < 12
    assert len(kept) + lost == 12
    await buffer.close()


async def test_segments_of_a_store_that_could_not_be_read_are_set_aside_with_it(box: Box) -> None:
    await box.open()
    await seal(box, 3)
    await box.kill()
    for path in box.folder.glob("sealed.db*"):
        path.write_bytes(b"\x7f" * 4096)
    buffer = await box.open()
    assert segments(box)
    assert all(".damaged-" in name for name in segments(box))
    await seal(box, 1)
    await buffer.close()


async def test_bodies_beside_the_store_count_against_the_limit(box: Box) -> None:
    await box.open()
    await seal(box, 12)
    before = box.buffer._bytes()
    named = sum(size for (size,) in box.buffer._store.query("SELECT body_size FROM batch WHERE lane = 0"))
    assert box.buffer._store.bodies.bytes_named == named
    await box.buffer.tidy()
    assert box.buffer._store.bodies.bytes_named == named
    assert before - box.buffer._store.bodies.bytes_named > 0
    await box.buffer.close()
