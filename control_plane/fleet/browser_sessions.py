"""Who is signed in with a browser: a random secret in a cookie, its hash in the business store.

A session ends when nothing was asked for IDLE_MS, LIFE_MS after it began, when its user signs out, is gone or gets
a new password. The user's role is looked up at each request.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from sqlalchemy import delete, insert, or_, select, update

from control_plane.clock import Clock
from control_plane.fleet.accounts import Caller, Role
from control_plane.fleet.join_tokens import digest
from control_plane.store.engine import Store
from control_plane.store.tables import browser_session, user

IDLE_MS = 12 * 3_600_000
LIFE_MS = 7 * 86_400_000
SEEN_EVERY_MS = 60_000


class NewSession(NamedTuple):
    secret: str
    expires_ms: int


class BrowserSessions:
    """Synchronous, thread-safe."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def begin(self, user_name: str) -> NewSession:
        """A session for a user whose password was just verified; clears away what has ended meanwhile."""
        secret, now = secrets.token_urlsafe(32), self._clock.now_ms()
        row = {
            "secret_sha256": digest(secret),
            "user_name": user_name,
            "created_ms": now,
            "seen_ms": now,
            "expires_ms": now + LIFE_MS,
        }
        over = or_(browser_session.c.expires_ms <= now, browser_session.c.seen_ms <= now - IDLE_MS)
        with self._store.write() as connection:
            connection.execute(delete(browser_session).where(over))
            connection.execute(insert(browser_session).values(row))
        return NewSession(secret, now + LIFE_MS)

    def caller(self, secret: str) -> Caller | None:
        """Whose session this is; None when it is not known or has ended."""
        now, mine = self._clock.now_ms(), browser_session.c.secret_sha256 == digest(secret)
        query = (
            select(browser_session.c.seen_ms, user.c.name, user.c.role)
            .join(user, user.c.name == browser_session.c.user_name)
            .where(mine, browser_session.c.expires_ms > now, browser_session.c.seen_ms > now - IDLE_MS)
        )
        with self._store.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if now - row.seen_ms >= SEEN_EVERY_MS:
            with self._store.write() as connection:
                connection.execute(update(browser_session).where(mine).values(seen_ms=now))
        return Caller(row.name, row.name, Role.named(row.role))

    def end(self, secret: str) -> None:
        """Twice is once."""
        with self._store.write() as connection:
            connection.execute(delete(browser_session).where(browser_session.c.secret_sha256 == digest(secret)))
