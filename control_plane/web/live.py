"""Live pages: one thread per process looks at the stores for everybody, each open stream renders what changed.

The thread runs only while somebody looks. A topic is looked at when its cursor moved, and every few seconds in any
case, since statuses change by the mere passing of time. Streams are counted apart from other requests: beyond the
limit a page is told to come back, and stays as it was served.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import structlog

from control_plane.errors import Retryable

EVERY_S = 1.0
LOOK_ANYWAY_S = 5.0
PING_S = 15.0
LONGEST_S = 900.0
"""Then the page connects anew, and has to be signed in still."""

log = structlog.get_logger("control_plane.web")


class Lifetime:
    """Whether the process that serves goes on; streams ask it at least once a second."""

    def __init__(self) -> None:
        self._ask: Callable[[], bool] = lambda: True

    def follow(self, ask: Callable[[], bool]) -> None:
        self._ask = ask

    @property
    def going_on(self) -> bool:
        return self._ask()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look found, and how it reads to whom: people with the same language and filters share the text."""

    value: Any
    texts: dict[object, str] = field(default_factory=dict)

    def text(self, key: object, render: Callable[[Any], str]) -> str:
        if key not in self.texts:
            self.texts[key] = render(self.value)
        return self.texts[key]


@dataclass(slots=True)
class _Topic:
    cursor: Callable[[], object]
    look: Callable[[], Any]
    followers: int = 0
    version: int = 0
    seen: Seen | None = None
    at_cursor: object = None
    looked_s: float = float("-inf")


@dataclass(slots=True)
class Subscription:
    """`next` waits for news; `close` may be called twice, and by another thread."""

    broadcaster: Broadcaster
    name: str
    version: int = 0
    closed: bool = field(default=False)

    def next(self, wait_s: float) -> Seen | None:
        """The newest snapshot not seen yet, None when there is none after `wait_s`."""
        return self.broadcaster.wait(self, wait_s)

    def close(self) -> None:
        self.broadcaster.leave(self)


class Broadcaster:
    def __init__(self, *, limit: int, lifetime: Lifetime, every_s: float = EVERY_S) -> None:
        self._limit = limit
        self._lifetime = lifetime
        self._every_s = every_s
        self._news = threading.Condition()
        self._topics: dict[str, _Topic] = {}
        self._thread: threading.Thread | None = None

    def subscribe(self, name: str, *, cursor: Callable[[], object], look: Callable[[], Any]) -> Subscription:
        """Raises Retryable when as many streams are open as this process keeps."""
        with self._news:
            if sum(topic.followers for topic in self._topics.values()) >= self._limit:
                raise Retryable(
                    "Too many live pages are open; this one shows what was true when it was loaded.", after_s=30
                )
            self._topics.setdefault(name, _Topic(cursor, look)).followers += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="web.live", daemon=True)
                self._thread.start()
            else:
                self._news.notify_all()
        return Subscription(self, name)

    def leave(self, subscription: Subscription) -> None:
        with self._news:
            if subscription.closed:
                return
            subscription.closed = True
            topic = self._topics[subscription.name]
            topic.followers -= 1
            if not topic.followers:
                del self._topics[subscription.name]
            self._news.notify_all()

    def wait(self, subscription: Subscription, wait_s: float) -> Seen | None:
        with self._news:
            topic = self._topics.get(subscription.name)
            if topic is None or subscription.closed:
                return None
            if not self._news.wait_for(lambda: topic.version > subscription.version, timeout=wait_s):
                return None
            subscription.version = topic.version
            return topic.seen

    def frames(self, subscription: Subscription, *, key: object, render: Callable[[Any], str]) -> Generator[bytes]:
        """Server-sent events: the rendered snapshot whenever it reads differently, a comment while nothing changes.

        `key` says what, beside the snapshot, the text depends on.
        """
        shown, spoke_s, until_s = "", time.monotonic(), time.monotonic() + LONGEST_S
        try:
            yield b"retry: 2000\n\n"
            while self._lifetime.going_on and time.monotonic() < until_s:
                seen = subscription.next(1.0)
                text = shown if seen is None else seen.text(key, render)
                if text != shown:
                    shown, spoke_s = text, time.monotonic()
                    yield event(text)
                elif time.monotonic() - spoke_s > PING_S:
                    spoke_s = time.monotonic()
                    yield b": still here\n\n"
        finally:
            subscription.close()

    # --- the one thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._news:
                if not self._topics:
                    self._thread = None
                    return
                due = list(self._topics.values())
            for topic in due:
                self._look(topic)
            with self._news:
                self._news.wait_for(self._nothing_to_show_or_new, timeout=self._every_s)

    def _nothing_to_show_or_new(self) -> bool:
        return not self._topics or any(not topic.version for topic in self._topics.values())

    def _look(self, topic: _Topic) -> None:
        try:
            cursor, now_s = topic.cursor(), time.monotonic()
            if cursor == topic.at_cursor and now_s - topic.looked_s < LOOK_ANYWAY_S:
                return
            seen = topic.look()
        except Exception as error:
            log.warning("live.failed", error=f"{type(error).__name__}: {error}")
            time.sleep(self._every_s)
            return
        with self._news:
            topic.at_cursor, topic.looked_s, topic.seen = cursor, now_s, Seen(seen)
            topic.version += 1
            self._news.notify_all()


def event(text: str) -> bytes:
    """One message; its lines as the format wants them."""
    return "".join(f"data: {line}\n" for line in text.splitlines()).encode() + b"\n"
