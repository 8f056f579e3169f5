"""From a driver's emit to the buffer, across the driver's restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.pipeline.flow import Flow, check, flow
from gateway.reading import Lost, Row
from gateway.sensors.driver import Emit
from gateway.supervise import supervised
from protos.columns import ColumnSpec, from_wire
from protos.comboio.v1 import batch_pb2 as pb
from protos.config import Calibration, SimulatedSensor, Validation
from tests.gateway.buffer.boxes import COOLING, METER, Box, blocks, gaps

OPTIONS = SimulatedSensor(
    id="cooling",
    asset="truck-17/box",
    calibration={"temperature": Calibration(gain=2.0, offset=1.0)},
    attrs={"temperature": {"role": "cargo_temperature"}},
)


async def opened(box: Box, *ways: Flow) -> None:
    await box.open([shape for way in ways for shape in way.shapes])
    ids = iter(box.ids)
    for way in ways:
        way.bind([next(ids) for _ in way.shapes])


async def test_what_the_configuration_says_of_a_series_travels_with_it(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    way = flow(OPTIONS, [COOLING], None)  # type: ignore[arg-type]  # only its shapes are looked at
    await opened(box, way)
    (declared,) = await box.buffer.schemas()
    temperature, door = declared.groups[0].series
    assert dict(temperature.attrs) == {"asset": "truck-17/box", "role": "cargo_temperature"}
    assert dict(door.attrs) == {"asset": "truck-17/box"}
    assert (temperature.scale, temperature.offset, temperature.exp) == (0.2, 1.0, 0)
    await box.buffer.close()


async def test_rows_go_to_the_group_they_are_of_and_a_scaled_one_untouched(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    meter = SimulatedSensor(id="meter", calibration={"power": Calibration(gain=0.5)})
    ways = [flow(OPTIONS, [COOLING], None), flow(meter, [METER], None)]  # type: ignore[arg-type]
    await opened(box, *ways)
    for way in ways:
        way.buffer = box.buffer
    box.clock.mono += 5
    ways[0].row(0, Row(box.clock.mono, (231, 1)))
    ways[1].row(0, Row(box.clock.mono, (100.5,)))
    await box.buffer.seal()
    found = {block.group: block.columns for block in await blocks(box.buffer)}
    spec = ColumnSpec(id=1, name="temperature", scale=0.2, offset=1.0)
    assert found[box.ids[0]][0] == list(from_wire(spec, [231]))
    assert found[box.ids[1]][0] == [50.25]
    assert [(way.counters.rows, way.counters.readings) for way in ways] == [(1, 2), (1, 1)]
    await box.buffer.close()


async def test_a_row_at_which_a_stage_breaks_is_in_a_gap_and_the_driver_goes_on(tmp_path: Path) -> None:
    box = Box(tmp_path / "buffer")
    options = SimulatedSensor(id="cooling", validate={"temperature": Validation(max=80)})
    way = flow(options, [COOLING], None)  # type: ignore[arg-type]
    await opened(box, way)
    way.buffer = box.buffer
    for value in (41, 10**400, 42):
        box.clock.mono += 1000
        way.row(0, Row(box.clock.mono, (value, 1)))
    await box.buffer.seal()
    assert [list(block.columns[0]) for block in await blocks(box.buffer)] == [[4.1, 4.2]]
    (gap,) = await gaps(box.buffer)
    assert (gap.count, gap.reason, gap.from_mono_ms) == (1, pb.GAP_REFUSED, box.clock.mono - 1001)
    assert (way.counters.rows, way.counters.refused, way.counters.lost) == (2, 1, 1)
    await box.buffer.close()


async def test_a_driver_that_breaks_is_started_again_and_goes_on_in_the_same_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path / "buffer")
    way = flow(OPTIONS, [COOLING], None)  # type: ignore[arg-type]
    await opened(box, way)
    way.buffer = box.buffer
    starts: list[int] = []

    async def drive(emit: Emit = way) -> None:
        starts.append(len(starts))
        box.clock.mono += 1000
        emit.row(0, Row(box.clock.mono, (10 + len(starts), 0)))
        if len(starts) < 3:
            emit.lost(0, Lost(box.clock.mono, box.clock.mono + 500, 1, pb.GAP_UNREADABLE))
            box.clock.mono += 1000
            raise OSError("the port is gone")
        await asyncio.Event().wait()

    naps: list[float] = []
    real = asyncio.sleep

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await real(0)

    with monkeypatch.context() as patched:
        patched.setattr("gateway.supervise.asyncio.sleep", nap)
        task = asyncio.create_task(supervised("cooling", drive))
        while len(starts) < 3:
            await real(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await box.buffer.seal()
    (block,) = await blocks(box.buffer)
    assert block.group == box.ids[0]
    assert len(block.times) == 3
    assert block.times == sorted(block.times)
    await box.buffer.close()
    assert (way.counters.rows, way.counters.lost) == (3, 2)
    assert len(naps) == 2
    assert all(0.2 <= seconds <= 30 for seconds in naps)
    reopened = await box.open([])
    assert [gap.count for gap in await gaps(reopened) if gap.reason == pb.GAP_UNREADABLE] in ([1, 1], [2])
    await reopened.close()


def test_check_finds_what_flow_would_refuse() -> None:
    from gateway.errors import Misconfigured

    door = SimulatedSensor(id="cooling", calibration={"door": Calibration(offset=1.0)})
    check(OPTIONS, [COOLING])
    with pytest.raises(Misconfigured, match="a switch can't be calibrated"):
        check(door, [COOLING])
