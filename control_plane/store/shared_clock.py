"""The database's clock, for processes on several machines: what their own clocks say does not matter.

Read now and then, in between told on by the machine's boot clock, which nobody sets.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from control_plane.clock import Clock, SystemClock
from control_plane.store.engine import Store, Stores
from control_plane.store.leases import DATABASE_MS

EVERY_S = 10.0
CLOSE_ENOUGH_MS = 50
"""An answer that took longer than this moves the clock only if it is off by more."""

log = structlog.get_logger("control_plane.clock")


class _Seen(NamedTuple):
    """The database said `database_ms` when the boot clock showed `boot_ms`."""

    database_ms: float
    boot_ms: float


@dataclass(slots=True)
class SharedClock:
    """Thread-safe. `refresh` asks the database; the first time before anything else."""

    store: Store
    boot_ms: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
    _seen: _Seen = field(default=_Seen(0.0, 0.0))

    def now_ms(self) -> int:
        seen = self._seen
        return int(seen.database_ms + self.boot_ms() - seen.boot_ms)

    def refresh(self) -> None:
        with self.store.read() as connection:
            connection.execute(select(1))
            before_ms = self.boot_ms()
            said = connection.execute(select(DATABASE_MS)).scalar_one()
            took_ms = self.boot_ms() - before_ms
        fresh = _Seen(said + took_ms / 2, before_ms + took_ms)
        known = self._seen
        off_ms = fresh.database_ms - (known.database_ms + fresh.boot_ms - known.boot_ms)
        if took_ms <= CLOSE_ENOUGH_MS or abs(off_ms) > took_ms:
            self._seen = fresh


@contextmanager
def clock_of(stores: Stores) -> Iterator[Clock]:
    """This machine's clock for SQLite, else the database's, held true by a thread until the end."""
    if stores.business.sqlite:
        yield SystemClock()
        return
    clock, over = SharedClock(stores.business), threading.Event()
    clock.refresh()
    keeper = threading.Thread(target=_keep, args=(clock, over), name="clock", daemon=True)
    keeper.start()
    try:
        yield clock
    finally:
        over.set()
        keeper.join()


def _keep(clock: SharedClock, over: threading.Event) -> None:
    while not over.wait(EVERY_S):
        try:
            clock.refresh()
        except DBAPIError as error:
            log.warning("clock.unread", error=str(error).splitlines()[0])
