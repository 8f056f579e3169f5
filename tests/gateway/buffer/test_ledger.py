from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.buffer import balance, tally
from gateway.cli import main
from gateway.errors import Misconfigured
from gateway.reading import Lost
from protos.comboio.v1 import batch_pb2 as pb
from protos.hours import HOUR_MS, Cell, shares
from protos.ranges import Ranges
from tests.gateway.buffer.boxes import COOLING, METER, Box


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "buffer")


def told(box: Box, sensor: str | None = None) -> dict[int, tuple[int, int, int, dict[str, int]]]:
    """Hour → read, delivered, waiting, lost."""
    lines = balance.ledger(box.folder, sensor=sensor)
    return {one.hour: (one.read, one.delivered, one.waiting, one.lost) for one in lines}


async def test_counts_each_row_once_through_kills_before_and_after_a_seal(box: Box) -> None:
    await box.open()
    for sealed in (True, False, True, False):
        for value in range(5):
            box.row(value)
        await box.buffer.flush()
        if sealed:
            await box.buffer.seal()
        await box.kill()
        await box.open()
    assert sum(read for read, *_ in told(box).values()) == 20
    await box.buffer.close()


async def test_costs_no_page_of_its_own_while_the_hour_goes_on(box: Box) -> None:
    await box.open()
    box.clock.mono = 5 * HOUR_MS
    for minute in range(70):
        box.row(minute, after_ms=60_000)
        await box.buffer.seal()
        with closing(sqlite3.connect(box.folder / "sealed.db")) as db:
            (rows,) = db.execute("SELECT count(*) FROM ledger").fetchone()
        assert rows == (1 if minute >= 59 else 0)
    assert told(box) == {5: (59, 0, 59, {}), 6: (11, 0, 11, {})}
    await box.buffer.close()


async def test_what_is_acknowledged_is_delivered_also_when_it_is_deleted(box: Box) -> None:
    await box.open()
    box.clock.mono = HOUR_MS
    for value in range(4):
        box.row(value)
        await box.buffer.seal()
    await box.buffer.ack(pb.TELEMETRY, Ranges([(1, 3)]))
    assert told(box) == {1: (4, 3, 1, {})}
    box.clock.wall += 2 * 86_400_000
    await box.buffer.tidy()
    assert box.buffer.usage().kept_batches == 0
    assert told(box) == {1: (4, 3, 1, {})}
    await box.buffer.close()


async def test_rows_of_a_batch_that_can_not_be_read_any_more_are_lost_by_the_row(box: Box) -> None:
    await box.open([COOLING, METER])
    box.clock.mono = HOUR_MS - 2500
    for value in range(5):
        box.row(value)
    await box.buffer.seal()
    with closing(sqlite3.connect(box.folder / "sealed.db", isolation_level=None)) as db:
        db.execute("UPDATE batch SET body = zeroblob(length(body)) WHERE lane = 0")
    assert not await box.buffer.lease(pb.TELEMETRY, 0, 10)
    assert told(box, "cooling/door") == {0: (2, 0, 0, {"unreadable": 2}), 1: (3, 0, 0, {"unreadable": 3})}
    await box.buffer.close()


async def test_the_oldest_hours_are_kept_as_one_sum_per_boot(box: Box) -> None:
    await box.open()
    for hour in range(1, 8):
        box.clock.mono = hour * HOUR_MS
        box.row(hour)
        box.buffer.lost(box.ids[0], Lost(box.clock.mono, box.clock.mono + 100, 2, pb.GAP_UNREADABLE))
        await box.buffer.seal()
    await box.buffer.ack(pb.TELEMETRY, Ranges([(1, 7)]))
    before = balance.ledger(box.folder)
    for _ in range(2):
        with box.buffer._store.transaction() as run:
            tally.join_old(run, kept_hours=3)
    lines = balance.ledger(box.folder)
    assert [line.hour for line in lines] == [tally.JOINED, 5, 6, 7]
    assert (lines[0].read, lines[0].lost) == (4, {"unreadable": 8})
    assert sum(line.produced for line in lines) == sum(line.produced for line in before) == 21
    assert "boot 1, before" in balance.text(lines)
    await box.buffer.close()


async def test_a_damaged_store_keeps_its_ledger(box: Box) -> None:
    await box.open()
    box.clock.mono = 3 * HOUR_MS
    for value in range(3):
        box.row(value, after_ms=HOUR_MS)
    await box.buffer.seal()
    before = told(box)
    await box.kill()
    (box.folder / "sealed.db.suspect").touch()
    await box.open()
    assert [path for path in box.folder.iterdir() if ".damaged-" in path.name]
    assert {hour: read for hour, (read, *_) in told(box).items()} == {hour: read for hour, (read, *_) in before.items()}
    await box.buffer.close()


async def test_it_is_told_to_a_person_beside_the_running_daemon(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    await box.open([COOLING, METER])
    box.clock.mono = 7 * HOUR_MS
    anchor = pb.Anchor(boot=1, mono_ms=box.clock.mono, wall_ms=1_700_000_000_000, err_ms=20, source=pb.CLOCK_NTP)
    box.buffer.event(pb.EVENT_ANCHOR, anchor.SerializeToString())
    box.row(1)
    box.buffer.lost(box.ids[0], Lost(box.clock.mono, box.clock.mono + 100, 12, pb.GAP_UNREADABLE))
    await box.buffer.seal()
    command = ["buffer", "ledger", "--data-dir", str(box.folder.parent)]
    assert main([*command, "cooling"]) == 0
    said = capsys.readouterr().out
    assert "unreadable 12" in said
    assert "in all: 1 read, 0 delivered, 1 waiting, 12 lost" in said
    assert main(["buffer", "ledger", "--hours", "1", "--json", "--data-dir", str(box.folder.parent)]) == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert (line["sensor"], line["hour"], line["from_ms"]) == ("cooling", 7, 1_700_000_000_000)
    assert main([*command, "coolin"]) == 1
    assert "there is cooling, meter" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--hours", "0"])
    await box.buffer.close()


def test_without_a_buffer_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="there is no buffer yet"):
        balance.ledger(tmp_path)


INSTANT = st.integers(0, 30 * HOUR_MS)


@given(INSTANT, INSTANT, st.integers(0, 10_000))
def test_an_exact_gap_is_spread_over_its_hours_and_no_row_is_lost_or_made_up(one: int, other: int, count: int) -> None:
    begin, end = sorted((one, other))
    gap = pb.Gap(group=3, from_boot=2, from_mono_ms=begin, to_boot=2, to_mono_ms=end, count=count, count_exact=True)
    found = shares(gap)
    assert sum(share.rows for share in found) == count
    assert not any(share.unknown for share in found)
    assert all(begin // HOUR_MS <= share.cell.hour <= max(begin, end - 1) // HOUR_MS for share in found)
    assert len({share.cell for share in found}) == len(found)


def test_a_gap_that_nobody_counted_is_unknown_at_both_ends() -> None:
    gap = pb.Gap(group=3, from_boot=1, from_mono_ms=9 * HOUR_MS, to_boot=2, to_mono_ms=HOUR_MS // 2)
    assert [(share.cell, share.rows, share.unknown) for share in shares(gap)] == [
        (Cell(3, 1, 9), 0, True),
        (Cell(3, 2, 0), 0, True),
    ]


def test_a_gap_of_many_years_is_not_spread_over_all_of_their_hours() -> None:
    gap = pb.Gap(group=3, from_boot=1, to_boot=1, to_mono_ms=1 << 52, count=1 << 52, count_exact=True)
    assert 1 <= len(shares(gap)) <= 2
