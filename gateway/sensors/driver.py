"""The contract between a sensor driver and the rest of the gateway.

Life cycle. The daemon builds the driver from its configuration (which may raise `Misconfigured`), asks `groups()`
once, then runs `run(emit)` as a supervised task until cancellation. A driver's failure is its own: whatever leaves
`run` is logged, counted, and `run` is called again after a backoff. `groups()` does not change while it lives.

A driver can't see what is behind `emit`; tests hand it a list. It never waits for the network or the disk: `emit.row`
returns at once, and only sources that must be acknowledged (MQTT, field events) await `Receipt.durable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from gateway.reading import GroupShape, Lost, Receipt, Row
from gateway.writing import Point


class Emit(Protocol):
    """Where a driver's facts go. Both calls are cheap, never block and never raise for a full store."""

    def row(self, group: int, row: Row) -> Receipt:
        """Hand over one read of `groups()[group]`."""

    def lost(self, group: int, lost: Lost) -> None:
        """Say that reads of `groups()[group]` gave nothing: becomes a gap record, once per outage, not per read."""


class Driver(Protocol):
    """One sensor."""

    def groups(self) -> Sequence[GroupShape]:
        """The groups this sensor emits, in the order `emit` numbers them."""

    def pending_since(self) -> int | None:
        """mono_ms at which the oldest read still under way was begun, None if none is.

        Completeness never passes it: a row emitted later must not be older than this.
        """

    async def run(self, emit: Emit) -> None:
        """Read until cancelled. Raise `Retryable` when the sensor can't be reached at all."""


@runtime_checkable
class Writable(Protocol):
    """What a driver is besides, if its device can be written to."""

    def point(self, quantity: str) -> Point:
        """Where a command may write it. Raises Rejected, in words, when profile or configuration forbid it."""
