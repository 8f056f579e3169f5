"""aiomqtt with acknowledgements of our own: the one file that knows the paho client inside.

aiomqtt has no public way to acknowledge a message later than on receipt, to see that a broker sent one again, or to
learn whether the broker had kept our session. All three are one step below.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, cast

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags, MQTTMessage
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

CONNECT_S = 5.0


class Delivery(aiomqtt.Message):
    """A message as the broker sent it; `again`: it says that it sent it before."""

    again: bool = False

    @classmethod
    def of(cls, message: MQTTMessage) -> Delivery:
        made = cls._from_paho_message(message)
        made.again = bool(message.dup)
        return made


class AckingClient(aiomqtt.Client):
    """One connection: make a new one for the next, so that an acknowledgement can't reach another connection.

    The queue of messages stays unbounded: what a bounded one drops would come again only after a reconnect. The
    broker's limit of unacknowledged messages bounds it.
    """

    def __init__(self, hostname: str, port: int, **options: Any) -> None:
        super().__init__(hostname, port, **options)
        self.session_kept = False
        """The broker knew our session; valid once connected."""
        self._client.manual_ack_set(True)
        self._client.connect_timeout = CONNECT_S

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Self]:
        """As `async with` on aiomqtt's own client, but nothing is left behind when it fails or is cancelled.

        Raises aiomqtt.MqttError.
        """
        entering = asyncio.ensure_future(self.__aenter__())
        try:
            await asyncio.shield(entering)
        except asyncio.CancelledError:
            with suppress(Exception):
                await entering
                await self.__aexit__(None, None, None)
            self._client.disconnect()
            raise
        except BaseException:
            self._client.disconnect()  # closes the socket of a broker that never said welcome
            raise
        try:
            yield self
        finally:
            with suppress(aiomqtt.MqttError):
                await self.__aexit__(None, None, None)

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """Messages in the order the broker sent them. Raises aiomqtt.MqttError when the connection ends."""
        async for message in self.messages:
            yield cast("Delivery", message)

    def acknowledge(self, delivery: Delivery) -> None:
        """Tell the broker that it may forget this message; of this connection only, and in order."""
        if delivery.qos:
            self._client.ack(delivery.mid, delivery.qos)

    # --- called by paho -----------------------------------------------------------------------------

    def _on_connect(
        self,
        client: PahoClient,
        userdata: Any,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        self.session_kept = bool(flags.session_present)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: PahoClient, userdata: Any, message: MQTTMessage) -> None:
        del client, userdata
        self._queue.put_nowait(Delivery.of(message))
