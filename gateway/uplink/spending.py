"""The bytes each way carried today (UTC), over restarts.

One small file, replaced durably; a kill costs what was added since the last `save`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from gateway.clock import Clock
from gateway.identity.files import write_durably

SAVE_AT_BYTES = 256 * 1024

log = structlog.get_logger("gateway.uplink")


class _Day(Struct):
    day: str
    bytes: dict[str, int]


class Spending:
    """What is not known is not spent: an unreadable file starts the day anew, and says so."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._unsaved = 0
        self._day = self._read()

    def _read(self) -> _Day:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Day)
        except FileNotFoundError:
            return _Day(day=self._today().isoformat(), bytes={})
        except (OSError, msgspec.DecodeError) as error:
            log.error("uplink.day_unreadable", path=str(self._path), error=str(error))
            return _Day(day=self._today().isoformat(), bytes={})

    def add(self, via: str, size: int) -> None:
        self._turn()
        self._day.bytes[via] = self._day.bytes.get(via, 0) + size
        self._unsaved += size

    def of(self, via: str) -> int:
        """Bytes so far."""
        self._turn()
        return self._day.bytes.get(via, 0)

    def save(self, *, at_bytes: int = 0) -> None:
        """Make it durable, if more than `at_bytes` were added since the last time. Blocks; raises OSError."""
        if (unsaved := self._unsaved) > at_bytes:
            write_durably(self._path, msgspec.json.encode(self._day), mode=0o600)
            self._unsaved -= unsaved

    def _turn(self) -> None:
        """A clock set back by a few hours does not give the day's bytes again."""
        today = self._today()
        if self._day.day == today.isoformat():
            return
        try:
            back = date.fromisoformat(self._day.day) - today
        except ValueError:
            back = timedelta(0)
        if not timedelta(0) < back <= timedelta(days=1):
            self._day = _Day(day=today.isoformat(), bytes={})

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.wall_ms() / 1000, UTC).date()
