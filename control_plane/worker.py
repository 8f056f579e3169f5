"""The worker's loops: projections, reconciliation, relay. Each fails and recovers by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

log = structlog.get_logger("control_plane.worker")

IDLE_S = 0.1
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 15.0
YIELDS = 3.0


@dataclass(frozen=True, slots=True)
class Loop:
    """`step` does a bounded piece of work and says whether to go on at once."""

    name: str
    step: Callable[[], Awaitable[object]]
    idle_s: float = IDLE_S
    yields: Callable[[], bool] = lambda: False
    """Whether something more urgent is behind: each step is then followed by a rest of YIELDS times its length."""


class Noting:
    """A step that remembers whether it said that there is more."""

    def __init__(self, step: Callable[[], bool]) -> None:
        self._step = step
        self._more = False

    def step(self) -> bool:
        self._more = self._step()
        return self._more

    def behind(self) -> bool:
        return self._more


def threaded(step: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    """A synchronous step, in a thread."""

    async def run() -> bool:
        return await asyncio.to_thread(step)

    return run


async def work(loops: Sequence[Loop], *, stop: threading.Event, ready: Callable[[], None]) -> None:
    """Run all loops until `stop`; a step under way is finished."""
    async with asyncio.TaskGroup() as tasks:
        for loop in loops:
            tasks.create_task(_repeat(loop, stop), name=loop.name)
        ready()


async def _repeat(loop: Loop, stop: threading.Event) -> None:
    retry_s = FIRST_RETRY_S
    while not stop.is_set():
        started_s = time.monotonic()
        try:
            more = await loop.step()
        except Exception as error:
            log.error("loop.failed", loop=loop.name, error=_one_line(error), retry_s=retry_s)
            await _sleep(retry_s, stop)
            retry_s = min(LAST_RETRY_S, retry_s * 2)
            continue
        retry_s = FIRST_RETRY_S
        if not more:
            await _sleep(loop.idle_s, stop)
        elif loop.yields():
            await _sleep(min(YIELDS * (time.monotonic() - started_s), YIELDS), stop)


async def _sleep(seconds: float, stop: threading.Event) -> None:
    """In pieces, so that stopping is quick."""
    while seconds > 0 and not stop.is_set():
        await asyncio.sleep(min(0.1, seconds))
        seconds -= 0.1


def _one_line(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        return _one_line(error.exceptions[0])
    text = str(getattr(error, "orig", error)) or type(error).__name__
    return f"{type(error).__name__}: {text.splitlines()[0]}"
