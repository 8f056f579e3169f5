"""The read planner: which requests fetch the wanted registers at least cost, and what that costs a bus. Pure.

A request costs a fixed overhead plus something per register, so reading a small hole is often cheaper than a second
request. The plan is the cheapest there is under the device's limits (dynamic programming over runs of neighbours),
has never more requests than wanted registers, splits no value, and is the same for the same input.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from firmware_configs.schema import BITS, Limits, Register, RegisterFunction, Timing

SILENCE_CHARACTERS = 3.5
STANDARD = Timing()
LEAST_SILENCE_MS = 1.75
"""Between two frames of RTU; above 19 200 baud the standard gives a time instead of characters."""


class Request(NamedTuple):
    """One read: `length` registers (or bits) of one table from `address`."""

    function: RegisterFunction
    address: int
    length: int

    @property
    def data_bytes(self) -> int:
        return -(-self.length // 8) if self.function in BITS else 2 * self.length


Cut = tuple[RegisterFunction, int]
"""A table and an address that no request reaches from below: learnt from what a device refused."""


class Line(Protocol):
    """What exchanges take on one kind of bus."""

    def request_ms(self, request: Request, timing: Timing = STANDARD) -> float:
        """From the first byte asked to when the next may be asked, with what the device needs by its profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpLine:
    """Modbus TCP. The defaults suit a device on the same Ethernet."""

    turnaround_ms: float = 5.0
    per_register_ms: float = 0.02
    bytes_per_s: float = 1_000_000.0
    pause_ms: float = 0.0

    def request_ms(self, request: Request, timing: Timing = STANDARD) -> float:
        registers = -(-request.length // 16) if request.function in BITS else request.length
        frames = 12 + 9 + request.data_bytes  # MBAP + PDU, asked and answered
        turnaround_ms = self.turnaround_ms if timing.turnaround_ms is None else timing.turnaround_ms
        carried_ms = self.per_register_ms * registers + frames / self.bytes_per_s * 1000.0
        return turnaround_ms + carried_ms + self.pause_ms + timing.pause_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialLine:
    """RTU or ASCII on RS-485. A character is its start bit, 8 (ASCII: 7) data bits, parity and stop bits."""

    baud: int = 9600
    character_bits: int = 11
    ascii: bool = False
    turnaround_ms: float = 10.0
    pause_ms: float = 0.0

    @property
    def character_ms(self) -> float:
        return self.character_bits * 1000.0 / self.baud

    def request_ms(self, request: Request, timing: Timing = STANDARD) -> float:
        asked, answered = 8, 5 + request.data_bytes  # unit, PDU, check
        if self.ascii:  # two characters a byte, a checksum of one byte instead of two; colon, CR, LF
            characters, silence_ms = 2 * (asked - 1 + answered - 1) + 6, 0.0
        else:
            characters, silence_ms = asked + answered, 2 * max(SILENCE_CHARACTERS * self.character_ms, LEAST_SILENCE_MS)
        turnaround_ms = self.turnaround_ms if timing.turnaround_ms is None else timing.turnaround_ms
        waited_ms = max(silence_ms, turnaround_ms + silence_ms / 2)
        return characters * self.character_ms + waited_ms + self.pause_ms + timing.pause_ms


def plan(
    registers: Sequence[Register],
    limits: Limits,
    line: Line | None = None,
    *,
    timing: Timing = STANDARD,
    cuts: Collection[Cut] = (),
) -> tuple[Request, ...]:
    """The cheapest requests that cover `registers`, by table and ascending address.

    Raises ValueError where a value doesn't fit in a request, or stands in a forbidden span.
    """
    line = line or TcpLine()
    requests: list[Request] = []
    functions: tuple[RegisterFunction, ...] = ("coil", "discrete", "holding", "input")
    for function in functions:
        wanted = sorted({(r.address, r.address + r.width) for r in registers if r.function == function})
        if wanted:
            price = _prices(function, limits, line, timing)
            requests += _cheapest(function, wanted, price, limits, _Walls.of(function, limits, cuts))
    return tuple(requests)


def _prices(function: RegisterFunction, limits: Limits, line: Line, timing: Timing) -> list[float]:
    """By length, up to the longest that is allowed."""
    most = limits.max_bits if function in BITS else limits.max_registers
    return [line.request_ms(Request(function, 0, length), timing) for length in range(most + 1)]


class _Walls(NamedTuple):
    """What no request of one table may contain, and where none may go on."""

    forbidden: tuple[tuple[int, int], ...]
    cuts: tuple[int, ...]

    @classmethod
    def of(cls, function: RegisterFunction, limits: Limits, cuts: Collection[Cut]) -> _Walls:
        forbidden = tuple((one.first, one.last) for one in limits.forbidden if one.function == function)
        return cls(forbidden, tuple(sorted(address for table, address in cuts if table == function)))

    def stop(self, start: int, end: int, address: int) -> bool:
        """Whether a request that began at `start` and holds all below `end` can't go on to `address`."""
        if any(first < address and last >= end for first, last in self.forbidden):
            return True
        return any(start < cut <= address for cut in self.cuts)


def _cheapest(
    function: RegisterFunction, wanted: list[tuple[int, int]], price: list[float], limits: Limits, walls: _Walls
) -> list[Request]:
    """least[i] = (cost, requests) of reading wanted[i:], its first request ending before wanted[following[i]]."""
    most = len(price) - 1
    least = [(0.0, 0)] * (len(wanted) + 1)
    following, lengths = [0] * len(wanted), [0] * len(wanted)
    for first in range(len(wanted) - 1, -1, -1):
        start, end = wanted[first]
        if end - start > most:
            raise ValueError(f"{function} {start}: {end - start} registers don't fit in a request of {most}")
        if any(low < end and high >= start for low, high in walls.forbidden):
            raise ValueError(f"{function} {start}: is wanted, and forbidden by limits")
        best = (math.inf, 0)
        for after, length in _runs(wanted, first, most, limits, walls):
            cost, requests = least[after]
            option = (cost + price[length], requests + 1)
            if option < best:
                best, following[first], lengths[first] = option, after, length
        least[first] = best
    return _walk(function, wanted, following, lengths)


def _runs(
    wanted: list[tuple[int, int]], first: int, most: int, limits: Limits, walls: _Walls
) -> Iterator[tuple[int, int]]:
    """Requests that may begin with wanted[first]: (index after the last value read, length)."""
    start, end = wanted[first]
    for index in range(first, len(wanted)):
        address, to = wanted[index]
        if index > first and (limits.one_by_one or address - end > limits.max_gap or walls.stop(start, end, address)):
            return
        end = max(end, to)
        if end - start > most:
            return
        yield index + 1, end - start


def _walk(
    function: RegisterFunction, wanted: list[tuple[int, int]], following: list[int], lengths: list[int]
) -> list[Request]:
    requests: list[Request] = []
    index = 0
    while index < len(wanted):
        requests.append(Request(function, wanted[index][0], lengths[index]))
        index = following[index]
    return requests


def halves(request: Request, registers: Sequence[Register]) -> Cut | None:
    """Where to cut a request that a device refuses; None for one value, of which nothing is left to cut."""
    starts = sorted(
        {
            r.address
            for r in registers
            if r.function == request.function and request.address < r.address < request.address + request.length
        }
    )
    inside = [at for at in starts if not any(_across(r, request, at) for r in registers)]
    return (request.function, inside[len(inside) // 2]) if inside else None


def _across(register: Register, request: Request, cut: int) -> bool:
    return register.function == request.function and register.address < cut < register.address + register.width


def poll_ms(requests: Sequence[Request], line: Line | None = None, timing: Timing = STANDARD) -> float:
    """Time one poll keeps its bus busy."""
    line = line or TcpLine()
    return sum(line.request_ms(request, timing) for request in requests)


class Poll(NamedTuple):
    """What one sensor asks of its bus: this long, this often."""

    every_s: float
    ms: float


def utilisation(polls: Sequence[Poll]) -> float:
    """Share of a bus that polls need; above 1.0 they can't all keep their period."""
    return sum(poll.ms / (poll.every_s * 1000.0) for poll in polls)


def freshness_ms(poll: Poll, others: Sequence[Poll]) -> float:
    """How old a value of this poll is at most when the next one comes, on a bus that isn't overloaded.

    Deadlines are served in their order and a poll under way is not broken off, so none is later than the longest other.
    """
    return poll.every_s * 1000.0 + poll.ms + max((other.ms for other in others), default=0.0)
