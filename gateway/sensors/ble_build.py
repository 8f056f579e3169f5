"""From configuration to Bluetooth LE sensors, those that advertise and those to connect to, and their scanners."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

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
from gateway.sensors.gatt_peripherals import Peripherals
from protos.config import BleSensor as SensorOptions
from protos.config import GatewayConfig
from protos.config import GattSensor as GattOptions

if TYPE_CHECKING:
    from gateway.sensors.gatt import GattSensor


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
    connected = [options for options in config.sensor if isinstance(options, GattOptions)]
    peripherals = None
    if connected:
        peripherals = Peripherals(adapters=len(names), connections=config.ble.connections, clock=clock)
        for gatt in connected:
            built = _gatt(gatt, config, clock, profiles, peripherals, simulated=simulated)
            sensors.append(BuiltSensor(gatt.id, built))
    tasks = [Supervised("ble decoding", adverts.run)]
    for number, name in enumerate(names):
        scanner = AdapterScanner(
            adapter=name,
            number=number,
            scan=config.ble.scan,
            silent_s=config.ble.silent_s,
            clock=clock,
            adverts=adverts,
            peripherals=peripherals,
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


def _gatt(
    options: GattOptions,
    config: GatewayConfig,
    clock: Clock,
    profiles: Profiles,
    peripherals: Peripherals,
    *,
    simulated: bool,
) -> GattSensor:
    from gateway.sensors.gatt import GattSensor  # noqa: PLC0415 - with what connects to it, where it is asked for

    try:
        profile = profiles.gatt(options.profile)
    except ProfileError as error:
        raise Misconfigured(f"sensor {options.id}: profile {error}") from error
    return GattSensor(
        options=options,
        profile=profile,
        passkey=_passkey(options),
        simulated=simulated,
        clock=clock,
        peripherals=peripherals,
        turn_s=config.ble.turn_s,
    )


def _passkey(options: GattOptions) -> int | None:
    if not options.passkey_file:
        return None
    text = secret.read(options.passkey_file, setting=f"sensor {options.id}: passkey_file")
    if not (text.isascii() and text.isdecimal() and len(text) == 6):
        raise Misconfigured(f"sensor {options.id}: passkey_file: {options.passkey_file} doesn't hold six digits")
    return int(text)


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
