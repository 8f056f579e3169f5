"""From configuration to brokers and the sensors that publish to them."""

from __future__ import annotations

import difflib
import re
import socket
from pathlib import Path
from typing import TypedDict

from firmware_configs.document import described, of_topics, of_values
from firmware_configs.loader import ProfileError, Profiles
from firmware_configs.messages import Availability, Message
from gateway.clock import Clock
from gateway.errors import Misconfigured
from gateway.sensors import Built, BuiltSensor, Supervised, secret
from gateway.sensors.complaint import problem_of
from gateway.sensors.mqtt import MqttSensor
from gateway.sensors.mqtt_broker import MqttBroker
from gateway.sensors.mqtt_client import tls_of
from gateway.sensors.mqtt_memory import MqttMemory
from protos.config import Broker as BrokerOptions
from protos.config import GatewayConfig
from protos.config import MqttSensor as SensorOptions

DEFAULT_PERIOD_S = 60.0


def build(config: GatewayConfig, *, clock: Clock, profiles: Profiles, data_dir: Path | None = None) -> Built:
    """One task per [[broker]] that a sensor uses, one driver per [[sensor]]. Raises Misconfigured."""
    wanted = [options for options in config.sensor if isinstance(options, SensorOptions)]
    used = {options.broker for options in wanted}
    for options in config.broker:
        if options.id in used:
            tls_of(options)  # files that are none are told before anything runs
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
    described = _described(options, profiles)
    sensor = MqttSensor(options=options, clock=clock, topics=broker, **described)
    broker.sensors.append(sensor)
    return sensor


class Described(TypedDict):
    messages: tuple[Message, ...]
    period_s: float
    simulated: bool
    availability: Availability | None


def _described(options: SensorOptions, profiles: Profiles) -> Described:
    """From the profile or the values in the document: one of them. Raises Misconfigured."""
    if (options.profile is None) == (not options.values):
        raise Misconfigured(f"sensor {options.id}: give either profile, or values for each quantity of its messages")
    for problem in (*of_values(options), *of_topics(options, profiles)):
        raise Misconfigured(f"sensor {options.id}: {problem}")
    if options.profile is None:
        return Described(messages=(described(options),), period_s=DEFAULT_PERIOD_S, simulated=False, availability=None)
    try:
        profile = profiles.mqtt(options.profile)
    except ProfileError as error:
        raise Misconfigured(f"sensor {options.id}: profile {error}") from error
    return Described(
        messages=profile.messages(),
        period_s=profile.period_s,
        simulated=profile.simulated,
        availability=profile.availability if options.device else None,
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
