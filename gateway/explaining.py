"""Walks the way of one quantity through the running parts: plan → frame → value → stages → buffer → link.

Nothing is kept for it but references that the parts hold anyway; sentences are made when somebody asks.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.buffer.disk import DiskBuffer
from gateway.clock import Clock
from gateway.health.explanation import Explanation, Step
from gateway.health.table import shown_value
from gateway.picturing import Scene, told
from gateway.pipeline.flow import Flow
from gateway.sensors import BuiltSensor
from gateway.sensors.complaint import problem_of
from gateway.sensors.explains import Explains, ago
from gateway.supervise import Failures
from gateway.uplink.anchors import Anchors

COLUMNS_SHOWN = 12


@dataclass(slots=True, kw_only=True)
class Explaining:
    """Called with `sensor` or `sensor/quantity`."""

    scene: Scene
    buffer: DiskBuffer
    clock: Clock
    anchors: Anchors
    failures: Failures

    def __call__(self, tag: str) -> Explanation:
        sensor, _, quantity = tag.partition("/")
        for built, way in zip(self.scene.sensors, self.scene.flows, strict=False):
            if way.sensor == sensor:
                names = [series.name for shape in way.shapes for series in shape.series]
                if quantity and quantity not in names:
                    return _unknown(tag, quantity, names)
                return self._explained(tag, quantity or None, built, way)
        return _unknown(tag, sensor, [way.sensor for way in self.scene.flows])

    def _explained(self, tag: str, quantity: str | None, built: BuiltSensor, way: Flow) -> Explanation:
        now_ms = self.clock.mono_ms()
        steps: list[Step] = []
        if isinstance(built.driver, Explains):
            steps.append(Step(name="plan", says=list(built.driver.plan(quantity))))
            heard = list(built.driver.last_frame(quantity, now_ms))
            steps.append(Step(name="last frame", says=heard or ["none since the gateway was started"]))
        for group, shape in enumerate(way.shapes):
            columns = [i for i, series in enumerate(shape.series) if quantity in {None, series.name}]
            if columns:
                steps += self._way(way, group, columns[:COLUMNS_SHOWN], now_ms)
        steps.append(Step(name="link", says=list(self._link(now_ms))))
        return Explanation(tag=tag, steps=steps, wrong=list(self._wrong(built, way, now_ms)))

    def _way(self, way: Flow, group: int, columns: list[int], now_ms: int) -> Iterator[Step]:
        row = way.newest[group]
        if row is None:
            yield Step(name="value", says=["none since the gateway was started"])
            return
        values = list(told(way.shapes[group], row))
        said = [f"{values[i].quantity} {shown_value(values[i])}, {values[i].quality}" for i in columns]
        yield Step(name="value", says=[f"{ago(now_ms, row.mono_ms)}: {said[0]}", *said[1:]])
        stages = [line for i in columns for stage in way.stages[group] for line in stage.explain(i, row)]
        if stages:
            yield Step(name="pipeline", says=stages)
        number = way.ids[group]
        waiting = self.buffer.unsealed_of(number)
        sealed = f"{waiting} rows of group {number} are not in a batch yet" if waiting else "every row is in a batch"
        yield Step(name="buffer", says=[sealed])

    def _link(self, now_ms: int) -> Iterator[str]:
        health = self.scene.link
        if health.connected_since_ms is not None:
            yield f"connected to {health.server} for {(now_ms - health.connected_since_ms) / 1000:.0f} s"
        if health.last_ack_ms is not None:
            yield f"the control plane last acknowledged something {ago(now_ms, health.last_ack_ms)}"
        else:
            yield "the control plane has acknowledged nothing since the uplink was started"
        if health.held_back:
            yield health.held_back

    def _wrong(self, built: BuiltSensor, way: Flow, now_ms: int) -> Iterator[str]:
        heard_ms = max(way.heard_ms, default=0)
        said = problem_of(built.driver)()
        failed = self.failures.recent(now_s=asyncio.get_running_loop().time()).get(f"sensor.{way.sensor}")
        if said is not None:
            yield said
        elif failed is not None:
            yield failed.why
        if not heard_ms:
            yield "it has given nothing since the gateway was started"
        elif way.sensor in self.scene.which_silent():
            yield f"silent: its last row came {ago(now_ms, heard_ms)}"
        health = self.scene.link
        if not health.connected:
            yield f"not connected to the control plane{f': {health.last_error}' if health.last_error else ''}"
        if self.buffer.refused():
            yield f"the disk refuses: {self.buffer.refused()}"
        if self.anchors.last is None:
            yield "the clock is not set yet: rows are kept and placed in time later"


def _unknown(tag: str, name: str, known: list[str]) -> Explanation:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(known)[:12]) or 'none'}"
    return Explanation(tag=tag, known=False, wrong=[f"{name} is not configured here; {hint}"])
