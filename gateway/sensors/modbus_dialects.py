"""What differs between the kinds of bus: how one is reached, how its frames end, how long things take there.

pymodbus does transport and framing; this file and `modbus_connection` are the only ones that know it. Modbus TCP inside
TLS has the same frames as without (Modbus/TCP Security, 6), whatever pymodbus' client of that name assumes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pymodbus.client.base import ModbusBaseClient
from pymodbus.framer import FramerType
from pymodbus.pdu import ModbusPDU
from pymodbus.transport import CommParams, CommType

from firmware_configs.budget import LEAST_SILENCE_MS, SILENCE_CHARACTERS
from firmware_configs.buses import character_bits, where
from gateway.sensors import modbus_framing as framing
from gateway.sensors.modbus_serial import give_back, take_alone, why_not
from protos.config import AsciiBus, Bus, RtuBus, RtuOverTcpBus, TcpBus, TlsBus

_FUNCTIONS = (1, 2, 3, 4, 5, 6, 8, 15, 16, 22, 23, 43)
_PARITY = {"even": "E", "odd": "O", "none": "N"}
_NETWORK_S = 0.05
"""What may lie between two pieces of one frame behind a device server."""
_USB_S = 0.02
"""Adapters hand over what they heard every 16 ms."""
_LARGEST_PIECE = 1 << 20
_CLOSED = "closed the connection instead of answering"


class Question(ModbusPDU):
    """A PDU that was made elsewhere, byte for byte."""

    def __init__(self, unit: int, pdu: bytes) -> None:
        super().__init__(dev_id=unit)
        self.function_code = pdu[0]
        self._data = pdu[1:]

    def encode(self) -> bytes:
        return self._data


class Answer(ModbusPDU):
    """Of any function. pymodbus is given only frames that were checked before, so it has nothing to decode."""

    def decode(self, data: bytes) -> None:
        del data

    def __str__(self) -> str:
        return "an answer"

    @classmethod
    def calculateRtuFrameSize(cls, data: bytes) -> int:  # noqa: N802 - pymodbus' name
        return len(data)


class Client(ModbusBaseClient):
    """One connection of pymodbus', without the three habits that `modbus_connection` names."""

    def __init__(self, params: CommParams, framer: FramerType, hooks: Hooks) -> None:
        params.comm_name, params.reconnect_delay = "comboio", 0
        super().__init__(framer, 0, params, hooks.on_bytes, None, hooks.on_connection)
        self.set_max_no_responses(10**6)
        self.ctx.max_buffer_size = _LARGEST_PIECE  # what is larger is thrown away unseen
        self.ctx.framer.decoder.pdu_table = dict.fromkeys(_FUNCTIONS, (Answer, Answer))

    def close(self) -> None:
        port = getattr(self.ctx.transport, "sync_serial", None)
        if port is not None:
            give_back(port.fileno())
        super().close()


