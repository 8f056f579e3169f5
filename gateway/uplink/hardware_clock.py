"""The box's battery clock: what it may be trusted with while neither NTP nor the control plane has spoken.

Whenever a better source has spoken, what the battery clock showed beside it is kept. At a later start it is off by what
it was then, or was set right meanwhile (nobody tells), and by what its crystal may have drifted since: half of the
first, all of the latter and the second that it counts by are its error. Without such a memory nobody vouches for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from gateway.identity.files import write_durably

SINCE_EPOCH = Path("/sys/class/rtc/rtc0/since_epoch")
DRIFT = 100e-6
"""How much its crystal may be off, over the temperatures a vehicle sees."""
COUNTS_MS = 1000

log = structlog.get_logger("gateway.uplink")


def shown_ms() -> int | None:
    """What it shows now, UTC; None where there is none. The middle of the second it shows."""
    try:
        return int(SINCE_EPOCH.read_text(encoding="ascii")) * 1000 + COUNTS_MS // 2
    except (OSError, ValueError):
        return None


class _Memory(Struct, frozen=True, kw_only=True):
    """The newest word of a better source, and how far ahead of it the battery clock was."""

    wall_ms: int
    err_ms: int
    ahead_ms: int


class HardwareClock:
    """One small file in the data folder, replaced durably."""

    def __init__(self, path: Path, *, shown: Callable[[], int | None] = shown_ms) -> None:
        self._path = path
        self._shown = shown
        self._unsaved: _Memory | None = None
        self._memory = self._read()

    def _read(self) -> _Memory | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Memory)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.error("clock.memory_unreadable", path=str(self._path), error=str(error))
            return None

    def compare(self, wall_ms: int, err_ms: int) -> None:
        """A better source says that it is `wall_ms` now."""
        shown = self._shown()
        if shown is not None:
            self._memory = self._unsaved = _Memory(wall_ms=wall_ms, err_ms=err_ms, ahead_ms=shown - wall_ms)

    def save(self) -> None:
        """Make what was compared durable. Blocks; raises OSError."""
        memory, self._unsaved = self._unsaved, None
        if memory is not None:
            write_durably(self._path, msgspec.json.encode(memory), mode=0o600)

    def now(self) -> tuple[int, int] | None:
        """(wall ms, its error), or None: there is none, nobody ever vouched for it, or it stands before that word.

        It shows 1970 after its battery failed.
        """
        shown, memory = self._shown(), self._memory
        if shown is None or memory is None:
            return None
        wall_ms = shown - memory.ahead_ms // 2
        since_ms = wall_ms - memory.wall_ms
        uncertain_ms = memory.err_ms + COUNTS_MS + abs(memory.ahead_ms) // 2 + 1
        if since_ms < -uncertain_ms:
            log.warning("clock.hardware_refused", shown_ms=shown, last_known_ms=memory.wall_ms)
            return None
        return wall_ms, uncertain_ms + round(DRIFT * max(0, since_ms))
