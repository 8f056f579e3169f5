"""Time, passed in so that tests can turn it.

`mono_ms` is CLOCK_BOOTTIME: it counts suspend, never jumps and names an instant only together with its boot.
`wall_ms` is whatever the system believes; nothing is ever stamped with it, it only feeds anchors.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Three facts about now. Implementations never block."""

    def boot_id(self) -> bytes:
        """16 bytes that change with each boot of the machine."""

    def mono_ms(self) -> int:
        """Milliseconds since that boot, suspend included."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 by the system's clock, right or wrong."""


class SystemClock:
    """Linux: CLOCK_BOOTTIME and the kernel's random boot id."""

    def __init__(self) -> None:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        self._boot_id = bytes.fromhex(text.strip().replace("-", ""))

    def boot_id(self) -> bytes:
        return self._boot_id

    def mono_ms(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
