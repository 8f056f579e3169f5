"""The read planner: which requests fetch the wanted registers at least cost, and what that costs a bus. Pure.

A request costs a fixed overhead plus something per register, so reading a small hole is often cheaper than a second
request. The plan is the cheapest there is under the device's limits (dynamic programming over runs of neighbours),
has never more requests than wanted registers, splits no value, and is the same for the same input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from firmware_configs.schema import BITS, Limits, Register, RegisterFunction


class Request(NamedTuple):
    """One read: `length` registers (or bits) of one table from `address`."""

    function: RegisterFunction
    address: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpTiming:
    """What Modbus TCP exchanges take. The defaults suit a device on the same Ethernet."""

    turnaround_ms: float = 5.0
    per_register_ms: float = 0.02
    bytes_per_s: float = 1_000_000.0

    def request_ms(self, request: Request) -> float:
        size = -(-request.length // 8) if request.function in BITS else 2 * request.length
        registers = -(-request.length // 16) if request.function in BITS else request.length
        frames = 12 + 9 + size  # MBAP + PDU, asked and answered
        return self.turnaround_ms + self.per_register_ms * registers + frames / self.bytes_per_s * 1000.0


def plan(registers: Sequence[Register], limits: Limits, timing: TcpTiming | None = None) -> tuple[Request, ...]:
    """The cheapest requests that cover `registers`, by table and ascending address."""
    timing = timing or TcpTiming()
    requests: list[Request] = []
    functions: tuple[RegisterFunction, ...] = ("coil", "discrete", "holding", "input")
    for function in functions:
        wanted = sorted({(r.address, r.address + r.width) for r in registers if r.function == function})
        if wanted:
            requests += _cheapest(function, wanted, limits, timing)
    return tuple(requests)


def _cheapest(
    function: RegisterFunction, wanted: list[tuple[int, int]], limits: Limits, timing: TcpTiming
) -> list[Request]:
    """least[i] = (cost, requests) of reading wanted[i:], its first request ending before wanted[following[i]]."""
    most = limits.max_bits if function in BITS else limits.max_registers
    price = [timing.request_ms(Request(function, 0, length)) for length in range(most + 1)]
    least = [(0.0, 0)] * (len(wanted) + 1)
    following, lengths = [0] * len(wanted), [0] * len(wanted)
    for first in range(len(wanted) - 1, -1, -1):
        start, end = wanted[first]
        if end - start > most:
            raise ValueError(f"{function} {start}: {end - start} registers don't fit in a request of {most}")
        best = (math.inf, 0)
        for after, length in _runs(wanted, first, most, limits.max_gap):
            cost, requests = least[after]
            option = (cost + price[length], requests + 1)
            if option < best:
                best, following[first], lengths[first] = option, after, length
        least[first] = best
    return _walk(function, wanted, following, lengths)


def _runs(wanted: list[tuple[int, int]], first: int, most: int, max_gap: int) -> Iterator[tuple[int, int]]:
    """Requests that may begin with wanted[first]: (index after the last value read, length)."""
    start, end = wanted[first]
    for index in range(first, len(wanted)):
        address, to = wanted[index]
        if address - end > max_gap and index > first:
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


def poll_ms(requests: Sequence[Request], timing: TcpTiming | None = None) -> float:
    """Time one poll keeps its bus busy."""
    timing = timing or TcpTiming()
    return sum(timing.request_ms(request) for request in requests)


def bus_load(polls: Sequence[tuple[float, Sequence[Request]]], timing: TcpTiming | None = None) -> float:
    """Share of a bus that polls (period in s, requests) need; above 1.0 they can't all keep their period."""
    return sum(poll_ms(requests, timing) / (every_s * 1000.0) for every_s, requests in polls)
