"""Errors say what to do next. Library exceptions are translated at the edge that meets them."""

from __future__ import annotations


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


class StorageDamaged(ComboioError):  # noqa: N818
    """A file can't be read. The caller sets it aside by name and goes on."""
