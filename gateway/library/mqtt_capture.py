"""`capture --broker`: what a device publishes, heard beside the running gateway by a session of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiomqtt

from firmware_configs.messages import MqttProfile, filled, placeholders, topic_filter
from gateway.errors import Misconfigured, Retryable
from gateway.sensors import secret
from gateway.sensors.mqtt_client import tls_of
from protos.config import Broker

TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Of which device: `topic` where the profile names none, `device` where it does."""

    profile: MqttProfile
    device: str
    topic: str

    def filters(self) -> list[str]:
        """To subscribe to. Raises Misconfigured."""
        if self.topic:
            return [topic_filter(filled(self.topic, self.device))]
        topics = [message.topic for message in self.profile.messages()]
        if not all(topics):
            raise Misconfigured(f"{self.profile.name} names no topic; give --topic")
        if not self.device and any("device" in placeholders(topic) for topic in topics):
            raise Misconfigured(f"{self.profile.name} needs --device: what stands for {{device}} in {topics[0]}")
        return [topic_filter(filled(topic, self.device)) for topic in topics]


async def heard(options: Broker, wanted: Wanted, *, many: int, within_s: float) -> list[tuple[str, bytes]]:
    """Topic and payload of the next messages: `many`, or those that came in time. Raises Retryable when none did."""
    filters = wanted.filters()
    password = None
    if options.password_file:
        password = secret.read(options.password_file, setting=f"broker {options.id}: password_file")
    found: list[tuple[str, bytes]] = []
    try:
        async with aiomqtt.Client(
            options.host,
            options.port,
            username=options.username or None,
            password=password,
            timeout=TIMEOUT_S,
            tls_context=tls_of(options),
        ) as client:
            await client.subscribe([(topic, 1) for topic in filters])
            async with asyncio.timeout(within_s):
                async for message in client.messages:
                    found.append((str(message.topic), bytes(message.payload)))
                    if len(found) >= many:
                        break
    except TimeoutError:
        pass
    except aiomqtt.MqttError as error:
        raise Retryable(f"broker {options.id}: {error}") from None
    if not found:
        raise Retryable(f"nothing came on {', '.join(filters)} for {within_s:g} s")
    return found
