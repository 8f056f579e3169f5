"""Drivers, one file each, imported only when a configuration names them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from firmware_configs.loader import Profiles
    from gateway.clock import Clock
    from gateway.sensors.driver import Driver
    from protos.config import GatewayConfig

DRIVERS = {
    "ble": "gateway.sensors.ble_build:build",
    "gatt": "gateway.sensors.ble_build:build",
    "gpsd": "gateway.sensors.gpsd:build",
    "host": "gateway.sensors.host_build:build",
    "modem": "gateway.sensors.modem:build",
    "modbus": "gateway.sensors.modbus_build:build",
    "mqtt": "gateway.sensors.mqtt_build:build",
    "simulated": "gateway.sensors.simulated:build",
}
"""driver = "…" in the configuration → the builder of all sensors of that kind; kinds that share adapters share one."""


@dataclass(frozen=True, slots=True)
class BuiltSensor:
    """A driver and the id its configuration gave it."""

    id: str
    driver: Driver


@dataclass(frozen=True, slots=True)
class Saying:
    """In a few words, and what it counted."""

    state: str
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Supervised:
    """A task that drivers need beside them, run like a driver: until cancelled, again after a failure."""

    name: str
    run: Callable[[], Awaitable[None]]
    problem: Callable[[], str | None] = lambda: None
    """What it lacks at the moment (an adapter, a broker), for a person."""
    says: Callable[[], Saying] | None = None
    """How it does, also while it lacks nothing."""


Identify = Callable[[int], Awaitable[Mapping[str, str]]]
"""Modbus unit → what the device there says that it is. Raises Retryable, in words."""


@dataclass(frozen=True, slots=True)
class Built:
    sensors: Sequence[BuiltSensor]
    tasks: Sequence[Supervised] = ()
    identify: Mapping[str, Identify] = field(default_factory=dict)
    """By the id of each bus in use."""


class Builder(Protocol):
    """Makes every sensor of one kind, so that they can share what they must share: a bus, an adapter, a broker."""

    def __call__(
        self, config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None
    ) -> Built:
        """Raises Misconfigured. `data_dir`: the gateway's own, None where nothing will run."""


def resolve(name: str) -> Builder:
    """The builder of a driver by its name in DRIVERS."""
    module, _, attribute = DRIVERS[name].partition(":")
    return cast("Builder", getattr(import_module(module), attribute))


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """Every sensor of `config`, in its order, and the tasks to run beside them. Raises Misconfigured.

    With `data_dir` a driver may remember, below it, what it must not take twice. Drivers and tasks may be started and
    stopped in any order; a read cut off by stopping is in the last gap.
    """
    builders = dict.fromkeys(resolve(str(sensor.__struct_config__.tag)) for sensor in config.sensor)
    parts = [builder(config, clock=clock, profiles=profiles, data_dir=data_dir) for builder in builders]
    by_id = {sensor.id: sensor for part in parts for sensor in part.sensors}
    return Built(
        sensors=tuple(by_id[sensor.id] for sensor in config.sensor),
        tasks=tuple(task for part in parts for task in part.tasks),
        identify={bus: ask for part in parts for bus, ask in part.identify.items()},
    )
