"""Numbers as people write them."""

from __future__ import annotations


def number(value: float, *, code: str = "", digits: int = 5) -> str:
    """To `digits` places, whole if it has more; coordinates to about a decimetre. Never with an exponent if large."""
    if code == "deg":
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def counted(count: int, what: str) -> str:
    """`1 batch`, `2 batches`; English."""
    return f"{count} {what}" if count == 1 else f"{count} {what}{'es' if what.endswith('ch') else 's'}"
