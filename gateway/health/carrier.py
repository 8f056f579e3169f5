"""Whether there is a network at all below the uplink."""

from __future__ import annotations

from pathlib import Path

INTERFACES = Path("/sys/class/net")
LOOPBACK = "lo"


def carrier(interfaces: Path = INTERFACES) -> bool:
    """Whether some interface other than loopback carries something; True where nothing can be known."""
    try:
        states = [(one / "operstate").read_text().strip() for one in interfaces.iterdir() if one.name != LOOPBACK]
    except OSError:
        return True
    return not states or any(state in {"up", "unknown"} for state in states)
