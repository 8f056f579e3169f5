"""What each group's last row was, packed into one."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.buffer import last_readings
from gateway.buffer.last_readings import Last
from gateway.buffer.salvage import salvage
from gateway.buffer.tables import PAGE_BYTES
from gateway.reading import GroupShape
from tests.gateway.buffer.boxes import COOLING, Box, as_rows, values

DOOR = GroupShape(sensor="door", period_ms=1000, series=COOLING.series)
NUMBERS = st.integers(0, 2**40)


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "buffer")


@given(st.dictionaries(st.integers(1, 2**31), st.builds(Last, st.integers(0, 5), NUMBERS, NUMBERS)))
def test_packed_and_unpacked_they_are_the_same(lasts: dict[int, Last]) -> None:
    assert last_readings.unpack(last_readings.pack(lasts)) == lasts


@given(st.binary(max_size=40))
def test_other_bytes_are_refused_or_are_some_readings(packed: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(isinstance(last, Last) for last in last_readings.unpack(packed).values())


def test_two_hundred_groups_fit_into_one_page() -> None:
    chance = random.Random(1)
    newest = {group: 10**10 - chance.randrange(10_000) for group in range(1, 201)}
    lasts = {group: Last(3, mono_ms, 900 + chance.randrange(3)) for group, mono_ms in newest.items()}
    assert len(last_readings.pack(lasts)) <= PAGE_BYTES - 50


async def sealed(box: Box) -> dict[int, Last]:
    """Two groups' rows, a clean stop, and what the file then says of their last ones."""
    await box.open((COOLING, DOOR))
    for value in range(3):
        box.row(value)
    box.row(7, group=1)
    await box.buffer.seal()
    await box.buffer.close()
    with contextlib.closing(sqlite3.connect(box.folder / "sealed.db")) as db:
        return last_readings.load(db.execute)


async def test_a_file_of_format_4_is_brought_up_with_its_hours(box: Box) -> None:
    lasts = await sealed(box)
    assert [last.in_hour for last in lasts.values()] == [3, 1]
    with contextlib.closing(sqlite3.connect(box.folder / "sealed.db")) as db, db:
        as_rows(db, in_hour=True)
        db.execute("PRAGMA user_version=4")
    await box.open((COOLING, DOOR))
    assert not list(box.folder.glob("*damaged*"))
    await box.buffer.close()
    with contextlib.closing(sqlite3.connect(box.folder / "sealed.db")) as db:
        assert last_readings.load(db.execute) == lasts


async def test_damage_in_them_costs_no_batch(box: Box) -> None:
    await sealed(box)
    with contextlib.closing(sqlite3.connect(box.folder / "sealed.db")) as db, db:
        db.execute("UPDATE last_readings SET packed = x'c1'")
    await box.open((COOLING, DOOR))
    assert list(box.folder.glob("sealed.db.damaged-*"))
    assert await values(box.buffer) == [0, 0.1, 0.2, 0.7]
    await box.buffer.close()


async def test_salvage_finds_those_of_format_4(box: Box) -> None:
    lasts = await sealed(box)
    path = box.folder / "sealed.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        as_rows(db, in_hour=True)
    target = box.folder / "copy.db"
    assert salvage(path, target)
    with contextlib.closing(sqlite3.connect(target)) as db:
        assert last_readings.load(db.execute) == lasts
