"""What a killed gateway remembers of the messages it took, against what a real buffer recovered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.buffer.disk import DiskBuffer
from gateway.reading import GroupShape, Row, SeriesShape
from gateway.sensors.mqtt_memory import REMEMBERED, Key, MqttMemory, Rows, last_rows
from tests.gateway.buffer.boxes import Box

BOOT = b"b" * 16
SHAPE = GroupShape(sensor="counter", period_ms=1000, series=(SeriesShape(name="n"),))


def key(mid: int, payload: bytes = b"x") -> Key:
    return (mid, "hall/counter", payload)


@pytest.fixture
async def box(tmp_path: Path) -> Box:
    return Box(tmp_path / "buffer")


def memory(tmp_path: Path, box: Box, *, boot: bytes = BOOT) -> MqttMemory:
    made = MqttMemory(path=tmp_path / "mqtt" / "hall.taken", buffer=box.folder, boot_id=boot)
    made.open()
    return made


async def opened(box: Box) -> DiskBuffer:
    return await box.open((SHAPE,))


def taken(rows: Mapping[int, int]) -> dict[Key, dict[str, Rows]]:
    return {key(mid): {"counter/n": Rows(row_ms)} for mid, row_ms in rows.items()}


async def test_after_a_kill_what_the_buffer_recovered_is_known_and_what_it_lost_is_not(
    tmp_path: Path, box: Box
) -> None:
    buffer = await opened(box)
    first = memory(tmp_path, box)
    now = box.clock.mono
    first.write(taken({1: now + 1, 2: now + 2, 3: now + 3}))
    buffer.append(box.ids[0], Row(now + 1, (1,)))
    buffer.append(box.ids[0], Row(now + 2, (2,)))
    await buffer.flush()
    buffer.append(box.ids[0], Row(now + 3, (3,)))  # in memory only
    await box.kill()
    first.close()
    await opened(box)
    second = memory(tmp_path, box)
    assert [second.known(key(mid)) for mid in (1, 2, 3, 4)] == [True, True, False, False]
    assert not second.known(key(1, b"another payload"))
    second.forget()
    assert not second.known(key(1))
    second.close()
    await box.buffer.close()


async def test_of_a_message_of_several_rows_it_knows_how_many_are_there(tmp_path: Path, box: Box) -> None:
    buffer = await opened(box)
    first = memory(tmp_path, box)
    now = box.clock.mono
    first.write({key(1): {"counter/n": Rows(now + 1, 3)}, key(2): {"counter/n": Rows(now + 4, 2, skipped=5)}})
    buffer.append(box.ids[0], Row(now + 1, (1,)))
    buffer.append(box.ids[0], Row(now + 2, (2,)))
    await buffer.flush()
    await box.kill()
    first.close()
    await opened(box)
    second = memory(tmp_path, box)
    assert second.recovered(key(1)) == {"counter/n": 2}
    assert second.recovered(key(2)) == {"counter/n": 5}
    assert second.recovered(key(3)) == {}
    assert not second.known(key(1))
    second.close()
    await box.buffer.close()


async def test_rows_of_another_boot_are_not_taken_for_those_of_this_one(tmp_path: Path, box: Box) -> None:
    buffer = await opened(box)
    first = memory(tmp_path, box, boot=b"a" * 16)
    first.write(taken({1: box.clock.mono - 5}))
    first.close()
    buffer.append(box.ids[0], Row(box.clock.mono, (1,)))
    await buffer.close()
    await opened(box)
    second = memory(tmp_path, box)
    assert not second.known(key(1))
    second.close()
    await box.buffer.close()


async def test_a_line_cut_off_by_a_kill_and_nonsense_are_passed_over(tmp_path: Path, box: Box) -> None:
    buffer = await opened(box)
    first = memory(tmp_path, box)
    first.write(taken({1: box.clock.mono}))
    first.close()
    file = tmp_path / "mqtt" / "hall.taken"
    file.write_text("nonsense\n[1, 2]\n" + file.read_text() + '[2, "hall/coun')
    buffer.append(box.ids[0], Row(box.clock.mono, (1,)))
    await buffer.close()
    await opened(box)
    second = memory(tmp_path, box)
    assert second.known(key(1))
    assert file.read_text().count("\n") == 1
    second.close()
    await box.buffer.close()


async def test_it_is_bounded_in_memory_and_on_disk(tmp_path: Path, box: Box) -> None:
    buffer = await opened(box)
    one = memory(tmp_path, box)
    for start in range(0, 12_000, 20):
        one.write(taken({mid: mid for mid in range(start, start + 20)}))
    assert len(one._entries) == REMEMBERED
    assert (tmp_path / "mqtt" / "hall.taken").stat().st_size < 1_200_000
    one.close()
    await buffer.close()


async def test_without_a_folder_it_can_write_it_goes_on_and_remembers_nothing(tmp_path: Path, box: Box) -> None:
    (tmp_path / "mqtt").write_text("a file where the folder should be")
    one = memory(tmp_path, box)
    one.write(taken({1: 1}))
    assert not one.known(key(1))
    assert last_rows(tmp_path / "nowhere") == {}
    one.close()
