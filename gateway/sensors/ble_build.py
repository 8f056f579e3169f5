"""From configuration to Bluetooth LE sensors, their queue and the scanners that fill it."""

from __future__ import annotations

import os
from pathlib import Path

from firmware_configs.loader import ProfileError, Profiles
from gateway.clock import Clock
from gateway.decoders.advertisements import resolve
from gateway.errors import Misconfigured
from gateway.sensors import Built, BuiltSensor, Supervised, secret
from gateway.sensors.ble import BleSensor
from gateway.sensors.ble_adverts import Adverts
from gateway.sensors.ble_scanner import AdapterScanner
from gateway.sensors.bluez_watch import BUS_VARIABLE, SIMULATED_BUS
from gateway.sensors.complaint import problem_of
from protos.config import BleSensor as SensorOptions
from protos.config import GatewayConfig


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """One scanner per adapter, one queue for all, one driver per [[sensor]]. Raises Misconfigured."""
    del data_dir
    names: tuple[str | None, ...] = tuple(dict.fromkeys(config.ble.adapters)) or (None,)
    adverts = Adverts(adapters=len(names))
    simulated = SIMULATED_BUS in os.environ.get(BUS_VARIABLE, "")
    sensors = [
        BuiltSensor(options.id, _sensor(options, clock, profiles, adverts, simulated=simulated))
        for options in config.sensor
        if isinstance(options, SensorOptions)
    ]
    tasks = [Supervised("ble decoding", adverts.run)]
    for number, name in enumerate(names):
        scanner = AdapterScanner(
            adapter=name,
            number=number,
            scan=config.ble.scan,
            silent_s=config.ble.silent_s,
            clock=clock,
            adverts=adverts,
        )
        tasks.append(Supervised(f"ble {name or 'adapter'}", scanner.run, problem_of(scanner)))
    return Built(sensors=tuple(sensors), tasks=tuple(tasks))


def _sensor(
    options: SensorOptions, clock: Clock, profiles: Profiles, adverts: Adverts, *, simulated: bool
) -> BleSensor:
    try:
        profile = profiles.ble(options.profile)
    except ProfileError as error:
        raise Misconfigured(f"sensor {options.id}: profile {error}") from error
    return BleSensor(
        options=options,
        profile=profile,
        format_=resolve(profile.format),
        key=_key(options),
        simulated=simulated,
        clock=clock,
        adverts=adverts,
    )


def _key(options: SensorOptions) -> bytes | None:
    if not options.key_file:
        return None
    text = secret.read(options.key_file, setting=f"sensor {options.id}: key_file")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 16:
        raise Misconfigured(f"sensor {options.id}: key_file: {options.key_file} doesn't hold 32 hexadecimal digits")
    return key
