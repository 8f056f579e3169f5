"""sd_notify(3): one datagram to the socket systemd names; and the watchdog that is fed by progress only.

`WATCHDOG=1` is sent while the event loop turns (or this task would not run), the disk answers what the buffer asks of
it, and every part's task is alive. A disk that answers with an error is no standstill: a restart would mend nothing and
would lose what waits in memory; that is said in STATUS= and in the picture instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterable

import structlog

STATUS_EVERY_S = 10.0
LOOKS_PER_LIMIT = 4
SAY_AT = 2

log = structlog.get_logger("gateway.health")


def notify(state: str) -> None:
    """Send e.g. READY=1. A missing or vanished socket is no error: the daemon also runs without systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.setblocking(False)  # a full socket must not stop the loop
        out.sendto(state.encode(), address)


def limit_s() -> float | None:
    """How long systemd waits for WATCHDOG=1 from this process; None when it doesn't."""
    pid = os.environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    try:
        limit = int(os.environ.get("WATCHDOG_USEC", "")) / 1e6
    except ValueError:
        return None
    return limit if limit > 0 else None


class Watchdog:
    """`run()` supervised. `stuck`: one sentence per part that makes no progress. `headline`: for STATUS=."""

    def __init__(self, *, stuck: Callable[[], Iterable[str]], headline: Callable[[], str]) -> None:
        self._stuck = stuck
        self._headline = headline
        self._unfed = 0

    async def run(self) -> None:
        limit = limit_s()
        every_s = STATUS_EVERY_S if limit is None else min(STATUS_EVERY_S, limit / LOOKS_PER_LIMIT)
        while True:
            self.look()
            await asyncio.sleep(every_s)

    def look(self) -> None:
        stuck = list(self._stuck())
        if stuck:
            notify(f"STATUS=no progress: {_one_line('; '.join(stuck))}")
        else:
            notify(f"WATCHDOG=1\nSTATUS={_one_line(self._headline())}")
        self._unfed = self._unfed + 1 if stuck else 0
        if self._unfed == SAY_AT:  # a part may just be changed for another
            log.error("watchdog.unfed", stuck=stuck)


def _one_line(text: str) -> str:
    """A line break would begin another assignment."""
    return " ".join(text.split())
