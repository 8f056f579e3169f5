"""A peer that answers as it is told, rightly or in every wrong way, and knows what the right answer was.

It is as real devices are: it works on one question after the other, and what it says late it says before anything
newer. Each answer holds values of its own, so an older one can't pass for it.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.sensors.modbus_link import ModbusLink
from gateway.simulators.counting import counting
from gateway.simulators.modbus_framing import FRAMINGS, Framing, Request
from gateway.simulators.modbus_line import Connection, Line, SerialLine
from protos import config
from tests.gateway.sensors.modbus_ends import FAST, keys

GLUED = b"\x01\x02\x03\x04\x05"


@dataclass
class Peer:
    """`script` holds what to do with the next questions, oldest first; without one it answers rightly."""

    script: list[str] = field(default_factory=list)
    seed: int = 0
    asked: int = 0
    """Reads so far: the number of the last one."""
    _held: list[bytes] = field(default_factory=list)

    def hear(self, request: Request, framing: Framing, line: Line) -> None:
        self.answer(request, framing, line)

    def answer(self, request: Request, framing: Framing, line: Line) -> None:
        pdu = self._right(request.pdu)
        way = self.script.pop(0) if self.script else "right"
        right = framing.frame(request.unit, pdu, request.transaction)
        if way == "late":
            self._held.append(right)
            return
        for frame in self._held:
            line.send(frame)
        self._held.clear()
        noise = random.Random(f"{self.seed} {self.asked} {way}")
        if way.startswith("exception ") and way[10:].isdigit():
            line.send(framing.frame(request.unit, bytes((pdu[0] | 0x80, int(way[10:]))), request.transaction))
            return
        for piece in WAYS[way](Turn(request, pdu, right, framing, noise)):
            if way == "trickle":
                line.trickle(piece, 0.0002)
            else:
                line.send(piece)

    def _right(self, asked: bytes) -> bytes:
        if asked[0] == 4:
            return b"\x84\x02"  # it has no such registers
        if asked[0] != 3:
            return asked  # a loopback
        self.asked += 1
        address, count = struct.unpack(">HH", asked[1:5])
        words = [counting(unit=1, address=address + n, k=self.asked) for n in range(count)]
        return struct.pack(f">BB{count}H", 3, 2 * count, *words)

    def expected(self, count: int) -> tuple[int, ...]:
        """Values of the answer to the last question."""
        return tuple(counting(unit=1, address=n, k=self.asked) for n in range(count))


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and the right answer to it."""

    request: Request
    pdu: bytes
    right: bytes
    framing: Framing
    noise: random.Random

    def framed(self, pdu: bytes, *, unit: int = 0, transaction: int = 0) -> bytes:
        """A whole frame whose unit and transaction are off by so much."""
        asked = self.request
        return self.framing.frame(asked.unit + unit, pdu, (asked.transaction + transaction) & 0xFFFF)

    def shorter(self, bytes_less: int, more: bytes = b"") -> bytes:
        """With a byte count that agrees."""
        data = self.pdu[2 : len(self.pdu) - bytes_less] + more
        return self.framed(self.pdu[:1] + bytes((len(data),)) + data)

    def garbage(self) -> bytes:
        made = self.noise.randbytes(self.noise.randrange(1, 60))
        if self.framing is FRAMINGS["ascii"] and self.noise.random() < 0.5:
            return b":" + made.hex().encode() + b"\r\n"
        return made

    def bit_flipped(self) -> bytes:
        """Anywhere, where a check sum tells; else in the header, which is all that TCP lets one check."""
        right, noise = self.right, self.noise
        at = noise.randrange(len(right) if self.framing.in_turn else 9)
        return right[:at] + bytes((right[at] ^ 1 << noise.randrange(8),)) + right[at + 1 :]


