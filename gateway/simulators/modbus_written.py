"""What was written to a simulated unit: kept over its signals, counted, and refused where its profile says nothing.

It can be told to misbehave: `{"write": "ignore"}` answers and keeps nothing, `"late"` shows it only after `delay_s`,
`"instead"` keeps `value` (as a register's word) for each word written.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from firmware_configs.schema import ModbusProfile

COILS, REGISTERS = frozenset({5, 15}), frozenset({6, 16, 22, 23})
WRITES = COILS | REGISTERS
MOST = {15: 1968, 16: 123, 23: 121}
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3


class Misbehaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do with the next `times` writes to `unit`."""

    write: Literal["ignore", "late", "instead"]
    unit: Annotated[int, Meta(ge=0, le=255)] | None = None
    """None: any unit."""
    times: Annotated[int, Meta(ge=1)] = 1
    delay_s: Annotated[float, Meta(ge=0)] = 0.0
    value: Annotated[int, Meta(ge=0, le=65535)] = 0


class Written(NamedTuple):
    """One request that asked to change something, whatever became of it."""

    function: int
    address: int
    words: tuple[int, ...]


class Writes:
    """One unit's. `requests` holds every write asked, oldest first."""

    def __init__(self, profile: ModbusProfile) -> None:
        self.requests: list[Written] = []
        self._writable = {
            (register.function, address)
            for register in profile.expanded()
            if register.writable
            for address in range(register.address, register.address + register.width)
        }
        self._kept: dict[tuple[str, int], list[tuple[float, int]]] = {}
        self._told: list[Misbehaviour] = []

    def tell(self, one: Misbehaviour) -> None:
        self._told += [one] * one.times

    def over(self, table: str, address: int, words: Sequence[int], t_s: float) -> list[int]:
        """`words` from `address` as they are at `t_s`, with what was written over them."""
        return [self._now(table, address + n, word, t_s) for n, word in enumerate(words)]

    def take(
        self, function: int, data: bytes, t_s: float, read: Callable[[int, int], Sequence[int] | int]
    ) -> bytes | int:
        """The answer's bytes after the function code, or the exception code. `read`: holding registers, for 22, 23."""
        try:
            asked = _asked(function, data)
        except (struct.error, ValueError):
            return ILLEGAL_VALUE
        self.requests.append(asked)
        table = "coil" if function in COILS else "holding"
        if not all((table, asked.address + n) in self._writable for n in range(_span(asked))):
            return ILLEGAL_ADDRESS
        words = asked.words
        if function == 22:
            now = read(asked.address, 1)
            assert not isinstance(now, int)
            words = (now[0] & words[0] | words[1] & ~words[0] & 0xFFFF,)
        self._keep(table, asked.address, words, t_s)
        if function != 23:
            return data[:4] if function in {15, 16} else data
        found = read(*struct.unpack_from(">HH", data))
        return found if isinstance(found, int) else struct.pack(f">B{len(found)}H", 2 * len(found), *found)

    def _keep(self, table: str, address: int, words: Sequence[int], t_s: float) -> None:
        told = self._told.pop(0) if self._told else None
        if told is not None and told.write == "ignore":
            return
        for n, word in enumerate(words):
            kept = told.value if told is not None and told.write == "instead" else word
            since_s = t_s + (told.delay_s if told is not None and told.write == "late" else 0.0)
            self._kept.setdefault((table, address + n), []).append((since_s, kept))

    def _now(self, table: str, address: int, word: int, t_s: float) -> int:
        for since_s, kept in self._kept.get((table, address), ()):
            if since_s <= t_s:
                word = kept
        return word


def _span(asked: Written) -> int:
    return 1 if asked.function == 22 else len(asked.words)


def _asked(function: int, data: bytes) -> Written:
    """Raises ValueError or struct.error for what a device answers with "illegal data value"."""
    if function in {5, 6}:
        address, word = struct.unpack(">HH", data)
        if function == 5 and word not in {0, 0xFF00}:
            raise ValueError
        return Written(function, address, (int(word != 0),) if function == 5 else (word,))
    if function == 22:
        address, *masks = struct.unpack(">HHH", data)
        return Written(function, address, tuple(masks))
    address, count, size = struct.unpack_from(">HHB", data, 4 if function == 23 else 0)
    values = data[9 if function == 23 else 5 :]
    if not 1 <= count <= MOST[function] or len(values) != size:
        raise ValueError
    if function == 15:
        if size != -(-count // 8):
            raise ValueError
        bits = int.from_bytes(values, "little")
        return Written(function, address, tuple(bits >> n & 1 for n in range(count)))
    return Written(function, address, struct.unpack(f">{count}H", values))
