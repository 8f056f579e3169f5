"""From configuration to Bluetooth LE sensors, those that advertise and those to connect to, and their scanners."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_configs.adverts import BleProfile
from firmware_configs.loader import ProfileError, Profiles
from gateway.clock import Clock
from gateway.decoders.advertisements import Format, resolve
from gateway.errors import Misconfigured
from gateway.sensors import Built, BuiltSensor, Saying, Supervised, secret
from gateway.sensors.ble import BleSensor
from gateway.sensors.ble_adverts import Adverts
from gateway.sensors.ble_memory import FILE, CounterMemory
from gateway.sensors.ble_scanner import AdapterScanner
from gateway.sensors.bluez_watch import BUS_VARIABLE, SIMULATED_BUS
from gateway.sensors.complaint import problem_of
from gateway.sensors.gatt_peripherals import Peripherals
from protos.config import BleSensor as SensorOptions
from protos.config import GatewayConfig
from protos.config import GattSensor as GattOptions

if TYPE_CHECKING:
    from gateway.sensors.gatt import GattSensor

PERIODS = 3
"""Of the sensor that sends most often: silence shorter than that is no sign of trouble."""


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """One scanner per adapter, one queue for all, one driver per [[sensor]]. Raises Misconfigured."""
    path = data_dir / "ble" / FILE if data_dir is not None else None
    memory = CounterMemory(path=path, clock=clock)
    names: tuple[str | None, ...] = tuple(dict.fromkeys(config.ble.adapters)) or (None,)
    adverts = Adverts(adapters=len(names))
    simulated = SIMULATED_BUS in os.environ.get(BUS_VARIABLE, "")
    mine = [options for options in config.sensor if isinstance(options, SensorOptions)]
    kinds = {options.id: _kind(options, profiles) for options in mine}
    sensors = [
        BuiltSensor(
            options.id,
            BleSensor(
                options=options,
                profile=kinds[options.id][0],
                format_=kinds[options.id][1],
                key=_key(options, kinds[options.id][1]),
                simulated=simulated,
                clock=clock,
                adverts=adverts,
                memory=memory,
            ),
        )
        for options in mine
    ]
    if config.ble.scan == "passive":
        for profile, _ in kinds.values():
            _require_passive(profile)
    ask = any(profile.scan_response or profile.beacon or format_.rotating for profile, format_ in kinds.values())
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
            silent_s=max(config.ble.silent_s, PERIODS * _shortest(sensors)),
            clock=clock,
            adverts=adverts,
            patterns=[pattern for _, format_ in kinds.values() for pattern in format_.patterns],
            ask=ask,
            power_cycle=config.ble.power_cycle,
            peripherals=peripherals,
        )
        tasks.append(Supervised(f"ble {name or 'adapter'}", scanner.run, problem_of(scanner), partial(_says, scanner)))
    return Built(sensors=tuple(sensors), tasks=tuple(tasks))


def _require_passive(profile: BleProfile) -> None:
    """A passive scan asks nobody, and BlueZ then keeps to itself what is said again."""
    if profile.scan_response or profile.beacon:
        why = "answers only when asked" if profile.scan_response else "says the same all the time"
        raise Misconfigured(f'ble.scan: "passive" can\'t hear {profile.name}, which {why}; use "auto"')


def _says(scanner: AdapterScanner) -> Saying:
    return Saying(scanner.state, scanner.counters)


def _shortest(sensors: Sequence[BuiltSensor]) -> float:
    """Seconds between two measurements of the sensor that sends most often."""
    return min((group.period_ms for one in sensors for group in one.driver.groups()), default=0) / 1000


def _kind(options: SensorOptions, profiles: Profiles) -> tuple[BleProfile, Format]:
    try:
        profile = profiles.ble(options.profile)
    except ProfileError as error:
        raise Misconfigured(f"sensor {options.id}: profile {error}") from error
    return profile, resolve(profile)


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


def _key(options: SensorOptions, format_: Format) -> bytes | None:
    if not options.key_file:
        return None
    if not format_.key_bytes:
        raise Misconfigured(f"sensor {options.id}: key_file: {options.profile} is never encrypted; leave it out")
    text = secret.read(options.key_file, setting=f"sensor {options.id}: key_file")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) not in format_.key_bytes:
        raise Misconfigured(f"sensor {options.id}: key_file: {options.key_file} doesn't hold 32 hexadecimal digits")
    return key
