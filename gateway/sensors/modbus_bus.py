"""One task per physical bus: it alone talks on it, to one unit at a time, in the order of deadlines.

Life cycle. The daemon runs `ModbusBus.run()` as a supervised task beside the drivers. A sensor's own `run` joins the
bus with its poller and leaves it when cancelled; the bus may be (re)started before, between or after that.

A command is carried out ahead of polls: before the next one, and between two requests of the one under way.

A unit that stays silent is asked less and less often (`Breaker`), so that it costs its neighbours at most about one
twentieth of the bus; polls it is spared are told to its poller, because they are reads that gave nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from firmware_configs.budget import Request, SerialLine
from firmware_configs.buses import line_of
from firmware_configs.schema import Timing
from gateway.sensors.breaker import Breaker
from gateway.sensors.modbus_frames import Cause, ReadFailed
from gateway.sensors.modbus_hearing import Dropped
from gateway.sensors.modbus_link import Link, ModbusLink
from gateway.sensors.modbus_writes import Write
from gateway.sensors.schedule import Schedule
from protos.config import Bus as BusOptions

LONGEST = Request("holding", 0, 125)
"""As long as an answer can be: a serial line is listened to for so long after one did not come."""
_SILENT: frozenset[Cause] = frozenset({"timeout", "malformed"})
MOST_COMMANDS = 32
BEGINS_WITHIN_S = 20.0
T = TypeVar("T")


class Poller(Protocol):
    """One sensor, as its bus sees it."""

    @property
    def unit(self) -> int:
        """Modbus unit id."""

    @property
    def every_s(self) -> float:
        """Period."""

    async def poll(self, link: Link) -> Cause | None:
        """Read once and deal with the outcome. Returns why it gave nothing, None if it gave a row. Never raises."""

    def withheld(self) -> None:
        """A poll was due and not tried, because the unit has been silent."""

    def late(self, skipped: int) -> None:
        """That many polls fell out, because the bus was busy."""


class ModbusBus:
    """`link` is for tests; by default one connection as configured."""

    def __init__(self, *, options: BusOptions, link: Link | None = None) -> None:
        self.options = options
        self._own = ModbusLink(options=options) if link is None else None
        self.link: Link = link or self._own  # type: ignore[assignment]
        """The bare one, for the bus task alone."""
        self._schedule: Schedule[Poller] = Schedule()
        self._breakers: dict[int, Breaker] = {}
        self._members: list[Poller] = []
        self._wake = asyncio.Event()
        line = line_of(options)
        late_s = line.request_ms(LONGEST) / 1000 if isinstance(line, SerialLine) else 0.0
        self._silence_costs_s = options.timeout_s + late_s
        self._commands: deque[_Command] = deque()
        self._polled = _Interrupted(self)

    def suits(self, unit: int, timing: Timing) -> None:
        """Give `unit` the time its profile says that it needs."""
        if self._own is not None:
            self._own.suits(unit, timing)

    async def command(self, ask: Callable[[Link], Awaitable[T]], *, within_s: float = BEGINS_WITHIN_S) -> T:
        """Run `ask` with the bus to itself, ahead of polls; once, and to its end even if the caller is cancelled.

        Raises what `ask` raises; ReadFailed "unreachable" when the bus did not come to it within `within_s`: then it
        never runs; "closed" when the bus was stopped on the way.
        """
        if len(self._commands) >= MOST_COMMANDS:
            raise ReadFailed("unreachable", f"bus {self.options.id}: {MOST_COMMANDS} commands wait for it already")
        command = _Command(ask)
        self._commands.append(command)
        self._wake.set()
        try:
            async with asyncio.timeout(within_s):
                await command.begun.wait()
        except TimeoutError:
            raise ReadFailed("unreachable", f"bus {self.options.id}: did not come to it in {within_s:g} s") from None
        finally:
            if command in self._commands:
                self._commands.remove(command)
        return await asyncio.shield(command.done)

    async def identify(self, unit: int) -> Mapping[str, str]:
        """What the device says that it is, asked as a command. Raises ReadFailed."""
        return await self.command(lambda link: link.identify(unit))

    async def carry_out(self) -> None:
        """What waits. Called by the bus task only, where a frame ends and another may begin."""
        while self._commands:
            await self._commands.popleft().run(self.link)

    @property
    def dropped(self) -> Mapping[Dropped, int]:
        """What was heard there and taken for nothing, by what it was: late, unsolicited, noise, echo."""
        return self._own.dropped if self._own is not None else {}

    @contextmanager
    def joined(self, poller: Poller) -> Iterator[None]:
        """Poll `poller` on its grid, beginning now, for as long as the context lasts."""
        self._members.append(poller)
        self._breakers.setdefault(poller.unit, Breaker())
        self._schedule.add(poller, every_s=poller.every_s, now_s=asyncio.get_running_loop().time())
        self._wake.set()
        try:
            yield
        finally:
            self._members.remove(poller)
            self._schedule.remove(poller)

    async def run(self) -> None:
        """Poll until cancelled; the connection is closed on the way out."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        cancels = task.cancelling()
        try:
            while task.cancelling() == cancels:
                await self.carry_out()
                due = self._schedule.take(loop.time())
                if due is None:
                    await self._sleep(loop)
                else:
                    due[0].late(due[1])
                    await self._poll(due[0], loop.time())
            # Python 3.11's wait_for, inside pymodbus, forgets a cancellation that meets an answer
            raise asyncio.CancelledError
        finally:
            if self._own is not None:
                self._own.close()

    async def _poll(self, poller: Poller, now_s: float) -> None:
        breaker = self._breakers[poller.unit]
        if not breaker.allows(now_s):
            poller.withheld()
            return
        cause = await poller.poll(self._polled)
        if cause in _SILENT:
            breaker.silent(asyncio.get_running_loop().time(), most_s=self._longest_backoff_s())
        elif cause is None or cause == "exception":
            breaker.answered()

    def _longest_backoff_s(self) -> float:
        """A unit with the bus to itself hurts nobody; others are protected from its timeouts."""
        alone = len({member.unit for member in self._members}) <= 1
        return 2.0 if alone else max(2.0, 20.0 * self._silence_costs_s)

    async def _sleep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._wake.clear()
        if self._commands:
            return
        release_s = self._schedule.next_release_s()
        timer = loop.call_at(release_s, self._wake.set) if release_s is not None else None
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()


@dataclass(slots=True, eq=False)
class _Command:
    ask: Callable[[Link], Awaitable[Any]]
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    done: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def run(self, link: Link) -> None:
        """Whatever becomes of it is the caller's to hear; only a cancellation is the bus's own."""
        self.begun.set()
        self.done.add_done_callback(_heard)
        try:
            self.done.set_result(await self.ask(link))
        except asyncio.CancelledError:
            self.done.set_exception(ReadFailed("closed", "the bus was stopped on the way"))
            raise
        except Exception as error:
            self.done.set_exception(error)


def _heard(done: asyncio.Future[Any]) -> None:
    """Whoever asked may be gone; what failed is then nobody's."""
    if not done.cancelled():
        done.exception()


class _Interrupted:
    """The link as polls see it: commands go between their requests."""

    def __init__(self, bus: ModbusBus) -> None:
        self._bus = bus

    async def read(self, unit: int, request: Request) -> Sequence[int]:
        await self._bus.carry_out()
        return await self._bus.link.read(unit, request)

    async def write(self, unit: int, write: Write) -> Sequence[int]:
        return await self._bus.link.write(unit, write)

    async def identify(self, unit: int) -> Mapping[str, str]:
        return await self._bus.link.identify(unit)
