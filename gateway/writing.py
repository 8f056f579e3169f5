"""What commands need of a driver to write one value: the contract between the two, which do not know each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.errors import ComboioError, Retryable

Value = float | bool | str
"""As people say it: in the quantity's unit, a switch's true or false, a text. A label's word where there are labels."""


class Untouched(ComboioError):  # noqa: N818 - named for what holds
    """It did not happen, for certain: the device was not asked, or refused."""


class Unanswered(Retryable):
    """The device may or may not have acted."""


Before = Callable[[Callable[[], Awaitable[Value | None]]], Awaitable[None]]
"""What is done when the bus is ours, just before the write; it is given a way to read the device first."""


class Point(Protocol):
    """One quantity of one sensor that may be written. Encoding never rounds; nothing is retried."""

    @property
    def verify_after_s(self) -> float:
        """How long the device takes until it shows what was written."""

    def check(self, value: Value) -> None:
        """Raises Rejected, in words, when the device can't hold exactly that or its profile forbids it."""

    def same(self, one: Value, other: Value) -> bool:
        """Equal as far as the register can tell."""

    async def read(self) -> Value | None:
        """What the device holds now, None: it says "not available". Raises Unanswered."""

    async def write(self, value: Value, *, before: Before) -> None:
        """Ask for `value` once, ahead of polls; nothing of others comes between `before` and the write.

        What `before` raises is raised here, with nothing written. Raises Untouched, Unanswered.
        """
