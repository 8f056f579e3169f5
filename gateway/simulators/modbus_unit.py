"""One simulated Modbus unit: the registers of a profile, each with the number of times it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from firmware_configs.schema import BITS, ModbusProfile, Register
from gateway.simulators.counting import counting
from gateway.simulators.modbus_identity import objects_of
from gateway.simulators.modbus_written import ILLEGAL_FUNCTION, Writes
from gateway.simulators.registers import encode
from gateway.simulators.signals import Signal

TABLES = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}


@dataclass(frozen=True, slots=True)
class Answered:
    """Words (or bits) of one read, each with the number of its read. `computed`: by formula, so not worth logging."""

    words: list[int]
    ks: list[int]
    computed: bool


class SimulatedUnit:
    """Counting when `signals` is None; else each register shows the signal of its quantity.

    A read is refused, as by a device, when it touches an address no register owns; holes between registers up to the
    profile's `max_gap` read as 0.
    """

    def __init__(self, *, unit: int, profile: ModbusProfile, signals: Mapping[str, Signal] | None = None) -> None:
        self._unit = unit
        self._signals = signals
        self._gap = profile.limits.max_gap
        self._limits = {True: profile.limits.max_bits, False: profile.limits.max_registers}
        self._registers: dict[str, list[Register]] = {}
        for register in profile.expanded():
            self._registers.setdefault(register.function, []).append(register)
        self._reads = {function: dict.fromkeys(self._owned(function), 0) for function in self._registers}
        self._held: dict[str, tuple[float, float]] = {}
        self.identity = objects_of(profile)
        """What 43/14 tells: object number → value."""
        self.writes = Writes(profile)

    def hold(self, quantity: str, value: float, until_s: float) -> bool:
        """Show `value` until then; False if this unit shows no such signal."""
        if self._signals is None or quantity not in self._signals:
            return False
        self._held[quantity] = (value, until_s)
        return True

    def _owned(self, function: str) -> list[int]:
        owned = sorted({a for r in self._registers[function] for a in range(r.address, r.address + r.width)})
        filled = list(owned[:1])
        for address in owned[1:]:
            if address - filled[-1] - 1 <= self._gap:
                filled.extend(range(filled[-1] + 1, address))
            filled.append(address)
        return filled

    def read(self, function: int, address: int, count: int, t_s: float) -> Answered | int:
        """The answer, or the Modbus exception code. `t_s` is the time signals are asked for."""
        table = TABLES.get(function)
        if table is None:
            return 1
        if not 1 <= count <= self._limits[table in BITS]:
            return 3
        reads = self._reads.get(table, {})
        addresses = range(address, address + count)
        if not all(a in reads for a in addresses):
            return 2
        ks = []
        for a in addresses:
            reads[a] += 1
            ks.append(reads[a])
        if self._signals is None:
            words = [counting(unit=self._unit, address=a, k=k) for a, k in zip(addresses, ks, strict=True)]
            return Answered([word & 1 for word in words] if table in BITS else words, ks, computed=True)
        return Answered(self._words(table, address, count, t_s), ks, computed=False)

    def write(self, function: int, data: bytes, t_s: float) -> bytes | int:
        """`data` follows the function code; so does the answer, unless it is an exception code. Not while counting."""
        if self._signals is None:
            return ILLEGAL_FUNCTION

        def holding(address: int, count: int) -> list[int] | int:
            found = self.read(3, address, count, t_s)
            return found if isinstance(found, int) else found.words

        return self.writes.take(function, data, t_s, holding)

    def _words(self, table: str, address: int, count: int, t_s: float) -> list[int]:
        image = self._image(table, address, count, t_s)
        return self.writes.over(table, address, [image.get(a, 0) for a in range(address, address + count)], t_s)

    def _image(self, table: str, address: int, count: int, t_s: float) -> dict[int, int]:
        assert self._signals is not None
        image: dict[int, int] = {}
        for register in self._registers[table]:
            if register.address + register.width > address and register.address < address + count:
                signal = self._signals.get(register.quantity)
                held, until_s = self._held.get(register.quantity, (0.0, 0.0))
                shown = held if t_s < until_s else signal(t_s) if signal is not None else 0.0
                words = encode(register, shown)
                for n, word in enumerate(words):
                    image[register.address + n] = image.get(register.address + n, 0) | word
        return image