WAYS: dict[str, Callable[[Turn], Sequence[bytes]]] = {
    "right": lambda turn: [turn.right],
    "late": lambda _: [],
    "silent": lambda _: [],
    "trickle": lambda turn: [turn.right],
    "pieces": lambda turn: [turn.right[:3], turn.right[3:9], turn.right[9:]],
    "truncated": lambda turn: [turn.right[: turn.noise.randrange(1, len(turn.right) - 1)]],
    "shorter": lambda turn: [turn.shorter(2)],
    "odd length": lambda turn: [turn.shorter(1)],
    "longer": lambda turn: [turn.shorter(0, b"\0\7")],
    "byte count": lambda turn: [turn.framed(turn.pdu[:1] + bytes((turn.pdu[1] ^ 6,)) + turn.pdu[2:])],
    "empty": lambda turn: [turn.framed(turn.pdu[:1] + b"\0")],
    "function": lambda turn: [turn.framed(b"\x04" + turn.pdu[1:])],
    "unknown function": lambda turn: [turn.framed(b"\x63" + turn.pdu[1:])],
    "unit": lambda turn: [turn.framed(turn.pdu, unit=1)],
    "exception": lambda turn: [turn.framed(bytes((turn.pdu[0] | 0x80, turn.noise.randrange(256))))],
    "exception of another function": lambda turn: [turn.framed(b"\x84\x02")],
    "foreign before": lambda turn: [turn.framed(turn.pdu, unit=1, transaction=9), turn.right],
    "twice": lambda turn: [turn.right, turn.right],
    "glued": lambda turn: [turn.right + GLUED],
    "glued foreign": lambda turn: [turn.right + turn.framed(turn.pdu, unit=1)],
    "noise before": lambda turn: [b"\0\xff" + turn.right],
    "garbage": lambda turn: [turn.garbage()],
    "bit flipped": lambda turn: [turn.bit_flipped()],
    "check": lambda turn: [turn.framing.spoilt(turn.request.unit, turn.pdu, turn.request.transaction)],
    "transaction": lambda turn: [turn.framed(turn.pdu, transaction=turn.noise.choice((1, 2, 0x8000)))],
    "transaction 0": lambda turn: [turn.framed(turn.pdu, transaction=-turn.request.transaction)],
    "protocol": lambda turn: [turn.right[:2] + b"\1\0" + turn.right[4:]],
    "huge": lambda turn: [turn.noise.randbytes(3000)],
}
ONLY_TCP = frozenset({"transaction", "transaction 0", "protocol"})
NOT_TOLD = frozenset({"twice"})
"""On a serial line, where a busy system hands over the second long after the first."""


@asynccontextmanager
async def peered(kind: str, folder: Path, *, timeout_s: float, seed: int = 0) -> AsyncIterator[tuple[Peer, ModbusLink]]:
    """A peer that answers by `script`, and our link to it."""
    peer = Peer(seed=seed)
    if kind in {"rtu", "ascii"}:
        serial = SerialLine(FRAMINGS[kind], peer.hear)
        settings = {"id": "b", "port": serial.open_pty(), "baud": FAST, "parity": "none", "timeout_s": timeout_s}
        if kind == "rtu":
            link = ModbusLink(options=config.RtuBus(**settings))  # type: ignore[arg-type]
        else:
            link = ModbusLink(options=config.AsciiBus(data_bits=8, **settings))  # type: ignore[arg-type]
        try:
            yield peer, link
        finally:
            link.close()
            serial.close()
        return
    connections: set[Connection] = set()
    made = keys(folder) if kind == "tls" else None
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(FRAMINGS[kind], peer.hear, connections),
        "127.0.0.1",
        0,
        ssl=made.server() if made is not None else None,
    )
    where = {"id": "b", "host": "127.0.0.1", "port": server.sockets[0].getsockname()[1], "timeout_s": timeout_s}
    options: config.Bus
    if made is not None:
        options = config.TlsBus(ca_file=str(made.ca), **where)
    else:
        options = config.RtuOverTcpBus(baud=FAST, **where) if kind == "rtu_over_tcp" else config.TcpBus(**where)
    link = ModbusLink(options=options)
    try:
        yield peer, link
    finally:
        link.close()
        server.close()
        for connection in list(connections):
            connection.abort()
        await server.wait_closed()
