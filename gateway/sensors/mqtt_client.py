"""aiomqtt with acknowledgements of our own: the one file that knows the paho client inside.

aiomqtt has no public way to acknowledge a message later than on receipt, to see that a broker sent one again, to learn
whether the broker had kept our session, or to leave most of an enormous message where it is. All are one step below.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Self, cast

import aiomqtt
from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway.errors import Misconfigured
from protos.config import Broker as BrokerOptions

CONNECT_S = 5.0
TIMEOUT_S = 10.0
IN_FLIGHT = 1000
"""Unacknowledged messages that we ask a broker of MQTT 5 to keep to; with 3.1.1 its own limit holds."""
PACKET_BYTES = 192 * 1024
"""Of a larger one the topic is kept, and of its payload nothing that means anything."""
CHUNK_BYTES = 64 * 1024


class Delivery(NamedTuple):
    """A message as the broker sent it."""

    topic: str
    payload: bytes
    size: int
    """Of the payload as it was sent: of an enormous one `payload` holds less."""
    qos: int
    retain: bool
    mid: int
    again: bool
    """The broker says that it sent it before."""


class NamedContext(ssl.SSLContext):
    """Expects another name in the certificate than the host's, and waits for a broker only so long."""

    name: str = ""

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        options["server_hostname"] = self.name or options.get("server_hostname")
        options["do_handshake_on_connect"] = False
        made = super().wrap_socket(sock, *args, **options)
        try:
            made.settimeout(CONNECT_S)
            made.do_handshake()
        except BaseException:
            made.close()  # paho knows nothing of it yet
            raise
        return made


def tls_of(options: BrokerOptions) -> ssl.SSLContext | None:
    """Made for each connection, so that a renewed certificate is taken. Raises Misconfigured for bad files."""
    if not options.tls:
        return None
    made = NamedContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.name = options.server_name
    setting, path = "ca_file", options.ca_file
    try:
        if options.ca_file:
            made.load_verify_locations(options.ca_file)
        else:
            made.load_default_certs()
        if options.cert_file:
            setting, path = "cert_file", options.cert_file
            made.load_cert_chain(options.cert_file, options.key_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise Misconfigured(f"broker {options.id}: {setting}: {path}: {error.strerror or error}") from None
    return made


class AckingClient(aiomqtt.Client):
    """One connection: make a new one for the next, so that an acknowledgement can't reach another connection.

    The queue of messages stays unbounded: what a bounded one drops would come again only after a reconnect. The
    broker's limit of unacknowledged messages bounds it, and whoever reads it those that need no acknowledgement.
    """

    def __init__(self, options: BrokerOptions, *, client_id: str, password: str | None) -> None:
        newer = options.version == "5"
        properties = None
        if newer:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = min(round(options.session_h * 3600), (1 << 32) - 2)
            properties.ReceiveMaximum = IN_FLIGHT
        super().__init__(
            options.host,
            options.port,
            username=options.username or None,
            password=password,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5 if newer else aiomqtt.ProtocolVersion.V311,
            clean_session=None if newer else False,
            clean_start=False if newer else MQTT_CLEAN_START_FIRST_ONLY,
            properties=properties,
            keepalive=options.keepalive_s,
            timeout=TIMEOUT_S,
            tls_context=tls_of(options),
        )
        self.session_kept = False
        """The broker knew our session; valid once connected."""
        self._newer = newer
        self._client.manual_ack_set(True)
        self._client.connect_timeout = CONNECT_S
        inner: Any = self._client
        self._plain_recv: Callable[[int], bytes] = inner._sock_recv
        inner._sock_recv = self._recv

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

    def _on_disconnect(
        self,
        client: PahoClient,
        userdata: Any,
        flags: DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._connected.done():  # it would be waited for in vain
            self._connected.set_exception(aiomqtt.MqttError("the broker ended the connection before its welcome"))
        super()._on_disconnect(client, userdata, flags, reason_code, properties)

    def _on_message(self, client: PahoClient, userdata: Any, message: MQTTMessage) -> None:
        del client, userdata
        packet: Any = self._client._in_packet
        left = int(packet["remaining_length"]) - len(packet["packet"])
        made = Delivery(
            topic=message._topic.decode(errors="replace"),
            payload=bytes(message.payload) if not left else b"",
            size=len(message.payload) + left,
            qos=message.qos,
            retain=bool(message.retain),
            mid=message.mid,
            again=bool(message.dup),
        )
        self._queue.put_nowait(cast("aiomqtt.Message", made))

    def _recv(self, wanted: int) -> bytes:
        """Read from the socket in small pieces; of an enormous packet only its head is kept.

        paho adds what this returns to the packet so far and goes on until it has all of it.
        """
        data = self._plain_recv(min(wanted, CHUNK_BYTES))
        packet: Any = self._client._in_packet
        if packet["have_remaining"] and packet["remaining_length"] > PACKET_BYTES:
            kept: bytearray = packet["packet"]
            del kept[CHUNK_BYTES + 4 :]
            if wanted == len(data):
                del kept[self._head_bytes(kept, packet["command"]) :]
                kept += b"\0" * self._newer  # MQTT 5: no properties
        return data

    @staticmethod
    def _head_bytes(packet: bytearray, command: int) -> int:
        """Length of a PUBLISH's topic and packet identifier (MQTT 3.1.1, section 3.3.2)."""
        return 2 + int.from_bytes(packet[:2], "big") + (2 if command & 0x06 else 0)
