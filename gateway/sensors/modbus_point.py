"""One writable register of one unit: asked by commands, on the bus that polls the unit."""

from __future__ import annotations

from firmware_configs.budget import Request
from firmware_configs.schema import Register
from gateway.decoders.encoding import encode, meaning, same
from gateway.sensors.modbus_bus import ModbusBus
from gateway.sensors.modbus_frames import ReadFailed
from gateway.sensors.modbus_link import Link
from gateway.sensors.modbus_writes import Write
from gateway.writing import Before, Unanswered, Untouched, Value

NOT_DONE = frozenset({1, 2, 3, 6, 7, 10})
"""Exceptions by which nothing was done. By others (4 failed, 5 begun and needs long, 11 a device behind this one was
silent) it may have been, or may be yet."""


class ModbusPoint:
    """A `Point`."""

    def __init__(self, *, bus: ModbusBus, unit: int, register: Register) -> None:
        self._bus = bus
        self._unit = unit
        self._register = register
        self._request = Request(register.function, register.address, register.width)
        self._meaning = meaning(register)

    @property
    def verify_after_s(self) -> float:
        return self._register.verify_after_ms / 1000.0

    def check(self, value: Value) -> None:
        encode(self._register, value)

    def same(self, one: Value, other: Value) -> bool:
        return same(self._register, one, other)

    async def read(self) -> Value | None:
        try:
            return await self._bus.command(self._read)
        except ReadFailed as failure:
            raise Unanswered(str(failure)) from None

    async def write(self, value: Value, *, before: Before) -> None:
        write = write_of(self._register, encode(self._register, value))

        async def ask(link: Link) -> None:
            await before(lambda: self._read_first(link))
            await link.write(self._unit, write)

        try:
            await self._bus.command(ask)
        except ReadFailed as failure:
            sure = failure.cause == "unreachable" or (failure.cause == "exception" and failure.code in NOT_DONE)
            raise (Untouched if sure else Unanswered)(str(failure)) from None

    async def _read(self, link: Link) -> Value | None:
        return self._meaning(await link.read(self._unit, self._request))

    async def _read_first(self, link: Link) -> Value | None:
        try:
            return await self._read(link)
        except ReadFailed as failure:
            raise Untouched(f"what it holds can't be read first: {failure}") from None


def write_of(register: Register, words: tuple[int, ...]) -> Write:
    """The request that sets `words`, as encoded, and nothing beside them."""
    function = register.written_by
    if function == 22:
        ones = _mask(register)
        return Write(function=22, address=register.address, values=(0xFFFF & ~ones, words[0]))
    read = Request(register.function, register.address, register.width) if function == 23 else None
    return Write(function=function, address=register.address, values=words, read=read)


def _mask(register: Register) -> int:
    """The bits of the part, as they stand in a word on the wire."""
    if register.byte is not None:
        ones = 0xFF00 if register.byte == "high" else 0x00FF
    else:
        ones = ((1 << (register.bits or 1)) - 1) << (register.bit or 0)
    return (ones & 0xFF) << 8 | ones >> 8 if register.byte_order == "little" else ones
