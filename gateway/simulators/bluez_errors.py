"""What a BlueZ method may end with, and who answers one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from dbus_fast import Message

Answer = tuple[str, list[Any]]
"""Signature and body of a reply."""
Ask = Callable[[str, str, str, str, str, list[Any]], Awaitable[Message]]
"""(destination, path, interface, member, signature, body) → the reply, an error included."""
LaterAnswer = Callable[[Message], Awaitable[Answer | None]]


class BluezError(Exception):
    """Becomes an error reply of that D-Bus name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name if "." in name else f"org.bluez.Error.{name}"
