"""The simulated driver: values anyone can check, and marked as what they are."""

from __future__ import annotations

import asyncio

import pytest

from gateway.clock import SystemClock
from gateway.sensors.simulated import SIGNALS, SimulatedSensor
from protos import config
from protos.comboio.v1 import batch_pb2 as pb
from tests.gateway.sensors.rig import Facts, until


async def run_for(sensor: SimulatedSensor, rows: int) -> Facts:
    facts = Facts()
    task = asyncio.create_task(sensor.run(facts))  # type: ignore[arg-type]
    await until(lambda: len(facts.rows) >= rows)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return facts


def options(**more: object) -> config.SimulatedSensor:
    fields = {"id": "sim", "every_s": 0.005, "quantities": {"temperature": "Cel", "humidity": "%"}} | more
    return config.SimulatedSensor(**fields)  # type: ignore[arg-type]


async def test_counting_tells_every_read_apart() -> None:
    facts = await run_for(SimulatedSensor(options=options(signal="counting"), clock=SystemClock()), 10)
    assert [row.values for row in facts.rows] == [(k, k + 31) for k in range(1, len(facts.rows) + 1)]


async def test_two_runs_of_one_sensor_give_the_same_values() -> None:
    one = await run_for(SimulatedSensor(options=options(signal="noise"), clock=SystemClock()), 5)
    other = await run_for(SimulatedSensor(options=options(signal="noise"), clock=SystemClock()), 5)
    assert [row.values for row in one.rows[:5]] == [row.values for row in other.rows[:5]]


@pytest.mark.parametrize("signal", sorted(SIGNALS))
def test_every_series_says_it_is_simulated(signal: str) -> None:
    (group,) = SimulatedSensor(options=options(signal=signal), clock=SystemClock()).groups()
    assert [series.name for series in group.series] == ["temperature", "humidity"]
    assert all(series.attrs["simulated"] == "true" for series in group.series)
    assert {series.type for series in group.series} == {pb.VT_INT64 if signal == "counting" else pb.VT_FLOAT64}


def test_the_mark_cannot_be_configured_away() -> None:
    sensor = SimulatedSensor(options=options(attrs={"temperature": {"simulated": "false"}}), clock=SystemClock())
    assert sensor.groups()[0].series[0].attrs["simulated"] == "true"


@pytest.mark.parametrize("signal", ["sine", "noise"])
def test_signals_change_and_stay_in_their_range(signal: str) -> None:
    values = [SIGNALS[signal](7, 0, k) for k in range(600)]
    assert len(set(values)) > 50
    assert 1500 <= min(values) <= max(values) <= 2500
