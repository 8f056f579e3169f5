"""What the control plane is told of configuration: each transition once, and after a reconnect the last one again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from protos.comboio.v1 import link_pb2 as wire

KEPT = 32


class Statements:
    """Numbered messages; a connection hears the newest at once and then each that follows.

    Bounded: a connection that is `KEPT` behind misses the oldest, never the last.
    """

    def __init__(self) -> None:
        self._said: deque[tuple[int, wire.ConfigStatus]] = deque(maxlen=KEPT)
        self._number = 0
        self._news = asyncio.Event()

    def say(self, status: wire.ConfigStatus) -> None:
        self._number += 1
        self._said.append((self._number, status))
        news, self._news = self._news, asyncio.Event()
        news.set()

    def changed(self) -> None:
        """What runs changed: wake whoever tells it."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def heard(self) -> AsyncIterator[list[wire.ConfigStatus]]:
        """For one connection: what is to be said now; an empty list when only what runs may have changed."""
        seen = self._number - 1
        while True:
            news = self._news
            fresh = [status for number, status in self._said if number > seen]
            seen = self._number
            yield fresh
            await news.wait()
