"""Errors say what to do next. Library exceptions are translated at the edge that meets them."""

from __future__ import annotations

from enum import StrEnum


class ComboioError(Exception):
    """Base of everything this program raises on purpose."""


class Retryable(ComboioError):  # noqa: N818 - named for what to do
    """Try again, no earlier than `after_s` (None: the caller's own backoff)."""

    def __init__(self, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Rejected(ComboioError):  # noqa: N818
    """This item never passes: set it aside, count it, go on."""


class Misconfigured(ComboioError):  # noqa: N818
    """Stop and tell a human; the message says where and what would be right."""


class Fenced(ComboioError):  # noqa: N818
    """Another holder has a newer token; whatever this one was doing is no longer its business."""


class Conflict(ComboioError):  # noqa: N818
    """The caller's view is stale, or the key is taken by other content."""


class DeniedReason(StrEnum):
    """Why credentials were not accepted; stable, for programs."""

    UNKNOWN = "unknown"
    USED = "used"
    EXPIRED = "expired"
    REVOKED = "revoked"
    MALFORMED = "malformed"


class Denied(ComboioError):  # noqa: N818
    """The caller's credentials don't hold; the message tells its operator what to do."""

    def __init__(self, message: str, *, reason: DeniedReason) -> None:
        super().__init__(message)
        self.reason = reason


class NotFound(ComboioError):  # noqa: N818
    """There is nothing by that name."""
