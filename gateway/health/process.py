"""This process and its machine, by /proc."""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path

LOOK_AGAIN_S = 1.0


class Process:
    """Cheap to ask: two small files and one statvfs."""

    def __init__(self, *, disk: Path) -> None:
        self._disk = disk
        self._began_s = time.monotonic()
        self._looked = (self._began_s, time.process_time())
        self._cpu_percent: float | None = None

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._began_s

    def cpu_percent(self) -> float | None:
        """Of one core, user and system, between the last two looks that were a second apart; None in the first one."""
        now_s, spent_s = time.monotonic(), time.process_time()
        since_s, before_s = self._looked
        if now_s - since_s >= LOOK_AGAIN_S:
            self._cpu_percent = 100 * (spent_s - before_s) / (now_s - since_s)
            self._looked = (now_s, spent_s)
        return self._cpu_percent

    @staticmethod
    def rss_bytes() -> int:
        """Resident now; the most there ever was where /proc is not to be had."""
        try:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return pages * os.sysconf("SC_PAGE_SIZE")

    def disk_free_bytes(self) -> int:
        """What this user may still write below the data folder."""
        return shutil.disk_usage(self._disk).free
