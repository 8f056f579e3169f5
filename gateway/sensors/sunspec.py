"""Asks a device for its SunSpec models: the marker at its usual places, then header after header."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from firmware_configs.budget import Request
from firmware_configs.sunspec import BASES, END, MARKER, Present
from gateway.sensors.modbus_frames import ReadFailed

MOST_MODELS = 200
"""More than any device has: what goes on longer is no chain of models."""


class Reader(Protocol):
    """What it takes of a link."""

    async def read(self, unit: int, request: Request) -> Sequence[int]:
        """As Link.read."""


async def discovered(link: Reader, unit: int) -> list[Present]:
    """The models in their order; empty when the device is none of SunSpec's. Raises ReadFailed when it is silent."""
    for base in BASES:
        try:
            marker = await link.read(unit, Request("holding", base, 2))
        except ReadFailed as failure:
            if failure.cause != "exception":
                raise
            continue
        if tuple(marker) == MARKER:
            return await _walked(link, unit, base + 2)
    return []


async def _walked(link: Reader, unit: int, address: int) -> list[Present]:
    """Ends at the end mark, at a refusal (some devices have no end mark) and where no header can be."""
    found: list[Present] = []
    while len(found) < MOST_MODELS and address < 65_534:
        try:
            number, length = await link.read(unit, Request("holding", address, 2))
        except ReadFailed as failure:
            if failure.cause != "exception":
                raise
            break
        if number in {0, END} or address + 2 + length > 65_536:
            break
        found.append(Present(id=number, address=address, length=length))
        address += 2 + length
    return found
