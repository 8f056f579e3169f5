"""Commands of the control plane, and of whoever stands beside the box: taken, carried out once, told.

Invariants
1. What an id became is said once and for ever: the same id again is told the same, and the device is not touched.
2. A device is written only between `begun` and the end of the same run; a command found begun at a start is read back.
3. A result is durable in the book before it is told, and told only when its URGENT event is durable.
4. A command whose time is over, or that an earlier boot received, is not begun.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import sqlite3
from collections.abc import Callable
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from gateway.clock import Clock
from gateway.commands.book import Book, Entry
from gateway.commands.door import arguments_of, refusal
from gateway.commands.write import Attempt
from gateway.errors import Rejected, Retryable
from gateway.reading import Receipt
from gateway.writing import Point
from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2 as wire
from protos.commands import WRITE, Write, encoded

MOST_UNDER_WAY = 32
AT_BOX_TTL_MS = 60_000
AT_BOX = "box-"
TELL_AGAIN_S = 5.0

log = structlog.get_logger("gateway.commands")
Event = Callable[[pb.EventKind.ValueType, bytes], Receipt]


class Site(Protocol):
    """The sensors that run now."""

    def point(self, sensor: str, quantity: str) -> Point:
        """Raises Rejected, in words, when that must not be written."""


class Commands:
    """`commanded` from the uplink, `at_box` from beside the box, `run` supervised; `close` when nothing runs any more.

    `pinned`: (gateway id, key by which commands are signed). `generation`: of the configuration that runs.
    """

    def __init__(
        self,
        *,
        book: Book,
        clock: Clock,
        site: Site,
        event: Event,
        pinned: Callable[[], tuple[str, bytes]],
        generation: Callable[[], int],
    ) -> None:
        self._book = book
        self._clock = clock
        self._site = site
        self._event = event
        self._pinned = pinned
        self._generation = generation
        self._come: asyncio.Queue[Entry] = asyncio.Queue()
        self._under_way: set[str] = set()
        self._asked: dict[str, asyncio.Future[wire.CommandResult]] = {}
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    # --- called from outside -------------------------------------------------------------------------

    def commanded(self, command: wire.Command) -> wire.CommandResult | None:
        """Take it; or what to answer at once, because it is not taken. Its time counts from now."""
        if command.id in self._under_way:
            return None
        gateway, key = self._pinned()
        refused = refusal(command, gateway=gateway, config_key=key)
        if refused is None and len(self._under_way) >= MOST_UNDER_WAY:
            text = f"{MOST_UNDER_WAY} commands are under way here; try again"
            refused = wire.CommandResult(id=command.id, state=wire.COMMAND_FAILED, text=text)
        if refused is None:
            self._under_way.add(command.id)
            self._come.put_nowait(self._entry(command))
        elif not self._known(command.id):
            log.warning("command.refused", id=command.id, why=refused.text)
            return refused
        return None  # what is known here is not unsaid; it is sent again

    def _known(self, id_: str) -> bool:
        """Asked only of what is refused: it waits for the disk."""
        try:
            return self._book.find(id_) is not None
        except (sqlite3.Error, OSError) as error:
            log.error("commands.unreadable", why=str(error))
            return False

    async def at_box(self, write: Write) -> wire.CommandResult:
        """The same for somebody beside the box; returns its result. Raises Retryable when there is none in time."""
        if len(self._under_way) >= MOST_UNDER_WAY:
            raise Retryable(f"{MOST_UNDER_WAY} commands are under way here; try again")
        id_ = AT_BOX + secrets.token_hex(8)
        command = wire.Command(id=id_, name=WRITE, arguments=encoded(write), ttl_ms=AT_BOX_TTL_MS)
        asked: asyncio.Future[wire.CommandResult] = asyncio.get_running_loop().create_future()
        self._asked[id_] = asked
        self._under_way.add(id_)
        self._come.put_nowait(self._entry(command))
        try:
            async with asyncio.timeout(2 * AT_BOX_TTL_MS / 1000):
                return await asked
        except TimeoutError:
            raise Retryable(f"command {id_} has no result yet; it will be told to the control plane") from None
        finally:
            self._asked.pop(id_, None)

    def close(self) -> None:
        self._book.close()

    # --- the loop ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Go on with what an earlier run left, then with what comes."""
        async with asyncio.TaskGroup() as tasks:
            waiting = {entry.id for entry in self._come_so_far()}
            for entry in await asyncio.to_thread(self._book.unfinished):
                if entry.id not in waiting:
                    self._under_way.add(entry.id)
                    tasks.create_task(self._left(entry), name=f"command {entry.id}")
            while True:
                entry = await self._come.get()
                tasks.create_task(self._taken(entry), name=f"command {entry.id}")

    def _come_so_far(self) -> list[Entry]:
        waiting = [self._come.get_nowait() for _ in range(self._come.qsize())]
        for entry in waiting:
            self._come.put_nowait(entry)
        return waiting

    def _entry(self, command: wire.Command) -> Entry:
        until_ms = self._clock.mono_ms() + command.ttl_ms
        return Entry(command.id, command.number, command.SerializeToString(), self._clock.boot_id(), until_ms)

    async def _taken(self, entry: Entry) -> None:
        try:
            try:
                known = await asyncio.to_thread(self._book.take, entry, wall_ms=self._clock.wall_ms())
            except Rejected as replay:
                log.warning("command.replayed", id=entry.id, why=str(replay))
                result = wire.CommandResult(id=entry.id, state=wire.COMMAND_FAILED, text=str(replay))
                await self._tell(result.SerializeToString())
            else:
                await self._whole(known or entry)
        finally:
            self._under_way.discard(entry.id)

    async def _whole(self, entry: Entry) -> None:
        """From whatever state it is in to being told."""
        said = entry.result
        if said is None:
            result = await self._result(entry)
            said = result.SerializeToString()
            await asyncio.to_thread(self._book.end, entry.id, said)
            log.info("command.ended", id=entry.id, state=wire.CommandState.Name(result.state), text=result.text)
        if (asked := self._asked.get(entry.id)) is not None and not asked.done():
            asked.set_result(wire.CommandResult.FromString(said))
        await self._tell(said)
        await asyncio.to_thread(self._book.told, entry.id)

    async def _left(self, entry: Entry) -> None:
        try:
            await self._whole(entry)
        finally:
            self._under_way.discard(entry.id)

    async def _tell(self, said: bytes) -> None:
        """Until it is durable in the URGENT lane."""
        while True:
            try:
                await self._event(pb.EVENT_COMMAND_RESULT, said).durable()
            except Rejected as full:
                log.warning("command.untold", why=str(full))
                await asyncio.sleep(TELL_AGAIN_S)
            else:
                return

    async def _result(self, entry: Entry) -> wire.CommandResult:
        command = wire.Command.FromString(entry.body)
        write = arguments_of(command)
        attempt = Attempt(
            write=write,
            point=functools.partial(self._site.point, write.sensor, write.quantity),
            begin=functools.partial(asyncio.to_thread, self._book.begin, entry.id),
            late=lambda: self._late(entry),
            begun=entry.state == "begun",
        )
        async with self._lock(write):
            text = await self._attempted(attempt, entry, command)
        outcome = attempt.outcome(at_box=command.id.startswith(AT_BOX))
        return wire.CommandResult(id=command.id, state=attempt.state, result=outcome, text=text)

    async def _attempted(self, attempt: Attempt, entry: Entry, command: wire.Command) -> str:
        if attempt.begun:
            return await attempt.found()
        if entry.boot != self._clock.boot_id():
            attempt.state = wire.COMMAND_EXPIRED
            return "the box was started anew before it could be written"
        if self._late(entry):
            attempt.state = wire.COMMAND_EXPIRED
            return "its time was over before it could be written"
        runs = self._generation()
        if command.expected_generation not in {0, runs}:
            meant = command.expected_generation
            return f"it was meant for configuration {meant}, and {runs} runs here; nothing was written"
        return await attempt.made()

    def _late(self, entry: Entry) -> bool:
        return entry.boot != self._clock.boot_id() or self._clock.mono_ms() >= entry.until_ms

    def _lock(self, write: Write) -> asyncio.Lock:
        """One at a time per quantity, in the order they came."""
        return self._locks.setdefault((write.sensor, write.quantity), asyncio.Lock())
