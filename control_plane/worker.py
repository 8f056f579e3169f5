"""The worker's loops: projections, reconciliation, relay. Each fails and recovers by itself.

Loops that only one process may run stand in a `Duty`. Of several workers on one database each duty is done by one, the
one that has its lease; the others ask for it again and again. Whoever gets it builds the duty's loops anew: what they
keep in memory is only true as long as nobody else writes. Steps are never cut off: one that outlived its lease meets
the fence at its next write.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog
from sqlalchemy import func, select

from control_plane.errors import Fenced
from control_plane.store.engine import Store, Stores
from control_plane.store.leases import RENEW_S, Lease, Leases
from control_plane.store.tables import PROJECTED, batch, cursor

log = structlog.get_logger("control_plane.worker")
T = TypeVar("T")

IDLE_S = 0.1
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 15.0
YIELDS = 3.0
MANY_WAITING = 500
"""Batches; about what is projected at once. Fewer are on their way in any busy second."""
LOOK_EVERY_S = 0.5
ASK_EVERY_S = 2.0
"""So often a worker tries to get what another one has."""
MOST_STEPS = 32
"""That run at the same time, in threads: as many as there are loops, or one that is long would hold up others."""


@dataclass(frozen=True, slots=True)
class Loop:
    """`step` does a bounded piece of work and says whether to go on at once."""

    name: str
    step: Callable[[], Awaitable[object]]
    idle_s: float = IDLE_S
    yields: Callable[[], bool] = lambda: False
    """Whether something more urgent is behind: each step is then followed by a rest of YIELDS times its length."""


class Behind:
    """Whether many batches wait to be projected, as the stores say: who projects them may be another process."""

    def __init__(self, *, journal: Store, telemetry: Store, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._telemetry = telemetry
        self._now_s = monotonic_s
        self._looked_s = -LOOK_EVERY_S
        self._many = False

    def __call__(self) -> bool:
        """As it was found last."""
        return self._many

    def looking(self, step: Callable[[], bool]) -> Callable[[], bool]:
        """The same step, followed by a look now and then."""

        def run() -> bool:
            more = step()
            if self._now_s() - self._looked_s >= LOOK_EVERY_S:
                self._looked_s = self._now_s()
                self._many = self._waiting() > MANY_WAITING
            return more

        return run

    def _waiting(self) -> int:
        with self._journal.read() as connection:
            newest = connection.execute(select(func.max(batch.c.id))).scalar() or 0
        with self._telemetry.read() as connection:
            reached = connection.execute(select(cursor.c.position).where(cursor.c.name == PROJECTED)).scalar() or 0
        return newest - reached


@dataclass(frozen=True, slots=True)
class Duty:
    """What only one process may do. `loops` is called each time the lease was got, with stores that check it."""

    name: str
    loops: Callable[[Stores], Sequence[Loop]]


class Ending(Protocol):
    def is_set(self) -> bool: ...


@dataclass(slots=True)
class _Either:
    """The program stops, or the lease was lost."""

    stop: Ending
    lost: threading.Event = field(default_factory=threading.Event)

    def is_set(self) -> bool:
        return self.stop.is_set() or self.lost.is_set()


def threaded(step: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    """A synchronous step, in a thread."""

    async def run() -> bool:
        return await asyncio.to_thread(step)

    return run


async def work(
    loops: Sequence[Loop],
    *,
    stop: threading.Event,
    ready: Callable[[], None],
    duties: Sequence[Duty] = (),
    leases: Leases | None = None,
) -> None:
    """Run all loops, and those duties that are got, until `stop`; a step under way is finished."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST_STEPS, thread_name_prefix="asyncio_"))
    with ThreadPoolExecutor(1, thread_name_prefix="leases") as thread:
        async with asyncio.TaskGroup() as tasks:
            for loop in loops:
                tasks.create_task(_repeat(loop, stop), name=loop.name)
            for duty in duties:
                assert leases is not None
                watch = _Watch(duty, leases, thread, stop)
                tasks.create_task(watch.run(), name=duty.name)
            ready()


@dataclass(slots=True)
class _Watch:
    """One duty of this worker."""

    duty: Duty
    leases: Leases
    thread: ThreadPoolExecutor
    stop: threading.Event

    async def run(self) -> None:
        while not self.stop.is_set():
            try:
                lease = await self._call(lambda: self.leases.take(self.duty.name))
            except Exception as error:
                log.error("lease.unknown", lease=self.duty.name, error=_one_line(error))
                lease = None
            if lease is None:
                await _sleep(ASK_EVERY_S, self.stop)
            else:
                await self._serve(lease)

    async def _serve(self, lease: Lease) -> None:
        """Until the program stops or the lease is lost."""
        log.info("lease.taken", lease=lease.name, fence=lease.fence)
        until = _Either(self.stop)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew(lease, until), name=f"{lease.name}.lease")
            for loop in self.duty.loops(self.leases.under(lease)):
                tasks.create_task(_repeat(loop, until), name=loop.name)
        if until.lost.is_set():
            log.warning("lease.lost", lease=lease.name, fence=lease.fence)
        try:
            await self._call(lambda: self.leases.release(lease))
        except Exception as error:
            log.warning("lease.unreleased", lease=lease.name, error=_one_line(error))

    async def _renew(self, lease: Lease, until: _Either) -> None:
        while not until.is_set():
            await _sleep(RENEW_S, until)
            try:
                if not until.is_set() and not await self._call(lambda: self.leases.renew(lease)):
                    until.lost.set()
            except Exception as error:  # nobody else can have it either while the database does not answer
                log.warning("lease.unrenewed", lease=lease.name, error=_one_line(error))

    async def _call(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.thread, function)


async def _repeat(loop: Loop, stop: Ending) -> None:
    retry_s = FIRST_RETRY_S
    while not stop.is_set():
        started_s = time.monotonic()
        try:
            more = await loop.step()
        except Fenced as error:
            log.warning("loop.fenced", loop=loop.name, error=str(error))
            if isinstance(stop, _Either):
                stop.lost.set()
            await _sleep(retry_s, stop)
        except Exception as error:
            log.error("loop.failed", loop=loop.name, error=_one_line(error), retry_s=retry_s)
            await _sleep(retry_s, stop)
            retry_s = min(LAST_RETRY_S, retry_s * 2)
        else:
            retry_s = FIRST_RETRY_S
            if not more:
                await _sleep(loop.idle_s, stop)
            elif loop.yields():
                await _sleep(min(YIELDS * (time.monotonic() - started_s), YIELDS), stop)


async def _sleep(seconds: float, stop: Ending) -> None:
    """In pieces, so that stopping is quick."""
    while seconds > 0 and not stop.is_set():
        await asyncio.sleep(min(0.1, seconds))
        seconds -= 0.1


def _one_line(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return _one_line(error.exceptions[0])
    text = str(getattr(error, "orig", error)) or type(error).__name__
    return f"{type(error).__name__}: {text.splitlines()[0]}"
