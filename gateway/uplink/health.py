"""What a person asks of the link."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class LinkHealth:
    """As it is now; counts since the uplink was started."""

    connected: bool = False
    connected_since_ms: int | None = None
    """Monotonic."""
    server: str = ""
    """Where the last attempt went."""
    via: str = ""
    """By which way, of several; empty: as the box routes."""
    held_back: str = ""
    """Why telemetry waits, or goes in larger batches than usual; empty: it goes as it comes."""
    day_bytes: int = 0
    """Carried today by that way, both directions, if its bytes are limited."""
    day_limit_bytes: int = 0
    paused: bool = False
    """The server suspects a second box with this one's identity and takes nothing of either."""
    connections: int = 0
    last_error: str = ""
    acked_batches: int = 0
    last_ack_ms: int | None = None
    """Monotonic: when the control plane last acknowledged a batch."""
    sent_bytes: int = 0
