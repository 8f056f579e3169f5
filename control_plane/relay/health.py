"""How a destination is found, written where people look."""

from __future__ import annotations

from typing import NamedTuple

from control_plane.store.engine import Store
from control_plane.store.tables import relay_health
from control_plane.store.upsert import upsert

AGAIN_MS = 60_000


class Standing(NamedTuple):
    """`until_ms`: when it will be looked at again; `at_once`: deliveries under way at most, as it bears now."""

    state: str
    until_ms: int | None
    why: str
    at_once: int


class Health:
    """One destination's row. Of several relays the one that spoke last is read; each does at least once a minute."""

    def __init__(self, store: Store, dest: str) -> None:
        self._store = store
        self._dest = dest
        self._said: Standing | None = None
        self._said_ms = 0

    def is_news(self, found: Standing, now_ms: int) -> bool:
        return found != self._said or not 0 <= now_ms - self._said_ms < AGAIN_MS

    def say(self, found: Standing, now_ms: int) -> None:
        with self._store.write() as connection:
            upsert(connection, relay_health, [{"dest": self._dest, **found._asdict(), "at_ms": now_ms}])
        self._said, self._said_ms = found, now_ms
