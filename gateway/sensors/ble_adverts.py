"""The bounded queue between the radio's callback and decoding.

Policy: what no sensor of ours sent is dropped at the door; a full queue refuses the newest, and its sensor's gap says
so. Whether sensors can be heard at all is told here too: they are deaf when every adapter is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from gateway.decoders.advertisements import Advert

LIMIT = 1000
AT_ONCE = 50


class Listener(Protocol):
    """A sensor as the queue sees it. No call may block or raise."""

    address: str

    def queued(self, mono_ms: int) -> None: ...
    def overflowed(self, mono_ms: int) -> None: ...
    def take(self, advert: Advert) -> None: ...
    def deaf(self, since_ms: int) -> None: ...
    def hears(self, now_ms: int) -> None: ...


class Adverts:
    """One per gateway. `adapters`: how many there are to hear with; all of them are deaf at first."""

    def __init__(self, *, adapters: int = 1, limit: int = LIMIT) -> None:
        self.foreign = 0
        """Advertisements of devices that are none of our sensors."""
        self._queue: deque[Advert] = deque()
        self._limit = limit
        self._news = asyncio.Event()
        self._listeners: dict[str, list[Listener]] = {}
        self._deaf = dict.fromkeys(range(adapters), True)
        self._heard_ms: int | None = None

    @contextmanager
    def joined(self, listener: Listener) -> Iterator[None]:
        """While it runs, a sensor is told what is heard of its address."""
        self._listeners.setdefault(listener.address, []).append(listener)
        if self._heard_ms is not None and not all(self._deaf.values()):
            listener.hears(self._heard_ms)
        try:
            yield
        finally:
            self._listeners[listener.address].remove(listener)

    def put(self, advert: Advert) -> None:
        """From the radio's callback."""
        listeners = self._listeners.get(advert.address)
        if not listeners:
            self.foreign += 1
            return
        if len(self._queue) >= self._limit:
            for listener in listeners:
                listener.overflowed(advert.mono_ms)
            return
        for listener in listeners:
            listener.queued(advert.mono_ms)
        self._queue.append(advert)
        self._news.set()

    def deaf(self, adapter: int, since_ms: int) -> None:
        """That adapter hears nothing since then."""
        self._deaf[adapter] = True
        if all(self._deaf.values()):
            for listener in self._everyone():
                listener.deaf(since_ms)

    def hears(self, adapter: int, now_ms: int) -> None:
        """That adapter listens from now on."""
        was_deaf = all(self._deaf.values())
        self._deaf[adapter] = False
        self._heard_ms = now_ms
        if was_deaf:
            for listener in self._everyone():
                listener.hears(now_ms)

    def others_hear(self, adapter: int) -> bool:
        """Another adapter hears, over the same message bus."""
        return any(not deaf for number, deaf in self._deaf.items() if number != adapter)

    async def run(self) -> None:
        """Decode what is queued, until cancelled, leaving the loop to others now and then."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._queue:
                for _ in range(min(AT_ONCE, len(self._queue))):
                    advert = self._queue.popleft()
                    for listener in tuple(self._listeners.get(advert.address, ())):
                        listener.take(advert)
                await asyncio.sleep(0)

    def _everyone(self) -> Sequence[Listener]:
        return [listener for listeners in self._listeners.values() for listener in listeners]