class Hooks(Protocol):
    """What a client tells its link."""

    def on_bytes(self, sending: bool, data: bytes) -> bytes:
        """Bytes that go or came → those that pymodbus is to see."""

    def on_connection(self, connected: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of bus. Times in seconds."""

    where: str
    serial: bool
    """No transaction ids: an answer is told from another only by what it says and when it comes."""
    socket: bool
    """Closing and connecting again brings a fresh start."""
    cut: framing.Cut
    character_s: float
    """One character on the wire; 0: not worth reckoning."""
    silence_s: float
    """Before every question."""
    longest_s: float
    """The longest answer there can be: a line silent for so long brings no more of an old one."""
    grace_s: float
    """Bytes of one frame come closer together than this."""
    gone: str
    """What it is that the connection ended."""
    make: Callable[[Hooks], Client]
    why: Callable[[Exception], str]
    """Why connecting failed, for people."""

    def wire_s(self, asked: int, answered: int) -> float:
        """That many bytes of a question and its answer on the wire."""
        return (asked + answered) * self.character_s


def dialect_of(bus: Bus) -> Dialect:
    if isinstance(bus, RtuBus | AsciiBus):
        return _line(bus)
    if isinstance(bus, RtuOverTcpBus):
        return _device_server(bus)
    return _tcp(bus)


def _tcp(bus: TcpBus | TlsBus) -> Dialect:
    def make(hooks: Hooks) -> Client:
        client = Client(_params(bus, CommType.TCP), FramerType.SOCKET, hooks)
        if isinstance(bus, TlsBus):
            client.ctx.call_create = _dialer(client, bus)
        return client

    return Dialect(
        where=where(bus), serial=False, socket=True, cut=framing.tcp, character_s=0.0, silence_s=0.0, longest_s=0.0,
        grace_s=0.0, gone=_CLOSED, make=make, why=lambda error: _network_words(where(bus), error),
    )  # fmt: skip


def _device_server(bus: RtuOverTcpBus) -> Dialect:
    character_s = 11 / bus.baud
    return Dialect(
        where=where(bus), serial=True, socket=True, cut=framing.rtu, character_s=character_s, silence_s=0.0,
        longest_s=framing.LONGEST_RTU * character_s + _NETWORK_S, grace_s=_NETWORK_S + 10 * character_s, gone=_CLOSED,
        make=lambda hooks: Client(_params(bus, CommType.TCP), FramerType.RTU, hooks),
        why=lambda error: _network_words(where(bus), error),
    )  # fmt: skip


def _line(bus: RtuBus | AsciiBus) -> Dialect:
    character_s = character_bits(bus) / bus.baud
    is_rtu = isinstance(bus, RtuBus)
    longest = framing.LONGEST_RTU if is_rtu else framing.LONGEST_ASCII

    def make(hooks: Hooks) -> Client:
        client = Client(_serial_params(bus), FramerType.RTU if is_rtu else FramerType.ASCII, hooks)
        opened = client.ctx.call_create

        async def alone() -> Any:
            transport, protocol = await opened()
            take_alone(transport.sync_serial.fileno())
            return transport, protocol

        client.ctx.call_create = alone
        return client

    return Dialect(
        where=bus.port, serial=True, socket=False, cut=framing.rtu if is_rtu else framing.ascii_,
        character_s=character_s, silence_s=_silence_s(character_s) if is_rtu else 0.0,
        longest_s=longest * character_s + _USB_S, grace_s=_USB_S + 10 * character_s, gone="the adapter has gone",
        make=make, why=lambda error: why_not(bus.port, error),
    )  # fmt: skip


def _silence_s(character_s: float) -> float:
    return max(SILENCE_CHARACTERS * character_s, LEAST_SILENCE_MS / 1000)


def _params(bus: TcpBus | TlsBus | RtuOverTcpBus, kind: CommType) -> CommParams:
    return CommParams(comm_type=kind, host=bus.host, port=bus.port, timeout_connect=bus.timeout_s)


def _serial_params(bus: RtuBus | AsciiBus) -> CommParams:
    return CommParams(
        comm_type=CommType.SERIAL,
        host=bus.port,
        baudrate=bus.baud,
        bytesize=bus.data_bits if isinstance(bus, AsciiBus) else 8,
        parity=_PARITY[bus.parity],
        stopbits=bus.stop_bits,
        timeout_connect=bus.timeout_s,
    )


# --- TLS ------------------------------------------------------------------------------------------------


def _dialer(client: Client, bus: TlsBus) -> Callable[[], Coroutine[Any, Any, Any]]:
    async def dial() -> Any:
        return await asyncio.get_running_loop().create_connection(
            client.ctx.handle_new_connection,
            bus.host,
            bus.port,
            ssl=context(bus),
            server_hostname=bus.server_name or bus.host,
            ssl_shutdown_timeout=1.0,
        )

    return dial


def context(bus: TlsBus) -> ssl.SSLContext:
    """Made for each connection, so that a renewed certificate is taken. Raises OSError (ssl.SSLError) for bad files."""
    for path in filter(None, (bus.ca_file, bus.cert_file, bus.key_file)):
        Path(path).stat()  # says which one is missing; ssl doesn't
    made = ssl.create_default_context(cafile=bus.ca_file or None)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if bus.cert_file:
        made.load_cert_chain(bus.cert_file, bus.key_file or None)
    return made


def _network_words(place: str, error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{place}: its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"{place}: no TLS connection ({error.reason or error}); does it speak Modbus inside TLS, and know us?"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{place}: {error.filename}: {error.strerror}"
    said = error.strerror if isinstance(error, OSError) and error.strerror else error
    return f"{place}: {said}; is the device on and this its address?"
