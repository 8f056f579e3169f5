"""What a driver tells of itself when somebody asks about one of its quantities: sentences, made only then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

BYTES_SHOWN = 64


@runtime_checkable
class Explains(Protocol):
    """`quantity` is one of the driver's, None for all of them. Texts may hold what devices sent."""

    def plan(self, quantity: str | None) -> Iterator[str]:
        """How and how often it is read."""

    def last_frame(self, quantity: str | None, now_ms: int) -> Iterator[str]:
        """What came last, as bytes or registers, and when; nothing if nothing did."""


def hexed(data: bytes) -> str:
    """As a person compares bytes with a data sheet."""
    more = f" … ({len(data)} bytes)" if len(data) > BYTES_SHOWN else ""
    return data[:BYTES_SHOWN].hex(" ") + more


def ago(now_ms: int, then_ms: int) -> str:
    return f"{max(0, now_ms - then_ms) / 1000:.1f} s ago"
