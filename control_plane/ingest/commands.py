"""Sends commands to gateways connected here: looks twice a second; again at each connection, and now and then.

A gateway that has taken one says nothing until its result, which comes as an event; sending it again is harmless.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from control_plane.clock import Clock
from control_plane.fleet.commands import CommandRow
from control_plane.fleet.dispatch import Dispatch
from control_plane.ingest.session import Session
from control_plane.ingest.threaded import in_thread
from protos.comboio.v1 import link_pb2 as wire

LOOK_EVERY_S = 0.5
AGAIN_AFTER_MS = 300_000
AT_ONCE = 8
"""To one gateway at one look; well below what a session keeps to say."""
MOST_ANSWERS = 1000

log = structlog.get_logger("control_plane.ingest")


class Told(NamedTuple):
    session: int
    at_ms: int


class Commander:
    """`run` as a task of the ingest process; `answered` from its streams."""

    def __init__(self, *, dispatch: Dispatch, sessions: Callable[[], Mapping[str, Session]], clock: Clock) -> None:
        self._dispatch = dispatch
        self._sessions = sessions
        self._clock = clock
        self._told: dict[str, Told] = {}
        self._answers: deque[tuple[str, wire.CommandResult]] = deque(maxlen=MOST_ANSWERS)

    def answered(self, gateway: str, result: wire.CommandResult) -> None:
        """Said on a stream, of a command that was not taken."""
        self._answers.append((gateway, result))

    async def run(self) -> None:
        """Ends only by cancellation; what can't be read now is looked at again."""
        while True:
            try:
                await self._look()
            except Exception as error:
                log.warning("commands.unreadable", error=str(error).splitlines()[0])
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        while self._answers:
            await in_thread(self._dispatch.answered, *self._answers[0])
            self._answers.popleft()
        if not self._sessions():
            return
        open_ = await in_thread(self._dispatch.open, self._sessions().keys())
        self._told = {row.id: self._told[row.id] for row in open_ if row.id in self._told}
        due = self._due(open_)
        if not due:
            return
        may = await in_thread(self._dispatch.sent, [row.id for row in due])
        for row in due:
            session = self._sessions().get(row.gateway)
            if row.id in may and session is not None:
                session.tell(wire.Downlink(command=self._dispatch.message(row)))
                self._told[row.id] = Told(session.number, self._clock.now_ms())
                log.info("command.sent", id=row.id, gateway=row.gateway)

    def _due(self, open_: list[CommandRow]) -> list[CommandRow]:
        """Not yet told to the present stream of their gateway, or long ago."""
        due: list[CommandRow] = []
        count: dict[str, int] = {}
        sessions, now_ms = self._sessions(), self._clock.now_ms()
        for row in open_:
            session = sessions.get(row.gateway)
            if session is None or count.get(row.gateway, 0) >= AT_ONCE:
                continue
            told = self._told.get(row.id)
            if told is None or told.session != session.number or now_ms - told.at_ms >= AGAIN_AFTER_MS:
                due.append(row)
                count[row.gateway] = count.get(row.gateway, 0) + 1
        return due
