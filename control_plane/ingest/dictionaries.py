"""Brings gateways connected here their newest dictionary: at Hello, and when a new one appears.

A gateway that names it in Hello has it. Each is sent once per stream; one that did not arrive, or could not be stored,
is missing in the next Hello.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from control_plane.ingest.session import Session
from control_plane.ingest.threaded import in_thread
from control_plane.journal.dictionaries import Issued

LOOK_EVERY_S = 5.0

log = structlog.get_logger("control_plane.ingest")


class Courier:
    """`run` as a task of the ingest process; `greeted` from its streams."""

    def __init__(self, *, dictionaries: Issued, sessions: Callable[[], Mapping[str, Session]]) -> None:
        self._issued = dictionaries
        self._sessions = sessions
        self._number = 0
        self._greeted: set[str] = set()
        self._wake = asyncio.Event()

    def greeted(self, gateway: str) -> None:
        """A Hello came."""
        self._greeted.add(gateway)
        self._wake.set()

    async def run(self) -> None:
        """Ends only by cancellation; what can't be read now is looked at again."""
        while True:
            greeted, self._greeted = self._greeted, set()
            self._wake.clear()
            try:
                await self._look(greeted)
            except Exception as error:
                self._greeted |= greeted
                log.warning("dictionaries.unreadable", error=str(error).splitlines()[0])
                await asyncio.sleep(LOOK_EVERY_S)
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _look(self, greeted: set[str]) -> None:
        number, changed = await in_thread(self._issued.changed_since, self._number)
        here = self._sessions()
        takers = sorted(one for one in greeted | changed if one in here and here[one].takes_dictionaries)
        for gateway, name in (await in_thread(self._issued.newest, takers)).items():
            await self._bring(gateway, name)
        self._number = number

    async def _bring(self, gateway: str, name: int) -> None:
        session = self._sessions().get(gateway)
        if session is None or session.has(name):
            return
        said = await in_thread(self._issued.load, gateway, name)
        if said is not None:
            session.issue(said)
            log.info("dictionary.sent", gateway=gateway, dictionary=f"{name:08x}")
