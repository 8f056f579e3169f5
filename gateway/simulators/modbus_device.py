"""Modbus devices that aren't there: several units on one line, with faults and a log of the reads answered.

An own server, because pymodbus' can't do what a balance needs: write a line before an answer leaves and know which
bytes left, reset or cut a connection in the middle of a frame, be silent for one unit, and live more than once in a
process (it keeps global state). TCP, TLS, RTU and ASCII on a serial line or a pseudo terminal, RTU over TCP. Functions
1 to 4, where a profile allows it 5, 6, 15, 16, 22 and 23, 8 (loopback) and 43/14; others get exception 1.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.clock import Clock
from gateway.simulators import modbus_identity
from gateway.simulators.faults import Fault, Faults
from gateway.simulators.modbus_framing import FRAMINGS, Framing, Request
from gateway.simulators.modbus_line import Connection, Line, SerialLine
from gateway.simulators.modbus_unit import Answered, SimulatedUnit
from gateway.simulators.modbus_written import WRITES, Misbehaviour
from gateway.simulators.read_log import ReadLog
from protos.strict import convert

_GARBAGE = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>"
_ILLEGAL_FUNCTION = 1
_A_MOMENT_S = 0.001
_HARMLESS = frozenset({"delay", "trickle", "unsolicited"})
"""Faults that bring the right answer all the same."""


class Hold(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show `value` instead of a quantity's signal, for so long."""

    hold: str
    value: float
    for_s: Annotated[float, Meta(gt=0)]


class ModbusDevice:
    """Life cycle: `start` or `start_serial` (again after `close`), reads and faults, `close`.

    A unit nobody simulates stays silent.
    """

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
        self._serial: SerialLine | None = None
        self._connections: set[Connection] = set()
        self._busy_until_s = 0.0
        self._shown: dict[tuple[int, bytes], Answered] = {}

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, *, kind: str = "tcp", tls: ssl.SSLContext | None = None
    ) -> int:
        """Listen; returns the port chosen. `kind`: tcp, tls or rtu_over_tcp."""
        framing = FRAMINGS[kind]
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(framing, self.answer, self._connections)

        self._server = await loop.create_server(connection, host, port, ssl=tls)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    def start_serial(
        self,
        path: Path | None = None,
        *,
        kind: str = "rtu",
        link: Path | None = None,
        character_s: float = 0.0,
        silence_s: float = 0.0,
        turnaround_s: float = 0.0,
        echo: bool = False,
    ) -> str:
        """On the port `path`, or on a pseudo terminal, to which `link` leads; returns the path to open."""
        self._serial = SerialLine(
            FRAMINGS[kind],
            self.answer,
            character_s=character_s,
            silence_s=silence_s,
            turnaround_s=turnaround_s,
            echo=echo,
        )
        return self._serial.open_port(path) if path is not None else self._serial.open_pty(link)

    async def close(self) -> None:
        """Stop listening and close every connection, or pull the adapter out."""
        if self._serial is not None:
            self._serial.close()
            self._serial = None
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

    def answer(self, request: Request, framing: Framing, line: Line) -> None:
        """Answer one whole request, or spoil the answer as told."""
        unit, pdu, transaction = request
        device = self._units.get(unit)
        if device is None or not pdu:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._busy_until_s and framing.in_turn:
            loop.call_at(self._busy_until_s, self.answer, request, framing, line)
            return
        fault = self.faults.take(unit)
        if fault is not None and fault.fault == "delay":
            self._busy_until_s = loop.time() + fault.delay_s + _A_MOMENT_S
        if fault is not None and fault.fault == "exception":
            line.send(framing.frame(unit, bytes((pdu[0] | 0x80, fault.code)), transaction))
            return
        answer = self._answered(device, request, fault)
        if isinstance(answer, int):
            line.send(framing.frame(unit, bytes((pdu[0] | 0x80, answer)), transaction))
        else:
            _deliver(request._replace(pdu=pdu[:1] + answer), fault, framing, line)

    def _answered(self, device: SimulatedUnit, request: Request, fault: Fault | None) -> bytes | int:
        """What follows the function code, or an exception code."""
        function, data = request.pdu[0], request.pdu[1:]
        if function == 8 and data[:2] == b"\0\0":
            return data
        if function == 43:
            return modbus_identity.identify(device.identity, data)
        if function in WRITES:
            return device.write(function, data, self._now_s())
        if not 1 <= function <= 4:
            return _ILLEGAL_FUNCTION
        address, count = struct.unpack(">HH", data.ljust(4, b"\0")[:4])
        outcome = device.read(function, address, count, self._now_s())
        if isinstance(outcome, int):
            return outcome
        if fault is not None and fault.fault == "stuck":
            outcome = self._shown.get((request.unit, request.pdu), outcome)
        self._shown[request.unit, request.pdu] = outcome
        self._log.write(
            unit=request.unit,
            function=function,
            address=address,
            ks=outcome.ks,
            raw=None if outcome.computed else outcome.words,
            fault=fault.fault if fault is not None and fault.fault not in _HARMLESS else None,
        )
        return _payload(function, outcome)


def _deliver(answer: Request, fault: Fault | None, framing: Framing, line: Line) -> None:
    unit, pdu, transaction = answer
    frame = framing.frame(unit, pdu, transaction)
    match fault.fault if fault is not None else None:
        case None | "stuck" | "exception":
            line.send(frame)
        case "delay":
            assert fault is not None
            asyncio.get_running_loop().call_later(fault.delay_s, line.send, frame)
        case "trickle":
            assert fault is not None
            line.trickle(frame, fault.delay_s)
        case "unsolicited":
            line.send(framing.spoilt(unit, pdu, transaction) if transaction else framing.frame(unit % 247 + 1, pdu, 0))
            line.send(frame)
        case "wrong_unit":
            line.send(framing.frame(unit % 247 + 1, pdu, transaction))
        case "wrong_function":
            line.send(framing.frame(unit, bytes(((7 - pdu[0]) & 0x7F,)) + pdu[1:], transaction))
        case "wrong_check":
            line.send(framing.spoilt(unit, pdu, transaction))
        case "half_frame":
            line.send(frame[: len(frame) // 2])
        case "short":  # a whole frame with one register (or byte of bits) less than asked
            less = 2 if pdu[0] in {3, 4} else 1
            line.send(framing.frame(unit, bytes((pdu[0], (pdu[1] - less) & 0xFF)) + pdu[2:-less], transaction))
        case "garbage":
            line.send(_GARBAGE)
        case "reset":
            line.reset()


def _payload(function: int, answered: Answered) -> bytes:
    words = answered.words
    if function in {3, 4}:
        return struct.pack(f">B{len(words)}H", 2 * len(words), *words)
    size = -(-len(words) // 8)
    return bytes((size,)) + sum(bit << n for n, bit in enumerate(words)).to_bytes(size, "little")
