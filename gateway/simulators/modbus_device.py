"""Modbus TCP devices that aren't there: several units on one port, with faults and a log of the reads answered.

An own server of MBAP frames, because pymodbus' can't do what a balance needs: write a line before an answer leaves
and know which bytes left, reset or cut a connection in the middle of a frame, be silent for one unit, and live more
than once in a process (it keeps global state). Functions 1 to 4, and where a profile allows it 5, 6, 15, 16, 22 and
23; others get exception 1.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.clock import Clock
from gateway.simulators.faults import Fault, Faults
from gateway.simulators.modbus_unit import Answered, SimulatedUnit
from gateway.simulators.modbus_written import WRITES, Misbehaviour
from gateway.simulators.read_log import ReadLog
from protos.strict import convert

_HEADER = struct.Struct(">HHHBBHH")
_GARBAGE = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>"


class Hold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show `value` instead of a quantity's signal, for so long."""

    hold: str
    value: float
    for_s: Annotated[float, Meta(gt=0)]


class ModbusDevice:
    """Life cycle: `start` (again after `close`), reads and faults, `close`. A unit nobody simulates stays silent."""

    def __init__(
        self, *, units: Mapping[int, SimulatedUnit], log: ReadLog, clock: Clock, faults: Faults | None = None
    ) -> None:
        self.faults = faults or Faults()
        self.port = 0
        """Chosen by `start`."""
        self._units = units
        self._log = log
        self._clock = clock
        self._zero_ms = clock.mono_ms()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; returns the port chosen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, self._connections), host, port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def close(self) -> None:
        """Stop listening and close every connection."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.abort()
            await self._server.wait_closed()
            self._server = None

    async def command(self, line: str) -> str:
        """`{"hold": "temperature", "value": 12.5, "for_s": 20}`, `writes`, a `Misbehaviour` or a command of `Faults`.

        Raises ValueError.
        """
        if line == "writes":
            asked = {unit: [one._asdict() for one in device.writes.requests] for unit, device in self._units.items()}
            return json.dumps(asked)
        if line.startswith('{"write"'):
            told = convert(json.loads(line), Misbehaviour)
            for unit, device in self._units.items():
                if told.unit in {None, unit}:
                    device.writes.tell(told)
            return "ok"
        if not line.startswith('{"hold"'):
            return await self.faults.command(line)
        hold = convert(json.loads(line), Hold)
        until_s = self._now_s() + hold.for_s
        held = [unit.hold(hold.hold, hold.value, until_s) for unit in self._units.values()]
        if not any(held):
            raise ValueError(f"no unit has a signal {hold.hold!r}")
        return "ok"

    def _now_s(self) -> float:
        return (self._clock.mono_ms() - self._zero_ms) / 1000.0

    def answer(self, frame: bytes, connection: _Connection) -> None:
        """Answer one whole request frame, or spoil the answer as told."""
        transaction, _, length, unit, function, address, count = _HEADER.unpack(frame[:12])
        device = self._units.get(unit)
        if device is None:
            return
        fault = self.faults.take(unit)
        if fault is not None and fault.fault == "exception":
            connection.send(_frame(transaction, unit, bytes((function | 0x80, fault.code))))
            return
        if function in WRITES:
            answered = device.write(function, frame[8 : 6 + length], self._now_s())
            pdu = bytes((function | 0x80, answered)) if isinstance(answered, int) else bytes((function,)) + answered
            self._deliver(transaction, unit, pdu, fault, connection)
            return
        outcome = device.read(function, address, count, self._now_s())
        if isinstance(outcome, int):
            connection.send(_frame(transaction, unit, bytes((function | 0x80, outcome))))
            return
        spoilt = fault is not None and fault.fault != "delay"
        self._log.write(
            unit=unit,
            function=function,
            address=address,
            ks=outcome.ks,
            raw=None if outcome.computed else outcome.words,
            fault=fault.fault if fault is not None and spoilt else None,
        )
        self._deliver(transaction, unit, bytes((function,)) + _payload(function, outcome), fault, connection)

    def _deliver(self, transaction: int, unit: int, pdu: bytes, fault: Fault | None, connection: _Connection) -> None:
        frame = _frame(transaction, unit, pdu)
        match fault.fault if fault is not None else None:
            case None:
                connection.send(frame)
            case "delay":
                assert fault is not None
                asyncio.get_running_loop().call_later(fault.delay_s, connection.send, frame)
            case "wrong_unit":
                connection.send(_frame(transaction, unit % 247 + 1, pdu))
            case "wrong_function":
                connection.send(_frame(transaction, unit, bytes(((7 - pdu[0]) & 0x7F,)) + pdu[1:]))
            case "half_frame":
                connection.send(frame[: len(frame) // 2])
            case "short":  # a whole frame with one register (or byte of bits) less than asked
                less = 2 if pdu[0] in {3, 4} else 1
                connection.send(_frame(transaction, unit, bytes((pdu[0], (pdu[1] - less) & 0xFF)) + pdu[2:-less]))
            case "garbage":
                connection.send(_GARBAGE)
            case "reset":
                connection.reset()


def _payload(function: int, answered: Answered) -> bytes:
    words = answered.words
    if function in {3, 4}:
        return struct.pack(f">B{len(words)}H", 2 * len(words), *words)
    size = -(-len(words) // 8)
    return bytes((size,)) + sum(bit << n for n, bit in enumerate(words)).to_bytes(size, "little")


def _frame(transaction: int, unit: int, pdu: bytes) -> bytes:
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


class _Connection(asyncio.Protocol):
    """Cuts the stream into request frames; whatever isn't Modbus TCP ends the connection."""

    def __init__(self, device: ModbusDevice, connections: set[_Connection]) -> None:
        self._device = device
        self._connections = connections
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 6:
            size = int.from_bytes(self._buffer[4:6], "big") + 6
            if self._buffer[2:4] != b"\0\0" or not 8 <= size <= 260:
                self.abort()
                return
            if len(self._buffer) < size:
                return
            frame, self._buffer = self._buffer[:size], self._buffer[size:]
            self._device.answer(frame.ljust(12, b"\0"), self)

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def reset(self) -> None:
        """End with RST instead of FIN."""
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
