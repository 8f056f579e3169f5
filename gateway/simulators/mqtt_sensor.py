"""Simulated MQTT sensors: JSON messages as a scenario or a profile describes them, published at QoS 1.

Each message is logged before it is published, and published again until the broker has it: a broker that is killed in
between may so have one twice, as with every sensor that doesn't want to lose any.
"""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import aiomqtt
import msgspec
from msgspec import Meta, Struct

from firmware_configs.loader import Profiles
from gateway.backoff import Backoff
from gateway.simulators.sent_log import SentLog
from gateway.simulators.signals import Signal, replay
from gateway.simulators.waves import Wave
from protos.strict import DocumentError, convert

GARBAGE = (b"", b"{", b"[1, 2", b'"text"', b"\xff\xfe", b'{"temperature": }', b"null", b'{"other": 1}')


class _Frozen(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class PublishedValue(_Frozen, frozen=True, kw_only=True):
    path: Annotated[str, Meta(pattern=r"^(/[^~/]+)+$", title="JSON pointer into objects, e.g. /battery/level")]
    decimals: Annotated[int, Meta(ge=0, le=9)] = 2
    signal: Wave = Wave()
    replay: Annotated[str, Meta(pattern=r"^(.+:.+)?$", title="CSV:COLUMN")] = ""
    """A recorded column instead of a signal, from its beginning, again and again."""


class PublishingSensor(_Frozen, frozen=True, kw_only=True):
    id: Annotated[str, Meta(min_length=1)]
    """As the log names it."""
    topic: Annotated[str, Meta(min_length=1)]
    profile: str | None = None
    """Publishes what this profile reads, as Zigbee2MQTT would; `values` change single quantities."""
    values: dict[str, PublishedValue] = msgspec.field(default_factory=dict)
    every_s: Annotated[float, Meta(gt=0)] = 1.0
    count: Annotated[int, Meta(ge=1)] | None = None
    """Stop after so many."""
    retain: bool = False
    muted: bool = False
    """Publish nothing until told to speak."""


class Fault(_Frozen, frozen=True, kw_only=True):
    """What to do, at once from the control port or `at_s` after the start from the file."""

    fault: Literal["garbage", "mute", "speak"]
    at_s: Annotated[float, Meta(ge=0)] = 0.0
    sensor: str | None = None


class MqttScenario(_Frozen, frozen=True, kw_only=True):
    """The whole document."""

    sensor: tuple[PublishingSensor, ...] = ()
    fault: tuple[Fault, ...] = ()


def load(path: Path) -> MqttScenario:
    """Raises ValueError with every mistake, each with its path."""
    try:
        return convert(tomllib.loads(path.read_text(encoding="utf-8")), MqttScenario)
    except (tomllib.TOMLDecodeError, DocumentError) as error:
        raise ValueError(f"{path}: {error}") from error


def message(
    values: Mapping[str, PublishedValue], k: int, t_s: float, recorded: Mapping[str, Signal] | None = None
) -> tuple[bytes, dict[str, float | int]]:
    """The `k`-th message and what its quantities mean. `recorded` holds the quantities that are replayed."""
    document: dict[str, Any] = {}
    meant: dict[str, float | int] = {}
    for quantity, one in values.items():
        replayed = (recorded or {}).get(quantity)
        steps = one.signal.steps(k, t_s, step=10.0**-one.decimals)
        if replayed is not None:
            steps = round(replayed(t_s) * 10**one.decimals)
        meant[quantity] = steps / 10**one.decimals if one.decimals else steps
        *parents, last = one.path.split("/")[1:]
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = meant[quantity]
    return json.dumps(document).encode(), meant


class Publisher:
    """One sensor: measures, logs, publishes. Raises ProfileError, and ValueError for a recording that is none."""

    def __init__(self, *, options: PublishingSensor, broker: tuple[str, int], log: SentLog, profiles: Profiles) -> None:
        self.options = options
        self.muted = options.muted
        self.k = 0
        self._broker = broker
        self._log = log
        self._values = _described(options, profiles)
        self._recorded = {name: _replayed(one.replay) for name, one in self._values.items() if one.replay}
        self._garbage: asyncio.Queue[bytes] = asyncio.Queue(maxsize=100)

    async def run(self) -> None:
        """Publish at its pace until cancelled or `count` is reached."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(base_s=0.1, cap_s=5.0)
        zero = loop.time()
        while self.options.count is None or self.k < self.options.count:
            try:
                async with aiomqtt.Client(*self._broker, timeout=5) as client:
                    await self._publish(client, zero)
            except aiomqtt.MqttError:
                await asyncio.sleep(backoff.next_s())

    def garbage(self) -> None:
        """The next message is none. Dropped when a hundred of them wait."""
        if not self._garbage.full():
            self._garbage.put_nowait(GARBAGE[self.k % len(GARBAGE)])

    async def _publish(self, client: aiomqtt.Client, zero: float) -> None:
        loop = asyncio.get_running_loop()
        while self.options.count is None or self.k < self.options.count:
            due = loop.time() + self.options.every_s
            if not self._garbage.empty():
                self._log.write(self.options.id, self.k, {}, fault="garbage")
                await client.publish(self.options.topic, self._garbage.get_nowait(), qos=1)
            if not self.muted:
                await self._one(client, loop.time() - zero)
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _one(self, client: aiomqtt.Client, t_s: float) -> None:
        payload, meant = message(self._values, self.k + 1, t_s, self._recorded)
        self._log.write(self.options.id, self.k + 1, meant)
        self.k += 1
        try:
            await client.publish(self.options.topic, payload, qos=1, retain=self.options.retain)
        except aiomqtt.MqttError:
            await self._again(payload)
            raise

    async def _again(self, payload: bytes) -> None:
        backoff = Backoff(base_s=0.1, cap_s=5.0)
        while True:
            await asyncio.sleep(backoff.next_s())
            try:
                async with aiomqtt.Client(*self._broker, timeout=5) as client:
                    await client.publish(self.options.topic, payload, qos=1, retain=self.options.retain)
                    return
            except aiomqtt.MqttError:
                continue


class MqttPlay:
    """A scenario being played. `run` until cancelled; `command` from the control port."""

    def __init__(self, *, scenario: MqttScenario, broker: tuple[str, int], log: SentLog, profiles: Profiles) -> None:
        self.publishers = [
            Publisher(options=options, broker=broker, log=log, profiles=profiles) for options in scenario.sensor
        ]
        self._scenario = scenario

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for one in self.publishers:
                tasks.create_task(one.run(), name=f"publisher.{one.options.id}")
            tasks.create_task(self._faults(), name="faults")

    async def _faults(self) -> None:
        loop = asyncio.get_running_loop()
        zero = loop.time()
        for fault in sorted(self._scenario.fault, key=lambda one: one.at_s):
            await asyncio.sleep(max(0.0, zero + fault.at_s - loop.time()))
            self.apply(fault)

    async def command(self, line: str) -> str:
        """`{"fault": "garbage"}` or `status`; answers `ok`, or who sent how much as JSON. Raises ValueError."""
        if line == "status":
            return json.dumps({"sent": {one.options.id: one.k for one in self.publishers}})
        try:
            self.apply(convert(json.loads(line), Fault))
        except json.JSONDecodeError as error:
            raise ValueError(f"a fault is a JSON object, or status ({error})") from None
        return "ok"

    def apply(self, fault: Fault) -> None:
        """Let it happen now. Raises ValueError for a sensor that isn't there."""
        chosen = [one for one in self.publishers if fault.sensor in {None, one.options.id}]
        if not chosen:
            raise ValueError(f"there is no sensor {fault.sensor}")
        for one in chosen:
            if fault.fault == "garbage":
                one.garbage()
            else:
                one.muted = fault.fault == "mute"


def _replayed(wanted: str) -> Signal:
    path, _, column = wanted.rpartition(":")
    return replay(Path(path), column)


def _described(options: PublishingSensor, profiles: Profiles) -> dict[str, PublishedValue]:
    found: dict[str, PublishedValue] = {}
    if options.profile is not None:
        described = profiles.mqtt(options.profile)
        if len(described.messages()) > 1 or described.messages()[0].format != "json":
            raise ValueError(f"sensor {options.id}: {described.name} is no single JSON message; give values")
        for value in described.values():
            if value.type == "number":
                wave = Wave(kind="counting") if value.quantity == "count" else Wave(mean=50.0)
                found[value.quantity] = PublishedValue(path=value.path, decimals=value.decimals or 0, signal=wave)
    found |= options.values
    if not found:
        raise ValueError(f"sensor {options.id}: give a profile, or values")
    return found
