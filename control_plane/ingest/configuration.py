"""Pushes what is wanted to gateways connected here: looks once a second, and at each Hello.

A gateway is offered one generation once per connection, and again when its own word says when.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from control_plane.clock import Clock
from control_plane.fleet.offers import Desired, Offers, Verdict, due
from control_plane.ingest.session import Session
from control_plane.ingest.threaded import in_thread
from protos.comboio.v1 import link_pb2 as wire

LOOK_EVERY_S = 1.0
RETRIES_EVERY_S = 30.0

log = structlog.get_logger("control_plane.ingest")


class Pusher:
    """`run` as a task of the ingest process; `greeted` and `moved` from its streams."""

    def __init__(self, *, offers: Offers, sessions: Callable[[], Mapping[str, Session]], clock: Clock) -> None:
        self._offers = offers
        self._sessions = sessions
        self._clock = clock
        self._change = 0
        self._asked: set[str] = set()
        self._waiting: set[str] = set()
        """Gateways that are to be tried again later."""
        self._wake = asyncio.Event()

    def greeted(self, gateway: str) -> None:
        """A Hello, or another word on what runs: look at this gateway now."""
        self._asked.add(gateway)
        self._wake.set()

    async def run(self) -> None:
        """Ends only by cancellation; what can't be read now is looked at again."""
        looked = asyncio.get_running_loop().time()
        while True:
            asked, self._asked = self._asked, set()
            self._wake.clear()
            try:
                self._change, changed = await in_thread(self._offers.changed_since, self._change)
                now = asyncio.get_running_loop().time()
                if now - looked >= RETRIES_EVERY_S:
                    looked, asked = now, asked | self._waiting
                await self._consider(sorted((asked | changed) & self._sessions().keys()))
            except Exception as error:
                self._asked |= asked
                log.warning("configuration.unreadable", error=str(error).splitlines()[0])
                await asyncio.sleep(LOOK_EVERY_S)
            await self._next_look()

    async def _next_look(self) -> None:
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _consider(self, gateways: list[str]) -> None:
        if not gateways:
            return
        desired = await in_thread(self._offers.desired, gateways)
        verdicts = await in_thread(self._offers.verdicts, desired) if desired else {}
        for gateway, wanted in desired.items():
            session = self._sessions().get(gateway)
            if session is not None:
                await self._push(session, wanted, verdicts.get(gateway))

    async def _push(self, session: Session, wanted: Desired, verdict: Verdict | None) -> None:
        self._waiting.discard(session.gateway)
        if verdict is not None and verdict.retry_ms and not verdict.quarantined:
            self._waiting.add(session.gateway)
        now_ms = self._clock.now_ms()
        again = verdict is not None and verdict.retry_ms > session.offered_ms
        if session.offered == wanted.generation and not again:
            return
        if not due(session.running, wanted, verdict, now_ms):
            return
        offer = await in_thread(self._offers.offer, session.gateway, wanted)
        log.info("configuration.offered", gateway=session.gateway, generation=wanted.generation)
        session.tell(wire.Downlink(config_offer=offer))
        await session.offer_made(wanted.generation, offer.hash, now_ms)
