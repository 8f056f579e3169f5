"""Why a peripheral gave nothing: a cause that is counted, and a sentence for whoever stands beside it."""

from __future__ import annotations

from typing import Literal

from gateway.errors import ComboioError

Cause = Literal[
    "absent", "unreachable", "timeout", "bond", "services", "refused", "malformed", "hung_up", "silent", "adapter"
]
"""absent: not heard. unreachable: heard, and the connection fails. bond: not paired. services: not what the profile
says. refused: an ATT error. silent: connected, and no notification comes. adapter: it or bluetoothd went away."""


class GattFailed(ComboioError):  # noqa: N818 - named for what became of it
    """One visit that gave nothing, or ended."""

    def __init__(self, cause: Cause, message: str) -> None:
        super().__init__(message)
        self.cause: Cause = cause
