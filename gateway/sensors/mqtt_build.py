"""From configuration to brokers and the sensors that publish to them."""

from __future__ import annotations

import difflib
import re
import socket
from pathlib import Path

from firmware_configs.loader import ProfileError, Profiles
from firmware_configs.messages import MessageValue
from gateway.clock import Clock
from gateway.errors import Misconfigured
from gateway.sensors import Built, BuiltSensor, Supervised, secret
from gateway.sensors.complaint import problem_of
from gateway.sensors.mqtt import MqttSensor
from gateway.sensors.mqtt_broker import MqttBroker
from gateway.sensors.mqtt_memory import MqttMemory
from protos.config import Broker as BrokerOptions
from protos.config import GatewayConfig
from protos.config import MqttSensor as SensorOptions

DEFAULT_PERIOD_S = 60.0


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """One task per [[broker]] that a sensor uses, one driver per [[sensor]]. Raises Misconfigured."""
    wanted = [options for options in config.sensor if isinstance(options, SensorOptions)]
    used = {options.broker for options in wanted}
    brokers = {
        options.id: MqttBroker(
            options=options,
            client_id=options.client_id or _client_id(config, options),
            password=_password(options),
            clock=clock,
            memory=_memory(options, clock, data_dir),
        )
        for options in config.broker
        if options.id in used
    }
    known = [options.id for options in config.broker]
    sensors = [BuiltSensor(options.id, _sensor(options, brokers, clock, profiles, known)) for options in wanted]
    return Built(
        sensors=tuple(sensors),
        tasks=tuple(Supervised(f"broker {name}", broker.run, problem_of(broker)) for name, broker in brokers.items()),
    )


def _sensor(
    options: SensorOptions, brokers: dict[str, MqttBroker], clock: Clock, profiles: Profiles, known: list[str]
) -> MqttSensor:
    broker = brokers.get(options.broker)
    if broker is None:
        close = difflib.get_close_matches(options.broker, known, n=1)
        near = f"; did you mean {close[0]}?" if close else ""
        raise Misconfigured(
            f"sensor {options.id}: broker {options.broker!r} is not a [[broker]] of this configuration{near}"
        )
    values, period_s, simulated = _described(options, profiles)
    sensor = MqttSensor(
        options=options,
        values=values,
        period_s=options.every_s or period_s,
        simulated=simulated,
        clock=clock,
        topics=broker,
    )
    broker.sensors.append(sensor)
    return sensor


def _described(options: SensorOptions, profiles: Profiles) -> tuple[tuple[MessageValue, ...], float, bool]:
    """(values, period, simulated) from the profile or the values in the document: one of them."""
    if (options.profile is None) == (not options.values):
        raise Misconfigured(f"sensor {options.id}: give either profile, or values for each quantity of its messages")
    if options.profile is None:
        return inline(options), DEFAULT_PERIOD_S, False
    try:
        profile = profiles.mqtt(options.profile)
    except ProfileError as error:
        raise Misconfigured(f"sensor {options.id}: profile {error}") from error
    return profile.value, profile.period_s, profile.simulated


def inline(options: SensorOptions) -> tuple[MessageValue, ...]:
    """The values of the document as a profile would have them."""
    for quantity, value in options.values.items():
        if value.type != "number" and value.decimals is not None:
            raise Misconfigured(f"sensor {options.id}: values.{quantity}: a {value.type} has no decimals")
    return tuple(
        MessageValue(
            quantity=quantity,
            path=value.path,
            type=value.type,
            unit=value.unit,
            decimals=value.decimals,
            source="configuration",
        )
        for quantity, value in options.values.items()
    )


def _client_id(config: GatewayConfig, options: BrokerOptions) -> str:
    """One name for ever, or sessions pile up in the broker; different ones per box, or they throw each other out."""
    name = re.sub(r"[^a-z0-9]+", "-", (config.gateway.name or socket.gethostname()).lower()).strip("-")
    return f"comboio-{name or 'gateway'}-{options.id}"


def _memory(options: BrokerOptions, clock: Clock, data_dir: Path | None) -> MqttMemory | None:
    if data_dir is None:
        return None
    path = data_dir / "mqtt" / f"{options.id}.taken"
    return MqttMemory(path=path, buffer=data_dir / "buffer", boot_id=clock.boot_id())


def _password(options: BrokerOptions) -> str | None:
    if not options.password_file:
        return None
    return secret.read(options.password_file, setting=f"broker {options.id}: password_file")
