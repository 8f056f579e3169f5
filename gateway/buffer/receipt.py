"""What becomes of one row, for whoever handed it over."""

from __future__ import annotations

from typing import Protocol

from gateway.errors import Rejected


class Synced(Protocol):
    async def synced(self, ticket: int) -> None:
        """Return once rows up to `ticket` are on stable storage."""

    def dropped(self, group: int, mono_ms: int) -> bool:
        """Whether the row read then went for want of space."""


class RowReceipt:
    """Rows up to a ticket; durable once a sync or a commit covered it, unless this one went for want of space."""

    __slots__ = ("_buffer", "_group", "_mono_ms", "_ticket")

    def __init__(self, buffer: Synced, ticket: int, group: int, mono_ms: int) -> None:
        self._buffer = buffer
        self._ticket = ticket
        self._group = group
        self._mono_ms = mono_ms

    async def durable(self) -> None:
        await self._buffer.synced(self._ticket)
        if self._buffer.dropped(self._group, self._mono_ms):
            raise Rejected("the row was dropped: neither disk nor memory had space; a gap says so")
